"""Published MusicFM weights → a folder that `from_pretrained` loads."""

import hashlib
import json
import math
import os
import pickle
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .hub import write_card
from .model.configuration_musicfm import MusicFMConfig
from .model.feature_extraction_musicfm import MusicFMFeatureExtractor
from .model.modeling_musicfm import MusicFMModel

# The first digits of the SHA-256 of the published files, and the mel statistics that belong to them.
PUBLISHED_SHA256 = {"68392eee": "fma", "218b483a": "msd"}
PUBLISHED_STATS = {
    "msd": (6.768444971712967, 18.417922652295623),
    "fma": (3.0710578151459664, 20.999089814337626),
}

# Published keys → ours, applied in this order. The rest of a key stays as it is.
_RENAMES = [
    (r"^conv\.conv\.", "subsampling.blocks."),
    (r"^conv\.linear\.", "subsampling.projection."),
    (r"^conformer\.", ""),
    (r"\.bn1\.", ".norm1."),
    (r"\.bn2\.", ".norm2."),
    (r"\.conv3\.", ".shortcut_conv."),
    (r"\.bn3\.", ".shortcut_norm."),
    (r"\.linear_(q|k|v|out)\.", r".\1_proj."),
]

# Published keys that nothing in the encoder calls.
_UNUSED = {
    r"^cls_token$": "never called",
    r"^conformer\.pos_conv_embed\.": "never called, the positions are rotary",
    r"^conformer\.embed_positions\.inv_freq$": "computed from the configuration",
    r"^preprocessor_melspec_2048\.": "computed from the configuration",
    r"^quantizer_melspec_2048(_\d+)?\.": "makes the targets of masked pretraining",
    r"^linear\.(weight|bias)$": "predicts the targets of masked pretraining",
}


class Conversion(NamedTuple):
    """What [`convert_checkpoint`] did."""

    output_dir: Path
    sha256: str  # of the source file
    variant: str | None  # "msd" or "fma", if the source is a published file
    num_parameters: int
    unused: dict[str, str]  # published keys that were left out, and why


