"""Front ends: modules that turn a log-mel spectrogram or a waveform into the frames of the encoder."""

from typing import cast

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_musicfm import MusicFMConfig
from .fast_inference_musicfm import FastSubsampling
from .normalization_musicfm import batch_norm, group_norm
from .padding_musicfm import valid_frames, zero_padding


class MusicFMSubsamplingBlock(GradientCheckpointingLayer):
    """
    Residual block of two 3×3 convolutions, with a strided convolution as the shortcut. It halves the number of bands
    and divides the number of frames by `time_stride`.
    """

    def __init__(self, in_channels: int, out_channels: int, time_stride: int):
        super().__init__()
        self.time_stride = time_stride
        stride = (time_stride, 2)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut_conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.shortcut_norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """
        `(batch, channels, frames, bands)` → `(batch, channels, output frames, bands / 2)`. `counts` `(batch,)` is the
        number of output frames of each item that are not padding.
        """
        residual = self.shortcut_conv(hidden_states)
        mask = None if counts is None else valid_frames(0, residual.shape[2], counts)[:, None, :, None]
        residual = batch_norm(self.shortcut_norm, residual, mask)
        # In place: the backward passes of batch norm and ReLU do not need what is overwritten.
        hidden_states = batch_norm(self.norm1, self.conv1(hidden_states), mask).relu_()
        hidden_states = batch_norm(self.norm2, self.conv2(zero_padding(hidden_states, mask)), mask)
        return zero_padding(hidden_states.add_(residual).relu_(), mask)


