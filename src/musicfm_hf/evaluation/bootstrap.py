"""Bootstrap intervals over songs."""

from collections.abc import Iterable, Sequence

import numpy as np


def drop_nan(values: Iterable[float]) -> np.ndarray:
    """What is not nan."""
    values = np.array(list(values))
    return values[~np.isnan(values)]


def percentile_interval(samples: np.ndarray, share: float = 0.95) -> tuple[float, float]:
    """What the middle `share` of samples lies between; nan if there are none."""
    known = drop_nan(samples)
    low, high = np.quantile(known, [(1 - share) / 2, (1 + share) / 2]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def centered_interval(samples: np.ndarray, score: float) -> tuple[float, float]:
    """
    Of bootstrapped scores of tags, moved so that their mean is the score: songs that are drawn twice hold each other's
    places in the ranking, and the average precision of such sets is higher.
    """
    known = drop_nan(samples)
    return percentile_interval(known - known.mean() + score if len(known) else known)


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, draws: int = 10_000, share: float = 0.95
) -> tuple[float, float]:
    """
    An interval of the mean by the percentile bootstrap over songs (Efron, Tibshirani, *An Introduction to the
    Bootstrap*, 1993), nan left out. Of differences between two systems on the same songs it is the paired bootstrap.
    """
    values = drop_nan(values)
    if not len(values):
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    return percentile_interval(values[generator.integers(len(values), size=(draws, len(values)))].mean(1), share)
