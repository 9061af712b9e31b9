"""Songs and training crops of joint fine-tuning: those of several data sets, each of which may lack annotations."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..data.catalog import describe_sources
from ..data.examples import TaskCrops, collate_examples, no_labels, read_labels, stack_labels
from ..data.labeled import LabeledSong
from ..data.labeled_dataset import load_songs, make_ids_unique, split_names
from ..data.splits import SPLITS, draw_songs
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import get_task, task_of
from .joint_arguments import JointArguments
from .starting_head import Splits


def read_joint_splits(arguments: JointArguments) -> dict[str, list[LabeledSong]]:
    """
    Read the songs of each task, under the names `TASK/train`, `TASK/validation` and, if some test songs are annotated
    for it, `TASK/test`. A song that several tasks use is the same object in all of them; a song without the annotation
    of a task is not among its songs. Training songs are repeated, or left out, as `data_repeats` specifies. Songs of
    different data sets that have the same id get the name of their data set as a prefix.

    Raises:
        ValueError: No training or no validation song is annotated for a task.
        FileNotFoundError: A data set does not exist.
    """
    data = list(dict.fromkeys(folder for task in arguments.tasks for folder in arguments.data_of(task)))
    loaded = {
        folder: {name: load_songs(folder, name) for name in SPLITS if name in split_names(folder)} for folder in data
    }
    make_ids_unique(loaded)
    splits: dict[str, list[LabeledSong]] = {}
    for task in arguments.tasks:
        spec, folders = get_task(task), arguments.data_of(task)
        for name in SPLITS:
            songs: list[LabeledSong] = []
            for folder in folders:
                annotated = [song for song in loaded[folder].get(name, []) if spec.is_annotated(song)]
                repeats = arguments.repeats.get(folder, 1) if name == "train" else 1
                songs += annotated[: arguments.limit] * repeats
            if songs:
                splits[f"{task}/{name}"] = songs
            elif name != "test":
                raise ValueError(
                    f"None of the songs of {', '.join(folders)} ({name}) has {spec.column}, which {task} needs. Pass "
                    f"other data for it (`--data {task}=FOLDER`), or name the other tasks with `--tasks`."
                )
    return splits


def draw_joint_songs(task: JointArguments, splits: Splits) -> dict[str, Sequence[LabeledSong]]:
    """
    Return the splits with the training songs that `max_train_songs` selects for each task, and the validation songs
    that `validation_songs` selects; see [`draw_songs`].
    """
    counts = {"train": task.max_train_songs, "validation": task.validation_songs}
    return {
        name: draw_songs(songs, counts.get(name.rpartition("/")[2]), task.songs_seed) for name, songs in splits.items()
    }


def songs_of(splits: Splits, split: str) -> list[LabeledSong]:
    """Return the songs of a split of all tasks, each once."""
    parts = (songs for name, songs in splits.items() if name.rpartition("/")[2] == split)
    return list({song.id: song for songs in parts for song in songs}.values())


def describe_data(arguments: JointArguments) -> dict[str, dict[str, str]]:
    """Describe the data sets of each task for results and cards: task → output of [`describe_sources`]."""
    return {task: describe_sources(arguments.data_of(task)) for task in arguments.tasks}


class JointCrops(TaskCrops):
    """
    Training crops with the labels of several tasks. All training songs are used before a song is used again; a song
    that several tasks have is not used more often, but one that a task has several times is. A crop has labels of each
    task that its song is annotated for, if such a place is found in a hundred attempts.

    Items have `labels`, task → targets, with -100 throughout for tasks that the song has no annotation for, or whose
    labels are not those of music that is played faster or slower; see [`TaskSpec`].

    Args:
        configs (`dict[str, MusicFMConfig]`): Task → configuration of its model.
        splits: Songs of each task, under the name `TASK/train`.
        read, count, crop_seconds, seed: As in [`TaskCrops`].
    """

    def __init__(
        self,
        configs: Mapping[str, MusicFMConfig],
        splits: Splits,
        read: Callable[..., Mapping[str, Any]],
        count: int,
        crop_seconds: float,
        seed: int,
    ):
        repeats: Counter[str] = Counter()
        for task in configs:
            repeats |= Counter(song.id for song in splits[f"{task}/train"])  # the larger count of each song
        songs = [song for song in songs_of(splits, "train") for _ in range(repeats[song.id])]
        super().__init__(next(iter(configs.values())), songs, read, count, crop_seconds, seed)
        self.configs = dict(configs)
        self.ids = {task: {song.id for song in splits[f"{task}/train"]} for task in configs}

    def labels_of(self, song: LabeledSong, start: int, frames: int, **changes: Any) -> tuple[Any, bool]:
        is_resampled = changes.get("tempo", 1.0) != 1.0
        labels, is_labeled = {}, True
        for task, config in self.configs.items():
            if song.id in self.ids[task] and (task_of(config).resamplable or not is_resampled):
                labels[task] = read_labels(config, song, start, frames, **changes)
                is_labeled &= bool((labels[task][..., 0] >= 0).any())
            else:
                labels[task] = no_labels(config, frames)
        return labels, is_labeled

    def label_shares(self, speed: int = 0) -> dict[str, float]:
        """Return the expected share of crops with labels of each task, if `speed` is that of [`ReadWaveform`]."""
        unchanged = 1 / (2 * speed + 1)  # share of the crops that are not resampled
        return {
            task: sum(song.id in self.ids[task] for song in self.songs)
            / len(self.songs)
            * (1.0 if task_of(config).resamplable else unchanged)
            for task, config in self.configs.items()
        }


def collate_joint(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Collate items of [`JointCrops`] into a batch as [`collate_examples`] does, whose `labels` are task → labels.
    """
    inputs = [{name: value for name, value in item.items() if name != "labels"} for item in items]
    labels = {task: stack_labels([item["labels"][task] for item in items], len(items)) for task in items[0]["labels"]}
    return collate_examples(inputs) | {"labels": labels}
