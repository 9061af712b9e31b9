"""Files that are complete or absent, hidden files, and Python files of a user."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Names that `save_pretrained` of Transformers and of PEFT gives to weights, and to the files that refer to them.
_MODEL_FILES = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_model*.safetensors",
    "adapter_config.json",
)

_SYSTEM_FOLDERS = frozenset(["__MACOSX"])  # of zip archives from macOS; it holds notes named like the audio
_HIDDEN_ENDINGS = (".part", ".made_from.json")  # of files that this package hides


def is_hidden(path: str | os.PathLike) -> bool:
    """
    Return whether a file is hidden: its name, or that of a folder in its path, begins with a dot or is `__MACOSX`.
    Names that begin with several dots are titles, such as `...And Justice for All`, and are not hidden, except those
    of files that this package hides: records, and files that are not complete yet.

    Args:
        path: Path relative to the folder that is listed, which may itself be hidden.
    """
    return any(
        part in _SYSTEM_FOLDERS
        or (part.startswith(".") and not part.startswith(".."))
        or (part.startswith("..") and part.endswith(_HIDDEN_ENDINGS))
        for part in PurePath(path).parts
    )


def readable_name(name: str) -> str:
    """Return the name of a file with a replacement character for bytes that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def list_files(folder: str | os.PathLike, with_broken_links: bool = False) -> list[Path]:
    """
    List the files below a folder that are not hidden, sorted, without following links to folders. Folders that cannot
    be read are left out, with a warning.

    Args:
        folder: Folder to search.
        with_broken_links (`bool`): Also list links to files that do not exist, as when a disk is not mounted.
    """
    files: list[Path] = []
    for root, folders, names in os.walk(os.fspath(folder), onerror=_warn):
        folders[:] = [name for name in folders if not is_hidden(name)]
        files += [Path(root, name) for name in names if not is_hidden(name)]
    return sorted(path for path in files if path.is_file() or (with_broken_links and not path.exists()))


def _warn(error: OSError) -> None:
    logger.warning(f"{error.filename} is left out, because it cannot be read ({error.strerror}).")


def matching_files(folder: str | os.PathLike, pattern: str) -> list[Path]:
    """List the files in a folder that match a pattern, sorted, without hidden files, which `Path.glob` includes."""
    return [path for path in sorted(Path(folder).glob(pattern)) if not is_hidden(path.name)]


def temporary_path(path: str | os.PathLike) -> Path:
    """
    Return the path under which a file or folder is written before it is renamed to `path`: hidden, in the same folder,
    and unique on all machines that share the folder. Processes that are killed leave files with such names,
    `.NAME.UNIQUE.part`, which may be removed.
    """
    path = Path(path)
    return path.with_name(f".{path.name[:50]}.{uuid4().hex}.part")  # shortened: a name has at most 255 bytes


@contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    Yield the path to write a file to, and rename it to `path` at the end. After an exception, it is removed, and an
    earlier file is unchanged. Missing folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def complete_files(folder: str | os.PathLike, last: str = "") -> Iterator[Path]:
    """
    Yield an empty folder to write a set of files to, and move the files to `folder` at the end. After an exception,
    nothing is moved.

    Args:
        folder: Folder of the files; created if needed.
        last (`str`): Name of the file that is moved last, because it marks the set as complete. If it can be missing
            from the new set, or others must not combine it with new files, remove it before the end.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(folder / "files")
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.iterdir(), key=lambda path: (path.name == last, path.name)):
            _move(path, folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(path: Path, target: Path) -> None:
    """Move a file, replacing an earlier one; or a folder, file by file."""
    if not path.is_dir():
        os.replace(path, target)
        return
    target.mkdir(exist_ok=True)
    for part in sorted(path.iterdir()):
        _move(part, target / part.name)


@contextmanager
def complete_model(folder: str | os.PathLike) -> Iterator[Path]:
    """
    Yield an empty folder to save a model or an adapter to, and move its files to `folder` at the end. Weights of an
    earlier model are removed. The configuration is absent while files of two models could mix, so that a folder that
    is not complete cannot be loaded.
    """
    folder = Path(folder)
    with complete_files(folder, last="config.json") as temporary:
        yield temporary
        (folder / "config.json").unlink(missing_ok=True)
        for pattern in _MODEL_FILES:
            for path in folder.glob(pattern):
                path.unlink()


def put_in_place(partial: Path, folder: Path) -> None:
    """Rename a folder. An earlier folder of the new name is deleted only after the new one has taken its place."""
    if not folder.exists():
        os.replace(partial, folder)
        return
    earlier = temporary_path(folder)
    os.replace(folder, earlier)
    try:
        os.replace(partial, folder)
    except OSError:
        os.replace(earlier, folder)
        raise
    shutil.rmtree(earlier)


def write_text(path: str | os.PathLike, text: str, errors: str = "strict") -> None:
    """Write text in UTF-8 to a file that is complete or absent."""
    with complete_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


def write_json(path: str | os.PathLike, values: Mapping[str, Any], indent: int = 1, ascii_only: bool = True) -> None:
    """
    Write JSON with one value a line, in a file that is complete or absent. Numbers that are not finite become null,
    because JSON cannot express them.
    """
    values = json.loads(json.dumps(values), parse_constant=lambda name: None)
    write_text(path, json.dumps(values, indent=indent, ensure_ascii=ascii_only) + "\n")


def write_safetensors(path: str | os.PathLike, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """
    Write tensors and metadata to a file that is complete or absent.

    Raises:
        OSError: the file cannot be written.
    """
    # A header holds UTF-8 only; names of files may be in another encoding.
    readable = {key: os.fsencode(value).decode("utf-8", "replace") for key, value in metadata.items()}
    with complete_file(path) as temporary:
        try:
            save_file(tensors, temporary, readable)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def write_table(path: str | os.PathLike, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as tab-separated values; names of files that are not UTF-8 are escaped."""
    write_text(path, "".join("\t".join(map(str, row)) + "\n" for row in rows), errors="backslashreplace")


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
