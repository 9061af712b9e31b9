"""Searching an index by songs, parts of songs and words."""

import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.models import TINY
from helpers.search import ToneEmbedder, make_index, write_song, write_songs
from helpers.text_audio import processor, save_adapter, text_audio_model

from musicfm_hf import (
    BuildSettings,
    MusicFMConfig,
    MusicFMForXVector,
    PassageSettings,
    SearchIndex,
    WindowSettings,
    index_files,
    load_embedder,
)
from musicfm_hf.cli.main import main
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.inference.excerpts import embed_excerpts
from musicfm_hf.search.embedders import EncoderEmbedder
from musicfm_hf.tasks.retrieval import Excerpt


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("search") / "songs")


@pytest.fixture(scope="module")
def folder(songs):
    make_index(songs, songs.parent / "index")
    return songs.parent / "index"


@pytest.fixture
def index(folder):
    return SearchIndex.load(folder, ToneEmbedder())


def found(results) -> list[tuple]:
    return [(result.song, round(result.score, 2), result.start, result.end) for result in results]


def cosine(*vectors) -> float:
    first, second = (np.array(vector, float) for vector in vectors)
    return round(float(first @ second / np.linalg.norm(first) / np.linalg.norm(second)), 2)


def test_words_find_the_passage_in_which_they_sound(index):
    assert found(index.search("a tone of 300 Hz")) == [
        ("album/rising.wav", 1.0, 1.0, 2.0),
        ("low.wav", cosine((0.5, 0.1), (0, 1)), 1.0, 2.0),
        ("high.wav", 0.0, 0.0, 1.0),
    ]
    assert found(index.search("400 Hz, 500 Hz", top=1)) == [("high.wav", cosine((1, 1), (0.1, 0.5)), 0.0, 1.0)]


def test_a_song_of_the_index_needs_no_model_and_is_left_out(folder, songs):
    index = SearchIndex.load(folder, model="none")
    low = (1 + cosine((0.5, 0), (0.5, 0.1))) / 2  # the mean over its two passages
    for query in ("low.wav", songs / "low.wav", str(songs / "low.wav")):
        results = index.search(query)
        assert found(results)[0] == ("album/rising.wav", round(low, 2), 0.0, 1.0)
        assert [result.song for result in results] == ["album/rising.wav", "high.wav"]
    assert results[0].path == str(songs / "album/rising.wav")
    first = index.search("low.wav", include_query=True)[0]
    assert (first.song, round(first.score, 2)) == ("low.wav", 1.0)


def test_a_part_of_a_song(index, songs):
    for query in (f"{songs}/album/rising.wav@0:02-0:03", "album/rising.wav@2-"):
        assert found(index.search(query))[0] == ("high.wav", cosine((0, 0, 1, 0), (0, 0, 0.1, 0.5)), 0.0, 1.0)
    assert found(index.search("album/rising.wav", start=2.0, end=3.0)) == found(index.search(query))
    # 300 Hz and then 400 Hz: each has a passage of its own
    results = index.search("album/rising.wav@1-3", include_query=True)
    high = cosine((0, 0, 1, 0), (0, 0, 0.1, 0.5))
    assert found(results)[0][:2] == ("album/rising.wav", 1.0)
    assert found(results)[1] == ("high.wav", round(high / 2, 2), 0.0, 1.0)


def test_a_song_that_is_not_in_the_index(index, tmp_path):
    path = write_song(tmp_path / "other.wav", [(0, 0, 0, 0.5), (0, 0, 0, 0.3)])
    samples, rate = soundfile.read(path)
    row = {"array": samples, "sampling_rate": rate}
    for query in (path, str(path), path.read_bytes(), {"path": str(path)}, row):
        assert found(index.search(query, top=1)) == [("high.wav", 1.0, 1.0, 2.0)]
    row["array"] = np.concatenate([np.zeros(2 * rate), samples])
    assert found(index.search(row, top=1, start=2.0, end=3.0)) == [("high.wav", 1.0, 1.0, 2.0)]
    with pytest.raises(ValueError, match=r"A row with `array` needs its `sampling_rate`"):
        index.search({"array": samples})


