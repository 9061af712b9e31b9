"""
Faster inference for the convolutions: batch norm is folded into them, 3×3 convolutions need a quarter of the
multiplications, or 9/16 with a stride of 2, and time is processed in tiles that fit in the cache.

Each class has a method `applies`; if it returns false, the modules themselves are called. Both paths agree within
rounding, so this file is not needed to understand the model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .int8_musicfm import Int8Convolution, MusicFMInt8Linear
from .normalization_musicfm import running_statistics
from .padding_musicfm import valid_frames

# Number of output frames that are computed together. On a CPU, 5 s almost fit in the cache. On an accelerator, a
# minute keeps the device busy and limits the memory.
_TILE_FRAMES_PROCESSOR = 125
_TILE_FRAMES_ACCELERATOR = 1500

# Winograd's minimal filtering F(4×4, 3×3) as given by Lavin and Gray (2016, arXiv 1509.09308): 4×4 outputs are
# computed from a 6×6 patch with 36 multiplications for each pair of channels instead of 144.
_FILTER_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
# Filters with two taps at stride 1: F(4, 2) at the points 0, 1, -1, 2 and infinity, by the same construction. Four
# outputs are computed from five values.
_TAPS_TRANSFORM = ((1 / 2, 0), (-1 / 2, -1 / 2), (-1 / 6, 1 / 6), (1 / 6, 1 / 3), (0, 1))
_ROWS_AT_ONCE = 48  # the transformed patches of this many rows fit in the last-level cache


class FastSubsampling:
    """
    Inference of [`MusicFMSubsampling`] in tiles of time, with batch norm folded into the convolutions.

    On a CPU, items are processed one by one, without their padding, and the convolutions run in float32, because
    bfloat16 is many times slower on CPUs without instructions for it; in a model that is quantized to int8, in int8.

    Args:
        subsampling ([`MusicFMSubsampling`]): Modules and weights, which are not modified.
    """

    def __init__(self, subsampling: Any):
        self.config = subsampling.config
        self.projection = subsampling.projection
        self.dtype = subsampling.blocks[0].conv1.weight.dtype
        on_processor = subsampling.blocks[0].conv1.weight.device.type == "cpu"
        is_int8 = isinstance(self.projection, MusicFMInt8Linear)
        self.blocks = [
            _FoldedBlock(block, torch.float32 if on_processor else self.dtype, is_int8) for block in subsampling.blocks
        ]

    @staticmethod
    def applies(subsampling: Any, mel: torch.Tensor) -> bool:
        """
        Return whether this class can process `mel`: only in inference, with modules that nothing wraps or observes.
        """
        observed = any(_is_observed(module) for module in (subsampling.projection, *subsampling.blocks))
        modules = [module for block in subsampling.blocks for module in block.children()]
        is_int8 = isinstance(subsampling.projection, MusicFMInt8Linear)
        return not observed and _can_fold(mel, *modules, has_gradients=not is_int8)

    def __call__(self, mel: torch.Tensor, counts: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
        """Log-mel `(batch, mel frames, bands)` → `(batch, frames, hidden_size)`, as [`MusicFMSubsampling`] does."""
        total = self.config.frame_counts(mel.shape[1] * self.config.hop_length)
        output = mel.new_zeros(mel.shape[0], total[-1], self.projection.out_features, dtype=self.dtype)
        if mel.device.type != "cpu":
            tile = max(1, _TILE_FRAMES_ACCELERATOR // mel.shape[0])
            self._fill(output, mel.to(self.dtype), total if counts is None else counts, tile)
            return output
        for item in range(mel.shape[0]):
            item_counts = total if counts is None else tuple(int(count[item]) for count in counts)
            row = slice(item, item + 1)
            self._fill(output[row, : item_counts[-1]], mel[row, : item_counts[0]], item_counts, _TILE_FRAMES_PROCESSOR)
        return output

    def _fill(self, output: torch.Tensor, mel: torch.Tensor, counts: tuple, tile: int) -> None:
        """Write the projected frames of `mel` into `output`, `tile` frames at a time."""
        first_block, second_block = self.blocks
        for start in range(0, output.shape[1], tile):
            stop = min(start + tile, output.shape[1])
            middle = second_block.input_range(start, stop)
            first, last = first_block.input_range(*middle)
            frames = mel[:, max(first, 0) : max(last, 0)]
            beyond = (max(-first, 0), last - max(first, 0) - frames.shape[1])
            frames = nn.functional.pad(frames, (0, 0, *beyond))[..., None]  # (batch, time, bands, 1)
            frames = first_block(frames, *middle, counts[1])
            frames = second_block(frames, start, stop, counts[2])
            frames = frames.transpose(2, 3).flatten(2)  # channel-major, as published
            output[:, start:stop] = self.projection(frames.to(output.dtype))


class FastDepthwiseConvolution:
    """
    Inference of a depthwise convolution over time and of the following batch norm, if there is one, as one
    convolution. On a CPU, it is a convolution in two dimensions with the channels last, which needs no copies from and
    to the layout of the linear layers. Exceptions are narrow models in bfloat16, because oneDNN (of PyTorch 2.13) does
    not return from such a convolution with up to 32 channels on processors with AVX512-BF16.
    """

    _NARROW = 32

    def __init__(self, conv: nn.Conv1d, norm: nn.BatchNorm1d | None):
        self.conv = conv
        self.norm = norm

    @staticmethod
    def applies(conv: nn.Module, norm: nn.Module | None, hidden_states: torch.Tensor) -> bool:
        """Return whether both can be merged: only in inference, with modules that nothing wraps or observes."""
        return _can_fold(hidden_states, conv, *([] if norm is None else [norm]))

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, frames)` → the same shape."""
        conv = self.conv
        weight, bias = conv.weight, conv.bias
        if self.norm is not None:
            weight, bias = fold_batch_norm(conv, self.norm, hidden_states.dtype)
        is_narrow = conv.groups <= self._NARROW and hidden_states.dtype == torch.bfloat16
        if hidden_states.device.type != "cpu" or is_narrow:
            return nn.functional.conv1d(hidden_states, weight, bias, padding=conv.padding, groups=conv.groups)
        weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        padding = (0, int(conv.padding[0]))
        return nn.functional.conv2d(hidden_states.unsqueeze(2), weight, bias, 1, padding, 1, conv.groups).squeeze(2)


