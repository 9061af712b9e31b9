"""
Annotations in memory and in files: beats, labeled segments (chords, sections, keys) and tags.

Files are text or JAMS (see `jams.py`). Times are in seconds from the start of the audio. Segments are in order and do
not overlap; the time between two segments has no label. Error messages name the file and the line, or the observation
of a JAMS file, counted from 1.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from ..training.files import write_text
from .bar_positions import check_positions
from .jams import name_all, only_namespace, pick_annotation, read_jams
from .values import read_text, to_label, to_number, to_position

# Columns of every labeled data set, and attributes of a song. Other annotations of a song are in its `more`.
SONG_COLUMNS = ("beats", "chords", "sections", "keys", "tags")
PITCH_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
TOLERANCE = 1e-6  # seconds by which segments may overlap, because sums are rounded
JAMS_TOLERANCE = 0.002  # the same in JAMS files, which may store start and duration in whole milliseconds
LATE_SECONDS = 1.0  # by which an annotation may end after the audio, because decoders cut or pad the end


class Beats(NamedTuple):
    """Beats of a song, and their positions in the bar."""

    times: np.ndarray  # float64 (beats,) seconds, ascending
    positions: np.ndarray  # int64 (beats,) from 1, the downbeat; 0 if unknown


class Segment(NamedTuple):
    """An interval of time with a label."""

    start: float  # seconds
    end: float  # seconds
    label: str


def read_beats(path: str | os.PathLike) -> Beats:
    """
    Read beats. From a JAMS file, read the first annotation `beat_position`, or else the first `beat`. Any other file
    is text with one beat per line: the time and, optionally, the position in the bar, separated by a tab, spaces or a
    comma. Further columns, empty lines and lines that begin with `#` are ignored. Decimal commas are an error.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is malformed, has no annotation of beats, or does not pass [`check_beats`].
    """
    path = Path(path)
    if path.suffix.lower() == ".jams":
        annotations, duration = read_jams(path)
        annotation = pick_annotation(annotations, ("beat_position", "beat"), path)
        places = annotation.places
        times = [time for time, _, _ in annotation.observations]
        values = [
            value.get("position") if isinstance(value, dict) else value for _, _, value in annotation.observations
        ]
    else:
        lines, duration = _read_lines(path), None
        places = [place for place, _ in lines]
        fields = _split_beats(lines)
        times = [to_number(field[0], "the time", place) for place, field in zip(places, fields, strict=True)]
        values = [field[1] if len(field) > 1 and field[1] else None for field in fields]
    positions = [to_position(value, place) for value, place in zip(values, places, strict=True)]
    beats = Beats(np.array(times, dtype=np.float64), np.array(positions, dtype=np.int64))
    _check_beats(beats, places.__getitem__, duration)
    return beats


def read_segments(path: str | os.PathLike, namespace: str | None = None, column: int = 3) -> list[Segment]:
    """
    Read segments. From a JAMS file, read the first annotation with this `namespace`, such as chord, segment_open or
    key_mode. The namespace may be omitted if all annotations with text labels have the same one. Any other file is
    text with one segment per line: start, end and label, separated by tabs or spaces. Empty lines and lines that begin
    with `#` are ignored.

    Args:
        column (`int`): Column of the label in text files, counted from 1. If columns are separated by tabs, a label is
            one field; if they are separated by spaces, it extends from its column to the end of the line.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is malformed, has no such annotation, or does not pass [`check_segments`].
    """
    path = Path(path)
    if column < 3:
        raise ValueError(f"`column` counts from 1, and 1 and 2 are start and end: it must be 3 or more, got {column}.")
    if path.suffix.lower() == ".jams":
        annotations, duration = read_jams(path)
        annotation = pick_annotation(annotations, (namespace or only_namespace(annotations, path),), path)
        places = annotation.places
        segments = _without_rounding(
            Segment(start, start + to_number(length, "the duration", place), to_label(label, place))
            for (start, length, label), place in zip(annotation.observations, places, strict=True)
        )
    else:
        lines, duration = _read_lines(path), None
        places = [place for place, _ in lines]
        segments = [_parse_segment(text, column, place) for place, text in lines]
    _check_segments(segments, places.__getitem__, duration)
    return segments


def read_tags(path: str | os.PathLike) -> list[str]:
    """
    Read tags without repetitions, in the order of the file, in the Unicode form NFC, so that accents that are stored
    separately make no other tag. From a JAMS file, read all annotations whose namespace begins with `tag_`. Any other
    file is text with one tag per line.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is malformed, or is a JAMS file without such an annotation.
    """
    path = Path(path)
    if path.suffix.lower() != ".jams":
        tags = (normalize("NFC", line.strip()) for line in read_text(path).splitlines())
        return list(dict.fromkeys(tag for tag in tags if tag))
    annotations, _ = read_jams(path)
    tag_annotations = [annotation for annotation in annotations if annotation.namespace.startswith("tag_")]
    if not tag_annotations:
        raise ValueError(f"{path} has no annotation tag_…, only {name_all(annotations)}.")
    labels = (
        normalize("NFC", to_label(value, place))
        for annotation in tag_annotations
        for (_, _, value), place in zip(annotation.observations, annotation.places, strict=True)
    )
    return list(dict.fromkeys(labels))


def write_beats(path: str | os.PathLike, beats: Beats) -> None:
    """
    Write one beat per line, in the format of [`read_beats`]: the time in seconds and, if any position is known, a tab
    and the position.

    Raises:
        ValueError: if the beats do not pass [`check_beats`]; then nothing is written.
    """
    check_beats(beats, "The beats to write")
    known = np.any(beats.positions)
    lines = [f"{time:.6f}" + (f"\t{position}" if known else "") for time, position in zip(*beats, strict=True)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_segments(path: str | os.PathLike, segments: Sequence[Segment]) -> None:
    """
    Write one segment per line, in the format of [`read_segments`]: start and end in seconds and the label, separated
    by tabs.

    Raises:
        ValueError: if the segments do not pass [`check_segments`], or a label has a tab, a line break, or a space at
            either end; then nothing is written.
    """
    check_segments(segments, "The segments to write")
    for number, segment in enumerate(segments, 1):
        if "\t" in segment.label or len(segment.label.splitlines()) != 1 or segment.label != segment.label.strip():
            raise ValueError(
                f"The segments to write, segment {number}: a label in a file must have no tab, no line break and no "
                f"space around it, got {segment.label!r}."
            )
    lines = [f"{start:.6f}\t{end:.6f}\t{label}\n" for start, end, label in segments]
    write_text(path, "".join(lines))


def check_beats(beats: Beats, where: str | os.PathLike | Callable[[int], str], duration: float | None = None) -> None:
    """
    Raise an error if beats are invalid.

    Args:
        where: Name of the beats in error messages, such as their file; or a function from the index of a beat to its
            name.
        duration (`float`, *optional*): Seconds of audio. Annotations may end up to a second later.

    Raises:
        ValueError: if shapes differ; or if a beat is not finite, is negative, does not follow the previous beat, is
            after the end of the audio, or has a negative position; or if the positions are not those of beats in a bar
            (see `bar_positions.py`). The message names the first such beat.
    """
    _check_beats(beats, _namer(where, "beat"), duration)


def check_segments(
    segments: Sequence[Segment], where: str | os.PathLike | Callable[[int], str], duration: float | None = None
) -> None:
    """
    Raise an error if segments are invalid.

    Args:
        where: Name of the segments in error messages, such as their file; or a function from the index of a segment to
            its name.
        duration (`float`, *optional*): Seconds of audio. Annotations may end up to a second later.

    Raises:
        ValueError: if a segment is not finite, is negative, has no length or label, begins before the previous one
            ends, or ends after the audio. The message names the first such segment.
    """
    _check_segments(segments, _namer(where, "segment"), duration)


def line_of(path: str | os.PathLike, index: int, count: int, start: float) -> str | None:
    """
    Return the name, for error messages, of an entry in a text file with one entry per line.

    Args:
        index (`int`): Index of the entry.
        count (`int`): Number of entries in the file. If the file has a different number of lines, the line of the
            entry is the one that begins with `start`.
        start (`float`): Time at which the entry begins, in seconds.

    Returns:
        File and line; `None` if the line is not found, or if the file is not text.
    """
    path = Path(path)
    if path.suffix.lower() == ".jams" or not path.is_file():
        return None
    lines = _read_lines(path)
    if len(lines) == count:
        return lines[index][0]
    matches = [place for place, text in lines if _begins_with(text, start)]
    return matches[0] if len(matches) == 1 else None


def _namer(where: str | os.PathLike | Callable[[int], str], kind: str) -> Callable[[int], str]:
    """Return a function from an index to the name of that beat or segment."""
    return where if callable(where) else lambda index: f"{where}, {kind} {index + 1}"


def _without_rounding(segments: Iterable[Segment]) -> list[Segment]:
    """Return segments that end where the next one starts, if they end later by as much as JAMS files are rounded."""
    rows: list[Segment] = []
    for segment in segments:
        if rows and rows[-1].start < segment.start < rows[-1].end <= segment.start + JAMS_TOLERANCE:
            rows[-1] = rows[-1]._replace(end=segment.start)
        rows.append(segment)
    return rows


def _begins_with(text: str, number: float) -> bool:
    """Return whether the first field of a line is this number."""
    try:
        return float(re.split(r"[\s,]+", text.strip())[0]) == number
    except ValueError:
        return False


def _read_lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines that are neither empty nor comments, each with its name for error messages."""
    lines = enumerate(read_text(path).splitlines(), 1)
    return [(f"{path}, line {number}", line) for number, line in lines if line.strip() and line.strip()[0] != "#"]


