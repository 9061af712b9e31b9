"""Synthetic songs with all labels, generated from seeds: for demos and tests, without files or network access."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from ..dataset_reader import DatasetReader, Option
from ..labeled import SongReaders
from ..synthetic import SOURCE, write_song


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    songs: int = 48,
    seconds: float | None = None,
    num_workers: int = 2,
) -> SongReaders:
    """
    Compose songs, write them as `audio/SEED.flac`, and return their readers, keyed by seed.

    Args:
        source: Not used.
        audio: Folder to write the songs to.
        songs (`int`): Number of songs; seeds start at 0.
        seconds (`float`, *optional*): Keep only this duration from the start of each song.
        num_workers (`int`): Number of processes.

    Raises:
        ValueError: no folder is given, or an argument is out of range.
    """
    if audio is None:
        raise ValueError("`audio` must be the folder to which the songs are written.")
    if songs < 1 or num_workers < 1:
        raise ValueError(f"`songs` and `num_workers` must be at least 1, got {songs} and {num_workers}.")
    write = partial(write_song, folder=audio, seconds=seconds)
    with ProcessPoolExecutor(num_workers) as pool:
        written = list(tqdm(pool.map(write, range(songs)), total=songs, unit="song"))
    return {song.id: partial(replace, song) for song in written}


def _info(source: Any, audio: Any, songs: int = 48, **options: Any) -> dict[str, Any]:
    """Return entries of `info.json`."""
    return {"source": f"seeds 0 to {songs - 1}"}


READER = DatasetReader(
    "synthetic",
    "synthetic songs with all labels, generated from seeds",
    SOURCE,
    song_readers,
    (
        Option("songs", "number of songs; 48 by default", type=int, default=48),
        Option("seconds", "length of each song, from its start; whole songs by default", type=float),
        Option("num_workers", "number of processes; 2 by default", type=int, default=2),
    ),
    needs_source=False,
    makes_audio=True,
    info=_info,
)