class MusicFMSubsampling(nn.Module):
    """The `"mel"` front end: two residual convolution blocks and a projection."""

    def __init__(self, config: MusicFMConfig):
        super().__init__()
        self.config = config
        channels, strides = config.subsampling_conv_channels, config.subsampling_time_strides
        self.blocks = nn.ModuleList(
            MusicFMSubsamplingBlock(in_channels, channels, stride)
            for in_channels, stride in zip((1, channels), strides, strict=True)
        )
        bands = -(-config.num_mel_bins // 4)
        self.projection = nn.Linear(channels * bands, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, mel: torch.Tensor, counts: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
        """
        Log-mel `(batch, mel frames, bands)` → `(batch, frames, hidden_size)`. `counts` holds `config.frame_counts` of
        each item, or is `None` without padding.
        """
        if FastSubsampling.applies(self, mel):
            return self.dropout(FastSubsampling(self)(mel, counts))
        # (batch, 1, mel frames, bands) with channels last in memory, which the convolutions keep without copies.
        first = cast(MusicFMSubsamplingBlock, self.blocks[0])
        hidden_states = mel[..., None].permute(0, 3, 1, 2).to(first.conv1.weight.dtype)
        if first.gradient_checkpointing and first.conv1.weight.requires_grad:
            hidden_states.requires_grad_()  # otherwise, reentrant checkpointing gives these blocks no gradients
        for index, block in enumerate(self.blocks, start=1):
            hidden_states = block(hidden_states, None if counts is None else counts[index])
        return self.dropout(self.projection(hidden_states.transpose(1, 2).flatten(2)))


class MusicFMWaveformSubsampling(nn.Module):
    """
    The `"waveform"` front end: HuBERT's convolutions over samples, the first followed by a group norm with one group
    for each channel, then a layer norm and a projection.

    In a padded batch, the group norm computes its statistics from each item's own frames, so padding has no effect.
    HuBERT and MERT include the padding.
    """

    def __init__(self, config: MusicFMConfig):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(in_channels, out_channels, kernel, stride, bias=False)
            for in_channels, out_channels, kernel, stride in zip(
                (1, *config.conv_dim), config.conv_dim, config.conv_kernel, config.conv_stride, strict=False
            )
        )
        self.group_norm = nn.GroupNorm(config.conv_dim[0], config.conv_dim[0])
        self.activation = ACT2FN[config.feat_extract_activation]
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, waveform: torch.Tensor, counts: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
        """
        Waveform `(batch, samples)` → `(batch, frames, hidden_size)`. `counts` is as in [`MusicFMSubsampling`].
        """
        hidden_states = waveform[:, None].to(cast(nn.Conv1d, self.convs[0]).weight.dtype)
        for index, conv in enumerate(self.convs):
            hidden_states = conv(hidden_states)  # (batch, channels, frames)
            if index == 0:
                hidden_states = group_norm(self.group_norm, hidden_states, None if counts is None else counts[0])
            hidden_states = self.activation(hidden_states)
        return self.dropout(self.projection(self.layer_norm(hidden_states.transpose(1, 2))))


class MusicFMGlobalResponseNorm(nn.Module):
    """
    Global response norm of ConvNeXt V2 (Woo et al. 2023, arXiv 2301.00808) over time: a channel is scaled by its L2
    norm over the frames of an item, relative to the mean of these norms over channels. Padding is left out, so frames
    depend on the whole item, but not on the batch.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, hidden_states: torch.Tensor, frames_mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, frames, channels)` → the same shape; `frames_mask` `(batch, frames)` is false for padding."""
        values = hidden_states.float()  # sums of squares over minutes overflow in float16
        if frames_mask is not None:
            values = values * frames_mask[..., None]
        norms = values.square().sum(1, keepdim=True).sqrt()  # (batch, 1, channels)
        response = (norms / (norms.mean(-1, keepdim=True) + 1e-6)).to(hidden_states.dtype)
        return self.weight * (hidden_states * response) + self.bias + hidden_states


class MusicFMConvNextLayer(GradientCheckpointingLayer):
    """ConvNeXt V2 layer over time: depthwise convolution, and a feed-forward module with a global response norm."""

    def __init__(self, config: MusicFMConfig, channels: int):
        super().__init__()
        self.depthwise_conv = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.layer_norm = nn.LayerNorm(channels, eps=config.convnext_layer_norm_eps)
        self.pointwise_conv1 = nn.Linear(channels, 4 * channels)
        self.activation = ACT2FN["gelu"]
        self.response_norm = MusicFMGlobalResponseNorm(4 * channels)
        self.pointwise_conv2 = nn.Linear(4 * channels, channels)

    def forward(self, hidden_states: torch.Tensor, frames_mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, frames, channels)` → the same shape; padding has to be 0, and stays 0."""
        residual = hidden_states
        hidden_states = self.depthwise_conv(hidden_states.transpose(1, 2)).transpose(1, 2)
        hidden_states = self.activation(self.pointwise_conv1(self.layer_norm(hidden_states)))
        hidden_states = residual + self.pointwise_conv2(self.response_norm(hidden_states, frames_mask))
        return hidden_states if frames_mask is None else hidden_states * frames_mask[..., None]


class MusicFMConvNextStage(nn.Module):
    """Layers of one width, after a layer norm and a strided convolution if the width or the frame rate changes."""

    def __init__(self, config: MusicFMConfig, in_channels: int, channels: int, depth: int, stride: int):
        super().__init__()
        self.norm = self.conv = None
        if in_channels != channels or stride != 1:
            self.norm = nn.LayerNorm(in_channels, eps=config.convnext_layer_norm_eps)
            self.conv = nn.Conv1d(in_channels, channels, 2, stride)
        self.layers = nn.ModuleList(MusicFMConvNextLayer(config, channels) for _ in range(depth))

    def forward(self, hidden_states: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """
        `(batch, frames, in_channels)` → `(batch, output frames, channels)`. `counts` `(batch,)` is the number of
        output frames of each item that are not padding.
        """
        if self.norm is not None and self.conv is not None:
            hidden_states = self.conv(self.norm(hidden_states).transpose(1, 2)).transpose(1, 2)
        mask = None if counts is None else valid_frames(0, hidden_states.shape[1], counts)
        if mask is not None:
            hidden_states = hidden_states * mask[..., None]
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return hidden_states


class MusicFMConvNextSubsampling(nn.Module):
    """The `"convnext"` front end of MERT-v2: ConvNeXt V2 over time, with the mel bands as channels."""

    def __init__(self, config: MusicFMConfig):
        super().__init__()
        widths = (config.num_mel_bins, *config.convnext_channels)
        self.stages = nn.ModuleList(
            MusicFMConvNextStage(config, in_channels, channels, depth, stride)
            for in_channels, channels, depth, stride in zip(
                widths, config.convnext_channels, config.convnext_depths, config.subsampling_time_strides, strict=False
            )
        )
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, mel: torch.Tensor, counts: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
        """
        Log-mel `(batch, mel frames, bands)` → `(batch, frames, hidden_size)`. `counts` is as in
        [`MusicFMSubsampling`].
        """
        first = cast(MusicFMConvNextLayer, cast(MusicFMConvNextStage, self.stages[0]).layers[0])
        weight = first.depthwise_conv.weight
        hidden_states = mel.to(weight.dtype)
        if first.gradient_checkpointing and weight.requires_grad:
            hidden_states.requires_grad_()  # as in `MusicFMSubsampling`
        for index, stage in enumerate(self.stages, start=1):
            hidden_states = stage(hidden_states, None if counts is None else counts[index])
        return self.dropout(hidden_states)


# `config.front_end` → class.
FRONT_ENDS = {
    "mel": MusicFMSubsampling,
    "convnext": MusicFMConvNextSubsampling,
    "waveform": MusicFMWaveformSubsampling,
}

__all__ = [
    "FRONT_ENDS",
    "MusicFMConvNextSubsampling",
    "MusicFMGlobalResponseNorm",
    "MusicFMSubsampling",
    "MusicFMWaveformSubsampling",
]
