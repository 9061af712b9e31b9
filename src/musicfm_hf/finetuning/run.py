"""Train a head on an encoder: as a probe, with the whole encoder, or with LoRA."""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, TrainerCallback, set_seed
from transformers.utils import logging

from ..data.catalog import describe_source
from ..data.examples import ReadWaveform, TaskCrops, with_annotation
from ..data.labeled import LabeledSong, check_audio
from ..data.labeled_dataset import load_songs, split_names
from ..data.splits import draw_songs
from ..evaluation.calibration import fit_calibration, summarize_calibration
from ..evaluation.scoring import scores_with_intervals
from ..hub.licenses import license_of
from ..inference.embedding import HeadModel, WindowSettings
from ..inference.feature_cache import EncoderFeatures, FeatureCache, LogMelFeatures
from ..inference.logits import song_logits
from ..model.configuration_musicfm import MusicFMConfig
from ..model.feature_extraction_musicfm import MusicFMFeatureExtractor
from ..model.modeling_musicfm import MusicFMClassifier
from ..training.curves import CurveCallback
from ..training.files import complete_files, write_json
from ..training.records import environment, strip_absolute_paths
from ..training.trainer import find_checkpoint
from .arguments import Arguments, FinetuningArguments, HeadArguments, TaskArguments, pin_revision
from .batch_statistics import measure_batch_statistics
from .heads import AnyHeadModel, add_lora, build_model, count_parameters, head_config, save_finetuned
from .run_fingerprint import (
    FREE_TO_CHANGE,
    Fingerprint,
    as_it_began,
    check_checkpoint,
    load_matching_results,
    run_fingerprint,
)
from .starting_head import Splits, starting_head
from .trainer import EarlyStopping, FinetuningTrainer, fill_cache
from .whitening import WhitenedLinear, whiten_heads

logger = logging.get_logger(__name__)


class Finetuned(NamedTuple):
    """
    A finished run.

    Attributes:
        model: The model with its head, or `None` for a probe of the log-mel spectrogram.
        trained: The trained part of the model: the head, the whole model, or the whole model with LoRA.
        trainer ([`FinetuningTrainer`]): The Trainer, with its history.
        scores: Split → song id → scores.
        results: Settings, scores, history and environment, for `results.json`.
    """

    model: AnyHeadModel | None
    trained: torch.nn.Module
    trainer: FinetuningTrainer
    scores: dict[str, dict[str, dict[str, Any]]]
    results: dict[str, Any]


def read_split(arguments: TaskArguments, split: str) -> list[LabeledSong]:
    """
    Read the songs of a split that are annotated for the task.

    Raises:
        ValueError: The data set has no such split, or none of its songs is annotated for the task.
        FileNotFoundError: The data set does not exist.
    """
    songs = with_annotation(load_songs(arguments.data, split), arguments.task, f"{arguments.data} ({split})")
    return songs[: arguments.limit]


def read_splits(arguments: TaskArguments) -> dict[str, list[LabeledSong]]:
    """Read the training and validation songs, and the test songs if there are annotated ones. See [`read_split`]."""
    songs = load_songs(arguments.data, "test") if "test" in split_names(arguments.data) else []
    has_test = any(map(arguments.spec.is_annotated, songs))
    if songs and not has_test:
        logger.warning(f"No test song of {arguments.data} has {arguments.spec.column}: there are no test scores.")
    names = ("train", "validation", "test") if has_test else ("train", "validation")
    return {name: read_split(arguments, name) for name in names}


def draw_training_songs(task: HeadArguments, splits: Splits) -> Splits:
    """Return the splits with the training songs that `max_train_songs` and `songs_seed` select; see [`draw_songs`]."""
    return {**splits, "train": draw_songs(splits["train"], task.max_train_songs, task.songs_seed)}


def cache_all_layers(task: TaskArguments, arguments: FinetuningArguments, splits: Splits) -> None:
    """Compute all hidden states of all songs in one pass, and store them in the cache for probes of any layer."""
    set_seed(arguments.seed)
    task = pin_revision(task)
    config = head_config(task, AutoConfig.from_pretrained(task.model, revision=task.revision), splits["train"])
    encoder = build_on_device(task, arguments, config, draw_training_songs(task, splits)["train"]).musicfm
    settings = _window_settings(task, arguments)
    cache = FeatureCache(task.cache, EncoderFeatures(encoder, range(config.num_hidden_layers + 1), settings))
    cache.fill([song for songs in splits.values() for song in songs], arguments.dataloader_num_workers)


