"""
Sections of a song: their boundaries, and one of seven functions for each. Frame j covers [j, j + 1) / rate seconds.

Functions, targets and loss weights follow Wang, Hung, Smith, *To Catch a Chorus, Verse, Intro, or Anything Else:
Analyzing a Song with Structural Functions* (ICASSP 2022). Boundaries are scored with `mir_eval.segment.detection`
(HR.5F, HR3F: Turnbull et al. 2007), and functions by the share of time with the right function.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..model.losses_musicfm import IGNORED
from . import spans
from .annotations import Segment, check_segments
from .spec import Score, Strip, TaskSpec

FUNCTIONS = ("intro", "verse", "chorus", "bridge", "inst", "outro", "silence")
LABELS = (*FUNCTIONS, "boundary")
OUTPUTS = (
    {"name": "function", "size": 7, "problem_type": "single_label_classification", "loss_weight": 0.1},
    {"name": "boundary", "size": 1, "problem_type": "multi_label_classification", "loss_weight": 0.9},
)
BOUNDARY_SECONDS = 0.3  # on each side of a boundary

END = "end"  # marks the end of a song, and is not a function
# Words of a label → function. The first row with a word of the label decides.
_ROWS = (
    ("silence", "silence"),
    ("pre chorus", "verse"),
    ("refrain|chorus|theme|stutter", "chorus"),
    ("verse|rap|rapped|rapping|section|slow|build|building|dialog|dialogue", "verse"),
    ("intro|introduction|fade in|opening", "intro"),
    ("bridge|trans|transition", "bridge"),
    ("out|outro|coda|ending", "outro"),
    ("break|inst|interlude|impro|solo", "inst"),
)
_PATTERNS = tuple((re.compile(rf"\b(?:{words})\b"), function) for words, function in _ROWS)
# Words that annotators join to these, as in `slowverse`, `chorushalf`, `gtrbreak` and `breakdown`.
_JOINED = (
    "pre post alt mini main quiet loud big soft fast short long half double full part pt first last final rhythmless "
    "fade vocal vox voice gtr guitar bass drum drums piano synth sax riff instr instrumental int up down in"
)
_PARTS = "|".join(sorted({*_JOINED.split(), *" ".join(words for words, _ in _ROWS).replace("|", " ").split()})[::-1])
# One or more of these words, each the longest that fits, and an `s` or the letter of a part, as in `outroa`.
_WORD = re.compile(rf"(?>{_PARTS})++(?:e?s|[a-d])?")


@lru_cache(maxsize=4096)
def function_of(label: str) -> str | None:
    """
    Map the label of an annotator to one of [`FUNCTIONS`], or to `None` for `end`, which marks the end of a song.
    Unknown labels are mapped to "inst". The mapping is that of Wang et al. 2022, except that it compares whole words
    instead of any letters: `trap` is not a `rap`. Case, digits, and the signs between words do not matter:
    `Pre – Chorus 2` and `pre_chorus` are `prechorus`.
    """
    return None if _words(label) == [END] else _known_function(label) or "inst"


def _words(label: str) -> list[str]:
    """Return the words of a label, in lower case and without digits."""
    return re.findall(r"[^\W\d_]+", label.lower())


def _known_function(label: str) -> str | None:
    """Return the function that the words of a label name, or `None`."""
    text = " ".join(" ".join(re.findall(_PARTS, word)) if _WORD.fullmatch(word) else "?" for word in _words(label))
    return next((function for pattern, function in _PATTERNS if pattern.search(text)), None)


def remarks(annotation: Sequence[Segment], duration: float) -> list[str]:
    """Return a remark on labels that name no function, if most of them do not."""
    labels = [segment.label for segment in annotation if function_of(segment.label)]
    unknown = [label for label in labels if _known_function(label) is None]
    if 2 * len(unknown) <= len(labels):
        return []
    names = ", ".join(dict.fromkeys(unknown))
    return [f"most labels name no known function and count as inst ({names}). Boundaries are not affected."]


def targets(annotation: Sequence[Segment], num_frames: int, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """
    Compute the function with the most time in each frame, and the boundaries. A boundary is the start of a segment, or
    the end of a segment before a gap. The start of the song and the end of the last segment are not boundaries,
    because scoring gives both sides the same start and end. A boundary is 1 in the frame that contains it and in all
    frames whose center is within 0.3 s of it.

    Args:
        annotation (`list[Segment]`): Segments with labels that [`function_of`] maps.
        num_frames (`int`): Number of rows.
        frame_rate (`float`): Frame rate in Hz.
        start (`float`): Start of the first frame in seconds.

    Returns:
        float32 `(num_frames, 8)`: the one-hot functions, or -100 if most of a frame has none; then the boundary, also
        -100 in such a frame unless there is one.

    Raises:
        ValueError: if segments are not in order, or a number is out of range.
    """
    functions = spans.frame_targets(annotation, function_of, FUNCTIONS, num_frames, frame_rate, start)
    edges = np.array([time for time in _boundaries(annotation) if time > 0]) - start
    middles = (np.arange(num_frames) + 0.5) / frame_rate
    near = np.abs(middles[:, None] - edges).min(axis=1, initial=np.inf) <= BOUNDARY_SECONDS + 1e-9
    holds = np.floor(edges * frame_rate + 1e-9).astype(int)
    near[holds[(holds >= 0) & (holds < num_frames)]] = True
    boundary = np.where(~near & (functions[:, 0] == IGNORED), IGNORED, near)
    return np.column_stack([functions, boundary]).astype(np.float32)


def events(
    logits: np.ndarray,
    frame_rate: float,
    peak_window_seconds: float = 6.0,
    threshold: float = 0.05,
    before_seconds: float = 12.0,
    after_seconds: float = 6.0,
    min_segment_seconds: float = 0.0,
) -> list[Segment]:
    """
    Decode the sections of a whole song: boundaries at the peaks of their probability, and between them the function
    with the highest mean probability. The peak-picking rule is our choice.

    Args:
        logits (`np.ndarray` of shape `(frames, 8)`): Scores before softmax and sigmoid.
        frame_rate (`float`): Frame rate in Hz.
        peak_window_seconds (`float`): A peak is the highest frame within this time on either side. A run of equal
            maxima is one peak, at its center.
        threshold (`float`): Minimum difference between a peak and the mean around it.
        before_seconds, after_seconds (`float`): Time before and after the peak over which this mean is taken.
        min_segment_seconds (`float`): Boundaries closer than this to the start, to the end or to a higher peak are
            dropped.

    Returns:
        `list[Segment]`: from 0 to the end of the last frame, without gaps; empty if there are no frames.

    Raises:
        ValueError: if logits have another shape or are not finite, or settings are out of range.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[1] != len(LABELS):
        raise ValueError(f"Logits must have the shape (frames, {len(LABELS)}), got {logits.shape}.")
    settings = (peak_window_seconds, before_seconds, after_seconds, min_segment_seconds)
    if not (0 < frame_rate < np.inf and all(0 <= seconds < np.inf for seconds in settings) and threshold >= 0):
        raise ValueError(
            "Decoding needs a positive frame rate and settings of 0 or more, got "
            f"{frame_rate} Hz, threshold {threshold} and {', '.join(map(str, settings))} s."
        )
    functions = spans.softmax(logits[:, :-1], FUNCTIONS)
    if not np.isfinite(logits[:, -1]).all():
        raise ValueError("Logits must be finite, but those of the boundary are not.")
    if not len(logits):
        return []
    boundary = np.exp(-np.logaddexp(0, -logits[:, -1]))
    window = max(1, round(peak_window_seconds * frame_rate))
    peaks = _peaks(boundary, window)
    level = [_local_mean(boundary, peak, before_seconds * frame_rate, after_seconds * frame_rate) for peak in peaks]
    peaks = [peak for peak, mean in zip(peaks, level, strict=True) if boundary[int(peak)] - mean > threshold]
    times = _keep_apart(
        [(peak + 0.5) / frame_rate for peak in peaks],
        boundary[np.array(peaks, dtype=int)],
        len(logits) / frame_rate,
        min_segment_seconds,
    )
    sections = []
    for begin, end in pairwise(times):
        section = Segment(float(begin), float(end), "")
        mean = functions[spans.frames_of(section, frame_rate, len(logits))].mean(axis=0)
        sections.append(section._replace(label=FUNCTIONS[int(mean.argmax())]))
    return sections


