"""Checkpoints of MuQ-MuLan: a folder with `config.json` and weights."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from transformers import AutoTokenizer, PreTrainedTokenizerBase, XLMRobertaConfig

from ..model.configuration_text_audio_musicfm import MusicFMTextAudioConfig
from .muq import MUQ_RENAMES, muq_configuration
from .source import find_weights, require_settings
from .weights import Checkpoint, RenamedTensors, file_sha256, read_tensors, rename_tensors

_AUDIO_ENCODER = "mulan.audio.model.model."

# Published keys outside the audio encoder → ours. `to_kv` and `feed_forward.1` are split before.
_RENAMES = [
    (r"^mulan\.text\.model\.", "text_model."),
    (r"^mulan\.(audio|text)\.proj\.", r"\1_tower.input_projection."),
    (r"^mulan\.(audio|text)_to_latents\.", r"\1_tower.projection."),
    (r"^mulan\.(audio|text)\.transformer\.layers\.", r"\1_tower.layers."),
    (r"(_tower\.layers\.\d+)\.0\.norm\.learned_gamma$", r"\1.attention_norm.weight"),
    (r"(_tower\.layers\.\d+)\.0\.to_(q|k|v)\.", r"\1.attention.\2_proj."),
    (r"(_tower\.layers\.\d+)\.0\.to_out\.0\.", r"\1.attention.out_proj."),
    (r"(_tower\.layers\.\d+)\.0\.(q|k)_scale$", r"\1.attention.\2_scale"),
    (r"(_tower\.layers\.\d+)\.1\.0\.learned_gamma$", r"\1.feed_forward_norm.weight"),
    (r"(_tower\.layers\.\d+)\.1\.1\.(up|gate)\.", r"\1.\2_proj."),
    (r"(_tower\.layers\.\d+)\.1\.4\.", r"\1.down_proj."),
    (r"^mulan\.contrast\.temperatures$", "logit_scale"),
]


def read_mulan(folder: Path, published_config: dict[str, Any]) -> Checkpoint:
    """
    Read a checkpoint of MuQ-MuLan. The configurations of its two encoders are `muq_config.json` and
    `text_config.json` in the folder, or those of the repositories that its own configuration names. Errors are those
    of [`convert_checkpoint`].

    Raises:
        KeyError: if a configuration lacks a setting.
        OSError: if a configuration is neither in the folder nor on the Hub.
    """
    weights_file = find_weights(folder)
    published = read_tensors(weights_file)
    encoder = {key.removeprefix(_AUDIO_ENCODER): t for key, t in published.items() if key.startswith(_AUDIO_ENCODER)}
    config = _configuration(folder, published_config, encoder)
    towers = {key: tensor for key, tensor in published.items() if not key.startswith(_AUDIO_ENCODER)}
    renamed = _rename_encoder(encoder)
    rest = rename_tensors(_split(towers), _RENAMES)
    renamed.tensors.update(rest.tensors)
    renamed.published_names.update(rest.published_names)
    renamed.unused.update(rest.unused)
    if "logit_scale" in renamed.tensors:
        renamed.tensors["logit_scale"] = renamed.tensors["logit_scale"].reshape(())
    return Checkpoint("mulan", weights_file, file_sha256(weights_file), None, "cc-by-nc-4.0", config, *renamed)


def find_tokenizer(folder: Path, published_config: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    """
    Return the tokenizer of the text encoder: that in the folder, or that of the repository that the configuration
    names. Return `None` if neither can be read.
    """
    has_files = any((folder / name).is_file() for name in ("tokenizer.json", "sentencepiece.bpe.model"))
    try:
        return AutoTokenizer.from_pretrained(folder if has_files else published_config["text_model"]["name"])
    except (OSError, ValueError):
        return None


def _configuration(
    folder: Path, published_config: dict[str, Any], encoder: dict[str, torch.Tensor]
) -> MusicFMTextAudioConfig:
    """Derive the configuration from those of MuQ-MuLan and its encoders."""
    settings, audio = published_config["mulan"], published_config["audio_model"]
    unsupported = {"hierarchical_contrastive_loss": False, "sigmoid_contrastive_loss": False}
    require_settings(unsupported | settings, unsupported)
    audio_config = muq_configuration(_read_config(folder / "muq_config.json", audio["name"]), encoder)
    require_settings(settings, {"sr": audio_config.sampling_rate})
    layer = audio["use_layer_idx"]  # may count from the end
    text_config = _read_config(folder / "text_config.json", published_config["text_model"]["name"])
    return MusicFMTextAudioConfig(
        audio_config=audio_config,
        text_config=XLMRobertaConfig.from_dict(text_config),
        audio_layer=layer if layer >= 0 else layer + audio_config.num_hidden_layers + 1,
        audio_transformer=_transformer(published_config["audio_transformer"]),
        text_transformer=_transformer(published_config["text_transformer"]),
        projection_dim=settings["dim_latent"],
        clip_seconds=settings["clip_secs"],
        use_decoupled_loss=settings["decoupled_contrastive_learning"],
    )


def _transformer(published: dict[str, Any]) -> dict[str, Any]:
    """Return our settings of a tower."""
    return {
        "hidden_size": published["dim"],
        "num_hidden_layers": published["tf_depth"],
        "num_attention_heads": published["heads"],
        "head_dim": published["dim_head"],
        "intermediate_size": int(published["dim"] * published["ff_mult"] * 2 / 3),
        "attention_dropout": published["attn_dropout"],
        "hidden_dropout": published["ff_dropout"],
    }


def _read_config(path: Path, repo: str) -> dict[str, Any]:
    """Read the configuration of an encoder, in the folder or on the Hub."""
    if not path.is_file():
        try:
            path = Path(hf_hub_download(repo, "config.json"))
        except (OSError, ValueError) as error:
            raise OSError(
                f"The configuration of the encoder {repo} cannot be loaded ({error}). Save it as {path}."
            ) from error
    return json.loads(path.read_text(encoding="utf-8"))


def _rename_encoder(encoder: dict[str, torch.Tensor]) -> RenamedTensors:
    """Rename the tensors of MuQ, without its quantizer and its prediction head."""
    renamed = rename_tensors(encoder, MUQ_RENAMES)
    result = RenamedTensors({}, {}, {_AUDIO_ENCODER + key: reason for key, reason in renamed.unused.items()})
    for name, tensor in renamed.tensors.items():
        key = _AUDIO_ENCODER + renamed.published_names[name]
        if name.startswith(("head.", "quantizer.")):
            result.unused[key] = "only for masked pretraining"
            continue
        ours = "audio_model." + name.removeprefix("musicfm.")
        result.tensors[ours], result.published_names[ours] = tensor, key
    return result


def _split(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Split the tensors that hold two projections: keys and values, and both inputs of the gated linear unit."""
    result = {}
    for key, tensor in tensors.items():
        if key.endswith(".0.to_kv.weight"):
            names = [key.replace("to_kv", name) for name in ("to_k", "to_v")]
        elif key.endswith(".1.1.weight"):
            names = [key.replace(".1.1.weight", f".1.1.{name}.weight") for name in ("up", "gate")]
        else:
            result[key] = tensor
            continue
        for name, part in zip(names, tensor.chunk(2), strict=True):
            result[name] = part.contiguous()
    return result
