"""The MusicFM encoder (Won, Hung, Le 2023) and its masked pretraining: waveform → frames → encoder → tokens."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.dynamic_module_utils import custom_object_save
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_musicfm import MusicFMConfig
from .convolution_musicfm import conv3x3, fold_batch_norm, transform_filters
from .features_musicfm import MusicFMLogMel, align_left, constant_q, item_lengths, normalize, valid_frames
from .masking_musicfm import fit_length, replace_by_noise, sample_mask, target_frames
from .quantization_musicfm import MusicFMQuantizer, build_quantizer

if TYPE_CHECKING:  # so that whoever copies this file copies the heads, which every `auto_map` names
    from .classification_musicfm import MusicFMForAudioClassification  # noqa: F401

# Tokens whose convolutions are computed together in inference: 5 s stay near the cache of a processor; on an
# accelerator a minute keeps it busy and bounds the memory.
_TILE_FRAMES_PROCESSOR = 125
_TILE_FRAMES_ACCELERATOR = 1500


class MusicFMSubsamplingBlock(GradientCheckpointingLayer):
    """Two 3×3 convolutions beside a strided one. Halves the frequency axis, and the time axis by `time_stride`."""

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
        """`(batch, channels, time, bands)`; `counts` `(batch,)`: output frames of each item that are not padding."""
        residual = self.shortcut_conv(hidden_states)
        mask = None if counts is None else valid_frames(0, residual.shape[2], counts)[:, None, :, None]
        residual = _batch_norm(self.shortcut_norm, residual, mask)
        hidden_states = _mask(nn.functional.relu(_batch_norm(self.norm1, self.conv1(hidden_states), mask)), mask)
        hidden_states = _batch_norm(self.norm2, self.conv2(hidden_states), mask)
        return _mask(nn.functional.relu(hidden_states + residual), mask)


class _FusedSubsamplingBlock:
    """A [`MusicFMSubsamplingBlock`] in eval mode, batch norm folded into the filters, for any range of frames."""

    def __init__(self, block: MusicFMSubsamplingBlock, dtype: torch.dtype):
        self.stride = block.time_stride
        self.conv1 = fold_batch_norm(block.conv1, block.norm1, dtype)
        weight, bias = fold_batch_norm(block.conv2, block.norm2, dtype)
        self.conv2 = (weight, transform_filters(weight))
        shortcut_weight, shortcut_bias = fold_batch_norm(block.shortcut_conv, block.shortcut_norm, dtype)
        self.shortcut = (shortcut_weight, shortcut_bias + bias)

    def input_range(self, start: int, stop: int) -> tuple[int, int]:
        """The input frames that outputs `start` to `stop` are made from; may reach beyond both ends."""
        return self.stride * (start - 1) - 1, self.stride * stop + 2

    def __call__(self, frames: torch.Tensor, start: int, stop: int, counts: int | torch.Tensor) -> torch.Tensor:
        """
        Input frames `(batch, time, bands, channels)` of `input_range(start, stop)`, zero where there are none →
        outputs `start` to `stop`; `counts` is the number of output frames, of all items or of each.
        """
        hidden = self._strided(frames, *self.conv1)
        padded = hidden.new_zeros(hidden.shape[0], hidden.shape[1], hidden.shape[2] + 2, hidden.shape[3])
        torch.clamp(hidden, min=0, out=padded[:, :, 1:-1])
        _zero_outside(padded, start - 1, counts)
        output = conv3x3(padded, *self.conv2)
        output += self._strided(frames[:, self.stride : frames.shape[1] - self.stride], *self.shortcut)
        return _zero_outside(output.clamp_(min=0), start, counts)

    def _strided(self, frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """3×3 convolution, padded in frequency only."""
        if frames.shape[-1] > 1:
            stride, padding = (self.stride, 2), (0, 1)
            output = nn.functional.conv2d(frames.permute(0, 3, 1, 2), weight, bias, stride, padding)
            return output.permute(0, 2, 3, 1)
        # One channel: nine neighbours of each output and one matrix product.
        patches = nn.functional.pad(frames[..., 0], (1, 1)).unfold(1, 3, self.stride).unfold(2, 3, 2)
        return nn.functional.linear(patches.flatten(-2), weight.reshape(-1, 9), bias)


class MusicFMSubsampling(nn.Module):
    """The `"mel"` front end: log-mel `(batch, mel frames, bands)` → `(batch, frames, hidden_size)`."""

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
        """`counts`: of each item, what `config.frame_counts` says, or `None` if nothing is padding."""
        watched = any(_is_watched(module) for module in (self.projection, *self.blocks))
        if not watched and _fusable(mel, *(module for block in self.blocks for module in block.children())):
            return self.dropout(self._forward_fused(mel, counts))
        # (batch, 1, mel frames, bands), channels last: convolutions keep it so, and need no copies in between.
        hidden_states = mel[..., None].permute(0, 3, 1, 2).to(self.blocks[0].conv1.weight.dtype)
        if self.blocks[0].gradient_checkpointing and self.blocks[0].conv1.weight.requires_grad:
            hidden_states.requires_grad_()  # without it, reentrant checkpointing would give these blocks no gradients
        for index, block in enumerate(self.blocks, start=1):
            hidden_states = block(hidden_states, None if counts is None else counts[index])
        return self.dropout(self.projection(hidden_states.transpose(1, 2).flatten(2)))

    def _forward_fused(self, mel: torch.Tensor, counts: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
        """
        The same in tiles of time. On a processor, item by item, nothing for the padding, and the convolutions in
        float32: where bfloat16 has no instructions of its own, it is many times slower.
        """
        on_processor = mel.device.type == "cpu"
        dtype = self.blocks[0].conv1.weight.dtype
        blocks = [_FusedSubsamplingBlock(block, torch.float32 if on_processor else dtype) for block in self.blocks]
        whole = self.config.frame_counts(mel.shape[1] * self.config.hop_length)
        output = mel.new_zeros(mel.shape[0], whole[-1], self.projection.out_features, dtype=dtype)
        if not on_processor:
            tile = max(1, _TILE_FRAMES_ACCELERATOR // mel.shape[0])
            self._fill(output, mel.to(dtype), blocks, whole if counts is None else counts, tile)
            return output
        for item in range(mel.shape[0]):
            own = whole if counts is None else tuple(int(count[item]) for count in counts)
            row = slice(item, item + 1)
            self._fill(output[row, : own[-1]], mel[row, : own[0]], blocks, own, _TILE_FRAMES_PROCESSOR)
        return output

    def _fill(self, output, mel, blocks, counts, tile: int) -> None:
        """Write the projected frames of `mel` into `output`, `tile` of them at a time."""
        for start in range(0, output.shape[1], tile):
            stop = min(start + tile, output.shape[1])
            middle = blocks[1].input_range(start, stop)
            first, last = blocks[0].input_range(*middle)
            frames = mel[:, max(first, 0) : max(last, 0)]
            beyond = (max(-first, 0), last - max(first, 0) - frames.shape[1])
            frames = nn.functional.pad(frames, (0, 0, *beyond))[..., None]  # (batch, time, bands, 1)
            frames = blocks[0](frames, *middle, counts[1])
            frames = blocks[1](frames, start, stop, counts[2])
            frames = frames.transpose(2, 3).flatten(2)  # channel-major, as published
            output[:, start:stop] = self.projection(frames.to(output.dtype))


class MusicFMWaveformSubsampling(nn.Module):
    """
    The `"waveform"` front end: HuBERT's convolutions over samples, group norm with a group for each channel after the
    first, layer norm and projection.

    In a padded batch, the group norm takes its statistics from each item's own frames, so that padding changes
    nothing; HuBERT and MERT take them from the padding too.
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
        """`(batch, samples)` → `(batch, frames, hidden_size)`; `counts` is what `config.frame_counts` says."""
        hidden_states = waveform[:, None].to(self.convs[0].weight.dtype)
        for index, conv in enumerate(self.convs):
            hidden_states = conv(hidden_states)  # (batch, channels, frames)
            if index == 0:
                hidden_states = self._group_norm(hidden_states, None if counts is None else counts[0])
            hidden_states = self.activation(hidden_states)
        return self.dropout(self.projection(self.layer_norm(hidden_states.transpose(1, 2))))

    def _group_norm(self, hidden_states: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        if counts is None:
            return self.group_norm(hidden_states)
        mask = valid_frames(0, hidden_states.shape[-1], counts)[:, None]
        values = hidden_states.float()
        mean = (values * mask).sum(-1, keepdim=True) / counts[:, None, None]
        variance = ((values - mean).square() * mask).sum(-1, keepdim=True) / counts[:, None, None]
        normalized = (values - mean) * torch.rsqrt(variance + self.group_norm.eps)
        scale, shift = self.group_norm.weight.float()[:, None], self.group_norm.bias.float()[:, None]
        return (normalized * scale + shift).to(hidden_states.dtype)


class MusicFMEncoderInput(nn.Module):
    """
    The input of the first layer, which is hidden state 0: masked frames replaced by a learned vector where
    `config.mask_type` says so, and for `"bert"` positions from a convolution over time.
    """

    def __init__(self, config: MusicFMConfig):
        super().__init__()
        self.pos_conv = None
        self.layer_norm = None
        if config.mask_type == "embedding":
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size).uniform_())
        if config.encoder_type == "bert":
            width, kernel = config.hidden_size, config.num_conv_pos_embeddings
            groups = config.num_conv_pos_embedding_groups
            self.pos_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
            self.activation = ACT2FN[config.feat_extract_activation]
            if not config.do_stable_layer_norm:
                self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
            self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        frames_mask: torch.Tensor | None,
        mask_time_indices: torch.Tensor | None,
    ) -> torch.Tensor:
        """`(batch, frames, hidden_size)` → the same shape; both masks are `(batch, frames)`."""
        if mask_time_indices is not None:
            masked = self.masked_spec_embed.to(hidden_states.dtype)
            hidden_states = torch.where(mask_time_indices[..., None], masked, hidden_states)
        if self.pos_conv is None:
            return hidden_states
        if frames_mask is not None:
            hidden_states = hidden_states * frames_mask[..., None]
        positions = self.pos_conv(hidden_states.transpose(1, 2))[..., : hidden_states.shape[1]].transpose(1, 2)
        hidden_states = hidden_states + self.activation(positions)
        if self.layer_norm is not None:
            hidden_states = self.layer_norm(hidden_states)
        return self.dropout(hidden_states)


