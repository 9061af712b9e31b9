"""Files: JSON, safetensors and tables that are complete or absent, and Python files of a user."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file


def write_json(path: Path, values: Mapping[str, Any], indent: int = 1, ascii_only: bool = True) -> None:
    """
    Write JSON with one value a line, in a file that is complete or absent. Numbers that are not finite become null,
    because JSON cannot express them.
    """
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


def run_python_file(path: str | os.PathLike) -> ModuleType:
    """
    Run a user's Python file, and return it as a module.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if its name does not end with `.py`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    spec = spec_from_file_location(f"musicfm_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file: its name must end with .py.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
