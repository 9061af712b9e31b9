import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicfm_hf.audio.windows import plan_windows


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
