"""Published MusicFM, MuQ and MERT weights → a folder that `from_pretrained` loads."""

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
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..hub.cards import write_card
from ..model.configuration_musicfm import MusicFMConfig
from ..model.feature_extraction_musicfm import MusicFMFeatureExtractor
from ..model.modeling_musicfm import MusicFMForPreTraining, MusicFMModel, MusicFMPreTrainedModel

# The first digits of the SHA-256 of the published files, and the mel statistics that belong to them.
PUBLISHED_SHA256 = {"68392eee": "fma", "218b483a": "msd"}

PUBLISHED_STATS = {
    "msd": (6.768444971712967, 18.417922652295623),
    "fma": (3.0710578151459664, 20.999089814337626),
}

# Published keys → ours, applied in this order. The rest of a key stays as it is.
_CONFORMER_RENAMES = [
    (r"^conv\.conv\.", "musicfm.subsampling.blocks."),
    (r"^conv\.linear\.", "musicfm.subsampling.projection."),
    (r"^conformer\.", "musicfm."),
    (r"\.bn1\.", ".norm1."),
    (r"\.bn2\.", ".norm2."),
    (r"\.conv3\.", ".shortcut_conv."),
    (r"\.bn3\.", ".shortcut_norm."),
    (r"\.linear_(q|k|v|out)\.", r".\1_proj."),
    (r"^linear\.", "head."),
    (r"^quantizer_melspec_2048_(\d+)\.", r"quantizer.\1."),
    (r"^quantizer_melspec_2048\.", "quantizer.0."),
    (r"\.random_projection$", ".projection"),
    (r"^rvq\.quantizers\.", "quantizer."),
    (r"\.codebook\.weight$", ".codebook"),
    (r"^(quantizer\.\d+)\.(in|out)_proj\.bias$", r"\1.\2_bias"),
    (r"^(quantizer\.\d+)\.(in|out)_proj\.(weight_g|parametrizations\.weight\.original0)$", r"\1.\2_magnitude"),
    (r"^(quantizer\.\d+)\.(in|out)_proj\.(weight_v|parametrizations\.weight\.original1)$", r"\1.\2_direction"),
]

