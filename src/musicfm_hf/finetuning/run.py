"""Training a head on the encoder: as a probe, with the whole encoder, or with LoRA."""

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, set_seed

from ..data.catalogue import describe_source
from ..data.examples import ReadWaveform, TaskCrops, with_annotation
from ..data.labelled import LabelledSong
from ..data.labelled_dataset import load_songs, split_names
from ..evaluation.scoring import scores_with_intervals
from ..hub.cards import licence_of
from ..inference.embedding import HeadModel, WindowSettings
from ..inference.feature_cache import EncoderFeatures, FeatureCache, LogMelFeatures
from ..inference.heads import song_logits
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMClassifier
from ..tasks import get_task
from ..training.records import environment, recorded
from ..training.trainer import find_checkpoint
from .arguments import FinetuningArguments, TaskArguments, pinned
from .fingerprint import seconds_before, stated_settings
from .heads import add_lora, build_model, head_config
from .trainer import EarlyStopping, FinetuningTrainer
from .whitening import whitened_projector

WHITENING_CROPS = 1024


def read_split(arguments: TaskArguments, split: str) -> list[LabelledSong]:
    """The songs of a split that are annotated for the task; raises as [`load_songs`] and where there is none."""
    songs = with_annotation(load_songs(arguments.data, split), arguments.task, f"{arguments.data} ({split})")
    return songs[: arguments.limit]


def read_splits(arguments: TaskArguments) -> dict[str, list[LabelledSong]]:
    """Train and validation songs, and test songs where the data set has such a split; raises as [`read_split`]."""
    has_test = "test" in split_names(arguments.data)
    names = ("train", "validation", "test") if has_test else ("train", "validation")
    return {name: read_split(arguments, name) for name in names}


def cache_all_layers(
    task: TaskArguments, arguments: FinetuningArguments, splits: dict[str, list[LabelledSong]]
) -> None:
    """All hidden states of all songs in one pass: probes of any layer find them where [`finetune`] looks."""
    set_seed(arguments.seed)
    task = pinned(task)
    config = head_config(task, AutoConfig.from_pretrained(task.model, revision=task.revision), splits["train"])
    encoder = build_model(task, config).musicfm.to(arguments.device)
    settings = _window_settings(task, arguments)
    cache = FeatureCache(task.cache, EncoderFeatures(encoder, range(config.num_hidden_layers + 1), settings))
    cache.fill([song for songs in splits.values() for song in songs], arguments.dataloader_num_workers)


def _window_settings(task: TaskArguments, arguments: FinetuningArguments) -> WindowSettings:
    return WindowSettings(window_seconds=task.window_seconds, batch_size=arguments.per_device_eval_batch_size)


class Finetuned(NamedTuple):
    """
    Attributes:
        model: The model with its head; `None` for a probe of the log-mel spectrogram.
        trained: What was trained of it: its head, the whole, or the whole with LoRA.
        trainer ([`FinetuningTrainer`]): With its history.
        scores: Split → song id → scores.
        results: All of it in numbers.
    """

    model: HeadModel | None
    trained: torch.nn.Module
    trainer: "FinetuningTrainer"
    scores: dict[str, dict[str, dict[str, Any]]]
    results: dict[str, Any]


