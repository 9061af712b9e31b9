"""Tags: targets, probabilities and scores that can be worked out by hand."""

import math

import numpy as np
import pytest

from musicfm_hf.tasks import tagging

LABELS = ["piano", "slow", "voice"]


def test_targets():
    found = tagging.targets(["voice", "piano", "voice"], LABELS)
    assert found.dtype == np.float32
    assert found.tolist() == [1, 0, 1]
    assert tagging.targets([], LABELS).tolist() == [0, 0, 0]


def test_targets_refuse():
    with pytest.raises(ValueError, match=r"\['harp', 'organ'\] are not among the 3"):
        tagging.targets(["organ", "piano", "harp"], LABELS)
    for labels in ([], ["piano", "piano"], "piano"):
        with pytest.raises(ValueError, match="at least one tag"):
            tagging.targets(["piano"], labels)


def test_events():
    found = tagging.events(np.log([1 / 3, 3.0, 1.0]), LABELS)
    assert list(found) == ["slow", "voice", "piano"]
    assert found == pytest.approx({"slow": 0.75, "voice": 0.5, "piano": 0.25})


def test_events_are_means_of_probabilities_over_clips():
    """Not of logits: one clip that is very sure would decide alone."""
    found = tagging.events(np.array([[-900.0, 0.0, 0.0], [np.log(9), 0.0, 900.0]]), LABELS)
    assert found == pytest.approx({"voice": 0.75, "slow": 0.5, "piano": 0.45})
    assert list(found) == ["voice", "slow", "piano"]


@pytest.mark.parametrize(
    "logits", [np.zeros(2), np.zeros((3, 2)), np.zeros((0, 3)), np.zeros((1, 1, 3)), np.array([0, np.nan, 0])]
)
def test_events_refuse(logits):
    with pytest.raises(ValueError, match="Logits must"):
        tagging.events(logits, LABELS)


def test_score():
    references = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 0]])
    estimates = np.array([[0.9, 0.1, 0.4], [0.8, 0.2, 0.9], [0.7, 0.3, 0.8], [0.6, 0.4, 0.6]])
    found = tagging.score(references, estimates, LABELS)
    # piano: right at ranks 1 and 3; voice: right at ranks 1, 2 and 4. Pairs in the right order: 3 of 4, 2 of 3.
    piano, voice = (1 + 2 / 3) / 2, (1 + 1 + 3 / 4) / 3
    assert found["tags"] == {
        "piano": {"map": pytest.approx(piano), "roc_auc": pytest.approx(3 / 4), "positives": 2},
        "voice": {"map": pytest.approx(voice), "roc_auc": pytest.approx(2 / 3), "positives": 3},
    }
    assert found["skipped"] == ["slow"]
    assert found["map"] == pytest.approx((piano + voice) / 2)
    assert found["roc_auc"] == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_a_single_song_has_no_score():
    found = tagging.score([[1, 0, 1]], [[0.9, 0.1, 0.4]], LABELS)
    assert math.isnan(found["map"])
    assert math.isnan(found["roc_auc"])
    assert found["skipped"] == LABELS


@pytest.mark.parametrize(
    ("references", "estimates", "message"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), "shape"),
        (np.zeros((4, 3)), np.zeros((5, 3)), "shape"),
        (np.zeros(3), np.zeros(3), "shape"),
        (np.full((4, 3), 0.5), np.zeros((4, 3)), "0 or 1, got 0.5"),
        (np.zeros((4, 3)), np.full((4, 3), np.nan), "'piano' in song 0"),
    ],
)
def test_score_refuses(references, estimates, message):
    with pytest.raises(ValueError, match=message):
        tagging.score(references, estimates, LABELS)


def test_bootstrap_beside_scikit_learn():
    """Each set by itself, with songs as often as they were drawn: ties, rare tags and all."""
    generator = np.random.default_rng(3)
    references = (generator.random((12, 4)) < [0.5, 0.1, 0.8, 0.3]).astype(int)
    estimates = generator.integers(0, 4, (12, 4)) / 4 + 0.3 * references
    labels = ["a", "b", "c", "d"]
    found = tagging.bootstrap(references, estimates, labels, draws=50, seed=9)
    counts = np.random.default_rng(9).multinomial(12, np.full(12, 1 / 12), size=50)
    for draw, count in enumerate(counts):
        songs = np.repeat(np.arange(12), count)
        expected = tagging.score(references[songs], estimates[songs], labels)
        assert found["map"][draw] == pytest.approx(expected["map"], abs=1e-12)
        assert found["roc_auc"][draw] == pytest.approx(expected["roc_auc"], abs=1e-12)


def test_bootstrap_of_nothing():
    found = tagging.bootstrap(np.ones((3, 1)), np.ones((3, 1)), ["a"], draws=5)
    assert np.isnan(found["map"]).all()
    assert np.isnan(found["roc_auc"]).all()
