import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musicfm_hf.audio.windows import average_frames, plan_windows
from musicfm_hf.model.classification_musicfm import average_frames as average_batch
from musicfm_hf.model.classification_musicfm import count_averages


def test_short_audio_is_one_window():
    (window,) = plan_windows(
        num_samples=5000, num_frames=6, samples_per_frame=960, window_frames=750, overlap_frames=50
    )
    assert window == (0, 5000, 0, 6, 0)


def test_windows_meet_in_the_middle_of_their_overlap():
    # 25 frames, windows of 10, overlap 4: windows start at frames 0, 6, 12 and, moved back, 15.
    windows = plan_windows(25 * 960, 25, 960, 10, 4)
    assert [window.start_sample // 960 for window in windows] == [0, 6, 12, 15]
    assert [(window.start_frame, window.stop_frame) for window in windows] == [(0, 8), (8, 14), (14, 18), (18, 25)]
    assert [window.first_kept for window in windows] == [0, 2, 2, 3]


@settings(max_examples=300, deadline=None)
@given(num_samples=st.integers(1025, 200_000), window_frames=st.integers(3, 40), overlap_share=st.floats(0, 0.99))
def test_every_frame_comes_once_from_where_it_lies_deepest(num_samples, window_frames, overlap_share):
    overlap = int(overlap_share * window_frames)
    num_frames = -(-(num_samples // 240) // 4)
    windows = plan_windows(num_samples, num_frames, 960, window_frames, overlap)
    kept = [frame for window in windows for frame in range(window.start_frame, window.stop_frame)]
    assert kept == list(range(num_frames))
    for window in windows:
        start = window.start_sample // 960
        assert window.start_sample == start * 960
        assert 1025 <= window.stop_sample - window.start_sample <= window_frames * 960
        frames_of_window = -(-((window.stop_sample - window.start_sample) // 240) // 4)
        assert window.first_kept >= 0
        assert window.first_kept + window.stop_frame - window.start_frame <= frames_of_window
        # Away from the edges, but for the two ends of the song.
        if window.start_frame > 0:
            assert window.first_kept >= overlap // 2
        if window.stop_frame < num_frames:
            assert start + window_frames - window.stop_frame >= overlap // 2


def test_window_must_be_longer_than_the_overlap():
    with pytest.raises(ValueError, match=r"overlap \(10 frames\).*window \(10\)"):
        plan_windows(96000, 100, 960, 10, 10)


def test_average_to_a_rate_that_divides():
    # Frames at 4 Hz cover [0, 1/8), [1/8, 3/8), [3/8, 5/8) … seconds; halves are weighted by one half.
    frames = torch.arange(9.0)[:, None]
    averages, times = average_frames(frames, 4.0, 2.0)
    assert times[:4].tolist() == [0.25, 0.75, 1.25, 1.75]
    # [0, 1/2) = half of frame 0, all of frame 1, half of frame 2.
    torch.testing.assert_close(averages[:4, 0], torch.tensor([1.0, 3.0, 5.0, 7.0]))


def test_average_to_a_rate_that_does_not_divide():
    # 25 Hz to 8 Hz: 3.125 frames each; the first covers frames 0 (half), 1, 2, and 0.625 of frame 3.
    frames = torch.zeros(25, 2)
    frames[3] = torch.tensor([3.125, 6.25])
    averages, times = average_frames(frames, 25.0, 8.0)
    torch.testing.assert_close(averages[0], torch.tensor([0.625, 1.25]))
    torch.testing.assert_close(averages[1], torch.tensor([0.375, 0.75]))
    assert len(averages) == len(times) == 8  # 24.5 frames are 7.84 intervals
    assert times[0] == 0.0625


def test_going_up_repeats_and_constants_stay():
    averages, _ = average_frames(torch.tensor([1.0, 2.0, 3.0]), 1.0, 4.0)
    assert averages.tolist() == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    for rate in (0.5, 3.0, 8.0, 25.0, 30.0):
        averages, times = average_frames(torch.full((90_000,), 7.0), 25.0, rate)
        torch.testing.assert_close(averages, torch.full_like(averages, 7.0))
        assert np.all(np.diff(times) > 0)


def test_rates_must_be_positive():
    with pytest.raises(ValueError, match=r"must be positive, got 25\.0 and 0\.0 Hz"):
        average_frames(torch.zeros(5), 25.0, 0.0)


# What frames 0, 1, 2, … of value 0, 1, 2, … become. Frame k covers [k - ½, k + ½) plus the offset, in frames; the
# first one begins at 0.
@pytest.mark.parametrize(
    ("num_frames", "rates", "offset", "centered", "expected"),
    [
        # [0, 3.125): ½ of frame 0, frames 1 and 2, 0.625 of frame 3; [3.125, 6.25): 0.375 of 3, 4, 5, 0.75 of 6; the
        # rest is ¼ of frame 6.
        (7, (25.0, 8.0), 0.0, False, [4.875 / 3.125, 14.625 / 3.125, 6.0]),
        # [-0.625, 0.625): ½ of frame 0 and ⅛ of frame 1; [0.625, 1.875): ⅞ of 1 and ⅜ of 2; …; ⅞ of frame 6.
        (7, (25.0, 20.0), 0.0, True, [0.2, 1.3, 2.5, 3.7, 5.0, 6.0]),
        # [-¼, ¼), [¼, ¾): between two frames, their mean; [2¼, 2½) is left for the last one.
        (3, (25.0, 50.0), 0.0, True, [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]),
        (3, (25.0, 50.0), 0.0, False, [0.0, 1.0, 1.0, 2.0, 2.0]),
        # Half of frames 0, 50 and 100 on either side.
        (120, (25.0, 0.5), 0.0, False, [1250 / 50, 3750 / 50, 2140 / 19.5]),
        (120, (25.0, 0.5), 0.0, True, [312.5 / 25, 2500 / 50, 4327.5 / 44.5]),
        # Frame 0 covers [0, 1.125): [0, 3) is 1.125 of it, frame 1 and 0.875 of frame 2.
        (9, (75.0, 25.0), 0.625, False, [2.75 / 3, 11.625 / 3, 20.625 / 3, 8.0]),
        # [-1.875, 1.875): 1.125 of frame 0 and ¾ of frame 1; [1.875, 5.625): ¼ of 1, 2, 3, 4, ½ of 5.
        (6, (75.0, 20.0), 0.625, True, [0.4, 11.75 / 3.75, 5.0]),
        (1, (25.0, 8.0), 0.0, False, [0.0]),
        (0, (25.0, 8.0), 0.0, False, []),
    ],
)
def test_averages_of_a_ramp(num_frames, rates, offset, centered, expected):
    ramp = torch.arange(float(num_frames))
    averages = average_batch(ramp[None, :, None], *rates, offset, centered)
    torch.testing.assert_close(averages, torch.tensor(expected)[None, :, None])
    torch.testing.assert_close(average_batch(ramp[None], *rates, offset, centered), torch.tensor(expected)[None])
    assert count_averages(num_frames, *rates, offset, centered) == len(expected)


@settings(max_examples=200, deadline=None)
@given(
    num_frames=st.integers(1, 200),
    rates=st.tuples(st.sampled_from([25.0, 50.0, 75.0]), st.sampled_from([0.5, 3.0, 8.0, 20.0, 25.0, 43.07, 100.0])),
    offset=st.sampled_from([0.0, 0.625]),
    centered=st.booleans(),
)
def test_averages_are_integrals_of_a_step_function(num_frames, rates, offset, centered):
    frames = np.random.default_rng(num_frames).standard_normal(num_frames)
    edges = np.concatenate([[0.0], np.arange(num_frames) + 0.5 + offset]) / rates[0]
    integral = np.concatenate([[0.0], np.cumsum(frames * np.diff(edges))])
    count = count_averages(num_frames, *rates, offset, centered)
    bounds = np.clip((np.arange(count + 1) - 0.5 * centered) / rates[1], 0, edges[-1])
    expected = np.diff(np.interp(bounds, edges, integral)) / np.diff(bounds)
    averages = average_batch(torch.from_numpy(frames)[None], *rates, offset, centered)[0]
    np.testing.assert_allclose(averages.numpy(), expected, atol=1e-5)
    # What is left after the last output is nothing.
    assert (count - 0.5 * centered) / rates[1] > edges[-1] - 1e-6


def test_padding_is_in_no_average():
    ramp = torch.arange(7.0).repeat(3, 1)[..., None]
    averages = average_batch(ramp, 25.0, 8.0, counts=torch.tensor([7, 4, 3]))
    # 4 frames end at 3.5: [3.125, 3.5) is frame 3 alone. 3 frames end at 2.5: (½·0 + 1 + 2) / 2.5, and nothing.
    expected = [[4.875 / 3.125, 14.625 / 3.125, 6.0], [4.875 / 3.125, 3.0, 0.0], [3.0 / 2.5, 0.0, 0.0]]
    torch.testing.assert_close(averages[..., 0], torch.tensor(expected))
    counts = count_averages(torch.tensor([7, 4, 3, 0]), 25.0, 8.0)
    assert counts.tolist() == [3, 2, 1, 0]


def test_averages_keep_shape_and_dtype():
    frames = torch.randn(2, 50, 3, 4)
    averages = average_batch(frames.half(), 25.0, 8.0, centered=True)
    assert averages.shape == (2, 17, 3, 4)  # 49.5 frames are 15.84 intervals, from half an interval before 0 on
    assert averages.dtype == torch.float16
    torch.testing.assert_close(averages.float(), average_batch(frames, 25.0, 8.0, centered=True), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rates", [(75.0, 20.0), (25.0, 86.1), (25.0, 8.0), (50.0, 100 / 3)])
@pytest.mark.parametrize("centered", [False, True])
def test_counts_of_a_tensor_are_those_of_numbers(rates, centered):
    numbers = torch.arange(0, 60_000, 7)  # an hour
    for offset in (0.0, 0.625):
        expected = [count_averages(number, *rates, offset, centered) for number in numbers.tolist()]
        assert count_averages(numbers, *rates, offset, centered).tolist() == expected
