"""
Beats and downbeats. Frame j is centered at j / rate seconds.

The output is one softmax over beat, downbeat and neither, which the dynamic Bayesian network in `dbn.py` decodes. The
vocabulary `full` has two more, for the tempo and the meter; see `beat_outputs.py`. The scores are those of
`mir_eval.beat.f_measure` over all beats (Davies, Degara, Plumbley, *Evaluation Methods for Musical Audio Beat Tracking
Algorithms*, 2009).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import beat_outputs, calibration, dbn, meter, spans
from .annotations import Beats, check_beats
from .bar_positions import remark_on_beats
from .dbn_states import BEATS_PER_BAR, TempoScores
from .spec import Score, Strip, TaskSpec

LABELS = ("beat", "downbeat", "neither")  # "beat" excludes downbeats
_FULL = len(LABELS) + len(beat_outputs.TEMPO_LABELS) + len(beat_outputs.METER_LABELS)
TOLERANCE = 0.07  # maximum distance between a beat and its estimate, in seconds


def targets(annotation: Beats, num_frames: int, frame_rate: float, start: float = 0.0, widen: int = 1) -> np.ndarray:
    """
    Compute the share of each label in each frame. The frame nearest to a beat has a share of 1, and the share halves
    with each neighboring frame, up to `widen` frames away; the rest is "neither". Beats with an unknown position count
    as "beat". If several beats reach one frame, each label gets its largest share; if "beat" and "downbeat" then
    exceed 1 together, the smaller of the two is reduced.

    Args:
        annotation (`Beats`): Beats of the whole song.
        num_frames (`int`): Number of rows.
        frame_rate (`float`): Frame rate in Hz.
        start (`float`): Center of the first frame, in seconds.
        widen (`int`): Number of neighbors on each side. Neighbors of beats outside the crop may lie inside it.

    Returns:
        float32 `(num_frames, 3)`; rows sum to 1.

    Raises:
        ValueError: if beats are not in order, or a number is out of range.
    """
    if not (num_frames >= 0 and 0 < frame_rate < np.inf and np.isfinite(start) and widen >= 0):
        raise ValueError(
            f"Targets need 0 frames or more, a positive rate, a finite start and widen >= 0, got {num_frames} frames "
            f"at {frame_rate} Hz from {start} s, widened by {widen}."
        )
    check_beats(annotation, "beats")
    frames = np.round((annotation.times - start) * frame_rate).astype(int)
    labels = (annotation.positions == 1).astype(int)
    shares = np.zeros((num_frames, len(LABELS)), dtype=np.float32)
    for step in range(-widen, widen + 1):
        inside = (frames + step >= 0) & (frames + step < num_frames)
        np.maximum.at(shares, (frames[inside] + step, labels[inside]), 0.5 ** abs(step))
    beat, downbeat, neither = shares.T  # views
    wins = downbeat >= beat
    beat[wins] = np.minimum(beat, 1 - downbeat)[wins]
    downbeat[~wins] = np.minimum(downbeat, 1 - beat)[~wins]
    neither[:] = 1 - beat - downbeat
    return shares


def events(
    logits: np.ndarray,
    frame_rate: float,
    min_rate: float = 40.0,
    tempo_weight: float = 1.0,
    meter_weight: float = 1.0,
    **settings: Any,
) -> Beats:
    """
    Decode the beats of a whole song: softmax, then [`dbn.track_downbeats`].

    Args:
        logits (`np.ndarray` of shape `(frames, 3)` or `(frames, 31)`): Scores before the softmax; with the vocabulary
            `full`, also those of 22 tempi and of 6 meters, each before a softmax of their own.
        frame_rate (`float`): Frame rate in Hz.
        min_rate (`float`): If `frame_rate` is below this rate in Hz, probabilities are first interpolated linearly
            to a multiple of `frame_rate` that is high enough. In the network, beats last a whole number of frames, so
            at 20 Hz neighboring tempi differ by 5 to 17 %, and with weak activations decoding keeps a wrong tempo.
        tempo_weight, meter_weight (`float`): Weights of the log-probabilities of the tempo and of the meter, which
            are integrated over seconds; only for the vocabulary `full`.
        **settings: Settings of [`dbn.track_downbeats`]: `beats_per_bar`, `meter_change`, `min_bpm`, `max_bpm`,
            `transition_lambda`, `observation_lambda`, `threshold`, `num_tempi`.

    Returns:
        Beats with their positions in the bar; none if `logits` has fewer than two frames, or if no probability reaches
        the threshold.

    Raises:
        ValueError: if logits have another shape or are not finite, or a setting is out of range.
        TypeError: if a setting does not exist.
    """
    probabilities = _probabilities(logits)[:, :2]
    if not (0 < frame_rate < np.inf and 0 < min_rate < np.inf):
        raise ValueError(f"Rates must be positive and finite, got {frame_rate} Hz and min_rate {min_rate} Hz.")
    if not (0 <= tempo_weight < np.inf and 0 <= meter_weight < np.inf):
        raise ValueError(
            f"`tempo_weight` and `meter_weight` must be at least 0 and finite, got {tempo_weight} and {meter_weight}."
        )
    if len(probabilities) < 2:
        return no_beats()
    factor = int(np.ceil(min_rate / frame_rate))
    frames = np.arange(len(probabilities))
    finer = np.arange(factor * (len(frames) - 1) + 1) / factor
    activations = np.column_stack([np.interp(finer, frames, column) for column in probabilities.T])
    if logits.shape[1] == _FULL:
        weights = np.array([tempo_weight, meter_weight]) / (frame_rate * factor)
        settings |= _further_scores(logits[np.round(finer).astype(int)], weights, **settings)
    decoded = dbn.track_downbeats(activations, frame_rate * factor, **settings)
    return Beats(decoded[:, 0].copy(), decoded[:, 1].astype(np.int64))


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of [`LABELS`], float64 `(frames, 3)`, from logits with or without further outputs."""
    is_full = np.ndim(logits) == 2 and logits.shape[1] == _FULL
    return spans.softmax(logits[:, : len(LABELS)] if is_full else logits, LABELS)


