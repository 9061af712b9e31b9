"""
Labels of passages: what sounds in them, from annotations of their songs.

A label belongs to a passage if at least a second of it, or all of it, sounds there. Tags hold for the whole song. The
tempo of a passage is that of the median interval between its beats.

Fields are named after the columns of the tasks, without the plural: `chord`, `section`, `key`, `tag`, and `tempo`
where a task has beats. So are those of tasks that are defined outside the package.
"""

import itertools
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from ..data.catalog import AUDIO_EXTENSIONS
from ..data.written_files import read_record
from ..tasks import TaskSpec, get_task, known_tasks
from ..tasks.annotations import PITCH_NAMES, Beats, Segment, read_beats, read_segments, read_tags
from ..tasks.events import MIN_TAG_PROBABILITY, from_json
from ..tasks.song_json import is_song
from ..training.files import write_safetensors
from .mapped_file import MappedFile
from .shards import PassageStore

TEMPO = "tempo"
LEAST_SECONDS = 1.0  # of a label that sounds in a passage
_READERS: dict[str, Callable[..., Any]] = {"beats": read_beats, "lab": read_segments, "tags": read_tags}
_ROOT = re.compile(r"([A-G])([#b]*)(?![a-z])(.*)", re.DOTALL)
_SEMITONES = dict(zip("CDEFGAB", (0, 2, 4, 5, 7, 9, 11), strict=True))


class PassageLabels:
    """
    Labels of the passages of an index.

    Args:
        names (`dict[str, list[str]]`): For each field, its distinct labels.
        arrays (`dict[str, np.ndarray]`): For each field, `FIELD.labels`, int32 indices of labels, and `FIELD.rows`,
            int64 `(passages + 1,)`: passage r has the labels from `rows[r]` to `rows[r + 1]`. `tempo`, float32
            `(passages,)` beats per minute, nan if unknown.
        num_songs (`int`): Number of songs with annotations.
    """

    def __init__(self, names: dict[str, list[str]], arrays: dict[str, np.ndarray], num_songs: int):
        self.names, self.arrays, self.num_songs = names, arrays, num_songs

    @property
    def fields(self) -> list[str]:
        """Fields that some passage has."""
        has_tempo = TEMPO in self.arrays and not np.isnan(self.arrays[TEMPO]).all()
        return [*(name for name, labels in self.names.items() if labels), *([TEMPO] if has_tempo else [])]

    @classmethod
    def read(cls, store: PassageStore, folder: str | os.PathLike) -> "PassageLabels":
        """
        Read the annotations of the songs of an index.

        Args:
            store ([`PassageStore`]): The passages.
            folder: Folder that `musicfm annotate` wrote: for the song `a/song.mp3`, files such as `a/song.json` and
                `a/song.chords.lab`. A file for one kind of annotation, which may be made or corrected by hand, takes
                precedence over the JSON file.

        Raises:
            ValueError: no song has annotations, or a file is malformed.
        """
        builder = _Builder(len(store))
        for song, record in enumerate(store.records()):
            events = read_song_events(folder, record.name, record.place, record.state)
            builder.add(store, song, events)
        if builder.num_songs == 0:
            raise ValueError(
                f"{folder} has annotations for none of the {store.num_songs} songs, such as {store.record(0).name}. "
                "Write them with `musicfm annotate`, for the same folder of songs."
            )
        return cls(*builder.result())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "PassageLabels":
        """Load the file that [`save`] wrote, memory-mapped."""
        file = MappedFile(path)
        return cls(json.loads(file.metadata["names"]), file.arrays, int(file.metadata["songs"]))

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file."""
        tensors = {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in self.arrays.items()}
        write_safetensors(path, tensors, {"names": json.dumps(self.names), "songs": str(self.num_songs)})

    def has_label(self, field: str, labels: set[int]) -> np.ndarray:
        """Return which passages have one of some labels of a field, bool `(passages,)`."""
        hits = np.isin(self.arrays[f"{field}.labels"], list(labels))
        before = np.concatenate([[0], np.cumsum(hits)])
        rows = self.arrays[f"{field}.rows"]
        return before[rows[1:]] > before[rows[:-1]]

    def of_passage(self, row: int) -> dict[str, Any]:
        """Return what sounds in a passage: labels by field, and the tempo in beats per minute."""
        result: dict[str, Any] = {}
        for field, names in self.names.items():
            start, stop = self.arrays[f"{field}.rows"][row : row + 2].tolist()
            if start < stop:
                result[field] = [names[label] for label in self.arrays[f"{field}.labels"][start:stop].tolist()]
        if TEMPO in self.arrays and not np.isnan(tempo := float(self.arrays[TEMPO][row])):
            result[TEMPO] = round(tempo, 1)
        return result


def field_of(spec: TaskSpec) -> str:
    """Return the name of the field of a task: its column, without the plural."""
    return spec.column.removesuffix("s")


def read_song_events(folder: str | os.PathLike, name: str, place: str = "", state: str = "") -> dict[str, Any]:
    """
    Read the annotations of a song, by column: [`Beats`], segments, or a list of tags. Tags in a JSON file count from
    a probability of one half on.

    Args:
        folder: Folder of the annotations.
        name (`str`): Name of the song. Its annotations have this name with or without the extension of the audio, or
            with a number after it, if `musicfm annotate` wrote them after those of another song of this name.
        place, state (`str`): Output of [`audio_place`] and [`audio_state`] for its audio. Annotations that were made
            from another file are not read, unless that file does not exist any more: then it was moved.

    Raises:
        ValueError: a file is malformed.
    """
    path = PurePosixPath(name)
    stem = path.with_suffix("").as_posix() if path.suffix.lower() in AUDIO_EXTENSIONS else name
    found: list[tuple[bool, dict[str, Any]]] = []
    for base in dict.fromkeys([name, stem]):
        for number in itertools.count(1):
            candidate = Path(folder) / (base if number == 1 else f"{base}-{number}")
            events = _read_events(candidate)
            if not events:
                break
            record = read_record(candidate)
            if number > 1 and not record:
                continue  # made by hand for a song of that name
            made_from = record.get("place", place)
            is_own = made_from == place or record.get("state") == state
            if is_own or not os.path.isfile(made_from):
                found.append((is_own, events))
    own = (events for is_own, events in found if is_own)
    return next(own, next((events for _, events in found), {}))


def _read_events(base: Path) -> dict[str, Any]:
    """Read the annotations in the files of a song; `base` is their path without the endings."""
    events: dict[str, Any] = {}
    json_file = base.with_name(f"{base.name}.json")
    content = _read_json(json_file)
    for spec in map(get_task, known_tasks()):
        file = base.with_name(f"{base.name}.{spec.file_ending}")
        if os.path.isfile(file):
            events[spec.column] = _READERS[spec.file_format](file)
        elif content.get(spec.column):
            events[spec.column] = _from_json(content[spec.column], f"{json_file}, {spec.column}")
    return events


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of annotations; empty if it does not exist or holds something else."""
    if not os.path.isfile(path):
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    return content if is_song(content) else {}


