"""Songs to train on: catalogues, of which any song can be read at any time, and streams, which are read in order."""

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from glob import escape, glob
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from .catalogue import AUDIO_EXTENSIONS, list_sources

_EMPTY_PASSES = 20  # in a row; in one pass a rank may have been given nothing but an empty shard

Song = tuple[str | None, Any]  # a name, where there is one, and what `load_audio` reads or a `DatasetAudio`


def open_source(
    source: Any, streaming: bool = False, audio_column: str = "audio", block_songs: int = 64
) -> "ListedSource | StreamedSource":
    """
    Songs for [`musicfm_hf.data.crops.CropLoader`].

    Args:
        source: What [`list_sources`] takes: an audio file, a folder of them, a `.txt` list, a saved data set, the id
            of a data set on the Hub. Or a stream: a `.parquet` file or a `.tar` shard as webdataset writes it (every
            member with an extension of audio is a song), a folder or a glob of either, searched below; or a
            `datasets.IterableDataset` that is not shuffled.
        streaming (`bool`): Read a data set on the Hub as a stream, its split `train`, instead of downloading it.
        audio_column (`str`): The column with the audio, for data sets and `.parquet` files: encoded files as bytes,
            paths of files on this machine, or `{bytes, path}` as `datasets.Audio` has it.
        block_songs (`int`): Songs of a stream that are shuffled with one another. Up to two such blocks are held in
            memory, encoded.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it has no audio, or mixes kinds of files, or a stream has no column that could be audio.
        TypeError: it is neither a path nor an `IterableDataset`.
    """
    if not isinstance(source, (str, os.PathLike)):
        return StreamedSource(source, audio_column, block_songs=block_songs)
    name = str(source)
    if streaming and not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return StreamedSource(_open_hub(name), audio_column, name, block_songs=block_songs)
    kind, shards = _find_shards(source)
    if kind == "parquet":
        dataset = _open_parquet(shards, audio_column)
    elif kind == "tar":
        dataset, audio_column = _open_tar(shards), "audio"
    else:
        return ListedSource(list_sources(source, audio_column), name)
    return StreamedSource(dataset, audio_column, name, [Path(shard).name for shard in shards], block_songs)


def split_by_name(songs: Sequence[Song], fraction: float, seed: int = 0) -> tuple[list[Song], list[Song]]:
    """
    Divide songs in those to train on and about `fraction` of them to validate on. Where a song goes depends on its
    name and `seed` alone, so that songs that are added later move none.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or leaves one side without a song.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must be between 0 and 1, got {fraction}.")
    sides: tuple[list[Song], list[Song]] = ([], [])
    for song in songs:
        sides[hash_name(song[0], seed) < fraction * 2**63].append(song)
    if not all(sides):
        raise ValueError(
            f"A fraction of {fraction} divides {len(songs)} songs in {len(sides[0])} to train and {len(sides[1])} to "
            "validate on; both need one at least. Take a larger fraction, such as 0.2, or name other songs for that."
        )
    return sides


def hash_name(name: str, *numbers: int) -> int:
    """A number from 0 to 2^63 - 1 that depends on a name and some numbers, the same on every machine."""
    text = "/".join([*map(str, numbers), name]).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class ListedSource:
    """
    Songs of which any can be read at any time.

    Args:
        songs: Names and sources, as [`list_sources`] gives them.
        name (`str`): What to call them in messages.
    """

    def __init__(self, songs: Sequence[Song], name: str = "songs"):
        if not songs:
            raise ValueError(f"{name} has no songs.")
        self.songs = list(songs)
        self.name = name

    @property
    def identity(self) -> list:
        """What must be equal for a position in one source to hold in another; can be written as JSON."""
        return ["listed", len(self.songs), _digest(name for name, _ in self.songs)]

    def order(self, key: Sequence[int], position: int = 0) -> Iterator[int]:
        """Indices of songs without end, from `position` on: in every pass a permutation, drawn from `key` and it."""
        passes, offset = divmod(position, len(self.songs))
        for number in count(passes):
            for index in np.random.default_rng([*key, number]).permutation(len(self.songs))[offset:]:
                yield int(index)
            offset = 0


class StreamedSource:
    """
    Songs that are read in order, from shards.

    Args:
        dataset (`datasets.IterableDataset`): Rows with audio; the shards are shuffled here, and so are the rows.
        audio_column (`str`): Their column with audio.
        name (`str`): What to call them in messages.
        shards: Names of the shards, by which another stream is told from this one.
        block_songs (`int`): Songs that are shuffled with one another.
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
        """What must be equal for a position in one source to hold in another; can be written as JSON."""
        name = "" if self.shards else self.name  # a folder may be moved
        return ["streamed", self.dataset.num_shards, _digest([name, *self.shards]), self.block_songs]

    def split(self, rank: int, world_size: int) -> Any:
        """The part of a rank as an `IterableDataset`; raises `ValueError` if some rank would have none."""
        from datasets.distributed import split_dataset_by_node

        if self.dataset.num_shards < world_size:
            raise ValueError(
                f"{self.name} has {self.dataset.num_shards} shards for {world_size} ranks; each needs one at least. "
                "Write it in more shards or train with fewer ranks."
            )
        return split_dataset_by_node(self.dataset, rank, world_size, strategy="shards")

    def song(self, row: Mapping[str, Any]) -> Song:
        """A row as a song."""
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
    songs: list[Song | None]