_BERT_RENAMES = [
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

_SHARED_SETTINGS = [
    "hidden_act",
    "hidden_dropout",
    "activation_dropout",
    "attention_dropout",
    "layer_norm_eps",
    "initializer_range",
]

_WEIGHT_NORM_NAMES = [
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
]

_WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")

# Published keys that nothing calls.
_UNUSED = {
    r"^cls_token$": "never called",
    r"^conformer\.pos_conv_embed\.": "never called, the positions are rotary",
    r"^conformer\.embed_positions\.inv_freq$": "computed from the configuration",
    r"^preprocessor_melspec_2048\.": "computed from the configuration",
    r"\.stale_counter$": "only counts while the quantizer is trained",
}


class Conversion(NamedTuple):
    """What [`convert_checkpoint`] did."""

    output_dir: Path
    family: str  # "musicfm", "muq" or "mert"
    sha256: str  # of the weights' file
    variant: str | None  # "msd" or "fma", if the source is a published file
    num_parameters: int  # of the encoder
    unused: dict[str, str]  # published keys that were left out, and why


def convert_checkpoint(
    source: str | Path,
    output_dir: str | Path,
    stats: str | Path | None = None,
    variant: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """
    Convert a published checkpoint to a folder with `config.json`, weights (`*.safetensors`),
    `preprocessor_config.json`, a card and the code:

    - MusicFM (github.com/minzwon/musicfm, Hub repository minzwon/MusicFM): a `.pt` file with its statistics.
    - MuQ (OpenMuQ/MuQ-large-msd-iter) and MERT (m-a-p/MERT-v1-95M, m-a-p/MERT-v1-330M): `config.json` and
      `model.safetensors` or `pytorch_model.bin`.

    Quantizer and prediction head of MusicFM and MuQ come along, for `AutoModelForPreTraining`. MERT's layer drop, a
    setting of its training alone, does not.

    Args:
        source: A `.pt` file, a folder with the files, or a Hub repository that has them.
        output_dir: The folder to make. It appears when it is complete, or not at all.
        stats: For MusicFM, the JSON file with `melspec_2048_mean` and `melspec_2048_std`; by default the one beside
            the weights.
        variant (`str`, *optional*): `"msd"` or `"fma"`, where a MusicFM source has both.
        overwrite (`bool`): Replace `output_dir` if it is there.

    Raises:
        FileNotFoundError: a file is missing.
        FileExistsError: `output_dir` is there and not empty, and `overwrite` was not given or it is no earlier model.
        ValueError: the file is not such a checkpoint; missing, extra and misshaped tensors are named. Or it is the
            other published one than `variant` says, or has a setting that is not supported.

    Statistics that are not those known for a published file give a `UserWarning`.
    """
    output_dir = Path(output_dir).resolve()
    _check_output(output_dir, overwrite)
    if variant not in (None, "msd", "fma"):
        raise ValueError(f"`variant` must be 'msd' or 'fma', got {variant!r}.")
    folder = _transformers_folder(source, variant)
    if folder is not None:
        family, published_config = _read_config(folder / "config.json")
        weights_file = _weights_beside_config(folder)
        sha256, known = _sha256(weights_file), None
        state_dict = _read_state_dict(weights_file)
        try:
            if family == "muq":
                config = _muq_config(published_config, state_dict)
            else:
                config = _mert_config(published_config, folder)
        except KeyError as error:
            raise ValueError(f"The configuration in {folder} lacks the setting {error}.") from error
    else:
        family = "musicfm"
        weights_file, stats_file = _find_files(source, stats, variant)
        sha256 = _sha256(weights_file)
        statistics = _read_stats(stats_file)
        known = _check_published(weights_file, sha256, variant, stats_file, statistics)
        state_dict = _read_state_dict(weights_file)
        config = _musicfm_config(state_dict, *statistics)
    model, unused = _build_model(config, state_dict)

    result = Conversion(output_dir, family, sha256, known, model.base_model.num_parameters(), unused)
    extractor = MusicFMFeatureExtractor(
        sampling_rate=config.sampling_rate, min_samples=config.min_samples, do_normalize=config.do_normalize
    )
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=output_dir.parent, prefix=f".{output_dir.name}."))
    try:
        partial.chmod(0o755)
        model.save_pretrained(partial)
        extractor.save_pretrained(partial)
        has_head = isinstance(model, MusicFMForPreTraining)
        facts = result._asdict() | {"source_name": weights_file.name, "has_head": has_head}
        facts["licence"] = "mit" if family == "musicfm" else "cc-by-nc-4.0"
        del facts["output_dir"], facts["unused"]
        (partial / "conversion.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_card(partial, output_dir.name)
        _put_in_place(partial, output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _check_published(
    weights_file: Path, sha256: str, variant: str | None, stats_file: Path, statistics: tuple[float, float]
) -> str | None:
    """Which of the published MusicFM files this is, if any; and do variant and statistics agree with that?"""
    published = PUBLISHED_SHA256.get(sha256[:8])
    if variant is not None and published not in (None, variant):
        raise ValueError(f"{weights_file} is the published {published} checkpoint, not {variant}.")
    if published is not None and not all(map(math.isclose, statistics, PUBLISHED_STATS[published])):
        warnings.warn(
            f"{stats_file} says mean {statistics[0]}, standard deviation {statistics[1]}; for the published "
            f"{published} checkpoint {PUBLISHED_STATS[published]} are known. With wrong statistics the embeddings are "
            "wrong.",
            stacklevel=3,
        )
    return published


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


def _is_hub_id(source: str | Path) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(source))) and not Path(source).exists()


