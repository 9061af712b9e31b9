"""
Targets, decoding and scores for tasks with one class in each frame, such as chords and keys. Frame j covers
[j, j + 1) / rate seconds.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..model.losses_musicfm import IGNORED
from .annotations import Segment, check_segments


def single_label_output(name: str) -> dict[str, Any]:
    """Return an entry of `config.classifier_outputs`: one softmax over all labels."""
    return {"name": name, "size": None, "problem_type": "single_label_classification", "loss_weight": 1.0}


def no_segments(duration: float) -> list[Segment]:
    """Return no segments, regardless of the duration of the audio in seconds."""
    return []


def whole_song(label: str) -> Callable[[float], list[Segment]]:
    """Return a function from the duration of a song in seconds to one segment that covers all of it."""
    return lambda duration: [Segment(0.0, duration, label)]


def check_label(text: str, labels: Sequence[str]) -> str:
    """
    Return the text, after checking that it is one of `labels`.

    Raises:
        ValueError: if it is not.
    """
    if text not in labels:
        raise ValueError(f"{text!r} is not one of the labels {', '.join(labels)}.")
    return text


def frame_targets(
    segments: Sequence[Segment],
    parse: Callable[[str], str | None],
    labels: Sequence[str],
    num_frames: int,
    frame_rate: float,
    start: float,
) -> np.ndarray:
    """
    Compute one-hot targets: the label with the most time in each frame.

    Args:
        segments (`list[Segment]`): Segments with texts as labels, in order and without overlaps.
        parse: Text → one of `labels`, or `None` to ignore it.
        labels (`tuple[str, …]`): Names of the columns.
        num_frames (`int`): Number of rows.
        frame_rate (`float`): Frame rate in Hz.
        start (`float`): Seconds at which the first frame begins.

    Returns:
        float32 `(num_frames, len(labels))`. Rows are -100 where most of a frame has no label, or one that `parse` maps
        to `None`.

    Raises:
        ValueError: if segments are not in order, a text cannot be parsed, or `num_frames`, `frame_rate` or `start` is
            out of range.
    """
    if not (num_frames >= 0 and 0 < frame_rate < np.inf and np.isfinite(start)):
        raise ValueError(
            f"Targets need 0 frames or more, a positive rate and a finite start, got {num_frames} frames at "
            f"{frame_rate} Hz from {start} s."
        )
    check_segments(segments, "segments")
    bounds = start + np.arange(num_frames + 1) / frame_rate
    seconds = np.zeros((num_frames, len(labels) + 1))  # the last column is for ignored time
    for segment in segments:
        label = parse(segment.label)
        if label is None or segment.end <= bounds[0] or segment.start >= bounds[-1]:
            continue
        first = max(int(bounds.searchsorted(segment.start, side="right")) - 1, 0)
        last = min(int(bounds.searchsorted(segment.end, side="left")), num_frames)
        edges = np.minimum(np.maximum(bounds[first : last + 1], segment.start), segment.end)
        seconds[first:last, labels.index(label)] += edges[1:] - edges[:-1]
    seconds[:, -1] = 1 / frame_rate - seconds.sum(axis=1)
    # Rounding makes ties the same on every machine. In a tie, the first label wins, and ignored time loses.
    classes = seconds.round(9).argmax(axis=1)
    targets = np.eye(len(labels) + 1, len(labels), dtype=np.float32)[classes]
    targets[classes == len(labels)] = IGNORED
    return targets


def transpose_targets(targets: np.ndarray, semitones: int) -> np.ndarray:
    """Transpose targets of chords or keys `(…, 12 n + 1)`: 12 labels from C for each of n modes, and none."""
    *modes, none = np.split(targets, range(12, targets.shape[-1], 12), axis=-1)
    return np.concatenate([*(np.roll(mode, semitones, -1) for mode in modes), none], axis=-1)


def decode(logits: np.ndarray, labels: Sequence[str], frame_rate: float, min_seconds: float = 0.0) -> list[Segment]:
    """
    Find the most likely sequence of labels in which each label lasts at least `min_seconds`, by dynamic programming
    over the sum of log-probabilities. Without a minimum, these are the runs of equal argmax. A song shorter than twice
    the minimum has one label.

    Args:
        logits (`np.ndarray` of shape `(frames, len(labels))`): Scores before the softmax, of a whole song.
        labels (`tuple[str, …]`): Names of the columns.
        frame_rate (`float`): Frame rate in Hz.
        min_seconds (`float`): Minimum duration of a segment in seconds, rounded to frames.

    Returns:
        Segments from 0 to the end of the last frame, without gaps; an empty list if there are no frames.

    Raises:
        ValueError: if logits have another shape or are not finite, or a setting is out of range.
    """
    log_probabilities = np.log(softmax(logits, labels) + np.finfo(np.float64).tiny)
    if not (0 < frame_rate < np.inf and 0 <= min_seconds < np.inf):
        raise ValueError(f"Need a positive frame rate and min_seconds >= 0, got {frame_rate} Hz, {min_seconds} s.")
    if not len(log_probabilities):
        return []
    classes = _likeliest_classes(log_probabilities, max(1, round(min_seconds * frame_rate)))
    edges = [0, *(np.flatnonzero(np.diff(classes)) + 1), len(classes)]
    return [
        Segment(float(first / frame_rate), float(last / frame_rate), labels[classes[first]])
        for first, last in pairwise(edges)
    ]


def label_probabilities(
    logits: np.ndarray, segments: Sequence[Segment], labels: Sequence[str], frame_rate: float
) -> np.ndarray:
    """
    Return the probability of the label of each segment, averaged over its frames.

    Args:
        logits (`np.ndarray` of shape `(frames, labels or more)`): Logits of the whole song.
        segments (`list[Segment]`): Segments labeled with some of `labels`.
        labels (`list[str]`): Names of the first columns, which share one softmax.
        frame_rate (`float`): Frame rate in Hz.

    Returns:
        float64 `(segments,)`.
    """
    probabilities = softmax(logits[:, : len(labels)], labels)
    means = [
        probabilities[frames_of(segment, frame_rate, len(probabilities)), labels.index(segment.label)].mean()
        for segment in segments
    ]
    return np.array(means)


def share_of_time(
    reference: Sequence[Segment], estimate: Sequence[Segment], parse: Callable[[str], str | None]
) -> float:
    """
    Return the share of the time with a reference label in which the estimate has the same label.

    Args:
        reference (`list[Segment]`): Segments with texts that `parse` maps to a label, or to `None` to ignore them.
        estimate (`list[Segment]`): Segments with labels. Time without a label counts as wrong.
        parse (`Callable`): Text of the reference → label.

    Returns:
        0 to 1; nan if no time has a reference label.

    Raises:
        ValueError: if segments are not in order, or a text cannot be parsed.
    """
    if not reference:
        return float("nan")
    seconds, names, estimated_names = pair(reference, estimate, "", "")
    labels = [parse(name) if name else None for name in names]
    known = np.array([label is not None for label in labels])
    right = np.array([label == name for label, name in zip(labels, estimated_names, strict=True)])
    return float(seconds[known & right].sum() / seconds[known].sum()) if known.any() else float("nan")


def frames_of(segment: Segment, frame_rate: float, num_frames: int) -> slice:
    """Return the frames whose center is in a segment, or the nearest frame if there are none."""
    first = min(int(segment.start * frame_rate + 0.5), num_frames - 1)
    return slice(first, max(first + 1, int(segment.end * frame_rate + 0.5)))


def softmax(logits: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """
    Compute probabilities, float64 `(frames, len(labels))`, from logits of this shape.

    Raises:
        ValueError: if logits have another shape or are not finite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[1] != len(labels):
        raise ValueError(f"Logits must have the shape (frames, {len(labels)}), got {logits.shape}.")
    if not np.isfinite(logits).all():
        frame = np.argwhere(~np.isfinite(logits))[0, 0]
        raise ValueError(f"Logits must be finite, got {logits[frame]} at frame {frame}.")
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def pair(
    reference: Sequence[Segment], estimate: Sequence[Segment], unlabeled: str, missing: str
) -> tuple[np.ndarray, list[str], list[str]]:
    """
    Split the time from the start to the end of the reference wherever the label of either side changes.

    Args:
        unlabeled (`str`): Label of gaps in the reference.
        missing (`str`): Label of time without an estimate.

    Returns:
        The duration of each part in seconds `(n,)`, the reference labels, and the estimated labels.

    Raises:
        ValueError: if the reference is empty, or segments are not in order.
    """
    import mir_eval

    check_segments(reference, "reference")
    check_segments(estimate, "estimate")
    if not reference:
        raise ValueError("The reference has no segments, so there is nothing to compare with.")
    intervals, names = _without_gaps(reference, unlabeled)
    estimated = mir_eval.util.adjust_intervals(
        *_without_gaps(estimate, missing), intervals.min(), intervals.max(), missing, missing
    )
    merged, names, estimated_names = mir_eval.util.merge_labeled_intervals(intervals, names, *estimated)
    return mir_eval.util.intervals_to_durations(merged), names, estimated_names


