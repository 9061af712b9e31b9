"""Checkpoints of MusicFM: a `.pt` file, and a JSON file with the statistics of its mel spectrogram."""

import json
import math
import re
import warnings
from pathlib import Path

import torch

from ..model.configuration_musicfm import MusicFMConfig
from ..training.files import matching_files
from .source import is_hub_id
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

# First digits of the SHA-256 of the published files.
PUBLISHED_SHA256 = {"68392eee": "fma", "218b483a": "msd"}
# Mean and standard deviation of the mel spectrogram for these files, in dB.
PUBLISHED_STATS = {
    "msd": (6.768444971712967, 18.417922652295623),
    "fma": (3.0710578151459664, 20.999089814337626),
}

_RENAMES = [
    *CONFORMER_RENAMES,
    (r"^quantizer_melspec_2048_(\d+)\.", r"quantizer.\1."),
    (r"^quantizer_melspec_2048\.", "quantizer.0."),
    (r"\.random_projection$", ".projection"),
]


def read_musicfm(source: str | Path, stats: str | Path | None, variant: str | None) -> Checkpoint:
    """Read a checkpoint of MusicFM. Arguments and errors are those of [`convert_checkpoint`]."""
    weights_file, stats_file = _find_files(source, stats, variant)
    statistics = _read_stats(stats_file)
    sha256 = file_sha256(weights_file)
    published_variant = _check_published(weights_file, sha256, variant, stats_file, statistics)
    published = read_tensors(weights_file)
    config = _configuration(published, *statistics)
    renamed = rename_tensors(published, _RENAMES)
    stack_codebooks(renamed)
    known_license = None if published_variant is None else "mit"
    return Checkpoint("musicfm", weights_file, sha256, published_variant, known_license, config, *renamed)


def _find_files(source: str | Path, stats: str | Path | None, variant: str | None) -> tuple[Path, Path]:
    """Return the paths of weights and statistics, downloaded if the source is a Hub repository."""
    path = Path(source)
    if path.is_file():
        weights = path
    elif path.is_dir():
        checkpoints = matching_files(path, f"pretrained_{variant}.pt" if variant else "*.pt")
        if len(checkpoints) != 1:
            names = ", ".join(file.name for file in checkpoints) or "none"
            raise ValueError(f"{path} must have one checkpoint (*.pt), found {names}. Name the file, or a `variant`.")
        weights = checkpoints[0]
    elif is_hub_id(source) and path.suffix != ".pt":
        from huggingface_hub import hf_hub_download

        if variant is None:
            raise ValueError(f"The Hub repository {source} has two checkpoints: choose `variant` 'msd' or 'fma'.")
        weights = Path(hf_hub_download(str(source), f"pretrained_{variant}.pt"))
        stats = stats or hf_hub_download(str(source), f"{variant}_stats.json")
    else:
        raise FileNotFoundError(f"The file or folder {source} does not exist.")
    stats_file = _stats_beside(weights) if stats is None else Path(stats)
    if not stats_file.is_file():
        raise FileNotFoundError(f"The file {stats_file} does not exist.")
    return weights, stats_file


def _stats_beside(weights: Path) -> Path:
    """Return the path of the statistics in the folder of the weights."""
    name = weights.stem.removeprefix("pretrained").strip("_")
    candidates = [weights.with_name(f"{name}_stats.json"), weights.with_name("stats.json")]
    path = next((file for file in candidates if file.is_file()), None)
    if path is None:
        names = " or ".join(file.name for file in candidates)
        raise FileNotFoundError(f"{names} was not found beside {weights}: pass `stats`, the mel statistics it needs.")
    return path


def _read_stats(path: Path) -> tuple[float, float]:
    """Return the mean and standard deviation of the mel spectrogram in dB."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return float(values["melspec_2048_mean"]), float(values["melspec_2048_std"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be JSON with the numbers `melspec_2048_mean` and `melspec_2048_std` ({error!r})."
        ) from error


def _check_published(
    weights_file: Path, sha256: str, variant: str | None, stats_file: Path, statistics: tuple[float, float]
) -> str | None:
    """Return the variant if this is a published file, after checking the statistics and the requested variant."""
    published = PUBLISHED_SHA256.get(sha256[:8])
    if variant is not None and published not in (None, variant):
        raise ValueError(f"{weights_file} is the published {published} checkpoint, not {variant}.")
    if published is not None and not all(map(math.isclose, statistics, PUBLISHED_STATS[published])):
        warnings.warn(
            f"{stats_file} has mean {statistics[0]} and standard deviation {statistics[1]}; those of the published "
            f"{published} checkpoint are {PUBLISHED_STATS[published]}. Wrong statistics give wrong embeddings.",
            stacklevel=5,
        )
    return published


def _configuration(published: dict[str, torch.Tensor], mean: float, std: float) -> MusicFMConfig:
    """Derive the configuration from tensor shapes and statistics."""
    num_frequencies, num_mel_bins = require_tensor(published, "preprocessor_melspec_2048.mel_stft.mel_scale.fb").shape
    settings = conformer_settings(published)
    inv_freq = require_tensor(published, "conformer.embed_positions.inv_freq").shape
    codebooks = [key for key in published if re.fullmatch(r"quantizer_melspec_2048(_\d+)?\.codebook", key)]
    if codebooks:
        settings["num_codebooks"] = len(codebooks)
        settings["codebook_size"], settings["codebook_dim"] = require_tensor(published, codebooks[0]).shape
    return MusicFMConfig(
        **settings,
        num_attention_heads=settings["hidden_size"] // (2 * inv_freq[0]),
        num_mel_bins=num_mel_bins,
        n_fft=2 * (num_frequencies - 1),
        mel_mean=mean,
        mel_std=std,
    )
