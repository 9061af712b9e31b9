"""Streams of songs, which are read in order from shards and shuffled in blocks."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from .catalog import StreamedSong, digest_names

_EMPTY_PASSES = 20  # maximum in a row; in a single pass, a rank may get only an empty shard


class StreamedSource:
    """
    Songs that are read in order, from shards.

    Args:
        dataset (`datasets.IterableDataset`): Rows with audio. Shards and rows are shuffled here.
        audio_column (`str`): Column of the audio.
        name (`str`): Name in messages.
        shards: Names of the shards, which identify this stream.
        block_songs (`int`): Number of songs that are shuffled together.

    Raises:
        TypeError: `dataset` is not an `IterableDataset`.
        ValueError: the data set has no such column, the column holds no audio, or `block_songs` is below 1.
    """

    def __init__(
        self,
        dataset: Any,
        audio_column: str = "audio",
        name: str = "the stream",
        shards: Sequence[str] = (),
        block_songs: int = 64,
    ):
        from datasets import Audio, IterableDataset

        if not isinstance(dataset, IterableDataset):
            raise TypeError(f"A source must be a path, an id or a `datasets.IterableDataset`, got {type(dataset)}.")
        if block_songs < 1:
            raise ValueError(f"`block_songs` must be at least 1, got {block_songs}.")
        if dataset.features is not None:
            _check_column(dataset.features, audio_column, name)
            is_audio = isinstance(dataset.features[audio_column], Audio)
            dataset = dataset.select_columns([audio_column])
            if is_audio:
                dataset = dataset.cast_column(audio_column, Audio(decode=False))
        self.dataset = dataset
        self.audio_column = audio_column
        self.name = name
        self.shards = list(shards)
        self.block_songs = block_songs

    @property
    def identity(self) -> list:
        """Return values for JSON that are equal for two sources if a position in one is valid in the other."""
        name = "" if self.shards else self.name  # a folder may be moved
        return ["streamed", self.dataset.num_shards, digest_names([name, *self.shards]), self.block_songs]

    def split(self, rank: int, world_size: int) -> Any:
        """
        Return the shards of a rank as an `IterableDataset`.

        Raises:
            ValueError: the stream has fewer shards than ranks.
        """
        from datasets.distributed import split_dataset_by_node

        if self.dataset.num_shards < world_size:
            raise ValueError(
                f"{self.name} has {self.dataset.num_shards} shards for {world_size} ranks; each needs at least one. "
                "Write it in more shards, or train with fewer ranks."
            )
        return split_dataset_by_node(self.dataset, rank, world_size, strategy="shards")

    def song(self, row: Mapping[str, Any]) -> StreamedSong:
        """Return the name and the audio of a row."""
        audio = row[self.audio_column]
        if isinstance(audio, str):
            audio = {"path": audio, "bytes": None}
        elif isinstance(audio, bytes):
            audio = {"path": None, "bytes": audio}
        audio = audio or {"path": None, "bytes": b""}
        return audio.get("path"), audio


class _Block(NamedTuple):
    passes: int
    number: int
    rows: dict | None  # state of the data set before the block
    songs: list[Any]  # of `StreamedSong`; `None` once drawn


class SongStream:
    """
    The endless sequence of songs that one rank reads from a [`StreamedSource`]. Each pass reshuffles the shards, and
    the songs within each block. A thread, started with the first song, reads one block ahead.

    Args:
        source ([`StreamedSource`]): Source of the songs.
        key: Integers that seed the order, together with the pass and the block.
        rank, world_size (`int`): Index of this process, and number of processes.
        state: Position to start from, from [`SongStream.state_dict`].
    """

    def __init__(self, source: StreamedSource, key: Sequence[int], rank: int, world_size: int, state: dict | None):
        self.source = source
        self.key = key
        self._dataset = source.split(rank, world_size)
        self._state = dict(state or {"pass": 0, "block": 0, "rows": None, "offset": 0})
        self._songs: list[Any] = []
        self._order = np.arange(0)
        self._blocks = self._read_blocks(self._state["pass"], self._state["block"], self._state["rows"])
        self._executor: ThreadPoolExecutor | None = None
        self._next_block: Future
        self._is_closed = False

    def draw(self) -> StreamedSong:
        """Return the next song. Exceptions of the thread are raised here."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="SongStream")
            self._next_block = self._executor.submit(next, self._blocks)
            self._open_block(self._state["offset"])
        while self._state["offset"] >= len(self._songs):
            self._open_block(0)
        place = self._order[self._state["offset"]]
        self._state["offset"] += 1
        song, self._songs[place] = self._songs[place], None  # so that its bytes are freed
        return song

    def state_dict(self) -> dict:
        """Return the position: pass, block, state of the data set before the block, and songs drawn from the block."""
        return dict(self._state)

    def close(self) -> None:
        """Stop the thread after the song that it is reading."""
        self._is_closed = True
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def _open_block(self, offset: int) -> None:
        """Take the block that was read ahead, and start reading the next one."""
        assert self._executor is not None
        block: _Block = self._next_block.result()
        self._next_block = self._executor.submit(next, self._blocks)
        self._state = {"pass": block.passes, "block": block.number, "rows": block.rows, "offset": offset}
        self._songs = block.songs
        self._order = np.random.default_rng([*self.key, 1, block.passes, block.number]).permutation(len(block.songs))

    def _read_blocks(self, passes: int, number: int, rows: dict | None) -> Iterator[_Block]:
        """Yield an endless sequence of blocks, starting with the one whose state is given. Runs in the thread."""
        empty_passes = 0
        while True:
            # `datasets` derives the order of the shards from the epoch before it divides them among ranks: in every
            # pass, each shard belongs to one rank, but not always the same one. Epoch 0 would keep their order.
            self._dataset.set_epoch(1 + int(np.random.default_rng([*self.key, 0, passes]).integers(2**62)))
            self._dataset.load_state_dict(rows)
            songs: list[Any] = []
            for row in self._rows():
                if self._is_closed:
                    return
                songs.append(self.source.song(row))
                if len(songs) == self.source.block_songs:
                    next_rows = self._dataset.state_dict()
                    yield _Block(passes, number, rows, songs)
                    number, rows, songs = number + 1, next_rows, []
            if songs:
                yield _Block(passes, number, rows, songs)
            empty_passes = empty_passes + 1 if number == 0 and not songs else 0
            if empty_passes > _EMPTY_PASSES:
                raise ValueError(f"{self.source.name} has no songs for this rank.")
            passes, number, rows = passes + 1, 0, None

    def _rows(self) -> Iterator[dict]:
        """Yield the rows of the data set from the current position to the end of the pass."""
        try:
            yield from self._dataset
        except ImportError as error:
            raise ImportError(
                f"`datasets` cannot read {self.source.name} without torchcodec, because it is not in parquet. "
                "Download its files and open the folder instead."
            ) from error


def _check_column(features: Mapping[str, Any], column: str, name: str) -> None:
    """Raise a `ValueError` unless a column exists that can hold audio."""
    from datasets import Audio, Value

    if column not in features:
        raise ValueError(f"{name} has no column `{column}`, only {', '.join(features)}.")
    feature = features[column]
    is_value = isinstance(feature, Value) and feature.dtype in ("string", "large_string", "binary", "large_binary")
    is_struct = isinstance(feature, Mapping) and bool({"bytes", "path"} & set(feature))
    if not (isinstance(feature, Audio) or is_value or is_struct):
        raise ValueError(f"The column `{column}` of {name} must hold audio files, got {feature}.")
