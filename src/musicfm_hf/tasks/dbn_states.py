"""
State space of the bar-pointer model in `dbn.py`: tempi, positions in the bars of several meters, and the transitions
between them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Defaults of the settings.
MIN_BPM, MAX_BPM = 55.0, 215.0
BEATS_PER_BAR = (3, 4)
TRANSITION_LAMBDA = 100
OBSERVATION_LAMBDA = 16


class Tempi(NamedTuple):
    """Tempi of a beat, and the transitions between them."""

    intervals: np.ndarray  # (tempi,) frames from beat to beat, ascending
    beat_frames: np.ndarray  # (tempi,) frames at the start that emit the beat
    log_transitions: np.ndarray  # (tempi before, tempi after)


class TempoScores(NamedTuple):
    """Scores of tempi from other sources than the activations, which are added to log-probabilities."""

    tempi: np.ndarray  # (tempi,) beats per minute, ascending; scores are interpolated between them
    scores: np.ndarray  # (frames, tempi)


class Bars(NamedTuple):
    """Positions in the bars of all meters, one meter after the other, and the transitions between meters."""

    columns: np.ndarray  # (positions,) column of the activations that a position emits
    meters: np.ndarray  # (positions,) index of the meter of a position
    firsts: np.ndarray  # (meters,) first position of each meter
    lasts: np.ndarray  # (meters,) last position of each meter
    log_starts: np.ndarray  # (positions,) log-probability before frame 0
    log_changes: np.ndarray  # (meters before, meters after)

    @property
    def may_change(self) -> bool:
        """True if the meter may change at a bar line."""
        return bool(np.isfinite(self.log_changes).sum() > len(self.firsts))


def make_tempi(
    fps: float,
    min_bpm: float,
    max_bpm: float,
    transition_lambda: float,
    observation_lambda: float,
    num_tempi: int | None,
) -> Tempi:
    """Return the tempi from `min_bpm` to `max_bpm` and their transitions."""
    if not 0 <= transition_lambda < np.inf:
        raise ValueError(f"transition_lambda must be at least 0 and finite, got {transition_lambda}.")
    if not 1 < observation_lambda < np.inf:
        raise ValueError(f"observation_lambda must be greater than 1 and finite, got {observation_lambda}.")
    intervals = beat_intervals(fps, min_bpm, max_bpm, num_tempi)
    # The weight of a change depends on the ratio of the tempi; (before, after).
    weights = np.exp(-transition_lambda * np.abs(intervals / intervals[:, None] - 1))
    weights[weights <= np.finfo(np.float64).eps] = 0
    with np.errstate(divide="ignore"):
        log_transitions = np.log(weights / weights.sum(axis=1, keepdims=True))
    beat_frames = np.ceil(intervals / observation_lambda).astype(int)
    return Tempi(intervals, beat_frames, on_grid(log_transitions))


def beat_intervals(
    fps: float, min_bpm: float = MIN_BPM, max_bpm: float = MAX_BPM, num_tempi: int | None = 60
) -> np.ndarray:
    """
    Return the intervals between beats in the state space.

    Args:
        fps, min_bpm, max_bpm, num_tempi: As for [`track_downbeats`].

    Returns:
        Intervals in frames, ascending, int64 `(intervals,)`: all from `max_bpm` to `min_bpm`, or at least `num_tempi`
        on a log scale.

    Raises:
        ValueError: if a setting is out of range, or a beat at `max_bpm` is shorter than a frame.
    """
    if not 0 < min_bpm <= max_bpm < np.inf:
        raise ValueError(f"Tempi need 0 < min_bpm <= max_bpm, got {min_bpm} and {max_bpm} BPM.")
    if num_tempi is not None and num_tempi < 1:
        raise ValueError(f"num_tempi must be at least 1, or None for every interval, got {num_tempi}.")
    shortest, longest = 60 * fps / max_bpm, 60 * fps / min_bpm
    if round(shortest) < 1:
        raise ValueError(
            f"A beat at max_bpm must last at least one frame: {max_bpm} BPM at {fps} frames per second are "
            f"{shortest:.2g} frames. Lower max_bpm, or use a higher frame rate."
        )
    intervals = np.arange(round(shortest), round(longest) + 1)
    if num_tempi is None or len(intervals) <= num_tempi:
        return intervals
    count = num_tempi
    while len(intervals := np.unique(np.round(np.geomspace(shortest, longest, count)))) < num_tempi:
        count += 1
    return intervals.astype(int)


def check_meters(beats_per_bar: int | Sequence[int], meter_change: float) -> np.ndarray:
    """
    Return the meters as an array `(meters,)`.

    Raises:
        ValueError: if `beats_per_bar` is not one or several positive integers, or `meter_change` is out of range.
    """
    meters = np.atleast_1d(beats_per_bar)
    if not (meters.ndim == 1 and meters.size and meters.dtype.kind in "iu" and meters.min() >= 1):
        raise ValueError(f"beats_per_bar must be one or several positive integers, got {beats_per_bar!r}.")
    if not 0 <= meter_change < 1:
        raise ValueError(f"meter_change must be a probability, at least 0 and below 1, got {meter_change}.")
    return meters


def meter_transitions(num_meters: int, meter_change: float) -> np.ndarray:
    """Return the log-probabilities (meters before, meters after) of transitions between meters at a bar line."""
    if num_meters == 1:
        return np.zeros((1, 1))
    probabilities = np.full((num_meters, num_meters), meter_change / (num_meters - 1))
    np.fill_diagonal(probabilities, 1 - meter_change)
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def make_bars(beats_per_bar: int | Sequence[int], meter_change: float) -> Bars:
    """Return the positions of all meters, which begin with equal probabilities."""
    meters = check_meters(beats_per_bar, meter_change)
    lasts = meters.cumsum() - 1
    firsts = lasts - meters + 1
    columns = np.zeros(meters.sum(), dtype=int)
    columns[firsts] = 1
    log_starts = -np.log(np.repeat(meters, meters))
    indices = np.repeat(np.arange(len(meters)), meters)
    return Bars(
        columns, indices, firsts, lasts, on_grid(log_starts), on_grid(meter_transitions(len(meters), meter_change))
    )


def on_grid(logarithms: np.ndarray) -> np.ndarray:
    """Round to multiples of 2⁻³⁰, so that sums are exact in any order and equal paths tie on every machine."""
    return np.round(logarithms * 2**30) / 2**30
