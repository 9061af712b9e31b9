"""Settings of joint fine-tuning: one encoder, and a head for each of several tasks."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

from ..data.labeled import LabeledSong
from ..data.labeled_dataset import load_songs
from ..data.task_data import data_by_task
from ..tasks import get_task, known_tasks, load_task_file
from ..tasks.events import comparable
from ..training.recipes import read_recipe, recipe_names
from .arguments import HeadArguments, TaskArguments

JOINT = "joint"  # `task` in the settings and the results of joint training

# Settings of single tasks.
TASK_SETTINGS = ("vocabulary", "label_rate", "decoding", "balance", "layer", "weighted_layer_sum")


@dataclass
class JointArguments(HeadArguments):
    """Tasks, encoder, data and method of joint fine-tuning."""

    task: str = field(default=JOINT, metadata={"help": "Must be joint.", "choices": [JOINT]})
    tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "Tasks, each of which gets a head; by default all that the data has labels for."},
    )
    data: list[str] = field(  # type: ignore[assignment]  # of single tasks, one data set
        default_factory=list,
        metadata={
            "help": "Labeled data sets: folders from `musicfm prepare`, or repositories. TASK=FOLDER is for one task, "
            "instead of those for all tasks."
        },
    )
    data_repeats: str = field(
        default="{}",
        metadata={
            "help": "Number of times that training songs of a data set are used before all songs are used again, such "
            'as {"data/pop909": 4}, and 1 by default: a mapping in YAML, JSON here. With 0, they are not used; '
            "validation and test songs are."
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
    crop_seconds: float = field(default=30.0, metadata={"help": "Length of a training crop."})
    validation_songs: int | None = field(
        default=None,
        metadata={"help": "Score this many validation songs of each task, drawn at random; by default all of them."},
    )
    head_size: int = field(default=512, metadata={"help": "Size of the hidden layers of the heads."})
    whiten: bool = field(default=True, metadata={"help": "Train probes on whitened features, which is faster."})

    def __post_init__(self) -> None:
        added = [load_task_file(path).name for path in self.task_file]
        self.check_encoder()
        if self.tasks:
            self.tasks = [*self.tasks, *(name for name in added if name not in self.tasks)]
        else:
            self.tasks = _annotated_tasks(self.data)
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"`--tasks` needs each task only once, got {', '.join(self.tasks)}.")
        for task in self.tasks:
            get_task(task)
        if missing := [task for task in self.tasks if not self.data_of(task)]:
            raise ValueError(
                f"`--data` has nothing for {', '.join(missing)}: pass a data set for all tasks, write TASK=FOLDER, or "
                "leave tasks out of `--tasks`."
            )
        if self.validation_songs is not None and self.validation_songs < 1:
            raise ValueError(f"`validation_songs` must be at least 1, got {self.validation_songs}.")
        if self.speed and self.method == "probe":
            raise ValueError("A probe reads features that were computed once: leave `speed` at its default.")
        if not all(type(count) is int and count >= 0 for count in self.repeats.values()):
            raise ValueError(f"`data_repeats` must be integers of at least 0, got {self.data_repeats}.")
        if untrained := [
            task for task in self.tasks if not any(self.repeats.get(name, 1) for name in self.data_of(task))
        ]:
            raise ValueError(
                f"`data_repeats` is 0 for all data of {', '.join(untrained)}: nothing is left to train on."
            )
        weights = self._mapping("loss_weights", known_tasks())
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
        values |= {"head_size": self.head_size, "whiten": self.whiten, "task": task, "speed": 0}
        values["data"] = self.data_of(task)[0]
        if task in recipe_names("finetune"):
            recipe = read_recipe(task, kind="finetune", flags={"method": self.method})
            values |= {name: value for name, value in recipe.items() if name in TASK_SETTINGS}
        settings = self._mapping("task_settings", known_tasks()).get(task, {})
        if unknown := [name for name in settings if name not in TASK_SETTINGS]:
            raise ValueError(
                f"`task_settings` cannot set {', '.join(unknown)} for {task}. For single tasks, it sets "
                f"{', '.join(TASK_SETTINGS)}."
            )
        values |= settings
        if isinstance(values.get("decoding"), dict):
            values["decoding"] = json.dumps(values["decoding"])
        return TaskArguments(**values)

    def data_of(self, task: str) -> list[str]:
        """Return the data sets of a task."""
        common, own = data_by_task(self.data, self.tasks)
        return own.get(task, common)

    def weight_of(self, task: str) -> float:
        """Return the weight of the loss of a task; those of all tasks sum to 1."""
        weights = self._mapping("loss_weights", known_tasks())
        return weights.get(task, 1.0) / sum(weights.get(other, 1.0) for other in self.tasks)

    def annotation_of(self, song: LabeledSong) -> Any:
        return [comparable(get_task(task).annotation_of(song)) for task in self.tasks]

    def recorded_settings(self) -> dict[str, Any]:
        mappings = ("data", "data_repeats", "task_settings")  # which are recorded for single tasks
        settings = {name: value for name, value in vars(self).items() if name not in mappings}
        for task in self.tasks:
            of_task, data = vars(self.of_task(task)), self.data_of(task)
            settings |= {f"{task}.{name}": of_task[name] for name in TASK_SETTINGS}
            settings[f"{task}.data"] = data[0] if len(data) == 1 else data
            settings[f"{task}.data_repeats"] = [self.repeats.get(folder, 1) for folder in data]
        return settings

    @property
    def repeats(self) -> dict[str, int]:
        """Data set → number of times that its training songs are used before all songs are used again."""
        return self._mapping("data_repeats", [folder for task in self.tasks for folder in self.data_of(task)])

    def _mapping(self, name: str, keys: Collection[str]) -> dict[str, Any]:
        """Parse a setting that maps tasks or data sets to values."""
        try:
            values = json.loads(getattr(self, name))
        except json.JSONDecodeError as error:
            raise ValueError(f"`{name}` must be JSON, got {getattr(self, name)!r}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"`{name}` must be a mapping, got {getattr(self, name)!r}.")
        if unknown := [key for key in values if key not in keys]:
            known = ", ".join(dict.fromkeys(keys))
            raise ValueError(f"`{name}` has {', '.join(unknown)}, which is none of {known}.")
        return values


def _annotated_tasks(words: list[str]) -> list[str]:
    """Return the tasks that some training songs of their data sets, such as `--data` names them, are annotated for."""
    common, own = data_by_task(words, known_tasks())
    songs = {
        folder: load_songs(folder, "train")
        for folder in {*common, *(name for names in own.values() for name in names)}
    }
    tasks = [
        task
        for task in known_tasks()
        if any(get_task(task).is_annotated(song) for folder in own.get(task, common) for song in songs[folder])
    ]
    if not tasks:
        raise ValueError(f"The training songs of {', '.join(words)} have no annotations.")
    return tasks
