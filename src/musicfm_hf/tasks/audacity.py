"""
Label tracks of Audacity: text with one label per line, that is its start and end in seconds and its text, separated by
tabs. The start and the end of a point are equal.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ..training.files import write_text
from .annotations import Beats, Segment, check_beats
from .bar_positions import MAX_POSITION
from .label_rows import LabelRow, check_labels, from_beats
from .values import read_text, to_number

_TIMES = ("the start", "the end")


def read_label_track(path: str | os.PathLike) -> list[LabelRow]:
    """
    Read the labels of a file that Audacity exported. Lines that begin with a backslash, which have the frequencies of
    a spectral selection, are ignored.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a line has no start and end.
    """
    path = Path(path)
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("\\"):
            continue
        place = f"{path}, line {number}"
        fields = line.split("\t", 2)
        if len(fields) < 2:
            raise ValueError(
                f"{place}: a label of Audacity needs start, end and text, separated by tabs, got {line!r}. Files in "
                "other formats need another name, such as song.beats or song.chords.lab."
            )
        start, end = (to_number(field, name, place) for field, name in zip(fields[:2], _TIMES, strict=True))
        if end < start and end == int(end) and end <= MAX_POSITION and len(fields) == 2:
            raise ValueError(
                f"{place}: a label of Audacity needs start, end and text, but the second number is less than the "
                f"first, got {line!r}. If it is the position of a beat in the bar, name the file "
                f"{path.name.removesuffix(path.suffix).removesuffix('.beats')}.beats."
            )
        if end < start:
            raise ValueError(f"{place}: a label must not end before its start, got {start:g} to {end:g} s.")
        rows.append(LabelRow(start, None if end == start else end, fields[2].strip() if fields[2:] else "", place))
    return rows


def write_label_track(path: str | os.PathLike, events: Beats | Sequence[Segment]) -> None:
    """
    Write a label track that Audacity imports: a point for each beat, labeled with its position in the bar, or a region
    for each segment. Times are rounded to microseconds.

    Raises:
        ValueError: if the events are not in order, or a label has a tab or a line break; then nothing is written.
    """
    if isinstance(events, Beats):
        check_beats(events, f"The beats for {Path(path).name}")
        rows: list[tuple[float, float, str]] = [(time, time, label) for time, label in from_beats(events)]
    else:
        check_labels(events, Path(path))
        rows = [(start, end, label) for start, end, label in events]
    write_text(path, "".join(f"{start:.6f}\t{end:.6f}\t{label}\n" for start, end, label in rows))
