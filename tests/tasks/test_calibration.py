"""Calibrated probabilities: their scaling, the error, the threshold, and what counts as right."""

import math

import numpy as np
import pytest
from helpers.models import config_of

from musicfm_hf.evaluation.calibration import summarize_items
from musicfm_hf.tasks import calibration, get_task
from musicfm_hf.tasks.annotations import Beats, Segment
from musicfm_hf.tasks.calibration import Items, fit_scaling, join_items, scale, uncertainty_threshold


def items(probabilities, right, weights=None) -> Items:
    weights = np.ones(len(probabilities)) if weights is None else weights
    return Items(*(np.array(column, dtype=np.float64) for column in (probabilities, right, weights)))


# Error


def test_the_error_by_hand():
    """
    Bins of 1/15: 0.50 and 0.52 share one, with a mean of 0.51 and half of them right; 0.9 is alone and right; 0.1 is
    alone and wrong. The error is (2 · 0.01 + 0.1 + 0.1) / 4.
    """
    found = items([0.50, 0.52, 0.9, 0.1], [1, 0, 1, 0])
    assert calibration.calibration_error(found) == pytest.approx(0.055)


def test_the_error_of_weighted_items():
    """Ten seconds at 0.9, 6 s of which are right, and 30 s at 0.3, 12 s of which are right: (3 + 3) / 40."""
    found = items([0.9, 0.3, 0.7], [0.6, 0.4, 1.0], [10, 30, 0])  # the third cannot be compared
    assert calibration.calibration_error(found) == pytest.approx(6 / 40)


def test_errors_of_songs_add_up():
    generator = np.random.default_rng(0)
    songs = [items(generator.random(50), generator.random(50) < 0.5, generator.random(50)) for _ in range(3)]
    errors, totals = zip(*map(calibration.bin_errors, songs), strict=True)
    joined = calibration.calibration_error(join_items(songs))
    assert np.abs(np.sum(errors, axis=0)).sum() / sum(totals) == pytest.approx(joined)


def test_the_interval_contains_the_error():
    """
    Of bootstrap samples, the error is larger on average: with 50 songs of 24 items with right probabilities, their
    quantiles are all above the error in a quarter of such data sets.
    """
    generator = np.random.default_rng(0)
    for _ in range(20):
        songs = {}
        for song in range(50):
            probabilities = generator.uniform(0.05, 0.95, 24)
            right = generator.random(24) < probabilities
            songs[str(song)] = {"beats": Items(probabilities, right.astype(float), np.ones(24))}
        error = summarize_items(songs)["beats"]["ece"]
        low, high = error["interval"]
        assert 0 <= low < error["mean"] < high < 0.1


def test_ones_and_nothing():
    assert calibration.calibration_error(items([1.0, 1.0], [1, 0])) == 0.5
    assert math.isnan(calibration.calibration_error(items([], [])))
    assert math.isnan(calibration.calibration_error(items([0.5], [1], [0])))
    assert join_items([]).probabilities.shape == (0,)


# Scaling


@pytest.mark.parametrize(("slope", "offset"), [(0.5, 0.0), (2.0, 0.0), (0.7, 1.5), (1.0, -2.0)])
def test_a_known_scaling_is_recovered(slope, offset):
    """Items are right as often as the scaled probabilities say, so the scaling is found again."""
    generator = np.random.default_rng(1)
    probabilities = generator.random(200_000)
    true = 1 / (1 + np.exp(-(slope * np.log(probabilities / (1 - probabilities)) + offset)))
    found = items(probabilities, generator.random(len(true)) < true)
    scaling = fit_scaling(found)
    assert (scaling["slope"], scaling["offset"]) == pytest.approx((slope, offset), abs=0.02)
    assert calibration.calibration_error(found._replace(probabilities=scale(probabilities, scaling))) < 0.005


