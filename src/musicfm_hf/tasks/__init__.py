"""
Music tasks. Each file in this folder that defines `TASK`, a [`TaskSpec`], is a task. It converts annotations to
targets and logits to events, scores events, and holds everything else that depends on the task. [`get_task`] returns a
task by its name.
"""

import os
import pkgutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from ..model.configuration_musicfm import MusicFMConfig
from ..training.files import run_python_file
from .spec import TaskSpec, label_names

_SPECS: dict[str, TaskSpec] = {}


def get_task(name: str | None, vocabulary: str | None = None) -> TaskSpec:
    """
    Return the task with this name, such as `config.task` of a model, and with a vocabulary if the task has several.

    Raises:
        ValueError: if it is `None`, or there is no such task or vocabulary; lists those that are known.
    """
    if name is None or name not in _SPECS:
        raise ValueError(
            f"`task` must be one of {', '.join(known_tasks())}, got {name!r}. For a task of your own, pass the file "
            "that defines `TASK` as `--task_file`, or load it with `musicfm_hf.tasks.load_task_file`."
        )
    return _SPECS[name].with_vocabulary(vocabulary)


def task_of(config: MusicFMConfig) -> TaskSpec:
    """
    Return the task of a model with a head, with its vocabulary.

    Raises:
        ValueError: if the model has no task, or the task does not exist.
    """
    return get_task(config.task, config.vocabulary)


def known_tasks() -> tuple[str, ...]:
    """Return the names of all tasks, with those of the paper first."""
    return tuple(sorted(_SPECS, key=lambda name: _SPECS[name].order))


def register_task(spec: TaskSpec) -> TaskSpec:
    """
    Register a task, so that [`get_task`] finds it in this process, and return it.

    Raises:
        TypeError: if it is not a [`TaskSpec`].
        ValueError: if another task has its name or its column.
    """
    if not isinstance(spec, TaskSpec):
        raise TypeError(f"A task must be a TaskSpec, got {type(spec).__name__}.")
    for other in _SPECS.values():
        same_file = spec.source is not None and spec.source == other.source
        if not same_file and (spec.name == other.name or spec.column == other.column):
            raise ValueError(
                f"The task {spec.name} with the column {spec.column} cannot be added: the task {other.name} has the "
                f"column {other.column}. Choose another name and another column."
            )
    _SPECS[spec.name] = spec
    return spec


def unregister_task(name: str) -> None:
    """
    Remove a task that was registered or loaded from a file.

    Raises:
        ValueError: if no task has this name.
    """
    get_task(name)
    del _SPECS[name]


def load_task_file(path: str | os.PathLike, vocabulary: str | None = None) -> TaskSpec:
    """
    Run a Python file that defines `TASK`, then register that task and return it, with a vocabulary if it has several.
    A file that is already loaded is reloaded.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it does not define `TASK`, or another task has the same name or column.
    """
    path = Path(path).absolute()
    task = getattr(run_python_file(path), "TASK", None)
    if not isinstance(task, TaskSpec):
        raise ValueError(f"{path} does not define a task: it needs `TASK = TaskSpec(...)`.")
    return register_task(replace(task, source=path)).with_vocabulary(vocabulary)


for _module in pkgutil.iter_modules(__path__):
    if isinstance(task := getattr(import_module(f".{_module.name}", __name__), "TASK", None), TaskSpec):
        register_task(task)

TASKS = known_tasks()

__all__ = [
    "TASKS",
    "TaskSpec",
    "get_task",
    "known_tasks",
    "label_names",
    "load_task_file",
    "register_task",
    "task_of",
    "unregister_task",
]
