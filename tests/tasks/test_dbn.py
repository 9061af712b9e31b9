import json
import tracemalloc

import numpy as np
import pytest
from helpers.paths import FIXTURES
from hypothesis import given, settings
from hypothesis import strategies as st

from musicfm_hf.tasks.dbn import track_beats, track_downbeats
from musicfm_hf.tasks.dbn_states import TempoScores, beat_intervals

CASES = json.loads((FIXTURES / "dbn/cases.json").read_text())


def perfect(frames, positions=None, tail=0):
    """Activations of 0 and 1: (frames, 2) for beats at `frames` with `positions` in the bar, else (frames,)."""
    activations = np.zeros((frames[-1] + 1 + tail, 2))
    activations[frames, 1 if positions is None else (np.asarray(positions) == 1).astype(int)] = 1
    return activations[:, 1] if positions is None else activations


def at_every(interval, count, meter=4, upbeat=1, first=7):
    """Frames and positions of `count` beats, `interval` frames apart."""
    return first + np.round(np.arange(count) * interval).astype(int), (np.arange(count) - upbeat) % meter + 1


# --- the recorded cases


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_downbeats_as_recorded(case):
    events = track_downbeats(np.array(case["activations"]), case["fps"], case["beats_per_bar"])
    expected = np.array(case["downbeats"]).reshape(-1, 2)
    assert events.shape == expected.shape
    np.testing.assert_allclose(events[:, 0], expected[:, 0], rtol=0, atol=0.5 / case["fps"])
    assert events[:, 1].tolist() == expected[:, 1].tolist()


@pytest.mark.parametrize("case", CASES[:-1], ids=range(len(CASES) - 1))  # of the last one beats were not recorded
def test_beats_as_recorded(case):
    beats = track_beats(np.array(case["activations"]).sum(axis=1), case["fps"])
    np.testing.assert_allclose(beats, case["beats"], rtol=0, atol=0.5 / case["fps"])


# --- the same as Viterbi decoding over every state of every frame


def grid(probabilities):
    with np.errstate(divide="ignore"):
        return np.round(np.log(probabilities) * 2**30) / 2**30


def frame_by_frame(activations, fps, meters, transition_lambda, observation_lambda, meter_change=0.0, further=None):
    """
    Log-likelihood and events (frame, position) by the book; activations (frames, 2); further scores of intervals
    (frames, intervals) and of meters (frames, meters).
    """
    meters = np.atleast_1d(meters).tolist()
    intervals = range(round(60 * fps / 215), round(60 * fps / 55) + 1)
    states = [
        (meter, beat, tempo, k)
        for meter in meters
        for beat in range(meter)
        for tempo in intervals
        for k in range(tempo)
    ]
    index = {state: number for number, state in enumerate(states)}
    weights = np.array([[np.exp(-transition_lambda * abs(b / a - 1)) for b in intervals] for a in intervals])
    weights[weights <= 2**-52] = 0
    changes = grid(weights / weights.sum(axis=1, keepdims=True))
    given = activations.clip(1e-5, 1 - 1e-5)
    rest = np.maximum(1 - given.sum(axis=1), 1e-5) / (observation_lambda - 1)
    densities = grid(np.column_stack([rest, given]))
    emits = np.array(
        [0 if k / tempo >= 1 / observation_lambda else 2 if beat == 0 else 1 for _, beat, tempo, k in states]
    )
    begins = [number for number, (*_, k) in enumerate(states) if k == 0]
    others = max(1, len(meters) - 1)
    # The states at the end of the beats that may come before a beat, and the log-probabilities of the meters.
    ends = {
        (meter, beat): (
            [
                index[before, (beat - 1) % before, tempo, tempo - 1]
                for before in (meters if beat == 0 else [meter])
                for tempo in intervals
            ],
            grid(np.array([1 - meter_change if before == meter else meter_change / others for before in meters]))
            if beat == 0
            else np.zeros(1),
        )
        for meter in meters
        for beat in range(meter)
    }
    states_of = [[tempo - intervals[0] for _, _, tempo, _ in states], [meters.index(meter) for meter, *_ in states]]
    more = np.zeros((len(densities), len(states)))
    for part, columns in zip(further or (), states_of, strict=False):
        more += part[:, columns]
    scores, pointers = np.array([-grid(np.array(float(meter))) for meter, *_ in states]), []
    for density, added in zip(densities, more, strict=True):
        pointer = np.arange(len(states)) - 1
        updated = scores[pointer]
        for number in begins:
            meter, beat, tempo, _ = states[number]
            before, log_meters = ends[meter, beat]
            candidates = scores[before] + (log_meters[:, None] + changes[:, tempo - intervals[0]]).ravel()
            pointer[number] = before[candidates.argmax()]
            updated[number] = candidates.max()
        scores = updated + density[emits] + added
        pointers.append(pointer)
    path = [scores.argmax()]
    for pointer in pointers[:0:-1]:
        path.append(pointer[path[-1]])
    path = np.array(path[::-1])
    regions = np.flatnonzero(np.diff(np.r_[0, emits[path] > 0, 0])).reshape(-1, 2)
    frames = [start + activations[start:stop].max(axis=1).argmax() for start, stop in regions]
    return scores.max() - np.log(sum(intervals)), [(frame, states[path[frame]][1] + 1) for frame in frames]


