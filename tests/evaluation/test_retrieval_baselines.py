"""Baselines of retrieval: invariances, and a search among notes."""

from types import SimpleNamespace

import numpy as np
import pytest

from musicfm_hf.evaluation.classical import SAMPLING_RATE
from musicfm_hf.evaluation.retrieval import (
    average_searches,
    score_vectors,
    search_difference,
    searches_with_intervals,
    similarities,
    whitening,
)
from musicfm_hf.evaluation.retrieval_baselines import (
    HOP_LENGTH,
    RETRIEVAL_BASELINES,
    SongFrames,
    extract_frames,
    frames_of,
)
from musicfm_hf.tasks.retrieval import Excerpt, Search


def chroma_of(seed, frames=90):
    """A melody: one pitch class sounds for some frames."""
    generator = np.random.default_rng(seed)
    return np.repeat(np.eye(12)[generator.integers(12, size=frames // 6)].T, 6, axis=1).astype(np.float32)


def song_of(chroma):
    return SongFrames(chroma, np.zeros((20, chroma.shape[1]), dtype=np.float32))


@pytest.mark.parametrize("name", ["chroma_fourier", "chroma_correlated"])
def test_chroma_in_another_key_and_tempo_is_the_same(name):
    songs = [chroma_of(seed) for seed in range(6)]
    others = [np.roll(song, 5, axis=0) for song in songs]
    compare = RETRIEVAL_BASELINES[name].compare
    found = compare([song_of(song) for song in songs], [song_of(song) for song in others], count=30)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)
    assert found.argmax(1).tolist() == list(range(6))
    assert found[~np.eye(6, dtype=bool)].max() < 0.95
    slower = [np.repeat(song, 2, axis=1) for song in others]
    np.testing.assert_allclose(
        compare([song_of(song) for song in songs], [song_of(song) for song in slower], count=30), found, atol=1e-6
    )


def test_correlation_finds_the_lag_and_the_transposition():
    song = chroma_of(3)[:, ::2]
    rotated = np.roll(song, (4, 11), axis=(0, 1))
    compare = RETRIEVAL_BASELINES["chroma_correlated"].compare
    assert compare([song_of(song)], [song_of(rotated)], count=45)[0, 0] == pytest.approx(1)


def test_mfcc_compares_means_and_deviations():
    generator = np.random.default_rng(0)
    sounds = [generator.normal(size=(20, 1)) + generator.normal(size=(20, 50)) for _ in range(5)]
    compare = RETRIEVAL_BASELINES["mfcc"].compare
    parts = [
        [SongFrames(np.ones((12, 50)), sound[:, half]) for sound in sounds] for half in (slice(25), slice(25, 50))
    ]
    assert compare(*parts).argmax(1).tolist() == list(range(5))


def test_frames_of_an_excerpt():
    rate = SAMPLING_RATE / HOP_LENGTH
    times = np.arange(5 * SAMPLING_RATE) / SAMPLING_RATE
    tone = np.where(times < 2.5, np.sin(2 * np.pi * 440 * times), np.sin(2 * np.pi * 523.25 * times))
    frames = extract_frames(tone.astype(np.float32))
    song = SimpleNamespace(id="a")
    early, late = (frames_of(Excerpt(song, start, start + 1.5, "", 0), {"a": frames}) for start in (0.5, 3.0))
    assert early.chroma.shape[1] == pytest.approx(1.5 * rate, abs=1)
    assert early.chroma.mean(1).argmax() == 9  # A
    assert late.chroma.mean(1).argmax() == 0  # C
    assert early.mfcc.shape[0] == 20
    with pytest.raises(ValueError, match=r"has 0.50 s, but chroma and MFCCs need 1 s"):
        extract_frames(np.zeros(12000, dtype=np.float32))


def test_scores_of_vectors_and_their_differences():
    def song(group):
        return SimpleNamespace(id=group, group=group)

    queries = [Excerpt(song(name), 0, 1, "", 0) for name in "ab"]
    search = Search(queries, queries, np.array([[1, 0], [0, 1]], dtype=np.int8))
    vectors = np.array([[2.0, 0.0], [0.0, 0.1]])
    np.testing.assert_allclose(similarities(vectors, vectors), np.eye(2))
    good, bad = score_vectors(search, vectors, vectors), score_vectors(search, vectors, vectors[::-1])
    assert (good["a"]["map"], bad["a"]["map"]) == (1.0, 0.5)
    assert average_searches(bad)["recall_at_1"] == 0.0
    assert searches_with_intervals(good)["map"] == {"mean": 1.0, "songs": 2, "interval": (1.0, 1.0)}
    difference = search_difference([bad], [good, bad], "map")
    assert (difference.mean, difference.songs) == (pytest.approx(0.25), 2)
    np.testing.assert_allclose(difference.samples, 0.25)


def test_whitening_gives_the_covariance_one():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(500, 3)) @ generator.normal(size=(3, 3)) + 7
    mean, matrix = whitening(vectors)
    np.testing.assert_allclose(np.cov(((vectors - mean) @ matrix).T), np.eye(3), atol=1e-6)
    mean, matrix = whitening(vectors, np.inf)
    np.testing.assert_allclose((vectors - mean) @ matrix, vectors - vectors.mean(0))
