"""Settings from YAML files and command-line flags."""

import difflib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments


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
