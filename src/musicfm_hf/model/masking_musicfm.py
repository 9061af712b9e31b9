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
        bool `(batch, num_samples / samples_per_frame, rounded up)`.
    """
    frames = -(-num_samples // config.samples_per_frame)
    if config.mask_type == "embedding":
        starts = draw(torch.rand, (len(lengths), frames), generator, lengths.device)
        starts = (starts < config.mask_prob / config.mask_frames).float()[:, None]
        starts = nn.functional.pad(starts, (config.mask_frames - 1, 0))
        mask = nn.functional.max_pool1d(starts, config.mask_frames, stride=1)[:, 0] > 0
        return mask & valid_frames(0, frames, config.frame_counts(lengths)[-1])
    cell = config.mask_frames * config.samples_per_frame
    cells = max(num_samples // cell, 1)
    mask = draw(torch.rand, (len(lengths), cells), generator, lengths.device) < config.mask_prob
    mask = (mask & valid_frames(0, cells, lengths // cell)).repeat_interleave(config.mask_frames, dim=1)
    return fit_length(mask, frames)


def replace_by_noise(
    config: MusicFMConfig, waveform: torch.Tensor, mask: torch.Tensor, generator: Generators = None
) -> torch.Tensor:
    """The waveform `(batch, samples)` with Gaussian noise where `mask` `(batch, frames)` is true."""
    samples = fit_length(mask.repeat_interleave(config.samples_per_frame, dim=1), waveform.shape[1])
    noise = draw(torch.randn, waveform.shape, generator, waveform.device) * config.mask_noise_std
    return torch.where(samples, noise.to(waveform.dtype), waveform)


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


def draw(function, shape: tuple[int, ...], generator: Generators, device: torch.device) -> torch.Tensor:
    """Random numbers, drawn where the generator lives; of a list of generators, each draws the numbers of its item."""
    if isinstance(generator, list):
        if len(generator) != shape[0]:
            raise ValueError(f"`generator` has {len(generator)} generators for {shape[0]} items; give one for each.")
        rows = [function(shape[1:], generator=own, device=own.device) for own in generator]
        return torch.stack(rows).to(device)
    where = device if generator is None else generator.device
    return function(shape, generator=generator, device=where).to(device)


__all__ = ["draw", "fit_length", "replace_by_noise", "sample_mask", "target_frames"]
