"""A Trainer whose checkpoints are complete or absent."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints
from transformers.utils import logging

logger = logging.get_logger(__name__)

_INCOMPLETE = ".incomplete"  # where a checkpoint is while it is written


def selective_checkpointing() -> dict[str, Any]:
    """
    Arguments for `model.gradient_checkpointing_enable` that keep what convolutions, matrix products with weights and
    fused attention gave, and compute the rest again in the backward pass: norms, activations, dropout, the scores of
    unfused attention. It saves much of the memory of checkpointing whole layers, for little time.
    """
    aten = torch.ops.aten
    kept = [
        aten.convolution.default,
        aten.mm.default,
        aten.addmm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    ]
    return {"use_reentrant": False, "context_fn": partial(create_selective_checkpoint_contexts, kept)}


def find_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The last complete checkpoint in a folder, if it has one."""
    return get_last_checkpoint(str(output_dir)) if Path(output_dir).is_dir() else None


class ResumableTrainer(Trainer):
    """
    A [`Trainer`] whose checkpoints appear when they are complete: each is written beside the others and renamed, older
    ones are deleted afterwards. A process that is killed while it writes leaves the previous one as it was.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """As in [`Trainer`], without the half precision of FSDP: it would round the waveform and the loss too."""
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True):
        """As in [`Trainer`]. Under FSDP too, half precision is that of autocast, which accelerate leaves out there."""
        return self.accelerator.autocast() if self.is_fsdp_enabled else super().autocast_smart_context_manager()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """With the code of the model, not with that of the class that FSDP derives from it."""
        own = type(self.model)
        try:
            if issubclass(own, FSDPModule):
                self.model.__class__ = own.__bases__[-1]
            super()._save(output_dir, state_dict)
        finally:
            self.model.__class__ = own

    def _prepare_input(self, data):
        """As in [`Trainer`], but no waveform is cast: DeepSpeed would have it in half precision."""
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    def _get_output_dir(self, trial) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, _INCOMPLETE) if self._is_writing_checkpoint else run_dir

    _is_writing_checkpoint = False

    def _save_checkpoint(self, model, trial) -> None:
        run_dir = Path(super()._get_output_dir(trial))
        incomplete = run_dir / _INCOMPLETE
        if self.args.should_save:
            shutil.rmtree(incomplete, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._is_writing_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_writing_checkpoint = False
        name = f"checkpoint-{self.state.global_step}"
        (incomplete / name).mkdir(parents=True, exist_ok=True)
        self.save_progress(incomplete / name)
        self.accelerator.wait_for_everyone()
        self._point_to_best(run_dir, name)
        if self.args.should_save:
            self.state.save_to_json(str(incomplete / name / "trainer_state.json"))
            if (run_dir / name).is_dir():  # of a run that went on from an earlier one; never half deleted in its place
                os.replace(run_dir / name, incomplete / "replaced")
            os.replace(incomplete / name, run_dir / name)
            shutil.rmtree(incomplete)
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _point_to_best(self, run_dir: Path, name: str) -> None:
        """The state of the Trainer, on every process, names the best checkpoint where it will be."""
        if self.state.best_global_step:
            best = run_dir / f"checkpoint-{self.state.best_global_step}"
            if best.is_dir() or best.name == name:
                self.state.best_model_checkpoint = str(best)

    def save_progress(self, folder: Path) -> None:
        """What else a checkpoint needs; called on every process."""
