"""Sources of songs for pretraining: catalogs, whose songs can be read in any order, and streams of shards."""

import os
import re
import tarfile
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from glob import escape, glob
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ..training.files import is_hidden, list_files
from .catalog import AUDIO_EXTENSIONS, Song, digest_names, list_sources
from .streams import StreamedSource


class ListedSource:
    """
    Songs that can be read in any order.

    Args:
        songs: Names and audio, as returned by [`list_sources`].
        name (`str`): Name in messages.

    Raises:
        ValueError: `songs` is empty.
    """

    def __init__(self, songs: Sequence[Song], name: str = "songs"):
        if not songs:
            raise ValueError(f"{name} has no songs.")
        self.songs = list(songs)
        self.name = name

    @property
    def identity(self) -> list:
        """Return values for JSON that are equal for two sources if a position in one is valid in the other."""
        return ["listed", len(self.songs), digest_names(name for name, _ in self.songs)]

    def order(self, key: Sequence[int], position: int = 0) -> Generator[int, None, None]:
        """Yield an endless sequence of song indices from `position` on; each pass is a permutation seeded by `key`."""
        passes, offset = divmod(position, len(self.songs))
        for number in count(passes):
            for index in np.random.default_rng([*key, number]).permutation(len(self.songs))[offset:]:
                yield int(index)
            offset = 0


def open_source(
    source: Any, streaming: bool = False, audio_column: str = "audio", block_songs: int = 64
) -> ListedSource | StreamedSource:
    """
    Open a source of songs for [`musicfm_hf.data.crops.CropLoader`].

    Args:
        source: A catalog for [`list_sources`]: an audio file, a folder of audio files, a `.txt` list, a saved data
            set, or the ID of a data set on the Hub. Or a stream: a `.parquet` file or a `.tar` shard in the format of
            webdataset (every member with an audio extension is a song), a folder (searched recursively) or a glob of
            either, or a `datasets.IterableDataset` that is not shuffled.
        streaming (`bool`): Stream the split `train` of a data set on the Hub instead of downloading it.
        audio_column (`str`): Column of the audio, for data sets and `.parquet` files: encoded files as bytes, paths of
            files on this machine, or `{bytes, path}` as in `datasets.Audio`.
        block_songs (`int`): Number of songs of a stream that are shuffled together. Up to two such blocks of encoded
            songs are held in memory.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source has no audio, mixes kinds of files, or is a stream without a column that can hold audio.
        TypeError: the source is neither a path nor an `IterableDataset`.
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


def _find_shards(source: str | os.PathLike) -> tuple[str | None, list[str]]:
    """
    Return the kind of the shards of a source, parquet or tar, and their paths; the kind is `None` without shards.
    """
    path = Path(source)
    files: Iterable[Path] = list_files(path) if path.is_dir() else [path]
    if not path.exists():
        files = map(Path, glob(str(source), recursive=True))
    by_kind: dict[str, list[Path]] = {"parquet": [], "tar": [], "audio": []}
    for file in files:
        kind = _kind(file)
        if kind == "audio" or (kind is not None and file.is_file()):
            by_kind[kind].append(file)
    shards = by_kind["parquet"] or by_kind["tar"]
    if shards and sum(map(bool, by_kind.values())) > 1:
        parts = ", ".join(f"{len(files)} of {kind}" for kind, files in by_kind.items() if files)
        raise ValueError(f"{source} mixes kinds of files ({parts}); pass each kind as a separate source.")
    return (_kind(shards[0]) if shards else None), sorted(str(file.absolute()) for file in shards)


def _kind(path: Path) -> str | None:
    """Return the kind of a file by its name: parquet, tar or audio, or `None` for other files."""
    name = path.name.lower()
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
    return load_dataset("parquet", columns=[audio_column], **files)  # reads only that column


def _open_tar(shards: list[str]) -> Any:
    from datasets import IterableDataset

    return IterableDataset.from_generator(_read_tar, gen_kwargs={"shards": shards})


def _read_tar(shards: list[str]) -> Iterator[dict]:
    """Yield rows with the audio files of tar shards."""
    for shard in shards:
        try:
            with tarfile.open(shard) as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isfile() else None
                    is_audio = _kind(Path(member.name)) == "audio"
                    if file is not None and is_audio and not is_hidden(member.name):
                        yield {"audio": {"path": f"{Path(shard).name}/{member.name}", "bytes": file.read()}}
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ValueError(f"{shard} is not a tar file that can be read to its end ({error}).") from error


def _open_hub(source: str) -> Any:
    """Return the split `train` of a data set on the Hub, or its only split, as a stream."""
    from datasets import load_dataset

    splits = load_dataset(source, streaming=True)
    if "train" not in splits and len(splits) > 1:
        raise ValueError(
            f"{source} has no split `train`, only {', '.join(splits)}; load one of them with "
            "`datasets.load_dataset(..., streaming=True)` and pass it as the source."
        )
    return splits["train"] if "train" in splits else next(iter(splits.values()))
