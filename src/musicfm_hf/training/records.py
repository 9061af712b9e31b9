"""Records of a run: settings, environment, JSON files."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

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


def write_json(path: Path, values: dict[str, Any], indent: int = 1, ascii_only: bool = True) -> None:
    """Write a file that is complete or absent. What is not finite becomes null, as JSON has no word for it."""
    values = json.loads(json.dumps(values), parse_constant=lambda name: None)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(values, indent=indent, ensure_ascii=ascii_only) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata to a file that is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp")
    # A header holds UTF-8 only; names of files may be in another encoding.
    readable = {key: os.fsencode(value).decode("utf-8", "replace") for key, value in metadata.items()}
    try:
        save_file(tensors, temporary, readable)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: str | os.PathLike, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as tab-separated values; names of files that are not UTF-8 are escaped."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


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
