"""
Labels that people draw in Audacity and Sonic Visualiser, and their conversion to beats and segments. Both programs
know points in time and regions. Error messages begin with the place that a label was read from.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .annotations import Beats, Segment, check_beats, check_segments
from .values import to_position

# Labels that Sonic Visualiser gives to new items until they are renamed.
_UNNAMED = frozenset(["new point", "new region", "new label", "new item"])
_BAR_AND_BEAT = re.compile(r"[0-9]+\.([0-9]+)")  # 4.1 is the first beat of bar 4
_END = "end"  # label of a point that ends the segment before it


class LabelRow(NamedTuple):
    """A label: a point if `end` is `None`, or else a region."""

    start: float  # seconds
    end: float | None  # seconds
    text: str
    place: str  # its name in error messages


def to_beats(rows: Sequence[LabelRow]) -> Beats:
    """
    Convert labels to beats at their starts. The text is the position in the bar, such as `1`, or the number of the bar
    and the position, such as `4.1`; without a text, the position is unknown. If most numbers end with `.0`, such as
    `1.0`, these are positions.

    Raises:
        ValueError: if a text is no position, or the beats do not pass [`check_beats`].
    """
    _check_order(rows)
    numbers = [match for row in rows if (match := _BAR_AND_BEAT.fullmatch(row.text))]
    has_bars = 2 * sum(int(match[1]) > 0 for match in numbers) >= len(numbers)
    positions = [_position(row, has_bars) for row in rows]
    beats = Beats(np.array([row.start for row in rows], np.float64), np.array(positions, np.int64))
    check_beats(beats, lambda index: rows[index].place if rows else "The file")
    return beats


def to_segments(rows: Sequence[LabelRow], duration: float | None = None) -> list[Segment]:
    """
    Convert labels to segments. A point, or a region without length, lasts until the next label. The last point lasts
    until the end of the audio, or, if its text is `end`, it only ends the segment before it.

    Args:
        duration (`float`, *optional*): Seconds of audio.

    Raises:
        ValueError: if the last label is a point and `duration` is not known, or the segments do not pass
            [`check_segments`].
    """
    _check_order(rows)
    ends = [*(row.start for row in rows), duration][1:]
    segments, places = [], []
    for row, following in zip(rows, ends, strict=True):
        is_point = row.end is None or row.end == row.start
        end = following if is_point else row.end
        if is_point and row is rows[-1] and row.text.lower() == _END:
            continue
        if end is None:
            raise ValueError(
                f"{row.place}: the last label is a point, so its end is not known: make it a region, or add a point "
                f"labeled {_END!r} where it ends."
            )
        segments.append(Segment(row.start, end, "" if row.text.lower() in _UNNAMED else row.text))
        places.append(row.place)
    check_segments(segments, places.__getitem__)
    return segments


def from_beats(beats: Beats) -> Iterable[tuple[float, str]]:
    """Return the time and the label of each beat: its position, or an empty text if it is unknown."""
    pairs = zip(beats.times.tolist(), beats.positions.tolist(), strict=True)
    return [(time, str(position) if position else "") for time, position in pairs]


def check_labels(segments: Sequence[Segment], path: Path) -> None:
    """Raise a `ValueError` if segments are invalid, or if a label would not be read as it was written."""
    check_segments(segments, f"The segments for {path.name}")
    for number, segment in enumerate(segments, 1):
        label = segment.label
        if "\t" in label or len(label.splitlines()) != 1 or label != label.strip():
            raise ValueError(
                f"The segments for {path.name}, segment {number}: a label in a file must have no tab, no line break "
                f"and no space around it, got {label!r}."
            )


def _position(row: LabelRow, has_bars: bool) -> int:
    """Return the position in the bar that a label specifies, or 0. With `has_bars`, the bar may precede it."""
    if not row.text or row.text.lower() in _UNNAMED:
        return 0
    match = _BAR_AND_BEAT.fullmatch(row.text) if has_bars else None
    return to_position(match[1] if match else row.text, row.place)


def _check_order(rows: Sequence[LabelRow]) -> None:
    """Raise an error if labels do not ascend, which happens if a program exports several tracks into one file."""
    for before, row in pairwise(rows):
        if row.start < before.start:
            raise ValueError(
                f"{row.place}: labels must ascend, got {row.start:g} s after {before.start:g} s. If the project has "
                "several label tracks, Audacity exports all of them into one file: delete the others first."
            )