def test_a_song_that_has_changed_since_is_embedded_again(songs, tmp_path):
    shutil.copytree(songs, tmp_path / "songs")
    make_index(tmp_path / "songs", tmp_path / "index")
    write_song(tmp_path / "songs/low.wav", [(0, 0, 0, 0.5)])
    results = SearchIndex.load(tmp_path / "index", ToneEmbedder()).search(tmp_path / "songs/low.wav")
    assert next((result.song, round(result.score, 2)) for result in results) == ("high.wav", 1.0)
    assert "low.wav" not in [result.song for result in results]


def test_another_song_with_the_name_of_one_of_the_index_is_not_taken_for_it(folder, songs, tmp_path, monkeypatch):
    write_song(tmp_path / "low.wav", [(0, 0, 0, 0.5), (0, 0, 0, 0.3)])
    monkeypatch.chdir(tmp_path)
    index = SearchIndex.load(folder, ToneEmbedder())
    results = index.search("low.wav")
    assert found(results)[0] == ("high.wav", 1.0, 1.0, 2.0)
    assert "low.wav" in [result.song for result in results]
    shutil.copy2(songs / "low.wav", tmp_path / "low.wav")  # the same file, elsewhere
    assert "low.wav" not in [result.song for result in index.search("low.wav")]


def test_paths_are_those_of_files(songs, tmp_path, monkeypatch):
    """However they are written."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(songs, tmp_path / "songs")
    build, embedder = BuildSettings("tones", "1", str(tmp_path / "songs")), ToneEmbedder()
    for place, embedded in (("../songs", 3), (tmp_path / "songs", 0)):
        sources = list_sources(place)
        summary = index_files(embedder, sources, tmp_path / "index", build, num_workers=0, progress=False)
        assert summary.embedded == embedded
    index = SearchIndex.load(tmp_path / "index", ToneEmbedder())
    for path in (tmp_path / "songs/low.wav", "../songs/low.wav", f"{tmp_path}/here/../songs/low.wav"):
        assert "low.wav" not in [result.song for result in index.search(path)]


def test_an_index_that_is_made_again_while_it_is_used(songs, tmp_path):
    shutil.copytree(songs, tmp_path / "songs")
    make_index(tmp_path / "songs", tmp_path / "index")
    index = SearchIndex.load(tmp_path / "index", ToneEmbedder())
    write_song(tmp_path / "songs/new.wav", [(0, 0, 0.2, 0.5)])
    (tmp_path / "songs/high.wav").unlink()
    make_index(tmp_path / "songs", tmp_path / "index")
    assert [result.song for result in index.search("low.wav")] == ["album/rising.wav", "high.wav"]
    fresh = SearchIndex.load(tmp_path / "index", ToneEmbedder())
    assert {result.song for result in fresh.search("low.wav")} == {"album/rising.wav", "new.wav"}


def test_every_passage(index):
    results = found(index.search("300 Hz", top=4, every_passage=True))
    assert results[:2] == [("album/rising.wav", 1.0, 1.0, 2.0), ("low.wav", 0.2, 1.0, 2.0)]
    assert len(results) == 4
    assert len(index.search("300 Hz", top=100, every_passage=True)) == 7


def test_songs_with_many_passages_do_not_crowd_out_others(tmp_path):
    """The best passages are all of one song: the search looks further until it has enough songs."""
    write_song(tmp_path / "songs/long.wav", [(0.5, 0.01 * second, 0, 0) for second in range(40)])
    for number in range(5):
        write_song(tmp_path / f"songs/{number}.wav", [(0.1, 0, 0.1 + 0.01 * number, 0)])
    make_index(tmp_path / "songs", tmp_path / "index")
    results = SearchIndex.load(tmp_path / "index", ToneEmbedder()).search("200 Hz", top=3)
    assert [result.song for result in results] == ["long.wav", "0.wav", "1.wav"]


def test_a_model_without_text_tower_says_so(tiny_model, tmp_path):
    (tmp_path / "songs").mkdir()
    soundfile.write(tmp_path / "songs/a.wav", music(2.0), 24000)
    embedder = EncoderEmbedder(tiny_model)
    make_index(tmp_path / "songs", tmp_path / "index", embedder)
    index = SearchIndex.load(tmp_path / "index", embedder)
    with pytest.raises(ValueError, match=r"no text tower, and 'slow piano' is neither.*MuQ-MuLan"):
        index.search("slow piano")


@pytest.mark.parametrize(
    ("query", "arguments", "error", "message"),
    [
        ("none.wav", {}, FileNotFoundError, "does not exist"),
        ("n" * 250 + ".wav", {}, FileNotFoundError, "does not exist"),  # longer than the name of a file may be
        ("300 Hz", {"top": 0}, ValueError, "`top` must be at least 1"),
        ("low.wav", {"start": -1.0}, ValueError, "`start` must be at least 0 and before `end`, .* got -1.0 and None"),
        ("low.wav", {"start": float("nan")}, ValueError, "`start` must be at least 0"),
        ("low.wav", {"start": 1.0, "end": 1.0}, ValueError, "`start` must be at least 0"),
        ("300 Hz", {"where": {"key": "A:min"}}, ValueError, "no annotations to filter by"),
        ("low.wav@0-0.005", {}, ValueError, "has 0.005 s of audio; the model needs at least 0.010"),
        ("low.wav@10-20", {}, ValueError, "ends at 2.000 s, before `start`"),
    ],
)
def test_wrong_searches(index, query, arguments, error, message):
    with pytest.raises(error, match=message):
        index.search(query, **arguments)


def test_a_folder_without_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no index: write one with `musicfm index"):
        SearchIndex.load(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="not an index that this version"):
        SearchIndex.load(tmp_path)


@pytest.fixture(scope="module")
def encoder_index(encoder, tmp_path_factory):
    """An index that a saved encoder made, and the folder of its songs."""
    root = tmp_path_factory.mktemp("encoder_index")
    (root / "songs").mkdir()
    for number in range(3):
        soundfile.write(root / f"songs/{number}.wav", music(2.0, seed=number), 24000)
    shutil.copytree(encoder, root / "model")
    embedder, revision = load_embedder(str(root / "model"), windows=WindowSettings(1))
    settings = BuildSettings(str(root / "model"), revision, str(root / "songs"))
    sources = [(path.name, str(path)) for path in sorted((root / "songs").iterdir())]
    passages = PassageSettings(1.0, 1.0)
    index_files(embedder, sources, root / "index", settings, passages, num_workers=0, progress=False)
    return root


def test_the_model_of_the_index_is_loaded_with_its_settings(encoder_index):
    index = SearchIndex.load(encoder_index / "index")
    first = index.search(encoder_index / "songs/1.wav", include_query=True, every_passage=True)
    again = index.search((encoder_index / "songs/1.wav").read_bytes(), include_query=True, every_passage=True)
    assert index.embedder.windows.layer == 1
    assert [result.row for result in first] == [result.row for result in again]
    np.testing.assert_allclose([result.score for result in first], [result.score for result in again], atol=2e-3)
    assert {result.song for result in first[:2]} == {"1.wav"}


def test_a_model_that_has_moved_or_differs(encoder_index, tmp_path, converted):
    audio = (encoder_index / "songs/1.wav").read_bytes()
    shutil.copytree(encoder_index, tmp_path / "moved")
    manifest = tmp_path / "moved/index/index.json"
    manifest.write_text(manifest.read_text().replace(str(encoder_index / "model"), str(tmp_path / "none/model")))
    with pytest.raises(OSError, match=r"none/model of the index cannot be loaded.*pass it as `--model`"):
        SearchIndex.load(tmp_path / "moved/index").search(audio)
    index = SearchIndex.load(tmp_path / "moved/index", model=str(tmp_path / "moved/model"))
    assert len(index.search(audio)) == 3
    with pytest.raises(ValueError, match="was not made with"):
        SearchIndex.load(tmp_path / "moved/index", model=str(converted)).search(audio)


def test_the_data_set_of_an_index(index):
    dataset = index.dataset()
    assert dataset.column_names == ["song", "path", "start", "end", "embedding"]
    assert dataset["song"][:] == ["album/rising.wav"] * 3 + ["high.wav"] * 2 + ["low.wav"] * 2
    assert dataset[1]["start"] == 1.0
    embeddings = np.array(dataset.with_format("numpy")["embedding"][:])
    np.testing.assert_array_equal(embeddings, index.store.vectors(np.arange(7)))
    filtered = dataset.filter(lambda row: row["start"] == 0)
    assert filtered["song"][:] == ["album/rising.wav", "high.wav", "low.wav"]


def test_the_data_set_of_songs_whose_names_are_no_text(songs, tmp_path):
    (tmp_path / "songs").mkdir()
    shutil.copy(songs / "low.wav", tmp_path / "songs" / os.fsdecode(b"caf\xe9.wav"))
    make_index(tmp_path / "songs", tmp_path / "index")
    index = SearchIndex.load(tmp_path / "index", ToneEmbedder())
    assert set(index.dataset()["song"][:]) == {"caf\N{REPLACEMENT CHARACTER}.wav"}


def test_a_data_set_is_searched_by_faiss(index):
    pytest.importorskip("faiss")
    dataset = index.dataset().with_format("numpy")
    dataset = dataset.map(lambda row: {"embedding": row["embedding"].astype(np.float32)}, keep_in_memory=True)
    dataset.add_faiss_index("embedding")
    _, nearest = dataset.get_nearest_examples("embedding", np.array([0, 0, 0, 0.5], np.float32), k=1)
    assert (nearest["song"][0], float(nearest["start"][0])) == ("high.wav", 1.0)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A saved model of music and words, and songs at its rate, one of them shorter than a passage."""
    root = tmp_path_factory.mktemp("towers")
    (root / "songs").mkdir()
    for number, seconds in enumerate((2.4, 3.0, 0.6)):
        soundfile.write(root / f"songs/{number}.wav", music(seconds, seed=number), 24000, subtype="FLOAT")
    text_audio_model().save_pretrained(root / "model")
    processor().save_pretrained(root / "model")
    return root


