"""The five tasks: labels, targets from annotations, events from logits, scores."""

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from ..model.configuration_musicfm import MusicFMConfig

TASKS = ("beat", "chord", "structure", "key", "tagging")


def task_module(task: str) -> ModuleType:
    """
    `musicfm_hf.tasks.<task>`.

    Raises:
        ValueError: if there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {task!r}.")
    return import_module(f".{task}", __package__)


def label_names(config: MusicFMConfig) -> list[str]:
    """Names of the logits, in their order."""
    return [config.id2label[index] for index in range(config.num_labels)]


def decode(config: MusicFMConfig, logits: np.ndarray) -> Any:
    """
    What a head found in a song: the task's own `events`, with the settings in `config.decoding`.

    Args:
        config ([`MusicFMConfig`]): Of the model with its head; `config.task` is set.
        logits (`np.ndarray` of shape `(label frames or clips, num_labels)`): Of the whole song.

    Returns:
        [`Beats`], a list of [`Segment`], or for tagging a dictionary from tags to probabilities.
    """
    of_time = label_names(config) if config.task == "tagging" else config.label_rate
    return task_module(config.task).events(logits, of_time, **(config.decoding or {}))
