from itertools import pairwise, product

import numpy as np
import pytest

from musicfm_hf.tasks import beat, meter
from musicfm_hf.tasks.annotations import Beats, Segment

METERS = (2, 3, 4, 5, 6, 7)


def in_bars(meters, seconds=0.5, first=1.0, pickup=()):
    """Beats of bars with these meters, `seconds` apart, after beats with the positions `pickup`."""
    positions = np.concatenate([pickup, *(np.arange(1, count + 1) for count in meters)]).astype(np.int64)
    return Beats(first + np.arange(len(positions)) * seconds, positions)


def logits_of(beats, seconds=None):
    """Logits at 20 Hz that are certain of the beats."""
    targets = beat.targets(beats, round(20 * (seconds or beats.times[-1] + 1)), 20.0)
    return np.log(targets.clip(1e-3, 1))


# --- time signatures


def test_spans_of_constant_meter():
    beats = in_bars([4, 4, 3, 3, 3, 7])  # 24 beats from 1.0 s on
    assert meter.time_signatures(beats) == [Segment(1.0, 5.0, "4"), Segment(5.0, 13.0, "3")]  # the 7 is not complete
    complete = in_bars([4, 4, 3, 3, 3, 7, 7])
    assert meter.time_signatures(complete)[1:] == [Segment(5.0, 9.5, "3"), Segment(9.5, 16.5, "7")]
    assert meter.time_signatures(complete, 16.2)[-1] == Segment(9.5, 16.2, "7")
    assert meter.main_time_signature(meter.time_signatures(complete)) == "7"  # 7 s of 15.5


def test_incomplete_bars_belong_to_their_neighbors():
    beats = in_bars([3, 3, 2], pickup=[2, 3])
    assert meter.time_signatures(beats) == [Segment(1.0, 6.0, "3")]
    missing = Beats(np.delete(beats.times, 3), np.delete(beats.positions, 3))  # beat 2 of the first whole bar
    assert meter.time_signatures(missing) == [Segment(1.0, 6.0, "3")]


@pytest.mark.parametrize("beats", [in_bars([]), in_bars([4]), Beats(np.arange(9.0), np.zeros(9, dtype=int))])
def test_without_a_complete_bar(beats):
    assert meter.time_signatures(beats) == []
    assert meter.main_time_signature([]) is None


def test_words():
    assert meter.describe_beats(in_bars([4] * 3)) == ["120 beats a minute", "4 beats in a bar"]
    assert meter.describe_beats(in_bars([2, 2, 3, 3, 7, 7])) == ["120 beats a minute", "7, 3 and 2 beats in a bar"]
    assert meter.describe_beats(in_bars([])) == meter.describe_beats(None) == []
    assert meter.describe_beats(Beats(np.arange(4.0), np.zeros(4, dtype=int))) == ["60 beats a minute"]


# --- tempo


def test_a_constant_tempo_survives_rounding_to_frames():
    times = np.round(np.arange(60) * 60 / 127 * 40) / 40  # intervals of 0.475 and 0.45 s are 126.3 and 133.3 BPM
    curve = meter.tempo_curve(times)
    np.testing.assert_array_equal(curve[:, 0], times)
    np.testing.assert_allclose(curve[4:-4, 1], 127, rtol=0.01)
    np.testing.assert_allclose(curve[:, 1], 127, rtol=0.03)
    assert meter.global_tempo(curve) == pytest.approx(127, rel=0.003)


def test_three_beats_by_hand():
    # Weights 1, 0.904508, 0.654508 for steps 0, 1, 2. At the first beat, with times 0, 0.5 and 1.1 s: mean step
    # 0.865248 and slope 0.543262; in the middle, symmetric weights give (1.1 - 0) / 2.
    curve = meter.tempo_curve(np.array([0, 0.5, 1.1]))
    weights = np.array([1, 0.904508, 0.654508])
    mean = weights @ [0, 1, 2] / weights.sum()
    slope = (weights * (np.arange(3) - mean)) @ [0, 0.5, 1.1] / (weights @ (np.arange(3) - mean) ** 2)
    assert curve[0, 1] == pytest.approx(60 / slope, rel=1e-5)
    assert curve[1, 1] == pytest.approx(60 / 0.55)


