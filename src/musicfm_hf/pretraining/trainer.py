"""The Trainer of masked pretraining."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast, gather_object
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput, speed_metrics
from transformers.utils import logging

from ..data.crop_reader import AudioProblem, ProblemLog
from ..data.crops import CropLoader, FixedCrops
from ..data.identity import digest
from ..model.configuration_musicfm import MusicFMConfig
from ..model.losses_musicfm import frame_weight
from ..model.masking_musicfm import fit_length, target_frames
from ..model.modeling_musicfm import MusicFMForPreTraining
from ..training.files import write_json
from ..training.records import OPTIMIZER_ARGUMENTS, RECORDED_ARGUMENTS, require_same_settings
from ..training.trainer import ResumableTrainer, find_checkpoint, selective_checkpointing
from .arguments import PretrainingArguments
from .data import CollateMasked, noise_generators, sample_counts
from .token_statistics import TokenStatistics

logger = logging.get_logger(__name__)

# Fields of a configuration that do not affect the model. The code that some of them name depends on the version.
_NO_SETTINGS = ("_name_or_path", "architectures", "auto_map", "custom_pipelines", "dtype", "transformers_version")


# Fields of PretrainingArguments that a run must keep when it resumes. It may take more steps.
_COMPARED_ARGUMENTS = [name for name in (*RECORDED_ARGUMENTS, *OPTIMIZER_ARGUMENTS) if name != "max_steps"]


class PretrainingTrainer(ResumableTrainer):
    """
    A [`Trainer`] for [`MusicFMForPreTraining`] on a [`CropLoader`]. The loss is averaged over all masked tokens of an
    optimizer step, over all processes and accumulation steps. The log also contains baselines: the entropy of the
    token frequencies, the most frequent token, and copying the nearest frame that is not masked.

    Args:
        loader ([`CropLoader`]): Training batches, with `mask_time_indices`.
        validation ([`FixedCrops`], *optional*): Crops for `evaluate`, which always get the same masks.
    """

    model: MusicFMForPreTraining
    args: PretrainingArguments
    eval_dataset: FixedCrops | None

    def __init__(
        self,
        model: MusicFMForPreTraining,
        args: PretrainingArguments,
        loader: CropLoader,
        validation: FixedCrops | None = None,
        **kwargs: Any,
    ):
        super().__init__(model=model, args=args, eval_dataset=validation, **kwargs)
        if args.selective_checkpointing:
            model.gradient_checkpointing_enable(selective_checkpointing())
        self.loader = loader
        self.encoder_config: MusicFMConfig = model.config
        self.statistics = TokenStatistics(model.config.codebook_sizes, args.device)
        self.audio_seconds = 0.0
        self._started = time.perf_counter()  # moved back by the duration of earlier starts
        self._loaded: Path | None = None  # checkpoint whose progress this Trainer has, if it has not trained since
        self._last_log = (self._started, 0.0)  # time of the last log, and the seconds of audio until then
        self.add_callback(_EpochFraction())

    def get_train_dataloader(self) -> CropLoader:  # type: ignore[override]  # the Trainer only iterates over it
        """Return the endless loader, which already selects the data of this process."""
        return self.loader

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: Any
    ) -> tuple[int, int, int, int, int, int | None, int]:
        """Limit training to one epoch, so that restarting a finished run takes no further steps."""
        return (1, *super().set_initial_training_values(args, dataloader)[1:])

    @property
    def seconds(self) -> float:
        """
        Duration of the run in seconds over all starts, without work lost between a checkpoint and an interruption.
        """
        return time.perf_counter() - self._started

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train as [`Trainer`] does, resuming the data and the statistics of the checkpoint."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_checkpoint(self.args.output_dir) or True  # without one, the Trainer raises
        if isinstance(resume_from_checkpoint, str) and self._loaded != Path(resume_from_checkpoint):
            self.load_progress(Path(resume_from_checkpoint))
        self._loaded = None
        self._last_log = (time.perf_counter(), self.audio_seconds)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device, and replace the seed of each item with a generator of its noise."""
        seeds = inputs["seeds"].tolist()
        inputs = super()._prepare_inputs({name: value for name, value in inputs.items() if name != "seeds"})
        return inputs | {"generator": noise_generators(seeds, inputs["input_values"].device)}

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """Return the sum of the weights of all frames with a target, over all processes."""
        config, weight = self.encoder_config, torch.zeros(())
        for batch in batch_samples:
            has_target = target_frames(config, sample_counts(batch), batch["input_values"].shape[1])
            mask = fit_length(batch["mask_time_indices"], has_target.shape[1])
            weight += frame_weight(config, mask, has_target)
        return self.accelerator.reduce(weight.to(device))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Compute the loss as [`Trainer`] does, and update the statistics of the outputs."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            with torch.no_grad():
                self.statistics.add(outputs)
            self.audio_seconds += inputs["input_values"].numel() / self.encoder_config.sampling_rate
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as [`Trainer`] does, and add accuracies, code use and throughput to training entries."""
        if "loss" in logs and "eval_loss" not in logs:
            logs |= self.statistics.take(self._sum)
            logs |= self.statistics.describe_codes(self._sum(self.statistics.counts.clone()))
            logs |= self._throughput()
        super().log(logs, start_time)

    def _throughput(self) -> dict[str, float]:
        """Return the hours of audio so far, and per second since the last log, over all processes."""
        now, (last_time, last_seconds) = time.perf_counter(), self._last_log
        self._last_log = (now, self.audio_seconds)
        seconds = torch.tensor([self.audio_seconds, self.audio_seconds - last_seconds], dtype=torch.float64)
        total, recent = (self._sum(seconds) / 3600).tolist()
        return {"audio_hours": total, "audio_hours_per_second": recent / (now - last_time)}

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Score the fixed crops with their fixed masks. `*_unigram_cross_entropy` and `*_accuracy_most_frequent` use the
        token frequencies seen in training, or equal frequencies before training.

        Raises:
            ValueError: The Trainer has no validation crops.
        """
        crops: FixedCrops | None = self.eval_dataset if eval_dataset is None else eval_dataset
        if crops is None:
            raise ValueError("The Trainer has no crops to evaluate on: pass `validation` to it.")
        wall_start, start = time.time(), time.perf_counter()
        counts = self._sum(self.statistics.counts.clone())
        statistics = TokenStatistics(self.encoder_config.codebook_sizes, self.args.device)
        if self.args.world_size > 1:
            for buffer in self.model.buffers():
                broadcast(buffer)  # each process has its own batch statistics; those of the first process are saved
        self.model.eval()
        steps = 0
        for batch in self._validation_batches(crops):
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = self.model(**inputs)
            statistics.add(outputs, counts)
            steps += 1
        scores = statistics.take(self._sum)
        metrics = {"loss": scores["cross_entropy"]} | scores
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        metrics |= speed_metrics(metric_key_prefix, wall_start, num_samples=len(crops), num_steps=steps)
        last_time, last_seconds = self._last_log
        self._last_log = (last_time + time.perf_counter() - start, last_seconds)  # excludes the time of evaluation
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validation_batches(self, crops: FixedCrops) -> Iterator[dict[str, Any]]:
        """
        Yield the masked batches of this process. All processes get the same number of batches: a process without
        further crops gets the first crop again, unmasked.
        """
        processes, size = self.args.world_size, self.args.eval_batch_size
        share = range(self.args.process_index, len(crops), processes)
        steps = math.ceil(len(range(0, len(crops), processes)) / size)
        batches = DataLoader(
            crops,
            batch_sampler=[list(share[step * size :][:size]) or [0] for step in range(steps)],
            collate_fn=CollateMasked(self.encoder_config),
            num_workers=self.args.dataloader_num_workers,
            generator=torch.Generator(),
        )
        for step, batch in enumerate(batches):
            if step * size >= len(share):
                batch["mask_time_indices"] = torch.zeros_like(batch["mask_time_indices"])
            yield batch

    def problems(self) -> ProblemLog:
        """Return the songs that could not be used so far, in training on all processes and in validation."""
        log = ProblemLog()
        for problem in gather_object(self.loader.problems.records):
            log.add(problem)
        for problem in self.eval_dataset.problems.records if self.eval_dataset is not None else []:
            log.add(problem)
        return log

    def save_progress(self, folder: Path) -> None:
        """Write the position of this process in the data, and its statistics."""
        state = {
            "loader": self.loader.state_dict(),
            "problems": self.loader.problems.records,
            "audio_seconds": self.audio_seconds,
            "seconds": self.seconds,
            "config": self.encoder_config.to_dict(),
            "training": {name: getattr(self.args, name) for name in _COMPARED_ARGUMENTS},
            "validation": self._validation_identity(),
            "quantizer": self._quantizer_digest(),
        }
        write_json(folder / f"data_{self.args.process_index}.json", state)
        torch.save(self.statistics.counts.cpu(), folder / f"token_counts_{self.args.process_index}.pt")

    def load_progress(self, folder: Path) -> None:
        """
        Read the files that [`save_progress`] wrote. `train` calls this method, unless it was called for the same
        folder since the last call of `train`.

        Raises:
            ValueError: The checkpoint is not from pretraining with the same number of processes, or was made with
                another model, other data, another batch size or other settings of the training.
        """
        path = folder / f"data_{self.args.process_index}.json"
        if not path.is_file():
            raise ValueError(
                f"{folder} was not written by `musicfm pretrain` with {self.args.world_size} processes. Use the same "
                "number of processes as before, or pass another `--output_dir`."
            )
        state = json.loads(path.read_text(encoding="utf-8"))
        self.loader.load_state_dict(state["loader"])
        config = {name: value for name, value in self.encoder_config.to_dict().items() if name not in _NO_SETTINGS}
        # With the defaults of fields that it lacks, and again in the form of JSON.
        recorded = json.loads(MusicFMConfig.from_dict(state["config"]).to_json_string(use_diff=False))
        require_same_settings(folder, recorded, config, "--output_dir")
        if "training" in state:  # not in checkpoints of version 0.1
            training = {name: getattr(self.args, name) for name in _COMPARED_ARGUMENTS}
            require_same_settings(folder, state["training"], training, "--output_dir")
            crops = {"validation crops": self._validation_identity()}
            require_same_settings(folder, {"validation crops": state["validation"]}, crops, "--output_dir")
        if "quantizer" in state:
            require_same_settings(
                folder, {"quantizer": state["quantizer"]}, {"quantizer": self._quantizer_digest()}, "--output_dir"
            )
        for problem in state["problems"]:
            self.loader.problems.add(AudioProblem(*problem))
        self.audio_seconds = state["audio_seconds"]
        self._started = time.perf_counter() - state["seconds"]
        counts = torch.load(folder / f"token_counts_{self.args.process_index}.pt", weights_only=True)
        self.statistics.counts = counts.to(self.args.device)
        self._loaded = folder

    def _validation_identity(self) -> list | None:
        """Return values for JSON that are equal if validation uses the same crops."""
        return None if self.eval_dataset is None else self.eval_dataset.identity

    def _quantizer_digest(self) -> str:
        """Return a digest of the quantizer, whose values do not change in training."""
        buffers = self.accelerator.unwrap_model(self.model).quantizer.state_dict()
        return digest(b"".join(buffers[name].cpu().numpy().tobytes() for name in sorted(buffers)))

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values.to(self.args.device), "sum")


class _EpochFraction(TrainerCallback):
    """
    Sets the epoch to the fraction of steps that are done. The Trainer treats endless data as one epoch, so each call
    of `train` would otherwise count only its own part of it.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.epoch = state.global_step / state.max_steps
