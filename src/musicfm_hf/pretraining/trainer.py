"""The Trainer of masked pretraining."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast, gather_object
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import speed_metrics
from transformers.utils import logging

from ..data.crop_reader import AudioProblem, ProblemLog
from ..data.crops import CropLoader, FixedCrops, collate_crops
from ..model.configuration_musicfm import MusicFMConfig
from ..model.masking_musicfm import fit_length, target_frames
from ..model.modeling_musicfm import MusicFMForPreTraining
from ..training.records import refuse_other_settings
from ..training.trainer import ResumableTrainer, selective_checkpointing
from .arguments import PretrainingArguments
from .data import MaskCrops, _Compose, lengths
from .token_statistics import TokenStatistics

logger = logging.get_logger(__name__)

_NOISE = 0x6E6F697365  # sets the seed of an item's noise apart from that of its mask

# What a configuration has that is no setting of the model.
_NO_SETTINGS = ("_name_or_path", "architectures", "dtype", "transformers_version")


class PretrainingTrainer(ResumableTrainer):
    """
    A [`Trainer`] for [`MusicFMForPreTraining`] on a [`CropLoader`]. The loss is averaged over all masked tokens that
    an optimizer step sees, on all processes and accumulation steps. It logs what a model must be better than: the
    entropy of the tokens' frequencies, the most frequent token, and copying the nearest frame that is not masked.

    Args:
        loader ([`CropLoader`]): Training batches, with `mask_time_indices`.
        validation ([`FixedCrops`], *optional*): What `evaluate` measures, always with the same masks.
    """

    def __init__(
        self,
        model: MusicFMForPreTraining,
        args: PretrainingArguments,
        loader: CropLoader,
        validation: FixedCrops | None = None,
        **kwargs,
    ):
        super().__init__(model=model, args=args, eval_dataset=validation, **kwargs)
        if args.selective_checkpointing:
            model.gradient_checkpointing_enable(selective_checkpointing())
        self.loader = loader
        self.encoder_config: MusicFMConfig = model.config
        self.statistics = TokenStatistics(model.config.codebook_sizes, args.device)
        self.audio_seconds = 0.0
        self._began = time.perf_counter()  # earlier by the time of the starts before this one
        self._timed = (self._began, 0.0)
        self.add_callback(_ShareAsEpoch())

    def get_train_dataloader(self) -> CropLoader:
        """The endless loader, which knows its rank itself."""
        return self.loader

    def set_initial_training_values(self, args, dataloader):
        """As in [`Trainer`], but of one epoch: a run that had come to its end does not go on for a step."""
        return (1, *super().set_initial_training_values(args, dataloader)[1:])

    @property
    def seconds(self) -> float:
        """How long it took so far, in all starts; without what was lost between a checkpoint and an interruption."""
        return time.perf_counter() - self._began

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As in [`Trainer`]; data and statistics go on where the checkpoint was, too."""
        if resume_from_checkpoint:
            self.load_progress(Path(resume_from_checkpoint))
        self._timed = (time.perf_counter(), self.audio_seconds)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Onto the device, and a generator of noise for each item in place of its seed."""
        seeds = inputs["seeds"].tolist()
        inputs = super()._prepare_inputs({name: value for name, value in inputs.items() if name != "seeds"})
        device = inputs["input_values"].device
        generators = [torch.Generator(device).manual_seed(seed ^ _NOISE) for seed in seeds]
        return inputs | {"generator": generators}

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """Masked frames with a target, over all processes; never 0."""
        count = torch.zeros((), dtype=torch.int64)
        for batch in batch_samples:
            samples = batch["input_values"].shape[1]
            targets = target_frames(self.encoder_config, lengths(batch), samples)
            count += (fit_length(batch["mask_time_indices"], targets.shape[1]) & targets).sum()
        return self.accelerator.reduce(count.to(device)).clamp(min=1)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """As in [`Trainer`], looking at what came out."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            with torch.no_grad():
                self.statistics.add(outputs)
            self.audio_seconds += inputs["input_values"].numel() / self.encoder_config.sampling_rate
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in [`Trainer`]; entries about training get accuracies, code use and audio hours a second."""
        if "loss" in logs and "eval_loss" not in logs:
            logs |= self.statistics.take(self._sum)
            logs |= self.statistics.describe_codes(self._sum(self.statistics.counts.clone()))
            now, (then, seconds) = time.perf_counter(), self._timed
            total = self._sum(torch.tensor([self.audio_seconds, self.audio_seconds - seconds], dtype=torch.float64))
            self._timed = (now, self.audio_seconds)
            logs["audio_hours"] = total[0].item() / 3600
            logs["audio_hours_per_second"] = total[1].item() / 3600 / (now - then)
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """
        Scores on the fixed crops with their fixed masks. `*_unigram_cross_entropy` and `*_accuracy_most_frequent` are
        those of the frequencies seen in training; before any training, of equal ones.
        """
        crops = self.eval_dataset if eval_dataset is None else eval_dataset
        if crops is None:
            raise ValueError("There is nothing to evaluate on: give the Trainer `validation`.")
        began, paused = time.time(), time.perf_counter()
        rank, ranks, size = self.args.process_index, self.args.world_size, self.args.eval_batch_size
        # All processes make the same number of steps; who has nothing left looks at the first batch again, unmasked.
        mine = [list(range(len(crops)))[start::ranks] for start in range(ranks)]
        steps = math.ceil(len(mine[0]) / size)
        batches = DataLoader(
            crops,
            batch_sampler=[mine[rank][step * size :][:size] or [0] for step in range(steps)],
            collate_fn=_Compose(collate_crops, MaskCrops(self.encoder_config)),
            num_workers=self.args.dataloader_num_workers,
            generator=torch.Generator(),
        )
        counts = self._sum(self.statistics.counts.clone())
        statistics = TokenStatistics(self.encoder_config.codebook_sizes, self.args.device)
        if ranks > 1:
            for buffer in self.model.buffers():
                broadcast(buffer)  # each process has batch statistics of its own; these are the ones that are saved
        self.model.eval()
        for step, batch in enumerate(batches):
            if step * size >= len(mine[rank]):
                batch["mask_time_indices"] = torch.zeros_like(batch["mask_time_indices"])
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = self.model(**inputs)
            statistics.add(outputs, counts)
        scores = statistics.take(self._sum)
        metrics = {"loss": scores["cross_entropy"]} | scores
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        metrics |= speed_metrics(metric_key_prefix, began, num_samples=len(crops), num_steps=steps)
        self._timed = (self._timed[0] + time.perf_counter() - paused, self._timed[1])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def problems(self) -> ProblemLog:
        """Songs that could not be used so far: of training, on all processes, and of validation."""
        log = ProblemLog()
        for problem in gather_object(self.loader.problems.records):
            log.add(problem)
        for problem in self.eval_dataset.problems.records if self.eval_dataset is not None else []:
            log.add(problem)
        return log

    def save_progress(self, folder: Path) -> None:
        """Where this rank's data are, and what was counted."""
        state = {
            "loader": self.loader.state_dict(),
            "problems": self.loader.problems.records,
            "audio_seconds": self.audio_seconds,
            "seconds": self.seconds,
            "config": self.encoder_config.to_dict(),
        }
        (folder / f"data_{self.args.process_index}.json").write_text(json.dumps(state), encoding="utf-8")
        torch.save(self.statistics.counts.cpu(), folder / f"token_counts_{self.args.process_index}.pt")

    def load_progress(self, folder: Path) -> None:
        """
        What [`save_progress`] wrote; `train` does it itself.

        Raises:
            ValueError: if the checkpoint is of another recipe or model, other data or another batch size.
        """
        path = folder / f"data_{self.args.process_index}.json"
        if not path.is_file():
            raise ValueError(f"{folder} was not written by this recipe with {self.args.world_size} processes.")
        state = json.loads(path.read_text(encoding="utf-8"))
        self.loader.load_state_dict(state["loader"])
        config = {name: value for name, value in self.encoder_config.to_dict().items() if name not in _NO_SETTINGS}
        refuse_other_settings(folder, state["config"], config, "--output_dir")
        for problem in state["problems"]:
            self.loader.problems.add(AudioProblem(*problem))
        self.audio_seconds = state["audio_seconds"]
        self._began = time.perf_counter() - state["seconds"]
        counts = torch.load(folder / f"token_counts_{self.args.process_index}.pt", weights_only=True)
        self.statistics.counts = counts.to(self.args.device)

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values.to(self.args.device), "sum")


class _ShareAsEpoch(TrainerCallback):
    """The Trainer takes endless data for one epoch, of which each call of `train` would count its own share."""

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step / state.max_steps
