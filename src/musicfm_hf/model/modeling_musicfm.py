"""The MusicFM models: encoder, target tokens, masked pretraining, heads."""

import copy
import math
import os
from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.dynamic_module_utils import custom_object_save
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, XVectorOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .adapters_musicfm import HUB_ARGUMENTS, MusicFMWithAdapters, find_base
from .configuration_musicfm import MusicFMConfig
from .fast_inference_musicfm import FastDepthwiseConvolution
from .frames_musicfm import Count, count_averages, label_settings
from .heads_musicfm import MusicFMClassifier, MusicFMEmbeddingHead, MusicFMHead
from .int8_musicfm import check_float
from .keywords_musicfm import check_keywords
from .losses_musicfm import frame_weight, token_loss
from .masking_musicfm import check_targets, fit_length, mix_in_batch, replace_by_noise, sample_mask, target_frames
from .normalization_musicfm import batch_norm, normalize
from .outputs_musicfm import MusicFMClassifierOutput, MusicFMForPreTrainingOutput, MusicFMQuantizerOutput
from .padding_musicfm import align_left, check_input, item_lengths, valid_frames, zero_padding
from .quantization_musicfm import MusicFMQuantizer, build_quantizer
from .spectrogram_musicfm import MusicFMLogMel, constant_q
from .subsampling_musicfm import FRONT_ENDS, MusicFMGlobalResponseNorm


