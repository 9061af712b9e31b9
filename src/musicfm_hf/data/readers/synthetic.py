"""Songs composed from seeds and synthesized, with all labels: for demos and tests, without any file or network."""

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
    Compose songs, write them as `audio/SEED.flac`, and return their readers, by seed.

    Args:
        source: Not used.
        audio: The folder to which the songs are written.
        songs (`int`): Number of songs; their seeds count from 0.
        seconds (`float`, *optional*): Keep the beginnings only.
        num_workers (`int`): Processes.

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
    """Entries of `info.json`."""
    return {"source": f"seeds 0 to {songs - 1}"}


READER = DatasetReader(
    "synthetic",
    "songs composed from seeds, with all labels",
    SOURCE,
    song_readers,
    (
        Option("songs", "number of songs; 48 by default", type=int, default=48),
        Option("seconds", "length of each song, from its start; whole songs by default", type=float),
        Option("num_workers", "processes; 2 by default", type=int, default=2),
    ),
    needs_source=False,
    makes_audio=True,
    info=_info,
)
