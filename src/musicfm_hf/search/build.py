"""Build an index from the shards in its folder: remove songs that have left, then prepare what a search needs."""

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from ..data.identity import digest
from .embedders import Embedder
from .faiss_index import build_ivfpq, extend_ivfpq, import_faiss
from .geometry import Geometry
from .manifest import EXACT, IVFPQ, Manifest, read_manifest
from .passage_labels import PassageLabels
from .shards import PassageStore, Shard, SongPassages, shard_files, write_shard
from .song_lookup import SongLookup

ROWS_OF_SHARD = 131_072  # 134 MB at 512 values
IVFPQ_FROM = 1_000_000  # passages from which an exact search takes seconds
INDEX_TYPES = ("auto", EXACT, IVFPQ)

SongKey = tuple[str, str, str]


class IndexSummary(NamedTuple):
    """
    Outcome of [`build_index`] and [`musicfm_hf.index_files`].

    Attributes:
        songs (`int`), passages (`int`): Numbers in the index now.
        index_type (`str`): `exact` or `ivfpq`.
        annotated (`int`, *optional*): Number of songs with annotations, if a folder of annotations is used.
        problems (`list[tuple[str, str]]`): Name and problem of each song that could not be read, or only in part.
        embedded (`int`): Number of songs that were embedded in this run.
    """

    songs: int
    passages: int
    index_type: str
    annotated: int | None
    problems: list[tuple[str, str]] = []
    embedded: int = 0


@dataclass(frozen=True)
class BuildSettings:
    """
    Settings of an index that its vectors do not depend on.

    Args:
        model (`str`), revision (`str`): Name of the model, with which a search loads it again, and revision of its
            weights.
        source (`str`): The catalog: an absolute path, or the ID of a data set.
        index_type (`str`): `exact`, which compares a query with every passage; `ivfpq`, an approximate index of FAISS
            for millions of passages; or `auto`, which is `ivfpq` from a million passages on.
        annotations (`str`, *optional*): Folder that `musicfm annotate` wrote, or with annotations made by hand in the
            same formats, for filters. By default that of the existing index.
    """

    model: str
    revision: str
    source: str
    index_type: str = "auto"
    annotations: str | None = None

    def with_revision(self, revision: str) -> "BuildSettings":
        """Return the settings with the revision of the weights, which is known after the model was loaded."""
        return replace(self, revision=revision)

    def check(self, output_dir: str | Path) -> None:
        """
        Check the settings before any work.

        Raises:
            ValueError: a value is out of range, or the folder has an index of another catalog.
            FileNotFoundError: the folder of annotations does not exist.
            ImportError: the index needs FAISS, which is not installed.
        """
        if self.index_type not in INDEX_TYPES:
            raise ValueError(f"`index_type` must be one of {', '.join(INDEX_TYPES)}, got {self.index_type!r}.")
        if self.index_type == IVFPQ:
            import_faiss()
        if self.annotations is not None and not Path(self.annotations).is_dir():
            raise FileNotFoundError(f"The folder of annotations {self.annotations} does not exist")
        manifest = read_manifest(output_dir)
        if manifest is not None and manifest.source != self.source:
            raise ValueError(
                f"{output_dir} has an index of {manifest.source}, and would lose its songs. Pass another "
                "`--output_dir`, or index a folder or list that has the songs of both."
            )


