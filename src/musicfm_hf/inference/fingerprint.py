"""Digests of an encoder: its weights, and the settings that change its output."""

import hashlib
import json
from typing import Any

import torch

from ..model.configuration_musicfm import MusicFMConfig

# Values of a configuration, by how their names begin, that change nothing in the output of an encoder in eval mode:
# those of heads, of pretraining, and of Transformers. (The dtype of weights is theirs to say.)
_OTHER_VALUES = ("class", "decoding", "freeze_", "id2label", "label", "problem_type", "task", "use_weighted")

_OTHER_VALUES += ("codebook", "cqt_", "kmeans", "mask_", "num_codebooks", "quantizer_", "target_")

_OTHER_VALUES += (
    "_",
    "architectures",
    "auto_map",
    "dtype",
    "extra_",
    "output_",
    "return_dict",
    "transformers_version",
)


def weights_digest(model: torch.nn.Module) -> str:
    """A digest of the configuration's values that matter to an encoder, and of all its weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digest.update(as_json(encoder_settings(model.config)).encode())
    return digest.hexdigest()


def encoder_settings(config: MusicFMConfig) -> dict[str, Any]:
    """The values of a configuration that can change what an encoder in eval mode gives, beside its weights."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith(_OTHER_VALUES) and not name.endswith("dropout")
    }


def as_json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
