"""Overlapping windows over long audio, and which frames of each are kept; `inference/embedding.py` joins them."""

from itertools import pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """A part of the audio that is encoded at once, and the frames of it that are kept when windows are joined."""

    start_sample: int
    stop_sample: int
    start_frame: int  # first kept frame, counted in the whole audio
    stop_frame: int
    first_kept: int  # first kept frame, counted in the window


def plan_windows(
    num_samples: int,
    num_frames: int,
    samples_per_frame: int,
    window_frames: int,
    overlap_frames: int,
    window_samples: int | None = None,
) -> list[Window]:
    """
    Cut audio into overlapping windows.

    Every window starts on a frame; the last one is moved back so that it has full length. Each frame is taken from the
    window in which it is farther from an edge, so neighboring windows meet in the middle of their overlap.

    Args:
        num_samples (`int`): Number of samples in the audio.
        num_frames (`int`): Number of frames that the encoder returns for the audio.
        samples_per_frame (`int`): Number of samples between the starts of two frames.
        window_frames, overlap_frames (`int`): Number of frames in a window, and in the overlap of two windows.
        window_samples (`int`, *optional*): Number of samples that yield `window_frames` frames; by default
            `window_frames · samples_per_frame`.

    Raises:
        ValueError: the overlap is not shorter than the window.
    """
    if not 0 <= overlap_frames < window_frames:
        raise ValueError(
            f"The overlap ({overlap_frames} frames) must be at least 0 and shorter than the window ({window_frames})."
        )
    window_samples = window_samples or window_frames * samples_per_frame
    last = max(0, -(-(num_samples - window_samples) // samples_per_frame))
    starts = [*range(0, last, window_frames - overlap_frames), last]
    seams = [(after + before + window_frames) // 2 for before, after in pairwise(starts)]
    edges = [0, *seams, num_frames]
    return [
        Window(
            start_sample=start * samples_per_frame,
            stop_sample=min(start * samples_per_frame + window_samples, num_samples),
            start_frame=edges[index],
            stop_frame=edges[index + 1],
            first_kept=edges[index] - start,
        )
        for index, start in enumerate(starts)
    ]
