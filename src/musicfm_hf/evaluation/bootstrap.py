"""Bootstrap intervals over songs and over runs with several seeds, and their correction for many comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..tasks.averages import drop_nan


def percentile_interval(samples: np.ndarray, share: float = 0.95) -> tuple[float, float]:
    """Return the limits of the middle `share` of samples, ignoring nan; nan without samples."""
    values = drop_nan(samples)
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def center(samples: np.ndarray, score: float) -> np.ndarray:
    """
    Shift bootstrapped averages over tags so that their mean is the score, without those that are nan. The shift is
    needed because songs that are drawn twice have the same rank, which increases the average precision.
    """
    values = drop_nan(samples)
    return values - values.mean() + score if len(values) else values


def centered_interval(samples: np.ndarray, score: float) -> tuple[float, float]:
    """Return the 95 % interval of bootstrapped averages over tags, which are at most 1; see [`center`]."""
    low, high = percentile_interval(center(samples, score))
    return low, min(high, 1.0)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, seed: int = 0, draws: int = 10_000, share: float = 0.95
) -> tuple[float, float]:
    """
    Return an interval of the mean from the percentile bootstrap over songs (Efron, Tibshirani, *An Introduction to the
    Bootstrap*, 1993), ignoring nan. For differences between two systems on the same songs, this is the paired
    bootstrap.

    Args:
        values: One number for each song.
        seed (`int`): Seed of the random samples.
        draws (`int`): Number of bootstrap samples.
        share (`float`): Share of the samples whose mean is in the interval.

    Returns:
        The lower and upper limits; nan without values.
    """
    values = drop_nan(values)
    if not len(values):
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    return percentile_interval(values[generator.integers(len(values), size=(draws, len(values)))].mean(1), share)


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


def two_sided_p(samples: np.ndarray) -> float:
    """
    Return twice the share of bootstrapped differences on the side of 0 where fewer are, at most 1; 1 without samples.
    """
    values = drop_nan(samples)
    return min(1.0, 2 * float(min((values <= 0).mean(), (values >= 0).mean()))) if len(values) else 1.0


def correct_intervals(differences: Mapping[str, np.ndarray], level: float = 0.05) -> dict[str, dict[str, Any]]:
    """
    Correct many comparisons by the step-down procedure of Holm (*A Simple Sequentially Rejective Multiple Test
    Procedure*, 1979): the probability that any of those that hold is an error is at most `level`.

    Args:
        differences: Name → bootstrapped differences `(draws,)`.
        level (`float`): Probability of an error.

    Returns:
        Name → `p`, [`two_sided_p`] without correction; `corrected_interval`, at the level at which Holm's procedure
        tests this difference; and `holds`: whether this interval excludes 0. Without samples, limits are nan.
    """
    p_values = {name: two_sided_p(samples) for name, samples in differences.items()}
    corrected, failed = {}, None
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        # After the first that does not hold, none does, and their intervals are those of the same step.
        share = 1 - level / (len(p_values) - rank) if failed is None else failed
        low, high = percentile_interval(differences[name], share)
        holds = failed is None and (low > 0 or high < 0)
        failed = failed if holds else share
        corrected[name] = {"p": p_values[name], "corrected_interval": (low, high), "holds": holds}
    return {name: corrected[name] for name in differences}