def finetune(
    task: TaskArguments, arguments: FinetuningArguments, splits: dict[str, list[LabelledSong]], callbacks=()
) -> Finetuned:
    """
    Train as the settings say, and score validation and test songs with what scored best on validation songs.

    Args:
        splits: train, validation and, if there are any, test songs, as from [`read_splits`].
        callbacks (`list[TrainerCallback]`): For the [`Trainer`].

    Raises:
        ValueError: before anything is trained, if settings do not fit each other, the songs, the encoder, or the
            checkpoint in the output folder.
    """
    began, data = time.perf_counter(), describe_source(task.data)
    task = pinned(task)
    stated = stated_settings(task, arguments, splits)
    checkpoint = arguments.resume_from_checkpoint
    if checkpoint in (None, True):
        checkpoint = find_checkpoint(arguments.output_dir)
    if checkpoint:
        began -= seconds_before(Path(checkpoint), stated)
    base_licence = licence_of(task.model, task.revision)
    config = head_config(task, AutoConfig.from_pretrained(task.model, revision=task.revision), splits["train"])
    settings = _window_settings(task, arguments)
    settings.frames(config)
    model, trained, cache = _to_train(task, arguments, config, settings)
    if cache is not None:
        with arguments.main_process_first(desc="features"):
            cache.fill([song for songs in splits.values() for song in songs], arguments.dataloader_num_workers)
    count = arguments.max_steps * arguments.train_batch_size * arguments.gradient_accumulation_steps
    read = cache or ReadWaveform(config, task.transpose, task.tempo, task.speed)
    seconds = task.crop_seconds or get_task(task.task).crop_seconds
    crops_of = partial(TaskCrops, config, splits["train"], read, crop_seconds=seconds, seed=arguments.seed)
    crops = crops_of(count=count * arguments.world_size)
    crops[0]  # so that what does not fit is said here
    if cache is not None and task.whiten:
        trained.float().projector = whitened_projector(trained, crops_of(count=WHITENING_CROPS))
    if arguments.early_stopping_patience:
        callbacks = [*callbacks, EarlyStopping(arguments.early_stopping_patience)]
    logits = partial(song_logits, model or trained, settings=settings, cache=cache)
    trainer = FinetuningTrainer(
        trained, arguments, crops, splits["validation"], logits, config, stated, began, callbacks=list(callbacks)
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if cache is not None and task.whiten:
        trained.projector = trained.projector.folded()
    validation = None  # has been scored if this is the model of an evaluation of this start
    if cache is None and arguments.load_best_model_at_end:
        validation = trainer.evaluated.get(trainer.state.best_global_step)
    scores = {"validation": validation or trainer.score_songs(splits["validation"])}
    if "test" in splits:
        scores["test"] = trainer.score_songs(splits["test"])
    results = {
        "task": task.task,
        "method": task.method,
        "scores": {name: scores_with_intervals(config, found) for name, found in scores.items()},
        **_parameters(model or trained, trained),
        **stated,
        "steps": {"run": trainer.state.global_step, "best": trainer.state.best_global_step},
        "base": {"name": recorded({"model": task.model})["model"], "revision": task.revision},
        "base_licence": base_licence,
        "data": data | {"songs": {name: len(songs) for name, songs in splits.items()}},
        "seconds": round(trainer.seconds, 1),
        **environment(),
        "history": trainer.state.log_history,
        "scores_of_songs": scores,
    }
    return Finetuned(model, trained, trainer, scores, results)


def _to_train(
    task: TaskArguments, arguments: FinetuningArguments, config: MusicFMConfig, settings: WindowSettings
) -> tuple[HeadModel | None, torch.nn.Module, FeatureCache | None]:
    """The model with its head, what is trained of it, and for a probe the features that it reads."""
    if task.log_mel:
        features = LogMelFeatures(config)
        return None, MusicFMClassifier(config, features.width), FeatureCache(task.cache, features)
    model = build_model(task, config)
    if task.method == "probe":
        model.freeze_base_model()
        features = EncoderFeatures(model.musicfm.to(arguments.device), config.classifier_layers, settings)
        return model, model.classifier, FeatureCache(task.cache, features)
    return model, add_lora(model, task) if task.method == "lora" else model, None


def _parameters(model: torch.nn.Module, trained: torch.nn.Module) -> dict[str, int]:
    """How many there are, and how many were trained. (Peft keeps a copy of the head as it was.)"""
    own = [parameter for name, parameter in model.named_parameters() if ".original_module." not in name]
    return {
        "parameters": sum(parameter.numel() for parameter in own),
        "trained_parameters": sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad),
    }
