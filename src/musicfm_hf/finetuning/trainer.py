"""The Trainer for heads, which evaluates on whole songs."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..data.examples import TaskCrops, collate_examples
from ..data.labeled import LabeledSong
from ..data.pairs import PairCrops
from ..evaluation.scoring import average_scores, rate_song, score_names
from ..inference.feature_cache import FeatureCache
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import task_of
from ..training.files import write_json
from ..training.optimizer import two_rate_optimizer
from ..training.trainer import ResumableTrainer
from .arguments import FinetuningArguments
from .run_fingerprint import PROGRESS, Fingerprint

logger = logging.get_logger(__name__)


class FinetuningTrainer(ResumableTrainer):
    """
    A [`Trainer`] for heads and for models with heads. Encoder and head have separate learning rates, and evaluations
    score whole songs with the metric of the task.

    Args:
        model: The model with its head, optionally with LoRA; or only its `classifier`, if features come from a cache.
        train_dataset ([`TaskCrops`] or [`PairCrops`]): Training crops.
        songs: Validation songs.
        logits (`Callable`): Function that maps songs to pairs `(song, logits)`, with the current weights of the model.
        config ([`MusicFMConfig`]): Configuration of the model with its head.
        fingerprint (`dict`, *optional*): Output of [`run_fingerprint`], which is written to checkpoints.
        started (`float`, *optional*): Start of the run on the clock of `time.perf_counter`, moved back by the duration
            of earlier starts; now by default.
    """

    model: torch.nn.Module
    args: FinetuningArguments
    eval_dataset: Sequence[LabeledSong]

    def __init__(
        self,
        model: torch.nn.Module,
        args: FinetuningArguments,
        train_dataset: TaskCrops | PairCrops,
        songs: Sequence[LabeledSong],
        logits: Callable[[Sequence[LabeledSong]], Iterable[tuple[LabeledSong, np.ndarray]]],
        config: MusicFMConfig,
        fingerprint: Fingerprint | None = None,
        started: float | None = None,
        **kwargs: Any,
    ):
        args.choose_by(self.main_score(config), self.score_names(config, songs))
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=songs,
            data_collator=collate_examples,
            **kwargs,
        )
        self.logits, self.config = logits, config
        self.fingerprint = {"settings": {}, "training": {}, "inputs": {}} if fingerprint is None else fingerprint
        self.started = time.perf_counter() if started is None else started
        self.evaluated: dict[int, tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {}  # step → scores and items
        self.items: dict[str, Any] = {}  # of the songs that were scored last: song id → result → `Items`
        self.model_accepts_loss_kwargs = False

    def main_score(self, config: MusicFMConfig) -> str:
        """Return the score that selects checkpoints."""
        return task_of(config).metric

    def score_names(self, config: MusicFMConfig, songs: Sequence[Any]) -> Sequence[str]:
        """Return the names of the scores of an evaluation."""
        return score_names(config, songs[0]) if songs else [self.main_score(config)]

    def average(self, scores: dict[str, dict[str, Any]]) -> dict[str, float]:
        """Average the output of [`score_songs`]."""
        return average_scores(self.config, scores)

    @property
    def seconds(self) -> float:
        """
        Duration of the run in seconds over all starts, without work lost between a checkpoint and an interruption.
        """
        return time.perf_counter() - self.started

    def save_progress(self, folder: Path) -> None:
        """Write the fingerprint, the step and the seconds so far."""
        if self.args.should_save:
            progress = self.fingerprint | {"steps": self.state.global_step, "seconds": self.seconds}
            write_json(folder / PROGRESS, progress)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """
        Create the optimizer with separate learning rates for the head and the encoder; see [`two_rate_optimizer`].
        """
        if self.optimizer is None:
            self.optimizer = two_rate_optimizer(
                self.args,
                self.model if model is None else model,
                self.args.encoder_learning_rate,
                lambda name: "musicfm." in name,
            )
        return self.optimizer

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Evaluate; before the first step (`eval_on_start`), also save the model, which may remain the best."""
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if skip_scheduler and self.state.global_step == 0 and self.args.load_best_model_at_end:
            self._determine_best_metric(metrics, trial)
            self._save_checkpoint(self.model_wrapped, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        return metrics

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Average the scores of whole songs, which are divided among processes."""
        scores = self.score_songs(self.eval_dataset if eval_dataset is None else eval_dataset)
        if eval_dataset is None:
            self.evaluated[self.state.global_step] = (scores, self.items)
        averages = self.average(scores)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in averages.items()}
        if math.isnan(metrics.get(str(self.args.metric_for_best_model), 0.0)):
            name = str(self.args.metric_for_best_model).removeprefix("eval_")
            logger.warning_once(
                f"No {name} can be computed for the validation songs, so it cannot choose a checkpoint or stop "
                "training. Add validation songs, or choose another score with `--metric_for_best_model`."
            )
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score_songs(self, songs: Sequence[LabeledSong]) -> dict[str, dict[str, Any]]:
        """
        Score whole songs, in the precision of training, and set `items`.

        Returns:
            Song id → scores, in the order of `songs`, on every process.
        """
        share = list(songs)[self.args.process_index :: self.args.world_size]
        self.model.eval()
        with self.accelerator.autocast():
            pairs = [(song.id, rate_song(self.config, song, logits)) for song, logits in self.logits(share)]
        rated = dict(gather_object(pairs) if self.args.world_size > 1 else pairs)
        self.items = {song.id: rated[song.id].items for song in songs}
        return {song.id: rated[song.id].scores for song in songs}


class EarlyStopping(TrainerCallback):
    """
    Stops training when the last `patience` evaluations did not improve on the best one before them. The decision
    depends only on the log history, which checkpoints contain, so a resumed run stops at the same step, and restarting
    a stopped run changes nothing.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self.was_over = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.on_evaluate(args, state, control)
        self.was_over = control.should_training_stop

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.was_over:  # the Trainer takes one step before it checks whether to stop
            control.should_evaluate = control.should_save = False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        name = args.metric_for_best_model
        values = np.array([entry[name] for entry in state.log_history if name in entry])
        if np.isfinite(values).any():  # otherwise, the validation songs do not have this score
            best = int(np.where(np.isnan(values), -np.inf, values).argmax())
            control.should_training_stop |= len(values) - 1 - best >= self.patience


def fill_cache(cache: FeatureCache, songs: Sequence[LabeledSong], arguments: FinetuningArguments) -> None:
    """
    Compute the missing features of songs. The processes of a distributed run divide the songs; machines that do not
    share the folder then compute the rest.
    """
    workers = arguments.dataloader_num_workers
    if arguments.world_size > 1:
        cache.fill(songs[arguments.process_index :: arguments.world_size], workers, arguments.process_index == 0)
        PartialState().wait_for_everyone()
    with arguments.main_process_first(desc="features"):
        cache.fill(songs, workers)
