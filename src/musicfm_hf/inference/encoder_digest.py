"""Digests of encoders and heads: their weights, and the settings that affect their output."""

import hashlib
import json
from typing import Any

import torch

from ..model.configuration_musicfm import MusicFMConfig
from ..model.configuration_text_audio_musicfm import MusicFMTextAudioConfig
from ..model.modeling_musicfm import MusicFMForXVector
from ..model.modeling_text_audio_musicfm import MusicFMTextAudioModel
from .embedding import HeadModel
from .exported import EncoderModel

# Prefixes of settings that do not affect the output of an encoder in eval mode: those of heads, of pretraining, and of
# Transformers. The dtype is that of the weights.
_HEADS: tuple[str, ...] = (
    "calibration",
    "class",
    "contrastive_",
    "decoding",
    "freeze_",
    "id2label",
    "label",
    "pitch_",
    "problem_type",
    "task",
)
_HEADS += ("use_weighted", "vicreg_", "vocabulary", "xvector_")

_PRETRAINING = ("codebook", "cqt_", "kmeans", "mask_", "mixup_", "num_codebooks", "quantizer_", "target_")

_TRANSFORMERS = (
    "_",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "dtype",
    "extra_",
    "output_",
    "return_dict",
    "transformers_version",
)


def weights_digest(model: EncoderModel | MusicFMTextAudioModel) -> str:
    """
    Return a digest of all weights of an encoder or of both towers (of an exported encoder, of its files), and of the
    settings that affect the output.
    """
    return _digest(model, encoder_settings(model.config))


def head_digest(model: HeadModel | MusicFMForXVector, encoder: str) -> str:
    """
    Return a digest of all weights of a model with a head, and of all settings of the model.

    Args:
        encoder (`str`): Output of [`weights_digest`] for its encoder.
    """
    settings = model.config.to_dict()
    settings = {name: value for name, value in settings.items() if not name.startswith(_TRANSFORMERS)}
    heads = torch.nn.ModuleDict({name: part for name, part in model.named_children() if part is not model.musicfm})
    return _digest(heads, settings | {"encoder": encoder})


def _digest(module: torch.nn.Module, settings: dict[str, Any]) -> str:
    """Return a digest of all weights of a module, and of settings."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(_state_dict(module).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for adapter in adapter_states(module):
        digest.update(adapter.encode())
    digest.update(as_json(settings).encode())
    return digest.hexdigest()


def adapter_states(module: torch.nn.Module) -> list[str]:
    """Return the name of each layer with a LoRA adapter, with its scale, and which adapters are active."""
    return [
        f"{name} {part.scaling} {part.active_adapters} {part.disable_adapters}"
        for name, part in module.named_modules()
        if hasattr(part, "scaling") and hasattr(part, "active_adapters")
    ]


def _state_dict(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a module, including those that are offloaded."""
    weights = module.state_dict()
    if not any(tensor.is_meta for tensor in weights.values()):
        return weights
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    return get_state_dict_offloaded_model(module)


def encoder_settings(config: MusicFMConfig | MusicFMTextAudioConfig) -> dict[str, Any]:
    """Return the settings of a configuration that can affect the output of an encoder in eval mode."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith(_HEADS + _PRETRAINING + _TRANSFORMERS) and not name.endswith("dropout")
    }


def as_json(settings: dict[str, Any]) -> str:
    """Return settings as JSON with sorted keys. Values that JSON cannot represent become text."""
    return json.dumps(settings, sort_keys=True, default=str)
