"""Joint fine-tuning: train one encoder and a head for each of several tasks at once."""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import AutoConfig, TrainerCallback

from ..data.examples import ReadWaveform
from ..data.labeled import LabeledSong
from ..data.splits import SPLITS
from ..evaluation.calibration import fit_calibration, summarize_calibration
from ..evaluation.scoring import average_scores, rate_song, score_names, scores_with_intervals
from ..hub.licenses import license_of
from ..inference.embedding import HeadModel, WindowSettings
from ..inference.feature_cache import EncoderFeatures, FeatureCache
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import get_task, task_of
from ..tasks.averages import drop_nan
from ..training.curves import CurveCallback
from .arguments import FinetuningArguments
from .heads import constant_loss, head_config, lora_config
from .joint_arguments import JointArguments
from .joint_data import (
    JointCrops,
    collate_joint,
    describe_data,
    draw_joint_songs,
    read_joint_splits,
    songs_of,
)
from .joint_model import JointModel, attach_head, layers_read
from .run import Finetuned, build_on_device, collect_results, final_ratings, start_run
from .starting_head import Splits, starting_head
from .trainer import EarlyStopping, FinetuningTrainer, fill_cache
from .whitening import WhitenedLinear, whiten_heads

MEAN = "mean"  # over tasks, of the main score of each

SMALLEST_LOSS = 1e-2  # of a head that ignores the music; smaller ones would give their task a huge weight

TaskSong = tuple[str, LabeledSong]


class JointTrainer(FinetuningTrainer):
    """
    A [`FinetuningTrainer`] for a [`JointModel`]. Checkpoints are selected by the mean, over tasks, of the main scores.

    Validation songs are pairs of a task and a song, and scores are task → song id → scores.
    """

    logits: Any  # JointModel.song_logits without its settings

    def __init__(self, *args: Any, configs: Mapping[str, MusicFMConfig], **kwargs: Any):
        self.configs = configs
        super().__init__(*args, **kwargs)
        self.data_collator = collate_joint
        self._losses: dict[str, list[torch.Tensor]] = {}  # since the last log entry

    def main_score(self, config: MusicFMConfig) -> str:
        return MEAN

    def score_names(self, config: MusicFMConfig, songs: Sequence[TaskSong]) -> Sequence[str]:
        example = dict(songs)  # a song of each task
        return [
            MEAN,
            *(f"{task}_{name}" for task in self.configs for name in score_names(self.configs[task], example[task])),
        ]

    def average(self, scores: dict[str, dict[str, Any]]) -> dict[str, float]:
        averages = {task: average_scores(self.configs[task], rows) for task, rows in scores.items()}
        main = drop_nan(averages[task][task_of(self.configs[task]).metric] for task in averages)
        named = {f"{task}_{name}": value for task, values in averages.items() for name, value in values.items()}
        return named | {MEAN: float(sum(main) / len(main)) if len(main) else float("nan")}

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss, and note those of single tasks for the log."""
        outputs = model(**inputs)
        for task, loss in outputs["losses"].items():
            self._losses.setdefault(task, []).append(loss.detach())
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the mean losses of single tasks, without their weights, beside the loss of training."""
        if "loss" in logs:
            for task, losses in self._losses.items():
                logs[f"loss_{task}"] = float(torch.stack(losses).float().mean())
            self._losses.clear()
        super().log(logs, *args, **kwargs)

    def score_songs(self, songs: Sequence[TaskSong]) -> dict[str, dict[str, Any]]:  # type: ignore[override]
        """
        Score whole songs, in the precision of training. Each song is encoded once for all of its tasks.

        Returns:
            Task → song id → scores, in the order of `songs`, on every process.
        """
        tasks_of: dict[str, tuple[LabeledSong, list[str]]] = {}
        for task, song in songs:
            tasks_of.setdefault(song.id, (song, []))[1].append(task)
        share = list(tasks_of.values())[self.args.process_index :: self.args.world_size]
        self.model.eval()
        with self.accelerator.autocast():
            found = [
                ((task, song.id), rate_song(self.configs[task], song, values))
                for song, logits in self.logits(share)
                for task, values in logits.items()
            ]
        rated = dict(gather_object(found) if self.args.world_size > 1 else found)
        self.items = {}  # task → song id → items
        ordered: dict[str, dict[str, Any]] = {}
        for task, song in songs:
            scores, self.items.setdefault(task, {})[song.id] = rated[task, song.id]
            ordered.setdefault(task, {})[song.id] = scores
        return ordered