class _FoldedBlock:
    """A [`MusicFMSubsamplingBlock`] in eval mode, with batch norm folded in, that computes any range of frames."""

    def __init__(self, block: Any, dtype: torch.dtype, is_int8: bool):
        self.stride = block.time_stride
        first_weight, first_bias = fold_batch_norm(block.conv1, block.norm1, dtype)
        weight, bias = fold_batch_norm(block.conv2, block.norm2, dtype)
        shortcut_weight, shortcut_bias = fold_batch_norm(block.shortcut_conv, block.shortcut_norm, dtype)
        # The first convolution and the shortcut have the same input: one convolution with the outputs of both.
        self.channels = len(first_bias)
        self.strided = torch.cat([first_weight, shortcut_weight])
        self.strided_bias = torch.cat([first_bias, shortcut_bias + bias])
        self.int8_strided = self.int8_conv2 = self.transformed = None
        if is_int8 and Int8Convolution.applies(self.strided):
            self.int8_strided = Int8Convolution(self.strided, self.strided_bias, (self.stride, 2))
        elif self.stride == 2:
            self.transformed = transform_strided_filters(self.strided)
        if is_int8 and Int8Convolution.applies(weight):
            self.int8_conv2 = Int8Convolution(weight, torch.zeros_like(bias), (1, 1))
        else:
            self.conv2 = (weight, transform_filters(weight))

    def input_range(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of input frames for outputs `start` to `stop`. It may reach beyond both ends."""
        return self.stride * (start - 1) - 1, self.stride * stop + 2

    def __call__(self, frames: torch.Tensor, start: int, stop: int, counts: int | torch.Tensor) -> torch.Tensor:
        """
        Input frames `(batch, time, bands, channels)` of `input_range(start, stop)`, zero beyond the ends → outputs
        `start` to `stop`. `counts` is the number of output frames: one for all items, or one for each.
        """
        strided = self._strided(frames)
        hidden, shortcut = strided[..., : self.channels], strided[:, 1:-1, :, self.channels :]
        if self.int8_conv2 is not None:
            output = self.int8_conv2(_zero_outside(hidden.clamp_(min=0), start - 1, counts))
        else:
            padded = hidden.new_zeros(hidden.shape[0], hidden.shape[1], hidden.shape[2] + 2, hidden.shape[3])
            torch.clamp(hidden, min=0, out=padded[:, :, 1:-1])
            output = conv3x3(_zero_outside(padded, start - 1, counts), *self.conv2)
        output += shortcut
        return _zero_outside(output.clamp_(min=0), start, counts)

    def _strided(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute the first convolution and the shortcut, padded in frequency only."""
        weight, bias = self.strided, self.strided_bias
        if self.int8_strided is not None:
            return self.int8_strided(frames)
        if self.transformed is not None:
            return strided_conv3x3(frames, self.transformed).add_(bias)
        if frames.shape[-1] > 1:
            stride, padding = (self.stride, 2), (0, 1)
            output = nn.functional.conv2d(frames.permute(0, 3, 1, 2), weight, bias, stride, padding)
            return output.permute(0, 2, 3, 1)
        # With one channel, it is faster to gather nine neighbors of each output for one matrix product.
        patches = nn.functional.pad(frames[..., 0], (1, 1)).unfold(1, 3, self.stride).unfold(2, 3, 2)
        return nn.functional.linear(patches.flatten(-2), weight.reshape(-1, 9), bias)


def _zero_outside(frames: torch.Tensor, start: int, counts: int | torch.Tensor) -> torch.Tensor:
    """Zero, in place, the frames before frame 0 and from frame `counts` on. Axis 1 begins at frame `start`."""
    if isinstance(counts, torch.Tensor):
        valid = valid_frames(start, start + frames.shape[1], counts)
        return frames.mul_(valid[:, :, None, None])
    frames[:, : max(-start, 0)] = 0
    frames[:, max(counts - start, 0) :] = 0
    return frames


def _is_observed(module: nn.Module) -> bool:
    """Return whether hooks or accelerate's offloading need this module to be called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"))


def _can_fold(hidden_states: torch.Tensor, *modules: nn.Module, has_gradients: bool = True) -> bool:
    """
    Return whether these convolutions and batch norms can be merged: only in inference, and only if none is wrapped
    (LoRA, quantization, synchronized batch norm), offloaded, or observed by hooks. `has_gradients` is false for models
    that cannot be trained.
    """
    if has_gradients and torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if hidden_states.is_meta or torch.is_autocast_enabled(hidden_states.device.type):
        return False
    return all(
        type(module) in (nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
        and not module.training
        and not _is_observed(module)
        and module.weight.device == hidden_states.device
        for module in modules
    )


def fold_batch_norm(
    conv: nn.Conv1d | nn.Conv2d, norm: nn.BatchNorm1d | nn.BatchNorm2d, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and bias, in `dtype`, of a convolution that equals `conv` followed by `norm` in eval mode."""
    mean, variance = running_statistics(norm)
    scale = norm.weight.float() * torch.rsqrt(variance.float() + norm.eps)
    bias = -mean.float() if conv.bias is None else conv.bias.float() - mean.float()
    weight = conv.weight.float() * scale.view(-1, *[1] * (conv.weight.ndim - 1))
    bias = bias * scale + norm.bias.float()
    if weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight.to(dtype), bias.to(dtype)


def conv3x3(frames: torch.Tensor, weight: torch.Tensor, transformed: torch.Tensor | None) -> torch.Tensor:
    """
    Compute a 3×3 convolution with stride 1 and without padding or bias.

    Args:
        frames (`torch.Tensor`): `(batch, rows + 2, columns + 2, channels)`.
        weight (`torch.Tensor`): `(outputs, channels, 3, 3)`.
        transformed (`torch.Tensor`, *optional*): `weight` as [`transform_filters`] returns it, for Winograd's
            algorithm; without it, `torch.nn.functional.conv2d` is used. Both agree within float32 rounding.

    Returns:
        `(batch, rows, columns, outputs)`.
    """
    if transformed is None:
        return nn.functional.conv2d(frames.permute(0, 3, 1, 2), weight).permute(0, 2, 3, 1)
    batch, rows, columns, outputs = frames.shape[0], frames.shape[1] - 2, frames.shape[2] - 2, weight.shape[0]
    output = frames.new_empty(batch, rows, columns, outputs)
    for item in range(batch):
        for start in range(0, rows, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, rows)
            output[item, start:stop] = _winograd(frames[item, start : stop + 2], transformed)
    return output


def transform_filters(weight: torch.Tensor) -> torch.Tensor | None:
    """
    Transform filters `(outputs, channels, 3, 3)` to `(36, outputs, channels)` for [`conv3x3`]. Return `None` if the
    direct convolution is faster or more accurate: on an accelerator, in half precision, or with few channels.
    """
    outputs, channels = weight.shape[:2]
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or min(outputs, channels) < 64:
        return None
    transform = torch.tensor(_FILTER_TRANSFORM, dtype=torch.float64)
    both_axes = torch.kron(transform, transform).to(weight.dtype)  # (36, 9)
    return (both_axes @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(36, outputs, channels)


def _winograd(frames: torch.Tensor, transformed: torch.Tensor) -> torch.Tensor:
    """Compute a Winograd convolution: `(rows + 2, columns + 2, channels)` → `(rows, columns, outputs)`."""
    rows, columns, channels = frames.shape[0] - 2, frames.shape[1] - 2, frames.shape[2]
    tall, wide = -(-rows // 4), -(-columns // 4)
    if (tall * 4, wide * 4) != (rows, columns):
        frames = nn.functional.pad(frames, (0, 0, 0, wide * 4 - columns, 0, tall * 4 - rows))
    by_row = frames.new_empty(6, tall, wide * 4 + 2, channels)
    _transform_input([frames[i : i + 4 * tall - 3 : 4] for i in range(6)], by_row)
    patches = frames.new_empty(6, 6, tall, wide, channels)
    _transform_input([by_row[:, :, j : j + 4 * wide - 3 : 4] for j in range(6)], patches.unbind(1))

    products = torch.bmm(patches.view(36, tall * wide, channels), transformed.transpose(1, 2))
    products = products.view(6, 6, tall, wide, -1)

    by_row = frames.new_empty(4, *products.shape[1:])
    _transform_output(products, by_row)
    output = frames.new_empty(tall, 4, wide, 4, products.shape[-1])
    _transform_output(by_row.unbind(1), output.permute(3, 1, 0, 2, 4))
    return output.view(tall * 4, wide * 4, -1)[:rows, :columns]


def _transform_input(data: Sequence[torch.Tensor], out: torch.Tensor | Sequence[torch.Tensor]) -> None:
    """Transform six rows of each patch to the six values that are multiplied (the matrix Bᵀ of the paper)."""
    even, odd = torch.sub(data[4], data[2], alpha=4), torch.sub(data[3], data[1], alpha=4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(data[4], data[2], out=even)
    torch.sub(data[3], data[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.sub(data[4], data[2], alpha=5, out=out[0])
    out[0].add_(data[0], alpha=4)
    torch.sub(data[5], data[3], alpha=5, out=out[5])
    out[5].add_(data[1], alpha=4)


def _transform_output(products: torch.Tensor | Sequence[torch.Tensor], out: torch.Tensor) -> None:
    """Transform six products to four outputs (the matrix Aᵀ of the paper)."""
    sum_1, difference_1 = products[1] + products[2], products[1] - products[2]
    sum_2, difference_2 = products[3] + products[4], products[3] - products[4]
    torch.add(products[0], sum_1, out=out[0])
    out[0].add_(sum_2)
    torch.add(difference_1, difference_2, alpha=2, out=out[1])
    torch.add(sum_1, sum_2, alpha=4, out=out[2])
    torch.add(difference_1, difference_2, alpha=8, out=out[3])
    out[3].add_(products[5])


def transform_strided_filters(weight: torch.Tensor) -> torch.Tensor | None:
    """
    Transform filters `(outputs, channels, 3, 3)` for [`strided_conv3x3`]: `(6, 6, channels, outputs)`. Along each
    axis, the outer two taps become five values, and the middle one stays. Return `None` where [`transform_filters`]
    does.
    """
    outputs, channels = weight.shape[:2]
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or min(outputs, channels) < 64:
        return None
    axis = torch.zeros(6, 3, dtype=torch.float64)
    axis[:5, ::2] = torch.tensor(_TAPS_TRANSFORM, dtype=torch.float64)
    axis[5, 1] = 1
    both_axes = torch.kron(axis, axis).to(weight.dtype)  # (36, 9)
    return (both_axes @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(6, 6, channels, outputs)


def strided_conv3x3(frames: torch.Tensor, transformed: torch.Tensor) -> torch.Tensor:
    """
    Compute a 3×3 convolution with stride 2, without padding of rows, and with a padding of 1 on both sides of the
    columns. It has 81/16 instead of 9 multiplications for each output and channel, and agrees with
    `torch.nn.functional.conv2d` within float32 rounding.

    Along an axis, an output is a sum over two neighbors among the odd inputs, counted from -1, and one even input. The
    former is a convolution with two taps and stride 1, to which Winograd's algorithm applies.

    Args:
        frames (`torch.Tensor`): `(batch, 2 * rows + 1, columns, channels)`.
        transformed (`torch.Tensor`): Output of [`transform_strided_filters`].

    Returns:
        `(batch, rows, (columns + 1) // 2, outputs)`.
    """
    batch, rows, columns = frames.shape[0], (frames.shape[1] - 1) // 2, (frames.shape[2] + 1) // 2
    tall, wide = -(-rows // 4), -(-columns // 4)
    output = frames.new_empty(batch, rows, columns, transformed.shape[-1])
    padding = (0, 0, 1, 8 * wide - frames.shape[2], 0, 8 * tall + 1 - frames.shape[1])
    for item in range(batch):
        padded = nn.functional.pad(frames[item], padding)
        odd = frames.new_empty(5, tall, 8 * wide + 1, frames.shape[-1])
        _transform_taps_input([padded[2 * i : 2 * i + 8 * tall - 7 : 8] for i in range(5)], odd.unbind())
        odd = _strided_columns(odd, transformed[:5])
        result = _strided_columns(padded[None, 1::2], transformed[5:])[0]
        _add_taps_output(odd.unbind(), result.unflatten(0, (tall, 4)).unbind(1))
        output[item] = result[:rows, :columns]
    return output


def _strided_columns(frames: torch.Tensor, transformed: torch.Tensor) -> torch.Tensor:
    """
    Compute the convolution along the columns: `(values, rows, 2 * columns + 1, channels)` and filters `(values, 6,
    channels, outputs)` → `(values, rows, columns, outputs)`.
    """
    values, rows, wide, channels = frames.shape[0], frames.shape[1], frames.shape[2] // 8, frames.shape[3]
    odd = frames.new_empty(values, 5, rows, wide, channels)
    _transform_taps_input([frames[:, :, 2 * j : 2 * j + 8 * wide - 7 : 8] for j in range(5)], odd.unbind(1))
    products = frames.new_empty(values, 5, rows * wide, transformed.shape[-1])
    for place in range(values):
        torch.bmm(odd[place].view(5, rows * wide, channels), transformed[place, :5], out=products[place])
    even = frames[:, :, 1::2].reshape(values, rows * wide * 4, channels)
    output = torch.bmm(even, transformed[:, 5]).view(values, rows, wide, 4, -1)
    _add_taps_output(products.view(values, 5, rows, wide, -1).unbind(1), output.unbind(3))
    return output.flatten(2, 3)


def _transform_taps_input(data: Sequence[torch.Tensor], out: Sequence[torch.Tensor]) -> None:
    """Transform five inputs of a filter with two taps to the five values that are multiplied."""
    torch.sub(data[3], data[1], out=out[3])
    torch.sub(out[3], data[1], out=out[1])
    out[1].sub_(data[2])
    torch.sub(data[1], data[2], out=out[2])
    torch.add(out[3], out[2], alpha=3, out=out[2])
    torch.sub(data[0], data[2], out=out[0])
    torch.add(out[3], out[0], alpha=2, out=out[0])
    torch.sub(data[4], data[2], out=out[4])
    out[4].sub_(out[3], alpha=2)


def _add_taps_output(products: Sequence[torch.Tensor], out: Sequence[torch.Tensor]) -> None:
    """Transform five products to four outputs of a filter with two taps, and add them to `out`."""
    sum_1, difference_1 = products[1] + products[2], products[1] - products[2]
    out[0].add_(products[0]).add_(sum_1).add_(products[3])
    out[1].add_(difference_1).add_(products[3], alpha=2)
    out[2].add_(sum_1).add_(products[3], alpha=4)
    out[3].add_(difference_1).add_(products[3], alpha=8).add_(products[4])


__all__ = [
    "FastDepthwiseConvolution",
    "FastSubsampling",
    "conv3x3",
    "fold_batch_norm",
    "strided_conv3x3",
    "transform_filters",
    "transform_strided_filters",
]
