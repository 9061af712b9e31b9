"""Corruption of the pretraining input: in-batch mix-up, masks, and noise in place of masked audio."""

from collections.abc import Callable

import torch
from torch import nn

from .configuration_musicfm import MusicFMConfig
from .padding_musicfm import valid_frames

Generators = torch.Generator | list[torch.Generator] | None


def check_targets(
    config: MusicFMConfig,
    input_values: torch.Tensor,
    mask_time_indices: torch.Tensor | None,
    target_tokens: torch.Tensor | None,
) -> None:
    """
    Check the mask and the targets that are passed to [`MusicFMForPreTraining`].

    Raises:
        ValueError: if they do not fit the waveforms or the configuration, or `target_tokens` are given without a mask.
            Values of tokens are checked only outside of compilation.
    """
    batch, samples = input_values.shape
    frames, tokens = config.frame_counts(samples)[-1], samples // config.samples_per_frame
    if mask_time_indices is not None:
        shape = tuple(mask_time_indices.shape)
        if shape not in ((batch, frames), (batch, tokens)):
            raise ValueError(f"`mask_time_indices` must have shape {(batch, frames)}, got {shape}.")
    if target_tokens is None:
        return
    if mask_time_indices is None:
        raise ValueError("`target_tokens` need `mask_time_indices`, the frames that are masked.")
    if config.cqt_loss_weight > 0:
        raise ValueError("The constant-Q loss needs the clean waveform: omit `target_tokens`.")
    shape, codebooks = tuple(target_tokens.shape), config.num_codebooks
    allowed: list[tuple[int, ...]] = [(batch, length, codebooks) for length in (frames, tokens)]
    allowed += [(batch, length) for length in (frames, tokens) if codebooks == 1]
    if shape not in allowed or target_tokens.is_floating_point():
        raise ValueError(
            f"`target_tokens` must be integers of shape {allowed[0]}, got {target_tokens.dtype} of shape {shape}."
        )
    if not torch.compiler.is_compiling():
        _check_codes(config, target_tokens.view(batch, -1, codebooks))


def _check_codes(config: MusicFMConfig, tokens: torch.Tensor) -> None:
    """Raise a `ValueError` for the first token `(batch, tokens, codebooks)` that its codebook does not have."""
    valid = (tokens == -100) | ((tokens >= 0) & (tokens < tokens.new_tensor(config.codebook_sizes)))
    if not valid.all():
        row, frame, codebook = (~valid).nonzero()[0].tolist()
        which = f" of codebook {codebook + 1}" if config.num_codebooks > 1 else ""
        raise ValueError(
            f"`target_tokens`{which} must be codes from 0 to {config.codebook_sizes[codebook] - 1}, or -100 to leave "
            f"out, got {tokens[row, frame, codebook]}."
        )