def score(reference: Sequence[Segment], estimate: Sequence[Segment]) -> dict[str, float]:
    """
    Score the sections of one song. Both sides begin at 0 and end with the reference, as in
    `mir_eval.segment.evaluate`.

    Returns:
        `hr05_f`, `hr05_p`, `hr05_r`: boundaries within 0.5 s, start and end included; `hr3_f`: within 3 s;
        `frame_accuracy`: share of the time with a reference function in which the estimated one is the same. All are
        nan if the reference has no sections.

    Raises:
        ValueError: if segments are not in order.
    """
    import mir_eval

    check_segments(reference, "reference")
    check_segments(estimate, "estimate")
    labeled = [segment for segment in reference if function_of(segment.label)]
    if not labeled:
        return dict.fromkeys(("hr05_f", "hr05_p", "hr05_r", "hr3_f", "frame_accuracy"), float("nan"))
    end = labeled[-1].end
    estimate = [Segment(begin, min(stop, end), label) for begin, stop, label in estimate if begin < end]
    sides = (labeled, estimate)
    edges = [_boundaries(side) + [segment.end for segment in side[-1:]] for side in sides]
    intervals = [_intervals([0.0, *times, end]) for times in edges]
    precision, recall, hr05 = mir_eval.segment.detection(*intervals, window=0.5, trim=False)
    _, _, hr3 = mir_eval.segment.detection(*intervals, window=3.0, trim=False)
    functions, estimated_functions = (
        [Segment(segment.start, segment.end, function_of(segment.label) or END) for segment in side] for side in sides
    )
    seconds, names, estimated = spans.pair(functions, estimated_functions, END, END)
    known = np.array([name != END for name in names])
    right = np.array([name == other for name, other in zip(names, estimated, strict=True)])
    return {
        "hr05_f": float(hr05),
        "hr05_p": float(precision),
        "hr05_r": float(recall),
        "hr3_f": float(hr3),
        "frame_accuracy": float(seconds[known & right].sum() / seconds[known].sum()),
    }


