"""Settings of joint fine-tuning: one encoder, and a head for each of several tasks."""

import json
from dataclasses import dataclass, field, fields
from typing import Any

from ..data.labeled import LabeledSong
from ..data.task_data import data_by_task
from ..tasks import get_task, load_task_file
from ..tasks.events import comparable
from ..training.recipes import read_recipe, recipe_names
from .arguments import HeadArguments, TaskArguments

JOINT = "joint"  # `task` in the settings and the results of joint training

# Settings of single tasks.
_AUGMENTATIONS = ("transpose", "tempo", "speed")
_OF_HEADS = ("vocabulary", "label_rate", "crop_seconds", "decoding", "balance", "layer", "weighted_layer_sum")
TASK_SETTINGS = (*_OF_HEADS, *_AUGMENTATIONS)


@dataclass
class JointArguments(HeadArguments):
    """Tasks, encoder, data and method of joint fine-tuning."""

    task: str = field(default=JOINT, metadata={"help": "Must be joint.", "choices": [JOINT]})
    tasks: list[str] = field(default_factory=list, metadata={"help": "Tasks, each of which gets a head."})
    data: list[str] = field(  # type: ignore[assignment]  # of single tasks, one data set
        default_factory=list,
        metadata={
            "help": "Labeled data set: a folder from `musicfm prepare`, or a repository; TASK=FOLDER is for one task."
        },
    )
    task_file: list[str] = field(
        default_factory=list, metadata={"help": "Python files that define tasks of your own, which are added."}
    )
    task_settings: str = field(
        default="{}",
        metadata={
            "help": "Settings of single tasks, which override those of their recipes, such as "
            '{"beat": {"label_rate": 50}}: a mapping in YAML, JSON here. They may be ' + ", ".join(TASK_SETTINGS) + "."
        },
    )
    loss_weights: str = field(
        default="{}",
        metadata={
            "help": 'Weights of the losses of tasks, 1 by default, such as {"beat": 2}: a mapping in YAML, JSON here.'
        },
    )
    head_size: int = field(default=512, metadata={"help": "Size of the hidden layers of the heads."})
    whiten: bool = field(default=True, metadata={"help": "Train probes on whitened features, which is faster."})

    def __post_init__(self) -> None:
        added = [load_task_file(path).name for path in self.task_file]
        self.tasks = [*self.tasks, *(name for name in added if name not in self.tasks)]
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"`--tasks` needs at least one task, and each only once, got {', '.join(self.tasks)}.")
        for task in self.tasks:
            get_task(task)
        self.check_encoder()
        common, own = data_by_task(self.data, self.tasks)
        if missing := [task for task in self.tasks if not (common or task in own)]:
            raise ValueError(
                f"`--data` has nothing for {', '.join(missing)}: pass a data set for all tasks, write TASK=FOLDER, or "
                "leave tasks out of `--tasks`."
            )
        weights = self._mapping("loss_weights")
        if not all(isinstance(weight, int | float) and weight > 0 for weight in weights.values()):
            raise ValueError(f"`loss_weights` must be positive numbers, got {self.loss_weights}.")
        for task in self.tasks:
            self.of_task(task)

    def of_task(self, task: str) -> TaskArguments:
        """
        Return the settings of a single task: those of its recipe, overridden by `task_settings`, and the common ones.

        Raises:
            ValueError: if a setting does not exist, cannot be set for single tasks, or does not fit the task.
        """
        values = {item.name: getattr(self, item.name) for item in fields(HeadArguments)}
        values |= {"head_size": self.head_size, "whiten": self.whiten, "task": task, "data": self.data_of(task)}
        if not get_task(task).resamplable:
            values["speed"] = 0
        if task in recipe_names("finetune"):
            recipe = read_recipe(task, kind="finetune", flags={"method": self.method})
            values |= {name: value for name, value in recipe.items() if name in TASK_SETTINGS}
        settings = self._mapping("task_settings").get(task, {})
        if unknown := [name for name in settings if name not in TASK_SETTINGS]:
            raise ValueError(
                f"`task_settings` cannot set {', '.join(unknown)} for {task}. For single tasks, it sets "
                f"{', '.join(TASK_SETTINGS)}."
            )
        values |= settings
        if isinstance(values.get("decoding"), dict):
            values["decoding"] = json.dumps(values["decoding"])
        return TaskArguments(**values)

    def data_of(self, task: str) -> str:
        """Return the data set of a task."""
        common, own = data_by_task(self.data, self.tasks)
        return own.get(task, common)

    def weight_of(self, task: str) -> float:
        """Return the weight of the loss of a task; those of all tasks sum to 1."""
        weights = self._mapping("loss_weights")
        return weights.get(task, 1.0) / sum(weights.get(other, 1.0) for other in self.tasks)

    def annotation_of(self, song: LabeledSong) -> Any:
        return [comparable(get_task(task).annotation_of(song)) for task in self.tasks]

    def recorded_settings(self) -> dict[str, Any]:
        settings = {name: value for name, value in vars(self).items() if name not in ("data", "task_settings")}
        for task in self.tasks:
            of_task = vars(self.of_task(task))
            settings |= {f"{task}.{name}": of_task[name] for name in ("data", *TASK_SETTINGS)}
        return settings

    def without_augmentation(self) -> dict[str, Any]:
        settings = {
            task: {name: value for name, value in own.items() if name not in _AUGMENTATIONS}
            for task, own in self._mapping("task_settings").items()
        }
        return {"speed": 0, "task_settings": json.dumps(settings)}

    def _mapping(self, name: str) -> dict[str, Any]:
        """Parse a setting that maps tasks to values."""
        try:
            values = json.loads(getattr(self, name))
        except json.JSONDecodeError as error:
            raise ValueError(f"`{name}` must be JSON, got {getattr(self, name)!r}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"`{name}` must map tasks to values, got {getattr(self, name)!r}.")
        if unknown := [task for task in values if task not in self.tasks]:
            raise ValueError(f"`{name}` has {', '.join(unknown)}, but `tasks` are {', '.join(self.tasks)}.")
        return values