def convert_checkpoint(
    source: str | Path,
    output_dir: str | Path,
    stats: str | Path | None = None,
    variant: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """
    Convert a published MusicFM checkpoint (github.com/minzwon/musicfm, Hub repository minzwon/MusicFM) to a folder
    with `config.json`, `model.safetensors`, `preprocessor_config.json`, a card and the code.

    Args:
        source: A `.pt` file, a folder with `pretrained_*.pt`, or a Hub repository that has them.
        output_dir: The folder to make. It appears when it is complete, or not at all.
        stats: The JSON file with `melspec_2048_mean` and `melspec_2048_std`; by default the one beside the weights.
        variant (`str`, *optional*): `"msd"` or `"fma"`, where the source has both.
        overwrite (`bool`): Replace `output_dir` if it is there.

    Raises:
        FileNotFoundError: a file is missing.
        FileExistsError: `output_dir` is there and not empty, and `overwrite` was not given or it is no earlier model.
        ValueError: the file is not such a checkpoint; missing, extra and misshaped tensors are named. Or it is the
            other published one than `variant` says.

    Statistics that are not those known for a published file give a `UserWarning`.
    """
    output_dir = Path(output_dir).resolve()
    _check_output(output_dir, overwrite)
    weights_file, stats_file = _find_files(source, stats, variant)
    sha256 = _sha256(weights_file)
    mean, std = _read_stats(stats_file)
    published = PUBLISHED_SHA256.get(sha256[:8])
    if variant is not None and published not in (None, variant):
        raise ValueError(f"{weights_file} is the published {published} checkpoint, not {variant}.")
    if published is not None and not all(map(math.isclose, (mean, std), PUBLISHED_STATS[published])):
        warnings.warn(
            f"{stats_file} says mean {mean}, standard deviation {std}; for the published {published} checkpoint "
            f"{PUBLISHED_STATS[published]} are known. With wrong statistics the embeddings are wrong.",
            stacklevel=2,
        )
    model, unused = _build_model(_read_state_dict(weights_file), mean, std)

    result = Conversion(output_dir, sha256, published, sum(p.numel() for p in model.parameters()), unused)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=output_dir.parent, prefix=f".{output_dir.name}."))
    try:
        partial.chmod(0o755)
        model.save_pretrained(partial)
        config = model.config
        MusicFMFeatureExtractor(sampling_rate=config.sampling_rate, min_samples=config.min_samples).save_pretrained(
            partial
        )
        write_card(partial, "converted", {"conversion": result, "config": config, "source_name": weights_file.name})
        _put_in_place(partial, output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _check_output(output_dir: Path, overwrite: bool) -> None:
    """May this folder be made, or replaced? Only an earlier model is ever replaced."""
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return
    if not output_dir.is_dir():
        raise FileExistsError(f"{output_dir} is a file.")
    if not overwrite:
        raise FileExistsError(f"{output_dir} is not empty. Choose another folder, or pass `overwrite`.")
    if not (output_dir / "config.json").is_file() or list(output_dir.glob("*.pt")):
        raise FileExistsError(f"{output_dir} has other things than a converted model; it is not replaced.")


def _put_in_place(partial: Path, output_dir: Path) -> None:
    """Rename; what was there before is deleted only when the new folder is in its place."""
    if not output_dir.exists():
        os.replace(partial, output_dir)
        return
    earlier = partial.with_name(f"{partial.name}.replaced")
    os.replace(output_dir, earlier)
    try:
        os.replace(partial, output_dir)
    except OSError:
        os.replace(earlier, output_dir)
        raise
    shutil.rmtree(earlier)


def _find_files(source: str | Path, stats: str | Path | None, variant: str | None) -> tuple[Path, Path]:
    """The weights and the statistics, downloaded if the source is a Hub repository."""
    if variant not in (None, "msd", "fma"):
        raise ValueError(f"`variant` must be 'msd' or 'fma', got {variant!r}.")
    path = Path(source)
    if path.is_file():
        weights = path
    elif path.is_dir():
        found = sorted(path.glob(f"pretrained_{variant}.pt" if variant else "*.pt"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ValueError(f"{path} must have one checkpoint (*.pt), found {names}. Name the file, or a `variant`.")
        weights = found[0]
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix != ".pt":
        from huggingface_hub import hf_hub_download

        if variant is None:
            raise ValueError(f"The Hub repository {source} has two checkpoints: choose `variant` 'msd' or 'fma'.")
        weights = Path(hf_hub_download(str(source), f"pretrained_{variant}.pt"))
        stats = stats or hf_hub_download(str(source), f"{variant}_stats.json")
    else:
        raise FileNotFoundError(f"There is no file or folder {source}.")
    if stats is None:
        name = weights.stem.removeprefix("pretrained").strip("_")
        beside = [weights.with_name(f"{name}_stats.json"), weights.with_name("stats.json")]
        stats = next((file for file in beside if file.is_file()), None)
        if stats is None:
            looked = " or ".join(file.name for file in beside)
            raise FileNotFoundError(
                f"There is no {looked} beside {weights}: pass `stats`, the mel statistics it needs."
            )
    if not Path(stats).is_file():
        raise FileNotFoundError(f"There is no file {stats}.")
    return weights, Path(stats)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_stats(path: Path) -> tuple[float, float]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return float(values["melspec_2048_mean"]), float(values["melspec_2048_std"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be JSON with the numbers `melspec_2048_mean` and `melspec_2048_std` ({error!r})."
        ) from error


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Published tensors by name without `model.`, mapped from the file and not yet read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint that can be read safely: {error}") from error
    state_dict = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state_dict, dict) or not all(isinstance(v, torch.Tensor) for v in state_dict.values()):
        raise ValueError(f"{path} must hold a dictionary of tensors, or one under `state_dict`.")
    return {key.removeprefix("model."): tensor for key, tensor in state_dict.items()}


def _build_model(published: dict[str, torch.Tensor], mean: float, std: float) -> tuple[MusicFMModel, dict[str, str]]:
    """The encoder with these weights, and the keys it has no use for."""
    config = _config_from_shapes(published, mean, std)
    with torch.device("meta"):
        model = MusicFMModel(config)
    converted: dict[str, torch.Tensor] = {}
    unused: dict[str, str] = {}
    names: dict[str, str] = {}
    for key, tensor in published.items():
        reason = next((why for pattern, why in _UNUSED.items() if re.search(pattern, key)), None)
        if reason is not None:
            unused[key] = reason
            continue
        name = key
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        names[name] = key
        converted[name] = _reshape(name, tensor)

    expected = model.state_dict()
    problems = [f"missing: {name}" for name in sorted(expected.keys() - converted.keys())]
    problems += [f"not known: {names[name]}" for name in sorted(converted.keys() - expected.keys())]
    problems += [
        f"shape: {names[name]} is {tuple(published[names[name]].shape)}, which gives {tuple(converted[name].shape)} "
        f"where {tuple(expected[name].shape)} is needed"
        for name in sorted(expected.keys() & converted.keys())
        if expected[name].shape != converted[name].shape
    ]
    if problems:
        raise ValueError("The checkpoint does not fit the MusicFM encoder:\n  " + "\n  ".join(problems))
    model.load_state_dict(converted, strict=True, assign=True)
    return model, unused


def _reshape(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A published tensor in our layout."""
    if name.endswith("num_batches_tracked"):
        return tensor.to(torch.int64)
    if tensor.ndim == 4:
        return tensor.transpose(2, 3).contiguous()  # kernels are (frequency, time) there, (time, frequency) here
    if re.search(r"\.pointwise_conv[12]\.weight$", name) and tensor.ndim == 3:
        return tensor.squeeze(-1)  # a convolution over one frame is a linear layer
    return tensor


def _config_from_shapes(published: dict[str, torch.Tensor], mean: float, std: float) -> MusicFMConfig:
    def shape(key: str) -> torch.Size:
        if key not in published:
            raise ValueError(f"The checkpoint is not a MusicFM encoder: it has no tensor `{key}`.")
        return published[key].shape

    first_layer = "conformer.layers.0."
    num_frequencies, num_mel_bins = shape("preprocessor_melspec_2048.mel_stft.mel_scale.fb")
    hidden_size = shape("conv.linear.weight")[0]
    layers = {int(m[1]) for key in published if (m := re.match(r"conformer\.layers\.(\d+)\.", key))}
    settings: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": max(layers, default=-1) + 1,
        "num_attention_heads": hidden_size // (2 * shape("conformer.embed_positions.inv_freq")[0]),
        "intermediate_size": shape(first_layer + "ffn1.intermediate_dense.weight")[0],
        "conv_depthwise_kernel_size": shape(first_layer + "conv_module.depthwise_conv.weight")[-1],
        "subsampling_conv_channels": shape("conv.conv.0.conv1.weight")[0],
        "num_mel_bins": num_mel_bins,
        "n_fft": 2 * (num_frequencies - 1),
        "mel_mean": mean,
        "mel_std": std,
    }
    return MusicFMConfig(**settings)
