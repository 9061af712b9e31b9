import os
from pathlib import Path

import numpy as np
import pytest

from musicfm_hf.tasks import beat
from musicfm_hf.tasks.annotations import Beats, read_beats


def beats(times, positions):
    return Beats(np.array(times, dtype=float), np.array(positions, dtype=int))


def steady(bpm, count, meter, first=1.0, upbeat=0):
    return beats(first + np.arange(count) * 60 / bpm, (np.arange(count) - upbeat) % meter + 1)


def logits(targets):
    return np.log(targets.clip(1e-6, 1))


def test_targets():
    song = beats([0.1, 0.3], [4, 1])
    expected = [[0, 0, 1], [0.5, 0, 0.5], [1, 0, 0], [0.5, 0, 0.5], [0, 0, 1], [0, 0.5, 0.5], [0, 1, 0], [0, 0.5, 0.5]]
    targets = beat.targets(song, 8, 20.0)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, expected)
    np.testing.assert_array_equal(beat.targets(song, 3, 20.0, start=0.15), expected[3:6])  # beats outside reach in
    np.testing.assert_array_equal(beat.targets(song, 8, 20.0, widen=0)[:, 1], [0, 0, 0, 0, 0, 0, 1, 0])


def test_targets_that_meet():
    # Frames 1 and 2 would have halves of each other.
    np.testing.assert_array_equal(
        beat.targets(beats([0.1, 0.2], [4, 1]), 4, 10.0), [[0.5, 0, 0.5], [1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]]
    )
    np.testing.assert_array_equal(  # a half of both
        beat.targets(beats([0.1, 0.3], [4, 1]), 4, 10.0), [[0.5, 0, 0.5], [1, 0, 0], [0.5, 0.5, 0], [0, 1, 0]]
    )
    np.testing.assert_array_equal(  # in one frame: the downbeat
        beat.targets(beats([0.1, 0.11], [4, 1]), 2, 10.0), [[0.5, 0.5, 0], [0, 1, 0]]
    )
    np.testing.assert_array_equal(  # quarters are kept where there is room
        beat.targets(beats([0.0, 0.3], [1, 2]), 4, 10.0, widen=2),
        [[0, 1, 0], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [1, 0, 0]],
    )