def _split_beats(lines: list[tuple[str, str]]) -> list[list[str]]:
    """
    Split the lines of a file of beats into fields. A comma separates fields only if a time has a decimal point: `0,52`
    in a file without one is 0.52 s with a decimal comma, or beat 52 at 0 s.
    """
    fields = [re.split(r"[\s,]+", text.strip()) for _, text in lines]
    commas = [place for place, text in lines if "," in text.split()[0].rstrip(",")]
    if commas and not any("." in field[0] for field in fields):
        raise ValueError(
            f"{commas[0]}: the comma may be a decimal comma. Write times with a decimal point, such as 0.52, and "
            "separate columns by a tab."
        )
    return fields


def _parse_segment(text: str, column: int, place: str) -> Segment:
    """Parse a line of a text file."""
    if re.match(r"\s*[0-9.]+\s*,\s*[0-9.]+\s*,", text):
        raise ValueError(
            f"{place}: start, end and label must be separated by tabs or spaces, got {text.strip()!r}. Files with "
            "commas have names such as song.chords.csv."
        )
    start, end, rest = (*text.split(maxsplit=2), "", "", "")[:3]
    rest = rest.rstrip()
    fields = rest.split("\t") if "\t" in rest else rest.split(None, column - 3)
    if len(fields) < column - 2:
        raise ValueError(
            f"{place}: a segment needs start, end and, in column {column}, a label, got {text.strip()!r}."
        )
    return Segment(to_number(start, "the start", place), to_number(end, "the end", place), fields[column - 3].strip())


