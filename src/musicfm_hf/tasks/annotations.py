"""
What people annotate, in memory and in files: beats, labelled segments (chords, sections, keys) and tags.

Files are text, or JAMS (Humphrey et al., *JAMS: A JSON Annotated Music Specification for Reproducible MIR Research*,
ISMIR 2014). Times are seconds from the start of the audio. Segments ascend and do not overlap; a gap between two of
them is time without a label. Errors name the file and the line, or the observation of a JAMS file, counted from 1.
"""

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

PITCH_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
TOLERANCE = 1e-6  # seconds by which segments may overlap: JAMS has start and duration, and their sum is rounded
LATE_SECONDS = 1.0  # by which an annotation may go on after the audio, for decoders cut or pad the end


class Beats(NamedTuple):
    """Beats of a song, and where they are in the bar."""

    times: np.ndarray  # float64 (beats,) seconds, ascending
    positions: np.ndarray  # int64 (beats,) from 1, the downbeat; 0 where not known


class Segment(NamedTuple):
    """A stretch of time with a label."""

    start: float  # seconds
    end: float  # seconds
    label: str


def read_beats(path: str | os.PathLike) -> Beats:
    """
    Beats of a file. JAMS: the first annotation `beat_position`, else the first `beat`. Any other file is text with a
    beat a line: time and, optionally, position in the bar, separated by tab, spaces or comma; further columns, empty
    lines and lines that begin with `#` are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is malformed or has no beat annotation, or [`check_beats`] finds a mistake.
    """
    path = Path(path)
    if path.suffix.lower() == ".jams":
        annotations, duration = _read_jams(path)
        annotation = _pick(annotations, ("beat_position", "beat"), path)
        places, rows = annotation.places, annotation.observations
        positions = [value.get("position") if isinstance(value, dict) else value for _, _, value in rows]
    else:
        lines, duration = _read_lines(path), None
        places = [place for place, _ in lines]
        fields = [re.split(r"[\s,]+", text.strip()) for _, text in lines]
        rows = [(_number(field[0], "the time", place), *field) for place, field in zip(places, fields, strict=True)]
        positions = [field[1] if len(field) > 1 and field[1] else None for field in fields]
    positions = [_position(position, place) for position, place in zip(positions, places, strict=True)]
    beats = Beats(np.array([row[0] for row in rows], dtype=np.float64), np.array(positions, dtype=np.int64))
    _check_beats(beats, places.__getitem__, duration)
    return beats


def read_segments(path: str | os.PathLike, namespace: str | None = None, column: int = 3) -> list[Segment]:
    """
    Segments of a file. JAMS: the first annotation with this `namespace`, such as chord, segment_open or key_mode; it
    may be left out where all annotations whose labels are text have the same one. Any other file is text with a
    segment a line: start, end, label, separated by tabs or spaces; empty lines and lines that begin with `#` are not
    read.

    Args:
        column (`int`): In text files, the column of the label, counted from 1. Between tabs it is one field, between
            spaces all from there to the end of the line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is malformed or has no such annotation, or [`check_segments`] finds a mistake.
    """
    path = Path(path)
    if column < 3:
        raise ValueError(f"`column` counts from 1, and 1 and 2 are start and end: it must be 3 or more, got {column}.")
    if path.suffix.lower() == ".jams":
        annotations, duration = _read_jams(path)
        annotation = _pick(annotations, (namespace or _only_namespace(annotations, path),), path)
        places = annotation.places
        segments = [
            Segment(start, start + _number(length, "the duration", place), _text(label, place))
            for (start, length, label), place in zip(annotation.observations, places, strict=True)
        ]
    else:
        lines, duration = _read_lines(path), None
        places = [place for place, _ in lines]
        segments = [_read_segment(text, column, place) for place, text in lines]
    _check_segments(segments, places.__getitem__, duration)
    return segments


def read_tags(path: str | os.PathLike) -> list[str]:
    """
    Tags of a file, each once, in their order. JAMS: of all annotations whose namespace begins with `tag_`. Any other
    file is text with a tag a line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is malformed; or it is JAMS without such an annotation.
    """
    path = Path(path)
    if path.suffix.lower() != ".jams":
        tags = (line.strip() for line in _read_text(path).splitlines())
        return list(dict.fromkeys(tag for tag in tags if tag))
    annotations, _ = _read_jams(path)
    chosen = [annotation for annotation in annotations if annotation.namespace.startswith("tag_")]
    if not chosen:
        raise ValueError(f"{path} has no annotation tag_…, only {_names(annotations)}.")
    tags = [
        _text(observation[2], place)
        for annotation in chosen
        for observation, place in zip(annotation.observations, annotation.places, strict=True)
    ]
    return list(dict.fromkeys(tags))


