"""Songs that are the same recording."""

import shutil

import numpy as np
import pytest
import soundfile
from helpers.audio import encode
from helpers.search import RATE, ToneEmbedder, make_index, song_passages, tones, write_song

from musicfm_hf import SearchIndex
from musicfm_hf.search import duplicates
from musicfm_hf.search.duplicates import find_duplicates, song_similarity
from musicfm_hf.search.geometry import Geometry
from musicfm_hf.search.shards import PassageStore, Shard, write_shard


def store_of(folder, songs: dict[str, list]) -> tuple[PassageStore, Geometry]:
    """A store of songs with these vectors, without standardization."""
    write_shard(folder / "shard-0.safetensors", [song_passages(*song) for song in songs.items()], {})
    store = PassageStore([Shard(folder / "shard-0.safetensors")])
    return store, Geometry.measure(store, False)


def unit(degrees: float) -> list[float]:
    return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0, 0]


def test_the_similarity_of_songs_is_that_of_the_best_pairs_of_passages(tmp_path):
    songs = {"a": np.array([unit(0), unit(90)]), "b": np.array([unit(80), unit(10), unit(200)])}
    store, geometry = store_of(tmp_path, songs)
    for pair in ((0, 1), (1, 0)):  # both passages of a are 10° from one of b
        assert song_similarity(store, geometry, *pair) == pytest.approx(np.cos(np.radians(10)), abs=1e-3)
    assert song_similarity(store, geometry, 0, 0) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("block", [2, 1024])
def test_groups_are_joined_through_a_third_song(tmp_path, monkeypatch, block):
    monkeypatch.setattr(duplicates, "BLOCK_SONGS", block)
    angles = {"d": 8, "a": 0, "x": 90, "c": 16, "far": 200, "y": 91}
    songs = {name: np.array([unit(angle), unit(angle + 20)]) for name, angle in angles.items()}
    store, geometry = store_of(tmp_path, songs)
    groups = find_duplicates(store, geometry, 0.985)  # up to 9.9°
    assert [group.songs for group in groups] == [["x", "y"], ["a", "c", "d"]]
    assert groups[1].paths == ["/a", "/c", "/d"]
    assert groups[1].score == pytest.approx(np.cos(np.radians(8)), abs=1e-3)
    assert find_duplicates(store, geometry, 0.99999) == []
    assert len(find_duplicates(store, geometry, 0.95)) == 2


@pytest.mark.parametrize("threshold", [0, 1.5, float("nan")])
def test_thresholds_are_checked(tmp_path, threshold):
    with pytest.raises(ValueError, match="more than 0 and at most 1"):
        find_duplicates(*store_of(tmp_path, {"a": np.ones((1, 4))}), threshold)


def test_transcoded_songs_are_found(tmp_path):
    """The same recording as mp3, ogg and opus and with a gain, among other songs."""
    folder = tmp_path / "songs"
    generator = np.random.default_rng(0)
    songs = [generator.uniform(0, 0.2, (3, 4)) for _ in range(8)]
    for number, song in enumerate(songs):
        write_song(folder / f"{number}.wav", song)
    for name, kind, subtype in (("a.mp3", "MP3", None), ("b.ogg", "OGG", "VORBIS"), ("c.opus", "OGG", "OPUS")):
        (folder / name).write_bytes(encode(tones(songs[1]), RATE, kind, subtype))
    soundfile.write(folder / "soft.flac", 0.5 * tones(songs[1]), RATE)
    shutil.copy(folder / "3.wav", folder / "again.wav")
    make_index(folder, tmp_path / "index")
    groups = SearchIndex.load(tmp_path / "index", ToneEmbedder()).duplicates(0.99)
    transcoded = ["1.wav", "a.mp3", "b.ogg", "c.opus", "soft.flac"]
    assert [group.songs for group in groups] == [["3.wav", "again.wav"], transcoded]
    assert groups[0].score == 1.0


def test_silence_before_a_song(tmp_path):
    """Passages are compared with all passages of the other song, so a shift does not matter."""
    song = [(0.5, 0, 0, 0), (0, 0.5, 0, 0), (0, 0, 0.5, 0)]
    write_song(tmp_path / "songs/a.wav", song)
    write_song(tmp_path / "songs/b.wav", [(0.1, 0.1, 0.1, 0.1), *song])
    soundfile.write(tmp_path / "songs/c.wav", np.flip(tones(song)), RATE)  # other order
    write_song(tmp_path / "songs/d.wav", [(0, 0, 0, 0.5)])
    make_index(tmp_path / "songs", tmp_path / "index")
    groups = SearchIndex.load(tmp_path / "index", ToneEmbedder()).duplicates()
    assert [group.songs for group in groups] == [["a.wav", "b.wav", "c.wav"]]
