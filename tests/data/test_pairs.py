"""Pairs of training crops: which are the same music, where they lie, and that they can be repeated."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.models import TINY

from musicfm_hf import MusicFMConfig
from musicfm_hf.data.examples import collate_examples
from musicfm_hf.data.pairs import PairCrops, limit_groups
from musicfm_hf.model.losses_musicfm import IGNORED
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.retrieval import get_retrieval_task

CONFIG = MusicFMConfig(**TINY)  # 25 frames per second
LETTERS = "ABABC"


def songs_of(count=3):
    """Songs of five phrases of 8 s, in two versions."""
    return [
        SimpleNamespace(
            id=f"{number}{version}",
            group=str(number),
            duration=40.0,
            more={"phrases": [Segment(8.0 * n, 8.0 * (n + 1), letter) for n, letter in enumerate(LETTERS)]},
        )
        for number in range(count)
        for version in ("", "_v2")
    ]


def read(song, start, frames, generator):
    place = torch.tensor([start, frames])
    return {"place": place, "song": song.id, "tempo": 1.0, "random": float(generator.random())}


def crops_of(task="same_material", count=64, seconds=4.0, seed=0, songs=None, **settings):
    songs = songs_of() if songs is None else songs
    return PairCrops(CONFIG, get_retrieval_task(task), songs, read, count, seconds, seed, **settings)


def phrase_of(item):
    start, frames = item["place"].tolist()
    assert start % 200 + frames <= 200  # within a phrase of 200 frames
    return item["song"], start // 200


def test_neighbors_are_the_same_material_in_two_versions():
    crops = crops_of()
    items = [crops[number] for number in range(len(crops))]
    letters = set()
    for first, second in zip(items[::2], items[1::2], strict=True):
        (one, phrase), (other, other_phrase) = phrase_of(first), phrase_of(second)
        assert first["labels"].equal(second["labels"])
        assert first["labels"].dtype == torch.int64
        assert one[0] == other[0]
        assert LETTERS[phrase] == LETTERS[other_phrase]
        assert one != other  # another version, and perhaps the same phrase
        letters.add((one[0], LETTERS[phrase], int(first["labels"])))
        assert first["place"][1] == 100
        assert first["random"] != second["random"]  # augmented in different ways
        assert "tempo" not in first
    assert len(letters) == 9  # three letters of three songs, each with its own label
    assert {label for _, _, label in letters} == set(range(9))


def test_songs_take_turns_with_two_letters_each():
    crops = crops_of()
    songs = [crops[number]["song"][0] for number in range(0, 24, 4)]
    assert all(crops[number + 2]["song"][0] == crops[number]["song"][0] for number in range(0, 24, 4))
    assert all(crops[number + 2]["labels"] != crops[number]["labels"] for number in range(0, 24, 4))
    assert sorted(songs[:3]) == sorted(songs[3:]) == ["0", "1", "2"]
    single = crops_of(classes_per_song=1)
    assert sorted(single[number]["song"][0] for number in (0, 2, 4)) == ["0", "1", "2"]


def test_half_of_the_pairs_are_at_the_same_position():
    crops = crops_of("same_song", count=400)
    starts = np.array([int(crops[number]["place"][0]) for number in range(400)]).reshape(-1, 2)
    songs = [crops[number]["song"] for number in range(400)]
    assert all(
        {first, second} == {first[0], f"{first[0]}_v2"} for first, second in zip(songs[::2], songs[1::2], strict=True)
    )
    aligned = (starts[:, 0] == starts[:, 1]).mean()
    assert 0.4 < aligned < 0.6
    assert 0 <= starts.min() < 50 < 850 < starts.max() <= 900  # anywhere in 1000 frames


def test_a_crop_depends_only_on_its_number_and_the_seed():
    crops, again = crops_of(), crops_of()
    order = np.random.default_rng(0).permutation(64)
    found = {number: again[int(number)] for number in order}
    for number in range(64):
        assert crops[number]["place"].equal(found[number]["place"])
        assert crops[number]["random"] == found[number]["random"]
    other = crops_of(seed=1)
    assert any(not crops[number]["place"].equal(other[number]["place"]) for number in range(8))


def test_short_phrases_are_used_whole():
    item = crops_of(seconds=30.0)[0]
    assert int(item["place"][1]) == 200
    with pytest.raises(ValueError, match=r"`crop_seconds` must be at least 0.04"):
        crops_of(seconds=0.01)


def test_limit_counts_songs_with_all_versions():
    assert [song.id for song in limit_groups(songs_of(), 2)] == ["0", "0_v2", "1", "1_v2"]
    assert len(limit_groups(songs_of(), None)) == 6


def test_pitch_labels_follow_the_changes_of_the_audio_and_end_with_it():
    """Of a crop of 100 frames, 30 could be decoded."""
    calls = []

    def read_changed(song, start, frames, generator):
        return {"input_values": torch.zeros(8), "tempo": 1.5, "semitones": -2, "audio_frames": 30}

    def pitch_labels(song, start, frames, tempo, semitones):
        calls.append((song.id, frames, tempo, semitones))
        return torch.ones(frames, 24)

    songs = songs_of()
    crops = PairCrops(CONFIG, get_retrieval_task("same_material"), songs, read_changed, 4, 4.0, 0, 2, pitch_labels)
    item = crops[0]
    assert item.keys() == {"input_values", "pitch_labels", "labels"}
    assert calls[0][1:] == (100, 1.5, -2)
    assert (item["pitch_labels"][:30] == 1).all()
    assert (item["pitch_labels"][30:] == IGNORED).all()
    shorter = item | {"pitch_labels": item["pitch_labels"][:20]}
    batch = collate_examples([item, shorter])["pitch_labels"]
    assert batch.shape == (2, 100, 24)
    assert (batch[1, 20:] == IGNORED).all()
