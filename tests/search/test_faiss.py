"""The approximate index of FAISS."""

import sys

import numpy as np
import pytest
import torch
from helpers.search import ToneEmbedder, make_index, song_passages, write_songs

from musicfm_hf.search import build, faiss_index
from musicfm_hf.search.build import BuildSettings, build_index
from musicfm_hf.search.faiss_index import number_of_codes, number_of_lists
from musicfm_hf.search.manifest import read_manifest
from musicfm_hf.search.search_index import SearchIndex
from musicfm_hf.search.shards import write_shard

SIZE = 32
SETTINGS = BuildSettings("made up", "", "nowhere", "ivfpq")


def vectors(rows: int, seed: int) -> np.ndarray:
    """Clusters around 50 centers."""
    centers = np.random.default_rng(0).standard_normal((50, SIZE))
    generator = np.random.default_rng(seed)
    noise = 0.3 * generator.standard_normal((rows, SIZE))
    return (centers[generator.integers(50, size=rows)] + noise).astype(np.float32)


def add_shard(folder, number: int, rows: int) -> list[tuple[str, str, str]]:
    """Write a shard of songs of ten passages; return their keys."""
    songs = [
        song_passages(f"{number}-{song:04d}", part)
        for song, part in enumerate(vectors(rows, number + 1).reshape(-1, 10, SIZE))
    ]
    write_shard(folder / f"shard-{number}.safetensors", songs, {"weights": "1"})
    return [song.record.key for song in songs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of 12 000 passages in two shards."""
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("faiss")
    keys = add_shard(folder, 0, 8000) + add_shard(folder, 1, 4000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "ROWS_OF_SHARD", 4000)
        assert build_index(folder, ToneEmbedder(), keys, SETTINGS).index_type == "ivfpq"
    return folder


def recall(index: SearchIndex, queries: np.ndarray, allowed=None) -> float:
    """The share of the ten nearest passages that are found, with the same scores."""
    scores, rows = index.nearest.top(queries, 10, allowed)
    index.nearest.faiss, faiss = None, index.nearest.faiss
    truth, expected = index.nearest.top(queries, 10, allowed)
    index.nearest.faiss = faiss
    for query in range(len(queries)):
        known = dict(zip(expected[query], truth[query], strict=True))
        for row, score in zip(rows[query], scores[query], strict=True):
            assert row not in known or abs(known[row] - score) < 1e-5
    return np.mean([len({*a} & {*b}) / 10 for a, b in zip(rows, expected, strict=True)])


def test_the_nearest_passages_are_found(folder):
    index = SearchIndex.load(folder)
    assert index.nearest.faiss.index.nlist == 128
    assert index.nearest.faiss.index.ntotal == 12000
    queries = vectors(100, 99)
    assert recall(index, queries) > 0.95
    index.nearest.probes = 1
    assert recall(index, queries) < 0.8  # the number of lists matters
    index.nearest.probes, index.nearest.reranked = 128, 12000
    assert recall(index, queries) == 1.0


def test_rows_are_left_out(folder):
    nearest = SearchIndex.load(folder).nearest
    queries = vectors(5, 99)
    scores, rows = nearest.top(queries, 30)
    left_out, kept = rows[0, :20], rows[0, 20:]
    few_scores, few = nearest.top(queries, 10, without=left_out)
    assert few[0].tolist() == kept.tolist()
    np.testing.assert_array_equal(few_scores[0], scores[0, 20:])
    assert not np.isin(few, left_out).any()


@pytest.mark.parametrize("few", [0, 50000])
def test_filters_hold_in_the_approximate_index(folder, monkeypatch, few):
    monkeypatch.setattr("musicfm_hf.search.nearest.FEW_ROWS", few)
    index = SearchIndex.load(folder)
    allowed = np.arange(12000) % 3 == 1
    _, rows = index.nearest.top(vectors(20, 99), 10, allowed)
    assert (rows % 3 == 1).all()
    assert recall(index, vectors(100, 99), allowed) > 0.95
    allowed[:] = False
    allowed[[5, 7000]] = True
    _, rows = index.nearest.top(vectors(5, 99), 10, allowed)
    if few:
        assert [sorted(row[:2]) for row in rows] == [[5, 7000]] * 5
    assert set(np.unique(rows)) <= {-1, 5, 7000}


def test_datasets_loads_the_file_of_faiss(folder):
    """The rows of the data set are those of FAISS; scores are approximate."""
    index = SearchIndex.load(folder)
    dataset = index.dataset()
    dataset.load_faiss_index("embedding", folder / index.manifest.faiss_file)
    found = 0
    for row in range(0, 12000, 600):
        query = index.geometry.normalized(index.store.vectors(np.array([row]))).numpy()
        _, examples = dataset.get_nearest_examples("embedding", query, k=10)
        record = index.store.record(int(index.store.songs_of(np.array([row]))[0]))
        found += (record.name, row % 10) in zip(examples["song"], examples["start"], strict=True)
    assert found >= 12  # of 20; by chance 0.02


def test_songs_are_added_without_training_again(folder, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(build, "ROWS_OF_SHARD", 4000)
    monkeypatch.setattr(faiss_index, "build_ivfpq", None)
    monkeypatch.setattr(build, "build_ivfpq", None)
    shutil.copytree(folder, tmp_path / "index")
    keys = [record.key for record in SearchIndex.load(folder).store.records()]
    keys += add_shard(tmp_path / "index", 2, 3000)
    build_index(tmp_path / "index", ToneEmbedder(), keys, SETTINGS)
    index = SearchIndex.load(tmp_path / "index")
    assert index.nearest.faiss.index.ntotal == len(index) == 15000
    assert recall(index, vectors(100, 3)) > 0.95  # queries are the new passages
    # the last shard leaves
    build_index(tmp_path / "index", ToneEmbedder(), keys[:1200], SETTINGS)
    index = SearchIndex.load(tmp_path / "index")
    assert index.nearest.faiss.index.ntotal == len(index) == 12000
    assert recall(index, vectors(100, 99)) > 0.95
    # as does half of the second one, which is written again
    build_index(tmp_path / "index", ToneEmbedder(), keys[:1000], SETTINGS)
    index = SearchIndex.load(tmp_path / "index")
    assert index.nearest.faiss.index.ntotal == len(index) == 10000
    assert recall(index, vectors(100, 99)) > 0.95
    assert read_manifest(tmp_path / "index").trained_rows == 12000


def test_nothing_is_built_again_if_nothing_has_changed(folder, monkeypatch):
    monkeypatch.setattr(build, "ROWS_OF_SHARD", 4000)
    before = read_manifest(folder)
    keys = [record.key for record in SearchIndex.load(folder).store.records()]
    build_index(folder, ToneEmbedder(), keys, SETTINGS)
    assert read_manifest(folder) == before


def test_an_index_of_a_catalog_that_has_doubled_is_trained_again(folder, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(build, "ROWS_OF_SHARD", 4000)
    shutil.copytree(folder, tmp_path / "index")
    keys = [record.key for record in SearchIndex.load(folder).store.records()]
    keys += add_shard(tmp_path / "index", 2, 12010)
    build_index(tmp_path / "index", ToneEmbedder(), keys, SETTINGS)
    assert read_manifest(tmp_path / "index").trained_rows == 24010


def test_the_kind_of_index_follows_the_number_of_passages(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "IVFPQ_FROM", 11000)
    assert build._index_type("auto", 10999) == "exact"
    assert build._index_type("auto", 11000) == "ivfpq"
    assert build._index_type("exact", 11000) == "exact"
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.warns(UserWarning, match=r"FAISS is not installed. Run `pip install 'musicfm_hf\[search\]'`"):
        assert build._index_type("auto", 11000) == "exact"


@pytest.mark.parametrize(("rows", "lists"), [(10_000, 128), (1_000_000, 1024), (10_000_000, 4096)])
def test_the_number_of_lists(rows, lists):
    assert number_of_lists(rows) == lists


@pytest.mark.parametrize(("size", "codes"), [(512, 64), (1024, 128), (768, 96), (20, 2), (4, 1), (7, 1), (33, 3)])
def test_the_number_of_codes(size, codes):
    assert number_of_codes(size) == codes


def test_without_faiss_an_exact_search_works_and_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    songs = write_songs(tmp_path / "songs")
    assert make_index(songs, tmp_path / "index").index_type == "exact"
    assert SearchIndex.load(tmp_path / "index", ToneEmbedder()).search("300 Hz")[0].song == "album/rising.wav"
    embedder = ToneEmbedder()
    with pytest.raises(ImportError, match=r"pip install 'musicfm_hf\[search\]'"):
        make_index(songs, tmp_path / "other", embedder, index_type="ivfpq")
    assert embedder.num_embedded == 0


def test_too_few_passages_and_an_unknown_kind(tmp_path):
    pytest.importorskip("faiss")
    songs = write_songs(tmp_path / "songs")
    with pytest.raises(ValueError, match=r"needs at least 10000 passages to train on, got 7.*--index_type exact"):
        make_index(songs, tmp_path / "index", index_type="ivfpq")
    with pytest.raises(ValueError, match="must be one of auto, exact, ivfpq, got 'hnsw'"):
        make_index(songs, tmp_path / "index", index_type="hnsw")
    make_index(songs, tmp_path / "index")  # nothing was lost
    assert torch.equal(SearchIndex.load(tmp_path / "index").geometry.mean, torch.zeros(4))
