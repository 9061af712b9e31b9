"""PEFT adapters: find the base model of an adapter, and check that the two are compatible."""

import json
from typing import Any

from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file

from .configuration_musicfm import MusicFMConfig

# Arguments that select a file on the Hub.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

# Arguments of `cached_file` that make it return `None` for a file that does not exist.
_MISSING_IS_ALLOWED = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_gated_repo")

# Settings in which two encoders must agree for an adapter to fit both.
_ENCODER_SHAPE = (
    "encoder_type",
    "front_end",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


def find_base(folder_or_repo: str, **kwargs: Any) -> tuple[str, str] | None:
    """
    Return the base model that an adapter names, and its revision; `None` if `folder_or_repo` holds no adapter.

    Args:
        folder_or_repo: Folder or Hub repository.
        kwargs: Arguments of the Hub, among [`HUB_ARGUMENTS`].
    """
    file = find_adapter_config_file(folder_or_repo, **kwargs)
    if file is None:
        return None
    with open(file, encoding="utf-8") as content:
        adapter_config = json.load(content)
    return adapter_config["base_model_name_or_path"], adapter_config.get("revision") or "main"


def adapter_config(folder_or_repo: str, **kwargs: Any) -> MusicFMConfig:
    """
    Load the configuration of an adapted model: that beside the adapter, or, without one, that of its base model.

    Args:
        folder_or_repo: Folder or Hub repository of the adapter.
        kwargs: Arguments of the Hub, among [`HUB_ARGUMENTS`].

    Raises:
        ValueError: if neither `folder_or_repo` nor a base model has a configuration.
        OSError: if the base model does not exist.
    """
    missing = dict.fromkeys(_MISSING_IS_ALLOWED, False)
    if cached_file(folder_or_repo, CONFIG_NAME, **kwargs, **missing) is not None:
        return MusicFMConfig.from_pretrained(folder_or_repo, **kwargs)
    base = find_base(folder_or_repo, **kwargs)
    if base is None:
        raise ValueError(f"{folder_or_repo} has neither a {CONFIG_NAME} nor an adapter.")
    return MusicFMConfig.from_pretrained(base[0], **kwargs | {"revision": base[1], "subfolder": ""})


def check_base(config: MusicFMConfig, base_model: str, **kwargs: Any) -> None:
    """
    Check that an adapter with this configuration can be used with a base model.

    Args:
        config ([`MusicFMConfig`]): Configuration of the adapted model.
        base_model: Folder or Hub repository of the base model.
        kwargs: Arguments of the Hub, among [`HUB_ARGUMENTS`].

    Raises:
        ValueError: if the base model has another shape.
    """
    base = MusicFMConfig.from_pretrained(base_model, **kwargs)
    differences = [
        f"{name} {getattr(config, name)} (it has {getattr(base, name)})"
        for name in _ENCODER_SHAPE
        if getattr(config, name) != getattr(base, name)
    ]
    if differences:
        raise ValueError(f"The adapter cannot be used with {base_model}: it was trained for {', '.join(differences)}.")


__all__ = ["HUB_ARGUMENTS", "adapter_config", "check_base", "find_base"]
