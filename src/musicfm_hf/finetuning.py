"""Training a head on the encoder: as a probe, with the whole encoder, or with LoRA."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import AutoConfig, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import cached_file

from .cards import licence_of
from .data.catalogue import describe_source
from .data.examples import (
    ReadWaveform,
    TaskCrops,
    annotation_of,
    collate_examples,
    crop_targets,
    task_labels,
    with_annotation,
)
from .data.labelled import LabelledSong, load_songs, split_names
from .features import EncoderFeatures, FeatureCache, LogMelFeatures
from .inference import HeadModel, WindowSettings
from .model.classification_musicfm import (
    MusicFMClassifier,
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
)
from .model.configuration_musicfm import MusicFMConfig
from .scoring import average_scores, score_song, scores_with_intervals, song_logits
from .tasks import task_module
from .tasks.annotations import Beats
from .training import (
    ResumableTrainer,
    environment,
    find_checkpoint,
    recorded,
    refuse_other_settings,
    write_json,
)
from .whitening import WhitenedLinear

RECORDED_ARGUMENTS = [
    "seed",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "learning_rate",
    "encoder_learning_rate",
    "warmup_steps",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "eval_steps",
    "load_best_model_at_end",
    "early_stopping_patience",
    "bf16",
    "fp16",
]
PLACES = ("cache", "results")  # settings that change nothing in the results
FREE_TO_CHANGE = (*PLACES, "max_steps", "early_stopping_patience")  # where a run goes on
PROGRESS = "finetuning.json"
WHITENING_CROPS = 1024
# Attention and feed-forward layers of every encoder.
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense"]


@dataclass
class FinetuningArguments(TrainingArguments):
    """[`TrainingArguments`] for fine-tuning: `max_steps` must be given, and `learning_rate` is that of the head."""

    learning_rate: float = field(default=1e-4, metadata={"help": "Of the head."})
    encoder_learning_rate: float = field(default=1e-5, metadata={"help": "Of the encoder, or of its LoRA matrices."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches go to the model as they are."})
    train_sampling_strategy: str = field(default="sequential", metadata={"help": "Crops are drawn by their number."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Crops on each device in a step."})
    logging_steps: float = field(default=20, metadata={"help": "Log every so many steps."})
    eval_strategy: str = field(default="steps", metadata={"help": "When validation songs are scored."})
    save_strategy: str = field(default="steps", metadata={"help": "When checkpoints are written."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep what scored best on validation songs."})
    early_stopping_patience: int = field(default=0, metadata={"help": "Stop after so many evaluations without gain."})
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard, wandb, none, …"})

    def __post_init__(self):
        if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
            self.use_cpu = True  # without it, processes on processors wait for each other for ever
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        super().__post_init__()
        if self.max_steps <= 0:
            raise ValueError("`max_steps` must be given: crops are drawn without end.")
        if self.train_sampling_strategy != "sequential":
            raise ValueError("`train_sampling_strategy` must be sequential: crops are random as they are.")


@dataclass
class TaskArguments:
    """What to train for, on what, and how."""

    task: str = field(default="", metadata={"help": "beat, chord, structure, key or tagging"})
    model: str = field(default="", metadata={"help": "Folder or repository of the encoder."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of that repository."})
    data: str = field(default="", metadata={"help": "Data set of recipes/prepare.py, a folder or a repository."})
    method: str = field(
        default="probe",
        metadata={"help": "probe (frozen encoder), full, or lora.", "choices": ["probe", "full", "lora"]},
    )
    layer: int | None = field(
        default=None, metadata={"help": "Hidden state that the head reads; the last by default."}
    )
    weighted_layer_sum: bool = field(default=False, metadata={"help": "Read a learned sum of all hidden states."})
    random_encoder: bool = field(default=False, metadata={"help": "New weights for the encoder: what is chance?"})
    log_mel: bool = field(
        default=False, metadata={"help": "A probe of the log-mel spectrogram in the encoder's place."}
    )
    rate: float | None = field(default=None, metadata={"help": "Label frames per second; the paper's by default."})
    crop_seconds: float | None = field(default=None, metadata={"help": "Training crop; the paper's by default."})
    window_seconds: float = field(default=30.0, metadata={"help": "Window in which whole songs are encoded."})
    decoding: str = field(default="{}", metadata={"help": "Settings of the task's decoder; a mapping in YAML."})
    balance: float = field(
        default=0.0, metadata={"help": "Weight of rare classes: 0 is none, 1 makes all classes count the same."}
    )
    head_size: int = field(default=512, metadata={"help": "Units of the head's hidden layer."})
    head_dropout: float = field(default=0.0, metadata={"help": "Dropout after them."})
    whiten: bool = field(default=True, metadata={"help": "A probe learns on whitened features, which is faster."})
    freeze_batch_norm: bool = field(default=True, metadata={"help": "Keep the encoder's batch statistics."})
    transpose: bool = field(default=False, metadata={"help": "Training crops pitch-shifted by -5 to 6 semitones."})
    tempo: float = field(
        default=0.0, metadata={"help": "Training crops up to this much faster or slower, such as 0.2."}
    )
    speed: int = field(
        default=0, metadata={"help": "Training crops played faster or slower by up to so many semitones, such as 3."}
    )
    cache: str = field(default=".features", metadata={"help": "Where features of a frozen encoder are kept."})
    lora_rank: int = field(default=8, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: float = field(default=16, metadata={"help": "Their scale times the rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before them."})
    lora_targets: list[str] = field(default_factory=lambda: list(LORA_TARGETS), metadata={"help": "Adapted layers."})
    limit: int | None = field(default=None, metadata={"help": "Use so many songs of each split only."})
    results: str = field(default="results", metadata={"help": "Folder for the JSON of scores."})

    def __post_init__(self):
        task_module(self.task)
        for name in ("model", "data"):
            if not getattr(self, name):
                raise ValueError(f"`--{name}` must be given.")
        if (self.log_mel or self.random_encoder) and self.method != "probe":
            raise ValueError("`log_mel` and `random_encoder` are baselines of probes: use `--method probe`.")
        if (self.transpose or self.tempo or self.speed) and self.method == "probe":
            raise ValueError(
                "A probe reads features that were computed once: leave `transpose`, `tempo` and `speed` as they are, "
                "or prepare songs that were changed."
            )
        if self.transpose and self.task not in ("chord", "key"):
            raise ValueError(f"`transpose` changes chords and keys, but the task is {self.task}.")
        if self.tempo and self.task != "beat":
            raise ValueError(f"`tempo` changes beats, but the task is {self.task}.")
        if self.speed and self.task == "tagging":
            raise ValueError("`speed` changes pitch and tempo, which tags may name: leave it at 0.")


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


def pinned(arguments: TaskArguments) -> TaskArguments:
    """With the commit as `revision` where the model is a repository; without one where it is a folder."""
    if Path(arguments.model).is_dir():
        return replace(arguments, revision=None)
    file = cached_file(arguments.model, "config.json", revision=arguments.revision)
    return replace(arguments, revision=Path(file).parent.name)


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


class FinetuningTrainer(ResumableTrainer):
    """
    A [`Trainer`] for heads and models with heads, with a learning rate for each, that evaluates on whole songs by the
    task's own score.

    Args:
        model: The model with its head; its `classifier` alone where features come from a cache; either with LoRA.
        songs: To evaluate on.
        logits (`Callable`): Songs → `(song, logits)`, with the model as it is.
        config ([`MusicFMConfig`]): Of the model with its head.
        stated (`dict`, *optional*): `settings` and `training`, as results have them: checkpoints say them.
        began (`float`, *optional*): When the run would have begun if it had never been interrupted, by
            `time.perf_counter`; now by default.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: FinetuningArguments,
        train_dataset: TaskCrops,
        songs: Sequence[LabelledSong],
        logits: Callable[[Sequence[LabelledSong]], Iterable[tuple[LabelledSong, np.ndarray]]],
        config: MusicFMConfig,
        stated: dict[str, dict[str, Any]] | None = None,
        began: float | None = None,
        **kwargs,
    ):
        args.metric_for_best_model = f"eval_{task_module(config.task).METRIC}"
        args.greater_is_better = True
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=songs,
            data_collator=collate_examples,
            **kwargs,
        )
        self.logits, self.config = logits, config
        self.stated = {"settings": {}, "training": {}, "inputs": {}} if stated is None else stated
        self.began = time.perf_counter() if began is None else began
        self.evaluated: dict[int, dict[str, dict[str, Any]]] = {}  # step → scores of songs
        self.model_accepts_loss_kwargs = False

    @property
    def seconds(self) -> float:
        """How long it took so far, in all starts; without what was lost between a checkpoint and an interruption."""
        return time.perf_counter() - self.began

    def save_progress(self, folder: Path) -> None:
        """With what settings this is, and how long it took."""
        if self.args.should_save:
            write_json(folder / PROGRESS, self.stated | {"steps": self.state.global_step, "seconds": self.seconds})

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """
        As in [`Trainer`], with the head's parameters in groups of their own, which come first: the rate of the first
        is logged. What has one axis is not decayed: biases and norms, of which [`Trainer`] would not know `norm1`.
        """
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        groups: dict[tuple[float, float], list] = {}
        for name, parameter in sorted(named, key=lambda item: "musicfm." in item[0]):
            rate = self.args.encoder_learning_rate if "musicfm." in name else self.args.learning_rate
            groups.setdefault((rate, self.args.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
        optimizer_class, values = Trainer.get_optimizer_cls_and_kwargs(self.args, model)
        parts = [
            {"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()
        ]
        self.optimizer = optimizer_class(parts, **values)
        return self.optimizer

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Average scores of whole songs; songs are shared among processes."""
        scores = self.score_songs(self.eval_dataset if eval_dataset is None else eval_dataset)
        if eval_dataset is None:
            self.evaluated[self.state.global_step] = scores
        averages = average_scores(self.config, scores)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in averages.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score_songs(self, songs: Sequence[LabelledSong]) -> dict[str, dict[str, Any]]:
        """Song id → its scores, in the order of the songs, on every process; in the precision of training."""
        own = list(songs)[self.args.process_index :: self.args.world_size]
        self.model.eval()
        with self.accelerator.autocast():
            found = [(song.id, score_song(self.config, song, logits)) for song, logits in self.logits(own)]
        found = dict(gather_object(found) if self.args.world_size > 1 else found)
        return {song.id: found[song.id] for song in songs}


class EarlyStopping(TrainerCallback):
    """
    Ends training after `patience` evaluations of which none beats all before them. It goes by the history, which
    checkpoints have: a run that resumes stops where it would have stopped, and one that has stopped changes no more.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self.was_over = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.on_evaluate(args, state, control)
        self.was_over = control.should_training_stop

    def on_step_end(self, args, state, control, **kwargs):
        if self.was_over:  # the Trainer takes one step before it looks
            control.should_evaluate = control.should_save = False

    def on_evaluate(self, args, state, control, **kwargs):
        name = args.metric_for_best_model
        values = np.array([entry[name] for entry in state.log_history if name in entry])
        if len(values):
            best = int(np.where(np.isnan(values), -np.inf, values).argmax())
            control.should_training_stop |= len(values) - 1 - best >= self.patience


def seconds_before(checkpoint: Path, stated: dict[str, dict[str, Any]]) -> float:
    """
    How long a run took up to a checkpoint of it.

    Raises:
        ValueError: the checkpoint was made with other settings, another encoder or other songs; a longer run than was
            meant may go on.
    """
    path = checkpoint / PROGRESS
    if not path.is_file():
        raise ValueError(f"{checkpoint} was not written by this recipe. Give another `--output_dir`.")
    there = json.loads(path.read_text(encoding="utf-8"))
    if stated["training"]["max_steps"] < there["steps"]:
        raise ValueError(f"{checkpoint} has taken more than {stated['training']['max_steps']} steps already.")
    _refuse_other(checkpoint, there, stated, FREE_TO_CHANGE, "--output_dir")
    return there["seconds"]


def results_if_done(
    path: Path,
    task: TaskArguments,
    arguments: FinetuningArguments,
    splits: dict[str, list[LabelledSong]],
    flag: str,
    free: Sequence[str] = PLACES,
) -> dict[str, Any] | None:
    """
    The `results` of a run, from the file that has them; `None` if there is no such file.

    Args:
        splits: As [`finetune`] has them.
        flag: Of the recipe, with which results come to another place.
        free: Settings that may be others.

    Raises:
        ValueError: they were made with other settings, another encoder or other songs.
    """
    if not path.is_file():
        return None
    results = json.loads(path.read_text(encoding="utf-8"))
    _refuse_other(path, results, _stated(pinned(task), arguments, splits), free, flag)
    return results


def _stated(
    task: TaskArguments, arguments: FinetuningArguments, splits: dict[str, list[LabelledSong]]
) -> dict[str, dict[str, Any]]:
    """Settings, as results have them, and what shows that the encoder or the songs are others than they were."""
    training = {name: getattr(arguments, name) for name in RECORDED_ARGUMENTS}
    inputs = {"encoder_digest": _encoder_digest(task), "songs_digest": _songs_digest(task.task, splits)}
    return {"settings": recorded(vars(task)), "training": training, "inputs": inputs}


def _encoder_digest(task: TaskArguments) -> str | None:
    """Of the files of a folder; of a repository the revision says it."""
    folder = Path(task.model)
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=8)
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _songs_digest(task: str, splits: dict[str, list[LabelledSong]]) -> str:
    """Of ids, durations and annotations."""
    digest = hashlib.blake2b(digest_size=8)
    for split, songs in splits.items():
        for song in songs:
            annotation = annotation_of(song, task)
            if isinstance(annotation, Beats):
                annotation = [values.tolist() for values in annotation]
            digest.update(repr((split, song.id, song.duration, annotation)).encode())
    return digest.hexdigest()


def _refuse_other(made: Path, there: dict, stated: dict, free: Sequence[str], flag: str) -> None:
    here = {key: value for values in stated.values() for key, value in values.items() if key not in free}
    made_with = {key: value for name in stated for key, value in there.get(name, {}).items()}
    refuse_other_settings(made, made_with, here, flag)


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
    stated = _stated(task, arguments, splits)
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
