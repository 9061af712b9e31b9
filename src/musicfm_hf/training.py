"""What every training recipe shares: settings from YAML and flags, checkpoints that survive anything, curves."""

import difflib
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What results of every training say of its arguments.
RECORDED_ARGUMENTS = [
    "seed",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "learning_rate",
    "warmup_steps",
    "lr_scheduler_type",
    "weight_decay",
    "max_grad_norm",
    "bf16",
    "fp16",
]
_INCOMPLETE = ".incomplete"  # where a checkpoint is while it is written


@dataclass
class RecipeArguments(TrainingArguments):
    """[`TrainingArguments`] for data that come endlessly: `max_steps` must be given."""

    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches go to the model as they are."})
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard, wandb, none, …"})

    def __post_init__(self):
        if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
            self.use_cpu = True  # without it, processes on processors wait for each other for ever
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        super().__post_init__()
        if self.max_steps <= 0:
            raise ValueError("`max_steps` must be given: data come without end.")
        if self.n_gpu > 1:
            raise ValueError(
                f"{self.n_gpu} GPUs need a process each: start with `accelerate launch --config_file "
                "recipes/accelerate/ddp.yaml`, or choose one with CUDA_VISIBLE_DEVICES=0."
            )


def parse_recipe(argument_classes: Sequence[type], argv: Sequence[str] | None = None, description: str | None = None):
    """
    Settings of a recipe: YAML files first, if the first arguments are such, each over the one before, and flags of
    the command line over them.

    In YAML, a key is the name of a flag. A mapping becomes JSON where the flag takes one.

    Args:
        argument_classes: Dataclasses, as for [`HfArgumentParser`].
        argv: Arguments; those of the process by default.
        description: For `--help`.

    Returns:
        An instance of each class. A key or flag that none of them has ends the process with a message that names it.

    Raises:
        ValueError: what a class says of the values it gets.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(
        argument_classes,
        description=description,
        allow_abbrev=False,
        usage="%(prog)s [recipe.yaml ...] [--name value ...]",
    )
    from_file: list[str] = []
    while argv and argv[0].endswith((".yaml", ".yml")):
        from_file += _read_flags(parser, Path(argv.pop(0)))
    arguments = [*from_file, *argv]  # later flags win
    _, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = next((argument for argument in unknown if argument.startswith("--")), unknown[0]).split("=")[0]
        near = difflib.get_close_matches(name, parser._option_string_actions, n=1)
        parser.error(f"there is no {name}" + (f", did you mean {near[0]}?" if near else "; `--help` has all names"))
    return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)


def _read_flags(parser: HfArgumentParser, path: Path) -> list[str]:
    """A YAML file as flags."""
    if not path.is_file():
        parser.error(f"there is no file {path}")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        parser.error(f"{path} is not YAML: {error}")
    if not isinstance(settings, dict):
        parser.error(f"{path} must hold `name: value` lines")
    return [flag for name, value in settings.items() if value is not None for flag in _as_flag(name, value)]


def _as_flag(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *(str(v) for v in value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


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


class CurveCallback(TrainerCallback):
    """
    Draws `curves.png` into the output folder at every checkpoint and at the end: one panel for each group of names.

    Args:
        panels: Title → names in the log history.
    """

    def __init__(self, panels: dict[str, list[str]]):
        self.panels = panels

    def on_save(self, args, state, control, **kwargs):
        self._draw(args, state)

    def on_train_end(self, args, state, control, **kwargs):
        self._draw(args, state)

    def _draw(self, args, state) -> None:
        if not state.is_world_process_zero:
            return
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2 * len(self.panels), 4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, names) in zip(
            figure.subplots(1, len(self.panels), squeeze=False)[0], self.panels.items(), strict=True
        ):
            for name in names:
                points = [(entry["step"], entry[name]) for entry in state.log_history if name in entry]
                if points:
                    axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2, marker="." * (len(points) < 40))
            axes.set(title=title, xlabel="step")
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(fontsize=8)
        path = Path(args.output_dir) / "curves.png"
        figure.savefig(path.with_suffix(".part"), format="png", dpi=110)
        os.replace(path.with_suffix(".part"), path)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file that is complete or absent. What is not finite becomes null, as JSON has no word for it."""
    values = json.loads(json.dumps(values), parse_constant=lambda name: None)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def refuse_other_settings(made: str | Path, there: dict[str, Any], here: dict[str, Any], flag: str) -> None:
    """
    Settings that something was made with have to be those of now, as JSON has them; what only `there` has is ignored,
    and what it does not have yet was off.

    Args:
        made: What it is.
        flag: Of the recipe, with which something else can be made.

    Raises:
        ValueError: some differ; names them.
    """
    differ = [
        f"{name} {there.get(name)!r}, not {value!r}"
        for name, value in json.loads(json.dumps(here)).items()
        if there.get(name) != value and (name in there or value)
    ]
    if differ:
        raise ValueError(f"{made} was made with {'; '.join(differ)}. Give another `{flag}`, or remove it.")


def recorded(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as results show them: of absolute paths the last part only, for they say who ran it where."""

    def shown(value: Any) -> Any:
        if isinstance(value, list):
            return [shown(part) for part in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {name: shown(value) for name, value in settings.items()}


def environment() -> dict[str, Any]:
    """What a run was made with: versions and machine."""
    packages = ("musicfm_hf", "transformers", "torch", "accelerate", "datasets", "peft", "librosa", "numpy")
    scoring = ("mir_eval", "scikit-learn")  # of the extra `tasks`
    processor = next(
        (line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")), platform.processor()
    )
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": {name: version(name) for name in (*packages, *filter(_is_installed, scoring))},
        "python": platform.python_version(),
        "machine": devices or f"{os.cpu_count()} cores of {processor}",
    }


def _is_installed(package: str) -> bool:
    return any(distributions(name=package))


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
