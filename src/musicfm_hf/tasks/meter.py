"""
Meters and tempi of beats, and their scores.

A beat is what the annotation counts, and a meter is the number of beats in a bar: 6/8 is 6 if eighths are counted, and
2 if dotted quarters are. Times are in seconds and tempi in beats per minute.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from . import spans
from .annotations import Beats, Segment
from .dbn import EPSILON
from .dbn_states import check_meters, meter_transitions

METERS = (2, 3, 4, 5, 6, 7)  # that songs are composed in, and that models decode if their training songs have them
NEIGHBORS = 4  # beats on each side from which a local tempo is computed
LONGEST_INTERVAL = 1.7  # relative to the median of the intervals around it; a longer one is a gap without beats
TEMPO_TOLERANCE = 0.04
TEMPO_FACTORS = (1.0, 2.0, 0.5, 3.0, 1 / 3)

Meters = int | Sequence[int]  # `beats_per_bar` of [`dbn.track_downbeats`]

MIN_SHARE = 0.01  # of the bars of training songs; a rarer meter is not decoded
MIN_CHANGE = 0.001  # of the bar lines of training songs; the meter of a song is constant if it changes less often


def time_signatures(beats: Beats, duration: float = np.inf) -> list[Segment]:
    """
    Return spans with a constant number of beats in a bar.

    Args:
        beats ([`Beats`]): Beats of a song.
        duration (`float`): Seconds of audio, at which the last span ends at the latest.

    Returns:
        Segments from the first beat to one interval after the last beat, with labels such as "3", the highest position
        in each bar. An incomplete bar before the first downbeat belongs to the bar after it, and a bar without a
        downbeat after it to the bar before it. Without a complete bar, the list is empty.
    """
    downbeats, meters = np.flatnonzero(beats.positions == 1), _bar_meters(beats)
    if not len(meters):
        return []
    changes = np.flatnonzero(np.diff(meters)) + 1
    end = min(duration, 2 * beats.times[-1] - beats.times[-2])
    edges = [beats.times[0], *beats.times[downbeats[changes]], end]
    labels = [str(meters[0]), *map(str, meters[changes])]
    return [
        Segment(float(start), float(stop), label) for (start, stop), label in zip(pairwise(edges), labels, strict=True)
    ]


def main_time_signature(segments: Sequence[Segment]) -> str | None:
    """Return the label with the longest total time, the first one in a tie, or `None` without segments."""
    seconds = _seconds_of(segments)
    return max(seconds, key=seconds.__getitem__, default=None)


def _seconds_of(segments: Sequence[Segment]) -> dict[str, float]:
    """Return the total time of each label, in the order of the song."""
    seconds: dict[str, float] = {}
    for start, end, label in segments:
        seconds[label] = seconds.get(label, 0.0) + end - start
    return seconds


def describe_beats(beats: Beats | None) -> list[str]:
    """
    Return the tempo and the meters of a song in words, such as `118 beats a minute` and `4 and 3 beats in a bar`, with
    the meter of the longest time first. Beats without a complete bar have no meter.
    """
    facts: list[str] = []
    if beats is None:
        return facts
    if (tempo := global_tempo(tempo_curve(beats.times))) is not None:
        facts.append(f"{tempo:.0f} beats a minute")
    if seconds := _seconds_of(time_signatures(beats)):
        *others, last = sorted(seconds, key=lambda label: -seconds[label])
        names = f"{', '.join(others)} and {last}" if others else last
        facts.append(f"{names} beats in a bar")
    return facts


def tempo_curve(times: np.ndarray) -> np.ndarray:
    """
    Compute the tempo at each beat: the slope of a line through the times of the beat and up to four beats on each
    side, with Hann weights. It smooths the rounding of beats to frames, and follows ritardandi.

    Args:
        times (`np.ndarray` of shape `(beats,)`): Beats in seconds, ascending. An interval that is longer than 1.7
            times the median of the intervals around it is a gap, across which no line is computed.

    Returns:
        float64 `(beats, 2)`: seconds and beats per minute. Beats with a gap on each side are left out.
    """
    times = np.asarray(times, dtype=np.float64)
    if len(times) < 2:
        return np.empty((0, 2))
    intervals = np.diff(times)
    padded = np.pad(intervals, NEIGHBORS, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBORS + 1)
    gaps = np.flatnonzero(intervals > LONGEST_INTERVAL * np.nanmedian(windows, axis=1))
    curve = [
        (run[index], _local_tempo(run, index))
        for run in np.split(times, gaps + 1)
        if len(run) > 1
        for index in range(len(run))
    ]
    return np.array(curve, dtype=np.float64).reshape(-1, 2)


def _local_tempo(times: np.ndarray, index: int) -> float:
    """Return the tempo at a beat from the weighted slope of the times around it."""
    steps = np.arange(max(0, index - NEIGHBORS), min(len(times), index + NEIGHBORS + 1)) - index
    weights = 0.5 + 0.5 * np.cos(np.pi * steps / (NEIGHBORS + 1))
    centered = steps - np.average(steps, weights=weights)
    slope = (weights * centered) @ times[index + steps] / ((weights * centered) @ centered)
    return 60 / float(slope)


def global_tempo(curve: np.ndarray) -> float | None:
    """
    Return the tempo of a song: the tempo above and below which the song spends half of its time, so that neither a
    ritardando nor a few wrong beats change it.

    Args:
        curve (`np.ndarray` of shape `(beats, 2)`): Output of [`tempo_curve`].

    Returns:
        Beats per minute, the median of the curve weighted by the length of a beat; `None` if the curve is empty.
    """
    if not len(curve):
        return None
    tempi = np.sort(curve[:, 1])
    seconds = (60 / tempi).cumsum()
    return float(tempi[np.searchsorted(seconds, seconds[-1] / 2)])


def meter_probabilities(
    probabilities: np.ndarray, segments: Sequence[Segment], times: np.ndarray, meters: Meters, change: float
) -> np.ndarray:
    """
    Return the posterior probability of the meter of each segment, given the times of the beats: the mean over its
    beats of the output of [`meter_posteriors`].

    Args:
        probabilities (`np.ndarray` of shape `(beats, 2)`): Probabilities of a beat that is not a downbeat, and of a
            downbeat, at each beat.
        segments: Output of [`time_signatures`].
        times (`np.ndarray` of shape `(beats,)`): Beats in seconds.
        meters, change: `beats_per_bar` and `meter_change` of [`dbn.track_downbeats`].

    Returns:
        float64 `(segments,)`; 0 for a meter that is not in `meters`.
    """
    if not segments:
        return np.empty(0)
    posteriors = meter_posteriors(probabilities, meters, change)
    columns = {str(meter): column for column, meter in enumerate(np.atleast_1d(meters))}
    starts = np.searchsorted(times, [segment.start for segment in segments])
    return np.array(
        [
            posteriors[start:stop, columns[segment.label]].mean() if segment.label in columns else 0.0
            for segment, start, stop in zip(segments, starts, [*starts[1:], len(times)], strict=True)
        ]
    )


def meter_posteriors(probabilities: np.ndarray, meters: Meters, change: float) -> np.ndarray:
    """
    Compute the posterior probability of each meter at each beat, given all beats, with the forward-backward algorithm
    on positions in the bar. Meters and positions are equally likely at the start, and a beat emits its probability of
    being a downbeat or not.

    Args:
        probabilities, meters, change: As for [`meter_probabilities`].

    Returns:
        float64 `(beats, meters)`; rows sum to 1.
    """
    counts = check_meters(meters, change)
    lasts = counts.cumsum() - 1
    firsts = lasts - counts + 1
    emissions = np.repeat(probabilities.clip(EPSILON, 1 - EPSILON)[:, :1], counts.sum(), axis=1)
    emissions[:, firsts] = probabilities.clip(EPSILON, 1 - EPSILON)[:, 1:]
    transitions = np.eye(counts.sum(), k=1)
    transitions[lasts] = 0
    transitions[np.ix_(lasts, firsts)] = np.exp(meter_transitions(len(counts), change))
    forward, backward = np.empty_like(emissions), np.ones_like(emissions)
    state = np.repeat(1 / counts, counts) / len(counts)
    for beat, emission in enumerate(emissions):
        state = (state if beat == 0 else state @ transitions) * emission
        state /= state.sum()
        forward[beat] = state
    for beat in range(len(emissions) - 2, -1, -1):
        backward[beat] = transitions @ (backward[beat + 1] * emissions[beat + 1])
        backward[beat] /= backward[beat].sum()
    posteriors = np.add.reduceat(forward * backward, firsts, axis=1)
    return posteriors / posteriors.sum(axis=1, keepdims=True)


def measure_meters(songs: Iterable[Beats]) -> tuple[list[int], float]:
    """
    Measure the meters of annotated songs.

    Returns:
        The meters from 2 to 7 of at least 1 % of the bars, ascending, and the share of the bar lines between them at
        which the meter changes, or 0 if it changes at fewer than one in a thousand. Without a complete bar, the list
        is empty.
    """
    bars = [_bar_meters(beats) for beats in songs]
    counted = np.concatenate([*bars, np.empty(0, dtype=np.int64)])
    meters = [meter for meter in METERS if (counted == meter).sum() >= max(1, MIN_SHARE * len(counted))]
    used = [song[np.isin(song, meters)] for song in bars]
    lines = sum(max(0, len(song) - 1) for song in used)
    changes = sum(np.count_nonzero(np.diff(song)) for song in used)
    share = changes / lines if lines else 0.0
    return meters, float(share) if share >= MIN_CHANGE else 0.0


def _bar_meters(beats: Beats) -> np.ndarray:
    """Return the number of beats in each complete bar, the highest position in it, `(bars,)`."""
    downbeats = np.flatnonzero(beats.positions == 1)
    if len(downbeats) < 2:
        return np.empty(0, dtype=np.int64)
    return np.maximum.reduceat(beats.positions[: downbeats[-1]], downbeats[:-1])


def score_tempo(reference: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """
    Compare the tempi of two songs by their beats (Gouyon et al., *An Experimental Comparison of Audio Tempo Induction
    Algorithms*, 2006).

    Args:
        reference, estimate (`np.ndarray` of shape `(beats,)`): Beats in seconds.

    Returns:
        `tempo_acc1`, 1 if the global tempo is within 4 % of that of the reference, otherwise 0; and `tempo_acc2`,
        which also accepts two, three, half and a third times the tempo. Both are nan without a reference.
    """
    expected, tempo = (global_tempo(tempo_curve(times)) for times in (reference, estimate))
    if expected is None:
        return {"tempo_acc1": float("nan"), "tempo_acc2": float("nan")}
    right = [
        tempo is not None and abs(tempo - factor * expected) <= TEMPO_TOLERANCE * factor * expected
        for factor in TEMPO_FACTORS
    ]
    return {"tempo_acc1": float(right[0]), "tempo_acc2": float(any(right))}


def score_meter(reference: Beats, estimate: Beats) -> dict[str, float]:
    """
    Compare the time signatures of two songs by their beats.

    Returns:
        `meter_acc`, 1 if the time signature with the longest total time is that of the reference, otherwise 0; and
        `meter_time`, the share of the time of the reference with the right time signature. Both are nan if the
        reference has no complete bar.
    """
    expected, signatures = time_signatures(reference), time_signatures(estimate)
    if not expected:
        return {"meter_acc": float("nan"), "meter_time": float("nan")}
    return {
        "meter_acc": float(main_time_signature(signatures) == main_time_signature(expected)),
        "meter_time": spans.share_of_time(expected, signatures, str),
    }
