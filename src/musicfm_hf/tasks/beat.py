"""
Beats and downbeats. Frame j is centred at j / rate seconds.

One softmax over beat, downbeat and neither, decoded by the dynamic Bayesian network of `dbn.py`. Scores are those of
`mir_eval.beat.f_measure` over all beats (Davies, Degara, Plumbley, *Evaluation Methods for Musical Audio Beat Tracking
Algorithms*, 2009).
"""

from collections.abc import Sequence

import numpy as np

from . import dbn, spans
from .annotations import Beats, check_beats

LABELS = ("beat", "downbeat", "neither")  # "beat" is one that is not a downbeat
OUTPUTS = ({"name": "beat", "size": 3, "problem_type": "single_label_classification", "loss_weight": 1.0},)
PAPER_RATE = 20.0  # Hz
README_RATE = 50.0
CROP_SECONDS = 6.0
METRIC = "beat_f"
TOLERANCE = 0.07  # seconds between a beat and its estimate


def targets(annotation: Beats, num_frames: int, frame_rate: float, start: float = 0.0, widen: int = 1) -> np.ndarray:
    """
    Shares of the labels in each frame. The frame nearest to a beat has it whole, each neighbour up to `widen` frames
    away half as much as the one before; the rest is "neither". Beats whose position is not known count as "beat".
    Where two beats meet in a frame, each label keeps its larger share, and the smaller of the two what is left of 1.

    Args:
        annotation (`Beats`): Of the whole song.
        num_frames (`int`): Rows.
        frame_rate (`float`): In Hz.
        start (`float`): Centre of the first frame, in seconds.
        widen (`int`): Neighbours on each side. Beats outside reach in with theirs.

    Returns:
        float32 `(num_frames, 3)`; rows sum to 1.

    Raises:
        ValueError: beats are not in order, or there are no such frames.
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
    beats_per_bar: int | Sequence[int] = (3, 4),
    min_bpm: float = 55.0,
    max_bpm: float = 215.0,
    threshold: float = 0.05,
    transition_lambda: float = 100,
    observation_lambda: float = 16,
    min_rate: float = 40.0,
) -> Beats:
    """
    Beats of a whole song: softmax and [`dbn.track_downbeats`], which explains the settings that are not below.

    Args:
        logits (`np.ndarray` of shape `(frames, 3)`): Scores before the softmax.
        frame_rate (`float`): In Hz.
        min_rate (`float`): Below this rate in Hz, probabilities are first interpolated linearly at a multiple of
            `frame_rate` that reaches it. The network's beats last whole frames: at 20 Hz neighbouring tempi differ by
            5 to 17 %, and where activations are weak it holds on to the wrong one.

    Returns:
        Beats with their positions in the bar; none if there are fewer than two frames, or no probability reaches the
        threshold.

    Raises:
        ValueError: if logits have another shape or are not finite, or settings are out of range.
    """
    probabilities = spans.softmax(logits, LABELS)[:, :2]
    if not (0 < frame_rate < np.inf and 0 < min_rate < np.inf):
        raise ValueError(f"Rates must be positive and finite, got {frame_rate} Hz and min_rate {min_rate} Hz.")
    if len(probabilities) < 2:
        return Beats(np.empty(0), np.empty(0, dtype=np.int64))
    factor = int(np.ceil(min_rate / frame_rate))
    frames = np.arange(len(probabilities))
    finer = np.arange(factor * (len(frames) - 1) + 1) / factor
    activations = np.column_stack([np.interp(finer, frames, column) for column in probabilities.T])
    decoded = dbn.track_downbeats(
        activations,
        frame_rate * factor,
        beats_per_bar,
        min_bpm=min_bpm,
        max_bpm=max_bpm,
        transition_lambda=transition_lambda,
        observation_lambda=observation_lambda,
        threshold=threshold,
    )
    return Beats(decoded[:, 0].copy(), decoded[:, 1].astype(np.int64))


def score(reference: Beats, estimate: Beats) -> dict[str, float]:
    """
    F-measures of one song, with hits within 0.07 s (`mir_eval.beat.f_measure`).

    Returns:
        `beat_f` over all beats and `downbeat_f` over all downbeats; `beat_f_trimmed` and `downbeat_f_trimmed` without
        those in the first 5 s, as `mir_eval.beat.evaluate` has it. 0 where a side has none. Scores of downbeats are
        nan where the reference knows no position.

    Raises:
        ValueError: if beats are not in order.
    """
    import mir_eval

    check_beats(reference, "reference")
    check_beats(estimate, "estimate")
    scores = {}
    for name in ("beat", "downbeat"):
        pair = [
            beats.times if name == "beat" else beats.times[beats.positions == 1] for beats in (reference, estimate)
        ]
        known = name == "beat" or reference.positions.any()
        scores[f"{name}_f"] = _f_measure(*pair) if known else float("nan")
        trimmed = [mir_eval.beat.trim_beats(times) for times in pair]
        scores[f"{name}_f_trimmed"] = _f_measure(*trimmed) if known else float("nan")
    return scores


def _f_measure(reference: np.ndarray, estimate: np.ndarray) -> float:
    """F-measure of times in seconds; 0 where one side has none."""
    import mir_eval

    if not (len(reference) and len(estimate)):
        return 0.0
    return float(mir_eval.beat.f_measure(reference, estimate, f_measure_threshold=TOLERANCE))