class MusicFMAttention(nn.Module):
    """
    Self-attention. With rotary positions, they turn the *input* of the query and key projections, as in the conformer
    of wav2vec 2.0 that MusicFM was trained with; values are projected from the unrotated input.
    """

    def __init__(self, config: MusicFMConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.num_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, frames, hidden_size)` → the same shape, and attention weights where the implementation has them."""
        heads_shape = (*hidden_states.shape[:-1], self.num_heads, self.head_dim)
        rotated = hidden_states
        if position_embeddings is not None:
            rotated = _rotate(hidden_states.view(heads_shape), *position_embeddings).flatten(2)
        query = self.q_proj(rotated).view(heads_shape).transpose(1, 2)  # (batch, heads, frames, head_dim)
        key = self.k_proj(rotated).view(heads_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads_shape).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.out_proj(output.reshape(hidden_states.shape)), weights


class MusicFMFeedForward(nn.Module):
    def __init__(self, config: MusicFMConfig):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.intermediate_dropout(self.activation(self.intermediate_dense(hidden_states)))
        return self.output_dropout(self.output_dense(hidden_states))


class MusicFMConvolutionModule(nn.Module):
    """Gated pointwise projection, depthwise convolution over time, batch norm, pointwise projection."""

    def __init__(self, config: MusicFMConfig):
        super().__init__()
        width, kernel = config.hidden_size, config.conv_depthwise_kernel_size
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pointwise_conv1 = nn.Linear(width, 2 * width, bias=False)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.batch_norm = nn.BatchNorm1d(width)
        self.activation = ACT2FN[config.hidden_act]
        self.pointwise_conv2 = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(config.conformer_conv_dropout)

    def forward(self, hidden_states: torch.Tensor, frames_mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, frames, hidden_size)`; `frames_mask` `(batch, frames)` is false for padding."""
        mask = None if frames_mask is None else frames_mask[:, None]
        hidden_states = nn.functional.glu(self.pointwise_conv1(self.layer_norm(hidden_states)), dim=-1)
        hidden_states = _mask(hidden_states.transpose(1, 2), mask)  # (batch, hidden_size, frames)
        conv = self.depthwise_conv
        if _fusable(hidden_states, conv, self.batch_norm):
            weight, bias = fold_batch_norm(conv, self.batch_norm, hidden_states.dtype)
            hidden_states = nn.functional.conv1d(hidden_states, weight, bias, padding=conv.padding, groups=conv.groups)
        else:
            hidden_states = _batch_norm(self.batch_norm, conv(hidden_states), mask)
        hidden_states = self.activation(hidden_states).transpose(1, 2)
        return self.dropout(self.pointwise_conv2(hidden_states))


class MusicFMConformerLayer(GradientCheckpointingLayer):
    """Half feed-forward, attention, convolution, half feed-forward, layer norm (Gulati et al. 2020)."""

    def __init__(self, config: MusicFMConfig, layer_idx: int):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.ffn1_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn1 = MusicFMFeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=eps)
        self.self_attn = MusicFMAttention(config, layer_idx)
        self.self_attn_dropout = nn.Dropout(config.hidden_dropout)
        self.conv_module = MusicFMConvolutionModule(config)
        self.ffn2_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn2 = MusicFMFeedForward(config)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        frames_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """`(batch, frames, hidden_size)` → the same shape."""
        hidden_states = hidden_states + 0.5 * self.ffn1(self.ffn1_layer_norm(hidden_states))
        normalized = self.self_attn_layer_norm(hidden_states)
        attended, _ = self.self_attn(normalized, position_embeddings, attention_mask, **kwargs)
        hidden_states = hidden_states + self.self_attn_dropout(attended)
        hidden_states = hidden_states + self.conv_module(hidden_states, frames_mask)
        hidden_states = hidden_states + 0.5 * self.ffn2(self.ffn2_layer_norm(hidden_states))
        return self.final_layer_norm(hidden_states)


class MusicFMBertLayer(GradientCheckpointingLayer):
    """Attention and feed-forward; layer norms after each, or before each with `config.do_stable_layer_norm`."""

    def __init__(self, config: MusicFMConfig, layer_idx: int):
        super().__init__()
        self.norm_first = config.do_stable_layer_norm
        self.self_attn = MusicFMAttention(config, layer_idx)
        self.self_attn_dropout = nn.Dropout(config.hidden_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn = MusicFMFeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: None,
        attention_mask: torch.Tensor | None = None,
        frames_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """`(batch, frames, hidden_size)` → the same shape."""
        normalized = self.self_attn_layer_norm(hidden_states) if self.norm_first else hidden_states
        attended, _ = self.self_attn(normalized, position_embeddings, attention_mask, **kwargs)
        hidden_states = hidden_states + self.self_attn_dropout(attended)
        if self.norm_first:
            return hidden_states + self.ffn(self.final_layer_norm(hidden_states))
        hidden_states = self.self_attn_layer_norm(hidden_states)
        return self.final_layer_norm(hidden_states + self.ffn(hidden_states))


class MusicFMPreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, shared by every MusicFM model."""

    config_class = MusicFMConfig
    config: MusicFMConfig
    base_model_prefix = "musicfm"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "MusicFMConformerLayer",
        "MusicFMBertLayer",
        "MusicFMSubsampling",
        "MusicFMWaveformSubsampling",
        "MusicFMEncoderInput",
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": [
            OutputRecorder(MusicFMEncoderInput, capture_initial_hidden_state=False),
            OutputRecorder(MusicFMConformerLayer, capture_initial_hidden_state=False),
            OutputRecorder(MusicFMBertLayer, capture_initial_hidden_state=False),
        ],
        "attentions": OutputRecorder(MusicFMAttention, index=1),
    }

    def save_pretrained(self, save_directory, *args, max_shard_size: int | str = "1GB", **kwargs):
        """As in [`PreTrainedModel`], in files of at most 1 GB: an upload that breaks off goes on with the next."""
        super().save_pretrained(save_directory, *args, max_shard_size=max_shard_size, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            init.kaiming_normal_(module.weight)
        elif isinstance(module, MusicFMEncoderInput):
            if hasattr(module, "masked_spec_embed"):
                init.uniform_(module.masked_spec_embed)
            if module.pos_conv is not None:
                kernel, channels = module.pos_conv.kernel_size[0], module.pos_conv.in_channels
                init.normal_(module.pos_conv.weight, 0.0, 2 * math.sqrt(1 / (kernel * channels)))
                init.zeros_(module.pos_conv.bias)
        elif isinstance(module, MusicFMQuantizer):
            module.reset_parameters()

    def frames_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        Which output frames come from audio: sample mask `(batch, samples)` → frame mask `(batch, frames)`, bool.
        The frames of an item come first, on whichever side its padding stands.
        """
        counts = self.config.frame_counts(attention_mask.bool().sum(-1))
        return valid_frames(0, self.output_frames(attention_mask.shape[-1]), counts[-1])

    def frame_times(self, num_frames: int) -> torch.Tensor:
        """The centres of the first `num_frames` output frames, in seconds from the start of the audio, float64."""
        frame = torch.arange(num_frames, dtype=torch.float64)
        return (frame + self.config.frame_offset) / self.config.frame_rate

    def output_frames(self, num_samples: int) -> int:
        """How many output frames so many samples give."""
        return self.config.frame_counts(num_samples)[-1]

    def _check_input(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, min_samples: int
    ) -> torch.Tensor | None:
        """The mask as bool, or `None` if it masks nothing. Values are looked at outside of compilation only."""
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
                raise ValueError("`attention_mask` has holes: the audio of an item must be in one piece.")
            shortest = int(attention_mask.sum(-1).min())
        if shortest < min_samples:
            raise ValueError(f"An item has {shortest} samples, the model needs at least {min_samples}.")
        return None if shortest == input_values.shape[-1] else attention_mask


class MusicFMModel(MusicFMPreTrainedModel):
    """
    The MusicFM encoder (Won, Hung, Le: *A Foundation Model for Music Informatics*, arXiv 2311.03318), and by its
    configuration those of MuQ and MERT.

    Padding changes nothing: the valid frames of an item in a padded batch equal its frames alone.
    """

    _input_embed_layer = "subsampling"  # where LoRA with reentrant checkpointing makes gradients begin
    _keys_to_ignore_on_load_unexpected = [r"^quantizer\.", r"^head\.", r"^cqt_head\.", r"^classifier\."]

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        if config.front_end == "mel":
            self.log_mel = MusicFMLogMel(config)
            self.subsampling = MusicFMSubsampling(config)
        else:
            self.subsampling = MusicFMWaveformSubsampling(config)
        self.encoder_input = MusicFMEncoderInput(config)
        layer_class = MusicFMConformerLayer if config.encoder_type == "conformer" else MusicFMBertLayer
        self.layers = nn.ModuleList(layer_class(config, index) for index in range(config.num_hidden_layers))
        # A post-norm encoder ends with the norm of its last layer.
        ends_with_norm = config.encoder_type == "conformer" or config.do_stable_layer_norm
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layer_norm = norm if ends_with_norm else nn.Identity()
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        layer: int | None = None,
        mask_time_indices: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, samples)`): Waveforms at `config.sampling_rate`. Keep them
                float32, also for a model in half precision.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
            layer (`int`, *optional*): Stop after this layer, 0 (the input of the first) to `config.num_hidden_layers`
                (the default). The final norm is part of the last layer. Nothing after it is computed.
            mask_time_indices (`torch.Tensor` of shape `(batch, frames)`, *optional*): Frames that a learned vector
                replaces before the encoder; for `config.mask_type="embedding"` only.
            output_hidden_states (`bool` or `list[int]`, *optional*): Return the hidden states 0 to `layer`; a list (of
                numbers from 0) keeps only those, the others are `None`.
            output_attentions (`bool`, *optional*): Return attention weights (with `attn_implementation="eager"`).
            return_dict (`bool`, *optional*): Return a tuple if `False`.

        Returns:
            [`BaseModelOutput`] with `last_hidden_state` of shape `(batch, frames, hidden_size)`: hidden state `layer`.
            `frames_mask` tells which frames are not padding, `frame_times` where they are in seconds.

        Raises:
            ValueError: if a shape, the mask or `layer` is not as described, or an item is shorter than
                `config.min_samples`.
        """
        num_layers = self.config.num_hidden_layers if layer is None else layer
        if type(num_layers) is not int or not 0 <= num_layers <= self.config.num_hidden_layers:
            raise ValueError(f"`layer` must be between 0 and {self.config.num_hidden_layers}, got {layer!r}.")
        attention_mask = self._check_input(input_values, attention_mask, self.config.min_samples)
        if mask_time_indices is not None and self.config.mask_type != "embedding":
            raise ValueError('`mask_time_indices` needs a model with `config.mask_type="embedding"`.')

        counts = frames_mask = None
        if attention_mask is not None:
            counts = self.config.frame_counts(attention_mask.sum(-1))
            frames_mask = self.frames_mask(attention_mask)
        hidden_states = self.subsampling(self._front_end_input(input_values, attention_mask), counts)
        hidden_states = self.encoder_input(hidden_states, frames_mask, mask_time_indices)
        if num_layers > 0:
            encoder_mask = create_bidirectional_mask(self.config, hidden_states, frames_mask)
            positions = self._rotary_embedding(hidden_states) if self.config.encoder_type == "conformer" else None
            for encoder_layer in self.layers[:num_layers]:
                hidden_states = encoder_layer(hidden_states, positions, encoder_mask, frames_mask, **kwargs)
        if num_layers == self.config.num_hidden_layers:
            hidden_states = self.layer_norm(hidden_states)
        return BaseModelOutput(last_hidden_state=hidden_states)

    def train(self, mode: bool = True):
        """As in torch; batch norms keep their statistics if `config.freeze_batch_norm`."""
        super().train(mode)
        if self.config.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _front_end_input(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The log-mel spectrogram, or the waveform from its first sample on."""
        if self.config.front_end == "mel":
            return self.log_mel(input_values, attention_mask)
        return input_values if attention_mask is None else align_left(input_values, attention_mask)

    def _rotary_embedding(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine `(frames, 1, head_dim / 2)`, computed in float32."""
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        device = hidden_states.device
        exponent = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
        frames = torch.arange(hidden_states.shape[1], device=device, dtype=torch.float32)
        angles = (frames[:, None] * self.config.rotary_embedding_base**-exponent)[:, None]
        return angles.cos().to(hidden_states.dtype), angles.sin().to(hidden_states.dtype)


@dataclass
class MusicFMQuantizerOutput(ModelOutput):
    """
    `tokens` `(batch, tokens, codebooks)`, int64; `tokens_mask` `(batch, tokens)`: which are not padding.
    """

    tokens: torch.Tensor | None = None
    tokens_mask: torch.Tensor | None = None


class MusicFMQuantizerModel(MusicFMPreTrainedModel):
    """
    The target tokens of masked pretraining on their own. It also loads from the folder of a pretrained
    [`MusicFMForPreTraining`].
    """

    _keep_in_fp32_modules_strict = ["quantizer"]
    _keys_to_ignore_on_load_unexpected = [r"^musicfm\.", r"^head\.", r"^cqt_head\.", r"^classifier\."]

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        self.quantizer = build_quantizer(config)
        self.post_init()

    @property
    def device(self) -> torch.device:
        """As in [`PreTrainedModel`], which asks a parameter; there is none."""
        return next(self.buffers()).device

    @property
    def dtype(self) -> torch.dtype:
        """Always float32."""
        return next(self.buffers()).dtype

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in [`PreTrainedModel`], with the code too: there is no Auto class, for which Transformers would do so."""
        super().save_pretrained(save_directory, *args, **kwargs)
        custom_object_save(self, save_directory)

    @can_return_tuple
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> MusicFMQuantizerOutput:
        """
        Clean waveforms `(batch, samples)` at `config.sampling_rate` → [`MusicFMQuantizerOutput`]. What does not fit is
        a `ValueError`, as in [`MusicFMForPreTraining`].
        """
        attention_mask = self._check_input(input_values, attention_mask, self.config.n_fft // 2 + 1)
        lengths = item_lengths(input_values, attention_mask)
        tokens = self.quantizer(input_values, attention_mask)
        return MusicFMQuantizerOutput(
            tokens, valid_frames(0, tokens.shape[1], lengths // self.config.samples_per_frame)
        )


@dataclass
class MusicFMForPreTrainingOutput(ModelOutput):
    """
    Output of [`MusicFMForPreTraining`].

    Attributes:
        loss (`torch.Tensor` of shape `()`): Cross-entropy in nats, averaged over masked frames and codebooks, plus the
            weighted constant-Q loss if there is one.
        logits (`torch.Tensor` of shape `(masked frames, codebooks, codes)`): Of the masked frames, in the order of
            `mask_time_indices`; minus infinity for codes that a smaller codebook does not have.
        accuracy (`torch.Tensor` of shape `()`): Share of right tokens among those.
        tokens (`torch.Tensor` of shape `(batch, frames, codebooks)`): Targets, -100 where there is none.
        mask_time_indices (`torch.Tensor` of shape `(batch, frames)`): The frames that count: masked, with a target.
        cqt_loss (`torch.Tensor` of shape `()`): Mean squared error of the constant-Q reconstruction.
        hidden_states, attentions (`tuple`): As in the encoder, if asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    mask_time_indices: torch.Tensor | None = None
    cqt_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class MusicFMForPreTraining(MusicFMPreTrainedModel):
    """
    Masked token prediction (MusicFM, BEST-RQ, MuQ, MERT by configuration): tokens of the clean waveform are predicted
    from a waveform of which parts are masked.
    """

    accepts_loss_kwargs = True
    _keep_in_fp32_modules_strict = ["quantizer"]

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        self.musicfm = MusicFMModel(config)
        self.quantizer = build_quantizer(config)
        self.head = nn.Linear(config.hidden_size, sum(config.codebook_sizes))
        self.cqt_head = nn.Linear(config.hidden_size, config.cqt_bins) if config.cqt_loss_weight > 0 else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
        target_tokens: torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_loss: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MusicFMForPreTrainingOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, samples)`): Clean waveforms; masked ones with
                `target_tokens`. Not normalised: that happens here where `config.do_normalize` says so.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
            mask_time_indices (`torch.Tensor` of shape `(batch, frames)`, *optional*): Which frames are masked; drawn
                as the configuration says if not given.
            target_tokens (`torch.Tensor` of shape `(batch, frames, codebooks)`, or without the last axis for one
                codebook, *optional*): -100 to leave a frame out. `input_values` then count as already masked, and
                `mask_time_indices` is needed. (Not called labels: a [`Trainer`] would not evaluate without them.)
            generator (`torch.Generator` or a list with one for each item, *optional*): Draws the mask and the noise.
            num_items_in_batch (`int`, *optional*): Masked frames that the loss is averaged over, where this batch is
                only a part of what an optimizer step sees.
            return_loss (`bool`): Not looked at; tells the [`Trainer`] that there is a loss without labels.
            output_hidden_states, output_attentions, return_dict (*optional*): As in [`MusicFMModel`].

        Returns:
            [`MusicFMForPreTrainingOutput`].

        Raises:
            ValueError: if a shape is not as described, an item is too short, or `target_tokens` come without a mask.
        """
        needed = max(self.config.min_samples, self.config.n_fft // 2 + 1)
        attention_mask = self._check_input(input_values, attention_mask, needed)
        self._check_targets(input_values, mask_time_indices, target_tokens)
        lengths = item_lengths(input_values, attention_mask)
        if attention_mask is not None:
            input_values = align_left(input_values, attention_mask)
            attention_mask = valid_frames(0, input_values.shape[1], lengths)

        if mask_time_indices is None:
            mask_time_indices = sample_mask(self.config, lengths, input_values.shape[1], generator)
        mask, waveform = mask_time_indices.bool(), input_values
        if target_tokens is None:
            target_tokens = self.quantizer(input_values, attention_mask)
            if self.config.mask_type == "noise":
                waveform = replace_by_noise(self.config, input_values, lengths, mask, generator)
        if self.config.do_normalize:
            waveform = normalize(waveform, attention_mask)
        frames = self.musicfm.output_frames(input_values.shape[1])
        mask = fit_length(mask, frames)
        encoder_mask = mask if self.config.mask_type == "embedding" else None
        outputs = self.musicfm(waveform, attention_mask, mask_time_indices=encoder_mask, return_dict=True, **kwargs)

        tokens = target_tokens[..., None] if target_tokens.ndim == 2 else target_tokens
        tokens = fit_length(tokens, frames, value=-100)
        has_target = target_frames(self.config, lengths, input_values.shape[1])
        tokens = tokens.masked_fill(~has_target[..., None], -100)
        mask = mask & (tokens >= 0).all(-1)
        targets = tokens[mask]  # (masked frames, codebooks)
        predicted = outputs.last_hidden_state[mask]  # (masked frames, hidden_size)
        logits = self._logits(predicted)
        count = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
        loss = loss / (count * self.config.num_codebooks)
        cqt_loss = None
        if self.cqt_head is not None:
            target = constant_q(input_values, attention_mask, self.config)
            target = fit_length(target, frames)[mask]
            errors = (self.cqt_head(predicted).float() - target).square().mean(-1)
            cqt_loss = errors.sum() / count
            loss = loss + self.config.cqt_loss_weight * cqt_loss
        return MusicFMForPreTrainingOutput(
            loss=loss,
            logits=logits,
            accuracy=(logits.argmax(-1) == targets).sum() / max(targets.numel(), 1),
            tokens=tokens,
            mask_time_indices=mask,
            cqt_loss=cqt_loss,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _check_targets(self, input_values, mask_time_indices, target_tokens) -> None:
        batch, samples = input_values.shape
        frames, tokens = self.musicfm.output_frames(samples), samples // self.config.samples_per_frame
        if mask_time_indices is not None:
            shape = tuple(mask_time_indices.shape)
            if shape not in ((batch, frames), (batch, tokens)):
                raise ValueError(f"`mask_time_indices` must have shape {(batch, frames)}, got {shape}.")
        if target_tokens is None:
            return
        if mask_time_indices is None:
            raise ValueError("With `target_tokens`, `mask_time_indices` must say which frames are masked.")
        if self.cqt_head is not None:
            raise ValueError("The constant-Q loss needs the clean waveform: leave `target_tokens` out.")
        shape, codebooks = tuple(target_tokens.shape), self.config.num_codebooks
        allowed = [(batch, length, codebooks) for length in (frames, tokens)]
        allowed += [(batch, length) for length in (frames, tokens) if codebooks == 1]
        if shape not in allowed or target_tokens.is_floating_point():
            raise ValueError(
                f"`target_tokens` must be integers of shape {allowed[0]}, got {target_tokens.dtype} of shape {shape}."
            )

    def _logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(n, hidden_size)` → `(n, codebooks, codes)`."""
        sizes = self.config.codebook_sizes
        parts = self.head(hidden_states).split(sizes, dim=-1)
        parts = [nn.functional.pad(part, (0, max(sizes) - part.shape[1]), value=-torch.inf) for part in parts]
        return torch.stack(parts, dim=1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in plain operations; the one implementation that returns weights, `(batch, heads, frames, frames)`."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def _rotate(hidden_states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of `(batch, frames, heads, head_dim)`: feature i turns with feature i + head_dim / 2."""
    first, second = hidden_states.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _mask(hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return hidden_states if mask is None else hidden_states.masked_fill(~mask, 0.0)


def _zero_outside(frames: torch.Tensor, start: int, counts: int | torch.Tensor) -> torch.Tensor:
    """Zero, in place, what of frames `start`, `start + 1`, … (axis 1) lies before 0 or after `counts`."""
    if isinstance(counts, torch.Tensor):
        valid = valid_frames(start, start + frames.shape[1], counts)
        return frames.mul_(valid[:, :, None, None])
    frames[:, : max(-start, 0)] = 0
    frames[:, max(counts - start, 0) :] = 0
    return frames


def _is_watched(module: nn.Module) -> bool:
    """Would somebody notice if this module were not called? Hooks, and accelerate's offloading."""
    return bool(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"))


def _fusable(hidden_states: torch.Tensor, *modules: nn.Module) -> bool:
    """
    May these convolutions and batch norms be merged? Only in inference, and only if they are what they seem: not
    wrapped (LoRA, quantization, synchronised batch norm), not offloaded, not observed by hooks.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if hidden_states.is_meta or torch.is_autocast_enabled(hidden_states.device.type):
        return False
    return all(
        type(module) in (nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
        and not module.training
        and not _is_watched(module)
        and module.weight.device == hidden_states.device
        for module in modules
    )


def _batch_norm(norm: nn.Module, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """
    Batch norm over `(batch, channels, …)` whose training statistics leave out the padding (where `mask` is false) and
    are not counted again when activation checkpointing recomputes a layer during the backward pass.
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
    synchronised = isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized()
    add_ranks = torch.distributed.nn.functional.all_reduce if synchronised else (lambda sums: sums)
    count = add_ranks(weights.sum())
    mean = add_ranks((values * weights).sum(axes, keepdim=True)) / count
    variance = add_ranks(((values - mean).square() * weights).sum(axes, keepdim=True)) / count
    if norm.track_running_stats and not recomputing:
        with torch.no_grad():
            norm.num_batches_tracked += 1
            unbiased = variance.flatten() * (count / (count - 1).clamp(min=1))
            norm.running_mean.lerp_(mean.flatten().to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    shape = [1, -1] + [1] * (hidden_states.ndim - 2)
    normalized = (values - mean) * torch.rsqrt(variance + norm.eps)
    normalized = normalized * norm.weight.float().view(shape) + norm.bias.float().view(shape)
    return normalized.to(hidden_states.dtype)


__all__ = ["MusicFMForPreTraining", "MusicFMModel", "MusicFMPreTrainedModel", "MusicFMQuantizerModel"]