def finetune(
    task: TaskArguments,
    arguments: FinetuningArguments,
    splits: Splits | None = None,
    callbacks: Iterable[TrainerCallback] = (),
) -> Finetuned:
    """
    Train a head as the settings specify, and score validation and test songs with the model that scored best on
    validation songs. A model that starts with a trained head is also scored before the first step. A run that was
    interrupted resumes from its last checkpoint in the output folder, which holds only checkpoints and curves until
    [`save_run`] writes the model and its results.

    Args:
        splits: Songs for `train`, `validation` and optionally `test`; by default those that [`read_splits`] returns.
            `max_train_songs` applies to them.
        callbacks: Callbacks for the [`Trainer`].

    Raises:
        ValueError: Before training, if the settings contradict each other, or do not match the songs, the encoder, or
            the checkpoint in the output folder.
    """
    started, source = time.perf_counter(), describe_source(task.data)
    splits = read_splits(task) if splits is None else splits
    task, fingerprint, checkpoint, earlier_seconds = start_run(task, arguments, splits)
    started -= earlier_seconds
    base_license = license_of(task.model, task.revision)
    head = starting_head(finetune, task, arguments, splits, checkpoint)
    vocabulary, splits = splits["train"], draw_training_songs(task, splits)
    base = AutoConfig.from_pretrained(task.model, revision=task.revision)
    config = head_config(task, base, splits["train"], vocabulary)
    model, trainer, cache = _build_trainer(task, arguments, splits, config, head, fingerprint, started, callbacks)
    trained = trainer.model
    trainer.train(resume_from_checkpoint=checkpoint)
    if isinstance(trained, MusicFMClassifier) and isinstance(trained.projector, WhitenedLinear):
        trained.projector = trained.projector.folded()
    rated = final_ratings(trainer, splits, is_cached=cache is not None)
    scores = {name: of_songs for name, (of_songs, _) in rated.items()}
    summary = {name: scores_with_intervals(config, rows) for name, rows in scores.items()}
    config.calibration = fit_calibration(config, rated["validation"][1])
    if model is not None:
        model.config.calibration = config.calibration
    calibrated = {name: summarize_calibration(items, config.calibration) for name, (_, items) in rated.items()}
    about = {"base_licence": base_license, "data": source}
    results = collect_results(task, trainer, model or trained, splits, summary, about)
    results |= {"calibration": calibrated, "scores_of_songs": scores}
    return Finetuned(model, trained, trainer, scores, results)


def start_run(
    task: Arguments, arguments: FinetuningArguments, splits: Splits
) -> tuple[Arguments, Fingerprint, Any, float]:
    """
    Seed the generators, and find the checkpoint from which a run resumes.

    Returns:
        The settings with a pinned revision, the fingerprint of the run, the checkpoint or a false value, as
        `Trainer.train` takes it, and the seconds that the run took up to the checkpoint.

    Raises:
        ValueError: if the checkpoint was made with other settings, another encoder or other songs.
        FileNotFoundError, UnusableSongError: see [`check_audio`].
    """
    task = pin_revision(task)
    if task.method != "probe":  # a probe reads all songs first, unless their features are cached
        encoder = AutoConfig.from_pretrained(task.model, revision=task.revision)
        check_audio(splits, encoder.min_samples / encoder.sampling_rate)
    checkpoint = _find_checkpoint(arguments)
    task = _as_it_began(task, checkpoint)
    fingerprint = run_fingerprint(task, arguments, splits)
    seconds = check_checkpoint(Path(checkpoint), fingerprint) if checkpoint else 0.0
    set_seed(arguments.seed)
    return task, fingerprint, checkpoint, seconds


def _find_checkpoint(arguments: FinetuningArguments) -> Any:
    """Return the checkpoint from which a run resumes, or a false value."""
    checkpoint: Any = arguments.resume_from_checkpoint
    return find_checkpoint(arguments.output_dir) if checkpoint in (None, True) else checkpoint


def _as_it_began(task: Arguments, checkpoint: Any) -> Arguments:
    """Return the settings, as in an earlier version if the run began in one."""
    return as_it_began(task, Path(checkpoint)) if checkpoint else task


