"""Training a head on the encoder: as a probe, with the whole encoder, or with LoRA."""

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, set_seed
from transformers.dynamic_module_utils import custom_object_save

from .cards import licence_of
from .data.catalogue import describe_source
from .data.examples import (
    ReadWaveform,
    TaskCrops,
    crop_targets,
    task_labels,
    with_annotation,
)
from .data.labelled import LabelledSong, load_songs, split_names
from .features import EncoderFeatures, FeatureCache, LogMelFeatures
from .finetuning_settings import (
    FinetuningArguments,
    TaskArguments,
    pinned,
    seconds_before,
    stated_settings,
)
from .finetuning_trainer import EarlyStopping, FinetuningTrainer
from .inference import HeadModel, WindowSettings
from .model.classification_musicfm import (
    MusicFMClassifier,
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
)
from .model.configuration_musicfm import MusicFMConfig
from .scoring import scores_with_intervals, song_logits
from .tasks import task_module
from .training import (
    environment,
    find_checkpoint,
    recorded,
)
from .whitening import WhitenedLinear

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


def build_model(arguments: TaskArguments, config: MusicFMConfig) -> HeadModel:
    """
    The encoder of `arguments.model` with a new head, as [`head_config`] describes it.

    Raises:
        ValueError: if weights of the encoder are missing there.
    """
    is_clip = config.label_rate is None
    model_class = MusicFMForAudioClassification if is_clip else MusicFMForAudioFrameClassification
    if arguments.random_encoder:
        return model_class(config)
    folder = Path(arguments.model)
    name = str(folder.resolve()) if folder.is_dir() else arguments.model  # which an adapter will name
    return model_class.from_encoder(name, config, revision=arguments.revision)


def head_config(arguments: TaskArguments, base: MusicFMConfig, songs: Sequence[LabelledSong]) -> MusicFMConfig:
    """The configuration of a model with a head for a task."""
    module = task_module(arguments.task)
    labels = task_labels(arguments.task, songs)
    outputs = [dict(output, size=output["size"] or len(labels)) for output in module.OUTPUTS]
    rate = arguments.rate or module.PAPER_RATE
    values = base.to_dict() | {
        "task": arguments.task,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": outputs[0]["problem_type"],
        "classifier_outputs": outputs,
        "label_rate": rate,
        "label_centered": arguments.task == "beat",
        "classifier_layer": arguments.layer,
        "use_weighted_layer_sum": arguments.weighted_layer_sum,
        "classifier_proj_size": arguments.head_size,
        "classifier_dropout": arguments.head_dropout,
        "freeze_batch_norm": arguments.freeze_batch_norm or arguments.method == "lora",
        "decoding": decoder_settings(arguments, rate),
        "class_weights": None,
    }
    config = MusicFMConfig.from_dict(values)
    if arguments.balance > 0:
        config.class_weights = class_weights(config, songs, arguments.balance)
    return config


def decoder_settings(arguments: TaskArguments, rate: float | None) -> dict[str, Any]:
    """
    `arguments.decoding`, tried on silence: its mistakes would show in the first evaluation only.

    Raises:
        ValueError: if it is no mapping, or the task's decoder does not take it.
    """
    try:
        settings = json.loads(arguments.decoding)
    except json.JSONDecodeError as error:
        raise ValueError(f"`decoding` must be a mapping, got {arguments.decoding!r} ({error}).") from error
    if not isinstance(settings, dict):
        raise ValueError(f"`decoding` must be a mapping, got {arguments.decoding!r}.")
    module = task_module(arguments.task)
    try:
        if module.LABELS:
            module.events(np.zeros((8, len(module.LABELS))), rate, **settings)
    except TypeError as error:
        raise ValueError(f"`decoding` has a setting that does not exist or fit: {error}") from error
    return settings


def class_weights(config: MusicFMConfig, songs: Sequence[LabelledSong], balance: float) -> list[float]:
    """
    Weights of labels by how rare they are in songs: of classes of which one applies (1 / (classes · share))^`balance`,
    of independent ones ((1 - share) / share)^`balance`.
    """
    total, sums = torch.zeros(2, config.num_labels, dtype=torch.float64)
    for song in songs:
        frames = config.frame_counts(round(song.duration * config.sampling_rate))[-1]
        targets = crop_targets(config, song, 0.0, frames).double().view(-1, config.num_labels)
        valid = (targets >= 0).double()
        total += (targets * valid).sum(0)
        sums += valid.sum(0)
    shares = (total / sums.clamp(min=1)).clamp(min=1e-4, max=1 - 1e-4)
    weights, start = [], 0
    for output in config.classifier_slices:
        part = shares[start : start + output["size"]]
        start += output["size"]
        single = output["problem_type"] == "single_label_classification"
        weights += ((1 / (len(part) * part)) if single else (1 - part) / part).pow(balance).tolist()
    return weights


def add_lora(model: HeadModel, arguments: TaskArguments) -> Any:
    """
    The model with LoRA matrices beside the layers that `arguments.lora_targets` name; its head is trained whole.

    Raises:
        ValueError: if the encoder has no layer of one of these names.
    """
    from peft import LoraConfig, get_peft_model

    names = {name.rpartition(".")[2] for name, module in model.musicfm.named_modules() if not list(module.children())}
    if missing := sorted(set(arguments.lora_targets) - names):
        raise ValueError(f"The encoder has no layers {', '.join(missing)}; it has {', '.join(sorted(names))}.")
    lora = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=rf"musicfm\..*\.({'|'.join(arguments.lora_targets)})",
        modules_to_save=["classifier"],
        revision=arguments.revision,
    )
    return get_peft_model(model, lora)


def read_layers(config: MusicFMConfig) -> list[int]:
    """The hidden states that a head reads."""
    if config.use_weighted_layer_sum:
        return list(range(config.num_hidden_layers + 1))
    return [config.num_hidden_layers if config.classifier_layer is None else config.classifier_layer]


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


def save_finetuned(model: HeadModel, trained: torch.nn.Module, folder: str | Path) -> None:
    """
    Write what was trained: the whole model; or an adapter of peft, with the configuration of its model beside it, so
    that the folder loads on its own.
    """
    if hasattr(trained, "get_base_model"):
        trained.save_pretrained(folder)
        model.config.save_pretrained(folder)
        custom_object_save(trained.get_base_model(), folder)  # the code, for those who do not have the package
    else:
        model.save_pretrained(folder)


def whitened_projector(head: MusicFMClassifier, crops: TaskCrops) -> WhitenedLinear:
    """The first layer of a head, for whitened features: those of the crops."""
    examples = (crops[number]["hidden_states"][None].float() for number in range(len(crops)))
    with torch.no_grad():
        inputs = (head.layer_norm(head.pool(head.mix(example), None)) for example in examples)
        return WhitenedLinear(head.projector, inputs)


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
    seconds = task.crop_seconds or task_module(task.task).CROP_SECONDS
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
        features = EncoderFeatures(model.musicfm.to(arguments.device), read_layers(config), settings)
        return model, model.classifier, FeatureCache(task.cache, features)
    return model, add_lora(model, task) if task.method == "lora" else model, None


def _parameters(model: torch.nn.Module, trained: torch.nn.Module) -> dict[str, int]:
    """How many there are, and how many were trained. (Peft keeps a copy of the head as it was.)"""
    own = [parameter for name, parameter in model.named_parameters() if ".original_module." not in name]
    return {
        "parameters": sum(parameter.numel() for parameter in own),
        "trained_parameters": sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad),
    }
