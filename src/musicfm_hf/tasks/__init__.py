"""The five tasks: labels, targets from annotations, events from logits, scores."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from ..model.configuration_musicfm import MusicFMConfig
from .annotations import Beats, Segment
from .spans import frames_of, softmax

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


def event_probabilities(config: MusicFMConfig, logits: np.ndarray, events: Beats | Sequence[Segment]) -> np.ndarray:
    """
    How sure a head is of the events that [`decode`] found. Of a beat, it is the probability in the nearest frame that
    there is one, downbeat or not; of a segment, that of its label, the mean over its frames.

    Args:
        config ([`MusicFMConfig`]): Of the model with its head; its task is not tagging.
        logits (`np.ndarray` of shape `(label frames, num_labels)`): Of the whole song.
        events: Beats, or segments with labels of the model.

    Returns:
        float64 `(events,)`.
    """
    labels = label_names(config)[: task_module(config.task).OUTPUTS[0]["size"]]  # of structure, the functions
    probabilities = softmax(logits[:, : len(labels)], labels)
    if isinstance(events, Beats):
        frames = np.round(events.times * config.label_rate).astype(int).clip(0, len(probabilities) - 1)
        return probabilities[frames, :2].sum(axis=1)
    frames = [frames_of(segment, config.label_rate, len(probabilities)) for segment in events]
    columns = [labels.index(segment.label) for segment in events]
    return np.array([probabilities[own, column].mean() for own, column in zip(frames, columns, strict=True)])