def _check_beats(beats: Beats, place: Callable[[int], str], duration: float | None) -> None:
    """Check beats as [`check_beats`] does; `place(index)` names a beat."""
    times, positions = np.asarray(beats.times), np.asarray(beats.positions)
    if times.ndim != 1 or times.shape != positions.shape:
        raise ValueError(
            f"{place(0)}: times {times.shape} and positions {positions.shape} must have the same shape (beats,)."
        )
    before = np.concatenate([[-math.inf], times[:-1]])[: len(times)]
    is_valid = (times >= 0) & (times > before) & (times <= _latest(duration)) & (positions >= 0)
    for index in map(int, np.flatnonzero(~is_valid)):
        time, position = times[index], positions[index]
        _check_time(time, partial(place, index), duration)
        if time <= before[index]:
            raise ValueError(f"{place(index)}: beats must ascend, got {time:g} s after {before[index]:g} s.")
        if position < 0:
            raise ValueError(
                f"{place(index)}: a position in the bar must be at least 1, or 0 if unknown, got {position}."
            )
    check_positions(positions, place)


def _check_segments(segments: Sequence[Segment], place: Callable[[int], str], duration: float | None) -> None:
    """Check segments as [`check_segments`] does; `place(index)` names a segment."""
    before = Segment(-math.inf, -math.inf, "")
    latest = _latest(duration)
    for index, segment in enumerate(segments):
        start, end, label = segment
        if max(before.end, 0.0) <= start < end <= latest and label:  # as nearly all are
            before = segment
            continue
        _check_time(start, partial(place, index), duration)
        _check_time(end, partial(place, index), duration)
        if end <= start:
            raise ValueError(f"{place(index)}: a segment must end after its start, got {start:g} to {end:g} s.")
        if start < before.start:
            raise ValueError(f"{place(index)}: segments must ascend, got {start:g} s after {before.start:g} s.")
        if start < before.end - TOLERANCE:
            raise ValueError(
                f"{place(index)}: segments must not overlap, got {start:g} to {end:g} s after "
                f"{before.start:g} to {before.end:g} s."
            )
        if not label:
            raise ValueError(f"{place(index)}: a segment must have a label, got {label!r}.")
        before = segment


def _latest(duration: float | None) -> float:
    """Return the largest time that an annotation may have, in seconds."""
    return sys.float_info.max if duration is None else duration + LATE_SECONDS


def _check_time(time: float, place: Callable[[], str], duration: float | None) -> None:
    """Raise an error if a time is not finite, negative, or later than the audio allows."""
    if not math.isfinite(time) or time < 0:
        raise ValueError(f"{place()}: times must be finite and not negative, got {time:g} s.")
    if duration is not None and time > _latest(duration):
        raise ValueError(f"{place()}: {time:g} s is after the end of the audio, which is {duration:g} s long.")