def test_unknown_positions_are_beats():
    np.testing.assert_array_equal(beat.targets(beats([0], [0]), 1, 20.0), [[1, 0, 0]])
    np.testing.assert_array_equal(beat.targets(beats([], []), 2, 20.0), [[0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("rate", [20.0, 25.0, 50.0])
@pytest.mark.parametrize(("bpm", "meter"), [(63, 4), (97, 3), (133, 4), (190, 3)])
def test_decoding(rate, bpm, meter):
    song = steady(bpm, 40, meter, first=1.03, upbeat=1)
    decoded = beat.events(logits(beat.targets(song, int((song.times[-1] + 2) * rate), rate)), rate)
    np.testing.assert_array_equal(decoded.positions, song.positions)
    assert decoded.positions.dtype == np.int64
    np.testing.assert_allclose(decoded.times, song.times, atol=0.5 / rate + 0.02)


def test_low_rates_are_interpolated():
    """Weak activations at 20 Hz: the tempi that the network has there lie too far apart."""
    song = steady(127, 100, 4)
    strength = np.random.default_rng(0).uniform(0.1, 0.6, 100)
    targets = np.zeros((int((song.times[-1] + 1) * 20), 3))
    # A bump of 50 ms on each side, as seen by frames.
    times = np.arange(len(targets)) / 20
    for time, position, height in zip(*song, strength, strict=True):
        targets[:, int(position == 1)] += height * np.maximum(0, 1 - np.abs(times - time) / 0.05)
    targets[:, 2] = 1 - targets[:, 0] - targets[:, 1]
    fine, coarse = (beat.score(song, beat.events(logits(targets), 20.0, min_rate=rate)) for rate in (40.0, 20.0))
    assert fine["beat_f"] == 1.0
    assert coarse["beat_f"] < 0.7


def test_nothing_is_found():
    for frames in (0, 1):
        assert beat.events(np.zeros((frames, 3)), 50.0).times.shape == (0,)
    silent = beat.events(np.tile([-9.0, -9.0, 9.0], (100, 1)), 50.0)
    assert (silent.times.shape, silent.positions.shape, silent.positions.dtype) == ((0,), (0,), np.int64)


def test_wrong_arguments():
    for call, message in [
        (lambda: beat.events(np.zeros((5, 2)), 50.0), r"shape \(frames, 3\), got \(5, 2\)"),
        (lambda: beat.events(np.full((5, 3), np.nan), 50.0), "finite"),
        (lambda: beat.events(np.zeros((5, 3)), 0.0), "Rates must be positive"),
        (lambda: beat.targets(beats([1, 0], [1, 2]), 5, 50.0), "beats, beat 2: beats must ascend"),
        (lambda: beat.targets(beats([], []), 5, -1.0), "positive rate"),
        (lambda: beat.score(beats([1, 0], [1, 2]), beats([], [])), "reference, beat 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_scores():
    reference = beats([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4] * 2)
    assert set(beat.score(reference, reference).values()) == {1.0}
    whole = {"tempo_acc1": 1, "tempo_acc2": 1, "meter_acc": 1, "meter_time": 1}  # tests/tasks/test_meter.py has others
    # 1 and 5 are missed by 0.08 s; 2 to 4 and 6 to 8 are hit. Of the downbeats none is; 2 beats of 4 lie from 5 s on.
    estimate = beats([1.08, 2.06, 3, 4, 5.08, 6, 7, 8], [1, 2, 3, 4] * 2)
    assert beat.score(reference, estimate) == pytest.approx(
        {"beat_f": 6 / 8, "beat_f_trimmed": 3 / 4, "downbeat_f": 0.0, "downbeat_f_trimmed": 0.0}
        | whole
        | {"meter_time": pytest.approx((9 - 1.08) / 8)}  # the estimate begins 0.08 s late
    )
    # Every second beat: precision 1, recall 1/2.
    assert beat.score(reference, beats([1, 3, 5, 7], [1, 2, 1, 2]))["beat_f"] == pytest.approx(2 / 3)
    assert beat.score(reference, beats([], []))["beat_f"] == 0.0


def test_scores_without_positions():
    scores = beat.score(beats([1, 6], [0, 0]), beats([1, 6], [1, 2]))
    assert (scores["beat_f"], scores["beat_f_trimmed"]) == (1.0, 1.0)
    assert np.isnan([scores["downbeat_f"], scores["downbeat_f_trimmed"]]).all()


@pytest.mark.slow
@pytest.mark.skipif("MUSICFM_POP909" not in os.environ, reason="MUSICFM_POP909 does not name the folder of POP909")
@pytest.mark.parametrize("rate", [20.0, 50.0])
def test_pop909_survives_the_round_trip(rate):
    folder = Path(os.environ["MUSICFM_POP909"])
    scores = {}
    for name in (folder / "splits/test.txt").read_text().split():
        song = read_beats(folder / f"beats/{name}.beats")
        targets = beat.targets(song, int((song.times[-1] + 2) * rate), rate)
        scores[name] = beat.score(song, beat.events(logits(targets), rate))
    found = {metric: np.array([one[metric] for one in scores.values()]) for metric in ("beat_f", "downbeat_f")}
    assert found["beat_f"].mean() > 0.999
    assert found["beat_f"].min() > 0.98
    assert found["downbeat_f"].mean() > 0.999
    # 017 slows down by a third in its last bars, to 49 beats a minute, where the decoder goes to 55.
    assert [name for name, one in scores.items() if one["downbeat_f"] < 0.98] == ["017"]
