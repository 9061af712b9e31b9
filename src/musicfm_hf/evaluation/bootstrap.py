"""Bootstrap intervals over songs."""

from collections.abc import Sequence

import numpy as np

from ..tasks.averages import drop_nan


def percentile_interval(samples: np.ndarray, share: float = 0.95) -> tuple[float, float]:
    """Return the limits of the middle `share` of samples, ignoring nan; nan without samples."""
    values = drop_nan(samples)
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def centered_interval(samples: np.ndarray, score: float) -> tuple[float, float]:
    """
    Return the 95 % interval of bootstrapped averages over tags, shifted so that their mean is the score. The shift is
    needed because songs that are drawn twice have the same rank, which increases the average precision.
    """
    values = drop_nan(samples)
    return percentile_interval(values - values.mean() + score if len(values) else values)


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