def test_words_are_compared_with_passages_by_a_model_of_music_and_words(towers):
    embedder, revision = load_embedder(str(towers / "model"), windows=WindowSettings(batch_size=2))
    settings = BuildSettings(str(towers / "model"), revision, str(towers / "songs"))
    sources = [(path.name, str(path)) for path in sorted((towers / "songs").iterdir())]
    summary = index_files(embedder, sources, towers / "index", settings, num_workers=0, progress=False)
    assert summary.passages == 3 + 3 + 1  # of a second, the length of the clips of the model
    model = text_audio_model()
    with torch.no_grad():
        inputs = processor()(text=["sad piano"])
        text = model.get_text_features(**inputs).pooler_output
        expected = {}
        for number, starts in enumerate(([0, 1, 1.4], [0, 1, 2], [0])):
            audio = torch.from_numpy(soundfile.read(towers / f"songs/{number}.wav", dtype="float32")[0])
            for start in starts:
                part = audio[None, round(start * 24000) : round((start + 1) * 24000)]
                expected[f"{number}.wav", start] = float(
                    (model.get_audio_features(part).pooler_output @ text.T).item()
                )
    index = SearchIndex.load(towers / "index")
    results = index.search("sad piano", top=7, every_passage=True)
    found = {(result.song, round(result.start, 1)): result.score for result in results}
    assert found == pytest.approx(expected, abs=2e-3)
    best = max(expected, key=expected.get)
    (first,) = index.search("sad piano", top=1)
    assert (first.song, round(first.start, 1)) == best
    assert first.score == pytest.approx(expected[best], abs=2e-3)
    assert index.search("0.wav")[0].song in ("1.wav", "2.wav")


