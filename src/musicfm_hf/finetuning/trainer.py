"""The Trainer of heads: whole songs are scored in its evaluations."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback

from ..data.examples import TaskCrops, collate_examples
from ..data.labelled import LabelledSong
from ..evaluation.scoring import average_scores, score_song
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import get_task
from ..training.records import write_json
from ..training.trainer import ResumableTrainer
from .arguments import FinetuningArguments
from .fingerprint import PROGRESS


class FinetuningTrainer(ResumableTrainer):
    """
    A [`Trainer`] for heads and models with heads, with a learning rate for each, that evaluates on whole songs by the
    task's own score.

    Args:
        model: The model with its head; its `classifier` alone where features come from a cache; either with LoRA.
        songs: To evaluate on.
        logits (`Callable`): Songs → `(song, logits)`, with the model as it is.
        config ([`MusicFMConfig`]): Of the model with its head.
        stated (`dict`, *optional*): `settings`, `training` and `inputs`, as results have them: checkpoints say
            them.
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
        args.metric_for_best_model = f"eval_{get_task(config.task).metric}"
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
