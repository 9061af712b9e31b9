"""Files of an index, and the arithmetic on them."""

import numpy as np
import pytest
from helpers.search import song_passages
from safetensors.numpy import load_file

from musicfm_hf.search import song_lookup
from musicfm_hf.search.geometry import Geometry
from musicfm_hf.search.mapped_file import MappedFile
from musicfm_hf.search.nearest import NearestPassages
from musicfm_hf.search.passages import PassageSettings, cut_passages, frames_of_passages
from musicfm_hf.search.shards import PassageStore, Shard, write_shard
from musicfm_hf.search.song_lookup import SongLookup


def random_store(folder, sizes, width=16, seed=0) -> PassageStore:
    """A shard for each list of numbers of passages."""
    generator = np.random.default_rng(seed)
    for number, counts in enumerate(sizes):
        songs = [
            song_passages(f"{number}-{song}", 3 + generator.standard_normal((count, width)).astype(np.float32))
            for song, count in enumerate(counts)
        ]
        write_shard(folder / f"shard-{number}.safetensors", songs, {"weights": "1"})
    return PassageStore(Shard(folder / f"shard-{number}.safetensors") for number in range(len(sizes)))


@pytest.mark.parametrize(
    ("samples", "hop", "starts"),
    [
        (100, 30.0, [0, 30, 60, 70]),  # the last one is moved back
        (90, 30.0, [0, 30, 60]),
        (60, 15.0, [0, 15, 30]),
        (20, 30.0, [0]),
        (30, 30.0, [0]),
    ],
)
def test_songs_are_cut_into_passages_of_one_length(samples, hop, starts):
    found, ends = cut_passages(samples, 1, PassageSettings(30.0, hop))
    assert found.tolist() == starts
    assert ends.tolist() == [min(start + 30, samples) for start in starts]


@pytest.mark.parametrize(("settings", "name"), [((0.5, 0.5), "passage_seconds"), ((30.0, 31.0), "hop_seconds")])
def test_passages_that_are_too_short_or_leave_gaps_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        PassageSettings(*settings).check(1.0)


def test_a_passage_has_the_frames_whose_centers_are_in_it():
    times = np.arange(10) / 5  # 0.0, 0.2, …
    found = frames_of_passages(times, np.array([0.0, 0.6, 1.75]), np.array([0.6, 1.0, 1.79]))
    assert found == [(0, 3), (3, 5), (9, 10)]  # the last passage has no center


def test_a_file_is_read_as_safetensors_reads_it(tmp_path):
    random_store(tmp_path, [[3, 2]])
    path = tmp_path / "shard-0.safetensors"
    mapped = MappedFile(path)
    for name, array in load_file(path).items():
        np.testing.assert_array_equal(mapped.arrays[name], array)
    with pytest.raises(ValueError, match="read-only"):
        mapped.arrays["vectors"][0] = 0


@pytest.mark.parametrize("content", [b"", b"abc", b"\x10\0\0\0\0\0\0\0{}", b"\xff" * 100])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "shard-0.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-0\.safetensors is not a"):
        MappedFile(path)


def test_a_truncated_shard_is_named(tmp_path):
    random_store(tmp_path, [[300]])
    path = tmp_path / "shard-0.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"shard-0\.safetensors is not a complete"):
        Shard(path)


def test_rows_songs_and_times_over_several_shards(tmp_path):
    store = random_store(tmp_path, [[3, 2], [1], [4, 1]])
    assert (len(store), store.num_songs, store.size) == (11, 5, 16)
    assert store.song_rows.tolist() == [0, 3, 5, 6, 10, 11]
    assert [record.name for record in store.records()] == ["0-0", "0-1", "1-0", "2-0", "2-1"]
    assert [store.record(song).name for song in range(5)] == ["0-0", "0-1", "1-0", "2-0", "2-1"]
    assert store.songs_of(np.arange(11)).tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4]
    starts, ends = store.times(np.array([10, 4, 9]))
    assert (starts.tolist(), ends.tolist()) == ([0.0, 1.0, 3.0], [1.0, 2.0, 4.0])
    whole = np.concatenate([shard.vectors for shard in store.shards])
    rows = np.array([10, 0, 5, 5, 3])
    np.testing.assert_array_equal(store.vectors(rows), whole[rows].astype(np.float32))
    for release in (False, True):
        assert np.concatenate([block for _, block in store.blocks(release)]).tolist() == whole.tolist()
    assert [first for first, _ in store.blocks(first_shard=1)] == [5, 6]


