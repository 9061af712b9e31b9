"""Published weights: read them safely, and convert their tensors to the names and shapes of our models."""

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..model.configuration_musicfm import MusicFMConfig
from ..model.configuration_text_audio_musicfm import MusicFMTextAudioConfig
from ..model.modeling_musicfm import MusicFMForPreTraining, MusicFMModel, MusicFMPreTrainedModel
from ..model.modeling_text_audio_musicfm import MusicFMTextAudioModel

Renames = list[tuple[str, str]]  # regular expressions and their replacements, applied in this order

# Conformers of MusicFM and MuQ: published keys → ours. The rest of a key stays unchanged.
CONFORMER_RENAMES: Renames = [
    (r"^conv\.conv\.", "musicfm.subsampling.blocks."),
    (r"^conv\.linear\.", "musicfm.subsampling.projection."),
    (r"^conformer\.", "musicfm."),
    (r"\.bn1\.", ".norm1."),
    (r"\.bn2\.", ".norm2."),
    (r"\.conv3\.", ".shortcut_conv."),
    (r"\.bn3\.", ".shortcut_norm."),
    (r"\.linear_(q|k|v|out)\.", r".\1_proj."),
    (r"^linear\.", "head."),
]

# Published keys that our models do not need, and why.
_UNUSED = {
    r"^cls_token$": "never called",
    r"^conformer\.pos_conv_embed\.": "never called, because positions are rotary",
    r"^conformer\.embed_positions\.inv_freq$": "computed from the configuration",
    r"^preprocessor_melspec_2048\.": "computed from the configuration",
    r"^feature_extractor\.(mel_mean|mel_std)$": "part of the configuration",
    r"^feature_extractor\.(mel_scale|spectrogram)\.": "computed from the configuration",
    r"^mulan\.audio\.aggregator\.": "never called",
    r"^mulan\.text\.model\.(pooler\.|embeddings\.position_ids$)": "never called",
    r"\.stale_counter$": "only counts while the quantizer is trained",
}


class Checkpoint(NamedTuple):
    """A published checkpoint, with tensors under our names."""

    family: str  # "musicfm", "muq", "mert", "mert2" or "mulan"
    weights_file: Path
    sha256: str  # of the file with the weights
    variant: str | None  # "msd" or "fma", for a published file of MusicFM
    license: str | None  # of the weights; `None` if it is not known
    config: MusicFMConfig | MusicFMTextAudioConfig
    tensors: dict[str, torch.Tensor]
    published_names: dict[str, str]  # name → key in the file
    unused: dict[str, str]  # key in the file → why it was left out


class RenamedTensors(NamedTuple):
    """Tensors under our names, as in [`Checkpoint`]."""

    tensors: dict[str, torch.Tensor]
    published_names: dict[str, str]
    unused: dict[str, str]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """
    Map the tensors of a checkpoint into memory, keyed by their published names without `model.`.

    Raises:
        ValueError: if the file cannot be read without running code in it, or does not hold a dictionary of tensors.
    """
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint that can be read safely: {error}") from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError(f"{path} must contain a dictionary of tensors, or one under `state_dict`.")
    return {key.removeprefix("model."): tensor for key, tensor in tensors.items()}


def rename_tensors(published: dict[str, torch.Tensor], renames: Renames) -> RenamedTensors:
    """Convert published tensors to our names and layout, and leave out those that our models do not need."""
    result = RenamedTensors({}, {}, {})
    for key, tensor in published.items():
        reason = next((why for pattern, why in _UNUSED.items() if re.search(pattern, key)), None)
        if reason is not None:
            result.unused[key] = reason
            continue
        name = key
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        result.published_names[name] = key
        result.tensors[name] = _reshape(name, tensor)
    return result