def test_the_curve_follows_a_ritardando_and_the_global_tempo_does_not():
    intervals = np.r_[np.full(60, 0.5), np.linspace(0.5, 0.8, 12)]
    curve = meter.tempo_curve(np.r_[0, intervals.cumsum()])
    assert curve[-1, 1] == pytest.approx(75, abs=4)
    assert np.all(np.diff(curve[60:, 1]) < 0)
    assert meter.global_tempo(curve) == pytest.approx(120)


def test_the_global_tempo_is_weighted_by_time():
    # 30 beats at 120 BPM last 15 s, 25 beats at 60 BPM last 25 s.
    times = np.r_[0, np.r_[np.full(30, 0.5), np.full(25, 1.0)].cumsum()]
    assert meter.global_tempo(meter.tempo_curve(times)) == pytest.approx(60)


def test_no_line_across_a_gap():
    times = np.r_[np.arange(10) * 0.5, 20 + np.arange(10) * 0.5, 60.0]
    curve = meter.tempo_curve(times)
    np.testing.assert_allclose(curve[:, 1], 120)
    assert curve[:, 0].tolist() == times[:-1].tolist()  # the last beat is alone
    assert meter.tempo_curve(np.array([1.0])).shape == (0, 2)
    assert meter.global_tempo(np.empty((0, 2))) is None


# --- probabilities of meters


def by_enumeration(probabilities, meters, change):
    """Posterior of the meter at each beat, from all sequences of (meter, position)."""
    states = [(count, position) for count in meters for position in range(count)]
    posteriors = np.zeros((len(probabilities), len(meters)))
    for path in product(states, repeat=len(probabilities)):
        weight = 1 / path[0][0]
        for (count, position), (after, next_position) in pairwise(path):
            if position + 1 < count:
                weight *= (after, next_position) == (count, position + 1)
            else:
                weight *= (next_position == 0) * (1 - change if after == count else change / (len(meters) - 1))
        for (_, position), (other, down) in zip(path, probabilities, strict=True):
            weight *= down if position == 0 else other
        for index, (count, _) in enumerate(path):
            posteriors[index, meters.index(count)] += weight
    return posteriors / posteriors.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("change", [0.0, 0.1])
def test_posteriors_are_those_of_all_paths(change):
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet([2, 2, 1], size=5)[:, :2]
    found = meter.meter_posteriors(probabilities, (2, 3), change)
    np.testing.assert_allclose(found, by_enumeration(probabilities, [2, 3], change), rtol=1e-9)


def test_without_evidence_all_meters_are_equally_likely():
    posteriors = meter.meter_posteriors(np.full((50, 2), 0.3), METERS, 0.0)
    np.testing.assert_allclose(posteriors, 1 / 6)


def test_probabilities_of_spans():
    beats = in_bars([4] * 6 + [3] * 6)
    down = beats.positions == 1
    probabilities = np.where(down[:, None], [0.1, 0.8], [0.8, 0.1])
    spans = meter.time_signatures(beats)
    sure = meter.meter_probabilities(probabilities, spans, beats.times, METERS, 0.02)
    assert sure.shape == (2,)
    assert sure.min() > 0.9
    assert meter.meter_probabilities(probabilities, spans, beats.times, (2, 4), 0.02)[1] == 0  # 3 is not decoded
    fixed = meter.meter_posteriors(probabilities, METERS, 0.0)
    np.testing.assert_allclose(fixed, np.tile(fixed[0], (len(fixed), 1)))  # the song has one meter


# --- results of a song


