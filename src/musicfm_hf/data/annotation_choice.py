"""
The choice of the file from which an annotation of a song is read, if several have it: files that were edited or made
by hand come before those that are as `musicfm annotate` wrote them, and files for one kind of annotation before JAMS
and JSON.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..tasks.annotations import Beats, read_beats, read_segments, read_tags
from ..tasks.audacity import read_label_track
from ..tasks.events import MIN_TAG_PROBABILITY
from ..tasks.jams import NAMESPACES, read_jams
from ..tasks.label_rows import to_beats, to_segments
from ..tasks.song_json import labeled_columns, parse_results, read_song_json
from ..tasks.sonic_visualiser import read_layer
from .identity import digest
from .labeled import audio_seconds
from .written_files import written_digest

# Suffixes of files for one kind of annotation, first the format of the package. Labels of other programs may be points
# in time, so that the last segment ends with the audio.
LABEL_READERS = {".txt": read_label_track, ".csv": read_layer, ".svl": read_layer}
SONG_SUFFIXES = (".jams", ".json")  # files that have all annotations of a song

_SAME_SECONDS = 1e-3  # by which equal annotations may differ, because formats round


class AnnotationFile(NamedTuple):
    """
    A file with annotations of a song.

    Attributes:
        path (`Path`): The file.
        song (`str`): Name of the song, with which the name of the file begins.
        column (`str`, *optional*): Column of its annotation; `None` if it has all annotations of the song.
    """

    path: Path
    song: str
    column: str | None


class Chosen(NamedTuple):
    """An annotation, and its file for error messages."""

    events: Any
    place: str


def choose(files: Sequence[AnnotationFile], audio: Any) -> dict[str, Chosen]:
    """
    Read the annotations of a song.

    Args:
        files: All files of the song.
        audio: Its audio, whose duration is looked up if a file needs it.

    Returns:
        Column → annotation.

    Raises:
        ValueError: if two files that were edited or made by hand have different annotations of one kind, or a file is
            malformed.
        UnusableSongError: if the audio cannot be read.
    """
    by_column: dict[str, list[AnnotationFile]] = {}
    places: dict[tuple[Path, str], str] = {}
    for file in sorted(files, key=lambda file: file.path.suffix.lower() in LABEL_READERS):  # own formats first
        for column, place in _columns(file).items():
            by_column.setdefault(column, []).append(file)
            places[file.path, column] = place
    chosen = {}
    for column, candidates in by_column.items():
        edited = [file for file in candidates if not _is_as_written(file)]
        pool = edited or candidates
        pool = [file for file in pool if file.column is not None] or pool[:1]
        events = [_read(file, column, places[file.path, column], audio) for file in pool]
        for file, other in zip(pool[1:], events[1:], strict=True):
            if not _is_same(events[0], other):
                raise ValueError(
                    f"{pool[0].path} and {file.path} have different {column}, and both were edited or made by hand: "
                    "keep one of them."
                )
        chosen[column] = Chosen(events[0], places[pool[0].path, column])
    return chosen


def _is_as_written(file: AnnotationFile) -> bool:
    """Return whether a file is exactly as `musicfm annotate` wrote it."""
    return written_digest(file.path, file.song) == digest(file.path.read_bytes())


def _columns(file: AnnotationFile) -> Mapping[str, str]:
    """Return the columns that a file has, each with its place for error messages."""
    if file.column is not None:
        return {file.column: str(file.path)}
    if file.path.suffix.lower() == ".jams":
        return _jams_columns(file.path)
    if written_digest(file.path, file.song) is not None:
        read_song_json(file.path)  # an error if the edited file is not JSON
    return {column: f"{file.path}, {column}" for column in labeled_columns(file.path)}


def _jams_columns(path: Path) -> dict[str, str]:
    """
    Return the columns of a JAMS file with at least one observation. If all have a confidence of 0, only tags count:
    the song has none of them.
    """
    annotations, _ = read_jams(path)
    namespaces = {
        annotation.namespace
        for annotation in annotations
        if annotation.observations or (annotation.num_listed and annotation.namespace.startswith("tag_"))
    }
    columns = {}
    for column, names in NAMESPACES.items():
        namespace = next(filter(namespaces.__contains__, names), None)
        if namespace is not None:
            columns[column] = f"{path}, {namespace}"
    if any(namespace.startswith("tag_") for namespace in namespaces):
        columns["tags"] = f"{path}, tag_open"
    return columns


def _read(file: AnnotationFile, column: str, place: str, audio: Any) -> Any:
    """Read an annotation from a file."""
    suffix = file.path.suffix.lower()
    if suffix == ".json":
        events, _ = parse_results({column: read_song_json(file.path)[column]}, file.path)[column]
        if column != "tags":
            return events
        return [tag for tag, probability in events.items() if probability >= MIN_TAG_PROBABILITY]
    if suffix in LABEL_READERS:
        rows = LABEL_READERS[suffix](file.path)
        if column == "beats":
            return to_beats(rows)
        has_points = any(row.end is None for row in rows)
        return to_segments(rows, audio_seconds(audio) if has_points else None)
    if column == "beats":
        return read_beats(file.path)
    if column == "tags":
        return read_tags(file.path)
    return read_segments(file.path, place.rpartition(", ")[2] if suffix == ".jams" else None)


def _is_same(first: Any, second: Any) -> bool:
    """Return whether annotations are equal up to the rounding of their formats."""
    if isinstance(first, Beats):
        first, second = (
            list(zip(beats.times, beats.times, beats.positions, strict=True)) for beats in (first, second)
        )
    elif first and isinstance(first[0], str):
        return list(first) == list(second)
    if [row[2] for row in first] != [row[2] for row in second]:
        return False
    times, others = (np.array([row[:2] for row in rows], np.float64) for rows in (first, second))
    return bool(np.allclose(times, others, rtol=0, atol=_SAME_SECONDS))