def write_beats(path: str | os.PathLike, beats: Beats) -> None:
    """
    Write a beat a line: time in seconds and, unless no position is known, tab and position; as `read_beats` reads it.

    Raises:
        ValueError: as [`check_beats`]; before anything is written.
    """
    check_beats(beats, "The beats to write")
    known = np.any(beats.positions)
    lines = [f"{time:.6f}" + (f"\t{position}" if known else "") for time, position in zip(*beats, strict=True)]
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_segments(path: str | os.PathLike, segments: Sequence[Segment]) -> None:
    """
    Write a segment a line: start and end in seconds and label, separated by tabs; as `read_segments` reads it.

    Raises:
        ValueError: as [`check_segments`], or a label has a tab or a line break; before anything is written.
    """
    check_segments(segments, "The segments to write")
    for number, segment in enumerate(segments, 1):
        if "\t" in segment.label or len(segment.label.splitlines()) != 1 or segment.label != segment.label.strip():
            raise ValueError(
                f"The segments to write, segment {number}: a label in a file must have no tab, no line break and no "
                f"space around it, got {segment.label!r}."
            )
    lines = [f"{start:.6f}\t{end:.6f}\t{label}\n" for start, end, label in segments]
    Path(path).write_text("".join(lines), encoding="utf-8")


def check_beats(beats: Beats, where: str | os.PathLike | Callable[[int], str], duration: float | None = None) -> None:
    """
    Raise if beats cannot be right.

    Args:
        where: What the error calls them, such as their file; or what it calls one, by its index.
        duration (`float`, *optional*): Seconds of audio; nothing may be annotated later than a second after its end.

    Raises:
        ValueError: shapes differ, or a beat is not finite, negative, not after the one before it or after the end of
            the audio, or has a negative position. The first mistake is named.
    """
    _check_beats(beats, _named(where, "beat"), duration)


def check_segments(
    segments: Sequence[Segment], where: str | os.PathLike | Callable[[int], str], duration: float | None = None
) -> None:
    """
    Raise if segments cannot be right.

    Args:
        where: What the error calls them, such as their file; or what it calls one, by its index.
        duration (`float`, *optional*): Seconds of audio; nothing may be annotated later than a second after its end.

    Raises:
        ValueError: a segment is not finite, negative, without length or label, begins before the one before it ends
            or ends after the audio. The first mistake is named.
    """
    _check_segments(segments, _named(where, "segment"), duration)


def _named(where: str | os.PathLike | Callable[[int], str], kind: str) -> Callable[[int], str]:
    return where if callable(where) else lambda index: f"{where}, {kind} {index + 1}"


def line_of(path: str | os.PathLike, index: int, count: int, start: float) -> str | None:
    """
    What errors call an item of a text file with an item a line. Where it has other lines than the `count` of items, it
    is the line that begins with the `start` of the item; `None` if there is not one of these.
    """
    path = Path(path)
    if path.suffix.lower() == ".jams" or not path.is_file():
        return None
    lines = _read_lines(path)
    if len(lines) == count:
        return lines[index][0]
    same = [place for place, text in lines if _begins_with(text, start)]
    return same[0] if len(same) == 1 else None


def _begins_with(text: str, number: float) -> bool:
    try:
        return float(re.split(r"[\s,]+", text.strip())[0]) == number
    except ValueError:
        return False


class _Annotation(NamedTuple):
    """An annotation of a JAMS file."""

    namespace: str
    observations: list[tuple]  # (time, duration, value); times are checked
    places: list[str]  # what errors call them


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}).") from error


def _read_lines(path: Path) -> list[tuple[str, str]]:
    """Lines that say something, and what errors call them."""
    lines = enumerate(_read_text(path).splitlines(), 1)
    return [(f"{path}, line {number}", line) for number, line in lines if line.strip() and line.strip()[0] != "#"]


def _read_segment(text: str, column: int, place: str) -> Segment:
    """A line of a text file."""
    start, end, rest = (*text.split(maxsplit=2), "", "", "")[:3]
    rest = rest.rstrip()
    fields = rest.split("\t") if "\t" in rest else rest.split(None, column - 3)
    if len(fields) < column - 2:
        raise ValueError(
            f"{place}: a segment needs start, end and, in column {column}, a label, got {text.strip()!r}."
        )
    return Segment(_number(start, "the start", place), _number(end, "the end", place), fields[column - 3].strip())


