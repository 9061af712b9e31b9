"""
Labeled songs as a `datasets.DatasetDict` on disk, the format of every labeled data set in this package.

The splits are `train`, `validation` and `test`. The columns are `id`; `audio` (`bytes` and `path`); `duration` in
seconds; `transposition` in semitones, for transposed versions; `group`, whose songs are in one split; `beats` (`times`
in seconds, `positions` in the bar); `chords`, `sections` and `keys` (`starts` and `ends` in seconds, `labels` as
annotated); and `tags`. Annotations that a song does not have are null. A data set may have further columns like
`sections`.

`audio` has the values of a column `datasets.Audio(decode=False)`, but not its type, because `save_to_disk` would then
copy all files into the data set. Cast the column to that type before `push_to_hub`, which then also uploads the files.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks.annotations import Beats, Segment
from ..training.files import temporary_path
from .catalog import DatasetAudio
from .labeled import SEGMENT_COLUMNS, LabeledSong, Source
from .splits import SPLITS


def build(splits: Mapping[str, Sequence[LabeledSong]], source: Source) -> Any:
    """
    Build a `datasets.DatasetDict`. Splits without songs are left out, because `datasets` cannot load a split without
    rows.

    Args:
        splits: Songs by split, for the splits in `SPLITS`.
        source ([`Source`]): Description of the data set.

    Raises:
        ValueError: no split has songs.
    """
    from datasets import Dataset, DatasetDict, DatasetInfo

    if not any(splits.values()):
        raise ValueError("No song has audio and labels.")
    more = sorted({name for songs in splits.values() for song in songs for name in song.more})
    features = _features(more)
    info = DatasetInfo(source.description, source.citation, source.homepage, source.license, features)
    parts = {}
    for name in SPLITS:
        rows = [_to_row(song, more) for song in splits.get(name, [])]
        if not rows:
            continue
        columns = {column: [row[column] for row in rows] for column in features}
        parts[name] = Dataset.from_dict(columns, info=info.copy(), split=name)
    return DatasetDict(parts)


def save(dataset: Any, output: str | os.PathLike, write_files: Callable[[Path], None] = lambda folder: None) -> None:
    """
    Write a `DatasetDict` to a folder that may hold other files. An older data set is replaced when the new one is
    complete. If the process is killed while replacing it, the folder has no data set.

    Args:
        dataset (`datasets.DatasetDict`): Output of [`build`].
        output: Folder to write to; created if needed.
        write_files (`Callable`, *optional*): Function that writes further files of the data set to a given folder.

    Raises:
        FileExistsError: the folder of a split exists and is not part of a data set.
    """
    output = Path(output)
    for split in dataset:
        if (output / split).exists() and not (output / split / "state.json").is_file():
            raise FileExistsError(f"{output / split} is not part of a data set: choose another folder.")
    unfinished = temporary_path(output / "dataset")
    try:
        dataset.save_to_disk(unfinished)
        files = unfinished / "files"
        files.mkdir()
        write_files(files)
        (output / "dataset_dict.json").unlink(missing_ok=True)  # without it, the folder has no data set
        for path in files.iterdir():
            (output / path.name).unlink(missing_ok=True)
        for split in SPLITS:
            if (output / split / "state.json").is_file():
                os.replace(output / split, unfinished / f"earlier_{split}")  # never half deleted
            if split in dataset:
                os.replace(unfinished / split, output / split)
        for path in files.iterdir():
            os.replace(path, output / path.name)
        os.replace(unfinished / "dataset_dict.json", output / "dataset_dict.json")
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_songs(path: str | os.PathLike, split: str) -> list[LabeledSong]:
    """
    Load the songs of a split.

    Args:
        path: A folder written by [`save`], or the ID of a data set on the Hub with the same columns.
        split (`str`): train, validation or test.

    Raises:
        FileNotFoundError: the folder has no labeled data set.
        ValueError: the data set lacks the split, or lacks columns of a labeled data set.
    """
    from datasets import Audio

    dataset = _load(path)
    if split not in dataset:
        raise ValueError(f"{path} has no split {split!r}, only {', '.join(dataset)}.")
    rows = dataset[split]
    if missing := [name for name in _features([]) if name not in rows.column_names]:
        raise ValueError(f"{path} has no column {', '.join(missing)}: `musicfm prepare` makes labeled data sets.")
    # `datasets` would decode a column of the type `Audio`.
    rows = rows.cast_column("audio", Audio(decode=False))
    audio = rows.select_columns("audio")
    return [_from_row(row, split, DatasetAudio(audio, index, "audio")) for index, row in enumerate(rows)]


def load_songs_of(paths: Sequence[str | os.PathLike], split: str) -> list[LabeledSong]:
    """
    Load the songs of a split of several data sets. Songs of different data sets that have the same id get the name of
    their data set as a prefix. For arguments and errors, see [`load_songs`] and [`make_ids_unique`].
    """
    loaded = {str(path): {split: load_songs(path, split)} for path in paths}
    make_ids_unique(loaded)
    return [song for splits in loaded.values() for song in splits[split]]


def make_ids_unique(loaded: dict[str, dict[str, list[LabeledSong]]]) -> None:
    """
    Prefix the ids of songs that songs of other data sets have too, in place.

    Args:
        loaded: Path of a data set → split → songs.

    Raises:
        ValueError: data sets whose songs need a prefix have the same name.
    """
    ids = {folder: {song.id for songs in splits.values() for song in songs} for folder, splits in loaded.items()}
    counts = Counter(song_id for of_folder in ids.values() for song_id in of_folder)
    names = [Path(folder).name for folder in loaded if any(counts[song_id] > 1 for song_id in ids[folder])]
    if len(set(names)) < len(names):
        raise ValueError(
            f"Several data sets are named {max(names, key=names.count)} and have songs with the same ids: rename one."
        )
    for folder, splits in loaded.items():
        for split, songs in splits.items():
            splits[split] = [
                replace(song, id=f"{Path(folder).name}/{song.id}") if counts[song.id] > 1 else song for song in songs
            ]


def split_names(path: str | os.PathLike) -> list[str]:
    """Return the names of the splits of a data set. For errors, see [`load_songs`]."""
    return list(_load(path))


def _load(path: str | os.PathLike) -> Any:
    """Load the `datasets.DatasetDict`."""
    from datasets import load_dataset, load_from_disk

    folder = Path(path)
    if not (folder / "dataset_dict.json").is_file() and folder.exists():
        raise FileNotFoundError(f"{folder} has no labeled data set: create one with `musicfm prepare`.")
    return load_from_disk(str(path)) if folder.exists() else load_dataset(str(path))


def _features(more: Sequence[str]) -> Any:
    """Return the features of the columns, including further columns of segments."""
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


def _to_row(song: LabeledSong, more: Sequence[str]) -> dict[str, Any]:
    """Return the row of a song; `more` names the further columns."""
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
    """Convert segments to their form in a row."""
    if segments is None:
        return None
    starts, ends, labels = map(list, zip(*segments, strict=True)) if segments else ([], [], [])
    return {"starts": starts, "ends": ends, "labels": labels}


def _from_row(row: Mapping[str, Any], split: str, content: DatasetAudio) -> LabeledSong:
    """Return the song of a row. Bytes of audio stay in the data set; `content` reads them on access."""
    segments = {
        name: _segments(value)
        for name, value in row.items()
        if name in SEGMENT_COLUMNS or (isinstance(value, Mapping) and value.keys() == {"starts", "ends", "labels"})
    }
    beats = row["beats"]
    has_beats = beats is not None and beats["times"] is not None
    known: dict[str, Any] = {name: row[name] for name in ("id", "group", "duration", "transposition", "tags")}
    known |= {name: segments.pop(name) for name in SEGMENT_COLUMNS}
    return LabeledSong(
        **known,
        audio=row["audio"]["path"] if row["audio"]["bytes"] is None else content,
        split=split,
        beats=_beats(beats["times"], beats["positions"]) if has_beats else None,
        more=segments,
    )


def _beats(times: Sequence[float], positions: Sequence[int]) -> Beats:
    """Convert beats from their form in a row."""
    return Beats(np.array(times, dtype=np.float64), np.array(positions, dtype=np.int64))


def _segments(value: Mapping[str, list] | None) -> list[Segment] | None:
    """Convert segments from their form in a row."""
    if value is None or value["starts"] is None:
        return None
    return [Segment(*columns) for columns in zip(value["starts"], value["ends"], value["labels"], strict=True)]
