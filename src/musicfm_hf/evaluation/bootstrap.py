"""Bootstrap intervals over songs and over runs with several seeds, and their correction for many comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..tasks.averages import drop_nan


def percentile_interval(samples: np.ndarray, share: float = 0.95) -> tuple[float, float]:
    """Return the limits of the middle `share` of samples, ignoring nan; nan without samples."""
    values = drop_nan(samples)
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def center(samples: np.ndarray, score: float) -> np.ndarray:
    """
    Shift bootstrapped averages over tags, or calibration errors, so that their mean is the score, without those that
    are nan. The shift is needed because songs that are drawn twice have the same rank, which increases the average
    precision, and because chance, which the sample adds once more, increases an absolute error.
    """
    values = drop_nan(samples)
    return values - values.mean() + score if len(values) else values


def centered_interval(samples: np.ndarray, score: float) -> tuple[float, float]:
    """Return the 95 % interval of bootstrapped scores between 0 and 1; see [`center`]."""
    low, high = percentile_interval(center(samples, score))
    return max(low, 0.0), min(high, 1.0)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, seed: int = 0, draws: int = 10_000, share: float = 0.95
) -> tuple[float, float]:
    """
    Return an interval of the mean from the percentile bootstrap over songs (Efron, Tibshirani, *An Introduction to the
    Bootstrap*, 1993), ignoring nan. For differences between two systems, see [`Difference`].

    Args:
        values: One number for each song.
        seed (`int`): Seed of the random samples.
        draws (`int`): Number of bootstrap samples.
        share (`float`): Share of the samples whose mean is in the interval.

    Returns:
        The lower and upper limits; nan without values.
    """
    values = drop_nan(values)
    return percentile_interval(draw_means(values, seed, draws), share) if len(values) else (float("nan"), float("nan"))


def draw_means(values: np.ndarray, seed: int = 0, draws: int = 10_000) -> np.ndarray:
    """Return the means `(draws,)` of as many values `(songs,)`, drawn with replacement."""
    return values[np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))].mean(1)


def draw_runs(samples: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """
    Average runs of one system, such as those with several seeds, over random samples of as many runs.

    Args:
        samples: For each run, its score on the bootstrap samples of songs `(draws,)`.
        seed (`int`): Seed of the samples. Systems with equally many runs draw the same ones, so that runs with the
            same seed, which train on the same songs, stay paired.

    Returns:
        Means `(draws,)`.
    """
    runs, draws = len(samples), len(samples[0])
    chosen = np.random.default_rng([seed, runs]).integers(runs, size=(runs, draws))
    return np.take_along_axis(np.stack(samples), chosen, axis=0).mean(0)


class Difference(NamedTuple):
    """
    Difference between two systems on the same songs.

    Args:
        mean (`float`): Mean difference.
        samples (`np.ndarray` of shape `(draws,)`): Mean differences of bootstrap samples.
        songs (`int`): Number of songs.
    """

    mean: float
    samples: np.ndarray
    songs: int

    @property
    def standard_error(self) -> float:
        """
        Standard deviation of the samples, times sqrt(n / (n - 1)) for n songs, because a bootstrap sample varies as
        the songs do around their own mean; nan with fewer than two songs.
        """
        values = drop_nan(self.samples)
        if self.songs < 2 or not len(values):
            return float("nan")
        return float(values.std() * np.sqrt(self.songs / (self.songs - 1)))

    @property
    def smallest_p(self) -> float:
        """p-value of a sign test if all songs agree, 2^(1 - n): so many songs cannot show more than that."""
        return 2.0 ** (1 - self.songs)

    @property
    def p(self) -> float:
        """Two-sided p-value of [`interval`], at least [`smallest_p`]; 1 without songs."""
        from scipy.stats import t

        error = self.standard_error
        if np.isnan(error) or self.mean == 0:
            return 1.0
        tail = float(t.sf(abs(self.mean) / error, self.songs - 1)) if error else 0.0
        return min(1.0, max(2 * tail, self.smallest_p))

    def interval(self, share: float = 0.95) -> tuple[float, float]:
        """
        Return the interval that contains the true difference with probability `share`: quantiles of Student's t times
        the bootstrapped standard error (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 12).
        Quantiles of the samples themselves would be too close for 10 to 50 songs, the more so the larger the share
        (Hesterberg, *What Teachers Should Know About the Bootstrap*, 2015). Limits are nan with too few songs to
        exclude anything at this share.
        """
        from scipy.stats import t

        if self.songs < 2 or self.smallest_p > 1 - share:
            return float("nan"), float("nan")
        half = float(t.ppf((1 + share) / 2, self.songs - 1)) * self.standard_error
        return self.mean - half, self.mean + half

    def summary(self) -> dict[str, Any]:
        """Return the `mean` and the 95 % `interval`."""
        return {"mean": self.mean, "interval": self.interval()}


def correct_intervals(differences: Mapping[str, Difference], level: float = 0.05) -> dict[str, dict[str, Any]]:
    """
    Correct many comparisons by the step-down procedure of Holm (*A Simple Sequentially Rejective Multiple Test
    Procedure*, 1979): the probability that any of those that hold is an error is at most `level`, as far as the
    t-distribution describes the means. It does well for differences that are about as often above as below their mean,
    and less well for few songs with rare, large differences.

    Args:
        differences: Name → difference.
        level (`float`): Probability of an error.

    Returns:
        Name → `p`, without correction; `corrected_interval`, [`Difference.interval`] at the level at which Holm's
        procedure tests this difference; and `holds`: whether this interval excludes 0.
    """
    p_values = {name: difference.p for name, difference in differences.items()}
    corrected, failed = {}, None
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        # After the first that does not hold, none does, and their intervals are those of the same step.
        share = 1 - level / (len(p_values) - rank) if failed is None else failed
        low, high = differences[name].interval(share)
        holds = failed is None and (low > 0 or high < 0)
        failed = failed if holds else share
        corrected[name] = {"p": p_values[name], "corrected_interval": (low, high), "holds": holds}
    return {name: corrected[name] for name in differences}
