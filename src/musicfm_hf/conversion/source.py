"""Find the files of a published checkpoint, in a folder or on the Hub."""

import re
from pathlib import Path
from typing import Any

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")


def is_hub_id(source: str | Path) -> bool:
    """Return whether a source can be a Hub repository: `owner/name`, but not a file or folder."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(source))) and not Path(source).exists()


def find_model_folder(source: str | Path, variant: str | None) -> Path | None:
    """Return the folder with a `config.json`, downloaded if it is on the Hub, or `None` if the source has none."""
    path = Path(source)
    if is_hub_id(source) and path.suffix != ".pt" and variant is None and path.name.lower() != "musicfm":
        from huggingface_hub import snapshot_download

        patterns = ["*config.json", "tokenizer.json", "sentencepiece.bpe.model", *WEIGHTS_NAMES]
        path = Path(snapshot_download(str(source), allow_patterns=patterns))
    return path if (path / "config.json").is_file() else None


def find_weights(folder: Path) -> Path:
    """
    Return the path of the weights in a folder with a `config.json`.

    Raises:
        FileNotFoundError: if the folder has none.
    """
    path = next((folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has a config.json but neither {' nor '.join(WEIGHTS_NAMES)}.")
    return path


def require_settings(published_config: dict[str, Any], supported: dict[str, Any]) -> None:
    """
    Check settings of a published configuration.

    Raises:
        ValueError: if a setting has a value that our models do not support.
    """
    for name, value in supported.items():
        if published_config.get(name) != value:
            raise ValueError(f"The checkpoint has `{name}` {published_config.get(name)!r}; supported: {value!r}.")
