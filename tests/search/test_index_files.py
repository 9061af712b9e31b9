"""Building an index: new, changed and removed songs, interrupted runs, wrong settings."""

import json
import os
import shutil

import numpy as np
import pytest
from accelerate import PartialState
from datasets import Audio, Dataset
from helpers.processes import on_ranks
from helpers.search import SECOND, ToneEmbedder, make_index, song_passages, tones, write_song, write_songs

from musicfm_hf.cli.index import run_index
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.search import build, index_files
from musicfm_hf.search.build import BuildSettings, build_index
from musicfm_hf.search.manifest import read_manifest
from musicfm_hf.search.passages import PassageSettings
from musicfm_hf.search.search_index import SearchIndex
from musicfm_hf.search.shards import write_shard


@pytest.fixture
def songs(tmp_path):
    return write_songs(tmp_path / "songs")


def contents(folder) -> dict[str, list]:
    """The times and vectors of each song of an index."""
    store = SearchIndex.load(folder).store
    result = {}
    for song, record in enumerate(store.records()):
        rows = store.rows_of(song)
        starts, ends = store.times(rows)
        result[record.name] = [starts.tolist(), ends.tolist(), store.vectors(rows).round(2).tolist()]
    return result


def test_an_index_has_every_passage(songs, tmp_path):
    summary = make_index(songs, tmp_path / "index")
    assert summary[:4] == (3, 7, "exact", None)
    assert (summary.problems, summary.embedded) == ([], 3)
    found = contents(tmp_path / "index")
    assert list(found) == ["album/rising.wav", "high.wav", "low.wav"]
    vectors = [[0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0.5, 0]]
    np.testing.assert_allclose(found["album/rising.wav"][2], vectors, atol=1e-3)
    assert found["album/rising.wav"][:2] == [[0, 1, 2], [1, 2, 3]]
    manifest = json.loads((tmp_path / "index/index.json").read_text())
    assert (manifest["rows"], manifest["songs"], manifest["size"], manifest["model"]) == (7, 3, 4, "tones")
    assert manifest["made"] == {"weights": "1", "passage_seconds": 1.0, "hop_seconds": 1.0}


def test_only_new_and_changed_songs_are_embedded_and_removed_ones_leave(songs, tmp_path):
    make_index(songs, tmp_path / "index")
    before = sorted(path.name for path in (tmp_path / "index").iterdir())
    embedder = ToneEmbedder()
    assert make_index(songs, tmp_path / "index", embedder).embedded == embedder.num_embedded == 0
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == before
    write_song(songs / "new.wav", [(0, 0.5, 0, 0)])
    write_song(songs / "high.wav", [(0, 0, 0.5, 0)] * 2)
    (songs / "low.wav").unlink()
    assert make_index(songs, tmp_path / "index", embedder)[:2] == (3, 5 + 1)
    assert embedder.num_embedded == 2
    make_index(songs, tmp_path / "fresh")
    assert contents(tmp_path / "index") == contents(tmp_path / "fresh")
    assert contents(tmp_path / "index")["high.wav"][2] == [[0, 0, 0.5, 0]] * 2
    assert len(list((tmp_path / "index").iterdir())) == len(before)


@pytest.mark.parametrize("kind", ["geometry", "lookup"])
def test_files_that_are_lost_are_made_again(songs, tmp_path, kind):
    make_index(songs, tmp_path / "index")
    expected = contents(tmp_path / "index")
    results = SearchIndex.load(tmp_path / "index").search("low.wav")
    (lost,) = (tmp_path / "index").glob(f"{kind}-*")
    lost.unlink()
    embedder = ToneEmbedder()
    make_index(songs, tmp_path / "index", embedder)
    assert embedder.num_embedded == 0
    assert contents(tmp_path / "index") == expected
    assert SearchIndex.load(tmp_path / "index").search("low.wav") == results


class StopError(Exception):
    pass


def test_an_interrupted_run_goes_on(songs, tmp_path, monkeypatch):
    class Interrupted(ToneEmbedder):
        def embed_songs(self, *arguments):
            for number, song in enumerate(super().embed_songs(*arguments)):
                if number == 2:
                    raise StopError
                yield song

    monkeypatch.setattr(index_files, "FLUSH_SECONDS", 0.0)
    with pytest.raises(StopError):
        make_index(songs, tmp_path / "index", Interrupted())
    assert read_manifest(tmp_path / "index") is None
    embedder = ToneEmbedder()
    assert make_index(songs, tmp_path / "index", embedder).songs == 3
    assert embedder.num_embedded == 1
    make_index(songs, tmp_path / "fresh")
    assert contents(tmp_path / "index") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("stop", ["_compact", "_build_geometry", "_remove_unlisted"])
