"""
A user's own folder: audio files, and annotation files with the same names.

The annotations of `a/song.flac` are `a/song.beats`, `a/song.chords.lab`, `a/song.keys.lab`, `a/song.sections.lab`,
`a/song.tags` and `a/song.jams`; or files in folders named beats, chords, keys, sections, tags and jams, where the
suffix `.lab` suffices for all kinds except JAMS: `chords/a/song.lab`. There, layers of Sonic Visualiser need no kind
either, if the song has no other file of the kind: `chords/a/song.csv`. A folder with such a name that holds audio is
like any other folder of songs. `tasks/annotations.py` describes the formats.

Files of `musicfm annotate` that were corrected in other programs are read too: `a/song.chords.txt` (and beats, keys,
sections) of Audacity, `a/song.chords.csv` or `.svl` of Sonic Visualiser, and `a/song.json`. If several files have one
kind of annotation, `annotation_choice.py` chooses.
"""

import os
import unicodedata
from collections.abc import Collection, Iterable, Set
from functools import partial
from pathlib import Path

from ...tasks import get_task, known_tasks
from ...training.files import list_files
from ..annotation_choice import LABEL_READERS, SONG_SUFFIXES, AnnotationFile, choose
from ..catalog import AUDIO_EXTENSIONS, list_audio
from ..dataset_reader import DatasetReader, Option
from ..labeled import SEGMENT_COLUMNS, LabeledSong, SongReaders, Source, UnusableSongError, raising

SOURCE = Source("Audio and annotations of a folder.", "", "", "Not stated.")

COLUMNS = ("beats", *SEGMENT_COLUMNS, "tags")

