"""Records of a run: settings, environment, JSON files."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch

# Fields of TrainingArguments that the results of every training state.
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


def require_same_settings(
    product: str | Path, recorded: Mapping[str, Any], current: Mapping[str, Any], flag: str
) -> None:
    """
    Require that a product, such as a checkpoint, was made with the current settings, compared as JSON holds them.
    Settings that only `recorded` has are ignored. Those that it lacks were off.

    Args:
        product: Its name or path, for the message.
        recorded: The settings that it was made with.
        current: The settings of this run.
        flag: The command-line flag for another place, such as `"--output_dir"`.

    Raises:
        ValueError: Some settings differ; the message names them.
    """
    different = [
        f"{name} {_shorten(recorded.get(name))}, not {_shorten(value)}"
        for name, value in json.loads(json.dumps(current)).items()
        if recorded.get(name) != value and (name in recorded or value)
    ]
    if different:
        raise ValueError(f"{product} was made with {'; '.join(different)}. Give another `{flag}`, or remove it.")


def _shorten(value: Any) -> str:
    """A value for a message; of a long list the beginning."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def strip_absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Copy settings for a published record: of each absolute path, also in lists, the last part only, because the rest
    tells who ran it where.
    """

    def strip(value: Any) -> Any:
        if isinstance(value, list):
            return [strip(part) for part in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {name: strip(value) for name, value in settings.items()}


def environment() -> dict[str, Any]:
    """Describe the `versions` of packages and of `python`, and the `machine` of this process."""
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
