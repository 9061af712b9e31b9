"""Which frames are hidden in masked pretraining, and what stands in their place."""

import torch
from torch import nn

from .configuration_musicfm import MusicFMConfig
from .features_musicfm import valid_frames

Generators = torch.Generator | list[torch.Generator] | None


def sample_mask(
    config: MusicFMConfig, lengths: torch.Tensor, num_samples: int, generator: Generators = None
) -> torch.Tensor:
    """
    Draw a mask as `config.mask_type` says: for `"noise"` cells of a fixed grid, whole cells inside the audio only; for
    `"embedding"` spans that begin anywhere and may overlap.

    Args:
        config ([`MusicFMConfig`]): `mask_type`, `mask_prob`, `mask_seconds`.
        lengths (`torch.Tensor` of shape `(batch,)`): Samples of each item; they come first in a row of `num_samples`.
        num_samples (`int`): Samples of a row.
        generator (`torch.Generator` or a list of them, *optional*): One, or one for each item; the global one if not
            given.

    Returns:
        bool `(batch, frames)`, or `(batch, tokens)` where there are more tokens than frames.
    """
    frames = max(config.frame_counts(num_samples)[-1], num_samples // config.samples_per_frame)
    if config.mask_type == "embedding":
        counts = config.frame_counts(lengths)[-1]
        starts = draw(torch.rand, counts, frames, generator) < config.mask_prob / config.mask_frames
        starts = nn.functional.pad(starts.float()[:, None], (config.mask_frames - 1, 0))
        mask = nn.functional.max_pool1d(starts, config.mask_frames, stride=1)[:, 0] > 0
        return mask & valid_frames(0, frames, counts)
    cell = config.mask_frames * config.samples_per_frame
    counts, cells = lengths // cell, max(num_samples // cell, 1)
    mask = draw(torch.rand, counts, cells, generator) < config.mask_prob
    mask = (mask & valid_frames(0, cells, counts)).repeat_interleave(config.mask_frames, dim=1)
    return fit_length(mask, frames)


def replace_by_noise(
    config: MusicFMConfig,
    waveform: torch.Tensor,
    lengths: torch.Tensor,
    mask: torch.Tensor,
    generator: Generators = None,
) -> torch.Tensor:
    """
    The waveform `(batch, samples)` with Gaussian noise where `mask` `(batch, frames)` is true; `lengths` and
    `generator` as for [`sample_mask`].
    """
    masked = fit_length(mask.repeat_interleave(config.samples_per_frame, dim=1), waveform.shape[1])
    noise = draw(torch.randn, lengths, waveform.shape[1], generator) * config.mask_noise_std
    return torch.where(masked, noise.to(waveform.dtype), waveform)


def target_frames(config: MusicFMConfig, lengths: torch.Tensor, num_samples: int) -> torch.Tensor:
    """
    Which output frames have a target: bool `(batch, frames)`. A partial last frame has none; and of the `"waveform"`
    front end there are fewer frames than tokens.
    """
    frames = config.frame_counts(num_samples)[-1]
    counts = torch.minimum(lengths // config.samples_per_frame, config.frame_counts(lengths)[-1])
    return valid_frames(0, frames, counts)


def fit_length(values: torch.Tensor, frames: int, value: float = 0) -> torch.Tensor:
    """Cut or pad axis 1 of `(batch, frames, …)`."""
    padding = (0, 0) * (values.ndim - 2) + (0, max(0, frames - values.shape[1]))
    return nn.functional.pad(values[:, :frames], padding, value=value)


def draw(function, counts: torch.Tensor, size: int, generator: Generators) -> torch.Tensor:
    """
    Random numbers `(batch, size)`, drawn where the generator lives. Of a list of generators, each draws the `counts`
    numbers of its item and no more, so that they are the same in every batch; zeros follow.
    """
    if isinstance(generator, list):
        if len(generator) != len(counts):
            raise ValueError(
                f"`generator` has {len(generator)} generators for {len(counts)} items; give one for each."
            )
        rows = [
            function(count, generator=own, device=own.device)
            for own, count in zip(generator, counts.tolist(), strict=True)
        ]
        return torch.stack([nn.functional.pad(row, (0, size - len(row))) for row in rows]).to(counts.device)
    where = counts.device if generator is None else generator.device
    return function((len(counts), size), generator=generator, device=where).to(counts.device)


__all__ = ["draw", "fit_length", "replace_by_noise", "sample_mask", "target_frames"]
