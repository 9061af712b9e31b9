import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musicfm_hf.model.frames_musicfm import average_frames, average_times, count_averages


def test_average_to_a_rate_that_divides():
    # Frames at 4 Hz cover [0, 1/8), [1/8, 3/8), [3/8, 5/8) … seconds; halves are weighted by one half.
    averages = average_frames(torch.arange(9.0)[None], 4.0, 2.0)
    times = average_times(9, 4.0, 2.0)
    assert times[:4].tolist() == [0.25, 0.75, 1.25, 1.75]
    # [0, 1/2) = half of frame 0, all of frame 1, half of frame 2.
    torch.testing.assert_close(averages[0, :4], torch.tensor([1.0, 3.0, 5.0, 7.0]))


def test_average_to_a_rate_that_does_not_divide():
    # 25 Hz to 8 Hz: 3.125 frames each; the first covers frames 0 (half), 1, 2, and 0.625 of frame 3.
    frames = torch.zeros(1, 25, 2)
    frames[0, 3] = torch.tensor([3.125, 6.25])
    averages, times = average_frames(frames, 25.0, 8.0)[0], average_times(25, 25.0, 8.0)
    torch.testing.assert_close(averages[0], torch.tensor([0.625, 1.25]))
    torch.testing.assert_close(averages[1], torch.tensor([0.375, 0.75]))
    assert len(averages) == len(times) == 8  # 24.5 frames are 7.84 intervals
    assert times[0] == 0.0625


def test_going_up_repeats_and_constants_stay():
    averages = average_frames(torch.tensor([[1.0, 2.0, 3.0]]), 1.0, 4.0)
    assert averages.tolist() == [[1, 1, 2, 2, 2, 2, 3, 3, 3, 3]]
    for rate in (0.5, 3.0, 8.0, 25.0, 30.0):
        averages = average_frames(torch.full((1, 90_000), 7.0), 25.0, rate)
        torch.testing.assert_close(averages, torch.full_like(averages, 7.0))
        times = average_times(90_000, 25.0, rate)
        assert len(times) == averages.shape[1]
        assert (times.diff() > 0).all()


def test_the_last_interval_ends_with_the_last_frame():
    # Three frames of 1 Hz end at 2.5 s: intervals [0, 2) and [2, 2.5). Centered half a frame later, they end at 3 s.
    assert average_times(3, 1.0, 0.5).tolist() == [1.0, 2.25]
    assert average_times(3, 1.0, 0.5, frame_offset=0.5).tolist() == [1.0, 2.5]


def test_rates_must_be_positive():
    with pytest.raises(ValueError, match=r"must be positive, got 25\.0 and 0\.0 Hz"):
        average_frames(torch.zeros(1, 5), 25.0, 0.0)


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
        (3, (25.0, 1e-9), 0.0, True, [3 / 2.5]),  # half of frame 0, then frames 1 and 2, in little memory
        (0, (25.0, 8.0), 0.0, False, []),
    ],
)
def test_averages_of_a_ramp(num_frames, rates, offset, centered, expected):
    ramp = torch.arange(float(num_frames))
    averages = average_frames(ramp[None, :, None], *rates, offset, centered)
    torch.testing.assert_close(averages, torch.tensor(expected)[None, :, None])
    torch.testing.assert_close(average_frames(ramp[None], *rates, offset, centered), torch.tensor(expected)[None])
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
    averages = average_frames(torch.from_numpy(frames)[None], *rates, offset, centered)[0]
    np.testing.assert_allclose(averages.numpy(), expected, atol=1e-5)
    # What is left after the last output is nothing.
    assert (count - 0.5 * centered) / rates[1] > edges[-1] - 1e-6


def test_padding_is_in_no_average():
    ramp = torch.arange(7.0).repeat(3, 1)[..., None]
    averages = average_frames(ramp, 25.0, 8.0, counts=torch.tensor([7, 4, 3]))
    # 4 frames end at 3.5: [3.125, 3.5) is frame 3 alone. 3 frames end at 2.5: (½·0 + 1 + 2) / 2.5, and nothing.
    expected = [[4.875 / 3.125, 14.625 / 3.125, 6.0], [4.875 / 3.125, 3.0, 0.0], [3.0 / 2.5, 0.0, 0.0]]
    torch.testing.assert_close(averages[..., 0], torch.tensor(expected))
    counts = count_averages(torch.tensor([7, 4, 3, 0]), 25.0, 8.0)
    assert counts.tolist() == [3, 2, 1, 0]


def test_averages_keep_shape_and_dtype():
    frames = torch.randn(2, 50, 3, 4)
    averages = average_frames(frames.half(), 25.0, 8.0, centered=True)
    assert averages.shape == (2, 17, 3, 4)  # 49.5 frames are 15.84 intervals, from half an interval before 0 on
    assert averages.dtype == torch.float16
    torch.testing.assert_close(
        averages.float(), average_frames(frames, 25.0, 8.0, centered=True), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("rates", [(75.0, 20.0), (25.0, 86.1), (25.0, 8.0), (50.0, 100 / 3)])
@pytest.mark.parametrize("centered", [False, True])
def test_counts_of_a_tensor_are_those_of_numbers(rates, centered):
    numbers = torch.arange(0, 60_000, 7)  # an hour
    for offset in (0.0, 0.625):
        expected = [count_averages(number, *rates, offset, centered) for number in numbers.tolist()]
        assert count_averages(numbers, *rates, offset, centered).tolist() == expected


@pytest.mark.parametrize("rates", [(25.0, 0.5), (25.0, 8.0), (25.0, 20.0)])
@pytest.mark.parametrize("centered", [False, True])
def test_an_exported_graph_averages_any_number_of_frames(rates, centered):
    class Average(torch.nn.Module):
        def forward(self, frames):
            return average_frames(frames, *rates, 0.0, centered)

    dynamic = {1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Average(), (torch.randn(2, 200, 3),), dynamic_shapes=(dynamic,), strict=False)
    for num_frames in (1, 2, 3, 27, 300):
        frames = torch.randn(2, num_frames, 3)
        torch.testing.assert_close(program.module(check_guards=False)(frames), Average()(frames))