def test_the_command_with_an_adapter_of_music_and_words(towers, tmp_path):
    adapted = save_adapter(towers / "model", tmp_path / "lora")
    model = ["--model", str(tmp_path / "lora"), "--device", "cpu"]
    main(["index", str(towers / "songs"), *model, "--output_dir", str(tmp_path / "index")])
    audio = torch.from_numpy(soundfile.read(towers / "songs/1.wav", dtype="float32")[0])
    with torch.no_grad():
        expected = adapted.get_audio_features(audio[None, :24000]).pooler_output[0]
        text = adapted.get_text_features(**processor()(text=["sad piano"])).pooler_output[0]
    index = SearchIndex.load(tmp_path / "index")
    results = index.search("sad piano", top=7, every_passage=True)
    found = {(result.song, result.start): result.score for result in results}
    assert found["1.wav", 0.0] == pytest.approx(float(expected @ text), abs=2e-3)


@pytest.fixture(scope="module")
def retrieval_model(tmp_path_factory):
    """The folder of a model with an embedding head for passages of 1.6 s, and two songs."""
    root = tmp_path_factory.mktemp("retrieval")
    (root / "songs").mkdir()
    for number, seconds in enumerate((4.4, 1.2)):
        soundfile.write(root / f"songs/{number}.wav", music(seconds, seed=number), 24000, subtype="FLOAT")
    torch.manual_seed(0)
    config = MusicFMConfig(
        **TINY,
        contrastive_loss="info_nce",
        pitch_frames=8,
        xvector_output_dim=6,
        use_weighted_layer_sum=True,
        decoding={"passage_seconds": 1.6},
    )
    model = MusicFMForXVector(config)
    model.classifier.layer_weights.data = torch.tensor([0.0, 3.0, 1.0, 2.0])
    model.save_pretrained(root / "model")
    embedder, revision = load_embedder(str(root / "model"))
    settings = BuildSettings(str(root / "model"), revision, str(root / "songs"))
    sources = [(path.name, str(path)) for path in sorted((root / "songs").iterdir())]
    index_files(embedder, sources, root / "index", settings, num_workers=0, progress=False)
    return root


