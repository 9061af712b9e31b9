"""
A user's own folder: audio files, and annotation files with the same names.

The annotations of `a/song.flac` are `a/song.beats`, `a/song.chords.lab`, `a/song.keys.lab`, `a/song.sections.lab`,
`a/song.tags` and `a/song.jams`; or files in folders named beats, chords, keys, sections, tags and jams, where the
suffix `.lab` suffices for all kinds except JAMS: `chords/a/song.lab`. A folder with such a name that holds audio is
like any other folder of songs. `tasks/annotations.py` describes the formats. A file for one kind of annotation takes
precedence over a JAMS file.
"""

import os
import unicodedata
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...tasks.annotations import read_beats, read_segments, read_tags
from ...tasks.jams import read_jams
from ...training.files import list_files
from ..catalog import AUDIO_EXTENSIONS
from ..dataset_reader import DatasetReader, Option
from ..labeled import SEGMENT_COLUMNS, LabeledSong, SongReaders, Source, raising

SOURCE = Source("Audio and annotations of a folder.", "", "", "Not stated.")

COLUMNS = ("beats", *SEGMENT_COLUMNS, "tags")

_SUFFIXES = {".beats": "beats", ".tags": "tags", ".jams": "jams"}

# JAMS namespaces by column; the first one with observations is read.
_NAMESPACES = {
    "beats": ("beat_position", "beat"),
    "chords": ("chord", "chord_harte"),
    "sections": ("segment_salami_function", "segment_open", "segment_tut", "segment_salami_upper"),
    "keys": ("key_mode",),
}


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    lab_task: str | None = None,
    group_by_folder: bool = False,
) -> SongReaders:
    """
    Return the readers of the songs, keyed by id, which is the path of the audio without its extension.

    Args:
        source: Folder with the annotations.
        audio: Folder with the audio; `source` by default.
        lab_task (`str`, *optional*): Column of files `song.lab` whose name does not specify it: chords, keys or
            sections.
        group_by_folder (`bool`): Keep the songs of a folder, such as an album, in one split.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: the folders have neither audio nor annotations. The reader of a song raises it if two files differ
            only in their extension, or the column of a `.lab` file is not known.
    """
    folder, audio_folder = Path(source), Path(audio or source)
    for path in (folder, audio_folder):
        if not path.is_dir():
            raise FileNotFoundError(f"The folder {path} does not exist")
    if lab_task not in (None, *SEGMENT_COLUMNS):
        raise ValueError(f"`lab_task` must be one of {', '.join(SEGMENT_COLUMNS)}, got {lab_task!r}.")
    songs: dict[str, Path] = {}
    faulty: SongReaders = {}
    for path in list_files(audio_folder):
        if path.suffix.lower() in AUDIO_EXTENSIONS:
            name = _name(path.relative_to(audio_folder).with_suffix(""))
            _put(songs, name, path, name, faulty)
    columns = {*COLUMNS, "jams"} - {name.partition("/")[0] for name in songs if "/" in name}
    annotations: dict[str, dict[str, Path]] = {}
    for path in list_files(folder):
        try:
            kind = _kind(path.relative_to(folder), columns, lab_task, path)
        except ValueError as error:
            faulty[_name(path.relative_to(folder).with_suffix(""))] = raising(error)
            continue
        if kind:
            column, name = kind
            _put(annotations.setdefault(_name(name), {}), column, path, _name(name), faulty)
    if not (songs or annotations or faulty):
        raise ValueError(f"{folder} and {audio_folder} have neither audio nor annotations.")
    readers = {
        name: partial(_read_song, name, songs.get(name), audio_folder, annotations.get(name, {}), group_by_folder)
        for name in sorted(songs.keys() | annotations.keys() | faulty.keys())
    }
    return readers | faulty


def _name(path: str | Path) -> str:
    """Return the id of a song. macOS stores accents separately from letters."""
    return unicodedata.normalize("NFC", Path(path).as_posix())


def _put(paths: dict[str, Path], key: str, path: Path, song: str, faulty: SongReaders) -> None:
    """Add a path, or, if its key is taken, make the song faulty."""
    if key in paths:
        faulty[song] = raising(ValueError(f"{paths[key]} and {path} are for the same song: keep one of them."))
    paths.setdefault(key, path)


def _kind(path: Path, columns: Collection[str], lab_task: str | None, where: Path) -> tuple[str, str] | None:
    """
    Return the column (or jams) and the song of an annotation file; `None` for other files. `path` is relative, and
    `columns` are the folders of annotations.
    """
    suffix = path.suffix.lower()
    folder = path.parts[0] if len(path.parts) > 1 and path.parts[0] in columns else None
    if folder:
        path = path.relative_to(folder)
    name = path.with_suffix("")
    if suffix != ".lab":
        return (_SUFFIXES[suffix], name.as_posix()) if suffix in _SUFFIXES else None
    if name.suffix[1:] in SEGMENT_COLUMNS:
        return name.suffix[1:], name.with_suffix("").as_posix()
    column = folder if folder in COLUMNS else lab_task
    if column is None:
        raise ValueError(
            f"{where} may have chords, keys or sections: pass `--lab_task`, or rename it to {name.name}.chords.lab, "
            ".keys.lab or .sections.lab."
        )
    return column, name.as_posix()


def _read_song(
    name: str, audio: Path | None, folder: Path, paths: Mapping[str, Path], group_by_folder: bool
) -> LabeledSong:
    """Read a song from its annotation files, by column (or jams)."""
    if audio is None:
        raise FileNotFoundError(f"No audio {name} exists in {folder}, for {', '.join(map(str, paths.values()))}")
    readers: dict[str, Callable] = {"beats": read_beats, "tags": read_tags} | dict.fromkeys(
        SEGMENT_COLUMNS, read_segments
    )
    annotations: dict[str, Any] = {column: readers[column](path) for column, path in paths.items() if column != "jams"}
    files = {column: str(path) for column, path in paths.items()}
    if jams := paths.get("jams"):
        namespaces = _namespaces(jams)
        for column, names in _NAMESPACES.items():
            namespace = next(filter(namespaces.__contains__, names), None)
            if namespace and column not in annotations:
                annotations[column] = read_beats(jams) if column == "beats" else read_segments(jams, namespace)
                files[column] = f"{jams}, {namespace}"
        if "tags" not in annotations and any(namespace.startswith("tag_") for namespace in namespaces):
            annotations["tags"] = read_tags(jams)
    group = Path(name).parent.as_posix() if group_by_folder else name
    return LabeledSong(name, audio, group, files=files, **annotations)


def _namespaces(path: Path) -> set[str]:
    """
    Return the namespaces of a JAMS file with at least one observation. If all have a confidence of 0, only tags count:
    the song has none of them.
    """
    annotations, _ = read_jams(path)
    return {
        annotation.namespace
        for annotation in annotations
        if annotation.observations or (annotation.num_listed and annotation.namespace.startswith("tag_"))
    }


READER = DatasetReader(
    "folder",
    "your own audio and annotations",
    SOURCE,
    song_readers,
    (
        Option("lab_task", "column of files named NAME.lab", choices=SEGMENT_COLUMNS),
        Option("group_by_folder", "keep the songs of a folder in one split", type=bool, default=False),
    ),
    is_own_data=True,
)
