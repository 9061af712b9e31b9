"""Search in an index of a catalog."""

import math
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError

from ..audio.reading import load_audio
from ..audio.waveform import to_waveform
from ..data.identity import audio_place, audio_state
from ..inference.embedding import WindowSettings
from ..inference.precision import quantization_config
from .duplicates import THRESHOLD, DuplicateGroup, find_duplicates
from .embedders import Embedder, load_embedder
from .faiss_index import FaissIndex
from .filters import select_passages
from .geometry import Geometry
from .manifest import FLAGS, IVFPQ, Manifest, check_same_settings, read_manifest
from .nearest import NearestPassages
from .passage_labels import PassageLabels
from .passages import PassageSettings
from .queries import Query, parse_query
from .ranking import rank_passages, rank_songs
from .shards import PassageStore
from .song_lookup import SongLookup

if TYPE_CHECKING:
    from datasets import Dataset

Where = Mapping[str, str] | Iterable[tuple[str, str]]


class SearchResult(NamedTuple):
    """
    A song that was found, and its passage that is most similar to the query.

    Attributes:
        song (`str`): Name in its catalog.
        score (`float`): Similarity of the song to the query, from -1 to 1; see [`SearchIndex.search`].
        start, end (`float`): Times of the passage in seconds.
        path (`str`): Location of the audio.
        row (`int`): Row of the passage in the index and in [`SearchIndex.dataset`].
    """

    song: str
    score: float
    start: float
    end: float
    path: str
    row: int


