"""Labelled songs: reading, checking, splitting."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..audio.reading import audio_length, load_audio
from ..tasks import get_task, known_tasks
from ..tasks.annotations import Beats, Segment, check_beats, check_segments, line_of
from .catalogue import AUDIO_EXTENSIONS
from .sources import hash_name

SPLITS = ("train", "validation", "test")

FRACTIONS = (0.8, 0.1, 0.1)  # of songs whose source says nothing of splits

SEGMENT_COLUMNS = ("chords", "sections", "keys")

_PARSERS = {spec.column: spec.parse for spec in map(get_task, known_tasks()) if spec.parse is not None}


class Source(NamedTuple):
    """Where a data set comes from, as `datasets.DatasetInfo` has it."""

    description: str
    citation: str
    homepage: str
    licence: str


class LeftOutError(ValueError):
    """A song cannot be used, and its annotations are not to blame."""


class Problem(NamedTuple):
    """A song that is left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class LabelledSong:
    """
    A song and what is known of it. Annotations are `None` where there are none.

    Attributes:
        id (`str`): Its name in the data set.
        audio: A path; or a mapping with `bytes` or `path`, as [`musicfm_hf.audio.load_audio`] takes it.
        group (`str`): Songs of one group are in one split.
        split (`str`, *optional*): train, validation or test; drawn by the group where it is `None`.
        duration (`float`): Seconds of audio; 0 until it was looked up.
        transposition (`int`): Semitones by which the audio was transposed, and the labels with it.
        beats (`Beats`): Seconds and positions in the bar.
        chords, sections, keys (`list[Segment]`): Seconds and labels as annotated.
        tags (`list[str]`): What is true of the whole song.
        more (`dict[str, list[Segment]]`): Further columns, such as the sections of another annotator.
        files (`dict[str, str]`): By column, where an annotation was read: what errors call it.
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
    more: Mapping[str, list[Segment]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def segments(self) -> dict[str, list[Segment] | None]:
        """All its annotations that are segments, by column."""
        return {name: getattr(self, name) for name in SEGMENT_COLUMNS} | dict(self.more)


class AudioFolder:
    """
    The audio files below a folder, found by name without extension, however their accents are encoded.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"There is no folder {self.folder}")
        self._paths: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() in AUDIO_EXTENSIONS and not path.name.startswith("."):
                self._paths.setdefault(unicodedata.normalize("NFC", path.stem), []).append(path)

    def find(self, *names: str) -> Path:
        """
        The file with the first of these names that is there.

        Raises:
            FileNotFoundError: there is none.
            ValueError: there are several of one name.
        """
        for name in names:
            if paths := self._paths.get(unicodedata.normalize("NFC", name)):
                if len(paths) > 1:
                    raise ValueError(f"{name} may be any of {', '.join(map(str, paths))}: keep one of them.")
                return paths[0]
        raise FileNotFoundError(f"There is no audio {' or '.join(names)} in {self.folder}")


def read_all(
    readers: Iterable[tuple[str, Callable[[], LabelledSong]]], skip_faulty: bool = False
) -> tuple[list[LabelledSong], list[Problem]]:
    """
    Read songs, look up how long they are, and check their labels.

    Args:
        readers: Ids, and what reads the song.
        skip_faulty (`bool`): Leave songs out whose annotations are wrong, instead of raising.

    Returns:
        The songs, and those that are left out as there is no audio that can be read, or no label.

    Raises:
        ValueError: an annotation is wrong; names the file and the place in it.
    """
    songs, problems = [], []
    for name, read in readers:
        try:
            if not _is_text(name):
                raise LeftOutError("Its name is not UTF-8: rename the file.")
            song = read()
            song = replace(song, duration=_duration(song))
            check_song(song)
            songs.append(song)
        except (FileNotFoundError, LeftOutError) as error:
            problems.append(Problem(name, str(error)))
        except ValueError as error:
            if not skip_faulty:
                raise
            problems.append(Problem(name, str(error)))
    return songs, problems


def _is_text(name: str) -> bool:
    """Whether a name is Unicode; Python can read files whose names are not, but nobody could write them down."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _duration(song: LabelledSong) -> float:
    """Seconds that its header promises and that are there: its end is read."""
    try:
        samples, rate = audio_length(song.audio)
        load_audio(song.audio, rate, start=max(0.0, samples / rate - 1), duration=1.0)
    except ValueError as error:
        raise LeftOutError(str(error)) from error
    return samples / rate


def check_song(song: LabelledSong) -> None:
    """
    Raises:
        ValueError: annotations overlap, are out of order or out of the audio, a chord is not in the syntax of
            `mir_eval.chord`, a key is none that [`parse_key`] knows, or a tag is empty; says where.
        LeftOutError: it has no annotation.
    """
    has_beats = song.beats is not None and len(song.beats.times) > 0
    if not has_beats and song.tags is None and not any(song.segments().values()):
        raise LeftOutError("It has no annotation.")
    if song.beats is not None:
        check_beats(song.beats, partial(_place, song, "beats", "beat", song.beats.times), song.duration)
    for column, segments in song.segments().items():
        place = partial(_place, song, column, "segment", [segment.start for segment in segments or []])
        check_segments(segments or [], place, song.duration)
        parse = _PARSERS.get(column, str)
        for index, segment in enumerate(segments or []):
            try:
                parse(segment.label)
            except ValueError as error:
                raise ValueError(f"{place(index)}: {error}") from error
    if any(not tag.strip() for tag in song.tags or []):
        raise ValueError(f"{song.files.get('tags', song.id)}: a tag is empty.")


def _place(song: LabelledSong, column: str, kind: str, starts: Sequence[float], index: int) -> str:
    """What errors call one of the beats or segments with these starts: its line, where its file has one."""
    where = song.files.get(column, f"{song.id}, {column}")
    line = line_of(where, index, len(starts), starts[index]) if column in song.files else None
    return line or f"{where}, {kind} {index + 1}"


def assign_splits(
    songs: Iterable[LabelledSong], seed: int = 0, fractions: Sequence[float] = FRACTIONS
) -> dict[str, list[LabelledSong]]:
    """
    Songs by split. Those that do not say theirs are divided by a hash of their group and the seed: where a song goes
    does not depend on which others are there.

    Raises:
        ValueError: fractions are not three numbers from 0 that sum to 1, a split is none of `SPLITS`, two songs have
            the same id, or none of the songs is in a split whose fraction is above 0.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"`fractions` of {', '.join(SPLITS)} must be 0 or more and sum to 1, got {list(fractions)}.")
    bounds = np.cumsum(fractions)[:2]
    splits: dict[str, list[LabelledSong]] = {name: [] for name in SPLITS}
    ids, drawn = set(), False
    for song in songs:
        if song.id in ids:
            raise ValueError(f"Two songs have the id {song.id!r}.")
        ids.add(song.id)
        if song.split is None:
            drawn = True
            place = hash_name(song.group, seed) / 2**63
            song = replace(song, split=SPLITS[int(np.searchsorted(bounds, place, side="right"))])
        if song.split not in splits:
            raise ValueError(f"{song.id} has split {song.split!r}, which is none of {', '.join(SPLITS)}.")
        splits[song.split].append(song)
    empty = [name for name, part in zip(SPLITS, fractions, strict=True) if part > 0 and not splits[name]]
    if drawn and empty:
        raise ValueError(f"No song came to {', '.join(empty)}: take another seed or other fractions.")
    return splits