def test_a_known_temperature_of_logits_is_recovered():
    """Two labels with logits that are three times too large: the slope is the inverse of the temperature."""
    generator = np.random.default_rng(2)
    margin = generator.normal(0, 2, 100_000)
    right = generator.random(len(margin)) < 1 / (1 + np.exp(-margin))
    scaling = fit_scaling(items(1 / (1 + np.exp(-3 * margin)), right))
    assert scaling["slope"] == pytest.approx(1 / 3, abs=0.01)
    assert scaling["offset"] == pytest.approx(0, abs=0.02)


def test_a_few_songs_do_not_make_a_model_certain():
    """Platt's targets: of four items that are all right, 5 of 6 are expected to be right."""
    scaling = fit_scaling(items([0.5] * 4, [1] * 4))
    assert scale(np.array([0.5]), scaling) == pytest.approx([5 / 6], abs=1e-4)
    assert fit_scaling(items([0.5], [1], [0])) == {}


def test_weights_are_relative():
    """Seconds or minutes: the same scaling."""
    generator = np.random.default_rng(3)
    probabilities, right, weights = generator.random((3, 300))
    assert fit_scaling(items(probabilities, right, weights)) == fit_scaling(items(probabilities, right, 60 * weights))


def test_probabilities_keep_their_order():
    """Even where validation songs show the opposite, and for probabilities of 0 and 1."""
    probabilities = np.array([0.0, 1e-6, 0.2, 0.4, 0.9, 1 - 1e-7, 1.0])
    scaling = fit_scaling(items(probabilities, [1, 1, 1, 0, 0, 0, 0]))
    assert scaling["slope"] == calibration.SMALLEST_SLOPE
    scaled = scale(probabilities, scaling)
    assert (np.diff(scaled) > 0).all()
    assert ((scaled > 0) & (scaled < 1)).all()
    assert scale(probabilities, None) is probabilities


# Uncertainty


def test_the_threshold_by_hand():
    """Right or wrong minus 1/2, summed from the lowest on: −1/2, 0, −1/2, −1, −1/2, 0. The minimum is below 0.5."""
    found = items([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0, 1, 0, 0, 1, 1])
    assert uncertainty_threshold(found) == pytest.approx(0.45)
    assert uncertainty_threshold(found, 0.3) == pytest.approx(0.15)
    assert uncertainty_threshold(items([0.1, 0.2], [1, 1])) == 0.0
    assert uncertainty_threshold(items([0.1, 0.2], [0, 0])) == 1.0
    assert uncertainty_threshold(items([], [])) == 0.0


def test_the_threshold_is_where_half_of_the_items_are_right():
    """Items are right with their probability, so that the threshold is 1/2, and of those below it, 1/4 are right."""
    generator = np.random.default_rng(4)
    probabilities = generator.random(100_000)
    found = items(probabilities, generator.random(len(probabilities)) < probabilities)
    assert uncertainty_threshold(found) == pytest.approx(0.5, abs=0.02)
    assert uncertainty_threshold(found, 0.8) == pytest.approx(0.8, abs=0.02)


def test_equal_probabilities_stay_together():
    """The first item with 0.2 is wrong, and the second right: no threshold divides them."""
    assert uncertainty_threshold(items([0.2, 0.2, 0.6], [0, 1, 1])) == 0.0


def test_the_share_must_be_one():
    with pytest.raises(ValueError, match="between 0 and 1, got 50"):
        fit_scaling(items([0.5], [1]), 50)


# What is right


def test_beats_and_downbeats():
    """The second estimate of a beat is not matched, because each beat counts once."""
    reference = Beats(np.array([1.0, 2.0, 3.0]), np.array([1, 2, 1]))
    estimate = Beats(np.array([1.0, 1.05, 2.05, 3.5]), np.array([2, 1, 2, 1]))
    found = get_task("beat").right_items(reference, estimate, {})
    assert found["beats"][0].tolist() == [1, 0, 1, 0]
    assert found["beats"][1].tolist() == [1, 1, 1, 1]
    assert found["downbeats"][0].tolist() == [1, 0]  # 1.05 s is within 70 ms of the downbeat
    unknown = get_task("beat").right_items(reference._replace(positions=np.zeros(3, int)), estimate, {})
    assert unknown["downbeats"][1].tolist() == [0, 0]


