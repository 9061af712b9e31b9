"""
Shards of an index: files with the vectors of passages, their times, and the songs that they belong to.

A shard is a safetensors file that is complete or absent, with the arrays

- `vectors` `(passages, size)` float16: embeddings as the model computed them, not normalized;
- `starts`, `ends` `(passages,)` float32: seconds;
- `song_rows` `(songs + 1,)` int64: song k has the passages from `song_rows[k]` to `song_rows[k + 1]`;
- `songs` `(bytes,)` uint8 and `song_bytes` `(songs + 1,)` int64: a JSON object for each song, so that the records of a
  million songs need not be parsed to read one of them.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..training.files import matching_files, write_safetensors
from .mapped_file import MappedFile

FORMAT = "1"  # incremented when a shard is written in another way
LARGEST_FLOAT16 = 65504.0
BLOCK_ROWS = 8192  # rows that are converted to float32 at once: 16 MB at 512 values


@dataclass(frozen=True)
class SongRecord:
    """
    A song of an index.

    Attributes:
        name (`str`): Name in its catalog, such as `album/song.mp3`.
        place (`str`): Location of the audio; see [`musicfm_hf.data.identity.audio_place`].
        state (`str`): Text that changes with the audio; see [`musicfm_hf.data.identity.audio_state`].
        seconds (`float`): Duration.
        problem (`str`, *optional*): Damage of the file.
    """

    name: str
    place: str
    state: str
    seconds: float
    problem: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of the song and of its content."""
        return self.name, self.place, self.state


class SongPassages(NamedTuple):
    """The passages of a song: times in seconds `(passages,)`, and vectors `(passages, size)`."""

    record: SongRecord
    starts: np.ndarray
    ends: np.ndarray
    vectors: np.ndarray


class Shard:
    """
    A shard, memory-mapped.

    Args:
        path: File of the shard.

    Raises:
        ValueError: the file is not a shard that this version can read.
    """

    def __init__(self, path: str | os.PathLike):
        self.file = MappedFile(path)
        if self.file.metadata.get("format") != FORMAT or "vectors" not in self.file.arrays:
            raise ValueError(
                f"{path} is not a shard that this version of musicfm_hf can read. Make the index again, in another "
                "folder, with `musicfm index`."
            )
        arrays = self.file.arrays
        self.vectors = arrays["vectors"]
        self.starts, self.ends = arrays["starts"], arrays["ends"]
        self.song_rows = arrays["song_rows"]
        self._songs, self._song_bytes = arrays["songs"], arrays["song_bytes"]

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def num_songs(self) -> int:
        return len(self.song_rows) - 1

    @property
    def made(self) -> dict[str, Any]:
        """Settings that the vectors depend on."""
        return json.loads(self.file.metadata["made"])

    def record(self, song: int) -> SongRecord:
        """Return the record of a song of this shard."""
        start, stop = self._song_bytes[song : song + 2].tolist()
        return SongRecord(**json.loads(self._songs[start:stop].tobytes()))

    def passages(self, song: int) -> SongPassages:
        """Return the passages of a song of this shard, as views of the file."""
        rows = slice(*self.song_rows[song : song + 2].tolist())
        return SongPassages(self.record(song), self.starts[rows], self.ends[rows], self.vectors[rows])