# Few different values, so that paths tie.
PROBABILITIES = st.sampled_from([(0, 0), (0, 0), (0.1, 0.1), (0.3, 0.1), (0.5, 0), (0.2, 0.8), (1, 0), (0, 1)])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(PROBABILITIES, min_size=1, max_size=90),
    transition_lambda=st.sampled_from([0, 10, 100]),
    observation_lambda=st.sampled_from([4, 16]),
    meters=st.sampled_from([(2, 3), (3, 2), (1, 2, 3)]),
    meter_change=st.sampled_from([0.0, 0.02, 0.5]),
)
def test_same_as_frame_by_frame(rows, transition_lambda, observation_lambda, meters, meter_change):
    activations = np.array(rows, dtype=float)
    if not activations.any():
        activations[0] = 0.1
    lambdas = transition_lambda, observation_lambda
    score, expected = frame_by_frame(activations, 8, meters, *lambdas, meter_change)
    events = track_downbeats(activations, 8, meters, 55, 215, *lambdas, threshold=0, meter_change=meter_change)
    assert [(round(time * 8), position) for time, position in events] == expected
    if meter_change == 0:  # the same as the best of the meters on their own
        decoded = [frame_by_frame(activations, 8, meter, *lambdas) for meter in meters]
        assert score == max(decoded, key=lambda result: result[0])[0]
        assert expected == max(decoded, key=lambda result: result[0])[1]


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(PROBABILITIES, min_size=2, max_size=60),
    seed=st.integers(0, 1000),
    has_tempi=st.booleans(),
    has_meters=st.booleans(),
)
def test_further_scores_same_as_frame_by_frame(rows, seed, has_tempi, has_meters):
    activations, rng, meters = np.array(rows, dtype=float), np.random.default_rng(seed), (2, 3)
    activations[0] = 0.1
    intervals = np.arange(round(60 * 8 / 215), round(60 * 8 / 55) + 1)
    tempi, of_meters = (-rng.integers(0, 9, (len(rows), count)) / 4 for count in (len(intervals), len(meters)))
    _, expected = frame_by_frame(activations, 8, meters, 10, 4, 0.02, [tempi * has_tempi, of_meters * has_meters])
    events = track_downbeats(
        activations,
        8,
        meters,
        transition_lambda=10,
        observation_lambda=4,
        threshold=0,
        meter_change=0.02,
        tempo_scores=TempoScores(60 * 8 / intervals[::-1], tempi[:, ::-1]) if has_tempi else None,
        meter_scores=of_meters if has_meters else None,
    )
    assert [(round(time * 8), position) for time, position in events] == expected


def test_scores_of_tempi_are_interpolated_and_cut_with_the_activations():
    frames, positions = at_every(24, 40)  # 125 BPM at 50 Hz, where 62.5 BPM would fit in 2
    activations = perfect(frames, positions, tail=100)
    activations[activations[:, 0] > 0, 0] = 0.2  # beats 2 to 4 are weak
    scores = np.zeros((len(activations), 3))
    for tempi, bpm in (([50, 100, 200], 62.5), ([62.5, 125, 250], 125)):
        scores[:, 1] = 0.2 * (bpm == 125)
        scores[:, 0] = 0.2 * (bpm != 125)
        events = track_downbeats(activations, 50, (2, 4), tempo_scores=TempoScores(np.array(tempi), scores))
        assert np.median(60 / np.diff(events[:, 0])) == pytest.approx(bpm, rel=0.03)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_frames=st.integers(1, 150))
