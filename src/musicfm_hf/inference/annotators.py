"""Load models with a head, sharing equal encoders."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from .. import SMALL_MODEL
from ..model.adapters_musicfm import HUB_ARGUMENTS, adapter_config, find_base
from ..model.configuration_musicfm import MusicFMConfig
from ..model.configuration_text_audio_musicfm import MusicFMTextAudioConfig
from ..model.modeling_musicfm import (
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    MusicFMForXVector,
    MusicFMModel,
)
from ..tasks import known_tasks
from .embedding import HeadModel
from .encoder_digest import adapter_states, encoder_settings
from .exported import check_exported_precision, is_exported, load_exported_heads

_CLASSES = (MusicFMForAudioFrameClassification.__name__, MusicFMForAudioClassification.__name__)


def load_annotators(
    folders: str | os.PathLike | Iterable[str | os.PathLike] = (SMALL_MODEL,), **kwargs: Any
) -> dict[str, HeadModel]:
    """
    Load models with a head for [`annotate`], each with the Auto class for its configuration. Equal encoders are kept
    in memory only once.

    Args:
        folders: A folder or repository, or several: of models, of PEFT adapters, of models that were trained jointly,
            or those that `musicfm export` wrote. By default the small model, which is a part of the package.
        **kwargs: Arguments for `from_pretrained`, such as `dtype`, `quantization_config` or `revision`.

    Returns:
        The models in eval mode, by folder; those of an exported folder with several heads by `FOLDER/heads/NAME`, and
        those that were trained jointly by `FOLDER/TASK`.

    Raises:
        ValueError: if a model has no task, two models have the same task, or a model embeds clips for retrieval.
        OSError: if a model does not exist.
    """
    names = [str(folder) for folder in ([folders] if isinstance(folders, str | os.PathLike) else folders)]
    for name in filter(is_exported, names):
        check_exported_precision(name, kwargs.get("quantization_config"))
    exported = [item for name in names if is_exported(name) for item in load_exported_heads(name).items()]
    models: dict[str, Any] = dict(exported)
    names = [name for name in names if not is_exported(name)]
    hub = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
    found = [item for name in names for item in joint_places(name, **hub).items()]
    places, names = dict(found), [label for label, _ in found]
    configs = {label: load_config(place, **hub | subfolder) for label, (place, subfolder) in places.items()}
    configs |= {name: model.config for name, model in exported}
    for name, config in configs.items():
        if getattr(config, "head_class", None) == MusicFMForXVector.__name__:
            raise ValueError(
                f"{name} embeds clips for retrieval, and has nothing to annotate: `musicfm evaluate` scores it, and "
                "`AutoModelForAudioXVector` loads it."
            )
    _check_tasks([(name, configs[name]) for name in (*names, *(name for name, _ in exported))])
    for name in names:
        place, subfolder = places[name]
        model = _auto_class(configs[name]).from_pretrained(place, **kwargs | subfolder).eval()
        share_encoder(model, models.values())
        models[name] = model
    return models


def joint_places(name: str, **hub: Any) -> dict[str, tuple[str, dict[str, str]]]:
    """
    Find the models in a folder or a repository, which are several if they were trained jointly.

    Args:
        name (`str`): Folder or repository.
        hub: Arguments of the Hub, such as `revision`.

    Returns:
        `NAME` or, for several models, `NAME/TASK` → the folder or repository, and `{"subfolder": TASK}` if needed.
    """
    tasks = None if "subfolder" in hub else getattr(load_config(name, **hub), "task_folders", None)
    if not tasks:
        return {name: (name, {})}
    return {f"{name.rstrip('/')}/{task}": (name, {"subfolder": task}) for task in tasks}


def has_text_tower(name: str | os.PathLike, **kwargs: Any) -> bool:
    """
    Return whether a folder or a repository holds a model with a text tower, for a [`ZeroShotTagger`].

    Args:
        name: Folder or repository.
        kwargs: Arguments of the Hub, such as `revision`.

    Raises:
        OSError: if the model does not exist.
    """
    return isinstance(load_config(str(name), **kwargs), MusicFMTextAudioConfig)


def add_annotators(model: HeadModel, others: Iterable[HeadModel | str | os.PathLike]) -> dict[str, HeadModel]:
    """
    Return a model and further ones by task. Folders or repositories are loaded with the dtype and on the device of the
    first model, and equal encoders are kept in memory only once.

    Raises:
        ValueError: if a model has no task, or two models have the same task.
        TypeError: if a model does not have a head.
        OSError: if a model does not exist.
    """
    models = [_without_peft(model)]
    for other in others:
        if not isinstance(other, torch.nn.Module):
            for loaded in load_annotators([other], dtype=model.dtype).values():
                moved: Any = torch.nn.Module.to(loaded, model.device)
                share_encoder(moved, models)
                models.append(moved)
        else:
            models.append(other)
    return by_task(models)


def share_encoder(model: HeadModel, others: Iterable[HeadModel]) -> None:
    """Use the encoder of one of the others, if it is equal, so that it is in memory only once."""
    for other in others:
        if _same_encoder(model.musicfm, other.musicfm):
            model.musicfm = other.musicfm
            return


def load_config(name: str, **hub: Any) -> Any:
    """Load the configuration of a model, or of an adapted model."""
    is_adapter = find_base(name, **hub) is not None
    return adapter_config(name, AutoConfig, **hub) if is_adapter else AutoConfig.from_pretrained(name, **hub)


def _auto_class(config: MusicFMConfig) -> Any:
    """Return the Auto class that loads a model with this configuration."""
    head_class = config.head_class
    if config.label_rate is None and MusicFMForAudioFrameClassification.__name__ in (config.architectures or []):
        head_class = MusicFMForAudioFrameClassification.__name__  # at the rate of the encoder
    return getattr(transformers, head_class.replace("MusicFM", "AutoModel"))


def by_task(models: HeadModel | Sequence[HeadModel] | Mapping[str, HeadModel]) -> dict[str, HeadModel]:
    """
    Return the models by task, without PEFT wrappers.

    Raises:
        ValueError: if no model is given, a model has no task, or two models have the same task.
        TypeError: if a model does not have a head.
    """
    if isinstance(models, torch.nn.Module):
        models = [models]
    if not isinstance(models, Mapping):
        models = {f"model {number}": model for number, model in enumerate(models, 1)}
    if not models:
        raise ValueError("`models` is empty: pass one model for each task.")
    models = {name: _without_peft(model) for name, model in models.items()}
    for name, model in models.items():
        if not isinstance(model, MusicFMForAudioFrameClassification | MusicFMForAudioClassification):
            loaded = " Import musicfm_hf before you load it." if type(model).__name__ in _CLASSES else ""
            raise TypeError(
                f"{name} is a {type(model).__module__}.{type(model).__name__}; annotating needs "
                f"{' or '.join(_CLASSES)} of the package.{loaded}"
            )
    names = _check_tasks([(name, model.config) for name, model in models.items()])
    return {task: models[name] for task, name in names.items()}


def _without_peft(model: Any) -> Any:
    """Return the model inside PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def group_by_encoder(models: list[HeadModel]) -> list[list[HeadModel]]:
    """Group models with equal encoders."""
    groups: list[list[HeadModel]] = []
    for model in models:
        for group in groups:
            if _same_encoder(model.musicfm, group[0].musicfm):
                group.append(model)
                break
        else:
            groups.append([model])
    return groups