def _further_scores(
    logits: np.ndarray, weights: np.ndarray, beats_per_bar: int | Sequence[int] = BEATS_PER_BAR, **settings: Any
) -> dict[str, Any]:
    """Return the scores of tempi and of the meters in `beats_per_bar`, as [`dbn.track_downbeats`] takes them."""
    meters = np.atleast_1d(beats_per_bar)
    if unknown := sorted(set(meters.tolist()) - set(meter.METERS)):
        raise ValueError(f"The model has outputs for meters from 2 to 7, got {unknown[0]} in `beats_per_bar`.")
    _, tempi, of_meters = np.split(logits, [len(LABELS), len(LABELS) + len(beat_outputs.TEMPO_LABELS)], axis=1)
    tempi = weights[0] * beat_outputs.log_probabilities(tempi, beat_outputs.TEMPO_LABELS)
    of_meters = weights[1] * beat_outputs.log_probabilities(of_meters, beat_outputs.METER_LABELS)
    return {
        "tempo_scores": TempoScores(beat_outputs.TEMPI, tempi),
        "meter_scores": of_meters[:, meters - meter.METERS[0]],
    }


def no_beats(duration: float = 0.0) -> Beats:
    """Return no beats, regardless of the duration of the audio."""
    return Beats(np.empty(0), np.empty(0, dtype=np.int64))


def event_probabilities(logits: np.ndarray, beats: Beats, labels: Sequence[str], frame_rate: float) -> np.ndarray:
    """Return the probability of a beat, downbeat or not, in the nearest frame of each beat, float64 `(beats,)`."""
    probabilities = _probabilities(logits)
    frames = _nearest_frames(beats.times, frame_rate, len(probabilities))
    return probabilities[frames, :2].sum(axis=1)