def test_an_index_is_what_it_was_or_what_it_will_be(songs, tmp_path, monkeypatch, stop):
    make_index(songs, tmp_path / "index")
    before = contents(tmp_path / "index")
    write_song(songs / "new.wav", [(0, 0.5, 0, 0)])
    function = getattr(build, stop)

    def run_and_stop(*arguments):
        if stop != "_remove_unlisted":
            function(*arguments)
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(build, stop, run_and_stop)
        with pytest.raises(StopError):
            make_index(songs, tmp_path / "index")
    now = contents(tmp_path / "index")
    assert now == before if stop != "_remove_unlisted" else set(now) == {*before, "new.wav"}
    embedder = ToneEmbedder()
    make_index(songs, tmp_path / "index", embedder)
    assert embedder.num_embedded == 0
    make_index(songs, tmp_path / "fresh")
    assert contents(tmp_path / "index") == contents(tmp_path / "fresh")
    assert len(list((tmp_path / "index").iterdir())) == len(list((tmp_path / "fresh").iterdir()))


@pytest.mark.parametrize(
    ("embedder", "passages", "message"),
    [
        (ToneEmbedder("2"), SECOND, "--model: it was made with weights 1…, now weights 2…"),
        (ToneEmbedder(), PassageSettings(2.0, 1.0), "--passage_seconds: it was made with 1.0, now 2.0"),
        (ToneEmbedder(), PassageSettings(1.0, 0.5), "--hop_seconds: it was made with 1.0, now 0.5"),
    ],
)
def test_other_settings_are_refused(songs, tmp_path, embedder, passages, message):
    make_index(songs, tmp_path / "index")
    before = contents(tmp_path / "index")
    with pytest.raises(ValueError, match=message):
        make_index(songs, tmp_path / "index", embedder, passages)
    assert contents(tmp_path / "index") == before


def test_another_catalog_is_refused(songs, tmp_path):
    make_index(songs, tmp_path / "index")
    write_song(tmp_path / "others/other.wav", [(0, 0.5, 0, 0)])
    with pytest.raises(ValueError, match=r"index of .*songs, and would lose its songs"):
        make_index(tmp_path / "others", tmp_path / "index")