def _read_jams(path: Path) -> tuple[list[_Annotation], float | None]:
    """The annotations of a JAMS file, and the seconds of its audio if it says so."""
    try:
        content = json.loads(_read_text(path))
        duration = (content.get("file_metadata") or {}).get("duration")
        annotations = [
            _jams_annotation(annotation, f"{path}, annotation {number}")
            for number, annotation in enumerate(content["annotations"], 1)
        ]
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not JAMS ({type(error).__name__}: {error}).") from error
    return annotations, duration if isinstance(duration, int | float) and duration > 0 else None


def _jams_annotation(annotation: dict, place: str) -> _Annotation:
    """An annotation, whose data are a list of observations or, as JAMS also allows, one list a field."""
    data = annotation["data"]
    if isinstance(data, dict):
        rows = list(zip(data["time"], data["duration"], data["value"], strict=True))
    else:
        rows = [(observation["time"], observation["duration"], observation["value"]) for observation in data]
    namespace = annotation["namespace"]
    places = [f"{place} ({namespace}), observation {number}" for number in range(1, len(rows) + 1)]
    rows = [(_number(time, "the time", where), *rest) for (time, *rest), where in zip(rows, places, strict=True)]
    return _Annotation(namespace, rows, places)


def _pick(annotations: list[_Annotation], namespaces: Sequence[str], path: Path) -> _Annotation:
    """The first annotation with the first of the namespaces that is there; one that is empty if all are."""
    found = [annotation for namespace in namespaces for annotation in annotations if annotation.namespace == namespace]
    if not found:
        raise ValueError(f"{path} has no annotation {' or '.join(namespaces)}, only {_names(annotations)}.")
    return next((annotation for annotation in found if annotation.observations), found[0])


def _only_namespace(annotations: list[_Annotation], path: Path) -> str:
    """The namespace of all annotations that label stretches of time with text."""
    chosen = [
        annotation
        for annotation in annotations
        if not annotation.namespace.startswith(("tag_", "lyrics"))
        and any(isinstance(value, str) for _, _, value in annotation.observations)
    ]
    if len({annotation.namespace for annotation in chosen}) != 1:
        raise ValueError(
            f"{path} has {_names(chosen or annotations)}: say with `namespace` which annotation is to be read."
        )
    return chosen[0].namespace


def _names(annotations: list[_Annotation]) -> str:
    return ", ".join(sorted({annotation.namespace for annotation in annotations})) or "none"


def _number(value: object, what: str, place: str) -> float:
    """A number that came from text or JSON."""
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        return float(value)
    except ValueError as error:
        raise ValueError(f"{place}: {what} must be a number of seconds, got {value!r}.") from error


def _position(value: object, place: str) -> int:
    """A position in the bar that came from text or JSON; 0 if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
        if number != int(number):
            raise ValueError
        return int(number)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{place}: the position in the bar must be a whole number from 1, or 0 where not known, got {value!r}."
        ) from error


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place}: the label must be text, got {value!r}.")
    return value


def _check_beats(beats: Beats, place: Callable[[int], str], duration: float | None) -> None:
    """`place(index)` is what the error calls a beat."""
    times, positions = np.asarray(beats.times), np.asarray(beats.positions)
    if times.ndim != 1 or times.shape != positions.shape:
        raise ValueError(
            f"{place(0)}: times {times.shape} and positions {positions.shape} must have one shape (beats,)."
        )
    before = -math.inf
    for index, (time, position) in enumerate(zip(times, positions, strict=True)):
        _check_time(time, partial(place, index), duration)
        if time <= before:
            raise ValueError(f"{place(index)}: beats must ascend, got {time:g} s after {before:g} s.")
        if position < 0:
            raise ValueError(f"{place(index)}: a position in the bar counts from 1, 0 if not known, got {position}.")
        before = time


def _check_segments(segments: Sequence[Segment], place: Callable[[int], str], duration: float | None) -> None:
    """`place(index)` is what the error calls a segment."""
    before = Segment(-math.inf, -math.inf, "")
    for index, segment in enumerate(segments):
        start, end, label = segment
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


def _check_time(time: float, place: Callable[[], str], duration: float | None) -> None:
    if not math.isfinite(time) or time < 0:
        raise ValueError(f"{place()}: times must be finite and not negative, got {time:g} s.")
    if duration is not None and time > duration + LATE_SECONDS:
        raise ValueError(f"{place()}: {time:g} s is after the end of the audio, which has {duration:g} s.")
