"""Convolutions for inference: batch norm folded into them; and 3×3 with a quarter of the multiplications."""

import torch
from torch import nn

# Winograd's minimal filtering F(4×4, 3×3) as given by Lavin and Gray (2016, arXiv 1509.09308): every 4×4 outputs are
# made from a 6×6 patch with 36 multiplications per channel pair instead of 144.
_FILTER_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_ROWS_AT_ONCE = 48  # transformed patches of so many rows stay in the last-level cache


def conv3x3(frames: torch.Tensor, weight: torch.Tensor, transformed: torch.Tensor | None) -> torch.Tensor:
    """
    A 3×3 convolution with stride 1 and without padding or bias.

    Args:
        frames (`torch.Tensor`): `(batch, rows + 2, columns + 2, channels)`.
        weight (`torch.Tensor`): `(outputs, channels, 3, 3)`.
        transformed (`torch.Tensor`, *optional*): What [`transform_filters`] made of `weight`; with it, Winograd's
            algorithm is used, without it, `torch.nn.functional.conv2d`. They agree within float32 rounding.

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
    Filters `(outputs, channels, 3, 3)` → `(36, outputs, channels)` for [`conv3x3`], or `None` where the direct
    convolution is the better choice: off the processor, in half precision, or with few channels.
    """
    outputs, channels = weight.shape[:2]
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or min(outputs, channels) < 64:
        return None
    transform = torch.tensor(_FILTER_TRANSFORM, dtype=torch.float64)
    both_axes = torch.kron(transform, transform).to(weight.dtype)  # (36, 9)
    return (both_axes @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(36, outputs, channels)


def _winograd(frames: torch.Tensor, transformed: torch.Tensor) -> torch.Tensor:
    """`(rows + 2, columns + 2, channels)` → `(rows, columns, outputs)`."""
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


def _transform_input(data, out) -> None:
    """Six rows of each patch → the six values that are multiplied (the matrix Bᵀ of the paper)."""
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


def _transform_output(products, out) -> None:
    """Six products → four outputs (the matrix Aᵀ of the paper)."""
    sum_1, difference_1 = products[1] + products[2], products[1] - products[2]
    sum_2, difference_2 = products[3] + products[4], products[3] - products[4]
    torch.add(products[0], sum_1, out=out[0])
    out[0].add_(sum_2)
    torch.add(difference_1, difference_2, alpha=2, out=out[1])
    torch.add(sum_1, sum_2, alpha=4, out=out[2])
    torch.add(difference_1, difference_2, alpha=8, out=out[3])
    out[3].add_(products[5])


def fold_batch_norm(conv: nn.Module, norm: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias, in `dtype`, of the convolution that does the work of `conv` and, in eval mode, `norm`."""
    scale = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
    bias = -norm.running_mean.float() if conv.bias is None else conv.bias.float() - norm.running_mean.float()
    weight = conv.weight.float() * scale.view(-1, *[1] * (conv.weight.ndim - 1))
    bias = bias * scale + norm.bias.float()
    if weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight.to(dtype), bias.to(dtype)
