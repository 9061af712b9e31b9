"""
A folder of one's own: audio files, and files of annotations with the same names.

For `a/song.flac` these are `a/song.beats`, `a/song.chords.lab`, `a/song.keys.lab`, `a/song.sections.lab`,
`a/song.tags` and `a/song.jams`; or the same in folders called beats, chords, keys, sections, tags and jams, where
`.lab` is enough but for jams: `chords/a/song.lab`. What is in such files, `tasks/annotations.py` says. A file of its
own counts before JAMS.
"""

import json
import os
import unicodedata
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ...tasks.annotations import read_beats, read_segments, read_tags
from ..catalogue import AUDIO_EXTENSIONS
from ..labelled import SEGMENT_COLUMNS, LabelledSong, Source

COLUMNS = ("beats", *SEGMENT_COLUMNS, "tags")

_SUFFIXES = {".beats": "beats", ".tags": "tags", ".jams": "jams"}

# Namespaces of JAMS by column; the first of which a file has something is read.
_NAMESPACES = {
    "beats": ("beat_position", "beat"),
    "chords": ("chord", "chord_harte"),
    "sections": ("segment_salami_function", "segment_open", "segment_tut", "segment_salami_upper"),
    "keys": ("key_mode",),
}


def source(licence: str | None = None) -> Source:
    """What to say of the data set, under a licence that its owner names."""
    return Source("Audio and annotations of a folder.", "", "", licence or "Not stated.")


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    lab_task: str | None = None,
    group_by_folder: bool = False,
) -> dict[str, Callable[[], LabelledSong]]:
    """
    By id (the path of the audio without extension), what reads a song; for [`musicfm_hf.data.labelled.read_all`].

    Args:
        source: The folder with the annotations.
        audio: The folder with the audio; `source` by default.
        lab_task (`str`, *optional*): What a `song.lab` has that does not say: chords, keys or sections.
        group_by_folder (`bool`): Songs of one folder, such as an album, come to one split.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: two files have the same name but for their extension, there is a `.lab` of which is not known what
            it has, or there is nothing at all.
    """
    folder, audio_folder = Path(source), Path(audio or source)
    for path in (folder, audio_folder):
        if not path.is_dir():
            raise FileNotFoundError(f"There is no folder {path}")
    if lab_task not in (None, *SEGMENT_COLUMNS):
        raise ValueError(f"`lab_task` must be one of {', '.join(SEGMENT_COLUMNS)}, got {lab_task!r}.")
    songs: dict[str, Path] = {}
    for path in _files(audio_folder):
        if path.suffix.lower() in AUDIO_EXTENSIONS:
            name = path.relative_to(audio_folder).with_suffix("").as_posix()
            _put(songs, name, path)
    annotations: dict[str, dict[str, Path]] = {}
    for path in _files(folder):
        if kind := _kind(path.relative_to(folder), lab_task, path):
            column, name = kind
            _put(annotations.setdefault(unicodedata.normalize("NFC", name), {}), column, path)
    if not songs and not annotations:
        raise ValueError(f"{folder} and {audio_folder} have neither audio nor annotations.")
    return {
        name: partial(_read_song, name, songs.get(name), audio_folder, annotations.get(name, {}), group_by_folder)
        for name in sorted(songs.keys() | annotations.keys())
    }


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]


def _put(paths: dict[str, Path], key: str, path: Path) -> None:
    key = unicodedata.normalize("NFC", key)  # macOS has accents apart from letters
    if key in paths:
        raise ValueError(f"{paths[key]} and {path} are for the same: keep one of them.")
    paths[key] = path


def _kind(path: Path, lab_task: str | None, where: Path) -> tuple[str, str] | None:
    """The column (or jams) and the song of a file of annotations; `None` for other files. `path` is relative."""
    suffix = path.suffix.lower()
    folder = path.parts[0] if len(path.parts) > 1 and path.parts[0] in (*COLUMNS, "jams") else None
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
            f"{where} may have chords, keys or sections: say which (`--lab-task`), or call it {name.name}.chords.lab "
            "and so on."
        )
    return column, name.as_posix()


def _read_song(
    name: str, audio: Path | None, folder: Path, paths: Mapping[str, Path], group_by_folder: bool
) -> LabelledSong:
    if audio is None:
        raise FileNotFoundError(f"There is no audio {name} in {folder}, for {', '.join(map(str, paths.values()))}")
    readers = {"beats": read_beats, "tags": read_tags} | dict.fromkeys(SEGMENT_COLUMNS, read_segments)
    found = {column: readers[column](path) for column, path in paths.items() if column != "jams"}
    files = {column: str(path) for column, path in paths.items()}
    if jams := paths.get("jams"):
        spaces = _namespaces(jams)
        for column, names in _NAMESPACES.items():
            first = next((one for one in names if one in spaces), None)
            if first and column not in found:
                found[column] = read_beats(jams) if column == "beats" else read_segments(jams, first)
                files[column] = f"{jams}, {first}"
        if "tags" not in found and any(one.startswith("tag_") for one in spaces):
            found["tags"] = read_tags(jams)
    group = Path(name).parent.as_posix() if group_by_folder else name
    return LabelledSong(name, audio, group, files=files, **found)


def _namespaces(path: Path) -> set[str]:
    """Of which a file has at least one observation."""
    try:
        annotations = json.loads(path.read_text(encoding="utf-8-sig"))["annotations"]
        return {annotation["namespace"] for annotation in annotations if annotation["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not JAMS ({type(error).__name__}: {error}).") from error