class SearchIndex:
    """
    An index that `musicfm index` wrote; load it with [`SearchIndex.load`]. Vectors stay on disk and are read as they
    are needed. The model is loaded when the first query needs it: not for songs of the index.

    Args:
        folder: Folder of the index.
        manifest ([`Manifest`]): Content of its `index.json`.
        embedder (*optional*): Embedder of queries; by default the model of the index, loaded from where it was.
        model (`str`, *optional*): Folder or repository of the model, if it has moved.
        device (*optional*): Device of the model; the CPU by default.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        manifest: Manifest,
        embedder: Embedder | None = None,
        model: str | None = None,
        device: str | torch.device | None = None,
    ):
        self.folder, self.manifest = Path(folder), manifest
        self._embedder, self._model, self._device = embedder, model, device

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        embedder: Embedder | None = None,
        model: str | None = None,
        device: str | torch.device | None = None,
    ) -> "SearchIndex":
        """
        Load an index. For arguments, see [`SearchIndex`].

        Raises:
            FileNotFoundError: the folder has no index.
            ValueError: this version cannot read it.
        """
        manifest = read_manifest(folder)
        if manifest is None:
            raise FileNotFoundError(
                f"{folder} has no index: write one with `musicfm index SONGS --output_dir {folder}`"
            )
        index = cls(folder, manifest, embedder, model, device)
        # The files stay open, so that the index may be made again meanwhile.
        _ = index.store, index.geometry, index.labels, index._lookup
        if manifest.faiss_file is not None:
            _ = index.nearest
        return index

    def __len__(self) -> int:
        """Return the number of passages."""
        return self.manifest.rows

    @cached_property
    def store(self) -> PassageStore:
        """The passages."""
        store = self.manifest.open_store(self.folder)
        if self.manifest.index_type == IVFPQ:
            for shard in store.shards:
                shard.file.read_scattered()
        return store

    @cached_property
    def geometry(self) -> Geometry:
        """Mean and deviation of the vectors, and norms."""
        return Geometry.load(self.folder / self.manifest.geometry)

    @cached_property
    def nearest(self) -> NearestPassages:
        """The search for the passages nearest to a vector, with its settings."""
        name = self.manifest.faiss_file
        return NearestPassages(self.store, self.geometry, None if name is None else FaissIndex(self.folder / name))

    @cached_property
    def labels(self) -> PassageLabels | None:
        """Labels of the passages, for filters; `None` if the index was made without annotations."""
        name = self.manifest.labels_file
        return None if name is None else PassageLabels.load(self.folder / name)

    @cached_property
    def embedder(self) -> Embedder:
        """
        The model of the index.

        Raises:
            OSError: it does not exist.
            ValueError: its weights are not those that made the index.
        """
        return self._embedder or self._load_embedder()

    def read_annotations(self, folder: str | os.PathLike) -> None:
        """Use the annotations of a folder for filters, instead of those that the index was made with."""
        self.__dict__["labels"] = PassageLabels.read(self.store, folder)

    def search(
        self,
        query: Any,
        top: int = 10,
        where: Where | None = None,
        start: float = 0.0,
        end: float | None = None,
        words: bool = False,
        every_passage: bool = False,
        include_query: bool = False,
    ) -> list[SearchResult]:
        """
        Find the songs that sound most like a query, each with its most similar passage.

        A query is cut into passages as the songs are. The score of a song is the mean, over the passages of the query,
        of the cosine similarity to the most similar passage of the song.

        Args:
            query: A path or the name of a song in the index, either with or without a part such as
                `song.mp3@1:10-1:30`; words, if the model has a text tower; or other audio for
                [`musicfm_hf.load_audio`].
            top (`int`): Maximum number of results.
            where (*optional*): Conditions that a passage has to meet; see
                [`musicfm_hf.search.filters.select_passages`].
            start, end (`float`): Part of the audio in seconds; the whole by default.
            words (`bool`): Take a query that looks like a path as words.
            every_passage (`bool`): Return several passages of a song; their scores are their own similarities.
            include_query (`bool`): Do not leave out the song of the query, if it is in the index.

        Returns:
            [`SearchResult`] with the highest score first.

        Raises:
            FileNotFoundError: the query looks like a file and does not exist.
            ValueError: `top`, `start` or `end` is out of range; the query has words and the model has no text tower;
                or a condition is invalid, or there are no annotations.
        """
        if top < 1:
            raise ValueError(f"`top` must be at least 1, got {top}.")
        if not 0 <= start < (math.inf if end is None else end):
            raise ValueError(f"`start` must be at least 0 and before `end`, in seconds, got {start} and {end}.")
        parsed = self._parse(query, words, start, end)
        allowed = None if not where else self._allowed(where)
        vectors = self._vectors(query, parsed)
        without = None if parsed.song is None or include_query else self.store.rows_of(parsed.song)
        rank = rank_passages if every_passage else rank_songs
        scores, rows = rank(self.nearest, vectors, top, allowed, without)
        records = map(self.store.record, self.store.songs_of(rows).tolist())
        return [
            SearchResult(record.name, float(score), float(start), float(end), record.place, int(row))
            for record, score, start, end, row in zip(records, scores, *self.store.times(rows), rows, strict=True)
        ]

    def dataset(self) -> "Dataset":
        """
        Return the index as a data set of `datasets` with a row for each passage: `song`, `path`, `start`, `end` and
        `embedding`, as the model computed it. Embeddings are views of the files. See
        [`musicfm_hf.search.dataset.to_dataset`].

        Raises:
            ImportError: `datasets` is not installed.
        """
        from .dataset import to_dataset

        return to_dataset(self.store)

    def duplicates(self, threshold: float = THRESHOLD) -> list[DuplicateGroup]:
        """Group songs that are the same recording. See [`musicfm_hf.search.duplicates.find_duplicates`]."""
        return find_duplicates(self.store, self.geometry, threshold)

    @cached_property
    def _lookup(self) -> SongLookup:
        """Songs by name and by place."""
        return SongLookup.load(self.folder / self.manifest.lookup)

    def _load_embedder(self) -> Embedder:
        """Load the model of the index, and check that its weights are the same."""
        made = self.manifest.made
        windows = WindowSettings(made.get("layer"), made.get("window_seconds"), made.get("overlap_seconds"))
        name = self._model or self.manifest.model
        revision = None if self._model or Path(name).is_dir() else self.manifest.revision
        try:
            quantization = quantization_config(made.get("quantization"), "cpu")
            device = "cpu" if quantization else self._device
            embedder, _ = load_embedder(name, revision, windows, getattr(torch, made["dtype"]), device, quantization)
        except (OSError, HFValidationError) as error:
            raise OSError(
                f"The model {name} of the index cannot be loaded ({error}). If it has moved, pass it as `--model`."
            ) from error
        try:
            check_same_settings(self.folder, {name: made[name] for name in embedder.describe()}, embedder.describe())
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"The index was not made with {name}: its weights or settings differ. Pass the model that made it as "
                f"{FLAGS['weights']}."
            ) from error
        return embedder

    def _parse(self, query: Any, words: bool, start: float, end: float | None) -> Query:
        """Parse a query."""
        if not isinstance(query, str | os.PathLike):
            return Query(start=start, end=end)
        text = os.fspath(query)
        if words:
            return Query(words=text)
        parsed = parse_query(text, self._find_song)
        return parsed._replace(start=start, end=end) if (start, end) != (0.0, None) else parsed

    def _find_song(self, name: str) -> int | None:
        """Return the song with a name, or with a path, in the index."""
        by_name = self._lookup.find(name, self.store)
        if not os.path.isfile(name):
            return by_name
        by_place = self._lookup.find(audio_place(name, name), self.store)
        is_same = by_name is not None and self.store.record(by_name).state == audio_state(name)
        return by_name if by_place is None and is_same else by_place  # another file may have the name of a song

    def _vectors(self, query: Any, parsed: Query) -> np.ndarray:
        """Return the vectors of a query, one for each of its passages, `(vectors, size)`."""
        if parsed.words is not None:
            return self.embedder.embed_text(parsed.words)[None]
        record = None if parsed.song is None else self.store.record(parsed.song)
        is_current = record is not None and (parsed.path is None or audio_state(parsed.path) == record.state)
        if parsed.song is not None and is_current and not parsed.is_part:
            return self.store.vectors(self.store.rows_of(parsed.song))
        source: Any = parsed.path or (query if record is None else record.place)
        if record is not None and not os.path.isfile(source):
            raise ValueError(
                f"The audio of {record.name} is not a file at {source}, so a part of it cannot be embedded. Search "
                "for the whole song, or pass the audio of the part in Python."
            )
        duration = None if parsed.end is None else parsed.end - parsed.start
        embedder = self.embedder
        rate = embedder.sampling_rate
        if isinstance(source, str | os.PathLike):
            audio = load_audio(source, rate, parsed.start, duration)
        else:
            end = None if parsed.end is None else round(parsed.end * rate)
            audio = to_waveform(source, None, rate)[round(parsed.start * rate) : end]
        if len(audio) < embedder.min_samples:
            raise ValueError(
                f"The query has {len(audio) / rate:.3f} s of audio; the model needs at least "
                f"{embedder.min_samples / rate:.3f} s."
            )
        passages = PassageSettings(self.manifest.made["passage_seconds"], self.manifest.made["hop_seconds"])
        (song,) = embedder.embed_songs([(None, audio)], passages)
        return song.vectors

    def _allowed(self, where: Where) -> np.ndarray:
        """Return the passages that meet conditions."""
        if self.labels is None:
            raise ValueError(
                "The index has no annotations to filter by. Pass a folder that `musicfm annotate` wrote as "
                "`--annotations`, here or to `musicfm index`."
            )
        return select_passages(self.labels, where)