def test_results_of_a_song():
    song = in_bars([3] * 6 + [7] * 4 + [2])
    scores = logits_of(song)
    settings = {"beats_per_bar": [2, 3, 4, 5, 6, 7], "meter_change": 0.03}
    found = beat.events(scores, 20.0, **settings)
    np.testing.assert_array_equal(found.positions, song.positions)
    results = beat.song_results(scores, found, 20.0, **settings)
    assert results["tempo"][0] == pytest.approx(120)
    np.testing.assert_allclose(results["tempo_curve"][0][:, 0], found.times)
    signatures, probabilities = results["time_signatures"]
    assert [segment.label for segment in signatures] == ["3", "7"]
    assert signatures[1].start == pytest.approx(10.0)
    assert probabilities.min() > 0.9


def test_results_of_silence():
    results = beat.song_results(np.empty((0, 3)), beat.no_beats(), 20.0, beats_per_bar=[3, 4], min_bpm=60)
    assert results["tempo"] == results["tempo_curve"] == (None, None)
    assert results["time_signatures"] == ([], None)


# --- meters of training songs


def test_meters_of_songs():
    assert meter.measure_meters([]) == ([], 0.0)
    assert meter.measure_meters([in_bars([4] * 9), in_bars([3] * 9)]) == ([3, 4], 0.0)
    # 11 bars are complete, the 8 is not a meter that is learned: 10 bars, 9 lines between them, 2 changes.
    assert meter.measure_meters([in_bars([4] * 4 + [8] + [5] * 4 + [2, 2, 2])]) == ([2, 4, 5], pytest.approx(2 / 9))
    # One bar of 2 in 199 is too rare; one change at 1998 lines too.
    assert meter.measure_meters([in_bars([4] * 198 + [2, 4])]) == ([4], 0.0)
    assert meter.measure_meters([in_bars([4] * 1000 + [3] * 1000)]) == ([3, 4], 0.0)
    assert beat.learn_decoding([in_bars([4] * 4 + [3] * 5)]) == {
        "beats_per_bar": [3, 4],
        "meter_change": pytest.approx(1 / 7, abs=1e-6),
    }
    assert beat.learn_decoding([Beats(np.arange(9.0), np.zeros(9, dtype=int))]) == {}


# --- scores


@pytest.mark.parametrize(
    ("factor", "acc1", "acc2"),
    [(1.0, 1, 1), (1.035, 1, 1), (0.965, 1, 1), (1.05, 0, 0), (2.0, 0, 1), (0.5, 0, 1), (3.0, 0, 1), (1.05 / 3, 0, 0),
     (1.5, 0, 0), (2.07, 0, 1)],
)  # fmt: skip
def test_scores_of_tempo(factor, acc1, acc2):
    reference, estimate = np.arange(0, 60, 0.5), np.arange(0, 60, 0.5 / factor)
    assert meter.score_tempo(reference, estimate) == {"tempo_acc1": acc1, "tempo_acc2": acc2}


def test_scores_of_tempo_without_beats():
    assert meter.score_tempo(np.arange(9.0), np.empty(0)) == {"tempo_acc1": 0, "tempo_acc2": 0}
    assert np.isnan(list(meter.score_tempo(np.empty(0), np.arange(9.0)).values())).all()


def test_scores_of_meters():
    reference = in_bars([4] * 6 + [3] * 4)  # 36 beats: 12 s in 4 and 6 s in 3
    assert meter.score_meter(reference, reference) == {"meter_acc": 1.0, "meter_time": 1.0}
    assert meter.score_meter(reference, in_bars([4] * 9)) == {"meter_acc": 1.0, "meter_time": pytest.approx(2 / 3)}
    assert meter.score_meter(reference, in_bars([3] * 12)) == {"meter_acc": 0.0, "meter_time": pytest.approx(1 / 3)}
    assert meter.score_meter(reference, in_bars([])) == {"meter_acc": 0.0, "meter_time": 0.0}
    assert np.isnan(list(meter.score_meter(in_bars([4]), reference).values())).all()
