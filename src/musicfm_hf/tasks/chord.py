"""
Chords: one of 12 major chords, 12 minor chords and none in each frame. Frame j covers [j, j + 1) / rate seconds.

Labels in annotations have the syntax of Harte et al., *Symbolic Representation of Musical Chords* (ISMIR 2005), as
implemented in `mir_eval.chord`: `A:min7/b3`, `N`. Scores are those of `mir_eval.chord`.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from . import spans
from .annotations import PITCH_NAMES, Segment
from .averages import mean_over_songs, value_or_nan
from .chord_syntax import encode_chord
from .spec import Score, Strip, TaskSpec

LABELS = (*(f"{name}:maj" for name in PITCH_NAMES), *(f"{name}:min" for name in PITCH_NAMES), "N")
# Semitones above the root, among the eight that `mir_eval.chord.majmin` compares.
_TRIADS: dict[tuple[int, ...], str] = {(0, 4, 7): "maj", (0, 3, 7): "min"}


@lru_cache(maxsize=4096)
def parse_chord(text: str) -> str | None:
    """
    Map a chord to a major or minor chord, or to N, as `mir_eval.chord.majmin` does. The result depends only on the
    root and on the intervals up to a fifth above it, including the bass. Further notes, such as sevenths, are ignored.

    Returns:
        One of `LABELS`, or `None` for chords that are none of them: X, power chords, sus, dim, aug, and chords with a
        bass below the fifth that is not in the triad.

    Raises:
        ValueError: if the text is not a chord.
    """
    if text in ("N", "X"):
        return "N" if text == "N" else None
    root, semitones = encode_chord(text)
    mode = _TRIADS.get(tuple(np.flatnonzero(semitones[:8]).tolist()))
    return mode and f"{PITCH_NAMES[root % 12]}:{mode}"


def score(reference: Sequence[Segment], estimate: Sequence[Segment]) -> dict[str, float]:
    """
    Compare the chords of one song, as `mir_eval.chord.evaluate` does. Time without an estimate counts as N. Gaps in
    the reference count as X and are not scored.

    Returns:
        majmin (`float`): Share of the time with a major chord, a minor chord or N in which root and triad are right.
        root (`float`): Share of the time with any chord except X in which the root is right. As in `mir_eval`, an
            estimated X is right where there is no chord.
        seconds (`float`): Time that majmin compares. If it is 0, the scores are 0.

    Raises:
        ValueError: if segments are not in order, or a label is not a chord.
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


def song_value(scores: Mapping[str, Any], name: str) -> float:
    """Return a score of a song, or nan instead of 0 if the song has no chords to compare."""
    return float("nan") if scores.get("seconds") == 0 else value_or_nan(scores, name)


def average(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average `majmin` and `root` over songs, and `majmin` over the time of all songs as `majmin_by_duration`."""
    averages = mean_over_songs(rows, song_value)
    seconds = np.array([row["seconds"] for row in rows])
    values = np.array([row["majmin"] for row in rows])
    total = seconds.sum()
    averages["majmin_by_duration"] = float((values * seconds).sum() / total) if total else float("nan")
    del averages["seconds"]
    return averages


TASK = TaskSpec(
    name="chord",
    column="chords",
    order=1,
    labels=LABELS,
    label_rate=8.0,
    crop_seconds=12.0,
    parse=parse_chord,
    transpose=spans.transpose_targets,
    resamplable=True,
    silence=spans.whole_song("N"),
    metric="majmin",
    scores={
        "majmin": Score("accuracy", "major and minor chords (mir_eval majmin)"),
        "root": Score("accuracy", "roots of chords (mir_eval root)"),
    },
    score=score,
    song_value=song_value,
    average=average,
    about="Chords: 24 major and minor chords, and none",
    limits="It knows major and minor triads: sevenths, suspended and altered chords are labeled as one of them.",
    strip=Strip("chord", "chords", height=0.34, in_overview=False),
)