def finetune_joint(
    task: JointArguments,
    arguments: FinetuningArguments,
    splits: Splits | None = None,
    callbacks: Iterable[TrainerCallback] = (),
) -> Finetuned:
    """
    Train an encoder and the heads of several tasks at once, and score the validation and test songs of each task with
    the model whose mean score over tasks was best on validation songs. As [`finetune`], it starts from the heads of
    probes, which are trained first, and resumes from its last checkpoint.

    All heads learn from the same crops, which the encoder encodes once; see [`JointCrops`]. The loss of each task is
    divided by its [`constant_loss`] on the training songs, so that losses of different kinds are comparable: 1 means
    that the head knows only the frequencies of the labels. (For one softmax, this is the normalized entropy of He et
    al., *Practical Lessons from Predicting Clicks on Ads at Facebook*, ADKDD 2014.) The loss of a step is their mean,
    weighted by `loss_weights`; see [`JointModel.forward`].

    Args:
        splits: Songs for `TASK/train`, `TASK/validation` and optionally `TASK/test`; by default those that
            [`read_joint_splits`] returns. `max_train_songs` and `validation_songs` apply to each task.
        callbacks: Callbacks for the [`Trainer`].

    Returns:
        [`Finetuned`], whose model is a [`JointModel`], and whose scores are split → task → song id → scores.

    Raises:
        ValueError: Before training, if the settings contradict each other, or do not match the songs, the encoder, or
            the checkpoint in the output folder.
    """
    started = time.perf_counter()
    sources = describe_data(task)
    splits = read_joint_splits(task) if splits is None else splits
    task, fingerprint, checkpoint, earlier_seconds = start_run(task, arguments, splits)
    started -= earlier_seconds
    base_license = license_of(task.model, task.revision)
    heads = starting_head(finetune_joint, task, arguments, splits, checkpoint)
    models = _build_models(task, arguments, splits, heads)
    splits = draw_joint_songs(task, splits)
    trainer, cache = _build_trainer(task, arguments, splits, models, fingerprint, started, callbacks)
    trainer.train(resume_from_checkpoint=checkpoint)
    for model in models.values():
        if isinstance(model.classifier.projector, WhitenedLinear):
            model.classifier.projector = model.classifier.projector.folded()
    rated: Any = final_ratings(trainer, _pairs(task, splits), is_cached=cache is not None)  # type: ignore[arg-type]
    scores = {split: of_tasks for split, (of_tasks, _) in rated.items()}
    summary = {
        split: {name: scores_with_intervals(models[name].config, rows) for name, rows in of_tasks.items()}
        for split, of_tasks in scores.items()
    }
    calibrated = _calibrate(models, {split: items for split, (_, items) in rated.items()})
    names = ", ".join(dict.fromkeys(source["name"] for source in sources.values()))
    about = {"base_licence": base_license, "data": {"name": names, "tasks": sources}}
    whole = torch.nn.ModuleDict(dict(models))  # parameters of the shared encoder count once
    distinct = {name: list({song.id: song for song in songs}.values()) for name, songs in splits.items()}
    results = collect_results(task, trainer, whole, distinct, summary, about)
    results |= {"calibration": calibrated, "scores_of_songs": scores}
    joint: Any = trainer.model
    return Finetuned(joint, joint, trainer, scores, results | {"loss_weights": joint.weights})