class MusicFMEncoderInput(nn.Module):
    """
    Input of the first layer, hidden state 0. With `config.mask_type="embedding"`, a learned vector replaces masked
    frames; with `config.encoder_type="bert"`, a convolution over time adds positions.
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


def _rotate(hidden_states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate `(batch, frames, heads, head_dim)` by positions: feature i is paired with feature i + head_dim / 2."""
    first, second = hidden_states.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention step by step. Only this implementation returns weights `(batch, heads, frames, frames)`."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MusicFMAttention(nn.Module):
    """
    Self-attention. Rotary positions, if given, rotate the *input* of the query and key projections, as in the
    wav2vec 2.0 conformer that MusicFM was trained with, or, with `config.rotary_after_projection`, queries and keys
    themselves, as in MERT-v2. Values have no positions.
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
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, frames, hidden_size)` → the same shape, and attention weights if the implementation has them."""
        heads_shape = (*hidden_states.shape[:-1], self.num_heads, self.head_dim)
        rotated = hidden_states
        if position_embeddings is not None and not self.config.rotary_after_projection:
            rotated = _rotate(hidden_states.view(heads_shape), *position_embeddings).flatten(2)
        query, key = self.q_proj(rotated).view(heads_shape), self.k_proj(rotated).view(heads_shape)
        if position_embeddings is not None and self.config.rotary_after_projection:
            query, key = _rotate(query, *position_embeddings), _rotate(key, *position_embeddings)
        query, key = query.transpose(1, 2), key.transpose(1, 2)  # (batch, heads, frames, head_dim)
        value = self.v_proj(hidden_states).view(heads_shape).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        output, weights = attention(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.out_proj(output.reshape(hidden_states.shape)), weights


class MusicFMFeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: MusicFMConfig):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, hidden_size)` → the same shape."""
        hidden_states = self.intermediate_dropout(self.activation(self.intermediate_dense(hidden_states)))
        return self.output_dropout(self.output_dense(hidden_states))


class MusicFMConvolutionModule(nn.Module):
    """
    Convolution module of a conformer: gated projection, depthwise convolution over time, batch norm (or layer norm,
    with `config.conformer_conv_norm="layer_norm"`), projection.
    """

    def __init__(self, config: MusicFMConfig):
        super().__init__()
        width, kernel = config.hidden_size, config.conv_depthwise_kernel_size
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pointwise_conv1 = nn.Linear(width, 2 * width, bias=False)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        if config.conformer_conv_norm == "batch_norm":
            self.batch_norm: nn.BatchNorm1d | None = nn.BatchNorm1d(width)
            self.inner_layer_norm: nn.LayerNorm | None = None
        else:
            self.batch_norm = None
            self.inner_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.pointwise_conv2 = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(config.conformer_conv_dropout)

    def forward(self, hidden_states: torch.Tensor, frames_mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, frames, hidden_size)` → the same shape; `frames_mask` `(batch, frames)` is false for padding."""
        mask = None if frames_mask is None else frames_mask[:, None]
        hidden_states = nn.functional.glu(self.pointwise_conv1(self.layer_norm(hidden_states)), dim=-1)
        hidden_states = zero_padding(hidden_states.transpose(1, 2), mask)  # (batch, hidden_size, frames)
        if FastDepthwiseConvolution.applies(self.depthwise_conv, self.batch_norm, hidden_states):
            hidden_states = FastDepthwiseConvolution(self.depthwise_conv, self.batch_norm)(hidden_states)
        else:
            hidden_states = self.depthwise_conv(hidden_states)
            if self.batch_norm is not None:
                hidden_states = batch_norm(self.batch_norm, hidden_states, mask)
        if self.inner_layer_norm is not None:
            hidden_states = self.inner_layer_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        hidden_states = self.activation(hidden_states).transpose(1, 2)
        return self.dropout(self.pointwise_conv2(hidden_states))


class MusicFMConformerLayer(GradientCheckpointingLayer):
    """Conformer layer (Gulati et al. 2020): half feed-forward, attention, convolution, half feed-forward, norm."""

    def __init__(self, config: MusicFMConfig, layer_idx: int):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.ffn1_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn1 = MusicFMFeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=eps)
        self.self_attn = MusicFMAttention(config, layer_idx)
        self.self_attn_dropout = nn.Dropout(config.attention_dropout)
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
        **kwargs: Any,
    ) -> torch.Tensor:
        """`(batch, frames, hidden_size)` → the same shape."""
        hidden_states = torch.add(hidden_states, self.ffn1(self.ffn1_layer_norm(hidden_states)), alpha=0.5)
        normalized = self.self_attn_layer_norm(hidden_states)
        attended, _ = self.self_attn(normalized, position_embeddings, attention_mask, **kwargs)
        hidden_states = hidden_states + self.self_attn_dropout(attended)
        hidden_states = hidden_states + self.conv_module(hidden_states, frames_mask)
        hidden_states = torch.add(hidden_states, self.ffn2(self.ffn2_layer_norm(hidden_states)), alpha=0.5)
        return self.final_layer_norm(hidden_states)


class MusicFMBertLayer(GradientCheckpointingLayer):
    """
    Transformer layer of HuBERT: attention and feed-forward, each followed by a layer norm, or preceded by one with
    `config.do_stable_layer_norm`.
    """

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
        **kwargs: Any,
    ) -> torch.Tensor:
        """`(batch, frames, hidden_size)` → the same shape."""
        normalized = self.self_attn_layer_norm(hidden_states) if self.norm_first else hidden_states
        attended, _ = self.self_attn(normalized, position_embeddings, attention_mask, **kwargs)
        hidden_states = hidden_states + self.self_attn_dropout(attended)
        if self.norm_first:
            return hidden_states + self.ffn(self.final_layer_norm(hidden_states))
        hidden_states = self.self_attn_layer_norm(hidden_states)
        return self.final_layer_norm(hidden_states + self.ffn(hidden_states))


class MusicFMPreTrainedModel(MusicFMWithAdapters):
    """Base class with the initialization, saving and frame times of all MusicFM models."""

    config_class = MusicFMConfig
    config: MusicFMConfig
    base_model_prefix = "musicfm"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "MusicFMConformerLayer",
        "MusicFMBertLayer",
        "MusicFMSubsampling",
        "MusicFMWaveformSubsampling",
        "MusicFMConvNextSubsampling",
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

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, max_shard_size: int | str = "1GB", **kwargs: Any
    ) -> None:
        """Save as [`PreTrainedModel`] does, in files of at most 1 GB, so that an interrupted upload can resume."""
        self.config.task_folders = None  # the models in subfolders are not saved with this one
        super().save_pretrained(save_directory, *args, **kwargs | {"max_shard_size": max_shard_size})

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the weights of one module."""
        super()._init_weights(module)
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            init.kaiming_normal_(module.weight)
        elif isinstance(module, MusicFMEncoderInput):
            if hasattr(module, "masked_spec_embed"):
                init.uniform_(module.masked_spec_embed)
            if module.pos_conv is not None:
                kernel, channels = module.pos_conv.kernel_size[0], module.pos_conv.in_channels
                init.normal_(module.pos_conv.weight, 0.0, 2 * math.sqrt(1 / (kernel * channels)))
                init.zeros_(cast(torch.Tensor, module.pos_conv.bias))
        elif isinstance(module, MusicFMGlobalResponseNorm):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, MusicFMQuantizer):
            module.reset_parameters()

    def post_init(self) -> None:
        """Initialize as [`PreTrainedModel`] does, and apply the exceptions of `train` to a new model too."""
        super().post_init()
        self.train(self.training)

    def freeze_feature_encoder(self) -> None:
        """Train everything but the front end, as in Wav2Vec2."""
        self.base_model.subsampling.requires_grad_(False)
        self.train(self.training)

    def frames_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        Return the mask of output frames that are not padding: sample mask `(batch, samples)` → bool `(batch, frames)`.
        The frames of an item come first, whichever side its padding is on.
        """
        counts = self.config.frame_counts(attention_mask.bool().sum(-1))
        return valid_frames(0, self.output_frames(attention_mask.shape[-1]), counts[-1])

    def frame_times(self, num_frames: int) -> torch.Tensor:
        """Return the centers of the first `num_frames` output frames, in seconds from the start, float64."""
        frame = torch.arange(num_frames, dtype=torch.float64)
        return (frame + self.config.frame_offset) / self.config.frame_rate

    def output_frames(self, num_samples: int) -> int:
        """Return the number of output frames for `num_samples` samples."""
        return self.config.frame_counts(num_samples)[-1]


class MusicFMModel(MusicFMPreTrainedModel):
    """
    The MusicFM encoder (Won, Hung, Le: *A Foundation Model for Music Informatics*, arXiv 2311.03318), and, with other
    configurations, those of MuQ, MERT and MERT-v2.

    Padding has no effect: the valid frames of an item in a padded batch equal the frames of that item alone.
    """

    _input_embed_layer = "subsampling"  # PEFT enables gradients at its output, for LoRA with reentrant checkpointing
    _keys_to_ignore_on_load_unexpected = [r"^quantizer\.", r"^head\.", r"^cqt_head\.", r"^classifier\."]
    _is_pretrained = False  # true in MusicFMForPreTraining: batch statistics change in training
    int8_modules = ("subsampling", "layers")  # with the linear layers that `MusicFMInt8Config` quantizes

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        if config.front_end != "waveform":
            self.log_mel = MusicFMLogMel(config)
        self.subsampling = FRONT_ENDS[config.front_end](config)
        self.encoder_input = MusicFMEncoderInput(config)
        layer_class = MusicFMConformerLayer if config.encoder_type == "conformer" else MusicFMBertLayer
        self.layers = nn.ModuleList(layer_class(config, index) for index in range(config.num_hidden_layers))
        # A post-norm encoder ends with the norm of its last layer.
        is_pre_norm = config.encoder_type == "conformer" or config.do_stable_layer_norm
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layer_norm = norm if is_pre_norm and config.use_final_layer_norm else nn.Identity()
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
            input_values (`torch.Tensor` of shape `(batch, samples)`): Waveforms at `config.sampling_rate`, float32
                even if the model is in half precision.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
            layer (`int`, *optional*): Layer to stop after, from 0 (the input of the first layer) to
                `config.num_hidden_layers` (the default). The final norm is part of the last layer. Later layers are
                not computed.
            mask_time_indices (`torch.Tensor` of shape `(batch, frames)`, *optional*): Frames that a learned vector
                replaces before the encoder; only with `config.mask_type="embedding"`.
            output_hidden_states (`bool` or `list[int]`, *optional*): Return hidden states 0 to `layer`. With a list of
                indices (from 0), only those are kept and the others are `None`.
            output_attentions (`bool`, *optional*): Return attention weights; needs `attn_implementation="eager"`.
            return_dict (`bool`, *optional*): Return a tuple if `False`.

        Returns:
            [`BaseModelOutput`] with `last_hidden_state` of shape `(batch, frames, hidden_size)`: hidden state `layer`.
            `frames_mask` returns the mask of frames that are not padding, and `frame_times` the times of frames in
            seconds.

        Raises:
            ValueError: if a shape, the mask or `layer` is not as described, or an item is shorter than
                `config.min_samples`.
            TypeError: if the model does not use a keyword argument.
        """
        check_keywords(kwargs, self.forward)
        num_layers = self.config.num_hidden_layers if layer is None else layer
        if type(num_layers) is not int or not 0 <= num_layers <= self.config.num_hidden_layers:
            raise ValueError(f"`layer` must be between 0 and {self.config.num_hidden_layers}, got {layer!r}.")
        attention_mask = check_input(input_values, attention_mask, self.config.min_samples)
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

    def train(self, mode: bool = True) -> Self:
        """
        Set the mode as in torch, except for batch norms whose statistics must not change: by default all of them, and
        in masked pretraining those whose weights are frozen, as under an adapter. `config.freeze_batch_norm` overrides
        both.
        """
        super().train(mode)
        freeze = self.config.freeze_batch_norm
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                is_trained = self._is_pretrained and module.weight.requires_grad
                if not is_trained if freeze is None else freeze:
                    module.eval()
        return self

    def _front_end_input(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the log-mel spectrogram, or waveforms with padding on the right only."""
        if self.config.front_end != "waveform":
            return self.log_mel(input_values, attention_mask)
        return input_values if attention_mask is None else align_left(input_values, attention_mask)

    def _rotary_embedding(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cosine and the sine `(frames, 1, head_dim / 2)`, computed in float32."""
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        device = hidden_states.device
        exponent = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
        frames = torch.arange(hidden_states.shape[1], device=device, dtype=torch.float32)
        angles = (frames[:, None] * self.config.rotary_embedding_base**-exponent)[:, None]
        return angles.cos().to(hidden_states.dtype), angles.sin().to(hidden_states.dtype)


class MusicFMQuantizerModel(MusicFMPreTrainedModel):
    """
    The quantizer alone, which computes the target tokens of masked pretraining. It also loads from the folder of a
    pretrained [`MusicFMForPreTraining`].
    """

    _keep_in_fp32_modules_strict = ["quantizer"]
    _keys_to_ignore_on_load_unexpected = [r"^musicfm\.", r"^head\.", r"^cqt_head\.", r"^classifier\."]

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        self.quantizer = build_quantizer(config)
        self.post_init()

    @property
    def device(self) -> torch.device:
        """Device of the buffers, because the model has no parameters."""
        return next(self.buffers()).device

    @property
    def dtype(self) -> torch.dtype:
        """Always float32."""
        return next(self.buffers()).dtype

    def _save_more(self, save_directory: str | os.PathLike) -> None:
        """Save the code too, which Transformers saves only for models with an Auto class."""
        super()._save_more(save_directory)
        custom_object_save(self, save_directory)

    @can_return_tuple
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> MusicFMQuantizerOutput:
        """
        Quantize waveforms.

        Args:
            input_values (`torch.Tensor` of shape `(batch, samples)`): Clean waveforms at `config.sampling_rate`.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.

        Returns:
            [`MusicFMQuantizerOutput`].

        Raises:
            ValueError: if a shape is not as described, or an item is too short.
        """
        check_keywords(kwargs, self.forward)
        attention_mask = check_input(input_values, attention_mask, self.config.n_fft // 2 + 1)
        lengths = item_lengths(input_values, attention_mask)
        tokens = self.quantizer(input_values, attention_mask)
        return MusicFMQuantizerOutput(
            tokens, valid_frames(0, tokens.shape[1], lengths // self.config.samples_per_frame)
        )


class MusicFMForPreTraining(MusicFMPreTrainedModel):
    """
    Masked token prediction: the model predicts the tokens of the clean waveform where it is masked and, with
    `config.unmasked_loss_weight`, also where it is not. The configuration selects the method of MusicFM, BEST-RQ, MuQ
    or MERT.
    """

    accepts_loss_kwargs = True
    _keep_in_fp32_modules_strict = ["quantizer"]

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        self.musicfm = MusicFMModel(config)
        self.musicfm._is_pretrained = True
        self.quantizer = build_quantizer(config)
        self.head = nn.Linear(config.hidden_size, sum(config.codebook_sizes))
        self.cqt_head = nn.Linear(config.hidden_size, config.cqt_bins) if config.cqt_loss_weight > 0 else None
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[misc]  # `num_items_in_batch` is in TransformersKwargs too
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
            input_values (`torch.Tensor` of shape `(batch, samples)`): Clean waveforms, not normalized: with
                `config.do_normalize`, the model normalizes them. With `target_tokens`, waveforms that are already
                masked.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
            mask_time_indices (`torch.Tensor` of shape `(batch, frames)`, *optional*): Masked frames. If not given,
                they are drawn as the configuration specifies.
            target_tokens (`torch.Tensor` of shape `(batch, frames, codebooks)`, or without the last axis for one
                codebook, *optional*): Targets for `input_values` that are already masked, with -100 for frames to
                leave out; requires `mask_time_indices`. (The name is not `labels`, because a [`Trainer`] would then
                skip evaluation without labels.)
            generator (`torch.Generator` or a list with one for each item, *optional*): Generator of the mask, the
                mix-up and the noise.
            num_items_in_batch (`int` or `float`, *optional*): Sum of the weights of all frames in a whole optimizer
                step, over which the loss is averaged if this batch is only a part of the step. The weight is 1 for
                masked frames and `config.unmasked_loss_weight` for the others.
            return_loss (`bool`): Ignored. Its presence tells the [`Trainer`] that the model returns a loss without
                labels.
            output_hidden_states, output_attentions, return_dict (*optional*): As in [`MusicFMModel`].

        Returns:
            [`MusicFMForPreTrainingOutput`].

        Raises:
            ValueError: if a shape is not as described, an item is too short, or `target_tokens` come without a mask.
            TypeError: if the model does not use a keyword argument.
        """
        check_keywords(kwargs, self.forward)
        config = self.config
        attention_mask = check_input(input_values, attention_mask, max(config.min_samples, config.n_fft // 2 + 1))
        check_targets(config, input_values, mask_time_indices, target_tokens)
        lengths = item_lengths(input_values, attention_mask)
        if attention_mask is not None:
            input_values = align_left(input_values, attention_mask)
            attention_mask = valid_frames(0, input_values.shape[1], lengths)

        if mask_time_indices is None:
            mask_time_indices = sample_mask(config, lengths, input_values.shape[1], generator)
        mask, waveform = mask_time_indices.bool(), input_values
        if target_tokens is None:
            target_tokens = self.quantizer(input_values, attention_mask)
            if self.training:
                waveform = mix_in_batch(config, waveform, lengths, generator)
            if config.mask_type == "noise":
                waveform = replace_by_noise(config, waveform, lengths, mask, generator)
        if config.do_normalize:
            waveform = normalize(waveform, attention_mask)
        frames = self.musicfm.output_frames(input_values.shape[1])
        mask = fit_length(mask, frames)
        encoder_mask = mask if config.mask_type == "embedding" else None
        outputs = self.musicfm(waveform, attention_mask, mask_time_indices=encoder_mask, return_dict=True, **kwargs)

        tokens = target_tokens[..., None] if target_tokens.ndim == 2 else target_tokens
        tokens = fit_length(tokens, frames, value=-100)
        has_target = target_frames(config, lengths, input_values.shape[1])
        tokens = tokens.masked_fill(~has_target[..., None], -100)
        has_target = (tokens >= 0).all(-1)
        count = frame_weight(config, mask, has_target) if num_items_in_batch is None else num_items_in_batch
        mask, clear = mask & has_target, ~mask & has_target
        spectrum = None
        if self.cqt_head is not None:
            spectrum = fit_length(constant_q(input_values, attention_mask, config), frames)
        hidden_states = outputs.last_hidden_state
        logits, loss, cqt_loss = self._predict(hidden_states, tokens, spectrum, mask, count)
        if (weight := config.unmasked_loss_weight) > 0:
            _, clear_loss, clear_cqt_loss = self._predict(hidden_states, tokens, spectrum, clear, count)
            loss = loss + weight * clear_loss
            if cqt_loss is not None and clear_cqt_loss is not None:
                cqt_loss = cqt_loss + weight * clear_cqt_loss
        return MusicFMForPreTrainingOutput(
            loss=loss,
            logits=logits,
            accuracy=(logits.argmax(-1) == tokens[mask]).sum() / max(tokens[mask].numel(), 1),
            tokens=tokens,
            mask_time_indices=mask,
            cqt_loss=cqt_loss,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _predict(
        self,
        hidden_states: torch.Tensor,
        tokens: torch.Tensor,
        spectrum: torch.Tensor | None,
        selected: torch.Tensor,
        count: torch.Tensor | float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return the logits of the selected frames, their loss per `count`, and its constant-Q part, if any."""
        predicted = hidden_states[selected]  # (selected frames, hidden_size)
        logits, cqt_loss = self.predict_tokens(predicted), None
        loss = token_loss(self.config, logits, tokens[selected], count)
        if self.cqt_head is not None and spectrum is not None:
            cqt_loss = (self.cqt_head(predicted).float() - spectrum[selected]).square().mean(-1).sum() / count
            loss = loss + self.config.cqt_loss_weight * cqt_loss
        return logits, loss, cqt_loss

    def predict_tokens(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute the logits of tokens: `(n, hidden_size)` → `(n, codebooks, codes)`."""
        sizes = self.config.codebook_sizes
        parts = self.head(hidden_states).split(sizes, dim=-1)
        parts = [nn.functional.pad(part, (0, max(sizes) - part.shape[1]), value=-torch.inf) for part in parts]
        return torch.stack(parts, dim=1)


class _MusicFMWithHead(MusicFMPreTrainedModel):
    """Encoder with a head, `classifier`, of the class `head_class`."""

    head_class: type[MusicFMHead]
    classifier: MusicFMHead
    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = [r"^quantizer\.", r"^head\.", r"^cqt_head\."]

    def __init__(self, config: MusicFMConfig):
        config = copy.deepcopy(config)  # the caller's stays as it is
        super().__init__(config)
        # The default list of the configuration is for pretraining and ignores the logits.
        config.keys_to_ignore_at_inference = ["hidden_states", "attentions"]  # type: ignore[misc]  # a ClassVar
        self.musicfm = MusicFMModel(config)
        self.classifier = self.head_class(config)
        self.post_init()

    @classmethod
    def from_encoder(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        config: MusicFMConfig,
        keep_head: bool = False,
        **kwargs: Any,
    ) -> Self:
        """
        Load the encoder of a saved model, with a new head even if it was saved with one.

        Args:
            config ([`MusicFMConfig`]): Configuration of the model with its head.
            keep_head (`bool`): Load the head as well.
            kwargs: As in [`PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: if weights of the encoder are missing or have other shapes, or the model is an adapter or an
                int8 model; with `keep_head`, also if it was not saved with this head.
        """
        hub = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
        if find_base(pretrained_model_name_or_path, **hub) is not None:
            raise ValueError(
                f"{pretrained_model_name_or_path} is an adapter: load it with `peft.PeftModel`, and pass the folder "
                "to which `merge_and_unload().save_pretrained(…)` has written the whole model."
            )
        check_float(config, pretrained_model_name_or_path, "trained")
        model, has_head = cls._load_base(pretrained_model_name_or_path, config, **kwargs)
        if keep_head and not has_head:
            raise ValueError(f"{pretrained_model_name_or_path} has no head of this shape: leave out `keep_head`.")
        if has_head and not keep_head:
            model._replace_head()
        return model

    @classmethod
    def _load_base(
        cls, pretrained_model_name_or_path: str | os.PathLike, config: MusicFMConfig, *model_args: Any, **kwargs: Any
    ) -> tuple[Self, bool]:
        """Load the encoder of a saved model with its head if it fits, or a new one; return whether it was loaded."""
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # Transformers would warn that the head is new
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                config=config,
                **kwargs | {"output_loading_info": True, "ignore_mismatched_sizes": True},  # of a saved head
            )
        finally:
            logging.set_verbosity(verbosity)
        model, loading = loaded
        unfit = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
        missing = sorted(name for name in unfit if not name.startswith("classifier."))
        if missing:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} encoder weights that the configuration "
                f"describes, such as {missing[0]}."
            )
        names = {f"classifier.{name}" for name in model.classifier.state_dict()}
        if names <= {*loading["missing_keys"]}:
            return model, False
        has_head = not names & unfit
        if not has_head:  # a part of the head was loaded
            model._replace_head()
        return model, has_head

    def _replace_head(self) -> None:
        """Replace the head with a new one."""
        self.classifier = self.head_class(self.config).to(self.classifier.projector.weight)
        self.classifier.apply(self._init_weights)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the weights of one module."""
        super()._init_weights(module)
        if isinstance(module, MusicFMHead) and self.config.use_weighted_layer_sum:
            init.zeros_(module.layer_weights)

    def freeze_base_model(self) -> None:
        """Train the head only: the encoder gets no gradients, and stays in eval mode even after `train()`."""
        self.musicfm.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as in torch, except that an encoder without trainable weights stays in eval mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.musicfm.parameters()):
            self.musicfm.eval()
        return self

    def _encode(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[BaseModelOutput, torch.Tensor, torch.Tensor | None]:
        """Return the encoder's output, the hidden states that the head reads, and each item's number of frames."""
        config = self.config
        if config.use_weighted_layer_sum:
            requested = kwargs.pop("output_hidden_states", None)
            outputs = self.musicfm(input_values, attention_mask, output_hidden_states=True, return_dict=True, **kwargs)
            features = torch.stack(outputs.hidden_states, dim=2)
            if not (config.output_hidden_states if requested is None else requested):
                outputs.hidden_states = None
        else:
            outputs = self.musicfm(
                input_values, attention_mask, layer=config.classifier_layer, return_dict=True, **kwargs
            )
            features = outputs.last_hidden_state
        counts = None
        if attention_mask is not None:
            counts = config.frame_counts(item_lengths(input_values, attention_mask.bool()))[-1]
        return outputs, features, counts


class _MusicFMWithClassifier(_MusicFMWithHead):
    """Encoder with a head that classifies label frames if `config.label_rate` is set, and whole clips otherwise."""

    head_class = MusicFMClassifier
    classifier: MusicFMClassifier

    def _classify(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        labels: torch.Tensor | None,
        **kwargs: Any,
    ) -> MusicFMClassifierOutput:
        """Encode, classify, and compute the loss if labels are given."""
        check_keywords(kwargs, self.forward, "mask_time_indices")
        outputs, features, counts = self._encode(input_values, attention_mask, **kwargs)
        result = self.classifier(features, counts, labels)
        return MusicFMClassifierOutput(result.loss, result.logits, outputs.hidden_states, outputs.attentions)


class MusicFMForAudioFrameClassification(_MusicFMWithClassifier):
    """
    Model that classifies every label frame, at `config.label_rate`: for example into beats, chords, sections or keys.
    Padding has no effect: the logits of an item in a padded batch equal those of the item alone, in each of its label
    frames.
    """

    def __init__(self, config: MusicFMConfig):
        if config.label_rate is None:
            config = copy.deepcopy(config)
            config.label_rate = config.frame_rate
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MusicFMClassifierOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, samples)`): Waveforms at `config.sampling_rate`, float32.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
            labels (`torch.Tensor` of shape `(batch, label frames, num_labels)`, *optional*): Probabilities of the
                classes of each output (`config.classifier_outputs`); or classes of shape `(batch, label frames)`, for
                one softmax. -100 marks frames to ignore. `musicfm_hf.collate_examples` makes batches of items of
                different lengths.
            output_hidden_states, output_attentions, return_dict (*optional*): As in [`MusicFMModel`].

        Returns:
            [`MusicFMClassifierOutput`] with `logits` of shape `(batch, label frames, num_labels)`. `label_frames`
            returns the number of label frames for a length of audio, and `label_times` returns their times.

        Raises:
            ValueError: if a shape or a label is not as described, or an item is shorter than `config.min_samples`.
            TypeError: if the model does not use a keyword argument.
        """
        return self._classify(input_values, attention_mask, labels, **kwargs)

    def label_frames(self, num_samples: Count) -> Count:
        """Return the number of label frames for `num_samples` samples, a number or a tensor of numbers."""
        return count_averages(self.config.frame_counts(num_samples)[-1], *label_settings(self.config))

    def label_times(self, num_frames: int) -> torch.Tensor:
        """Return the centers of the first `num_frames` label frames in seconds, float64."""
        frame = torch.arange(num_frames, dtype=torch.float64)
        return (frame + (0.0 if self.config.label_centered else 0.5)) / label_settings(self.config)[1]


class MusicFMForAudioClassification(_MusicFMWithClassifier):
    """Model that classifies a whole clip, such as by tags or genres, from the mean over its frames."""

    def __init__(self, config: MusicFMConfig):
        if config.label_rate is not None:
            raise ValueError(
                f"MusicFMForAudioClassification needs `label_rate=None`, got {config.label_rate}. For label frames, "
                "use MusicFMForAudioFrameClassification."
            )
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MusicFMClassifierOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, samples)`): Waveforms at `config.sampling_rate`, float32.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
            labels (`torch.Tensor` of shape `(batch, num_labels)`, *optional*): Probabilities of the classes; or
                classes of shape `(batch,)`, for one softmax. -100 marks items to ignore.
            output_hidden_states, output_attentions, return_dict (*optional*): As in [`MusicFMModel`].

        Returns:
            [`MusicFMClassifierOutput`] with `logits` of shape `(batch, num_labels)`.

        Raises:
            ValueError: if a shape or a label is not as described, or an item is shorter than `config.min_samples`.
            TypeError: if the model does not use a keyword argument.
        """
        return self._classify(input_values, attention_mask, labels, **kwargs)


class MusicFMForXVector(_MusicFMWithHead):
    """
    Model that embeds clips, so that clips of the same music lie near each other in any key. Its inputs and outputs are
    those of the `ForXVector` models of Transformers; its loss is contrastive.
    """

    head_class = MusicFMEmbeddingHead
    classifier: MusicFMEmbeddingHead

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pitch_labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> XVectorOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, samples)`): Waveforms at `config.sampling_rate`, float32.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for audio, 0 for padding.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): Integers; clips with the same number are the same
                music. The loss is that of `config.contrastive_loss`, over the clips of this batch, so clips of the
                same music must be in one batch.
            pitch_labels (`torch.Tensor` of shape `(batch, frames, config.pitch_maps * 12)`, *optional*): Targets of
                the pitch maps of the head, from C; frames with -100 are ignored. The loss then includes the share of
                their variance that the maps do not explain, and the contrastive loss, if `labels` are given, trains
                only the part of the head after the maps.
            output_hidden_states, output_attentions, return_dict (*optional*): As in [`MusicFMModel`].

        Returns:
            `XVectorOutput` of Transformers with `embeddings` `(batch, config.xvector_output_dim)`,
            float32 and of length 1, so that their products are cosine similarities, and `logits`, the same before the
            normalization. Padding has no effect on either.

        Raises:
            ValueError: if a shape or a label is not as described, or an item is shorter than `config.min_samples`.
            TypeError: if the model does not use a keyword argument.
        """
        check_keywords(kwargs, self.forward, "mask_time_indices")
        outputs, features, counts = self._encode(input_values, attention_mask, **kwargs)
        result = self.classifier(features, counts, labels, pitch_labels)
        result.hidden_states, result.attentions = outputs.hidden_states, outputs.attentions
        return result


__all__ = [
    "MusicFMForAudioClassification",
    "MusicFMForAudioFrameClassification",
    "MusicFMForPreTraining",
    "MusicFMForXVector",
    "MusicFMModel",
    "MusicFMPreTrainedModel",
    "MusicFMQuantizerModel",
]