def test_beats_same_as_frame_by_frame(seed, num_frames):
    activations = np.random.default_rng(seed).uniform(0, 1, num_frames) ** 3
    _, expected = frame_by_frame(np.column_stack([np.zeros(num_frames), activations]), 10, 1, 100, 16)
    assert np.round(track_beats(activations, 10) * 10).tolist() == [frame for frame, _ in expected]


@pytest.mark.parametrize("meters", [(3, 4), (4, 3)])
@pytest.mark.parametrize(("ratio", "meter"), [(1.0, 3), (1.25, 3), (1.42, 4), (2.0, 4)])
def test_three_or_four_beats_from_a_uniform_start(ratio, meter, meters):
    """
    Eight beats, each as likely to be a downbeat as not, except that beats 1 and 5 are `ratio` times as likely to be.
    Bars of four have a downbeat on both and bars of three on one of them, so that they are more likely by the factor
    `ratio`. But they have 4/3 times as many states, each 3/4 times as likely at the start: the limit is 4/3.
    """
    activations = np.zeros((48, 2))
    activations[::6] = 0.3
    activations[[0, 24], 1] *= ratio
    events = track_downbeats(activations, 10, meters)
    assert np.round(events[:, 0] * 10).tolist() == list(range(0, 48, 6))
    expected = np.arange(8) % meter + 1
    shifted = [(expected + shift - 1) % meter + 1 for shift in range(meter if meter == 3 else 1)]
    assert events[:, 1].tolist() in [positions.tolist() for positions in shifted]
    decoded = [frame_by_frame(activations, 10, candidate, 100, 16)[0] for candidate in (3, 4)]
    assert decoded[1] - decoded[0] == pytest.approx(np.log(ratio * 3 / 4), abs=1e-6)


# --- changes of meter


def in_meters(meters, interval=20, first=7):
    """Frames and positions of bars of these meters, with beats `interval` frames apart."""
    positions = np.concatenate([np.arange(1, meter + 1) for meter in meters])
    return first + np.arange(len(positions)) * interval, positions


