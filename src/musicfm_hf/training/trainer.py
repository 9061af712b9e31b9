"""A Trainer with atomic checkpoints: each one is complete or absent."""

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints
from transformers.utils import logging

from .files import complete_model

logger = logging.get_logger(__name__)

_INCOMPLETE = ".incomplete"  # folder of a checkpoint that is being written


def selective_checkpointing() -> dict[str, Any]:
    """
    Return arguments for `model.gradient_checkpointing_enable` that keep the outputs of convolutions, of matrix
    products with weights, and of fused attention. The backward pass recomputes the rest: norms, activations, dropout,
    and the scores of unfused attention. This gives much of the memory savings of checkpointing whole layers, at a
    small cost in time.
    """
    aten = torch.ops.aten
    saved_operations = [
        aten.convolution.default,
        aten.mm.default,
        aten.addmm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    ]
    return {"use_reentrant": False, "context_fn": partial(create_selective_checkpoint_contexts, saved_operations)}


def find_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Return the last complete checkpoint in a folder, or `None` if it has none."""
    return get_last_checkpoint(str(output_dir)) if Path(output_dir).is_dir() else None


class ResumableTrainer(Trainer):
    """
    A [`Trainer`] whose checkpoints appear only when they are complete. Each checkpoint is written to a temporary
    folder and then renamed, and older ones are deleted afterwards. If the process is killed while writing, the
    previous checkpoint stays intact.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Disable the half precision of FSDP, which would also round the waveform and the loss."""
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager:
        """Return an autocast context, also under FSDP, where accelerate omits it."""
        return self.accelerator.autocast() if self.is_fsdp_enabled else super().autocast_smart_context_manager()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """
        Save the model as [`Trainer`] does, in files that are complete or absent, and with the code of its own class
        instead of the class that FSDP derives from it.
        """
        folder = str(output_dir or self.args.output_dir)
        # A checkpoint is renamed as a whole. Other processes only take part in gathering the weights.
        writes_in_place = self._is_writing_checkpoint or not self.args.should_save
        files = nullcontext(folder) if writes_in_place else complete_model(folder)
        model_class = type(self.model)
        try:
            if issubclass(model_class, FSDPModule):
                self.model.__class__ = model_class.__bases__[-1]
            with files as place:
                super()._save(str(place), state_dict)
        finally:
            self.model.__class__ = model_class

    def _prepare_input(self, data: Any) -> Any:
        """Move tensors to the device without casting them to half precision, as DeepSpeed would."""
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    def _get_output_dir(self, trial: Any) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, _INCOMPLETE) if self._is_writing_checkpoint else run_dir

    _is_writing_checkpoint = False

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
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
            if (run_dir / name).is_dir():  # left by a resumed run; moved as a whole, so that it is never half deleted
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
        """Set the path of the best checkpoint in the state of the Trainer, on every process."""
        if self.state.best_global_step is not None:  # 0 for a model that was best before the first step
            best = run_dir / f"checkpoint-{self.state.best_global_step}"
            if best.is_dir() or best.name == name:
                self.state.best_model_checkpoint = str(best)

    def save_progress(self, folder: Path) -> None:
        """Write further files of a checkpoint. Called on every process; subclasses override it."""