def learn_decoding(annotations: Sequence[Beats]) -> dict[str, Any]:
    """Return the meters of training songs, and how often the meter changes; see [`meter.measure_meters`]."""
    meters, change = meter.measure_meters(annotations)
    return {"beats_per_bar": meters, "meter_change": round(change, 6)} if meters else {}


def song_results(
    logits: np.ndarray,
    beats: Beats,
    frame_rate: float,
    beats_per_bar: int | Sequence[int] = BEATS_PER_BAR,
    meter_change: float = 0.0,
    **settings: Any,
) -> dict[str, tuple[Any, np.ndarray | None]]:
    """
    Compute the tempo and the time signatures of decoded beats.

    Args:
        logits (`np.ndarray` of shape `(frames, 3)`): Scores before the softmax.
        beats ([`Beats`]): Output of [`events`].
        frame_rate (`float`): Frame rate in Hz.
        beats_per_bar, meter_change, settings: As for [`events`].

    Returns:
        `tempo` and `tempo_curve` (see [`meter.global_tempo`] and [`meter.tempo_curve`]), which are `None` with fewer
        than two beats; `time_signatures` (see [`meter.time_signatures`]) with the posterior probability of each
        given the beats (see [`meter.meter_probabilities`]); and `downbeats`, without a value of its own, with the
        probability of a downbeat in the nearest frame of each beat at position 1.
    """
    curve = meter.tempo_curve(beats.times)
    signatures = meter.time_signatures(beats, len(logits) / frame_rate)
    probabilities = _probabilities(logits)[:, :2]
    at_beats = np.empty((0, 2))
    if len(beats.times):
        frames = np.arange(len(probabilities))
        at_beats = np.column_stack([np.interp(beats.times * frame_rate, frames, column) for column in probabilities.T])
    downbeats = np.empty(0)
    if len(probabilities):
        times = beats.times[beats.positions == 1]
        downbeats = probabilities[_nearest_frames(times, frame_rate, len(probabilities)), 1]
    certain = meter.meter_probabilities(at_beats, signatures, beats.times, beats_per_bar, meter_change)
    return {
        "tempo": (meter.global_tempo(curve), None),
        "tempo_curve": (curve if len(curve) else None, None),
        "time_signatures": (signatures, certain if signatures else None),
        "downbeats": (None, downbeats if len(downbeats) else None),
    }


def _nearest_frames(times: np.ndarray, frame_rate: float, num_frames: int) -> np.ndarray:
    """Return the frames whose centers are nearest to times in seconds."""
    return np.round(times * frame_rate).astype(int).clip(0, num_frames - 1)


def right(reference: Beats, estimate: Beats, results: Mapping[str, Any]) -> dict[str, calibration.Rightness]:
    """
    Return which beats and downbeats are right, as `mir_eval.beat.f_measure` counts them: those that are matched with
    different beats of the reference within 0.07 s; and the share of the time of each of the `time_signatures` that is
    right. Downbeats are not compared if the reference has no positions.
    """
    import mir_eval

    sides = {"beats": (reference.times, estimate.times)}
    sides["downbeats"] = (reference.times[reference.positions == 1], estimate.times[estimate.positions == 1])
    found = {}
    for name, (expected, times) in sides.items():
        matched = np.zeros(len(times))
        if len(expected) and len(times):
            pairs = mir_eval.util.match_events(expected, times, TOLERANCE)
            matched[[ours for _, ours in pairs]] = 1
        known = name == "beats" or reference.positions.any()
        found[name] = (matched, np.full(len(times), float(known)))
    signatures = meter.time_signatures(reference), results.get("time_signatures") or []
    return found | {"time_signatures": calibration.time_right(*signatures, calibration.equal_labels(str))}