@pytest.mark.parametrize("meter", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("meter_change", [0.0, 0.05])
def test_one_of_six_meters(meter, meter_change):
    frames, positions = in_meters([meter] * 6)
    events = track_downbeats(perfect(frames, positions), 40, (2, 3, 4, 5, 6, 7), meter_change=meter_change)
    np.testing.assert_allclose(events, np.column_stack([frames / 40, positions]))


def test_meter_changes_where_the_downbeats_do():
    frames, positions = in_meters([4] * 6 + [3] * 6 + [7] * 4 + [5] * 5)
    activations = perfect(frames, positions)
    events = track_downbeats(activations, 40, (2, 3, 4, 5, 6, 7), meter_change=0.02)
    np.testing.assert_allclose(events, np.column_stack([frames / 40, positions]))
    fixed = track_downbeats(activations, 40, (2, 3, 4, 5, 6, 7))
    assert len(set(np.diff(np.flatnonzero(fixed[:, 1] == 1)))) == 1  # one meter


def test_a_wrong_downbeat_does_not_change_the_meter():
    frames, positions = in_meters([4] * 12)
    activations = perfect(frames, positions)
    activations[frames[22]] = (0.2, 0.6)  # beat 3 of a bar
    events = track_downbeats(activations, 40, (2, 3, 4, 5, 6, 7), meter_change=0.001)
    np.testing.assert_allclose(events, np.column_stack([frames / 40, positions]))


@pytest.mark.parametrize("meter_change", [-0.1, 1, np.nan])
def test_wrong_probability_of_change(meter_change):
    with pytest.raises(ValueError, match="meter_change must be a probability, at least 0 and below 1"):
        track_downbeats(np.zeros((10, 2)), 50, meter_change=meter_change)


# --- perfect activations


@pytest.mark.parametrize("fps", [20, 50])
@pytest.mark.parametrize("bpm", [60, 86, 120, 151.3, 200])
@pytest.mark.parametrize("meter", [3, 4])
def test_constant_tempo(bpm, meter, fps):
    frames, positions = at_every(60 * fps / bpm, 33, meter, upbeat=2)
    events = track_downbeats(perfect(frames, positions, tail=fps), fps)
    np.testing.assert_allclose(events, np.column_stack([frames / fps, positions]))
    np.testing.assert_allclose(track_beats(perfect(frames), fps, threshold=0.05), frames / fps)


@pytest.mark.parametrize(("slow", "fast"), [(80, 120), (100, 101), (140, 100)])
def test_slowly_changing_tempo(slow, fast):
    times = 0.5 + np.cumsum(60 / np.linspace(slow, fast, 100))
    frames, positions = np.round(times * 50).astype(int), np.arange(100) % 4 + 1
    events = track_downbeats(perfect(frames, positions), 50)
    np.testing.assert_allclose(events, np.column_stack([frames / 50, positions]))
    np.testing.assert_allclose(track_beats(perfect(frames), 50, threshold=0.05), frames / 50)


@pytest.mark.parametrize("meter", [1, 2, 3, 4, 5, 6, 7, 11])
def test_other_meters(meter):
    frames, positions = at_every(25, 2 * meter + 9, meter, upbeat=3)
    for offered in (meter, np.array([meter]), [3, 4, meter]):
        events = track_downbeats(perfect(frames, positions), 50, offered)
        np.testing.assert_allclose(events, np.column_stack([frames / 50, positions]))


def test_beats_go_on_through_silence():
    frames, positions = at_every(25, 40)
    activations = perfect(frames, positions)
    activations[frames[15:20]] = 0
    events = track_downbeats(activations, 50)
    assert events[:, 1].tolist() == positions.tolist()
    # In a silent beat the first frame of the region is as good as any.
    np.testing.assert_allclose(events[:, 0], frames / 50, atol=1.01 / 50)


def test_more_than_256_tempi():
    # 60 BPM is the 289th of the intervals 112 … 436.
    frames = np.arange(4) * 400
    np.testing.assert_allclose(track_beats(perfect(frames), 400), frames / 400)


# --- tempo limits


def test_intervals():
    assert beat_intervals(50).tolist() == list(range(14, 56))
    assert beat_intervals(100, num_tempi=None).tolist() == list(range(28, 110))
    intervals = beat_intervals(100)
    assert (len(intervals), intervals[0], intervals[-1]) == (60, 28, 109)
    # Neighbors are about as far apart in ratio: every frame count where they are dense, leaps where they are not.
    assert np.diff(intervals)[:20].max() == 1
    assert np.diff(intervals)[-5:].min() >= 2
    # 14.5 and 20.5 frames: six of the seven intervals can be had, whichever way halves are rounded.
    assert len(beat_intervals(10, 600 / 20.5, 600 / 14.5, 6)) in (6, 7)
    assert beat_intervals(10, 60, 60, 1).tolist() == [10]


@pytest.mark.parametrize(("min_bpm", "max_bpm"), [(55, 90), (150, 215), (60, 60), (20, 40)])
def test_tempo_limits(min_bpm, max_bpm):
    frames, positions = at_every(10, 60)  # 120 BPM at 20 frames a second
    limits = {"min_bpm": min_bpm, "max_bpm": max_bpm}
    for times in (
        track_beats(perfect(frames), 20, **limits),
        track_downbeats(perfect(frames, positions), 20, **limits)[:, 0],
    ):
        # A beat is placed within the first 1/16 of its interval, which is a whole number of frames.
        longest = round(60 * 20 / min_bpm)
        slack = -(-longest // 16) - 1
        assert len(times) > 10
        assert np.diff(times).min() * 20 > round(60 * 20 / max_bpm) - slack - 1e-6
        assert np.diff(times).max() * 20 < longest + slack + 1e-6


def test_one_tempo_in_noise():
    beats = track_beats(np.random.default_rng(0).uniform(size=300), 10, min_bpm=60, max_bpm=60)
    np.testing.assert_allclose(np.diff(beats), 1.0)


# --- what may come


@pytest.mark.parametrize("frames", [0, 1, 3, 500])
def test_nothing_to_find(frames):
    assert track_downbeats(np.zeros((frames, 2)), 50).shape == (0, 2)
    assert track_downbeats(np.full((frames, 2), 0.04), 50).shape == (0, 2)
    assert track_beats(np.zeros(frames), 50).shape == (0,)
    assert track_beats(np.full(frames, 0.04), 50, threshold=0.05).shape == (0,)


@pytest.mark.parametrize("frames", [1, 2, 13, 500])
def test_nothing_but_beats(frames):
    # Bars and beats of the fastest tempo have most room for beats; at least one lies in the song.
    beats = track_beats(np.ones(frames), 50)
    events = track_downbeats(np.tile([0.0, 1.0], (frames, 1)), 50)
    for times in (beats, events[:, 0]):
        assert len(times) >= 1
        assert times.min() >= 0
        assert times.max() < frames / 50
        assert np.all(np.diff(times) > 0)
    assert set(events[:, 1]) <= {1, 2, 3, 4}


def test_silence_around_is_cut():
    frames, positions = at_every(25, 20)
    inner = perfect(frames, positions)
    quiet = np.full((200, 2), 0.02)
    events = track_downbeats(np.concatenate([quiet, inner, quiet]), 50)
    np.testing.assert_allclose(events[:, 0], track_downbeats(inner, 50)[:, 0] + 4)
    assert len(track_beats(np.concatenate([quiet, inner, quiet]).sum(axis=1), 50)) > 25


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        (np.zeros(10), r"shape \(frames, 2\), got \(10,\)"),
        (np.zeros((10, 3)), r"shape \(frames, 2\), got \(10, 3\)"),
        (np.zeros((1, 10, 2)), r"got \(1, 10, 2\)"),
        (np.float64(0), r"got \(\)"),
        ([[0.1, 0.2], [0.1, np.nan]], r"finite, got \[0.1 nan\] at frame 1"),
        ([[0.1, -np.inf]], "finite"),
        ([[0.1, -3.0]], "probabilities from 0 to 1, got -3 to 0.1.*sigmoid"),
        (np.ones((10, 2)), "sum to at most 1 in each frame, got 2.*not downbeats"),
    ],
)
def test_wrong_activations_of_downbeats(activations, message):
    with pytest.raises(ValueError, match=message):
        track_downbeats(activations, 50)


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        (np.zeros((10, 1)), r"shape \(frames,\), got \(10, 1\)"),
        (np.float64(0), r"shape \(frames,\), got \(\)"),
        ([0.5, np.nan], "finite, got nan at frame 1"),
        ([0.5, 5.0], "got 0.5 to 5.*sigmoid"),
    ],
)
def test_wrong_activations_of_beats(activations, message):
    with pytest.raises(ValueError, match=message):
        track_beats(activations, 50)


