"""
Chords: 12 major, 12 minor and none, one of them in each frame.

Labels in annotations have the syntax of Harte et al., *Symbolic Representation of Musical Chords* (ISMIR 2005), as
`mir_eval.chord` reads it: `A:min7/b3`, `N`. Scores are those of `mir_eval.chord`.

Conventions: frame j covers [j, j + 1) / rate seconds.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from . import spans
from .annotations import PITCH_NAMES, Segment

LABELS = (*(f"{name}:maj" for name in PITCH_NAMES), *(f"{name}:min" for name in PITCH_NAMES), "N")
OUTPUTS = (
    {
        "name": "chord",
        "size": len(LABELS),
        "problem_type": "single_label_classification",
        "loss_weight": 1.0,
    },
)
PAPER_RATE = 8.0
README_RATE = 16.0
CROP_SECONDS = 12.0
METRIC = "majmin"
# Semitones above the root, of the eight that `mir_eval.chord.majmin` compares.
_THIRDS = {(0, 4, 7): "maj", (0, 3, 7): "min"}


@lru_cache(maxsize=4096)
def parse_chord(text: str) -> str | None:
    """
    The major or minor chord that stands for a chord, or N: decided as `mir_eval.chord.majmin` does by the root and the
    semitones from it up to the fifth, the bass among them. Sevenths, sixths, ninths and so on keep their triad.

    Returns:
        One of `LABELS`, or `None` for what is neither: X, power chords, sus, dim, aug, a bass that is a strange
        note below the fifth.

    Raises:
        ValueError: if it is no chord.
    """
    from mir_eval.chord import InvalidChordException, encode

    if text in ("N", "X"):
        return "N" if text == "N" else None
    try:
        root, semitones, _ = encode(text)
    except InvalidChordException as error:
        raise ValueError(
            f"{text!r} is no chord ({error}). Chords are written as in C, F#:min7 or Bb:maj/3."
        ) from error
    third = _THIRDS.get(tuple(np.flatnonzero(semitones[:8]).tolist()))
    return third and f"{PITCH_NAMES[root % 12]}:{third}"


def targets(chords: Sequence[Segment], num_frames: int, frame_rate: float, start: float = 0.0) -> np.ndarray:
    """
    The chord with most time in each frame.

    Args:
        chords (`list[Segment]`): Seconds, and labels in the syntax of `mir_eval.chord`.
        num_frames (`int`): How many frames follow `start`.
        frame_rate (`float`): In Hz.
        start (`float`): Seconds at which the first frame begins.

    Returns:
        One-hot float32 `(num_frames, 25)`; rows of -1 where most of a frame is not labelled (after the end, too) or
        has chords that are neither major nor minor nor N (`parse_chord`): they are not trained on.

    Raises:
        ValueError: if chords are not in order, a label is no chord, or there are no such frames.
    """
    return spans.frame_targets(chords, parse_chord, LABELS, num_frames, frame_rate, start)


def events(logits: np.ndarray, frame_rate: float, min_seconds: float = 0.0) -> list[Segment]:
    """
    Chords of a song: runs of the likeliest label.

    Args:
        logits (`np.ndarray` of shape `(frames, 25)`): Of the whole song.
        frame_rate (`float`): In Hz.
        min_seconds (`float`): The likeliest chords are found of which none is shorter than this.

    Returns:
        Segments from 0 to the end of the last frame, without gaps.

    Raises:
        ValueError: if logits have another shape or are not finite, or a setting is out of range.
    """
    return spans.decode(logits, LABELS, frame_rate, min_seconds)


def score(reference: Sequence[Segment], estimate: Sequence[Segment]) -> dict[str, float]:
    """
    How well the chords of a song are found, as `mir_eval.chord.evaluate` measures it. Time without an estimate counts
    as N; gaps in the reference count as X, so they are not scored.

    Returns:
        majmin (`float`): Share of the time of major, minor and no chords in which root and triad are right.
        root (`float`): Share of the time of all chords but X in which the root is right.
        seconds (`float`): Time that majmin compares. Where there is none, scores are 0.

    Raises:
        ValueError: if segments are not in order, or a label is no chord.
    """
    from mir_eval import chord

    for segment in (*reference, *estimate):
        parse_chord(segment.label)
    if not reference:
        return {"majmin": 0.0, "root": 0.0, "seconds": 0.0}
    seconds, names, estimated_names = spans.pair(reference, estimate, "X", "N")
    majmin = chord.majmin(names, estimated_names)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No reference chords were comparable")
        return {
            "majmin": float(chord.weighted_accuracy(majmin, seconds)),
            "root": float(chord.weighted_accuracy(chord.root(names, estimated_names), seconds)),
            "seconds": float(seconds[majmin >= 0].sum()),
        }
