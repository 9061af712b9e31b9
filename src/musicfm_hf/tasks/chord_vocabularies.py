"""
Vocabularies of chords: the qualities that a model distinguishes, and the mapping from any chord to one of them.

- `majmin`: major and minor triads, and N (no chord); 25 labels. Compared by `mir_eval.chord.majmin`.
- `triads`: major, minor, diminished, augmented and suspended triads, and N; 73 labels. `mir_eval.chord.triads`.
- `sevenths`: major and minor triads, their sevenths (maj7, min7, 7), and N; 61 labels. `mir_eval.chord.sevenths`.
- `full`: the 14 qualities of McFee and Bello, *Structured Training for Large-Vocabulary Chord Recognition*, ISMIR
  2017, on 12 roots, N, and X (any other chord), which makes 170 chords; and any bass.

All of them depend only on the root, the semitones and the bass that `mir_eval.chord.encode` finds, so that spellings
of the same chord have the same label: `Db:9`, `C#:7`.
"""

from functools import lru_cache

import numpy as np

from .annotations import PITCH_NAMES
from .chord_syntax import encode_chord

# Semitones above the root.
QUALITIES: dict[str, tuple[int, ...]] = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "maj6": (0, 4, 7, 9),
    "min6": (0, 3, 7, 9),
    "maj7": (0, 4, 7, 11),
    "7": (0, 4, 7, 10),
    "min7": (0, 3, 7, 10),
    "minmaj7": (0, 3, 7, 11),
    "hdim7": (0, 3, 6, 10),
    "dim7": (0, 3, 6, 9),
}
_MAJMIN = ("maj", "min")
_TRIADS = ("maj", "min", "dim", "aug", "sus2", "sus4")
_SEVENTHS = ("maj", "min", "maj7", "7", "min7")

# Names of the semitones above the root.
DEGREES = ("1", "b2", "2", "b3", "3", "4", "b5", "5", "b6", "6", "b7", "7")
# Qualities in which a chord tone has another name.
_SPELLED = {("aug", 8): "#5", ("dim7", 9): "bb7"}


def labels_of(qualities: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels of a vocabulary: for each quality, the chords on C, C#, …, B; then N."""
    return (*(f"{name}:{quality}" for quality in qualities for name in PITCH_NAMES), "N")


MAJMIN_LABELS, TRIAD_LABELS, SEVENTH_LABELS = map(labels_of, (_MAJMIN, _TRIADS, _SEVENTHS))


@lru_cache(maxsize=4096)
def parse_majmin(text: str) -> str | None:
    """
    Map a chord to a major or minor chord, or to N, as `mir_eval.chord.majmin` does. The result depends only on the
    root and on the intervals up to a fifth above it, including the bass. Further notes, such as sevenths, are ignored.

    Returns:
        One of `MAJMIN_LABELS`, or `None` for chords that are none of them: X, power chords, sus, dim, aug, and chords
        with a bass below the fifth that is not in the triad.

    Raises:
        ValueError: if the text is not a chord.
    """
    return _parse(text, {QUALITIES[quality]: quality for quality in _MAJMIN}, 8)


@lru_cache(maxsize=4096)
def parse_triad(text: str) -> str | None:
    """
    Map a chord to a triad, or to N, as `mir_eval.chord.triads` does: by the intervals up to a fifth above the root,
    including the bass. A major third without a fifth is an augmented triad only if there is an augmented fifth.

    Returns:
        One of `TRIAD_LABELS`, or `None` for chords that are none of them, such as power chords.

    Raises:
        ValueError: if the text is not a chord.
    """
    triads = {tuple(step for step in QUALITIES[quality] if step < 8): quality for quality in _TRIADS}
    label = _parse(text, triads, 8)
    is_augmented = label is not None and label.endswith(":aug")
    return None if is_augmented and not encode_chord(text)[1][8] else label


@lru_cache(maxsize=4096)
def parse_seventh(text: str) -> str | None:
    """
    Map a chord to a major or minor triad or seventh chord, or to N, as `mir_eval.chord.sevenths` does: by all its
    intervals including the bass, except those beyond the octave.

    Returns:
        One of `SEVENTH_LABELS`, or `None` for chords that are none of them, such as sixths and suspended chords.

    Raises:
        ValueError: if the text is not a chord.
    """
    return _parse(text, {QUALITIES[quality]: quality for quality in _SEVENTHS}, 12)


@lru_cache(maxsize=4096)
def parse_full(text: str) -> tuple[int, str, int]:
    """
    Map a chord to its root, quality and bass.

    A bass that is not a tone of the quality is kept: `C/2` is maj with bass 2. Where a chord can be read in two ways,
    the bass belongs to the chord: `C/b7` is `C:7/b7`.

    Returns:
        root (`int`): 0 (C) to 11, or -1 for N and X.
        quality (`str`): One of `QUALITIES`, `N`, or `X` for all other chords, such as `sus4(b7)` and power chords.
        bass (`int`): Semitones from the root, 0 to 11, or -1 for N and X.

    Raises:
        ValueError: if the text is not a chord.
    """
    if text in ("N", "X"):
        return -1, text, -1
    root, semitones, bass = encode_chord(text)
    steps = set(np.flatnonzero(semitones).tolist())
    root, bass = int(root) % 12, int(bass) % 12
    for tones in (steps, steps - {bass}):
        for quality, intervals in QUALITIES.items():
            if tones == set(intervals):
                return root, quality, bass
    return root, "X", bass


@lru_cache(maxsize=4096)
def label_full(text: str) -> str:
    """
    Return a chord as the vocabulary `full` writes it: `C#:7/b7` for `Db:9/b7`, `N`, and `X` for chords that have none
    of its qualities.

    Raises:
        ValueError: if the text is not a chord.
    """
    return spell_chord(*parse_full(text))


def spell_chord(root: int, quality: str, bass: int) -> str:
    """
    Write a chord in Harte's syntax: `A:min7/b3`.

    Args:
        root (`int`): 0 (C) to 11.
        quality (`str`): One of `QUALITIES`, `N` or `X`.
        bass (`int`): Semitones from the root.
    """
    return quality if quality in ("N", "X") else f"{PITCH_NAMES[root]}:{spell_kind(quality, bass)}"


def spell_kind(quality: str, bass: int) -> str:
    """Return the part of a label after the root: `maj`, `min7/b3`."""
    return quality + (f"/{_SPELLED.get((quality, bass), DEGREES[bass])}" if bass else "")


def _parse(text: str, qualities: dict[tuple[int, ...], str], compared: int) -> str | None:
    """Return the label of a chord by its first `compared` semitones, or `None` if they are of no quality."""
    if text in ("N", "X"):
        return "N" if text == "N" else None
    root, semitones, _ = encode_chord(text)
    quality = qualities.get(tuple(np.flatnonzero(semitones[:compared]).tolist()))
    return quality and f"{PITCH_NAMES[root % 12]}:{quality}"
