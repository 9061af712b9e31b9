"""Padded batches: check them, and compute the lengths of items and the masks of frames that are not padding."""

import torch


def check_input(
    input_values: torch.Tensor, attention_mask: torch.Tensor | None, min_samples: int
) -> torch.Tensor | None:
    """
    Check waveforms and their mask. Values are checked only outside of compilation.

    Args:
        input_values (`torch.Tensor` of shape `(batch, samples)`): Waveforms.
        attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
        min_samples (`int`): Shortest item that the model accepts.

    Returns:
        The mask as bool, or `None` if it masks nothing.

    Raises:
        ValueError: if a shape or dtype is wrong, the batch is empty, the audio of an item is not contiguous, or an
            item is too short.
    """
    if input_values.ndim != 2 or not input_values.is_floating_point():
        raise ValueError(
            f"`input_values` must be floating point of shape (batch, samples), got {input_values.dtype} of shape "
            f"{tuple(input_values.shape)}."
        )
    if attention_mask is not None:
        if attention_mask.shape != input_values.shape:
            raise ValueError(
                f"`attention_mask` must have the shape of `input_values`, {tuple(input_values.shape)}, got "
                f"{tuple(attention_mask.shape)}."
            )
        attention_mask = attention_mask.bool()
    if torch.compiler.is_compiling() or input_values.is_meta:
        return attention_mask
    if input_values.shape[0] == 0:
        raise ValueError("The batch is empty.")
    shortest = input_values.shape[-1]
    if attention_mask is not None:
        begins = (attention_mask[:, 1:] & ~attention_mask[:, :-1]).sum(-1) + attention_mask[:, 0]
        if begins.max() > 1:
            raise ValueError("`attention_mask` has holes: the audio of each item must be contiguous.")
        shortest = int(attention_mask.sum(-1).min())
    if shortest < min_samples:
        raise ValueError(f"An item has {shortest} samples, but the model needs at least {min_samples}.")
    return None if shortest == input_values.shape[-1] else attention_mask


def item_lengths(input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the number of samples in each item, `(batch,)`."""
    if attention_mask is not None:
        return attention_mask.bool().sum(-1)
    return torch.full((input_values.shape[0],), input_values.shape[-1], device=input_values.device)


def valid_frames(start: int, stop: int, counts: torch.Tensor) -> torch.Tensor:
    """
    Return a mask of frames `start` to `stop - 1`, bool `(batch, stop - start)`: true for the first `counts` frames of
    each item, false for padding and before frame 0.
    """
    frame = torch.arange(start, stop, device=counts.device)
    return (frame >= 0) & (frame < counts[:, None])


def zero_padding(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Set `values` to zero where `mask`, which broadcasts to their shape, is false; `None` masks nothing."""
    return values if mask is None else values.masked_fill(~mask, 0.0)


def align_left(waveform: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Move the audio of each item to the start of its row `(batch, samples)` and set the rest to zero."""
    first = attention_mask.int().argmax(-1, keepdim=True)
    position = first + torch.arange(waveform.shape[-1], device=waveform.device)[None]
    aligned = waveform.gather(1, position.clamp(max=waveform.shape[-1] - 1))
    return zero_padding(aligned, valid_frames(0, waveform.shape[-1], attention_mask.bool().sum(-1)))


__all__ = ["align_left", "check_input", "item_lengths", "valid_frames", "zero_padding"]