def build_index(
    output_dir: str | Path, embedder: Embedder, keys: Collection[SongKey], settings: BuildSettings
) -> IndexSummary:
    """
    Build the index of the songs with these keys. It replaces the present one at once when it is complete.

    Args:
        output_dir: Folder with the shards that [`musicfm_hf.search.index_files.embed_passages`] wrote.
        embedder: The embedder of the passages.
        keys: Name, place and state of each song of the catalog.
        settings ([`BuildSettings`]): Kind of index, annotations, and names for the manifest.

    Raises:
        ValueError: no song has passages, or too few for the kind of index.
        ImportError: the index needs FAISS, which is not installed.
    """
    folder = Path(output_dir)
    earlier = read_manifest(folder)
    shards = _compact(folder, set(keys), earlier)
    if not shards:
        raise ValueError(f"No song of {settings.source} could be read: the index would be empty.")
    store = PassageStore(shards)
    index_type = _index_type(settings.index_type, len(store))
    annotations = settings.annotations or _earlier_annotations(earlier)
    if earlier is not None and not all(path.is_file() for path in _derived_files(folder, earlier)):
        earlier = None  # they are made again from the shards
    common = _common_shards(earlier, store)
    geometry_name, geometry = _build_geometry(folder, store, earlier, common, embedder.standardize)
    faiss_name = _build_faiss(folder, store, geometry, earlier, common) if index_type == IVFPQ else None
    lookup_name = _write_lookup(folder, store, earlier, common)
    labels_name, annotated = _write_labels(folder, store, annotations)
    Manifest(
        model=settings.model,
        revision=settings.revision,
        version=version("musicfm_hf"),
        source=settings.source,
        made=shards[0].made,
        rows=len(store),
        songs=store.num_songs,
        size=store.size,
        shards=[shard.file.path.name for shard in shards],
        standardize=embedder.standardize,
        geometry=geometry_name,
        trained_rows=earlier.trained_rows if earlier is not None and common else len(store),
        lookup=lookup_name,
        index_type=index_type,
        faiss_file=faiss_name,
        labels_file=labels_name,
        annotations=annotations,
    ).save(folder)
    _remove_unlisted(folder)
    return IndexSummary(store.num_songs, len(store), index_type, annotated)


def _derived_files(folder: Path, manifest: Manifest) -> list[Path]:
    """Return the files of an index that are made from its shards and needed to change it."""
    names = (manifest.geometry, manifest.lookup, manifest.faiss_file)
    return [folder / name for name in names if name is not None]


def _earlier_annotations(earlier: Manifest | None) -> str | None:
    """Return the folder of annotations of an earlier index, and warn if it is gone."""
    if earlier is None or earlier.annotations is None or Path(earlier.annotations).is_dir():
        return None if earlier is None else earlier.annotations
    warnings.warn(
        f"The folder of annotations {earlier.annotations} does not exist any more: the index is without annotations. "
        "If it has moved, repeat the command with `--annotations FOLDER`.",
        stacklevel=3,
    )
    return None


