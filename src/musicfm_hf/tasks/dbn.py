"""
Dynamic Bayesian network that decodes beats and downbeats from framewise activations (a bar-pointer model).

The state space is that of Krebs, Böck, Widmer, *An Efficient State-Space Model for Joint Tempo and Meter Tracking*
(ISMIR 2015). Several meters share one state space, as in Böck, Krebs, Widmer, *Joint Beat and Downbeat Tracking with
Recurrent Neural Networks* (ISMIR 2016), where the meter stays the same; here it may also change at a bar line.
Defaults are the settings of madmom's processors.

A beat with an interval of τ frames lasts τ frames, and the tempo changes only at its end. Viterbi decoding can
therefore skip the states inside a beat and go from the start of one beat to the start of the next, with the same
result. It processes many frames at once, because no beat starts and ends within the shortest interval, and compares
only tempi between which a transition exists.

Conventions: frame k is at k / fps seconds; tempi are in beats per minute and intervals in frames.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .dbn_states import (
    BEATS_PER_BAR,
    MAX_BPM,
    MIN_BPM,
    OBSERVATION_LAMBDA,
    TRANSITION_LAMBDA,
    Bars,
    Tempi,
    TempoScores,
    make_bars,
    make_tempi,
    on_grid,
)

EPSILON = 1e-5  # probabilities are kept this far from 0 and 1
TOLERANCE = 0.01  # by which probabilities in half precision may exceed 1


class _Emissions(NamedTuple):
    """Sums of the log-densities of all frames before an index. Index 0 is the longest interval before frame 0."""

    beats_before: np.ndarray  # (frames + 1, columns of the activations)
    rest_before: np.ndarray  # (frames + 1,)
    tempi_before: np.ndarray | None = None  # (frames + 1, tempi with scores)
    tempo_places: np.ndarray | None = None  # (tempi,) places among the tempi with scores, to interpolate between these
    meters_before: np.ndarray | None = None  # (frames + 1, meters)

    def between(self, starts: np.ndarray, stops: np.ndarray, beat_frames: np.ndarray, bars: Bars) -> np.ndarray:
        """Return log-densities (…, positions, tempi) of beats from `starts` (…, tempi) to `stops`."""
        middles = np.minimum(starts + beat_frames, stops)
        beats = self.beats_before[middles] - self.beats_before[starts]  # (…, tempi, columns)
        rest = self.rest_before[stops] - self.rest_before[middles]
        if self.tempi_before is not None and self.tempo_places is not None:
            lower, upper = np.floor(self.tempo_places).astype(int), np.ceil(self.tempo_places).astype(int)
            below, above = (
                self.tempi_before[stops, part] - self.tempi_before[starts, part] for part in (lower, upper)
            )
            rest = rest + on_grid(below + (self.tempo_places - lower) * (above - below))
        densities = np.swapaxes(beats + rest[..., None], -1, -2)[..., bars.columns, :]
        if self.meters_before is None:
            return densities
        meters = self.meters_before[stops] - self.meters_before[starts]  # (…, tempi, meters)
        return densities + np.swapaxes(meters, -1, -2)[..., bars.meters, :]


class _Pointers(NamedTuple):
    """For each frame at which a beat may start, the best preceding beat."""

    tempi: np.ndarray  # (frames, positions of the preceding beat, tempi): tempo of the preceding beat
    meters: np.ndarray | None  # (frames, meters, tempi): meter before a downbeat; `None` if the meter does not change


def track_downbeats(
    activations: np.ndarray,
    fps: float,
    beats_per_bar: int | Sequence[int] = BEATS_PER_BAR,
    min_bpm: float = MIN_BPM,
    max_bpm: float = MAX_BPM,
    transition_lambda: float = TRANSITION_LAMBDA,
    observation_lambda: float = OBSERVATION_LAMBDA,
    threshold: float = 0.05,
    num_tempi: int | None = 60,
    meter_change: float = 0.0,
    tempo_scores: TempoScores | None = None,
    meter_scores: np.ndarray | None = None,
) -> np.ndarray:
    """
    Decode beats and their positions in the bar: the most likely path through the bars of all meters in
    `beats_per_bar`. By default the whole song has one meter. (Böck, Krebs, Widmer 2016, with the state space of Krebs,
    Böck, Widmer 2015, and transitions between meters.)

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
        meter_change (`float`): Probability, at each bar line, that the next bar has another meter. All other meters
            are equally likely, and so are all meters at the start.
        tempo_scores ([`TempoScores`], *optional*): Scores of tempi in the same frames. Each frame adds that of the
            tempo of its beat.
        meter_scores (`np.ndarray` of shape `(frames, meters)`, *optional*): Scores of the meters in `beats_per_bar`,
            which are added in the same way.

    Returns:
        `np.ndarray` of shape `(beats, 2)`: seconds, ascending, and position in the bar from 1 (the downbeat).
        `(0, 2)` if no activation reaches the threshold.

    Raises:
        ValueError: if activations are not probabilities of this shape, or a setting is out of range.
    """
    activations = _checked(activations, (2,), fps)
    bars = make_bars(beats_per_bar, meter_change)
    tempi = make_tempi(fps, min_bpm, max_bpm, transition_lambda, observation_lambda, num_tempi)
    activations, first = _cut(activations, threshold)
    if not len(activations):
        return np.empty((0, 2))
    emissions = _sum_emissions(activations, observation_lambda, tempi)
    used, longest = slice(first, first + len(activations)), tempi.intervals[-1]
    if tempo_scores is not None:
        bpm, columns = 60 * fps / tempi.intervals, np.arange(len(tempo_scores.tempi))
        emissions = emissions._replace(
            tempi_before=_sums_before(on_grid(tempo_scores.scores[used]), longest),
            tempo_places=np.interp(np.log(bpm), np.log(tempo_scores.tempi), columns),
        )
    if meter_scores is not None:
        emissions = emissions._replace(meters_before=_sums_before(on_grid(meter_scores[used]), longest))
    beats = _decode(emissions, len(activations), bars, tempi)
    frames, places = _place(beats, activations.max(axis=1))
    indices = np.arange(len(bars.columns)) - np.repeat(bars.firsts, bars.lasts - bars.firsts + 1)
    return np.column_stack([(frames + first) / fps, indices[places] + 1])


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
    tempi = make_tempi(fps, min_bpm, max_bpm, transition_lambda, observation_lambda, num_tempi=None)
    bars = make_bars(1, 0.0)._replace(columns=np.zeros(1, dtype=int))  # a single column
    activations, first = _cut(activations[:, None], threshold)
    if not len(activations):
        return np.empty(0)
    beats = _decode(_sum_emissions(activations, observation_lambda, tempi), len(activations), bars, tempi)
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
    return on_grid(np.log(activations)), on_grid(np.log(rest / (observation_lambda - 1)))


def _sum_emissions(activations: np.ndarray, observation_lambda: float, tempi: Tempi) -> _Emissions:
    """Return the sums of the log-densities of activations (frames, kinds)."""
    logs = _log_densities(activations, observation_lambda)
    return _Emissions(*(_sums_before(log, tempi.intervals[-1]) for log in logs))


def _sums_before(values: np.ndarray, longest: int) -> np.ndarray:
    """Return the sums of all values before each index of [`_Emissions`]."""
    return np.pad(values.cumsum(0), [(longest + 1, 0), (0, 0)][: values.ndim])


def _decode(emissions: _Emissions, num_frames: int, bars: Bars, tempi: Tempi) -> np.ndarray:
    """
    Find the best path.

    Returns:
        The beats of the path in order, as rows of (start frame, position among all meters, frames that emit the beat).
    """
    num_positions = len(bars.columns)
    intervals, longest = tempi.intervals, tempi.intervals[-1]
    # Scores of beats that start in the last `longest` frames, by start. All states of a meter are equally likely
    # before frame 0: a beat of each tempo may have started in any of the preceding frames that its interval covers.
    begun = np.where(np.arange(-longest, 0)[:, None] >= -intervals, 0.0, -np.inf)
    recent = begun[:, None] + bars.log_starts[:, None]  # (longest, positions, tempi)
    pointers = _Pointers(
        np.empty((num_frames, num_positions, len(intervals)), dtype=np.min_scalar_type(len(intervals) - 1)),
        np.empty((num_frames, len(bars.firsts), len(intervals)), dtype=np.uint8) if bars.may_change else None,
    )
    # Beats that start within one shortest interval do not depend on each other.
    block = int(intervals[0])
    possible = _possible(tempi.log_transitions)
    begins = np.arange(block)[:, None] + longest - intervals  # (block, tempi), places in `recent`
    for first in range(0, num_frames, block):
        starts = begins[: num_frames - first]
        densities = emissions.between(starts + first, starts + first + intervals, tempi.beat_frames, bars)
        scores = recent[starts[:, None], np.arange(num_positions)[:, None], np.arange(len(intervals))]
        scores = (scores + densities).transpose(2, 0, 1)  # (tempi, block, positions)
        scores, before = _best_tempi(np.ascontiguousarray(scores), possible)
        pointers.tempi[first : first + block] = before.transpose(1, 2, 0)
        ended = scores.transpose(1, 2, 0)
        after = np.roll(ended, 1, axis=1)  # (block, positions, tempi)
        if pointers.meters is None:
            after[:, bars.firsts] = ended[:, bars.lasts]
        else:
            changed = ended[:, bars.lasts, None] + bars.log_changes[:, :, None]  # (block, before, after, tempi)
            pointers.meters[first : first + block] = changed.argmax(axis=1)
            after[:, bars.firsts] = changed.max(axis=1)
        recent = np.concatenate([recent, after])[-longest:]
    return _trace(pointers, *_last_beat(recent, emissions, bars, tempi, num_frames), bars, tempi)


def _possible(log_transitions: np.ndarray) -> list[tuple[slice, np.ndarray]]:
    """Return, for each tempo, the range of tempi that may follow it, and the log-probabilities of the transitions."""
    rows = []
    for row in log_transitions:
        possible = np.flatnonzero(np.isfinite(row))
        after = slice(int(possible[0]), int(possible[-1]) + 1)
        rows.append((after, row[after, None, None]))
    return rows


def _best_tempi(scores: np.ndarray, possible: Sequence[tuple[slice, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """
    Compare the tempi of the beats that end.

    Args:
        scores: Scores (tempi before, frames, positions) of the beats.
        possible: Output of [`_possible`].

    Returns:
        The scores (tempi after, frames, positions) of the best transitions, and the tempi before them.
    """
    best = np.full(scores.shape, -np.inf)
    tempi = np.zeros(scores.shape, dtype=np.min_scalar_type(len(scores) - 1))
    for before, (after, log_transitions) in enumerate(possible):
        candidates = scores[before] + log_transitions
        np.copyto(tempi[after], before, where=candidates > best[after])
        np.maximum(best[after], candidates, out=best[after])
    return best, tempi


def _last_beat(
    recent: np.ndarray, emissions: _Emissions, bars: Bars, tempi: Tempi, num_frames: int
) -> tuple[int, int, int]:
    """Return the beat of the best state in the last frame: start frame, position and tempo."""
    longest = tempi.intervals[-1]
    ages = np.arange(longest)[:, None]  # frames since the beat began, in the last frame
    starts = np.broadcast_to(num_frames + longest - 1 - ages, (longest, len(tempi.intervals)))
    densities = emissions.between(starts, np.full_like(starts, num_frames + longest), tempi.beat_frames, bars)
    scores = recent[::-1] + densities
    scores = np.where((ages < tempi.intervals)[:, None], scores, -np.inf)  # (ages, positions, tempi)
    scores = scores.transpose(1, 2, 0)  # the order of the states
    position, tempo, last_age = np.unravel_index(scores.argmax(), scores.shape)
    return num_frames - 1 - int(last_age), int(position), int(tempo)


def _trace(pointers: _Pointers, start: int, position: int, tempo: int, bars: Bars, tempi: Tempi) -> np.ndarray:
    """Trace the beats back from the last one; the first may start before frame 0."""
    beats = [(start, position, tempi.beat_frames[tempo])]
    meters = {int(first): meter for meter, first in enumerate(bars.firsts)}
    while start >= 0:
        if position in meters:
            meter = meters[position]
            position = bars.lasts[meter if pointers.meters is None else pointers.meters[start, meter, tempo]]
        else:
            position -= 1
        tempo = pointers.tempi[start, position, tempo]
        start -= int(tempi.intervals[tempo])
        beats.append((start, int(position), tempi.beat_frames[tempo]))
        position = int(position)
    return np.array(beats[::-1])


def _place(beats: np.ndarray, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move each beat to the highest activation among the frames that emit it; return frames and positions."""
    placed = []
    for start, position, length in beats:
        region = activations[max(0, start) : max(0, start + length)]
        if region.size:
            placed.append((max(0, start) + region.argmax(), position))
    frames, positions = np.array(placed, dtype=int).reshape(-1, 2).T
    return frames, positions
