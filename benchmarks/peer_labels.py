"""Translation of what other tools return to the events and labels of our tasks."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.tasks import key
from musicfm_hf.tasks.annotations import Beats, Segment

# A root, a quality as in lead sheets, and the name of a bass note.
_LEAD_SHEET = re.compile(r"([A-G])([#b]?)([^/]*)(?:/([A-G])([#b]?))?")
_QUALITIES = {
    "": "maj",
    "m": "min",
    "6": "maj6",
    "m6": "min6",
    "7": "7",
    "maj7": "maj7",
    "m7": "min7",
    "m7b5": "hdim7",
    "dim": "dim",
    "dim7": "dim7",
    "aug": "aug",
    "sus2": "sus2",
    "sus4": "sus4",
}
_DEGREES = ("1", "b2", "2", "b3", "3", "4", "b5", "5", "b6", "6", "b7", "7")
_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_SIGNS = {"": 0, "#": 1, "b": -1, None: 0}


def harte_chord(label: str) -> str:
    """
    Translate a chord of lead sheets to the syntax of Harte et al.: `F#m7` gives `F#:min7`, `C/E` gives `C:maj/3`.
    Without a chord, N and X stay as they are.

    Raises:
        ValueError: the label has another form, or an unknown quality.
    """
    if label in ("N", "X"):
        return label
    match = _LEAD_SHEET.fullmatch(label)
    if match is None or match[3] not in _QUALITIES:
        raise ValueError(f"{label!r} is not a chord that is known here: add its quality to `_QUALITIES`.")
    chord_name = f"{match[1]}{match[2]}:{_QUALITIES[match[3]]}"
    if match[4] is None:
        return chord_name
    bass = _LETTERS[match[4]] + _SIGNS[match[5]] - _LETTERS[match[1]] - _SIGNS[match[2]]
    return f"{chord_name}/{_DEGREES[bass % 12]}" if bass % 12 else chord_name


def segments(rows: Sequence[Sequence[Any]], duration: float, label: Callable[[str], str] = str) -> list[Segment]:
    """
    Return segments of rows (start, end, label) that end with the audio at `duration` seconds. Rows that are empty
    after this, or that another row covers, are left out.
    """
    result: list[Segment] = []
    for start, end, text in rows:
        start = max(float(start), result[-1].end if result else 0.0)
        end = min(float(end), duration)
        if end > start:
            result.append(Segment(start, end, label(text)))
    return result


def from_starts(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return rows (start, end, label) of rows (start, label), each of which ends where the next one starts."""
    ends = [start for start, _ in rows[1:]] + [float("inf")]
    return [[start, end, label] for (start, label), end in zip(rows, ends, strict=True)]


def sections(boundaries: Sequence[float], duration: float) -> list[Segment]:
    """Return sections between boundaries in seconds. All are called verse, because the tool knows no functions."""
    return segments(from_starts([[0.0, "verse"], *([time, "verse"] for time in boundaries if time > 0)]), duration)


def beats(times: Sequence[float], downbeats: Sequence[float] = (), shift: float = 0.0) -> Beats:
    """
    Return beats, moved by `shift` seconds. The position of the beat that is nearest to each downbeat is 1; the others
    are 0, because scores need no more. Beats that are moved before the start are left out.
    """
    unmoved = np.unique(np.asarray(times, dtype=np.float64))
    positions = np.zeros(len(unmoved), dtype=np.int64)
    if len(unmoved):
        positions[[int(np.abs(unmoved - time).argmin()) for time in downbeats]] = 1
    inside = unmoved + shift >= 0
    return Beats((unmoved + shift)[inside], positions[inside])


def whole_song_key(label: str, song: LabeledSong) -> list[Segment]:
    """Return one key for the whole song: `Ab major` gives `Ab:maj`."""
    return [Segment(0.0, song.duration, key.parse_key(label) or "N")]


def positioned(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return the times of beats and of downbeats from rows (seconds, position in the bar)."""
    return [time for time, _ in rows], [time for time, position in rows if position == 1]