def _common_shards(earlier: Manifest | None, store: PassageStore) -> int:
    """
    Return the number of first shards that an earlier index has too, so that their part of it can be used again; 0 if
    the number of passages has doubled or halved since mean, deviation and centroids were estimated.
    """
    if earlier is None or not earlier.trained_rows <= 2 * len(store) <= 4 * earlier.trained_rows:
        return 0
    names = [shard.file.path.name for shard in store.shards]
    pairs = zip(earlier.shards, names, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _build_geometry(
    folder: Path, store: PassageStore, earlier: Manifest | None, common: int, standardize: bool
) -> tuple[str, Geometry]:
    """Return the file of the geometry and its content, with as much of an earlier one as possible."""
    if earlier is not None and common:
        geometry = Geometry.load(folder / earlier.geometry)
        if common == len(store.shards) == len(earlier.shards):
            return earlier.geometry, geometry
        geometry = geometry.extended(store, common)
    else:
        geometry = Geometry.measure(store, standardize)
    name = _new_name("geometry", "safetensors")
    geometry.save(folder / name)
    return name, geometry


def _build_faiss(folder: Path, store: PassageStore, geometry: Geometry, earlier: Manifest | None, common: int) -> str:
    """Return the file of the index of FAISS, with as much of an earlier one as possible."""
    name = _new_name("ivfpq", "faiss")
    if earlier is None or earlier.faiss_file is None or not common:
        build_ivfpq(store, geometry, folder / name)
    elif common == len(store.shards) == len(earlier.shards):
        return earlier.faiss_file
    else:
        extend_ivfpq(folder / earlier.faiss_file, store, geometry, common, folder / name)
    return name


def _index_type(wanted: str, rows: int) -> str:
    """Return the type of index for a number of passages."""
    if wanted != "auto" or rows < IVFPQ_FROM:
        return EXACT if wanted == "auto" else wanted
    try:
        import_faiss()
    except ImportError:
        warnings.warn(
            f"The index has {rows} passages, and a search compares a query with all of them, because FAISS is not "
            "installed. Run `pip install 'musicfm_hf[search]'` and repeat `musicfm index` for an approximate index.",
            stacklevel=3,
        )
        return EXACT
    return IVFPQ


def _write_lookup(folder: Path, store: PassageStore, earlier: Manifest | None, common: int) -> str:
    """Return the file that finds songs by name; that of an earlier index if all shards are the same."""
    if earlier is not None and common == len(store.shards) == len(earlier.shards):
        return earlier.lookup
    name = _new_name("lookup", "safetensors")
    SongLookup.build(store).save(folder / name)
    return name


def _write_labels(folder: Path, store: PassageStore, annotations: str | None) -> tuple[str | None, int | None]:
    """Write the labels of the passages; return the name of the file, and the number of annotated songs."""
    if annotations is None:
        return None, None
    labels = PassageLabels.read(store, annotations)
    name = _new_name("labels", "safetensors")
    labels.save(folder / name)
    return name, labels.num_songs


def _compact(folder: Path, keys: set[SongKey], earlier: Manifest | None) -> list[Shard]:
    """
    Return shards that have every song with one of the keys once, and no others. Shards that are small, or have songs
    that left, are rewritten; the files of an earlier index stay until the manifest is replaced.
    """
    order = {name: number for number, name in enumerate([] if earlier is None else earlier.shards)}
    paths = sorted(shard_files(folder), key=lambda path: (order.get(path.name, len(order)), path.name))
    missing = set(keys)
    whole, scattered = [], []
    for path in paths:
        shard = Shard(path)
        songs = []
        for song in range(shard.num_songs):
            if (key := shard.record(song).key) in missing:
                missing.remove(key)
                songs.append(song)
        if len(songs) == shard.num_songs and len(shard) >= ROWS_OF_SHARD // 2:
            whole.append(shard)
        elif songs:
            scattered.append((shard, songs))
    if len(scattered) == 1 and len(scattered[0][1]) == scattered[0][0].num_songs:
        return [*whole, scattered[0][0]]  # the only small shard
    return whole + list(_rewrite(folder, scattered))


def _rewrite(folder: Path, scattered: Sequence[tuple[Shard, list[int]]]) -> Iterator[Shard]:
    """Write songs of several shards, in the order of their names, to as few new shards as possible."""
    songs = [(shard.record(song).key, shard, song) for shard, numbers in scattered for song in numbers]
    songs.sort(key=itemgetter(0))
    batch: list[SongPassages] = []
    rows = 0
    for index, (_, shard, song) in enumerate(songs):
        batch.append(shard.passages(song))
        rows += len(batch[-1].vectors)
        if rows >= ROWS_OF_SHARD or index == len(songs) - 1:
            names = "\n".join(f"{item.record.key}" for item in batch)
            # Named after its songs, so that the same catalog gives the same files.
            path = folder / f"shard-{digest(names.encode())}.safetensors"
            write_shard(path, batch, shard.made)
            yield Shard(path)
            batch, rows = [], 0


def _remove_unlisted(folder: Path) -> None:
    """Remove the files of earlier states of an index."""
    manifest = read_manifest(folder)
    listed = set() if manifest is None else manifest.files
    kinds = ("shard", "geometry", "lookup", "labels")
    for pattern in (*(f"{kind}-*.safetensors" for kind in kinds), "ivfpq-*.faiss"):
        for path in folder.glob(pattern):
            if path.name not in listed:
                path.unlink()


def _new_name(kind: str, ending: str) -> str:
    """Return a name for a file of the index that no earlier file has."""
    return f"{kind}-{uuid4().hex}.{ending}"