def _boundaries(segments: Sequence[Segment]) -> list[float]:
    """Return the times in seconds at which segments start, or end before a gap."""
    segments = [segment for segment in segments if function_of(segment.label)]
    ends = [now.end for now, after in pairwise(segments) if after.start - now.end > 1e-6]
    return sorted([segment.start for segment in segments] + ends)


def _intervals(times: Sequence[float]) -> np.ndarray:
    """Return the intervals (n, 2) between distinct times."""
    edges = np.unique(np.round(times, 5))
    return np.column_stack([edges[:-1], edges[1:]])


def _peaks(values: np.ndarray, window: int) -> list[float]:
    """Return the centers, in frames, of runs of equal values that are the highest within `window` frames."""
    from numpy.lib.stride_tricks import sliding_window_view

    highest = sliding_window_view(np.pad(values, window, constant_values=-np.inf), 2 * window + 1).max(axis=1)
    is_peak = np.r_[False, values == highest, False]
    starts, stops = np.flatnonzero(is_peak[1:] & ~is_peak[:-1]), np.flatnonzero(~is_peak[1:] & is_peak[:-1])
    return [(start + stop - 1) / 2 for start, stop in zip(starts, stops, strict=True)]


def _local_mean(values: np.ndarray, peak: float, before: float, after: float) -> float:
    """Return the mean of the frames from `before` frames before a peak to `after` frames after it."""
    return float(values[max(0, round(peak - before)) : round(peak + after) + 1].mean())


def _keep_apart(times: list[float], heights: np.ndarray, duration: float, min_seconds: float) -> list[float]:
    """
    Return 0, the times at least `min_seconds` from both ends and from all higher peaks, and the duration, in order.
    """
    boundaries = [0.0, duration]
    for index in np.argsort(-heights, kind="stable"):
        if all(0 < abs(times[index] - other) >= min_seconds for other in boundaries):
            boundaries.append(times[index])
    return sorted(boundaries)


TASK = TaskSpec(
    name="structure",
    column="sections",
    order=2,
    labels=LABELS,
    outputs=OUTPUTS,
    label_rate=5.0,
    crop_seconds=24.0,
    parse=function_of,
    remarks=remarks,
    targets=targets,
    resamplable=True,
    events=events,
    silence=spans.whole_song("silence"),
    metric="hr05_f",
    scores={
        "hr05_f": Score("f1", "boundaries within 0.5 s (mir_eval, F-measure)"),
        "hr3_f": Score("f1", "boundaries within 3 s (mir_eval, F-measure)"),
        "frame_accuracy": Score("accuracy", "time with the right function"),
    },
    score=score,
    about="Sections: their boundaries and their functions",
    limits="Annotators disagree about sections and their names. The model has learned the conventions of its training "
    "labels.",
    strip=Strip("form", above=True),
)
