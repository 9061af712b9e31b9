"""
Chords: one chord in each frame. Frame j covers [j, j + 1) / rate seconds.

Labels in annotations have the syntax of Harte et al., *Symbolic Representation of Musical Chords* (ISMIR 2005), as
implemented in `mir_eval.chord`: `A:min7/b3`, `N`. Scores are those of `mir_eval.chord`. The task exists with four
vocabularies; see [`chord_vocabularies`].
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from . import chord_structured, spans
from .annotations import Segment
from .chord_scores import SCORES, average, right, score, song_value
from .chord_smoothing import kind_of, learn_changes, log_shares, smooth, to_segments
from .chord_vocabularies import (
    MAJMIN_LABELS,
    SEVENTH_LABELS,
    TRIAD_LABELS,
    label_full,
    parse_majmin,
    parse_seventh,
    parse_triad,
)
from .spec import Strip, TaskSpec

LABELS = MAJMIN_LABELS
parse_chord = parse_majmin


def events(
    logits: np.ndarray,
    frame_rate: float,
    labels: Sequence[str],
    chord_seconds: float | None = None,
    kinds: dict[str, float] | None = None,
) -> list[Segment]:
    """
    Decode the chords of a whole song from one softmax.

    Args:
        logits (`np.ndarray` of shape `(frames, len(labels))`): Scores before the softmax.
        frame_rate (`float`): Frame rate in Hz.
        labels (`tuple[str, …]`): Names of the columns.
        chord_seconds, kinds: As in [`chord_structured.events`].

    Returns:
        Segments from 0 to the end of the last frame, without gaps.

    Raises:
        ValueError: if logits have another shape or are not finite, or settings are out of range.
    """
    frames = np.log(spans.softmax(logits, labels) + np.finfo(np.float64).tiny)
    names = [kind_of(label) for label in labels]
    changes = log_shares(kinds, names, [names.count(name) for name in names])
    blocks = [frames] if len(frames) else []
    return to_segments(smooth(blocks, frame_rate, chord_seconds, changes), frame_rate, labels.__getitem__)


_MAJMIN = TaskSpec(
    name="chord",
    column="chords",
    order=1,
    vocabulary="majmin",
    labels=LABELS,
    label_rate=8.0,
    crop_seconds=12.0,
    parse=parse_chord,
    transpose=spans.transpose_targets,
    resamplable=True,
    right=right,
    silence=spans.whole_song("N"),
    metric="majmin",
    scores={name: SCORES[name] for name in ("majmin", "root")},
    score=score,
    song_value=song_value,
    average=average,
    about="Chords: 24 major and minor chords, and none",
    limits="It knows major and minor triads: sevenths, suspended and altered chords are labeled as one of them.",
    strip=Strip("chord", "chords", height=0.34, in_overview=False),
)


def _one_softmax(
    vocabulary: str, labels: Sequence[str], parse: Callable[[str], str | None], about: str, limits: str
) -> TaskSpec:
    """Return the task with a vocabulary whose labels share one softmax."""
    return replace(
        _MAJMIN,
        vocabulary=vocabulary,
        labels=tuple(labels),
        parse=parse,
        events=partial(events, labels=labels),
        learn_decoding=partial(learn_changes, parse=parse),
        right=partial(right, comparison=vocabulary),
        metric=vocabulary,  # the comparison of mir_eval has the same name
        scores={name: SCORES[name] for name in ("majmin", "root", vocabulary)},
        about=about,
        limits=limits,
    )


TASK = replace(
    _MAJMIN,
    variants=(
        _one_softmax(
            "triads",
            TRIAD_LABELS,
            parse_triad,
            "Chords: 72 major, minor, diminished, augmented and suspended triads, and none",
            "It knows triads: sevenths and other additions are left out, and so is the bass.",
        ),
        _one_softmax(
            "sevenths",
            SEVENTH_LABELS,
            parse_seventh,
            "Chords: 60 major and minor triads, sevenths (maj7, min7, 7), and none",
            "It knows triads and sevenths in major and minor: suspended, diminished and augmented chords are labeled "
            "as one of them, and the bass is left out.",
        ),
        replace(
            _MAJMIN,
            vocabulary="full",
            labels=chord_structured.LABELS,
            outputs=chord_structured.OUTPUTS,
            parse=label_full,
            targets=chord_structured.targets,
            transpose=chord_structured.transpose,
            events=chord_structured.events,
            probabilities=chord_structured.probabilities,
            learn_decoding=chord_structured.learn_decoding,
            right=partial(right, comparison="tetrads_inv"),
            metric="tetrads_inv",
            scores=SCORES,
            about="Chords: 168 triads, sixths and sevenths with their bass, none, and X for all others",
            limits="Rare chords, such as diminished sevenths and third inversions, are found less often than frequent "
            "ones. Chords beyond sevenths are labeled without their extensions, or as X.",
        ),
    ),
)
