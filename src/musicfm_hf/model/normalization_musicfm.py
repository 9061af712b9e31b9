"""Normalizations that exclude padding from their statistics: batch norm, group norm, and waveform normalization."""

from collections.abc import Callable

import torch
from torch import nn

from .padding_musicfm import valid_frames


def batch_norm(
    norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm, hidden_states: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """
    Apply batch norm with training statistics that exclude padding. Values that activation checkpointing recomputes
    during the backward pass are not counted a second time. Outside of training, this is `norm` itself.

    Args:
        norm (`nn.BatchNorm1d`, `nn.BatchNorm2d` or `nn.SyncBatchNorm`): Module with the weights, statistics and mode;
            the statistics of an `nn.SyncBatchNorm` span all processes.
        hidden_states (`torch.Tensor` of shape `(batch, channels, …)`): Values.
        mask (`torch.Tensor` that broadcasts to `(batch, 1, …)`, *optional*): False for padding.
    """
    if not norm.training:
        return norm(hidden_states)
    recomputing = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
    if mask is None and recomputing and isinstance(norm, nn.SyncBatchNorm):
        scratch = {name: buffer.clone() for name, buffer in norm.named_buffers()}
        return torch.func.functional_call(norm, scratch, hidden_states)
    if mask is None and recomputing:  # a momentum of 0 changes nothing
        running = (norm.running_mean, norm.running_var)
        return nn.functional.batch_norm(hidden_states, *running, norm.weight, norm.bias, True, 0.0, norm.eps)
    if mask is None:
        return norm(hidden_states)
    axes = [axis for axis in range(hidden_states.ndim) if axis != 1]
    values = hidden_states.float()
    weights = mask.expand(hidden_states.shape[0], 1, *hidden_states.shape[2:]).float()
    synchronized = isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized()
    add_ranks: Callable[[torch.Tensor], torch.Tensor] = _all_reduce if synchronized else (lambda sums: sums)
    count = add_ranks(weights.sum())
    mean = add_ranks((values * weights).sum(axes, keepdim=True)) / count
    variance = add_ranks(((values - mean).square() * weights).sum(axes, keepdim=True)) / count
    if norm.track_running_stats and not recomputing:
        with torch.no_grad():
            running_mean, running_var = running_statistics(norm)
            assert norm.num_batches_tracked is not None
            assert norm.momentum is not None
            norm.num_batches_tracked.add_(1)
            unbiased = variance.flatten() * (count / (count - 1).clamp(min=1))
            running_mean.lerp_(mean.flatten().to(running_mean.dtype), norm.momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), norm.momentum)
    shape = [1, -1] + [1] * (hidden_states.ndim - 2)
    normalized = (values - mean) * torch.rsqrt(variance + norm.eps)
    normalized = normalized * norm.weight.float().view(shape) + norm.bias.float().view(shape)
    return normalized.to(hidden_states.dtype)


def running_statistics(
    norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the running mean and variance `(channels,)` of a batch norm that tracks them."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _all_reduce(sums: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, with gradients."""
    from torch.distributed.nn.functional import all_reduce  # here, since not every build of torch has it

    return all_reduce(sums)


def group_norm(norm: nn.GroupNorm, hidden_states: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
    """
    Apply group norm to `(batch, channels, frames)`, with one group for each channel. Statistics come from the first
    `counts` frames of each item, or from all frames if `counts` is `None`.
    """
    if counts is None:
        return norm(hidden_states)
    mask = valid_frames(0, hidden_states.shape[-1], counts)[:, None]
    values = hidden_states.float()
    mean = (values * mask).sum(-1, keepdim=True) / counts[:, None, None]
    variance = ((values - mean).square() * mask).sum(-1, keepdim=True) / counts[:, None, None]
    normalized = (values - mean) * torch.rsqrt(variance + norm.eps)
    scale, shift = norm.weight.float()[:, None], norm.bias.float()[:, None]
    return (normalized * scale + shift).to(hidden_states.dtype)


def normalize(waveform: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """
    Scale waveforms `(batch, samples)` to mean 0 and variance 1 over each item's own samples, in float32. Padding
    becomes 0.
    """
    waveform = waveform.float()
    if attention_mask is None:
        mean, variance = waveform.mean(-1, keepdim=True), waveform.var(-1, keepdim=True, correction=0)
        return (waveform - mean) * torch.rsqrt(variance + 1e-7)
    count = attention_mask.sum(-1, keepdim=True)
    centered = (waveform - (waveform * attention_mask).sum(-1, keepdim=True) / count) * attention_mask
    return centered * torch.rsqrt(centered.square().sum(-1, keepdim=True) / count + 1e-7)


__all__ = ["batch_norm", "group_norm", "normalize", "running_statistics"]