def write_shard(path: str | os.PathLike, songs: Sequence[SongPassages], made: Mapping[str, Any]) -> None:
    """
    Write songs to a shard. Vectors are rounded to float16, which moves cosine similarities by about 1e-4.

    Args:
        path: File to write.
        songs: At least one song.
        made: Settings that the vectors depend on.

    Raises:
        ValueError: a vector is not finite, or too large for float16.
    """
    vectors = np.concatenate([song.vectors for song in songs])
    if not (np.abs(vectors) <= LARGEST_FLOAT16).all():
        worst = next(song.record.name for song in songs if not (np.abs(song.vectors) <= LARGEST_FLOAT16).all())
        raise ValueError(
            f"The embeddings of {worst} are not finite or exceed {LARGEST_FLOAT16:g}. Pass another `--layer`, or "
            "`--dtype float32` if the model is in half precision."
        )
    texts = [json.dumps(asdict(song.record)).encode() for song in songs]
    arrays = {
        "vectors": vectors.astype(np.float16),
        "starts": np.concatenate([song.starts for song in songs]).astype(np.float32),
        "ends": np.concatenate([song.ends for song in songs]).astype(np.float32),
        "song_rows": _edges([len(song.vectors) for song in songs]),
        "songs": np.frombuffer(b"".join(texts), dtype=np.uint8).copy(),
        "song_bytes": _edges([len(text) for text in texts]),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    write_safetensors(path, tensors, {"format": FORMAT, "made": json.dumps(made, sort_keys=True)})


def shard_files(folder: str | os.PathLike) -> list[Path]:
    """List the shards in the folder of an index, including those that are not part of it yet."""
    return matching_files(folder, "shard-*.safetensors")


def _edges(sizes: Sequence[int]) -> np.ndarray:
    """Return the starts of consecutive parts, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


class PassageStore:
    """
    All passages of an index, in the order of its shards: row r of the index is passage r. Nothing but the numbers of
    passages is in memory.

    Args:
        shards: Shards with vectors of one size; at least one.
    """

    def __init__(self, shards: Iterable[Shard]):
        self.shards = list(shards)
        self.size = self.shards[0].vectors.shape[1]
        self._first_rows = _edges([len(shard) for shard in self.shards])
        self._first_songs = _edges([shard.num_songs for shard in self.shards])
        # Row at which each song begins, and the number of rows: (songs + 1,)
        parts = [shard.song_rows[:-1] + first for shard, first in zip(self.shards, self._first_rows[:-1], strict=True)]
        self.song_rows = np.concatenate([*parts, self._first_rows[-1:]])

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    @property
    def num_songs(self) -> int:
        return len(self.song_rows) - 1

    def records(self) -> Iterator[SongRecord]:
        """Yield the record of each song, in order."""
        for shard in self.shards:
            yield from map(shard.record, range(shard.num_songs))

    def record(self, song: int) -> SongRecord:
        """Return the record of a song."""
        number = int(np.searchsorted(self._first_songs, song, side="right")) - 1
        return self.shards[number].record(song - int(self._first_songs[number]))

    def songs_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the songs that passages belong to, `(rows,)` int64."""
        return np.searchsorted(self.song_rows, rows, side="right") - 1

    def rows_of(self, song: int) -> np.ndarray:
        """Return the rows of the passages of a song."""
        return np.arange(*self.song_rows[song : song + 2].tolist())

    def times(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the starts and ends of passages in seconds, each `(rows,)` float32."""
        starts, ends = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
        for shard, places, local in self._by_shard(rows):
            starts[places], ends[places] = shard.starts[local], shard.ends[local]
        return starts, ends

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """
        Read scattered vectors, `(rows, size)` float32. Memory is given back shard by shard, because a system that maps
        more pages than it was asked for would soon have mapped whole shards.
        """
        vectors = np.empty((len(rows), self.size), np.float32)
        parts = list(self._by_shard(rows))
        for shard, _, local in parts:
            shard.file.will_read_rows("vectors", local)
        for shard, places, local in parts:
            vectors[places] = shard.vectors[local]
            shard.file.release("vectors", 0, len(shard))
        return vectors

    def rows_before(self, shard: int) -> int:
        """Return the number of passages in the shards before one of them."""
        return int(self._first_rows[shard])

    def blocks(self, release: bool = False, first_shard: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """
        Yield the vectors in order, as the first row of a block and views `(rows, size)` float16.

        Args:
            first_shard (`int`): Shard to begin with.
            release (`bool`): Give back the memory of each block after it was used. Without it, blocks stay mapped as
                long as memory suffices, so that the next pass is faster.
        """
        for shard, first in zip(self.shards[first_shard:], self._first_rows[first_shard:-1].tolist(), strict=True):
            for start in range(0, len(shard), BLOCK_ROWS):
                block = shard.vectors[start : start + BLOCK_ROWS]
                yield first + start, block
                if release:
                    shard.file.release("vectors", start, start + len(block))

    def sample_rows(self, count: int) -> np.ndarray:
        """Draw rows without repetition, in ascending order; all rows if `count` is not smaller. Always the same."""
        if count >= len(self):
            return np.arange(len(self))
        return np.sort(np.random.default_rng(0).choice(len(self), count, replace=False, shuffle=False))

    def _by_shard(self, rows: np.ndarray) -> Iterator[tuple[Shard, np.ndarray, np.ndarray]]:
        """Yield each shard that has some of the rows, with their places in `rows` and their rows in the shard."""
        numbers = np.searchsorted(self._first_rows, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            yield self.shards[number], places, rows[places] - self._first_rows[number]
