"""The model to pretrain: configuration, statistics, quantizer."""

import json
from pathlib import Path
from typing import Any

import yaml

from ..data.sources import ListedSource, StreamedSource, open_source
from ..data.statistics import mel_statistics
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMForPreTraining, MusicFMQuantizerModel
from ..training.records import write_json
from .arguments import DataArguments, ModelArguments, PretrainingArguments

# What a quantizer was made for; a model that takes its tokens must be configured alike.
_QUANTIZER_FIELDS = [
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
]


def config_values(values: Any, assignments: list[str]) -> dict[str, Any]:
    """
    Values of [`MusicFMConfig`]: those of a mapping, or of JSON that holds one, and `name=value …` over them.

    Raises:
        ValueError: if one is not of this form.
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
            raise ValueError(f"`--set` takes name=value with a value as in YAML, got {assignment!r}.") from error
    return values


def build_model(settings: ModelArguments, data: DataArguments, args: PretrainingArguments) -> MusicFMForPreTraining:
    """
    The model to train, with the statistics of the training music and its quantizer.

    Raises:
        ValueError: if a setting is impossible, or does not fit the quantizer.
    """
    extra = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    if settings.model is not None:
        if settings.set:
            raise ValueError("`--set` is for a new model: the one that `--model` names has its configuration.")
        model = MusicFMForPreTraining.from_pretrained(settings.model, **extra)
    else:
        values = config_values(settings.config, settings.set)
        if settings.statistics != "config":
            path = Path(settings.stats or Path(args.output_dir) / "stats.json")
            if settings.stats is not None and not path.is_file():
                raise ValueError(f"There is no file {path}.")
            with args.main_process_first(desc="statistics"):
                sources = [open_source(source, data.streaming, data.audio_column) for source in data.train]
                values = mel_settings(settings.statistics, path, sources, args.seed) | values
        config = MusicFMConfig(**values, **extra)
        if config.quantizer_type != "random_projection" and settings.quantizer is None:
            raise ValueError(
                f"Tokens of `quantizer_type` {config.quantizer_type!r} come from a trained quantizer: make one with "
                "recipes/train_quantizer.py and give its folder as `--quantizer`."
            )
        model = MusicFMForPreTraining(config)
    if settings.quantizer is not None:
        load_quantizer(model, settings.quantizer)
    return model


def mel_settings(kind: str, path: Path, sources: list[ListedSource | StreamedSource], seed: int = 0) -> dict[str, Any]:
    """
    Values of [`MusicFMConfig`] that normalise the spectrogram with the statistics of the training music: the input
    with one mean and standard deviation; the targets likewise (`kind="global"`) or each mel band with its own
    (`"band"`).

    Args:
        path: JSON as `recipes/prepare.py stats` writes it; measured on an hour of `sources` if it is not there.

    Raises:
        ValueError: if it is not there and `sources` are streams, which cannot be measured.
    """
    if not path.is_file():
        if not all(isinstance(source, ListedSource) for source in sources):
            raise ValueError("Streams cannot be measured: give `--stats`, or `statistics: config` in the recipe.")
        songs = [song for source in sources for song in source.songs]
        write_json(path, mel_statistics(songs, max_hours=1.0, seed=seed, progress=False).to_dict())
    measured = json.loads(path.read_text(encoding="utf-8"))
    values = {"mel_mean": measured["melspec_2048_mean"], "mel_std": measured["melspec_2048_std"]}
    if kind == "band":
        # A band that is always silent has no deviation.
        values |= {
            "target_mel_mean": measured["mel_mean"],
            "target_mel_std": [max(v, 1.0) for v in measured["mel_std"]],
        }
    return values


def load_quantizer(model: MusicFMForPreTraining, folder: str) -> None:
    """
    Give a model the quantizer that `recipes/train_quantizer.py` saved, or that of another pretrained model.

    Raises:
        ValueError: if it was made for other tokens than `model.config` says; the settings that differ are named.
    """
    source = MusicFMQuantizerModel.from_pretrained(folder)
    ours, theirs = model.config, source.config
    differ = [
        f"`{name}` is {getattr(theirs, name)} there and {getattr(ours, name)} here"
        for name in _QUANTIZER_FIELDS
        if getattr(theirs, name) != getattr(ours, name)
    ]
    if differ:
        raise ValueError(f"The quantizer in {folder} does not fit the model: {'; '.join(differ)}.")
    ours.target_mel_mean = theirs.mel_mean if theirs.target_mel_mean is None else theirs.target_mel_mean
    ours.target_mel_std = theirs.mel_std if theirs.target_mel_std is None else theirs.target_mel_std
    model.quantizer = source.quantizer.to(model.device)
    model.quantizer.config = ours
