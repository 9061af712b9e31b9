"""Checkpoints of MuQ: a folder with `config.json` and weights."""

from pathlib import Path
from typing import Any

import torch

from ..model.configuration_musicfm import MusicFMConfig
from .source import find_weights, require_settings
from .weights import (
    CONFORMER_RENAMES,
    Checkpoint,
    conformer_settings,
    file_sha256,
    read_tensors,
    rename_tensors,
    require_tensor,
    stack_codebooks,
)

MUQ_RENAMES = [
    *CONFORMER_RENAMES,
    (r"^rvq\.quantizers\.", "quantizer."),
    (r"\.codebook\.weight$", ".codebook"),
    (r"^(quantizer\.\d+)\.(in|out)_proj\.bias$", r"\1.\2_bias"),
    (r"^(quantizer\.\d+)\.(in|out)_proj\.(weight_g|parametrizations\.weight\.original0)$", r"\1.\2_magnitude"),
    (r"^(quantizer\.\d+)\.(in|out)_proj\.(weight_v|parametrizations\.weight\.original1)$", r"\1.\2_direction"),
]


def read_muq(folder: Path, published_config: dict[str, Any]) -> Checkpoint:
    """
    Read a checkpoint of MuQ. Errors are those of [`convert_checkpoint`].

    Raises:
        KeyError: if the configuration lacks a setting.
    """
    weights_file = find_weights(folder)
    published = read_tensors(weights_file)
    config = muq_configuration(published_config, published)
    renamed = rename_tensors(published, MUQ_RENAMES)
    stack_codebooks(renamed)
    return Checkpoint("muq", weights_file, file_sha256(weights_file), None, "cc-by-nc-4.0", config, *renamed)


def muq_configuration(published_config: dict[str, Any], published: dict[str, torch.Tensor]) -> MusicFMConfig:
    """Derive the configuration from that of MuQ and from tensor shapes. Errors are those of [`read_muq`]."""
    require_settings(published_config, {"label_rate": 25, "features": ["melspec_2048"], "use_rvq_target": True})
    encoder = published_config["w2v2_config"]
    codes, dim = require_tensor(published, "rvq.quantizers.0.codebook.weight").shape
    return MusicFMConfig(
        **conformer_settings(published),
        num_attention_heads=encoder["num_attention_heads"],
        rotary_embedding_base=encoder["rotary_embedding_base"],
        hidden_act=encoder["hidden_act"],
        hidden_dropout=encoder["hidden_dropout"],
        activation_dropout=encoder["activation_dropout"],
        attention_dropout=encoder["attention_dropout"],
        conformer_conv_dropout=encoder["conformer_conv_dropout"],
        layer_norm_eps=encoder["layer_norm_eps"],
        initializer_range=encoder["initializer_range"],
        hop_length=published_config["hop_length"],
        num_mel_bins=published_config["n_mels"],
        mel_mean=published_config["stat"]["melspec_2048_mean"],
        mel_std=published_config["stat"]["melspec_2048_std"],
        mask_prob=published_config["mask_prob"],
        mask_seconds=published_config["mask_hop"],
        quantizer_type="residual_vq",
        num_codebooks=published_config["rvq_n_codebooks"],
        codebook_size=codes,
        codebook_dim=dim,
    )