def _without_gaps(segments: Sequence[Segment], gap: str) -> tuple[np.ndarray, list[str]]:
    """
    Return intervals (n, 2) in seconds and their labels, with the label `gap` between segments, because mir_eval would
    extend the segment before a gap.
    """
    rows: list[Segment] = []
    for segment in segments:
        if rows and rows[-1].end < segment.start:
            rows.append(Segment(rows[-1].end, segment.start, gap))
        rows.append(segment)
    return np.array([row[:2] for row in rows], dtype=np.float64).reshape(-1, 2), [row.label for row in rows]


def _likeliest_classes(log_probabilities: np.ndarray, shortest: int) -> np.ndarray:
    """Return the most likely classes (frames,) for (frames, classes) with runs of at least `shortest` frames."""
    num_frames = len(log_probabilities)
    if shortest == 1:
        return log_probabilities.argmax(axis=1)
    if num_frames < 2 * shortest:
        return np.full(num_frames, log_probabilities.sum(axis=0).argmax())
    sums = np.pad(log_probabilities.cumsum(axis=0), [(1, 0), (0, 0)])
    # best[t, c]: score of the best labeling of the first t frames that ends with `shortest` or more frames of c.
    best = np.full_like(sums, -np.inf)
    best[shortest] = sums[shortest]
    begins = np.zeros(sums.shape, dtype=bool)  # where the last run has exactly `shortest` frames
    begins[shortest] = True
    for end in range(shortest + 1, num_frames + 1):
        longer = best[end - 1] + log_probabilities[end - 1]
        new = best[end - shortest].max() + sums[end] - sums[end - shortest]
        begins[end] = new > longer
        best[end] = np.maximum(new, longer)
    classes = np.empty(num_frames, dtype=int)
    end, current = num_frames, best[-1].argmax()
    while end:
        while not begins[end, current]:
            classes[end - 1] = current
            end -= 1
        classes[end - shortest : end] = current
        end -= shortest
        current = best[end].argmax()
    return classes