def collect_results(
    task: HeadArguments,
    trainer: FinetuningTrainer,
    model: torch.nn.Module,
    splits: Splits,
    summary: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    """
    Return the settings, scores, history and environment of a finished run, for `results.json`.

    Args:
        model: The model with its head, or only the head if it has no encoder.
        summary: Split → averages with intervals.
        about: `base_licence`, and `data`, the description of the data.
    """
    return {
        "task": task.task,
        "method": task.method,
        "scores": summary,
        **count_parameters(model, trainer.model),
        **trainer.fingerprint,
        "steps": {"run": trainer.state.global_step, "best": trainer.state.best_global_step},
        "base": {"name": strip_absolute_paths({"model": task.model})["model"], "revision": task.revision},
        "base_licence": about["base_licence"],
        "data": about["data"] | {"songs": {name: len(songs) for name, songs in splits.items()}},
        "seconds": round(trainer.seconds, 1),
        **environment(),
        "history": trainer.state.log_history,
    }


def results_path(task: HeadArguments, arguments: FinetuningArguments) -> Path:
    """Return the path of the scores of a run in the folder for results; the file is named after the output folder."""
    return Path(task.results) / f"{Path(arguments.output_dir).resolve().name}.json"


def check_results_path(task: HeadArguments, arguments: FinetuningArguments, splits: Splits) -> None:
    """
    Check that a run does not overwrite the results of another run.

    Raises:
        ValueError: The file for its scores exists, from a run with other settings, another encoder or other songs.
    """
    path, task = results_path(task, arguments), _as_it_began(task, _find_checkpoint(arguments))
    load_matching_results(path, task, arguments, splits, "--results", FREE_TO_CHANGE)


def training_curves(metric: str) -> CurveCallback:
    """Return the callback that plots the loss and a score of validation songs."""
    return CurveCallback({"loss": ["loss"], "validation songs": [f"eval_{metric}"]})


def save_run(run: Finetuned, task: HeadArguments, arguments: FinetuningArguments) -> None:
    """Write the model or adapter with its feature extractor, and its results, which also go to [`results_path`]."""
    output = Path(arguments.output_dir)
    if run.model is not None:
        save_finetuned(run.model, run.trained, output, task.random_encoder)
        with complete_files(output) as temporary:
            MusicFMFeatureExtractor.from_model_config(run.model.config).save_pretrained(temporary)
    for path in (output / "results.json", results_path(task, arguments)):
        write_json(path, run.results)


def _window_settings(task: TaskArguments, arguments: FinetuningArguments) -> WindowSettings:
    return WindowSettings(window_seconds=task.window_seconds, batch_size=arguments.per_device_eval_batch_size)


def _build_trainer(
    task: TaskArguments,
    arguments: FinetuningArguments,
    splits: Splits,
    config: MusicFMConfig,
    head: torch.nn.Module | None,
    fingerprint: Fingerprint,
    started: float,
    callbacks: Iterable[TrainerCallback],
) -> tuple[HeadModel | None, FinetuningTrainer, FeatureCache | None]:
    """
    Build the model with its head, which may be the copy of a trained one, the Trainer of its trained part and, for a
    probe, the cache of its features.
    """
    settings = _window_settings(task, arguments)
    settings.frames(config)  # raises if windows are too short
    model, trained, cache = _build_trained(task, arguments, config, splits["train"], head, settings)
    if cache is not None:
        fill_cache(cache, [song for songs in splits.values() for song in songs], arguments)
    read = cache or ReadWaveform(config, task.transpose, task.tempo, task.speed, task.effects)
    seconds = task.crop_seconds or task.spec.crop_seconds
    crops = TaskCrops(config, splits["train"], read, arguments.num_crops, crop_seconds=seconds, seed=arguments.seed)
    crops[0]  # raises before training if the settings do not match the songs
    if isinstance(trained, MusicFMClassifier) and task.whiten and not task.keep_head:
        whiten_heads({task.task: trained}, crops)
    callbacks = list(callbacks)
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStopping(arguments.early_stopping_patience))
    logits = partial(song_logits, model or trained, settings=settings, cache=cache)
    trainer = FinetuningTrainer(
        trained, arguments, crops, splits["validation"], logits, config, fingerprint, started, callbacks=callbacks
    )
    return model, trainer, cache


def build_on_device(
    task: HeadArguments,
    arguments: FinetuningArguments,
    config: MusicFMConfig,
    songs: Sequence[LabeledSong],
    subfolder: str = "",
) -> Any:
    """
    Build the model of a run, with its encoder on the device. A random one gets batch statistics of the songs. A saved
    one may be in a `subfolder` of `task.model`.
    """
    model: Any = build_model(task, config, subfolder)
    model.musicfm.to(arguments.device)
    if task.random_encoder:
        measure_batch_statistics(model.musicfm, songs, arguments.seed)
    return model


def _build_trained(
    task: TaskArguments,
    arguments: FinetuningArguments,
    config: MusicFMConfig,
    songs: Sequence[LabeledSong],
    head: torch.nn.Module | None,
    settings: WindowSettings,
) -> tuple[HeadModel | None, HeadModel | MusicFMClassifier, FeatureCache | None]:
    """Build the model with its head, its trained part and, for a probe, the cache of its features."""
    if task.log_mel:
        log_mel = LogMelFeatures(config)
        return None, MusicFMClassifier(config, log_mel.width), FeatureCache(task.cache, log_mel)
    model = build_on_device(task, arguments, config, songs)
    if head is not None:
        model.classifier.load_state_dict(head.state_dict())
    if task.method == "probe":
        model.freeze_base_model()
        features = EncoderFeatures(model.musicfm, config.classifier_layers, settings)
        return model, model.classifier, FeatureCache(task.cache, features)
    return model, add_lora(model, task) if task.method == "lora" else model, None


def final_ratings(
    trainer: FinetuningTrainer, splits: Splits, is_cached: bool
) -> dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any]]]:
    """Return the scores and the items of validation and test songs with the final model."""
    validation = None
    if not is_cached and trainer.args.load_best_model_at_end:
        # The final model may already have been scored. (The head of a probe was folded, and rounds differently.)
        best = trainer.state.best_global_step
        validation = None if best is None else trainer.evaluated.get(best)
    rated = {"validation": validation or (trainer.score_songs(splits["validation"]), trainer.items)}
    if "test" in splits:
        rated["test"] = (trainer.score_songs(splits["test"]), trainer.items)
    return rated