class SongStream:
    """
    One rank's walk through a [`StreamedSource`], without end: pass after pass, with the shards in another order each,
    and in each the songs of a block. A thread that begins with the first song reads a block ahead.

    Args:
        source ([`StreamedSource`]): The songs.
        key: Integers from which the order is drawn, with the pass and the block.
        rank, world_size (`int`): Whose part of the shards.
        state: Where to begin, from [`SongStream.state_dict`].
    """

    def __init__(self, source: StreamedSource, key: Sequence[int], rank: int, world_size: int, state: dict | None):
        self.source = source
        self.key = key
        self._dataset = source.split(rank, world_size)
        self._state = dict(state or {"pass": 0, "block": 0, "rows": None, "offset": 0})
        self._songs: list[Song | None] = []
        self._order = np.arange(0)
        self._blocks = self._read_blocks(self._state["pass"], self._state["block"], self._state["rows"])
        self._executor: ThreadPoolExecutor | None = None
        self._next_block: Future
        self._closed = False

    def draw(self) -> Song:
        """The next song. What the thread raises is raised here."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="SongStream")
            self._next_block = self._executor.submit(next, self._blocks)
            self._open_block(self._state["offset"])
        while self._state["offset"] >= len(self._songs):
            self._open_block(0)
        place = self._order[self._state["offset"]]
        self._state["offset"] += 1
        song, self._songs[place] = self._songs[place], None  # the bytes are no longer held
        return song

    def state_dict(self) -> dict:
        """Where the stream is: a pass, a block, what brings the data set there, and songs drawn from the block."""
        return dict(self._state)

    def close(self) -> None:
        """End the thread, after the song that it is reading."""
        self._closed = True
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def _open_block(self, offset: int) -> None:
        block: _Block = self._next_block.result()
        self._next_block = self._executor.submit(next, self._blocks)
        self._state = {"pass": block.passes, "block": block.number, "rows": block.rows, "offset": offset}
        self._songs = block.songs
        self._order = np.random.default_rng([*self.key, 1, block.passes, block.number]).permutation(len(block.songs))

    def _read_blocks(self, passes: int, number: int, rows: dict | None) -> Iterator[_Block]:
        """Blocks, from one whose state is given; runs in the thread."""
        empty = 0
        while True:
            # From its epoch a data set draws the order of its shards, before they are divided among ranks: in every
            # pass each shard has one rank, but not always the same. Epoch 0 would leave them as they are.
            self._dataset.set_epoch(1 + int(np.random.default_rng([*self.key, 0, passes]).integers(2**62)))
            self._dataset.load_state_dict(rows)
            songs: list[Song | None] = []
            for row in self._rows():
                if self._closed:
                    return
                songs.append(self.source.song(row))
                if len(songs) == self.source.block_songs:
                    after = self._dataset.state_dict()
                    yield _Block(passes, number, rows, songs)
                    number, rows, songs = number + 1, after, []
            if songs:
                yield _Block(passes, number, rows, songs)
            empty = empty + 1 if number == 0 and not songs else 0
            if empty > _EMPTY_PASSES:
                raise ValueError(f"{self.source.name} has no songs for this rank.")
            passes, number, rows = passes + 1, 0, None

    def _rows(self) -> Iterator[dict]:
        try:
            yield from self._dataset
        except ImportError as error:
            raise ImportError(
                f"`datasets` cannot give {self.source.name} without torchcodec, as it is not in parquet. Download "
                "its files and open the folder instead."
            ) from error


def _digest(names: Iterable[str]) -> str:
    checksum = 0
    for name in names:
        checksum = zlib.crc32(f"{name}\n".encode("utf-8", "surrogateescape"), checksum)
    return f"{checksum:08x}"


def _find_shards(source: str | os.PathLike) -> tuple[str | None, list[str]]:
    """The `.parquet` or `.tar` files of a source, if that is what it has."""
    path = Path(source)
    if path.is_dir():
        files = path.rglob("*")
    else:
        files = [path] if path.exists() else map(Path, glob(str(source), recursive=True))
    found: dict[str, list[Path]] = {"parquet": [], "tar": [], "audio": []}
    for file in files:
        kind = _kind(file)
        if kind == "audio" or (kind is not None and file.is_file()):
            found[kind].append(file)
    shards = found["parquet"] or found["tar"]
    if shards and sum(map(bool, found.values())) > 1:
        parts = ", ".join(f"{len(files)} of {kind}" for kind, files in found.items() if files)
        raise ValueError(f"{source} mixes kinds of files ({parts}); give each kind as a source of its own.")
    return (_kind(shards[0]) if shards else None), sorted(str(file.absolute()) for file in shards)


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    if name.startswith("."):
        return None
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return "tar"
    return "audio" if path.suffix.lower() in AUDIO_EXTENSIONS else None


def _open_parquet(shards: list[str], audio_column: str) -> Any:
    from datasets import load_dataset

    files = {"data_files": [escape(shard) for shard in shards], "split": "train", "streaming": True}
    dataset = load_dataset("parquet", **files)
    if audio_column not in dataset.column_names or len(dataset.column_names) == 1:
        return dataset
    return load_dataset("parquet", columns=[audio_column], **files)  # reads that column alone


def _open_tar(shards: list[str]) -> Any:
    from datasets import IterableDataset

    return IterableDataset.from_generator(_read_tar, gen_kwargs={"shards": shards})


def _read_tar(shards: list[str]) -> Iterator[dict]:
    for shard in shards:
        try:
            with tarfile.open(shard) as archive:
                for member in archive:
                    if member.isfile() and _kind(Path(PurePosixPath(member.name).name)) == "audio":
                        content = archive.extractfile(member).read()
                        yield {"audio": {"path": f"{Path(shard).name}/{member.name}", "bytes": content}}
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ValueError(f"{shard} is not a tar file that can be read to its end ({error}).") from error


def _open_hub(source: str) -> Any:
    from datasets import load_dataset

    splits = load_dataset(source, streaming=True)
    if "train" not in splits and len(splits) > 1:
        raise ValueError(
            f"{source} has no split `train`, only {', '.join(splits)}; load one with `datasets.load_dataset(..., "
            "streaming=True)` and give that."
        )
    return splits["train"] if "train" in splits else next(iter(splits.values()))


def _check_column(features: Mapping[str, Any], column: str, name: str) -> None:
    from datasets import Audio, Value

    if column not in features:
        raise ValueError(f"{name} has no column `{column}`, only {', '.join(features)}.")
    feature = features[column]
    is_value = isinstance(feature, Value) and feature.dtype in ("string", "large_string", "binary", "large_binary")
    is_struct = isinstance(feature, Mapping) and bool({"bytes", "path"} & set(feature))
    if not (isinstance(feature, Audio) or is_value or is_struct):
        raise ValueError(f"The column `{column}` of {name} has no audio files but {feature}.")
