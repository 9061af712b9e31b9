"""Resample frames by averaging over time, and count the resulting frames."""

import math
from typing import TypeVar

import torch

from .configuration_musicfm import MusicFMConfig

Count = TypeVar("Count", int, torch.Tensor)  # a tensor of integers


def average_frames(
    frames: torch.Tensor,
    frame_rate: float,
    target_rate: float,
    frame_offset: float = 0.0,
    centered: bool = False,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Change the rate of frames by averaging over time. Each frame is weighted by the part of it that lies in the
    interval.

    Frame k is centered at (k + `frame_offset`) / `frame_rate` and represents the time around it; the first frame
    begins at 0. Output j is the mean over [j, j + 1) / `target_rate`, or with `centered` over [j - ½, j + ½) /
    `target_rate`. A target rate above `frame_rate` repeats frames.

    Args:
        frames (`torch.Tensor` of shape `(batch, frames, …)`): Any values at `frame_rate`.
        frame_rate, target_rate (`float`): Rates in Hz.
        frame_offset (`float`): Center of the first frame, in frames; `config.frame_offset` for frames of a model.
        centered (`bool`): Center output j at j / `target_rate` instead of starting it there.
        counts (`torch.Tensor` of shape `(batch,)`, *optional*): Number of frames in each item that are not padding.

    Returns:
        `(batch, count_averages(frames, …), …)` in the dtype of `frames`; zeros where an output has no frames.

    Raises:
        ValueError: if a rate is not positive.
    """
    num_frames = frames.shape[1]
    num_outputs = count_averages(num_frames, frame_rate, target_rate, frame_offset, centered)
    device, double = frames.device, torch.float64
    # Time in input frames: frame k covers [k - ½, k + ½) + offset, output j covers [start, stop).
    step, shift = frame_rate / target_rate, frame_offset - 0.5
    start = (torch.arange(num_outputs, device=device, dtype=double) - 0.5 * centered) * step
    stop = start + step
    span = math.ceil(step) + 1
    if not isinstance(num_frames, torch.SymInt):  # an exported graph has the same span for any number of frames
        span = min(span, num_frames + 1)
    first = (start - shift + 1e-9).floor().long().clamp(min=0)  # the first frame that an output overlaps
    index = first[:, None] + torch.arange(span, device=device)  # (outputs, span)
    begin = torch.where(index == 0, 0.0, index + shift)
    overlap = torch.minimum(stop[:, None], index + 1 + shift) - torch.maximum(start[:, None], begin)
    overlap = overlap.clamp(min=0) * ((index >= 0) & (index < num_frames))
    weights = overlap[None].float()  # (1 or batch, outputs, span)
    if counts is not None:
        weights = weights * (index < counts[:, None, None])
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)
    flat = frames[..., None].flatten(2)  # (batch, frames, values)
    # Sum one frame of the span at a time, which needs no more memory than the outputs.
    output = flat.new_zeros(flat.shape[0], num_outputs, flat.shape[2], dtype=torch.float32)
    for place in range(span):
        gathered = flat[:, index[:, place].clamp(0, num_frames - 1)]
        output = torch.addcmul(output, gathered.float(), weights[..., place, None])
    return output.to(frames.dtype).reshape(output.shape[:2] + frames.shape[2:])


def count_averages(
    num_frames: Count, frame_rate: float, target_rate: float, frame_offset: float = 0.0, centered: bool = False
) -> Count:
    """
    Return the number of outputs of [`average_frames`] for `num_frames` frames (0 for 0 frames). `num_frames` may be a
    number or a tensor of numbers.

    Raises:
        ValueError: if a rate is not positive.
    """
    if not (frame_rate > 0 and target_rate > 0):
        raise ValueError(f"Frame rates must be positive, got {frame_rate} and {target_rate} Hz.")
    if isinstance(num_frames, torch.Tensor):
        num_frames = num_frames.double()  # in float32, counts could differ from those of Python numbers
    ends = (num_frames - 0.5 + frame_offset) * (target_rate / frame_rate) + 0.5 * centered
    if isinstance(num_frames, torch.Tensor):
        return torch.where(num_frames > 0, (ends - 1e-6).ceil().long(), 0)
    return math.ceil(ends - 1e-6) if num_frames > 0 else 0


def average_times(num_frames: int, frame_rate: float, target_rate: float, frame_offset: float = 0.0) -> torch.Tensor:
    """
    Return the center of each interval over which [`average_frames`] averages `num_frames` frames, in seconds, float64.
    The last interval ends with the last frame. The arguments are those of [`average_frames`] without `centered`.
    """
    count = count_averages(num_frames, frame_rate, target_rate, frame_offset)
    end = (num_frames - 0.5 + frame_offset) / frame_rate
    bounds = (torch.arange(count + 1, dtype=torch.float64) / target_rate).clamp(max=end)
    return (bounds[1:] + bounds[:-1]) / 2


def average_intervals(frames: torch.Tensor, count: int, counts: torch.Tensor | None = None) -> torch.Tensor:
    """
    Average frames over `count` intervals of equal length that divide an item. Each frame is weighted by the part of it
    that lies in the interval.

    Args:
        frames (`torch.Tensor` of shape `(batch, frames, values)`): Any values.
        count (`int`): Number of intervals; more than there are frames repeats them.
        counts (`torch.Tensor` of shape `(batch,)`, *optional*): Number of frames in each item that are not padding.

    Returns:
        `(batch, count, values)` in the dtype of `frames`.
    """
    if counts is None:
        counts = torch.full(frames.shape[:1], frames.shape[1], device=frames.device)
    edges = counts[:, None] * torch.linspace(0, 1, count + 1, dtype=torch.float64, device=frames.device)
    place = torch.arange(frames.shape[1], device=frames.device)
    # Overlap of interval j and frame k, as a share of the interval.
    stop = torch.minimum(edges[:, 1:, None], place + 1.0)
    start = torch.maximum(edges[:, :-1, None], place.double())
    weights = (stop - start).clamp(min=0) / (counts / count)[:, None, None]  # (batch, count, frames)
    return (weights.to(torch.float32) @ frames.float()).to(frames.dtype)


def label_settings(config: MusicFMConfig) -> tuple[float, float, float, bool]:
    """
    Return the arguments of [`average_frames`] that average frames of a model to its labels' rate.

    Raises:
        ValueError: if `config.label_rate` is `None`.
    """
    if config.label_rate is None:
        raise ValueError("A model of label frames needs `config.label_rate`, their rate in Hz; it is None.")
    return config.frame_rate, config.label_rate, config.frame_offset, config.label_centered


__all__ = ["average_frames", "average_intervals", "average_times", "count_averages", "label_settings"]