def score(reference: Beats, estimate: Beats) -> dict[str, float]:
    """
    Compute the scores of one song: F-measures of beats, with hits within 0.07 s (`mir_eval.beat.f_measure`), and the
    tempo and the time signatures that follow from the beats.

    Returns:
        `beat_f` over all beats and `downbeat_f` over all downbeats; `beat_f_trimmed` and `downbeat_f_trimmed` without
        the first 5 s, as in `mir_eval.beat.evaluate`. A score is 0 if the reference or the estimate is empty. Scores
        of downbeats are nan if the reference has no positions. `tempo_acc1`, `tempo_acc2`, `meter_acc` and
        `meter_time`: see [`meter.score_tempo`] and [`meter.score_meter`].

    Raises:
        ValueError: if beats are not in order.
    """
    import mir_eval

    check_beats(reference, "reference")
    check_beats(estimate, "estimate")
    sides = (reference, estimate)
    times = {
        "beat": [side.times for side in sides],
        "downbeat": [side.times[side.positions == 1] for side in sides],
    }
    scores = {}
    for name, pair in times.items():
        known = pair[0] is reference.times or reference.positions.any()
        scores[f"{name}_f"] = _f_measure(*pair) if known else float("nan")
        trimmed = [mir_eval.beat.trim_beats(side) for side in pair]
        scores[f"{name}_f_trimmed"] = _f_measure(*trimmed) if known else float("nan")
    return scores | meter.score_tempo(reference.times, estimate.times) | meter.score_meter(reference, estimate)


def _f_measure(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Return the F-measure of times in seconds, or 0 if one side is empty."""
    import mir_eval

    if not (len(reference) and len(estimate)):
        return 0.0
    return float(mir_eval.beat.f_measure(reference, estimate, f_measure_threshold=TOLERANCE))


_BEATS = TaskSpec(
    name="beat",
    column="beats",
    order=0,
    labels=LABELS,
    label_rate=20.0,
    centered=True,
    crop_seconds=6.0,
    targets=targets,
    remarks=remark_on_beats,
    stretchable=True,
    resamplable=True,
    events=events,
    learn_decoding=learn_decoding,
    probabilities=event_probabilities,
    song_results=song_results,
    right=right,
    silence=no_beats,
    metric="beat_f",
    scores={
        "beat_f": Score("f1", "beat F-measure (mir_eval, 70 ms)"),
        "downbeat_f": Score("f1", "downbeat F-measure (mir_eval, 70 ms)"),
        "tempo_acc1": Score("accuracy", "songs with the right tempo (within 4 %)"),
        "tempo_acc2": Score("accuracy", "songs with the right tempo, or 2, 3, 1/2 or 1/3 times that"),
        "meter_acc": Score("accuracy", "songs with the right time signature"),
        "meter_time": Score("accuracy", "time with the right time signature"),
    },
    score=score,
    about="Beats and downbeats",
    limits="It knows the meters of its training data, from two to seven beats in a bar, and common tempi.",
    strip=Strip("bar", "beats", height=0.2, in_overview=False),
    file_format="beats",
)


def _full_targets(annotation: Beats, num_frames: int, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """Compute [`targets`] and, in further columns, those of tempi and meters."""
    functions = (targets, beat_outputs.tempo_targets, beat_outputs.meter_targets)
    return np.concatenate([function(annotation, num_frames, frame_rate, start) for function in functions], axis=1)


# Outputs with their labels and the weight of their loss. Most frames have no beat, so the loss of beats is small.
_PARTS = (
    ("beat", LABELS, 1.0),
    ("tempo", beat_outputs.TEMPO_LABELS, 0.1),
    ("meter", beat_outputs.METER_LABELS, 0.1),
)

TASK = replace(
    _BEATS,
    variants=(
        replace(
            _BEATS,
            vocabulary="full",
            labels=tuple(label for _, labels, _ in _PARTS for label in labels),
            outputs=tuple(
                {
                    "name": name,
                    "size": len(labels),
                    "problem_type": "single_label_classification",
                    "loss_weight": weight,
                }
                for name, labels, weight in _PARTS
            ),
            targets=_full_targets,
            about="Beats, downbeats, the tempo and the meter",
        ),
    ),
)
