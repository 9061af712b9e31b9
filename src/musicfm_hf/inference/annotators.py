"""Models with a head, loaded so that equal encoders are shared."""

import os
from collections.abc import Iterable, Mapping, Sequence

import torch
from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForAudioFrameClassification

from ..model.adapters_musicfm import HUB_ARGUMENTS
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMForAudioClassification, MusicFMForAudioFrameClassification, MusicFMModel
from .embedding import HeadModel
from .fingerprint import encoder_settings


def load_models(folders: Iterable[str | os.PathLike], **kwargs) -> dict[str, HeadModel]:
    """
    Load models with a head, each by the Auto class that its configuration asks for; of encoders that are equal, one is
    kept in memory.

    Args:
        folders: Folders or repositories of models, or of adapters of peft with the configuration of the whole model.
        **kwargs: For `from_pretrained`, such as `dtype` or `revision`.

    Returns:
        The models in eval mode, by folder.

    Raises:
        ValueError: if one has no task, or two have the same.
        OSError: if there is no such model.
    """
    folders = [str(folder) for folder in folders]
    hub = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
    configs = {folder: AutoConfig.from_pretrained(folder, **hub) for folder in folders}
    _check_tasks([(folder, configs[folder]) for folder in folders])
    models: dict[str, HeadModel] = {}
    for folder, config in configs.items():
        named = config.architectures or []
        of_clips = config.label_rate is None and "MusicFMForAudioFrameClassification" not in named
        auto = AutoModelForAudioClassification if of_clips else AutoModelForAudioFrameClassification
        model = auto.from_pretrained(folder, **kwargs).eval()
        for other in models.values():
            if _same_encoder(model.musicfm, other.musicfm):
                model.musicfm = other.musicfm
                break
        models[folder] = model
    return models


def by_task(models: HeadModel | Sequence[HeadModel] | Mapping[str, HeadModel]) -> dict[str, HeadModel]:
    if isinstance(models, torch.nn.Module):
        models = [models]
    if not isinstance(models, Mapping):
        models = {f"model {number}": model for number, model in enumerate(models, 1)}
    if not models:
        raise ValueError("There is no model to annotate with; give one for each task.")
    models = {
        name: model.get_base_model() if hasattr(model, "get_base_model") else model for name, model in models.items()
    }
    for name, model in models.items():
        if not isinstance(model, MusicFMForAudioFrameClassification | MusicFMForAudioClassification):
            raise TypeError(
                f"{name} is a {type(model).__name__}; annotating needs MusicFMForAudioFrameClassification or "
                "MusicFMForAudioClassification."
            )
    _check_tasks([(name, model.config) for name, model in models.items()])
    return {model.config.task: model for model in models.values()}


def _check_tasks(configs: list[tuple[str, MusicFMConfig]]) -> None:
    names: dict[str, str] = {}
    for name, config in configs:
        task = getattr(config, "task", None)
        if task is None:
            raise ValueError(
                f"{name} does not say what its head was trained for: `config.task` is None. Set it to beat, chord, "
                "structure, key or tagging."
            )
        if task in names:
            raise ValueError(f"{names[task]} and {name} are both for the task {task}; give one of them.")
        names[task] = name


def group_by_encoder(models: list[HeadModel]) -> list[list[HeadModel]]:
    """Models whose encoders give the same, together."""
    groups: list[list[HeadModel]] = []
    for model in models:
        for group in groups:
            if _same_encoder(model.musicfm, group[0].musicfm):
                group.append(model)
                break
        else:
            groups.append([model])
    return groups


def _same_encoder(first: MusicFMModel, second: MusicFMModel) -> bool:
    if first is second:
        return True
    if encoder_settings(first.config) != encoder_settings(second.config):
        return False
    # Equal weights of adapters would not be enough: they have a scale, and may be switched off.
    if any(type(module).__module__.startswith("peft.") for model in (first, second) for module in model.modules()):
        return False
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(_same_tensor(ours[name], theirs[name]) for name in ours)


def _same_tensor(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Values of offloaded weights are not known here."""
    alike = first.device == second.device and first.dtype == second.dtype and not first.is_meta
    return alike and torch.equal(first, second)