def sample_mask(
    config: MusicFMConfig, lengths: torch.Tensor, num_samples: int, generator: Generators = None
) -> torch.Tensor:
    """
    Draw a mask. With `config.mask_type="noise"`, it consists of whole cells of a fixed grid, inside the audio; with
    `"embedding"`, it consists of spans that begin anywhere and may overlap.

    Args:
        config ([`MusicFMConfig`]): `mask_type`, `mask_prob`, `mask_seconds`.
        lengths (`torch.Tensor` of shape `(batch,)`): Number of samples in each item, without padding.
        num_samples (`int`): Number of samples in a row, including padding.
        generator (`torch.Generator` or a list of them, *optional*): One for the batch, or one for each item; the
            global generator by default.

    Returns:
        bool `(batch, frames)`, or `(batch, tokens)` if a row has more tokens than frames; true where masked.
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


def mix_in_batch(
    config: MusicFMConfig, waveform: torch.Tensor, lengths: torch.Tensor, generator: Generators = None
) -> torch.Tensor:
    """
    Add excerpts of the other items of a batch to each item, with probability `config.mixup_prob`: MERT's in-batch
    noise mixture (arXiv 2306.00107, and its public training code). An item gets 1 to `config.mixup_max_excerpts`
    excerpts, each from a random place in a random other item, at a random place, unscaled, and of a random duration
    between the two `config.mixup_seconds`. An excerpt is never longer than one of the two items.

    MERT's code concatenates the other items, so that an excerpt can span two of them; here, it comes from one item,
    and never from padding. MERT also mixes in evaluation; [`MusicFMForPreTraining`] mixes in training only.

    Args:
        config ([`MusicFMConfig`]): `mixup_prob`, `mixup_seconds`, `mixup_max_excerpts`.
        waveform (`torch.Tensor` of shape `(batch, samples)`): Clean waveforms, padded on the right.
        lengths, generator: As in [`sample_mask`].

    Returns:
        `(batch, samples)`. Nothing is drawn if `mixup_prob` is 0 or the batch has a single item.
    """
    batch = len(waveform)
    if config.mixup_prob == 0 or batch == 1:
        return waveform
    size = 2 + 4 * config.mixup_max_excerpts
    numbers = draw(torch.rand, torch.full_like(lengths, size), size, generator).tolist()
    samples, mixed = lengths.tolist(), waveform.clone()
    shortest, longest = config.mixup_seconds
    for index, (chance, amount, *places) in enumerate(numbers):
        if chance >= config.mixup_prob:
            continue
        for excerpt in range(1 + int(amount * config.mixup_max_excerpts)):
            which, duration, origin, target = places[4 * excerpt : 4 * excerpt + 4]
            other = (index + 1 + int(which * (batch - 1))) % batch
            count = round((shortest + duration * (longest - shortest)) * config.sampling_rate)
            count = min(count, samples[index], samples[other])
            origin = int(origin * (samples[other] - count + 1))
            target = int(target * (samples[index] - count + 1))
            mixed[index, target : target + count] += waveform[other, origin : origin + count]
    return mixed


def replace_by_noise(
    config: MusicFMConfig,
    waveform: torch.Tensor,
    lengths: torch.Tensor,
    mask: torch.Tensor,
    generator: Generators = None,
) -> torch.Tensor:
    """
    Replace the waveform `(batch, samples)` with Gaussian noise where `mask` `(batch, frames)` is true. `lengths` and
    `generator` are those of [`sample_mask`].
    """
    masked = fit_length(mask.repeat_interleave(config.samples_per_frame, dim=1), waveform.shape[1])
    noise = draw(torch.randn, lengths, waveform.shape[1], generator) * config.mask_noise_std
    return torch.where(masked, noise.to(waveform.dtype), waveform)


def target_frames(config: MusicFMConfig, lengths: torch.Tensor, num_samples: int) -> torch.Tensor:
    """
    Return the mask of output frames that have a target, bool `(batch, frames)`. A partial last frame has none, and the
    `"waveform"` front end yields fewer frames than tokens.
    """
    frames = config.frame_counts(num_samples)[-1]
    counts = torch.minimum(lengths // config.samples_per_frame, config.frame_counts(lengths)[-1])
    return valid_frames(0, frames, counts)


def fit_length(values: torch.Tensor, frames: int, value: float = 0) -> torch.Tensor:
    """Cut axis 1 of `(batch, length, …)` to `frames`, or pad it with `value`."""
    padding = (0, 0) * (values.ndim - 2) + (0, max(0, frames - values.shape[1]))
    return nn.functional.pad(values[:, :frames], padding, value=value)


def draw(
    function: Callable[..., torch.Tensor], counts: torch.Tensor, size: int, generator: Generators
) -> torch.Tensor:
    """
    Draw random numbers `(batch, size)` on the device of the generator. With a list of generators, each draws only the
    `counts` numbers of its item, followed by zeros, so that an item gets the same numbers in every batch.

    Args:
        function: `torch.rand` or `torch.randn`.
        counts (`torch.Tensor` of shape `(batch,)`): Number of values that each item needs.
        size (`int`): Length of a row.
        generator (`torch.Generator` or a list of them, *optional*): As in [`sample_mask`].

    Raises:
        ValueError: if a list does not have one generator for each item.
    """
    if isinstance(generator, list):
        if len(generator) != len(counts):
            raise ValueError(
                f"`generator` has {len(generator)} generators for {len(counts)} items; pass one for each item."
            )
        rows = [
            function(count, generator=item_generator, device=item_generator.device)
            for item_generator, count in zip(generator, counts.tolist(), strict=True)
        ]
        return torch.stack([nn.functional.pad(row, (0, size - len(row))) for row in rows]).to(counts.device)
    device = counts.device if generator is None else generator.device
    return function((len(counts), size), generator=generator, device=device).to(counts.device)


__all__ = ["check_targets", "draw", "fit_length", "mix_in_batch", "replace_by_noise", "sample_mask", "target_frames"]
