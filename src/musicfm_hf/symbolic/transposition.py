"""Transpose the labels of chords and keys."""

from ..tasks.annotations import PITCH_NAMES
from ..tasks.key import parse_key


def transpose_chord(label: str, semitones: int) -> str:
    """
    Transpose a chord in the syntax of `mir_eval.chord`: `C:maj/3` and 2 give `D:maj/3`. N and X are unchanged.

    Raises:
        ValueError: the root is not a pitch.
    """
    if label in ("N", "X"):
        return label
    length = 1 + len(label[1:]) - len(label[1:].lstrip("#b"))
    return _transposed_pitch(label[:length], semitones) + label[length:]


def transpose_key(label: str, semitones: int) -> str:
    """
    Transpose a key: `C:min` and -1 give `B:min`. N is unchanged.

    Raises:
        ValueError: the label is not a key.
    """
    key = parse_key(label)
    if key in (None, "N"):
        return label
    tonic, mode = key.split(":")
    return f"{_transposed_pitch(tonic, semitones)}:{mode}"


def _transposed_pitch(name: str, semitones: int) -> str:
    """Return the name of a pitch, shifted by a number of semitones."""
    from mir_eval.chord import InvalidChordException, pitch_class_to_semitone

    try:
        return PITCH_NAMES[(pitch_class_to_semitone(name) + semitones) % 12]
    except (InvalidChordException, TypeError) as error:  # TypeError for another letter
        raise ValueError(f"{name!r} is not a pitch.") from error
