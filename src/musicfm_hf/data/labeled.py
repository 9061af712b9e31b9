"""Labeled songs: a class for songs and their annotations, and functions that read songs and check their labels."""

import os
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..audio.reading import audio_length, load_audio
from ..tasks import get_task, known_tasks
from ..tasks.annotations import Beats, Segment, check_beats, check_segments, line_of
from .catalog import list_audio

SEGMENT_COLUMNS = ("chords", "sections", "keys")


class Source(NamedTuple):
    """Description of a data set, its citation (BibTeX), homepage and license, as in `datasets.DatasetInfo`."""

    description: str
    citation: str
    homepage: str
    license: str


class UnusableSongError(ValueError):
    """Raised if a song cannot be used, for a reason other than wrong annotations."""


class Problem(NamedTuple):
    """
    A song that is left out, or a part of its annotations that is.

    Attributes:
        id (`str`): Name of the song.
        reason (`str`): Reason, which names the file.
        kind (`str`): `missing` if the song has no audio or no annotation, `wrong` if an annotation is wrong, `error`
            if its reader failed, `part` if the rest of the song is used.
    """

    id: str
    reason: str
    kind: str = "missing"


@dataclass(frozen=True)
class LabeledSong:
    """
    A song and its annotations. An annotation is `None` if the song does not have it.

    Attributes:
        id (`str`): Name of the song in its data set.
        audio: A path, or a mapping with `bytes` or `path`, for [`musicfm_hf.load_audio`].
        group (`str`): Group of the song; songs of one group are kept in one split.
        split (`str`, *optional*): train, validation or test; if `None`, the split is chosen by the group.
        duration (`float`): Seconds of audio; 0 until [`read_all`] sets it.
        transposition (`int`): Semitones by which audio and labels were transposed.
        beats (`Beats`): Times in seconds, and positions in the bar.
        chords, sections, keys (`list[Segment]`): Start and end in seconds, and labels as annotated.
        tags (`list[str]`): Labels of the whole song.
        more (`dict[str, list[Segment]]`): Further columns, such as the sections of a second annotator.
        files (`dict[str, str]`): Column → file of the annotation, for error messages.
        problems (`list[str]`): Parts of the annotations that the reader left out because they are wrong, with reasons.
    """

    id: str
    audio: Any
    group: str
    split: str | None = None
    duration: float = 0.0
    transposition: int = 0
    beats: Beats | None = None
    chords: list[Segment] | None = None
    sections: list[Segment] | None = None
    keys: list[Segment] | None = None
    tags: list[str] | None = None
    more: Mapping[str, list[Segment] | None] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()

    def segments(self) -> dict[str, list[Segment] | None]:
        """Return all annotations that consist of segments, keyed by column."""
        return {name: getattr(self, name) for name in SEGMENT_COLUMNS} | dict(self.more)


# Song id → function that reads the song.
SongReaders = dict[str, Callable[[], LabeledSong]]