# Endings that are nearly those of files of annotations.
_SINGULAR = {column.removesuffix("s"): column for column in ("beats", *SEGMENT_COLUMNS)}
_SUFFIXES = {".beats": "beats", ".tags": "tags"} | dict.fromkeys(SONG_SUFFIXES)


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
        ValueError: the source is empty, or the folders have neither audio nor annotations. The reader of a song raises
            it if two files differ only in their extension, or the column of a `.lab` file is not known.
    """
    folder, audio_folder = _check_folders(source, audio)
    if lab_task not in (None, *SEGMENT_COLUMNS):
        raise ValueError(f"`lab_task` must be one of {', '.join(SEGMENT_COLUMNS)}, got {lab_task!r}.")
    songs: dict[str, Path] = {}
    faulty: SongReaders = {}
    for path in list_audio(audio_folder):
        name = _name(path.relative_to(audio_folder).with_suffix(""))
        _put(songs, name, path, name, faulty)
    columns = {*COLUMNS, "jams"} - {name.partition("/")[0] for name in songs if "/" in name}
    paths: dict[str, dict[str, Path]] = {}
    annotations: dict[str, list[AnnotationFile]] = {}
    unread: list[Path] = []
    layers: list[tuple[str, str | None, Path]] = []  # without a kind in their names
    for path in list_files(folder):
        try:
            kind = _kind(path.relative_to(folder), columns, lab_task, path)
        except ValueError as error:
            faulty[_name(path.relative_to(folder).with_suffix(""))] = raising(error)
            continue
        if kind is None:
            unread.append(path.relative_to(folder))
            continue
        column, name = kind[0], _name(kind[1])
        has_kind = path.with_suffix("").suffix[1:].lower() == column
        if name not in songs and not has_kind and path.suffix.lower() in (".json", *LABEL_READERS):
            continue  # another file, such as the settings of a program
        if not has_kind and path.suffix.lower() in LABEL_READERS:
            layers.append((name, column, path))
            continue
        _put(paths.setdefault(name, {}), f"{column}{_format(path)}", path, name, faulty)
        annotations.setdefault(name, []).append(AnnotationFile(path, Path(kind[1]).name, column))
    for name, column, path in layers:
        if all(file.column != column for file in annotations.get(name, [])):
            annotations.setdefault(name, []).append(AnnotationFile(path, Path(name).name, column))
    if not (songs or annotations or faulty):
        raise ValueError(f"{folder} and {audio_folder} have neither audio nor annotations.")
    faulty = _not_annotated(unread, songs.keys() - annotations.keys()) | faulty
    readers = {
        name: partial(_read_song, name, songs.get(name), audio_folder, annotations.get(name, []), group_by_folder)
        for name in sorted(songs.keys() | annotations.keys() | faulty.keys())
    }
    return readers | faulty


def _check_folders(source: str | os.PathLike, audio: str | os.PathLike | None) -> tuple[Path, Path]:
    """Return the folders of annotations and of audio, or raise an error if one of them does not exist."""
    if not str(source):
        raise ValueError("The source is an empty text. Pass a folder; `.` is this folder.")
    folders = Path(source), Path(audio or source)
    for path in folders:
        if not path.is_dir():
            raise FileNotFoundError(f"The folder {path} does not exist")
    return folders


def _name(path: str | Path) -> str:
    """Return the id of a song. macOS stores accents separately from letters."""
    return unicodedata.normalize("NFC", Path(path).as_posix())


def _not_annotated(paths: Iterable[Path], names: Set[str]) -> SongReaders:
    """Return readers of songs without annotations that have files which are not read. They name these files."""
    files: dict[str, list[str]] = {}
    for path in paths:
        stem = path.with_suffix("")
        if path.suffix.lower() not in AUDIO_EXTENSIONS:
            for name in {_name(stem), _name(stem.with_suffix(""))} & names:
                files.setdefault(name, []).append(path.name)
    return {
        name: raising(UnusableSongError(f"It has no annotation. Not read: {', '.join(sorted(unread))}."))
        for name, unread in files.items()
    }


def _put(paths: dict[str, Path], key: str, path: Path, song: str, faulty: SongReaders) -> None:
    """Add a path, or, if its key is taken, make the song faulty."""
    if key in paths:
        faulty[song] = raising(ValueError(f"{paths[key]} and {path} are for the same song: keep one of them."))
    paths.setdefault(key, path)


def _format(path: Path) -> str:
    """Return the suffix of an annotation file, or an empty text for the formats of the package, which share it."""
    suffix = path.suffix.lower()
    return suffix if suffix in (*LABEL_READERS, *SONG_SUFFIXES) else ""


def _kind(path: Path, columns: Collection[str], lab_task: str | None, where: Path) -> tuple[str | None, str] | None:
    """
    Return the column and the song of an annotation file; `None` for other files. The column is `None` if the file has
    all annotations of the song. `path` is relative, and `columns` are the folders of annotations.
    """
    suffix = path.suffix.lower()
    folder = path.parts[0] if len(path.parts) > 1 and path.parts[0] in columns else None
    if folder:
        path = path.relative_to(folder)
    name = path.with_suffix("")
    ending = name.suffix[1:].lower()
    if ending in _SINGULAR and suffix in (".lab", *LABEL_READERS):
        right = f"{name.with_suffix('').name}.{_SINGULAR[ending]}{suffix}"
        raise ValueError(f"{where} has labels under a name that is not known: rename it to {right}.")
    if suffix in LABEL_READERS:
        if ending in ("beats", *SEGMENT_COLUMNS):
            return ending, name.with_suffix("").as_posix()
        is_layer = folder in ("beats", *SEGMENT_COLUMNS) and suffix != ".txt"  # a text may be anything
        return (folder, name.as_posix()) if is_layer else None
    if suffix != ".lab":
        return (_SUFFIXES[suffix], name.as_posix()) if suffix in _SUFFIXES else None
    if ending in ("beats", *SEGMENT_COLUMNS):
        return ending, name.with_suffix("").as_posix()
    if ending in {spec.column for spec in map(get_task, known_tasks())} - {*COLUMNS}:
        return None  # of a task whose labels this reader does not read
    column = folder if folder in COLUMNS else lab_task
    if column is None:
        raise ValueError(
            f"{where} may have chords, keys or sections: pass `--lab_task`, or rename it to {name.name}.chords.lab, "
            ".keys.lab or .sections.lab."
        )
    return column, name.as_posix()


def _read_song(
    name: str, audio: Path | None, folder: Path, files: list[AnnotationFile], group_by_folder: bool
) -> LabeledSong:
    """Read a song from its annotation files."""
    if audio is None:
        paths = ", ".join(str(file.path) for file in files)
        raise FileNotFoundError(f"No audio {name} exists in {folder}, for {paths}")
    chosen = choose(files, audio)
    annotations = {column: choice.events for column, choice in chosen.items()}
    places = {column: choice.place for column, choice in chosen.items()}
    group = Path(name).parent.as_posix() if group_by_folder else name
    return LabeledSong(name, audio, group, files=places, **annotations)


READER = DatasetReader(
    "folder",
    "your own audio and annotations",
    SOURCE,
    song_readers,
    (
        Option("lab_task", "column of files named NAME.lab", choices=SEGMENT_COLUMNS),
        Option("group_by_folder", "keep the songs of a folder in one split", type=bool, default=False),
    ),
    details="Annotations have the names of the audio: NAME.beats, NAME.chords.lab, NAME.sections.lab, NAME.keys.lab, "
    "NAME.tags, NAME.jams, the NAME.json of `musicfm annotate`, and labels that were corrected in Audacity "
    "(NAME.chords.txt and so on) or Sonic Visualiser (NAME.chords.csv or .svl). If several files have the same kind "
    "of label, those that were edited since `musicfm annotate` wrote them count.",
    is_own_data=True,
)