def _check_tasks(configs: list[tuple[str, MusicFMConfig]]) -> dict[str, str]:
    """Return the name of the model for each task, or raise a `ValueError` if a task is missing or repeated."""
    names: dict[str, str] = {}
    for name, config in configs:
        task = getattr(config, "task", None)
        if task is None:
            raise ValueError(
                f"{name} does not specify the task of its head: `config.task` is None. Set it to one of "
                f"{', '.join(known_tasks())}."
            )
        if task in names:
            raise ValueError(f"{names[task]} and {name} are both for the task {task}; pass only one of them.")
        names[task] = name
    return names


def _same_encoder(first: MusicFMModel, second: MusicFMModel) -> bool:
    """Return whether two encoders have equal settings and weights."""
    if first is second:
        return True
    if encoder_settings(first.config) != encoder_settings(second.config):
        return False
    # Equal weights of adapters are not enough: adapters have a scale, and may be switched off.
    if (
        _has_unknown_adapters(first)
        or _has_unknown_adapters(second)
        or adapter_states(first) != adapter_states(second)
    ):
        return False
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(_same_tensor(ours[name], theirs[name]) for name in ours)


def _has_unknown_adapters(model: MusicFMModel) -> bool:
    """Return whether a model has adapters other than LoRA, whose output may depend on more than weights and scales."""
    kinds = {type(module).__module__ for module in model.modules()}
    return any(
        kind.startswith("peft.") and not kind.startswith(("peft.tuners.lora.", "peft.utils.")) for kind in kinds
    )


def _same_tensor(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two weights are equal; false for offloaded weights, whose values are unknown."""
    comparable = first.device == second.device and first.dtype == second.dtype and not first.is_meta
    return comparable and torch.equal(first, second)