def test_chords_by_the_comparison_of_their_vocabulary():
    reference = [Segment(0, 2, "C:maj7"), Segment(2, 3, "A:min"), Segment(3, 4, "C:sus4")]
    estimate = [Segment(0, 3, "C:maj"), Segment(3, 4, "F:maj")]
    right, seconds = get_task("chord").right_items(reference, estimate, {})["chords"]
    np.testing.assert_allclose(right, [2 / 3, 0])
    assert seconds.tolist() == [3, 0]  # majmin does not compare sus4
    right, seconds = get_task("chord", "sevenths").right_items(reference, estimate, {})["chords"]
    np.testing.assert_allclose(right, [0, 0])
    right, seconds = get_task("chord", "full").right_items(reference, estimate, {})["chords"]
    assert seconds.tolist() == [3, 1]


def test_keys_sections_and_tags():
    keys = get_task("key").right_items([Segment(0, 4, "Am"), Segment(6, 8, "X")], [Segment(0, 8, "A:min")], {})
    assert [column.tolist() for column in keys["keys"]] == [[1], [4]]
    sections = [Segment(0, 10, "Verse 1"), Segment(10, 20, "refrain")]
    found = get_task("structure").right_items(sections, [Segment(0, 15, "verse"), Segment(15, 20, "chorus")], {})
    np.testing.assert_allclose(found["sections"], [[10 / 15, 1], [15, 5]])
    found = get_task("tagging").right_items(["slow"], {"loud": 0.9, "slow": 0.4}, {})
    assert [column.tolist() for column in found["tags"]] == [[0, 1], [1, 1]]


# In a model


def test_probabilities_of_a_calibrated_model():
    config = config_of("chord", 2.0)
    logits = np.zeros((4, 25))
    logits[:, 3] = math.log(24)  # a probability of 1/2
    spec = get_task("chord")
    chords = spec.decode(config, logits)
    assert spec.event_probabilities(config, logits, chords) == pytest.approx([0.5])
    config.calibration = {"chords": {"slope": 2.0, "offset": math.log(3), "uncertain_below": 0.6}}
    assert spec.decode(config, logits) == chords
    assert spec.event_probabilities(config, logits, chords) == pytest.approx([0.75])


def test_tags_of_a_calibrated_model():
    config = config_of("tagging", None, ["loud", "slow"])
    config.calibration = {"tags": {"slope": 1.0, "offset": -math.log(3), "uncertain_below": 0.5}}
    decoded = get_task("tagging").decode(config, np.array([[0.0, math.log(3)]]))
    assert list(decoded.values()) == pytest.approx([0.75, 0.5])  # these are scored
    tags = get_task("tagging").calibrate(config, decoded)
    assert list(tags) == ["slow", "loud"]
    assert list(tags.values()) == pytest.approx([0.5, 0.25])


def test_downbeats_have_a_probability():
    config = config_of("beat", 10.0)
    spec = get_task("beat")
    frames = np.full((40, 3), 0.01)
    frames[::5] = [0.5, 0.1, 0.4]
    frames[::20] = [0.1, 0.7, 0.2]
    logits = np.log(frames)
    beats = Beats(np.arange(8) * 0.5, np.arange(8) % 4 + 1)
    results = spec.further_results(config, logits, beats)
    assert results["downbeats"][0] is None
    assert results["downbeats"][1] == pytest.approx([0.7, 0.7])
    config.calibration = {"downbeats": {"slope": 1.0, "offset": math.log(3), "uncertain_below": 0.5}}
    assert spec.further_results(config, logits, beats)["downbeats"][1] == pytest.approx([7 / 8] * 2)
