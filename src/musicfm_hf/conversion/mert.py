"""Checkpoints of MERT: a folder with `config.json`, `preprocessor_config.json` and weights."""

import json
import math
from pathlib import Path
from typing import Any

from ..model.configuration_musicfm import MusicFMConfig
from .source import find_weights, require_settings
from .weights import Checkpoint, RenamedTensors, file_sha256, read_tensors, rename_tensors

_RENAMES = [
    (r"^feature_extractor\.conv_layers\.0\.layer_norm\.", "subsampling.group_norm."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"subsampling.convs.\1."),
    (r"^feature_projection\.", "subsampling."),
    (r"^masked_spec_embed$", "encoder_input.masked_spec_embed"),
    (r"^encoder\.pos_conv_embed\.conv\.", "encoder_input.pos_conv."),
    (r"^encoder\.layers\.(\d+)\.attention\.", r"layers.\1.self_attn."),
    (r"^encoder\.layers\.(\d+)\.layer_norm\.", r"layers.\1.self_attn_layer_norm."),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.", r"layers.\1.ffn."),
    (r"^encoder\.layers\.", "layers."),
    (r"^encoder\.layer_norm\.", "layer_norm."),
]
# With layer norms after the modules, this norm precedes the first layer.
_POST_NORM_RENAME = (r"^layer_norm\.", "encoder_input.layer_norm.")

# Names of the magnitude and direction of a weight-normed convolution, in older and newer versions of torch.
_WEIGHT_NORM_NAMES = [
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
]

_SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout",
    "activation_dropout",
    "attention_dropout",
    "layer_norm_eps",
    "initializer_range",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "feat_extract_activation",
    "feat_proj_dropout",
    "do_stable_layer_norm",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
)
_DEFAULTS = {"feat_proj_layer_norm": True, "conv_pos_batch_norm": False, "deepnorm": False}
_SUPPORTED = {
    "feat_extract_norm": "group",
    "conv_bias": False,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "feature_extractor_cqt": False,
    "deepnorm": False,
}


def read_mert(folder: Path, published_config: dict[str, Any]) -> Checkpoint:
    """
    Read a checkpoint of MERT. Errors are those of [`convert_checkpoint`].

    Raises:
        KeyError: if the configuration lacks a setting.
    """
    weights_file = find_weights(folder)
    published = read_tensors(weights_file)
    config = _configuration(published_config, folder)
    renamed = rename_tensors(published, [*_RENAMES, *([] if config.do_stable_layer_norm else [_POST_NORM_RENAME])])
    _fold_weight_norm(renamed)
    return Checkpoint("mert", weights_file, file_sha256(weights_file), None, "cc-by-nc-4.0", config, *renamed)


def _configuration(published_config: dict[str, Any], folder: Path) -> MusicFMConfig:
    """Derive the configuration from those of MERT and its feature extractor."""
    require_settings(_DEFAULTS | published_config, _SUPPORTED)
    preprocessor_file = folder / "preprocessor_config.json"
    if not preprocessor_file.is_file():
        raise FileNotFoundError(f"{preprocessor_file} does not exist; it specifies whether waveforms are normalized.")
    preprocessor = json.loads(preprocessor_file.read_text(encoding="utf-8"))
    hop_length = math.prod(published_config["conv_stride"])
    sampling_rate = published_config["sample_rate"]
    return MusicFMConfig(
        encoder_type="bert",
        front_end="waveform",
        **{name: published_config[name] for name in _SETTINGS},
        sampling_rate=sampling_rate,
        hop_length=hop_length,
        do_normalize=preprocessor["do_normalize"],
        mask_type="embedding",
        mask_prob=0.8,
        mask_seconds=5 * hop_length / sampling_rate,
    )


def _fold_weight_norm(renamed: RenamedTensors) -> None:
    """Replace the magnitude and direction of the positional convolution with their product."""
    tensors, names = renamed.tensors, renamed.published_names
    stem = "encoder_input.pos_conv."
    for magnitude, direction in _WEIGHT_NORM_NAMES:
        if stem + magnitude in tensors and stem + direction in tensors:
            g, v = tensors.pop(stem + magnitude), tensors.pop(stem + direction)
            tensors[f"{stem}weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))
            names[f"{stem}weight"] = names[stem + direction]