def _reshape(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a published tensor in our layout."""
    if name.endswith("num_batches_tracked"):
        return tensor.to(torch.int64)
    if tensor.ndim == 4:
        return tensor.transpose(
            2, 3
        ).contiguous()  # kernels are published as (frequency, time), ours (time, frequency)
    if ".response_norm." in name:
        return tensor.flatten()
    if name.startswith("quantizer.") and tensor.ndim == 3:
        tensor = tensor.squeeze(-1)  # a convolution over one frame is a linear layer
        return tensor.squeeze(-1) if name.endswith("_magnitude") else tensor
    if re.search(r"\.pointwise_conv[12]\.weight$", name) and tensor.ndim == 3:
        return tensor.squeeze(-1)
    return tensor


def stack_codebooks(renamed: RenamedTensors) -> None:
    """
    Replace `quantizer.0.name`, `quantizer.1.name`, … with `quantizer.name`, which has one more axis.

    Raises:
        ValueError: if their shapes differ.
    """
    tensors, names = renamed.tensors, renamed.published_names
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for name in [name for name in tensors if re.match(r"quantizer\.\d+\.", name)]:
        _, index, tail = name.split(".", 2)
        parts.setdefault(f"quantizer.{tail}", {})[int(index)] = tensors.pop(name)
        names[f"quantizer.{tail}"] = names[name]
    for name, codebooks in parts.items():
        if len({tensor.shape for tensor in codebooks.values()}) > 1:
            raise ValueError(f"The codebooks of the checkpoint have different shapes: {names[name]}.")
        tensors[name] = torch.stack([codebooks[index] for index in sorted(codebooks)])


def require_tensor(published: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    """
    Return a tensor that every checkpoint of the family has.

    Raises:
        ValueError: if it is missing.
    """
    if key not in published:
        raise ValueError(f"The checkpoint has no tensor `{key}`, which all checkpoints of its family have.")
    return published[key]


def conformer_settings(published: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Derive fields of the configuration from the tensor shapes of the conformer of MusicFM or MuQ."""
    layers = {int(match[1]) for key in published if (match := re.match(r"conformer\.layers\.(\d+)\.", key))}
    first_layer = "conformer.layers.0."
    depthwise = require_tensor(published, first_layer + "conv_module.depthwise_conv.weight")
    return {
        "hidden_size": require_tensor(published, "conv.linear.weight").shape[0],
        "num_hidden_layers": max(layers, default=-1) + 1,
        "intermediate_size": require_tensor(published, first_layer + "ffn1.intermediate_dense.weight").shape[0],
        "conv_depthwise_kernel_size": depthwise.shape[-1],
        "subsampling_conv_channels": require_tensor(published, "conv.conv.0.conv1.weight").shape[0],
    }


def build_model(checkpoint: Checkpoint) -> MusicFMPreTrainedModel | MusicFMTextAudioModel:
    """
    Build the model for the tensors: both towers of MuQ-MuLan; otherwise the encoder, with quantizer and prediction
    head if the checkpoint has them.

    Raises:
        ValueError: if tensors are missing, unknown, or have a different shape. The message names all of them.
    """
    has_head = any(name.startswith(("head.", "quantizer.")) for name in checkpoint.tensors)
    model: MusicFMPreTrainedModel | MusicFMTextAudioModel
    with torch.device("meta"):
        if isinstance(checkpoint.config, MusicFMTextAudioConfig):
            model = MusicFMTextAudioModel(checkpoint.config)
        else:
            model = MusicFMForPreTraining(checkpoint.config) if has_head else MusicFMModel(checkpoint.config)
    prefix = "" if has_head else "musicfm."
    tensors = {name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items()}
    keys = {name.removeprefix(prefix): key for name, key in checkpoint.published_names.items()}
    expected = model.state_dict()
    problems = [f"missing: {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"not known: {keys[name]}" for name in sorted(tensors.keys() - expected.keys())]
    problems += [
        f"shape: {keys[name]} gives {tuple(tensors[name].shape)} where {tuple(expected[name].shape)} is needed"
        for name in sorted(expected.keys() & tensors.keys())
        if expected[name].shape != tensors[name].shape
    ]
    if problems:
        raise ValueError("The checkpoint does not fit the model:\n  " + "\n  ".join(problems))
    model.load_state_dict(tensors, strict=True, assign=True)
    return model
