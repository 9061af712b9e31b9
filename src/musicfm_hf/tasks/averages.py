"""Averages of scores over songs. A score that a song does not have is nan, or `None` when it was read from JSON."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def drop_nan(values: Iterable[float]) -> np.ndarray:
    """Return the values that are not nan, float64."""
    array = np.array(list(values), dtype=np.float64)
    return array[~np.isnan(array)]


def value_or_nan(scores: Mapping[str, Any], name: str) -> float:
    """Return a score of a song, or nan if it is `None`."""
    return float("nan") if scores[name] is None else scores[name]


def mean_over_songs(
    rows: Sequence[Mapping[str, Any]], song_value: Callable[[Mapping[str, Any], str], float] = value_or_nan
) -> dict[str, float]:
    """
    Average each score over the songs that have it.

    Args:
        rows: Scores of songs; all have the same names.
        song_value (`Callable`): `(scores of a song, name)` → the value that enters the mean, or nan.

    Returns:
        `{score: mean}`, nan where no song has the score.
    """
    averages = {}
    for name in rows[0] if rows else ():
        values = drop_nan(song_value(row, name) for row in rows)
        averages[name] = float(values.mean()) if len(values) else float("nan")
    return averages
