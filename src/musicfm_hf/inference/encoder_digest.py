"""Digests of an encoder: its weights, and the settings that affect its output."""

import hashlib
import json
from typing import Any

import torch

from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMModel

# Prefixes of settings that do not affect the output of an encoder in eval mode: those of heads, of pretraining, and of
# Transformers. The dtype is that of the weights.
_HEADS = ("class", "decoding", "freeze_", "id2label", "label", "problem_type", "task", "use_weighted")

_PRETRAINING = ("codebook", "cqt_", "kmeans", "mask_", "num_codebooks", "quantizer_", "target_")

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


def weights_digest(model: MusicFMModel) -> str:
    """Return a digest of all weights of an encoder, and of the settings that affect its output."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digest.update(as_json(encoder_settings(model.config)).encode())
    return digest.hexdigest()


def encoder_settings(config: MusicFMConfig) -> dict[str, Any]:
    """Return the settings of a configuration that can affect the output of an encoder in eval mode."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith(_HEADS + _PRETRAINING + _TRANSFORMERS) and not name.endswith("dropout")
    }


def as_json(settings: dict[str, Any]) -> str:
    """Return settings as JSON with sorted keys. Values that JSON cannot represent become text."""
    return json.dumps(settings, sort_keys=True, default=str)


def digest(content: bytes) -> str:
    """Return the BLAKE2b digest of bytes, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