@pytest.mark.parametrize("track", [track_beats, track_downbeats])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, "fps must be a positive number.*got 0"),
        ({"fps": -50}, "got -50"),
        ({"fps": np.nan}, "got nan"),
        ({"fps": 1}, "215.0 BPM at 1 frames per second are 0.28 frames"),
        ({"min_bpm": 0}, "0 < min_bpm <= max_bpm, got 0 and 215"),
        ({"min_bpm": 120, "max_bpm": 100}, "got 120 and 100"),
        ({"transition_lambda": -1}, "transition_lambda must be at least 0"),
        ({"observation_lambda": 1}, "observation_lambda must be greater than 1"),
    ],
)
def test_wrong_settings(track, settings, message):
    # Before any work: there is nothing to decode.
    activations = np.zeros((0, 2) if track is track_downbeats else 0)
    with pytest.raises(ValueError, match=message):
        track(activations, **{"fps": 50} | settings)


@pytest.mark.parametrize("meters", [(), 0, (3, 0), 3.5, "34", [[3, 4]]])
def test_wrong_meters(meters):
    with pytest.raises(ValueError, match="one or several positive integers"):
        track_downbeats(np.zeros((10, 2)), 50, meters)


def test_wrong_number_of_tempi():
    with pytest.raises(ValueError, match="num_tempi must be at least 1"):
        track_downbeats(np.zeros((10, 2)), 50, num_tempi=0)


# --- as a function


def test_repeated_calls_agree_and_leave_the_input_alone():
    activations = np.random.default_rng(0).uniform(0, 0.5, (600, 2)).astype(np.float32)
    before = activations.copy()
    first = track_downbeats(activations, 20)
    np.testing.assert_array_equal(first, track_downbeats(activations, 20))
    np.testing.assert_array_equal(first, track_downbeats(activations.astype(np.float64).tolist(), 20))
    np.testing.assert_array_equal(activations, before)
    beats = track_beats(activations[:, 0], 20)
    np.testing.assert_array_equal(beats, track_beats(activations[:, 0], 20))


def test_ten_minutes_in_bounded_memory():
    # Scores of all 30 000 frames and 5 796 states would take 1.4 GB, back pointers half of it.
    frames, positions = at_every(26.3, 1140)
    activations = perfect(frames, positions)
    tracemalloc.start()
    events = track_downbeats(activations, 50, beats_per_bar=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(events, np.column_stack([frames / 50, positions]))
    assert peak < 20e6