def _calibrate(models: Mapping[str, HeadModel], items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Calibrate each model on its validation songs; return, for each split and task, [`summarize_calibration`]."""
    for name, model in models.items():
        model.config.calibration = fit_calibration(model.config, items["validation"][name])
    return {
        split: {name: summarize_calibration(rows, models[name].config.calibration) for name, rows in of_tasks.items()}
        for split, of_tasks in items.items()
    }


def joint_curves(tasks: Sequence[str]) -> CurveCallback:
    """Return the callback that plots the loss, and the main scores of validation songs with their mean."""
    scores = [f"eval_{task}_{get_task(task).metric}" for task in tasks]
    return CurveCallback({"loss": ["loss"], "validation songs": [f"eval_{MEAN}", *scores]})


def _pairs(task: JointArguments, splits: Splits) -> dict[str, list[TaskSong]]:
    """Return the validation songs and, if a task has them, the test songs, as pairs of a task and a song."""
    pairs = {
        split: [(name, song) for name in task.tasks for song in splits.get(f"{name}/{split}", ())]
        for split in ("validation", "test")
    }
    return {split: songs for split, songs in pairs.items() if songs}


def _build_models(
    task: JointArguments, arguments: FinetuningArguments, splits: Splits, heads: torch.nn.Module | None
) -> dict[str, HeadModel]:
    """Build the model of each task, on one encoder, with new heads, with `heads`, or with those that are kept."""
    drawn = draw_joint_songs(task, splits)
    models: dict[str, HeadModel] = {}
    for name in task.tasks:
        settings = task.of_task(name)
        hub = {"revision": settings.revision} | ({"subfolder": name} if task.keep_head else {})
        base = AutoConfig.from_pretrained(task.model, **hub)
        config = head_config(settings, base, drawn[f"{name}/train"], splits[f"{name}/train"])
        if not models or task.keep_head:
            subfolder = name if task.keep_head else ""
            built = build_on_device(settings, arguments, config, songs_of(drawn, "train"), subfolder)
            built.musicfm = next(iter(models.values())).musicfm if models else built.musicfm
            models[name] = built
        else:
            models[name] = attach_head(next(iter(models.values())).musicfm, config)
    if heads is not None:
        torch.nn.ModuleDict({name: model.classifier for name, model in models.items()}).load_state_dict(
            heads.state_dict()
        )
    encoder = next(iter(models.values())).musicfm
    if task.method == "probe":
        encoder.requires_grad_(False).eval()
    elif task.method == "lora":
        from peft import inject_adapter_in_model

        inject_adapter_in_model(lora_config(encoder, task), encoder)
        torch.nn.Module.to(encoder, arguments.device)
    return models


def _build_trainer(
    task: JointArguments,
    arguments: FinetuningArguments,
    splits: Splits,
    models: dict[str, HeadModel],
    fingerprint: Any,
    started: float,
    callbacks: Iterable[TrainerCallback],
) -> tuple[JointTrainer, FeatureCache | None]:
    """Build the Trainer of all tasks and, for probes, the cache of their features."""
    settings = WindowSettings(window_seconds=task.window_seconds, batch_size=arguments.per_device_eval_batch_size)
    configs = {name: model.config for name, model in models.items()}
    encoder = next(iter(models.values())).musicfm
    settings.frames(encoder.config)  # raises if windows are too short
    cache = None
    if task.method == "probe":
        cache = FeatureCache(task.cache, EncoderFeatures(encoder, layers_read(models), settings))
        fill_cache(cache, [song for split in SPLITS for song in songs_of(splits, split)], arguments)
    read = cache or ReadWaveform(encoder.config, speed=task.speed, effects=task.effects)
    crops = JointCrops(configs, splits, read, arguments.num_crops, task.crop_seconds, arguments.seed)
    crops[0]  # raises before training if the settings do not match the songs
    weights = {
        name: task.weight_of(name) / max(constant_loss(config, splits[f"{name}/train"]), SMALLEST_LOSS)
        for name, config in configs.items()
    }
    joint = JointModel(models, weights, crops.label_shares(task.speed), has_encoder=cache is None)
    if cache is not None and task.whiten and not task.keep_head:
        heads = {name: model.classifier for name, model in models.items()}
        whiten_heads(heads, crops, joint.head_input)
    callbacks = list(callbacks)
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStopping(arguments.early_stopping_patience))
    trainer = JointTrainer(
        joint,
        arguments,
        crops,
        _pairs(task, splits)["validation"],
        partial(joint.song_logits, settings=settings, cache=cache),
        configs[task.tasks[0]],
        fingerprint,
        started,
        configs=configs,
        callbacks=callbacks,
    )
    return trainer, cache