def test_a_retrieval_model_embeds_passages_of_its_length_with_its_head(retrieval_model):
    """The mean over the frames of the encoder, which the folder also loads as, does not find other versions."""
    model = MusicFMForXVector.from_pretrained(retrieval_model / "model").eval()
    long, short = (LabeledSong(name, str(retrieval_model / f"songs/{name}.wav"), name) for name in "01")
    passages = [Excerpt(long, start, start + 1.6, "", 0) for start in (0.0, 1.6, 2.8)]
    expected = embed_excerpts(model, [*passages, Excerpt(short, 0.0, 1.2, "", 0)], WindowSettings())
    index = SearchIndex.load(retrieval_model / "index")
    assert not index.manifest.standardize
    assert index.store.times(np.arange(4))[0] == pytest.approx([0.0, 1.6, 2.8, 0.0])
    np.testing.assert_allclose(index.store.vectors(np.arange(4)), expected, atol=2e-3)  # stored in half precision
    results = index.search((retrieval_model / "songs/1.wav").read_bytes(), every_passage=True)
    cosines = {(result.song, round(result.start, 3)): result.score for result in results}
    names = [("0.wav", 0.0), ("0.wav", 1.6), ("0.wav", 2.8), ("1.wav", 0.0)]
    assert cosines == pytest.approx(dict(zip(names, expected @ expected[3], strict=True)), abs=3e-3)


def test_an_exported_retrieval_model_embeds_with_its_head_too(retrieval_model, monkeypatch):
    name = str(retrieval_model / "model")
    expected = load_embedder(name)[0].describe()
    monkeypatch.setattr("musicfm_hf.search.embedders.is_exported", lambda folder: True)
    monkeypatch.setattr("musicfm_hf.search.embedders.load_exported", MusicFMForXVector.from_pretrained)
    assert load_embedder(name)[0].describe() == expected
    with pytest.raises(ValueError, match="has an embedding head, which fixes the layer"):
        load_embedder(name, windows=WindowSettings(layer=1))


def test_a_part_of_a_song_without_a_file(tmp_path):
    content = write_song(tmp_path / "song.wav", [(0.5, 0, 0, 0)] * 2).read_bytes()
    settings = BuildSettings("tones", "1", "memory")
    index_files(ToneEmbedder(), [("song", content)], tmp_path / "index", settings, num_workers=0, progress=False)
    index = SearchIndex.load(tmp_path / "index", ToneEmbedder())
    assert index.search("song", include_query=True)[0].song == "song"
    with pytest.raises(ValueError, match="The audio of song is not a file at song, so a part of it cannot be"):
        index.search("song@0-1")


def test_a_retrieval_model_is_refused_with_a_layer_or_another_head(retrieval_model, tmp_path):
    with pytest.raises(ValueError, match="has an embedding head, which fixes the layer: leave out `--layer`"):
        load_embedder(str(retrieval_model / "model"), windows=WindowSettings(layer=1))
    shutil.copytree(retrieval_model, tmp_path / "moved")
    other = MusicFMForXVector.from_pretrained(tmp_path / "moved/model")
    other.classifier.embedding.output.weight.data *= 2  # the encoder stays the same
    other.save_pretrained(tmp_path / "moved/model")
    with pytest.raises(ValueError, match="was not made with"):
        SearchIndex.load(retrieval_model / "index", model=str(tmp_path / "moved/model")).search(
            (retrieval_model / "songs/0.wav").read_bytes()
        )


def test_a_model_of_music_and_words_has_its_own_layer_and_windows(towers):
    with pytest.raises(ValueError, match="leave out `--layer`, `--window_seconds` and `--overlap_seconds`"):
        load_embedder(str(towers / "model"), windows=WindowSettings(layer=1))
