"""Cutting long audio into overlapping windows, and joining their outputs."""

from itertools import pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """A stretch of audio that is encoded at once, and which of its frames are kept when windows are joined."""

    start_sample: int
    stop_sample: int
    start_frame: int  # place of the first kept frame in the whole
    stop_frame: int
    first_kept: int  # index of the first kept frame in the window's own output


def plan_windows(
    num_samples: int,
    num_frames: int,
    samples_per_frame: int,
    window_frames: int,
    overlap_frames: int,
    window_samples: int | None = None,
) -> list[Window]:
    """
    Windows of `window_frames` frames, overlapping by `overlap_frames`, over audio of `num_samples` samples that has
    `num_frames` frames. All start on a frame; the last one is moved back to be whole. Each frame is kept from the
    window in whose middle it lies deeper: neighbours meet in the middle of their overlap. `window_samples` give
    `window_frames` frames; `window_frames · samples_per_frame` by default.

    Raises:
        ValueError: if windows are not longer than their overlap.
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
