"""
Read tracks of data sets with mirdata.

Each data set is a folder in the layout of mirdata, described at mirdata.readthedocs.io. Nothing is downloaded unless
the user requests it; the index of a data set, a list of its files, has to be downloaded once.
"""

import csv
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks.annotations import Beats, Segment
from ..tasks.values import to_position
from .dataset_reader import Option
from .labeled import AudioFolder, LabeledSong, SongReaders

DOWNLOAD = Option("download", "let mirdata download its index, and the files that it can", type=bool, default=False)


def track_readers(
    name: str,
    read: Callable[[Any, AudioFolder], LabeledSong],
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    download: bool = False,
) -> SongReaders:
    """
    Return the readers of the songs of a data set, keyed by mirdata's ids.

    Args:
        name (`str`): mirdata's name of the data set.
        read (`Callable`): `(track, audio files)` → the song.
        source: mirdata's `data_home`.
        audio: Folder to search by name for audio that is not where mirdata expects it.
        download (`bool`): Let mirdata download its index, and the files that it can.

    Raises:
        FileNotFoundError: the folder or the index does not exist.
        ImportError: mirdata is not installed.
    """
    try:
        import mirdata
    except ModuleNotFoundError as error:
        raise ImportError("This data set is read with mirdata: `pip install mirdata`.") from error
    dataset = mirdata.initialize(name, data_home=str(source))
    if download:
        dataset.download()
    if not Path(dataset.index_path).is_file():
        raise FileNotFoundError(
            f"{dataset.index_path} does not exist; it lists the files that mirdata needs. With `--download`, mirdata "
            "downloads it, and the files that it can."
        )
    files = AudioFolder(audio or source)
    return {track_id: partial(_read_track, dataset, track_id, read, files) for track_id in dataset.track_ids}


def _read_track(
    dataset: Any, track_id: str, read: Callable[[Any, AudioFolder], LabeledSong], files: AudioFolder
) -> LabeledSong:
    """Read a song; its entry in the index may be wrong."""
    return read(dataset.track(track_id), files)


def read_annotation(track: Any, name: str, path: str | None) -> Any:
    """
    Return an annotation of a track, read by mirdata, or `None` if the index has none.

    Raises:
        FileNotFoundError: the file of the annotation does not exist.
        ValueError: mirdata cannot read the file.
    """
    if path is None:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}, which has the {name} of {track.track_id}, does not exist")
    try:
        return getattr(track, name)
    except (ValueError, TypeError, IndexError, csv.Error) as error:
        raise ValueError(f"{path}: mirdata cannot read it ({error}).") from error


def find_audio(track: Any, files: AudioFolder) -> Path:
    """Return the audio of a track, at mirdata's path or by its name. For errors, see [`AudioFolder`]."""
    path = Path(track.audio_path)
    return path if path.is_file() else files.find(path.stem)


def to_beats(annotation: Any) -> Beats | None:
    """Convert beats of mirdata. Unknown positions become 0. Positions between two numbers raise a `ValueError`."""
    if annotation is None:
        return None
    times = np.asarray(annotation.times, dtype=np.float64)
    values = np.zeros(len(times)) if annotation.positions is None else annotation.positions
    positions = [to_position(value, f"beat {number}") for number, value in enumerate(values, 1)]
    return Beats(times, np.array(positions, dtype=np.int64))


def to_segments(annotation: Any, labels: str = "labels") -> list[Segment] | None:
    """Convert chords, sections or keys of mirdata, whose labels are in the attribute `labels`."""
    if annotation is None:
        return None
    rows = zip(annotation.intervals, getattr(annotation, labels), strict=True)
    return [Segment(float(start), float(end), label) for (start, end), label in rows]
