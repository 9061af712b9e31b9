"""Names of chords as on a lead sheet, for pictures and the web page."""

import re

from ..tasks.annotations import PITCH_NAMES

_QUALITIES = {
    "maj": "",
    "min": "m",
    "dim": "°",
    "aug": "+",
    "maj6": "6",
    "min6": "m6",
    "min7": "m7",
    "dim7": "°7",
    "hdim7": "ø7",
    "minmaj7": "mM7",
}
_LETTERS = "CDEFGAB"
_SEMITONES = (0, 2, 4, 5, 7, 9, 11)  # of these letters, and of the degrees of a major scale
_DEGREE = re.compile(r"([b#]*)(\d+)")


def short_chord(label: str) -> str:
    """
    Return a chord in lead-sheet notation, with its bass as a note: `C`, `F♯m`, `B♭7/D`, `N.C.`, `?` for `C:maj`,
    `F#:min`, `Bb:7/3`, `N`, `X`.
    """
    if label in ("N", "X"):
        return "N.C." if label == "N" else "?"
    chord, slash, bass = label.partition("/")
    root, _, quality = chord.partition(":")
    return signs(root) + _QUALITIES.get(quality, quality) + slash + (signs(_note(root, bass)) if bass else "")


def signs(note: str) -> str:
    """Replace `#` and `b` after the letter of a note with musical signs."""
    return note[:1] + note[1:].replace("#", "♯").replace("b", "♭")


def _note(root: str, degree: str) -> str:
    """
    Return the note on a degree of a chord, with the letter that the degree names: `C` for b3 of `A`, `Cb` for b3 of
    `Ab`. A note with two or more accidentals has a simpler name.
    """
    match = _DEGREE.fullmatch(degree)
    if match is None or root[:1] not in _LETTERS or not root:
        return degree
    accidentals, number = match[1], int(match[2]) - 1
    start = _LETTERS.index(root[0])
    pitch = _SEMITONES[start] + _alteration(root[1:]) + _SEMITONES[number % 7] + _alteration(accidentals)
    letter = (start + number) % 7
    shift = (pitch - _SEMITONES[letter] + 6) % 12 - 6
    return _LETTERS[letter] + "#" * shift + "b" * -shift if abs(shift) < 2 else PITCH_NAMES[pitch % 12]


def _alteration(accidentals: str) -> int:
    """Return the semitones that accidentals add."""
    return accidentals.count("#") - accidentals.count("b")
