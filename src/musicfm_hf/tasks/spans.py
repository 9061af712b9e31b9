"""
Segments ↔ frames that have one class each: what chords and keys share. Frame j covers [j, j + 1) / rate seconds.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from .annotations import Segment, check_segments

IGNORED = -1


def frame_targets(
    segments: Sequence[Segment],
    parse: Callable[[str], str | None],
    labels: tuple[str, ...],
    num_frames: int,
    frame_rate: float,
    start: float,
) -> np.ndarray:
    """
    The label with most time in each frame, as one-hot rows.

    Args:
        segments (`list[Segment]`): Seconds and texts; ascending, not overlapping.
        parse: From a text to one of `labels`, or to `None` where none of them fits.
        labels (`tuple[str, …]`): The columns.
        num_frames (`int`): Rows.
        frame_rate (`float`): In Hz.
        start (`float`): Seconds at which the first frame begins.

    Returns:
        float32 `(num_frames, len(labels))`. Rows of frames of which most is not labelled, or labelled with what
        `parse` maps to `None`, are -1.

    Raises:
        ValueError: if segments are not in order, a text cannot be parsed, or there are no such frames.
    """
    if not (num_frames >= 0 and 0 < frame_rate < np.inf and np.isfinite(start)):
        raise ValueError(
            f"Targets need 0 frames or more, a positive rate and a finite start, got {num_frames} frames at "
            f"{frame_rate} Hz from {start} s."
        )
    check_segments(segments, "segments")
    bounds = start + np.arange(num_frames + 1) / frame_rate
    seconds = np.zeros((num_frames, len(labels) + 1))  # the last column is for what is ignored
    for segment in segments:
        label = parse(segment.label)
        if label is None or segment.end <= bounds[0] or segment.start >= bounds[-1]:
            continue
        first = np.clip(np.searchsorted(bounds, segment.start, side="right") - 1, 0, num_frames)
        last = np.clip(np.searchsorted(bounds, segment.end, side="left"), first, num_frames)
        edges = bounds[first : last + 1].clip(segment.start, segment.end)
        seconds[first:last, labels.index(label)] += np.diff(edges)
    seconds[:, -1] = 1 / frame_rate - seconds.sum(axis=1)
    # Rounded, so that ties are ties on every machine; the first label wins, and what is ignored loses.
    classes = seconds.round(9).argmax(axis=1)
    targets = np.eye(len(labels) + 1, len(labels), dtype=np.float32)[classes]
    targets[classes == len(labels)] = IGNORED
    return targets


def decode(logits: np.ndarray, labels: tuple[str, ...], frame_rate: float, min_seconds: float) -> list[Segment]:
    """
    The likeliest run of labels in which each label lasts at least `min_seconds`: without a minimum, runs of equal
    argmax. Found by dynamic programming over the sum of log-probabilities. A song shorter than the minimum has one
    label.

    Args:
        logits (`np.ndarray` of shape `(frames, len(labels))`): Scores before the softmax, of a whole song.
        labels (`tuple[str, …]`): Names of the columns.
        frame_rate (`float`): In Hz.
        min_seconds (`float`): Rounded to frames.

    Returns:
        Segments from 0 to the end of the last frame without gaps; none for no frames.

    Raises:
        ValueError: if logits have another shape or are not finite, or a setting is out of range.
    """
    log_probabilities = np.log(softmax(logits, labels) + np.finfo(np.float64).tiny)
    if not (0 < frame_rate < np.inf and 0 <= min_seconds < np.inf):
        raise ValueError(f"Need a positive frame rate and min_seconds >= 0, got {frame_rate} Hz, {min_seconds} s.")
    if not len(log_probabilities):
        return []
    classes = _classes(log_probabilities, max(1, round(min_seconds * frame_rate)))
    edges = [0, *(np.flatnonzero(np.diff(classes)) + 1), len(classes)]
    return [
        Segment(float(first / frame_rate), float(last / frame_rate), labels[classes[first]])
        for first, last in pairwise(edges)
    ]


def frames_of(segment: Segment, frame_rate: float, num_frames: int) -> slice:
    """The frames of a segment whose middle is in it; one at least."""
    first = min(int(segment.start * frame_rate + 0.5), num_frames - 1)
    return slice(first, max(first + 1, int(segment.end * frame_rate + 0.5)))


def softmax(logits: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    """
    Probabilities, float64 `(frames, len(labels))`, of logits of this shape.

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
    reference: Sequence[Segment], estimate: Sequence[Segment], unlabelled: str, missing: str
) -> tuple[np.ndarray, list[str], list[str]]:
    """
    Seconds `(n,)`, reference labels and estimated labels of all stretches of time between the start and end of the
    reference in which neither changes. Gaps in the reference are `unlabelled`; time without an estimate is `missing`.

    Raises:
        ValueError: if the reference is empty, or segments are not in order.
    """
    import mir_eval

    check_segments(reference, "reference")
    check_segments(estimate, "estimate")
    if not reference:
        raise ValueError("The reference has no segments: there is nothing to compare with.")
    intervals, names = _without_gaps(reference, unlabelled)
    estimated = mir_eval.util.adjust_intervals(
        *_without_gaps(estimate, missing), intervals.min(), intervals.max(), missing, missing
    )
    merged, names, estimated_names = mir_eval.util.merge_labeled_intervals(intervals, names, *estimated)
    return mir_eval.util.intervals_to_durations(merged), names, estimated_names


def _without_gaps(segments: Sequence[Segment], gap: str) -> tuple[np.ndarray, list[str]]:
    """Intervals (n, 2) in seconds and labels, with `gap` between segments: mir_eval would prolong what is before."""
    rows = []
    for segment in segments:
        if rows and rows[-1].end < segment.start:
            rows.append(Segment(rows[-1].end, segment.start, gap))
        rows.append(segment)
    return np.array([row[:2] for row in rows], dtype=np.float64).reshape(-1, 2), [row.label for row in rows]


def _classes(log_probabilities: np.ndarray, shortest: int) -> np.ndarray:
    """The likeliest classes (frames,) for (frames, classes) with runs of `shortest` frames or more."""
    num_frames = len(log_probabilities)
    if shortest == 1:
        return log_probabilities.argmax(axis=1)
    if num_frames < 2 * shortest:
        return np.full(num_frames, log_probabilities.sum(axis=0).argmax())
    sums = np.pad(log_probabilities.cumsum(axis=0), [(1, 0), (0, 0)])
    # best[t, c]: of all labellings of the first t frames that end with c for `shortest` frames or more.
    best = np.full_like(sums, -np.inf)
    best[shortest] = sums[shortest]
    begins = np.zeros(sums.shape, dtype=bool)  # the last `shortest` frames are the whole run, so far
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
