"""
Dynamic Bayesian network that decodes beats and downbeats from framewise activations (a bar-pointer model).

The state space is that of Krebs, Böck, Widmer, *An Efficient State-Space Model for Joint Tempo and Meter Tracking*
(ISMIR 2015). Meters are decoded separately, as in Böck, Krebs, Widmer, *Joint Beat and Downbeat Tracking with
Recurrent Neural Networks* (ISMIR 2016). Defaults are the settings of madmom's processors.

A beat with an interval of τ frames lasts τ frames, and the tempo changes only at its end. Viterbi decoding can
therefore skip the states inside a beat and go from the start of one beat to the start of the next, with the same
result. It processes many frames at once, because no beat starts and ends within the shortest interval.

Conventions: frame k is at k / fps seconds; tempi are in beats per minute and intervals in frames.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

EPSILON = 1e-5  # probabilities are kept this far from 0 and 1
TOLERANCE = 0.01  # by which probabilities in half precision may exceed 1
BLOCK_SIZE = 2**16  # number of scores compared at once, small enough to stay in the cache

# Defaults of the settings.
MIN_BPM, MAX_BPM = 55.0, 215.0
TRANSITION_LAMBDA = 100
OBSERVATION_LAMBDA = 16


class _Tempi(NamedTuple):
    """Tempi of a beat, and the transitions between them."""

    intervals: np.ndarray  # (tempi,) frames from beat to beat, ascending
    beat_frames: np.ndarray  # (tempi,) frames at the start that emit the beat
    log_transitions: np.ndarray  # (tempi before, tempi after)


class _Emissions(NamedTuple):
    """Sums of the log-densities of all frames before an index. Index 0 is the longest interval before frame 0."""

    beats_before: np.ndarray  # (frames + 1, beats of a bar)
    rest_before: np.ndarray  # (frames + 1,)

    def between(self, starts: np.ndarray, stops: np.ndarray, beat_frames: np.ndarray) -> np.ndarray:
        """Return log-densities (…, beats of a bar, tempi) of beats from `starts` (…, tempi) to `stops`."""
        middles = np.minimum(starts + beat_frames, stops)
        beats = self.beats_before[middles] - self.beats_before[starts]  # (…, tempi, beats)
        rest = self.rest_before[stops] - self.rest_before[middles]
        return np.swapaxes(beats + rest[..., None], -1, -2)


def track_downbeats(
    activations: np.ndarray,
    fps: float,
    beats_per_bar: int | Sequence[int] = (3, 4),
    min_bpm: float = MIN_BPM,
    max_bpm: float = MAX_BPM,
    transition_lambda: float = TRANSITION_LAMBDA,
    observation_lambda: float = OBSERVATION_LAMBDA,
    threshold: float = 0.05,
    num_tempi: int | None = 60,
) -> np.ndarray:
    """
    Decode beats and their positions in the bar. The whole song has one meter: each of `beats_per_bar` is decoded, and
    the most likely one is kept. (Böck, Krebs, Widmer 2016, with the state space of Krebs, Böck, Widmer 2015.)

    Args:
        activations (`np.ndarray` of shape `(frames, 2)`): Probabilities of a beat that is not a downbeat, and of a
            downbeat. The remainder to 1 is the probability of neither.
        fps (`float`): Frames per second.
        beats_per_bar (`int` or sequence of `int`): Meters to choose from.
        min_bpm, max_bpm (`float`): Slowest and fastest tempo. Intervals are rounded to whole frames.
        transition_lambda (`float`): Higher values keep the tempo more constant from beat to beat; with 0, any change
            of tempo is equally likely.
        observation_lambda (`float`): The first 1 / `observation_lambda` of a beat emits the activation.
        threshold (`float`): Beats are decoded from the first to the last frame with an activation of at least this
            value, including any silence in between.
        num_tempi (`int`, *optional*): Minimum number of tempi, spaced evenly on a log scale, if the tempo range has
            more intervals than that; `None` for every interval.

    Returns:
        `np.ndarray` of shape `(beats, 2)`: seconds, ascending, and position in the bar from 1 (the downbeat).
        `(0, 2)` if no activation reaches the threshold.

    Raises:
        ValueError: if activations are not probabilities of this shape, or a setting is out of range.
    """
    activations = _checked(activations, (2,), fps)
    meters = np.atleast_1d(beats_per_bar)
    if not (meters.ndim == 1 and meters.size and meters.dtype.kind in "iu" and meters.min() >= 1):
        raise ValueError(f"beats_per_bar must be one or several positive integers, got {beats_per_bar!r}.")
    tempi = _tempi(fps, min_bpm, max_bpm, transition_lambda, observation_lambda, num_tempi)
    activations, first = _cut(activations, threshold)
    if not len(activations):
        return np.empty((0, 2))
    log_activations, log_rest = _log_densities(activations, observation_lambda)
    # Beat 1 of a bar emits the downbeat, the others the beat.
    columns = [np.r_[1, np.zeros(meter - 1, dtype=int)] for meter in meters]
    decoded = [_decode(log_activations[:, column], log_rest, tempi) for column in columns]
    _, beats = max(decoded, key=lambda result: result[0])
    frames, positions = _place(beats, activations.max(axis=1))
    return np.column_stack([(frames + first) / fps, positions + 1])


def track_beats(
    activations: np.ndarray,
    fps: float,
    min_bpm: float = MIN_BPM,
    max_bpm: float = MAX_BPM,
    transition_lambda: float = TRANSITION_LAMBDA,
    observation_lambda: float = OBSERVATION_LAMBDA,
    threshold: float = 0.0,
) -> np.ndarray:
    """
    Decode beats without bars, with every interval of whole frames (Krebs, Böck, Widmer 2015). The other arguments are
    those of [`track_downbeats`].

    Args:
        activations (`np.ndarray` of shape `(frames,)`): Probabilities of a beat, downbeats included.
        fps (`float`): Frames per second.

    Returns:
        `np.ndarray` of shape `(beats,)`: seconds, ascending. `(0,)` if all activations are 0 or below `threshold`.

    Raises:
        ValueError: if activations are not probabilities of this shape, or a setting is out of range.
    """
    activations = _checked(activations, (), fps)
    tempi = _tempi(fps, min_bpm, max_bpm, transition_lambda, observation_lambda, num_tempi=None)
    activations, first = _cut(activations[:, None], threshold)
    if not len(activations):
        return np.empty(0)
    _, beats = _decode(*_log_densities(activations, observation_lambda), tempi)
    frames, _ = _place(beats, activations[:, 0])
    return (frames + first) / fps


def _checked(activations: np.ndarray, kinds: tuple[int, ...], fps: float) -> np.ndarray:
    """Convert activations to float64, and check that they are probabilities of shape (frames, *kinds)."""
    activations = np.asarray(activations, dtype=np.float64)
    if not 0 < fps < np.inf:
        raise ValueError(f"fps must be a positive number of frames per second, got {fps}.")
    if activations.ndim != 1 + len(kinds) or activations.shape[1:] != kinds:
        raise ValueError(f"Activations must have the shape (frames,{' 2' * len(kinds)}), got {activations.shape}.")
    if not activations.size:
        return activations
    if not np.isfinite(activations).all():
        frame = np.argwhere(~np.isfinite(activations))[0, 0]
        raise ValueError(f"Activations must be finite, got {activations[frame]} at frame {frame}.")
    lowest, highest = activations.min(), activations.max()
    if lowest < -TOLERANCE or highest > 1 + TOLERANCE:
        raise ValueError(
            f"Activations must be probabilities from 0 to 1, got {lowest:.4g} to {highest:.4g}. Apply a sigmoid or "
            "softmax to logits first."
        )
    if kinds and (total := activations.sum(axis=1).max()) > 1 + TOLERANCE:
        raise ValueError(
            f"Activations of beat and downbeat must sum to at most 1 in each frame, got {total:.4g}. The first column "
            "is for beats that are not downbeats: remove downbeats from it, for example with "
            "np.minimum(beat, 1 - downbeat)."
        )
    return activations


def _tempi(
    fps: float,
    min_bpm: float,
    max_bpm: float,
    transition_lambda: float,
    observation_lambda: float,
    num_tempi: int | None,
) -> _Tempi:
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
    return _Tempi(intervals, beat_frames, _on_grid(log_transitions))


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


def _cut(activations: np.ndarray, threshold: float) -> tuple[np.ndarray, int]:
    """
    Cut activations (frames, kinds) to the range from the first to the last frame that reaches the threshold. Return
    them and the index of the first frame.
    """
    active = np.flatnonzero((activations >= threshold).any(axis=1))
    if not active.size or not activations.any():
        return activations[:0], 0
    return activations[active[0] : active[-1] + 1], int(active[0])


def _log_densities(activations: np.ndarray, observation_lambda: float) -> tuple[np.ndarray, np.ndarray]:
    """Return log-densities (frames, kinds) at the start of a beat, and (frames,) in the rest of it."""
    activations = activations.clip(EPSILON, 1 - EPSILON)
    rest = (1 - activations.sum(axis=1)).clip(EPSILON)
    return _on_grid(np.log(activations)), _on_grid(np.log(rest / (observation_lambda - 1)))


def _on_grid(logarithms: np.ndarray) -> np.ndarray:
    """Round to multiples of 2⁻³⁰, so that sums are exact in any order and equal paths tie on every machine."""
    return np.round(logarithms * 2**30) / 2**30


def _decode(log_beats: np.ndarray, log_rest: np.ndarray, tempi: _Tempi) -> tuple[float, np.ndarray]:
    """
    Find the best path, from log-densities (frames, beats of a bar) at the start of each beat and (frames,) in the rest
    of it.

    Returns:
        The log-likelihood of the path, and its beats in order, as rows of (start frame, index in the bar, frames that
        emit the beat).
    """
    num_frames, num_beats = log_beats.shape
    intervals, longest = tempi.intervals, tempi.intervals[-1]
    sums = [np.pad(log.cumsum(0), [(longest + 1, 0), (0, 0)][: log.ndim]) for log in (log_beats, log_rest)]
    emissions = _Emissions(*sums)
    # Scores of beats that start in the last `longest` frames, by start. All states are equally likely before frame 0:
    # a beat of each tempo may have started in any of the preceding frames that its interval covers.
    begun = np.where(np.arange(-longest, 0)[:, None] >= -intervals, 0.0, -np.inf)
    recent = np.repeat(begun[:, None], num_beats, axis=1)  # (longest, beats, tempi)
    previous = np.empty((num_frames, num_beats, len(intervals)), dtype=np.min_scalar_type(len(intervals) - 1))
    # Beats that start within one shortest interval do not depend on each other.
    block = max(1, min(int(intervals[0]), BLOCK_SIZE // (num_beats * len(intervals) ** 2)))
    buffer = np.empty((block, num_beats, len(intervals), len(intervals)))
    begins = np.arange(block)[:, None] + longest - intervals  # (block, tempi), places in `recent`
    for first in range(0, num_frames, block):
        starts = begins[: num_frames - first]
        scores = recent[starts[:, None], np.arange(num_beats)[:, None], np.arange(len(intervals))]
        scores = scores + emissions.between(starts + first, starts + first + intervals, tempi.beat_frames)
        scores = np.roll(scores, 1, axis=1)[:, :, None]  # the beat that ends → the beat that starts
        # (block, beats, tempi after, tempi before)
        scores = np.add(scores, tempi.log_transitions.T, out=buffer[: len(starts)])
        best = scores.argmax(axis=-1, keepdims=True)
        previous[first : first + block] = best[..., 0]
        recent = np.concatenate([recent, np.take_along_axis(scores, best, axis=-1)[..., 0]])[-longest:]
    score, last = _last_beat(recent, emissions, tempi, num_frames)
    return score - np.log(num_beats * intervals.sum()), _trace(previous, *last, tempi)


def _last_beat(
    recent: np.ndarray, emissions: _Emissions, tempi: _Tempi, num_frames: int
) -> tuple[float, tuple[int, int, int]]:
    """Return the score of the best state in the last frame, and its beat: start frame, index in the bar and tempo."""
    longest = tempi.intervals[-1]
    ages = np.arange(longest)[:, None]  # frames since the beat began, in the last frame
    starts = np.broadcast_to(num_frames + longest - 1 - ages, (longest, len(tempi.intervals)))
    scores = recent[::-1] + emissions.between(starts, np.full_like(starts, num_frames + longest), tempi.beat_frames)
    scores = np.where((ages < tempi.intervals)[:, None], scores, -np.inf)  # (ages, beats, tempi)
    scores = scores.transpose(1, 2, 0)  # the order of the states
    beat, tempo, last_age = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[beat, tempo, last_age]), (num_frames - 1 - int(last_age), int(beat), int(tempo))


def _trace(previous: np.ndarray, start: int, beat: int, tempo: int, tempi: _Tempi) -> np.ndarray:
    """Trace the beats back from the last one; the first may start before frame 0."""
    beats = [(start, beat, tempi.beat_frames[tempo])]
    while start >= 0:
        tempo = previous[start, beat, tempo]
        start, beat = start - int(tempi.intervals[tempo]), (beat - 1) % previous.shape[1]
        beats.append((start, beat, tempi.beat_frames[tempo]))
    return np.array(beats[::-1])


def _place(beats: np.ndarray, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move each beat to the highest activation among the frames that emit it; return frames and indices in the bar."""
    placed = []
    for start, index, length in beats:
        region = activations[max(0, start) : max(0, start + length)]
        if region.size:
            placed.append((max(0, start) + region.argmax(), index))
    frames, indices = np.array(placed, dtype=int).reshape(-1, 2).T
    return frames, indices