class AudioFolder:
    """
    The audio files below a folder, by name without extension. Names match regardless of the Unicode form of accents.

    Raises:
        FileNotFoundError: the folder does not exist.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"The folder {self.folder} does not exist")
        self._paths: dict[str, list[Path]] = {}
        for path in list_audio(self.folder):
            self._paths.setdefault(unicodedata.normalize("NFC", path.stem), []).append(path)

    def find(self, *names: str) -> Path:
        """
        Return the file with the first of these names that exists.

        Raises:
            FileNotFoundError: no file with one of the names exists.
            ValueError: several files have the same name.
        """
        for name in names:
            if paths := self._paths.get(unicodedata.normalize("NFC", name)):
                if len(paths) > 1:
                    raise ValueError(f"{name} may be any of {', '.join(map(str, paths))}: keep one of them.")
                return paths[0]
        raise FileNotFoundError(f"No audio {' or '.join(names)} exists in {self.folder}")


def read_all(
    readers: Iterable[tuple[str, Callable[[], LabeledSong]]], strict: bool = False
) -> tuple[list[LabeledSong], list[Problem]]:
    """
    Read songs, look up their durations, and check their labels. Songs that cannot be read or whose annotations are
    wrong are left out. Truncated audio is used as far as it goes, and is a problem.

    Args:
        readers: Song ids and functions that read the songs.
        strict (`bool`): Raise an error for wrong annotations and for errors of a reader.

    Returns:
        The songs, and the problems in the order of the songs.

    Raises:
        ValueError: with `strict`, an annotation is wrong; the message names the file and the place in it.
        Exception: with `strict`, a reader raises it.
    """
    songs, problems = [], []
    ids: set[str] = set()
    for name, read in readers:
        try:
            if not _is_text(name):
                raise UnusableSongError("Its name is not UTF-8: rename the file.")
            song = read()
            with warnings.catch_warnings(record=True) as remarks:  # for example, that the audio is truncated
                warnings.simplefilter("always", UserWarning)
                song = replace(song, duration=audio_seconds(song.audio))
            check_song(song)
            if song.id in ids:
                raise ValueError(f"Two songs have the id {song.id!r}.")
            if strict and song.problems:
                raise ValueError(song.problems[0])
        except (FileNotFoundError, UnusableSongError) as error:
            problems.append(Problem(name, str(error)))
        except Exception as error:  # a reader may fail in any way, and its other songs may be fine
            if strict:
                error.add_note(f"The error is in song {name!r}.")
                raise
            problems.append(_failure(name, error))
        else:
            songs.append(song)
            ids.add(song.id)
            texts = [str(remark.message) for remark in remarks if issubclass(remark.category, UserWarning)]
            texts += [*song.problems, *_remarks(song)]
            problems += [Problem(name, text, "part") for text in texts]
    return songs, problems


def _remarks(song: LabeledSong) -> list[str]:
    """Return the remarks of the tasks on the annotations of a song."""
    return [
        f"{song.files.get(spec.column, spec.column)}: {text}"
        for spec in map(get_task, known_tasks())
        if spec.remarks is not None and spec.is_annotated(song)
        for text in spec.remarks(spec.annotation_of(song), song.duration)
    ]


def raising(error: Exception) -> Callable[[], LabeledSong]:
    """Return a function that raises the error, for songs of which a table or a folder says that they are wrong."""

    def read() -> LabeledSong:
        raise error

    return read


def _failure(name: str, error: Exception) -> Problem:
    """Return the problem of a song whose reader raised an error, with the line of code unless it is a message."""
    if type(error) is ValueError:
        return Problem(name, str(error), "wrong")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return Problem(name, f"The reader failed ({type(error).__name__}: {error}{where}).", "error")


def _is_text(name: str) -> bool:
    """
    Return whether a name is valid Unicode. Python can read files with other names, but data sets cannot store them.
    """
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def audio_seconds(audio: Any) -> float:
    """
    Return the duration of audio in seconds, according to its header. The last second is decoded to check that it
    exists.

    Args:
        audio: As for [`musicfm_hf.load_audio`].

    Raises:
        FileNotFoundError: the file does not exist.
        UnusableSongError: the audio cannot be read.
    """
    try:
        samples, rate = audio_length(audio)
        load_audio(audio, rate, start=max(0.0, samples / rate - 1), duration=1.0)
    except ValueError as error:
        raise UnusableSongError(str(error)) from error
    return samples / rate


def check_audio(splits: Mapping[str, Sequence[LabeledSong]], min_seconds: float = 0.0) -> None:
    """
    Check, before a training, that all audio files exist and are long enough, and that those of validation and test
    songs can be read: training leaves out songs that cannot, but scores are those of all songs.

    Args:
        splits: Songs by the name of their split, which may follow that of a task, as in `key/train`.
        min_seconds (`float`): Seconds of audio that the model needs.

    Raises:
        FileNotFoundError: a file does not exist.
        UnusableSongError: songs are too short, or the audio of a validation or test song cannot be read.
    """
    for split, songs in splits.items():
        audio = [song.audio if isinstance(song.audio, Mapping) else {"path": song.audio} for song in songs]
        missing = [one["path"] for one in audio if not one.get("bytes") and not Path(one["path"]).is_file()]
        if missing:
            raise FileNotFoundError(
                f"The audio of {len(missing)} of {len(songs)} {split} songs does not exist, such as {missing[0]}. Put "
                "it back, or prepare the data again."
            )
        short = [f"{song.id} ({song.duration:.3f} s)" for song in songs if song.duration < min_seconds]
        if short:
            raise UnusableSongError(
                f"{len(short)} of {len(songs)} {split} songs are shorter than the {min_seconds:.3f} s that the model "
                f"needs, such as {short[0]}. Leave them out, and prepare the data again."
            )
        for song in songs if split.rpartition("/")[2] != "train" else ():
            try:
                audio_seconds(song.audio)
            except UnusableSongError as error:
                raise UnusableSongError(f"{split} song {song.id}: {error} Prepare the data again.") from error


def check_song(song: LabeledSong) -> None:
    """
    Check the annotations of a song.

    Raises:
        ValueError: annotations overlap, are out of order or outside the audio, a chord is not in the syntax of
            `mir_eval.chord`, [`parse_key`] rejects a key, or a tag is empty; or the split does not exist, or a text is
            not valid Unicode. The message names the place.
        UnusableSongError: the song has no annotation.
    """
    has_beats = song.beats is not None and len(song.beats.times) > 0
    if not has_beats and song.tags is None and not any(song.segments().values()):
        raise UnusableSongError("It has no annotation.")
    if song.beats is not None:
        check_beats(song.beats, partial(_place, song, "beats", "beat", song.beats.times.tolist()), song.duration)
    parsers = {spec.column: spec.parse for spec in map(get_task, known_tasks()) if spec.parse is not None}
    for column, segments in song.segments().items():
        place = partial(_place, song, column, "segment", [segment.start for segment in segments or []])
        check_segments(segments or [], place, song.duration)
        parse = parsers.get(column, str)
        for index, segment in enumerate(segments or []):
            try:
                parse(segment.label)
            except ValueError as error:
                raise ValueError(f"{place(index)}: {error}") from error
    if song.split not in (None, "train", "validation", "test"):
        raise ValueError(f"{song.id} has split {song.split!r}, which is not one of train, validation, test.")
    if isinstance(song.tags, str):
        raise ValueError(f"{song.files.get('tags', song.id)}: tags must be a list, got the text {song.tags!r}.")
    if any(not tag.strip() for tag in song.tags or []):
        raise ValueError(f"{song.files.get('tags', song.id)}: a tag is empty.")
    labels = [segment.label for segments in song.segments().values() for segment in segments or []]
    paths = [] if isinstance(song.audio, Mapping) else [os.fspath(song.audio)]
    texts = (song.id, song.group, *paths, *labels, *(song.tags or []))
    if broken := [text for text in texts if not _is_text(text)]:
        raise ValueError(f"{song.id}: {broken[0]!r} is not valid Unicode.")


def _place(song: LabeledSong, column: str, kind: str, starts: Sequence[float], index: int) -> str:
    """Return the name of a beat or segment for error messages: the line of its file, if it has one item per line."""
    where = song.files.get(column, f"{song.id}, {column}")
    line = line_of(where, index, len(starts), starts[index]) if column in song.files else None
    return line or f"{where}, {kind} {index + 1}"
