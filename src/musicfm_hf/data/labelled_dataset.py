"""
Songs with labels, as a `datasets.DatasetDict` on disk: what every labelled data set looks like here.

Splits are `train`, `validation` and `test`. Columns: `id`; `audio` (`bytes` and `path`); `duration` in seconds;
`transposition` in semitones, of versions that are made; `group`, the songs of which are in one split; `beats` (`times`
in seconds, `positions` in the bar); `chords`, `sections` and `keys` (`starts` and `ends` in seconds, `labels` as they
were annotated); `tags`. What a song was not annotated with is null. A data set may have more columns like `sections`.

`audio` is what a column `datasets.Audio(decode=False)` gives, but not of that type: `save_to_disk` would copy all
files into the data set. Cast it to that type before `push_to_hub`, which then takes the files along.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks.annotations import Beats, Segment
from .catalogue import DatasetAudio
from .labelled import SEGMENT_COLUMNS, SPLITS, LabelledSong, Source


def build(splits: Mapping[str, Sequence[LabelledSong]], source: Source) -> Any:
    """
    A `datasets.DatasetDict` with those of `SPLITS` that have songs (`datasets` cannot load what has no rows).

    Raises:
        ValueError: there are no songs at all.
    """
    from datasets import Dataset, DatasetDict, DatasetInfo

    if not any(splits.values()):
        raise ValueError("There are no songs with audio and labels.")
    more = sorted({name for songs in splits.values() for song in songs for name in song.more})
    features = _features(more)
    info = DatasetInfo(source.description, source.citation, source.homepage, source.licence, features)
    parts = {}
    for name in SPLITS:
        rows = [_to_row(song, more) for song in splits.get(name, [])]
        if not rows:
            continue
        columns = {column: [row[column] for row in rows] for column in features}
        parts[name] = Dataset.from_dict(columns, info=info.copy(), split=name)
    return DatasetDict(parts)


def save(dataset: Any, output: str | os.PathLike) -> None:
    """
    Write a `DatasetDict` to a folder, beside what else is there. An older one is replaced once the new is complete.

    Raises:
        FileExistsError: where a split is to be, there is something else.
    """
    output = Path(output)
    for split in dataset:
        if (output / split).exists() and not (output / split / "state.json").is_file():
            raise FileExistsError(f"{output / split} is no part of a data set: give another folder.")
    unfinished = output / f".unfinished.{os.getpid()}"
    try:
        dataset.save_to_disk(unfinished)
        (output / "dataset_dict.json").unlink(missing_ok=True)
        for split in SPLITS:
            if (output / split / "state.json").is_file():
                shutil.rmtree(output / split)
            if split in dataset:
                (unfinished / split).replace(output / split)
        (unfinished / "dataset_dict.json").replace(output / "dataset_dict.json")
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_songs(path: str | os.PathLike, split: str) -> list[LabelledSong]:
    """
    The songs of a split of a data set that [`save`] wrote, or of one on the Hub with the same columns.

    Raises:
        FileNotFoundError: there is no such data set.
        ValueError: it has no such split, or no such columns.
    """
    from datasets import Audio

    dataset = _load(path)
    if split not in dataset:
        raise ValueError(f"{path} has no split {split!r}, only {', '.join(dataset)}.")
    rows = dataset[split]
    if missing := [name for name in _features([]) if name not in rows.column_names]:
        raise ValueError(f"{path} has no column {', '.join(missing)}: is it a labelled data set of this package?")
    # Where the column is `Audio`, `datasets` would decode it.
    rows = rows.cast_column("audio", Audio(decode=False))
    audio = rows.select_columns("audio")
    return [_from_row(row, split, DatasetAudio(audio, index, "audio")) for index, row in enumerate(rows)]


def split_names(path: str | os.PathLike) -> list[str]:
    """Which splits a data set has; raises as [`load_songs`]."""
    return list(_load(path))


def _load(path: str | os.PathLike) -> Any:
    """The `datasets.DatasetDict`."""
    from datasets import load_dataset, load_from_disk

    folder = Path(path)
    if not (folder / "dataset_dict.json").is_file() and folder.exists():
        raise FileNotFoundError(f"{folder} has no labelled data set: make one with recipes/prepare.py.")
    return load_from_disk(str(path)) if folder.exists() else load_dataset(str(path))


def _features(more: Sequence[str]) -> Any:
    """The columns."""
    from datasets import Features, List, Value

    times, text = List(Value("float64")), List(Value("string"))
    segments = {"starts": times, "ends": times, "labels": text}
    return Features(
        {"id": Value("string"), "audio": {"bytes": Value("binary"), "path": Value("string")}}
        | {"duration": Value("float64"), "transposition": Value("int32"), "group": Value("string")}
        | {"beats": {"times": times, "positions": List(Value("int32"))}}
        | {name: dict(segments) for name in (*SEGMENT_COLUMNS, *more)}
        | {"tags": text}
    )


def _to_row(song: LabelledSong, more: Sequence[str]) -> dict[str, Any]:
    beats = song.beats and {"times": np.asarray(song.beats.times), "positions": np.asarray(song.beats.positions)}
    audio = (
        dict(song.audio)
        if isinstance(song.audio, Mapping)
        else {"bytes": None, "path": str(Path(song.audio).absolute())}
    )
    row = {"id": song.id, "audio": audio, "duration": song.duration}
    row |= {"transposition": song.transposition, "group": song.group, "beats": beats, "tags": song.tags}
    segments = dict.fromkeys(more) | song.segments()
    return row | {name: _columns(values) for name, values in segments.items()}


def _columns(segments: Sequence[Segment] | None) -> dict[str, list] | None:
    if segments is None:
        return None
    starts, ends, labels = map(list, zip(*segments, strict=True)) if segments else ([], [], [])
    return {"starts": starts, "ends": ends, "labels": labels}


def _from_row(row: Mapping[str, Any], split: str, content: DatasetAudio) -> LabelledSong:
    """A song; `content` is its audio, if that is in the data set, where it stays until it is read."""
    segments = {
        name: _segments(value)
        for name, value in row.items()
        if name in SEGMENT_COLUMNS or (isinstance(value, Mapping) and value.keys() == {"starts", "ends", "labels"})
    }
    beats = row["beats"]
    if beats is not None and beats["times"] is not None:
        beats = Beats(np.array(beats["times"], dtype=np.float64), np.array(beats["positions"], dtype=np.int64))
    return LabelledSong(
        **{name: row[name] for name in ("id", "group", "duration", "transposition", "tags")},
        **{name: segments.pop(name) for name in SEGMENT_COLUMNS},
        audio=row["audio"]["path"] if row["audio"]["bytes"] is None else content,
        split=split,
        beats=beats if isinstance(beats, Beats) else None,
        more=segments,
    )


def _segments(value: Mapping[str, list] | None) -> list[Segment] | None:
    if value is None or value["starts"] is None:
        return None
    return [Segment(*columns) for columns in zip(value["starts"], value["ends"], value["labels"], strict=True)]