def test_songs_that_cannot_be_read_are_listed_each_time(songs, tmp_path):
    (songs / "broken.wav").write_text("no music")
    whole = (songs / "low.wav").read_bytes()
    (songs / "cut.wav").write_bytes(whole[: len(whole) * 3 // 4])
    summaries = [make_index(songs, tmp_path / "index") for _ in range(2)]
    for summary, embedded in zip(summaries, (4, 0), strict=True):
        assert (summary.songs, summary.embedded) == (4, embedded)
        problems = dict(summary.problems)
        assert problems.keys() == {"broken.wav", "cut.wav"}
        assert "truncated" in problems["cut.wav"]


def test_a_catalog_without_audio_that_can_be_read(tmp_path):
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs/broken.wav").write_text("no music")
    with pytest.raises(ValueError, match="the index would be empty"):
        make_index(tmp_path / "songs", tmp_path / "index")


def test_two_songs_of_one_name_are_refused(songs, tmp_path):
    sources = list_sources(songs) * 2
    with pytest.raises(ValueError, match=r"Two sources are named 'album/rising.wav'"):
        index_files.index_files(ToneEmbedder(), sources, tmp_path, BuildSettings("tones", "", "a"))


def test_rows_of_a_data_set(songs, tmp_path):
    audio = [{"bytes": path.read_bytes(), "path": None} for path in sorted(songs.glob("*.wav"))]
    Dataset.from_dict({"audio": audio}).cast_column("audio", Audio(decode=False)).save_to_disk(tmp_path / "saved")
    embedder = ToneEmbedder()
    for _ in range(2):
        assert make_index(tmp_path / "saved", tmp_path / "index", embedder)[:2] == (2, 4)
    assert embedder.num_embedded == 2
    found = SearchIndex.load(tmp_path / "index", embedder).search("0000001")
    assert [result.song for result in found] == ["0000000"]


def test_small_shards_are_merged_and_large_ones_stay(tmp_path, monkeypatch):
    """Shards of at least half the size are not written again; the others become as few as possible."""
    monkeypatch.setattr(build, "ROWS_OF_SHARD", 8)
    names = []
    for number, counts in enumerate([(5, 2), (1, 1), (2,), (3, 3, 3)]):
        part = [song_passages(f"{number}{song}", np.ones((count, 4))) for song, count in enumerate(counts)]
        names += [song.record for song in part]
        write_shard(tmp_path / f"shard-{number}.safetensors", part, {"weights": "1"})
    keys = [record.key for record in names if record.name != "31"]
    build_index(tmp_path, ToneEmbedder(), keys, BuildSettings("tones", "", "a"))
    store = SearchIndex.load(tmp_path).store
    assert [record.name for record in store.records()] == ["00", "01", "10", "11", "20", "30", "32"]
    assert [len(shard) for shard in store.shards] == [7, 10]  # songs are never divided
    assert store.shards[0].file.path.name == "shard-0.safetensors"
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    build_index(tmp_path, ToneEmbedder(), keys, BuildSettings("tones", "", "a"))
    after = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"index.json"}


def index_on_rank(songs, output):
    """What a process of `accelerate launch` does."""
    state = PartialState(cpu=True, backend="gloo")
    embedder = ToneEmbedder()
    summary = run_index(
        embedder, list_sources(songs), output, BuildSettings("tones", "1", str(songs)), SECOND, 0, state
    )
    print("embedded", embedder.num_embedded, "of", None if summary is None else summary.embedded)
    assert (summary is not None) == state.is_main_process


def test_two_processes_make_the_same_index(songs, tmp_path, server):
    write_song(songs / "more.wav", [(0.2, 0, 0, 0.5)])
    (songs / "broken.wav").write_text("no music")
    done = on_ranks(server, index_on_rank, songs, tmp_path / "index", log=tmp_path / "log")
    assert [code for code, _ in done] == [0, 0], "\n".join(text for _, text in done)
    assert "embedded 3 of 4" in done[0][1]
    assert "embedded 1 of None" in done[1][1]
    make_index(songs, tmp_path / "alone")
    assert contents(tmp_path / "index") == contents(tmp_path / "alone")
    assert sorted(os.listdir(tmp_path / "index"))[-1].startswith("shard-")
    shutil.rmtree(tmp_path / "alone")


def test_frames_of_songs_are_those_of_embed(tiny_model, tmp_path):
    """With a real encoder: a passage is the mean of its frames of `embed`, in float16."""
    import soundfile
    from helpers.audio import music

    from musicfm_hf import embed
    from musicfm_hf.inference.embedding import WindowSettings
    from musicfm_hf.search.embedders import EncoderEmbedder

    (tmp_path / "songs").mkdir()
    audio = music(7.0)
    soundfile.write(tmp_path / "songs/a.wav", audio, 24000, subtype="FLOAT")
    embedder = EncoderEmbedder(tiny_model, WindowSettings(2, 4.0, 1.0, batch_size=3))
    make_index(tmp_path / "songs", tmp_path / "index", embedder, PassageSettings(3.0, 3.0))
    frames, times = embed(tiny_model, audio, 24000, layer=2, window_seconds=4.0, overlap_seconds=1.0)
    starts, ends, _ = contents(tmp_path / "index")["a.wav"]
    assert (starts, ends) == ([0, 3, 4], [3, 6, 7])
    vectors = SearchIndex.load(tmp_path / "index").store.vectors(np.arange(3))
    for vector, start, end in zip(vectors, starts, ends, strict=True):
        expected = frames[(times >= start) & (times < end)].mean(0)
        np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-3)
    made = read_manifest(tmp_path / "index").made
    assert (made["layer"], made["window_seconds"], made["overlap_seconds"], made["dtype"]) == (2, 4.0, 1.0, "float32")


def test_tones_have_the_amplitudes_that_the_tests_assume():
    song = tones([(0.5, 0.25, 0, 0.125)])
    np.testing.assert_allclose(ToneEmbedder.amplitudes(song), [0.5, 0.25, 0, 0.125], atol=1e-6)