def _from_json(value: Any, place: str) -> Any:
    """Convert the events of a JSON file, which [`musicfm_hf.tasks.events.to_json`] describes."""
    events, _ = from_json(value, place)
    if isinstance(events, str):
        raise ValueError(f"{place}: this entry must be a list of beats or segments, or tags, got {events!r}.")
    if isinstance(events, Mapping):
        return [tag for tag, probability in events.items() if probability >= MIN_TAG_PROBABILITY]
    return events


class _Builder:
    """Collects the labels of songs, in the order of an index."""

    def __init__(self, num_rows: int):
        self.num_songs = 0
        self._names: dict[str, dict[str, int]] = {}
        self._labels: dict[str, list[int]] = {}
        self._counts: dict[str, np.ndarray] = {}
        self._tempo = np.full(num_rows, np.nan, np.float32)
        for spec in map(get_task, known_tasks()):
            field = field_of(spec)
            self._names[field], self._labels[field] = {}, []
            self._counts[field] = np.zeros(num_rows, np.int64)

    def add(self, store: PassageStore, song: int, events: Mapping[str, Any]) -> None:
        """Add the annotations of the next song."""
        self.num_songs += bool(events)
        rows = store.rows_of(song)
        starts, ends = (times.astype(np.float64) for times in store.times(rows))
        for spec in map(get_task, known_tasks()):
            values = events.get(spec.column)
            if values is None:
                continue
            if isinstance(values, Beats):
                self._tempo[rows] = _tempos(values.times, starts, ends)
                continue
            field = field_of(spec)
            for row, start, end in zip(rows.tolist(), starts, ends, strict=True):
                labels = _labels_between(values, start, end)
                self._labels[field] += [
                    self._names[field].setdefault(label, len(self._names[field])) for label in labels
                ]
                self._counts[field][row] = len(labels)

    def result(self) -> tuple[dict[str, list[str]], dict[str, np.ndarray], int]:
        """Return the arguments of [`PassageLabels`]."""
        arrays = {TEMPO: self._tempo}
        for field, counts in self._counts.items():
            arrays[f"{field}.labels"] = np.array(self._labels[field], np.int32)
            arrays[f"{field}.rows"] = np.concatenate([[0], np.cumsum(counts)])
        return {field: list(names) for field, names in self._names.items()}, arrays, self.num_songs


def _labels_between(values: list[Any], start: float, end: float) -> list[str]:
    """Return the distinct labels that sound between two times. Tags always do."""
    labels: dict[str, None] = {}
    for value in values:
        if not isinstance(value, Segment):
            labels[value] = None
        elif min(value.end, end) - max(value.start, start) >= min(LEAST_SECONDS, value.end - value.start) - 1e-6:
            labels[respelled(value.label)] = None
    return list(labels)


def _tempos(times: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the tempo between pairs of times in beats per minute; nan with fewer than three beats between them."""
    tempos = np.full(len(starts), np.nan)
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        inside = times[(times >= start) & (times < end)]
        if len(inside) >= 3:
            tempos[index] = 60 / np.median(np.diff(inside))
    return tempos


def respelled(label: str) -> str:
    """
    Return a label with the root of a chord or key spelled as in `PITCH_NAMES`, so that `Gb:min7` and `F#:min7` are the
    same. Other labels are returned unchanged.
    """
    match = _ROOT.fullmatch(label)
    if match is None:
        return label
    letter, accidentals, rest = match.groups()
    pitch = _SEMITONES[letter] + accidentals.count("#") - accidentals.count("b")
    return PITCH_NAMES[pitch % 12] + rest
