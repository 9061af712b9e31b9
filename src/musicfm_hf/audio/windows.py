"""Frames, seconds and samples: changing a frame rate, cutting long audio into windows, joining their outputs."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from ..model.classification_musicfm import average_frames as average_batch


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


def average_frames(
    frames: torch.Tensor, frame_rate: float, target_rate: float, frame_offset: float = 0.0
) -> tuple[torch.Tensor, np.ndarray]:
    """
    Bring frames to another rate by averaging over time. Frame k is centred at (k + `frame_offset`) / `frame_rate` and
    stands for the time around it, the first one from 0 on; output j is the mean over [j, j + 1) / `target_rate`, parts
    of frames weighted by their length. At a higher rate this repeats frames.

    Args:
        frames (`torch.Tensor` of shape `(frames, …)`): Any values at `frame_rate`.
        frame_rate, target_rate (`float`): In Hz.
        frame_offset (`float`): Centre of the first frame, in frames; `config.frame_offset` of a model.

    Returns:
        The averages `(ceil(seconds · target_rate), …)` in float32, and the middles of their intervals in seconds.

    Raises:
        ValueError: if a rate is not positive.
    """
    if not (frame_rate > 0 and target_rate > 0):
        raise ValueError(f"Frame rates must be positive, got {frame_rate} and {target_rate} Hz.")
    averages = average_batch(frames[None].float(), frame_rate, target_rate, frame_offset)[0]
    end = (len(frames) - 0.5 + frame_offset) / frame_rate
    bounds = np.minimum(np.arange(len(averages) + 1) / target_rate, end)
    return averages, (bounds[1:] + bounds[:-1]) / 2
