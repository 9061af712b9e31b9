"""The model to pretrain: configuration, statistics, quantizer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils import logging

from ..data.catalog import digest_names
from ..data.sources import ListedSource, StreamedSource
from ..data.statistics import mel_statistics
from ..model.adapters_musicfm import find_base
from ..model.configuration_musicfm import MusicFMConfig
from ..model.int8_musicfm import check_float
from ..model.modeling_musicfm import MusicFMForPreTraining, MusicFMQuantizerModel
from ..training.files import write_json
from .arguments import DataArguments, ModelArguments, PretrainingArguments, QuantizerArguments
from .data import open_music

logger = logging.get_logger(__name__)

# Settings of the spectrogram, whose statistics depend on them.
SPECTROGRAM_FIELDS = ("sampling_rate", "n_fft", "hop_length", "num_mel_bins")
# Settings that a quantizer depends on. A model that predicts its tokens must have the same values.
QUANTIZER_FIELDS = [
    "quantizer_type",
    "num_codebooks",
    "codebook_size",
    "codebook_dim",
    "sampling_rate",
    "n_fft",
    "hop_length",
    "num_mel_bins",
    "samples_per_frame",
    "kmeans_features",
    "kmeans_mel_bins",
    "kmeans_chroma_bins",
    "kmeans_window_seconds",
]


def config_values(values: Any, assignments: list[str]) -> dict[str, Any]:
    """
    Collect values of [`MusicFMConfig`] from a mapping, or from JSON with a mapping, and from assignments that override
    them.

    Args:
        assignments: Strings `name=value`, with values in YAML.

    Raises:
        ValueError: `values` is not a mapping, or an assignment is malformed.
    """
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except json.JSONDecodeError as error:
            raise ValueError(f"`config` must be JSON, got {values!r}: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"`config` must map names to values, got {values!r}.")
    values = dict(values)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"`--set` takes name=value, got {assignment!r}.")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"`--set` takes name=value with a value in YAML, got {assignment!r}.") from error
    return values


def build_model(settings: ModelArguments, data: DataArguments, args: PretrainingArguments) -> MusicFMForPreTraining:
    """
    Build the model to pretrain, with the statistics of the training music and its quantizer.

    Raises:
        ValueError: A setting is invalid, or does not match the quantizer.
    """
    attention = settings.attn_implementation
    extra: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    if settings.model is not None:
        if settings.set:
            raise ValueError("`--set` applies to new models only: the model in `--model` already has a configuration.")
        if settings.stats is not None:
            raise ValueError("`--stats` applies to new models only: the model in `--model` already has statistics.")
        if find_base(settings.model) is not None:
            raise ValueError(
                f"{settings.model} is an adapter. Pass its base model, or merge the adapter into it with PEFT first."
            )
        check_float(MusicFMConfig.from_pretrained(settings.model), settings.model, "trained")
        extra |= {"dtype": torch.float32, "output_loading_info": True}
        loaded: Any = MusicFMForPreTraining.from_pretrained(settings.model, **extra)
        model, missing = loaded[0], loaded[1]["missing_keys"]
        _warn_of_ignored(config_values(settings.config, []), model.config)
        if settings.quantizer is None and any(name.startswith("quantizer.") for name in missing):
            _require_random_projection(model.config, settings.model)
    else:
        sources = open_music(data)[0] if settings.statistics != "config" else []
        with args.main_process_first(desc="statistics"):
            values = values_with_statistics(settings, sources, args.output_dir, args.seed)
        config = MusicFMConfig(**values, **extra)
        if settings.quantizer is None:
            _require_random_projection(config)
        model = MusicFMForPreTraining(config)
    if settings.quantizer is not None:
        load_quantizer(model, settings.quantizer)
    return model


def _require_random_projection(config: MusicFMConfig, model: str | None = None) -> None:
    """Raise a `ValueError` if the quantizer is one that has to be trained; warn if `model` has lost its projection."""
    if config.quantizer_type != "random_projection":
        where = "" if model is None else f", and {model} has none, as is usual after fine-tuning"
        raise ValueError(
            f"The `quantizer_type` {config.quantizer_type!r} needs a trained quantizer{where}: train one with "
            "`musicfm train-quantizer` and pass its folder as `--quantizer`."
        )
    if model is not None:
        logger.warning(f"{model} has no quantizer: a new random projection is drawn, with other tokens than before.")


def _warn_of_ignored(values: Mapping[str, Any], config: MusicFMConfig) -> None:
    """Log which values of a recipe a model that already has a configuration does not take."""
    wanted = MusicFMConfig(**values)
    ignored = [name for name in values if getattr(wanted, name) != getattr(config, name)]
    if ignored:
        logger.warning(
            "The model in `--model` keeps its configuration. These settings of the recipe have no effect: "
            + ", ".join(f"{name} {getattr(wanted, name)!r} ({getattr(config, name)!r} there)" for name in ignored)
        )


def values_with_statistics(
    settings: ModelArguments | QuantizerArguments,
    sources: Sequence[ListedSource | StreamedSource],
    output_dir: str | Path,
    seed: int,
) -> dict[str, Any]:
    """
    Collect the values of [`MusicFMConfig`] from the settings. Unless `statistics` is `"config"`, they also include the
    statistics of the training music. Measured statistics are saved as `stats.json` in `output_dir`, and are measured
    again if the songs or the seed differ.

    Raises:
        ValueError: A value is malformed, the file that `stats` names does not exist, or streams would have to be
            measured.
    """
    values = config_values(settings.config, settings.set)
    if settings.statistics == "config":
        return values
    path = Path(settings.stats or Path(output_dir) / "stats.json")
    if settings.stats is None:
        measure_statistics(path, sources, seed, MusicFMConfig(**values))
    elif not path.is_file():
        raise ValueError(f"The file {path} does not exist.")
    by_band = values.get("front_end") == "convnext" and settings.statistics == "band"
    return mel_values(settings.statistics, path, input_by_band=by_band) | values


def measure_statistics(
    path: Path,
    sources: Sequence[ListedSource | StreamedSource],
    seed: int,
    config: MusicFMConfig | None = None,
) -> None:
    """
    Measure an hour of the training music with the spectrogram of a model, by default that of the published models,
    unless the file exists and was measured on the same songs with the same spectrogram.

    Raises:
        ValueError: some of `sources` are streams, which cannot be measured.
    """
    listed = [source for source in sources if isinstance(source, ListedSource)]
    songs = [song for source in listed for song in source.songs]
    defaults = MusicFMConfig()
    values = {name: getattr(config or defaults, name) for name in SPECTROGRAM_FIELDS}
    settings = [f"{name}={value}" for name, value in values.items() if value != getattr(defaults, name)]
    measured_on = digest_names([str(seed), *settings, *(name for name, _ in songs)])
    if path.is_file():
        recorded = json.loads(path.read_text(encoding="utf-8")).get("measured_on")
        if recorded in (None, measured_on):  # none in files of version 0.1 and of `musicfm prepare stats`
            return
    if len(listed) < len(sources):
        raise ValueError("Streams cannot be measured: pass `--stats`, or use `statistics: config` in the recipe.")
    statistics = mel_statistics(songs, max_hours=1.0, seed=seed, progress=False, config=config)
    write_json(path, statistics.to_dict() | {"measured_on": measured_on})


def mel_values(kind: str, path: Path, input_by_band: bool = False) -> dict[str, Any]:
    """
    Return values of [`MusicFMConfig`] that normalize the spectrogram with the statistics of the training music. The
    input has one mean and standard deviation. The targets have the same (`kind="global"`), or one for each mel band
    (`"band"`). With `input_by_band`, the input also has one for each band, as in MERT-v2.

    Args:
        path: JSON from `musicfm prepare stats`.
    """
    measured = json.loads(path.read_text(encoding="utf-8"))
    values = {"mel_mean": measured["melspec_2048_mean"], "mel_std": measured["melspec_2048_std"]}
    if kind == "band":
        # The standard deviation of a band that is always silent is 0.
        mean, std = measured["mel_mean"], [max(v, 1.0) for v in measured["mel_std"]]
        values |= {"target_mel_mean": mean, "target_mel_std": std}
        if input_by_band:
            values |= {"mel_mean": mean, "mel_std": std}
    return values


def load_quantizer(model: MusicFMForPreTraining, folder: str) -> None:
    """
    Replace the quantizer of a model with one that `musicfm train-quantizer` saved, or with that of a pretrained model.

    Raises:
        ValueError: The quantizer does not match `model.config`; the message names the settings.
    """
    source = MusicFMQuantizerModel.from_pretrained(folder)
    config, source_config = model.config, source.config
    differences = [
        f"`{name}` is {getattr(source_config, name)} there and {getattr(config, name)} here"
        for name in QUANTIZER_FIELDS
        if getattr(source_config, name) != getattr(config, name)
    ]
    if differences:
        raise ValueError(f"The quantizer in {folder} does not match the model: {'; '.join(differences)}.")
    for name in ("mel_mean", "mel_std"):
        target = getattr(source_config, f"target_{name}")
        setattr(config, f"target_{name}", getattr(source_config, name) if target is None else target)
    model.quantizer = source.quantizer.to(model.device)
    model.quantizer.config = config
