"""Select the files of a folder to publish, and check them for private information."""

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import get_token

from ..tasks import known_tasks
from ..tasks.retrieval import RETRIEVAL_TASKS
from ..training.files import is_hidden, list_files

# Optimizer states, logs and lists of files are left out, because they may identify the user and the machine.
PUBLISHED = (
    "README.md",
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "sentencepiece.bpe.model",
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
    List the files of a folder that belong in a repository.

    Raises:
        ValueError: the folder has no weights.
    """
    paths = [path for path in list_files(folder) if is_published(path.relative_to(folder).as_posix())]
    if not any(path.suffix == ".safetensors" for path in paths):
        raise ValueError(f"{folder} has no weights (*.safetensors) to push. Pass the output folder of a finished run.")
    return paths


def is_published(name: str) -> bool:
    """
    Return whether a file belongs in a repository, by its path relative to the folder. Models that were trained jointly
    are in subfolders named after their tasks.
    """
    folder, _, rest = name.partition("/")
    if folder in (*known_tasks(), *RETRIEVAL_TASKS) and "/" not in rest:
        name = rest
    return not is_hidden(name) and any(
        fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in PUBLISHED
    )


def check_nothing_private(folder: Path, paths: Iterable[Path], token: str | None = None) -> None:
    """
    Check that text files contain neither a token nor a private path of this machine.

    Args:
        folder: Folder that is pushed; paths in its parent folder are private.
        paths: Files to check. Weights and images are skipped.
        token (`str`, *optional*): Token to search for, in addition to that of `hf auth login`.

    Raises:
        ValueError: a file contains the token, the home folder, or the parent of `folder`.
    """
    tokens = [re.escape(value) for value in (token, get_token()) if value]
    private = [str(place) for place in {Path.home(), folder.resolve().parent} if len(place.parts) > 1]
    places = {re.escape(text) for place in private for text in (place, json.dumps(place)[1:-1])}  # also as in JSON
    secret = re.compile("|".join([*tokens, *(f"(?<![\\w.-]){place}(?![\\w-])" for place in places)]) or r"(?!)")
    for path in paths:
        if path.suffix in (".safetensors", ".png"):
            continue
        match = secret.search(path.read_text(encoding="utf-8", errors="replace"))
        if match is not None:
            shown = "your token" if match[0] in (token, get_token()) else match[0]
            raise ValueError(
                f"{path} contains {shown}, which is private. Nothing was pushed: remove it from the file first."
            )
