"""Folders of models, and identifiers of their weights."""

import hashlib
from pathlib import Path

from huggingface_hub import snapshot_download

from ..training.files import matching_files
from .runtimes import model_files


def resolve_model(name: str, revision: str | None = None) -> tuple[str, str]:
    """
    Find a saved model, downloading it if it is a repository.

    Args:
        name (`str`): A folder, or a repository on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the repository.

    Returns:
        The local folder, and the revision of its weights: the commit of a repository, or the SHA-256 of the digests of
        a folder's `*.safetensors` files, or of the files of an exported model.

    Raises:
        OSError: the repository does not exist or cannot be reached.
    """
    if Path(name).is_dir():
        digest = hashlib.sha256()
        for path in matching_files(name, "*.safetensors") or model_files(name):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").hexdigest().encode())
        return name, digest.hexdigest()
    folder = snapshot_download(name, revision=revision, ignore_patterns=["*.pt", "pytorch_model*.bin"])
    return folder, Path(folder).name
