"""Files of a folder that belong in a repository."""

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import get_token

# What a repository has of a folder. Not optimizer states, logs, lists of files: those say who trained where.
PUBLISHED = (
    "README.md",
    "config.json",
    "preprocessor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "*_musicfm.py",
    "results.json",
    "report.json",
    "conversion.json",
    "stats.json",
    "evaluations/*.json",
    "curves.png",
)


def published_files(folder: Path) -> list[Path]:
    """
    Files of a folder that belong in a repository.

    Raises:
        ValueError: there are no weights.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if is_published(path.relative_to(folder).as_posix())]
    if not any(path.suffix == ".safetensors" for path in paths):
        raise ValueError(f"{folder} has no weights (*.safetensors) to push.")
    return paths


def is_published(name: str) -> bool:
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in PUBLISHED)


def check_nothing_private(folder: Path, paths: Iterable[Path], token: str | None = None) -> None:
    """
    Raises:
        ValueError: a text file has the token, or a path of this machine.
    """
    tokens = [re.escape(value) for value in (token, get_token()) if value]
    places = [re.escape(str(place)) for place in {Path.home(), folder.resolve().parent} if len(place.parts) > 1]
    secret = re.compile("|".join([*tokens, *(f"{place}(?![\\w-])" for place in places)]) or r"(?!)")
    for path in paths:
        if path.suffix in (".safetensors", ".png"):
            continue
        found = secret.search(path.read_text(encoding="utf-8", errors="replace"))
        if found is not None:
            shown = "your token" if found[0] in (token, get_token()) else found[0]
            raise ValueError(f"{path} has {shown}, which is nobody else's business: nothing was pushed.")
