"""
Scores of chords: all comparisons of `mir_eval.chord` (Pauwels and Peeters, *Evaluating Automatically Estimated Chord
Sequences*, ICASSP 2013), and the share of the time that is right for each type of chord.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import calibration, spans
from .annotations import Segment
from .averages import mean_over_songs, value_or_nan
from .chord_syntax import encode_chord
from .chord_vocabularies import parse_full, spell_kind
from .spec import Score

# Comparison of mir_eval → what it compares.
COMPARISONS = {
    "majmin": "major and minor chords",
    "root": "roots of chords",
    "majmin_inv": "major and minor chords with their bass",
    "thirds": "roots and thirds",
    "thirds_inv": "roots, thirds and basses",
    "triads": "triads",
    "triads_inv": "triads with their bass",
    "tetrads": "all tones",
    "tetrads_inv": "all tones and the bass",
    "sevenths": "triads and sevenths",
    "sevenths_inv": "triads and sevenths with their bass",
    "mirex": "three common tones",
}
SCORES = {name: Score("accuracy", f"{compared} (mir_eval {name})") for name, compared in COMPARISONS.items()}


def score(reference: Sequence[Segment], estimate: Sequence[Segment]) -> dict[str, float]:
    """
    Compare the chords of one song, as `mir_eval.chord.evaluate` does. Time without an estimate counts as N. Gaps in
    the reference count as X and are not scored.

    Returns:
        majmin (`float`): Share of the time with a major chord, a minor chord or N in which root and triad are right.
        root (`float`): Share of the time with any chord except X in which the root is right. As in `mir_eval`, an
            estimated X is right where there is no chord.
        majmin_inv, thirds, thirds_inv, triads, triads_inv, tetrads, tetrads_inv, sevenths, sevenths_inv, mirex
            (`float`): The other comparisons of `mir_eval.chord`; those that end in `_inv` also compare the bass. They
            are nan where `mir_eval` warns that nothing can be compared, and returns 0.
        seconds (`float`): Time that majmin compares. If it is 0, majmin and root are 0.

    Raises:
        ValueError: if segments are not in order, or a label is not a chord.
    """
    from mir_eval import chord

    for segment in (*reference, *estimate):
        encode_chord(segment.label)
    if not reference:
        return dict.fromkeys(COMPARISONS, float("nan")) | {"majmin": 0.0, "root": 0.0, "seconds": 0.0}
    seconds, names, estimated_names = spans.pair(reference, estimate, "X", "N")
    scores: dict[str, float] = {}
    compared: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No reference chords were comparable")
        for name in COMPARISONS:
            right = getattr(chord, name)(names, estimated_names)
            scores[name] = float(chord.weighted_accuracy(right, seconds))
            compared[name] = float(seconds[right >= 0].sum())
            if not compared[name] and name not in ("majmin", "root"):
                scores[name] = float("nan")
    return scores | {"seconds": compared["majmin"]}


def right(
    reference: Sequence[Segment], estimate: Sequence[Segment], results: Mapping[str, Any], comparison: str = "majmin"
) -> dict[str, calibration.Rightness]:
    """Return the share of the time of each chord that a comparison of `mir_eval.chord` finds right."""
    from mir_eval import chord

    return {"chords": calibration.time_right(reference, estimate, getattr(chord, comparison))}


def song_value(scores: Mapping[str, Any], name: str) -> float:
    """Return a score of a song, or nan instead of 0 if the song has no chords to compare."""
    is_empty = name in ("majmin", "root", "seconds") and scores.get("seconds") == 0
    return float("nan") if is_empty else value_or_nan(scores, name)


def average(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average the scores over songs, and `majmin` over the time of all songs as `majmin_by_duration`."""
    averages = mean_over_songs(rows, song_value)
    seconds = np.array([row["seconds"] for row in rows])
    values = np.array([row["majmin"] for row in rows])
    total = seconds.sum()
    averages["majmin_by_duration"] = float((values * seconds).sum() / total) if total else float("nan")
    del averages["seconds"]
    return averages


def score_types(songs: Iterable[tuple[Sequence[Segment], Sequence[Segment]]]) -> dict[str, dict[str, float]]:
    """
    Score each type of chord over the time of all songs.

    Args:
        songs: Reference and estimate of each song; see [`score`].

    Returns:
        For each quality of the vocabulary `full`, for N, for X (all other chords), and for each quality with a bass
        other than its root, such as `maj/3`, in the order of their total time: `seconds`, its time in the references;
        `root`, `tetrads` and `tetrads_inv`, the shares of this time that these comparisons find right. A quality
        without a bass includes all its inversions. References of X and gaps are left out.

    Raises:
        ValueError: if segments are not in order, or a label is not a chord.
    """
    from mir_eval import chord

    names = ("root", "tetrads", "tetrads_inv")
    sums: dict[str, np.ndarray] = {}
    for reference, estimate in songs:
        if not reference:
            continue
        seconds, labels, estimated = spans.pair(reference, estimate, "X", "N")
        right = np.stack([getattr(chord, name)(labels, estimated) for name in names], axis=1)
        for label, duration, values in zip(labels, seconds, right, strict=True):
            if values[1] < 0:  # X
                continue
            _, quality, bass = parse_full(label)
            types = [quality, *([spell_kind(quality, bass)] if bass > 0 and quality != "X" else [])]
            for kind in types:
                sums[kind] = sums.get(kind, np.zeros(len(names) + 1)) + duration * np.array([1.0, *values])
    order = sorted(sums, key=lambda kind: -sums[kind][0])
    return {
        kind: {"seconds": float(sums[kind][0])}
        | {name: float(value / sums[kind][0]) for name, value in zip(names, sums[kind][1:], strict=True)}
        for kind in order
    }