def test_memory_of_blocks_is_given_back_and_read_again(tmp_path):
    store = random_store(tmp_path, [[20000]])
    first = [block.copy() for _, block in store.blocks(release=True)]
    np.testing.assert_array_equal(np.concatenate(first), store.shards[0].vectors)


def test_vectors_that_float16_cannot_hold_name_the_song(tmp_path):
    songs = [song_passages("good", np.ones((2, 4))), song_passages("large", np.full((1, 4), 7e4))]
    with pytest.raises(ValueError, match="large are not finite or exceed 65504"):
        write_shard(tmp_path / "shard-0.safetensors", songs, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("standardize", [False, True])
def test_exact_search_is_the_cosine_similarity_of_standardized_vectors(tmp_path, standardize, monkeypatch):
    store = random_store(tmp_path, [[5, 7], [9, 1]])
    geometry = Geometry.measure(store, standardize)
    vectors = np.concatenate([shard.vectors for shard in store.shards]).astype(np.float64)
    queries = vectors[[3, 17]] + 0.5
    mean, deviation = np.zeros(16), np.ones(16)
    if standardize:
        variance = vectors.var(0)
        mean, deviation = vectors.mean(0), np.sqrt(variance + 0.01 * variance.mean())
    rows, vectors = (values - mean for values in (queries, vectors))
    rows, vectors = rows / deviation, vectors / deviation
    expected = (rows @ vectors.T) / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(vectors, axis=1))
    scores, found = NearestPassages(store, geometry).top(queries, 22)
    np.testing.assert_array_equal(found, np.argsort(-expected, axis=1))
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1), atol=1e-5)
    allowed = np.zeros(22, bool)
    allowed[[2, 8, 20]] = True
    for share in (0.05, 1.0):  # block by block, and row by row
        monkeypatch.setattr("musicfm_hf.search.nearest.FEW_SHARE", share)
        scores, found = NearestPassages(store, geometry).top(queries, 4, allowed)
        for query in range(2):
            order = sorted([2, 8, 20], key=lambda row: -expected[query, row])
            assert found[query].tolist() == [*order, -1]
            np.testing.assert_allclose(scores[query], [*expected[query, order], -np.inf], atol=1e-5)


def test_a_geometry_is_extended_and_saved(tmp_path):
    store = random_store(tmp_path, [[5], [7]])
    geometry = Geometry.measure(store, True)
    geometry.save(tmp_path / "geometry")
    loaded = Geometry.load(tmp_path / "geometry")
    assert all(getattr(loaded, name).equal(getattr(geometry, name)) for name in ("mean", "deviation", "norms"))
    larger = random_store(tmp_path, [[5], [7], [3]])
    extended = loaded.extended(larger, 2)
    assert extended.mean.equal(geometry.mean)
    assert extended.norms[:12].equal(geometry.norms)
    standardized = (larger.shards[2].vectors - geometry.mean.numpy()) / geometry.deviation.numpy()
    np.testing.assert_allclose(extended.norms[12:], np.linalg.norm(standardized, axis=1), rtol=1e-5)


def test_songs_are_found_by_name_and_by_place(tmp_path, monkeypatch):
    store = random_store(tmp_path, [[3, 2], [1]])
    SongLookup.build(store).save(tmp_path / "lookup")
    lookup = SongLookup.load(tmp_path / "lookup")
    assert [lookup.find(name, store) for name in ("0-0", "0-1", "1-0", "/0-1", "1", "")] == [0, 1, 2, 1, None, None]
    monkeypatch.setattr(song_lookup, "_hash", lambda text: 7)  # a hash alone does not decide
    lookup = SongLookup.build(store)
    assert [lookup.find(name, store) for name in ("0-0", "0-1", "1-0", "/0-1", "1", "")] == [0, 1, 2, 1, None, None]
