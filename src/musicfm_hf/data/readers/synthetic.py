"""Synthetic songs with all labels, generated from seeds: for demos and tests, without files or network access."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from ...symbolic.synthetic_meters import Meters
from ..dataset_reader import DatasetReader, Option
from ..labeled import SongReaders
from ..synthetic import SOURCE, write_song


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    songs: int = 48,
    seconds: float | None = None,
    num_workers: int = 2,
    meters: Sequence[int] | None = None,
    meter_change: float = 0.0,
    tempo_change: float = 0.0,
    first_seed: int = 0,
) -> SongReaders:
    """
    Compose songs, write them as `audio/SEED.flac`, and return their readers, keyed by seed.

    Args:
        source: Not used.
        audio: Folder to write the songs to.
        songs (`int`): Number of songs.
        seconds (`float`, *optional*): Keep only this duration from the start of each song.
        num_workers (`int`): Number of processes.
        meters (`Sequence[int]`, *optional*): Numbers of beats in a bar, from 2 to 7, with audible accents.
        meter_change (`float`): Probability that a section has another meter than the one before it; if `meters` is not
            given, they are 3 and 4.
        tempo_change (`float`): Probability of a ritardando or a gradual change of tempo in a section; see [`Meters`].
        first_seed (`int`): Seed of the first song; the seeds of the others follow it.

    Raises:
        ValueError: no folder is given, or an argument is out of range.
    """
    if audio is None:
        raise ValueError("`audio` must be the folder to which the songs are written.")
    if songs < 1 or num_workers < 1:
        raise ValueError(f"`songs` and `num_workers` must be at least 1, got {songs} and {num_workers}.")
    if first_seed < 0:
        raise ValueError(f"`first_seed` must be at least 0, got {first_seed}.")
    write = partial(write_song, folder=audio, seconds=seconds, meters=_meters(meters, meter_change, tempo_change))
    with ProcessPoolExecutor(num_workers) as pool:
        written = list(tqdm(pool.map(write, range(first_seed, first_seed + songs)), total=songs, unit="song"))
    return {song.id: partial(replace, song) for song in written}


def _meters(meters: Sequence[int] | None, meter_change: float, tempo_change: float) -> Meters | None:
    """Return the meters and tempi to compose in, or `None` for the default songs."""
    if meters is None and not (meter_change or tempo_change):
        return None
    return Meters(tuple(meters or (3, 4)), meter_change, tempo_change)


def _info(
    source: Any,
    audio: Any,
    songs: int,
    meters: Sequence[int] | None,
    meter_change: float,
    tempo_change: float,
    first_seed: int,
    **options: Any,
) -> dict[str, Any]:
    """Return entries of `info.json`."""
    composed = _meters(meters, meter_change, tempo_change)
    return {"source": f"seeds {first_seed} to {first_seed + songs - 1}"} | (
        {} if composed is None else {"composed": asdict(composed)}
    )


READER = DatasetReader(
    "synthetic",
    "synthetic songs with all labels, generated from seeds",
    SOURCE,
    song_readers,
    (
        Option("songs", "number of songs; 48 by default", type=int, default=48),
        Option("seconds", "length of each song, from its start; whole songs by default", type=float),
        Option("num_workers", "number of processes; 2 by default", type=int, default=2),
        Option(
            "meters",
            "beats in a bar, from 2 to 7, which are then audible in every section; by default most songs have 4, the "
            "others 3",
            type=int,
            nargs="+",
            metavar="N",
        ),
        Option(
            "meter_change",
            "probability that a section has another meter than the one before it, such as 0.3; 0 by default",
            type=float,
            default=0.0,
        ),
        Option(
            "tempo_change",
            "probability of a ritardando or a gradual change of tempo in a section, such as 0.3; 0 by default",
            type=float,
            default=0.0,
        ),
        Option(
            "first_seed",
            "seed of the first song; songs of other seeds are other songs; 0 by default",
            type=int,
            default=0,
        ),
    ),
    needs_source=False,
    makes_audio=True,
    info=_info,
)
