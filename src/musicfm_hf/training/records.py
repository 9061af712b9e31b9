"""Records of a run: settings, environment, JSON files."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch
from transformers.utils import CONFIG_NAME, cached_file

# Fields of TrainingArguments that are recorded in the results of every run.
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

# Further fields that the steps of the optimizer depend on.
OPTIMIZER_ARGUMENTS = [
    "lr_scheduler_kwargs",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
]


def require_same_settings(
    product: str | Path, recorded: Mapping[str, Any], current: Mapping[str, Any], flag: str
) -> None:
    """
    Check that a product, such as a checkpoint, was made with the current settings, compared in their JSON form.
    Settings that only `recorded` has are ignored. Settings that it lacks count as off.

    Args:
        product: Name or path of the product, for the message.
        recorded: The settings that it was made with.
        current: The settings of this run.
        flag: The command-line flag that sets the location, such as `"--output_dir"`.

    Raises:
        ValueError: Some settings differ; the message names them.
    """
    different = [
        f"{name} {_shorten(recorded.get(name))}, not {_shorten(value)}"
        for name, value in json.loads(json.dumps(current)).items()
        if recorded.get(name) != value and (name in recorded or value)
    ]
    if different:
        raise ValueError(f"{product} was made with {'; '.join(different)}. Pass another `{flag}`, or remove it.")


def _shorten(value: Any) -> str:
    """Return the `repr` of a value for a message, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def strip_absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Copy settings for a published record. Absolute paths, including those in lists, are reduced to their last part,
    because the rest may identify the user and the machine.
    """

    def strip(value: Any) -> Any:
        if isinstance(value, list):
            return [strip(part) for part in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {name: strip(value) for name, value in settings.items()}


def environment() -> dict[str, Any]:
    """Return the `versions` of packages, the version of `python`, and the `machine` of this process."""
    packages = ("musicfm_hf", "transformers", "torch", "accelerate", "datasets", "peft", "numpy")
    scoring = ("librosa", "mir_eval", "scikit-learn")  # of the extra `tasks`
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": {name: version(name) for name in (*packages, *filter(_is_installed, scoring))},
        "python": platform.python_version(),
        "machine": devices or f"{os.cpu_count()} cores of {processor_name()}",
    }


def processor_name() -> str:
    """Return the name of the processor."""
    return _cpu_entry("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Return the names of the instruction sets of the processor, as Linux calls them; empty on other systems."""
    return frozenset((_cpu_entry("flags") or _cpu_entry("Features")).split())


def _cpu_entry(name: str) -> str:
    """Return the first entry of a name in /proc/cpuinfo, or an empty text."""
    lines = (line.partition(":") for line in _cpu_info())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def _is_installed(package: str) -> bool:
    return any(distributions(name=package))


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def commit_of(model: str, revision: str | None = None) -> str | None:
    """
    Return the commit of a model in a repository; `None` for a folder.

    Args:
        model: Folder or repository.
        revision: Branch, tag or commit.

    Raises:
        OSError: it is neither.
    """
    if Path(model).is_dir():
        return None
    return Path(str(cached_file(model, CONFIG_NAME, revision=revision))).parent.name