def _transformers_folder(source: str | Path, variant: str | None) -> Path | None:
    """The folder with a `config.json`, if the source is laid out so; downloaded if it is on the Hub."""
    path = Path(source)
    if _is_hub_id(source) and path.suffix != ".pt" and variant is None and path.name.lower() != "musicfm":
        from huggingface_hub import snapshot_download

        patterns = ["config.json", "preprocessor_config.json", *_WEIGHTS_NAMES]
        path = Path(snapshot_download(str(source), allow_patterns=patterns))
    return path if (path / "config.json").is_file() else None


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Whose configuration it is, and the configuration."""
    published_config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(published_config, dict) and "encoder_dim" in published_config:
        return "muq", published_config
    if isinstance(published_config, dict) and published_config.get("model_type") == "mert_model":
        return "mert", published_config
    raise ValueError(f"{path} is neither MuQ's nor MERT's.")


def _weights_beside_config(folder: Path) -> Path:
    found = next((folder / name for name in _WEIGHTS_NAMES if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{folder} has a config.json but neither {' nor '.join(_WEIGHTS_NAMES)}.")
    return found


def _find_files(source: str | Path, stats: str | Path | None, variant: str | None) -> tuple[Path, Path]:
    """MusicFM's weights and statistics, downloaded if the source is a Hub repository."""
    path = Path(source)
    if path.is_file():
        weights = path
    elif path.is_dir():
        found = sorted(path.glob(f"pretrained_{variant}.pt" if variant else "*.pt"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ValueError(f"{path} must have one checkpoint (*.pt), found {names}. Name the file, or a `variant`.")
        weights = found[0]
    elif _is_hub_id(source) and path.suffix != ".pt":
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
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint that can be read safely: {error}") from error
    state_dict = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state_dict, dict) or not all(isinstance(v, torch.Tensor) for v in state_dict.values()):
        raise ValueError(f"{path} must hold a dictionary of tensors, or one under `state_dict`.")
    return {key.removeprefix("model."): tensor for key, tensor in state_dict.items()}


def _build_model(
    config: MusicFMConfig, published: dict[str, torch.Tensor]
) -> tuple[MusicFMPreTrainedModel, dict[str, str]]:
    """The model with these weights, and the keys it has no use for."""
    is_bert = config.encoder_type == "bert"
    has_head = any(re.match(r"linear\.|quantizer_|rvq\.", key) for key in published)
    with torch.device("meta"):
        model = MusicFMForPreTraining(config) if has_head else MusicFMModel(config)
    expected = model.state_dict()
    converted: dict[str, torch.Tensor] = {}
    unused: dict[str, str] = {}
    names: dict[str, str] = {}
    for key, tensor in published.items():
        reason = next((why for pattern, why in _UNUSED.items() if re.search(pattern, key)), None)
        if reason is not None:
            unused[key] = reason
            continue
        name = key
        for pattern, replacement in _BERT_RENAMES if is_bert else _CONFORMER_RENAMES:
            name = re.sub(pattern, replacement, name)
        if is_bert and not config.do_stable_layer_norm and name.startswith("layer_norm."):
            name = f"encoder_input.{name}"
        if not has_head:
            name = name.removeprefix("musicfm.")
        names[name] = key
        converted[name] = _reshape(name, tensor)
    _fold_weight_norm(converted, names)
    _stack_codebooks(converted, names)

    problems = [f"missing: {name}" for name in sorted(expected.keys() - converted.keys())]
    problems += [f"not known: {names[name]}" for name in sorted(converted.keys() - expected.keys())]
    problems += [
        f"shape: {names[name]} gives {tuple(converted[name].shape)} where {tuple(expected[name].shape)} is needed"
        for name in sorted(expected.keys() & converted.keys())
        if expected[name].shape != converted[name].shape
    ]
    if problems:
        raise ValueError("The checkpoint does not fit the encoder:\n  " + "\n  ".join(problems))
    model.load_state_dict(converted, strict=True, assign=True)
    return model, unused


def _reshape(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A published tensor in our layout."""
    if name.endswith("num_batches_tracked"):
        return tensor.to(torch.int64)
    if tensor.ndim == 4:
        return tensor.transpose(2, 3).contiguous()  # kernels are (frequency, time) there, (time, frequency) here
    if name.startswith("quantizer.") and tensor.ndim == 3:
        tensor = tensor.squeeze(-1)  # a convolution over one frame is a linear layer
        return tensor.squeeze(-1) if name.endswith("_magnitude") else tensor
    if re.search(r"\.pointwise_conv[12]\.weight$", name) and tensor.ndim == 3:
        return tensor.squeeze(-1)
    return tensor


def _fold_weight_norm(converted: dict[str, torch.Tensor], names: dict[str, str]) -> None:
    """Replace magnitude and direction of the positional convolution by their product."""
    stem = "encoder_input.pos_conv."
    for magnitude, direction in _WEIGHT_NORM_NAMES:
        if stem + magnitude in converted and stem + direction in converted:
            g, v = converted.pop(stem + magnitude), converted.pop(stem + direction)
            converted[f"{stem}weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))
            names[f"{stem}weight"] = names[stem + direction]


def _stack_codebooks(converted: dict[str, torch.Tensor], names: dict[str, str]) -> None:
    """`quantizer.0.name`, `quantizer.1.name`, … → `quantizer.name`."""
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for name in [name for name in converted if re.match(r"quantizer\.\d+\.", name)]:
        _, index, tail = name.split(".", 2)
        parts.setdefault(f"quantizer.{tail}", {})[int(index)] = converted.pop(name)
        names[f"quantizer.{tail}"] = names[name]
    for name, tensors in parts.items():
        if len({tensor.shape for tensor in tensors.values()}) > 1:
            raise ValueError(f"The codebooks of the checkpoint have different shapes: {names[name]}.")
        converted[name] = torch.stack([tensors[index] for index in sorted(tensors)])


def _shape(published: dict[str, torch.Tensor], key: str) -> torch.Size:
    if key not in published:
        raise ValueError(f"The checkpoint is not a MusicFM encoder: it has no tensor `{key}`.")
    return published[key].shape


def _conformer_settings(published: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the shapes say, of MusicFM and of MuQ."""
    layers = {int(m[1]) for key in published if (m := re.match(r"conformer\.layers\.(\d+)\.", key))}
    first_layer = "conformer.layers.0."
    return {
        "hidden_size": _shape(published, "conv.linear.weight")[0],
        "num_hidden_layers": max(layers, default=-1) + 1,
        "intermediate_size": _shape(published, first_layer + "ffn1.intermediate_dense.weight")[0],
        "conv_depthwise_kernel_size": _shape(published, first_layer + "conv_module.depthwise_conv.weight")[-1],
        "subsampling_conv_channels": _shape(published, "conv.conv.0.conv1.weight")[0],
    }


def _musicfm_config(published: dict[str, torch.Tensor], mean: float, std: float) -> MusicFMConfig:
    num_frequencies, num_mel_bins = _shape(published, "preprocessor_melspec_2048.mel_stft.mel_scale.fb")
    settings = _conformer_settings(published)
    inv_freq = _shape(published, "conformer.embed_positions.inv_freq")
    codebooks = [key for key in published if re.fullmatch(r"quantizer_melspec_2048(_\d+)?\.codebook", key)]
    if codebooks:
        settings["num_codebooks"] = len(codebooks)
        settings["codebook_size"], settings["codebook_dim"] = _shape(published, codebooks[0])
    return MusicFMConfig(
        **settings,
        num_attention_heads=settings["hidden_size"] // (2 * inv_freq[0]),
        num_mel_bins=num_mel_bins,
        n_fft=2 * (num_frequencies - 1),
        mel_mean=mean,
        mel_std=std,
    )


def _muq_config(published_config: dict[str, Any], published: dict[str, torch.Tensor]) -> MusicFMConfig:
    _require_settings(published_config, {"label_rate": 25, "features": ["melspec_2048"], "use_rvq_target": True})
    encoder = published_config["w2v2_config"]
    codes, dim = _shape(published, "rvq.quantizers.0.codebook.weight")
    return MusicFMConfig(
        **_conformer_settings(published),
        num_attention_heads=encoder["num_attention_heads"],
        rotary_embedding_base=encoder["rotary_embedding_base"],
        **{name: encoder[name] for name in _SHARED_SETTINGS},
        conformer_conv_dropout=encoder["conformer_conv_dropout"],
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


def _mert_config(published_config: dict[str, Any], folder: Path) -> MusicFMConfig:
    _require_settings(
        {"feat_proj_layer_norm": True, "conv_pos_batch_norm": False, "deepnorm": False} | published_config,
        {
            "feat_extract_norm": "group",
            "conv_bias": False,
            "feat_proj_layer_norm": True,
            "conv_pos_batch_norm": False,
            "feature_extractor_cqt": False,
            "deepnorm": False,
        },
    )
    preprocessor_file = folder / "preprocessor_config.json"
    if not preprocessor_file.is_file():
        raise FileNotFoundError(f"There is no {preprocessor_file}: it says whether waveforms are normalised.")
    preprocessor = json.loads(preprocessor_file.read_text(encoding="utf-8"))
    names = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", *_SHARED_SETTINGS]
    names += ["conv_dim", "conv_kernel", "conv_stride", "feat_extract_activation", "feat_proj_dropout"]
    names += ["do_stable_layer_norm", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"]
    hop_length = math.prod(published_config["conv_stride"])
    sampling_rate = published_config["sample_rate"]
    return MusicFMConfig(
        encoder_type="bert",
        front_end="waveform",
        **{name: published_config[name] for name in names},
        sampling_rate=sampling_rate,
        hop_length=hop_length,
        do_normalize=preprocessor["do_normalize"],
        mask_type="embedding",
        mask_prob=0.8,
        mask_seconds=5 * hop_length / sampling_rate,
    )


def _require_settings(published_config: dict[str, Any], needed: dict[str, Any]) -> None:
    for name, value in needed.items():
        if published_config.get(name) != value:
            raise ValueError(f"The checkpoint has `{name}` {published_config.get(name)!r}; supported is {value!r}.")
