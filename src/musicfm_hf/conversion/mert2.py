"""Checkpoints of MERT-v2: a folder with `config.json` and weights."""

from pathlib import Path
from typing import Any

import torch

from ..model.configuration_musicfm import MusicFMConfig
from .source import find_weights, require_settings
from .weights import Checkpoint, file_sha256, read_tensors, rename_tensors, require_tensor

_RENAMES = [
    (r"^subsampling_module\.", "subsampling.stages."),
    (r"\.resampling_layer\.0\.", ".norm."),
    (r"\.resampling_layer\.2\.", ".conv."),
    (r"\.convnext_layers\.", ".layers."),
    (r"\.depthwise_block\.1\.", ".depthwise_conv."),
    (r"\.pointwise_block\.0\.", ".layer_norm."),
    (r"\.pointwise_block\.1\.", ".pointwise_conv1."),
    (r"\.pointwise_block\.3\.", ".response_norm."),
    (r"\.pointwise_block\.4\.", ".pointwise_conv2."),
    (r"\.attn\.(q)uery_proj\.", r".self_attn.\1_proj."),
    (r"\.attn\.(k)ey_proj\.", r".self_attn.\1_proj."),
    (r"\.attn\.(v)alue_proj\.", r".self_attn.\1_proj."),
    (r"\.attn\.", ".self_attn."),
    (r"\.attn_layer_norm\.", ".self_attn_layer_norm."),
    (r"\.(ffn\d)\.w_1\.", r".\1.intermediate_dense."),
    (r"\.(ffn\d)\.w_2\.", r".\1.output_dense."),
    (r"\.conv_block\.1\.", ".pointwise_conv1."),
    (r"\.conv_block\.3\.", ".depthwise_conv."),
    (r"\.conv_block\.4\.1\.", ".inner_layer_norm."),
    (r"\.conv_block\.6\.", ".pointwise_conv2."),
]

_SETTINGS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_mel_bins",
    "sampling_rate",
    "n_fft",
    "hop_length",
    "conv_depthwise_kernel_size",
    "rotary_embedding_base",
    "layer_norm_eps",
    "initializer_range",
    "context_seconds",
)


def read_mert2(folder: Path, published_config: dict[str, Any]) -> Checkpoint:
    """
    Read a checkpoint of MERT-v2. Errors are those of [`convert_checkpoint`].

    Raises:
        KeyError: if the configuration lacks a setting.
    """
    weights_file = find_weights(folder)
    published = read_tensors(weights_file)
    config = _configuration(published_config, published)
    renamed = rename_tensors(published, _RENAMES)
    return Checkpoint("mert2", weights_file, file_sha256(weights_file), None, "cc-by-nc-4.0", config, *renamed)


def _configuration(published_config: dict[str, Any], published: dict[str, torch.Tensor]) -> MusicFMConfig:
    """Derive the configuration from that of MERT-v2 and from the statistics in its weights."""
    require_settings(published_config, {"win_length": published_config["n_fft"]})
    mean, std = (require_tensor(published, f"feature_extractor.mel_{name}").float() for name in ("mean", "std"))
    return MusicFMConfig(
        **{name: published_config[name] for name in _SETTINGS},
        front_end="convnext",
        convnext_channels=published_config["subsampling_channels"],
        convnext_depths=published_config["subsampling_depths"],
        convnext_layer_norm_eps=published_config["subsampling_layer_norm_eps"],
        subsampling_time_strides=[1, 2, 2],
        mel_mean=mean.tolist(),
        mel_std=std.clamp(min=1e-5).tolist(),
        conformer_conv_norm="layer_norm",
        rotary_after_projection=True,
        use_final_layer_norm=False,
        hidden_act="gelu",
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        conformer_conv_dropout=0.0,
    )
