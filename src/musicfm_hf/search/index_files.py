"""Index a catalog of audio files: embed its passages, and build what is needed to search them."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from tqdm.auto import tqdm

from ..data.decoding import SongLoader, keyed_waveforms
from ..data.identity import audio_place, audio_state
from ..data.shares import WHOLE, Share
from .build import BuildSettings, IndexSummary, build_index
from .embedders import EmbeddedSong, Embedder
from .manifest import check_same_settings
from .passages import PassageSettings
from .shards import Shard, SongPassages, SongRecord, shard_files, write_shard

FLUSH_SECONDS = 60.0  # between shards while songs are embedded, so that a killed run loses a minute
FLUSH_ROWS = 100_000


class EmbeddedCatalog(NamedTuple):
    """
    Outcome of [`embed_passages`].

    Attributes:
        keys (`list[tuple[str, str, str]]`): Name, place and state of each song that has passages now.
        problems (`list[tuple[str, str]]`): Name and problem of each song that could not be read, or only in part.
        embedded (`int`): Number of songs that were embedded in this run.
    """

    keys: list[tuple[str, str, str]]
    problems: list[tuple[str, str]]
    embedded: int


def index_files(
    embedder: Embedder,
    sources: Sequence[tuple[str, Any]],
    output_dir: str | Path,
    settings: BuildSettings,
    passages: PassageSettings | None = None,
    num_workers: int = 1,
    progress: bool = True,
) -> IndexSummary:
    """
    Index a catalog, in one process. [`musicfm_hf.SearchIndex`] searches the folder.

    Songs that are in the index already, with the same name, path, size and modification time, are not embedded again;
    songs that are not in `sources` any more leave it. An interrupted run continues where it stopped.

    Args:
        embedder: Output of [`musicfm_hf.search.embedders.load_embedder`].
        sources: Pairs of a name and a source for [`musicfm_hf.load_audio`] or a [`DatasetAudio`]: output of
            [`musicfm_hf.data.catalog.list_sources`].
        output_dir: Folder of the index.
        settings ([`BuildSettings`]): Names of model and catalog, kind of index, annotations.
        passages ([`PassageSettings`], *optional*): Length of passages; by default the length of audio that the model
            was trained on.
        num_workers (`int`): Number of decoding processes; 0 decodes in this process.
        progress (`bool`): Show a progress bar.

    Returns:
        [`IndexSummary`].

    Raises:
        ValueError: before any work, if a setting is out of range, two sources have the same name, or the folder has an
            index of another catalog or with other settings; afterwards, if no song can be read.
        ImportError: if the index needs FAISS, which is not installed.
    """
    settings.check(output_dir)
    catalog = embed_passages(embedder, sources, output_dir, passages, num_workers, progress)
    return build_index(output_dir, embedder, catalog.keys, settings)._replace(
        problems=catalog.problems, embedded=catalog.embedded
    )


def embed_passages(
    embedder: Embedder,
    sources: Sequence[tuple[str, Any]],
    output_dir: str | Path,
    passages: PassageSettings | None = None,
    num_workers: int = 1,
    progress: bool = True,
    share: Share = WHOLE,
) -> EmbeddedCatalog:
    """
    Embed the songs that have no passages in the folder of an index yet, and write shards of them.

    Several processes, each with its `share` of the sources, may write to one folder; when all are done, one of them
    calls [`build_index`] with the keys of all. For other arguments and errors, see [`index_files`].
    """
    passages = passages or PassageSettings(embedder.default_seconds, embedder.default_seconds)
    passages.check(embedder.min_samples / embedder.sampling_rate)
    _check_names(name for name, _ in sources)
    sources = [sources[position] for position in share.select(sources)]
    made = embedder.describe() | {"passage_seconds": passages.seconds, "hop_seconds": passages.hop_seconds}
    present = _present_songs(output_dir, made)
    keys, problems, remaining = [], [], []
    for name, source in sources:
        key = (name, audio_place(source, name), audio_state(source))
        if key in present and key[2]:
            keys.append(key)
            if (problem := present[key]) is not None:
                problems.append((name, problem))
        else:
            remaining.append((name, source))
    places = {name: audio_place(source, name) for name, source in remaining}
    loader = SongLoader(remaining, embedder.sampling_rate, embedder.min_samples, num_workers, in_order=False)
    writer = _ShardWriter(Path(output_dir), made)
    with tqdm(total=len(sources), initial=len(keys), unit="song", disable=not progress) as bar:
        for song in embedder.embed_songs(keyed_waveforms(loader), passages):
            record = _record(song, places)
            writer.add(SongPassages(record, song.starts, song.ends, song.vectors))
            keys.append(record.key)
            bar.update(len(keys) + len(loader.unusable) - bar.n)
        bar.update(len(sources) - bar.n)
    writer.flush()
    return EmbeddedCatalog(keys, problems + loader.problems, len(remaining) - len(loader.unusable))


def _record(song: EmbeddedSong, places: dict[str, str]) -> SongRecord:
    """Return the record of a song that was embedded; its key is the decoded song."""
    decoded = song.key
    return SongRecord(decoded.name, places[decoded.name], decoded.state, round(song.seconds, 6), decoded.problem)


def _check_names(names: Iterable[str]) -> None:
    """Raise a `ValueError` if two songs have the same name."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"Two sources are named {repeated[0]!r}: give each song of an index its own name.")


def _present_songs(output_dir: str | Path, made: dict[str, Any]) -> dict[tuple[str, str, str], str | None]:
    """
    Return the keys of the songs in the shards of a folder, with their problems, after checking that they were made
    with the same settings.
    """
    songs: dict[tuple[str, str, str], str | None] = {}
    for path in shard_files(output_dir):
        try:
            shard = Shard(path)
        except FileNotFoundError:  # another process of an earlier run has removed it
            continue
        check_same_settings(output_dir, shard.made, made)
        for song in range(shard.num_songs):
            record = shard.record(song)
            songs[record.key] = record.problem
    return songs


class _ShardWriter:
    """Collects songs, and writes them to a new shard from time to time."""

    def __init__(self, folder: Path, made: dict[str, Any]):
        self.folder, self.made = folder, made
        self._songs: list[SongPassages] = []
        self._rows, self._since = 0, time.monotonic()

    def add(self, song: SongPassages) -> None:
        """Add a song."""
        self._songs.append(song)
        self._rows += len(song.vectors)
        if self._rows >= FLUSH_ROWS or time.monotonic() - self._since >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the songs that were added since the last shard."""
        if self._songs:
            write_shard(self.folder / f"shard-{uuid4().hex}.safetensors", self._songs, self.made)
        self._songs, self._rows, self._since = [], 0, time.monotonic()
