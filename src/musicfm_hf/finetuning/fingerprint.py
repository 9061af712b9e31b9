"""Whether earlier results were made with the same settings, encoder and songs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.examples import annotation_of
from ..data.labelled import LabelledSong
from ..tasks.events import comparable
from ..training.records import RECORDED_ARGUMENTS, recorded, refuse_other_settings
from .arguments import FinetuningArguments, TaskArguments, pinned

# All that what is kept depends on.
STATED_ARGUMENTS = [
    *RECORDED_ARGUMENTS,
    "encoder_learning_rate",
    "lr_scheduler_kwargs",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "eval_steps",
    "load_best_model_at_end",
    "early_stopping_patience",
]

PLACES = ("cache", "results")  # settings that change nothing in the results

FREE_TO_CHANGE = (*PLACES, "max_steps", "early_stopping_patience")  # where a run goes on

PROGRESS = "finetuning.json"


def seconds_before(checkpoint: Path, stated: dict[str, dict[str, Any]]) -> float:
    """
    How long a run took up to a checkpoint of it.

    Raises:
        ValueError: the checkpoint was made with other settings, another encoder or other songs; a longer run than was
            meant may go on.
    """
    path = checkpoint / PROGRESS
    if not path.is_file():
        raise ValueError(f"{checkpoint} was not written by this recipe. Give another `--output_dir`.")
    there = json.loads(path.read_text(encoding="utf-8"))
    if stated["training"]["max_steps"] < there["steps"]:
        raise ValueError(f"{checkpoint} has taken more than {stated['training']['max_steps']} steps already.")
    _refuse_other(checkpoint, there, stated, FREE_TO_CHANGE, "--output_dir")
    return there["seconds"]


def results_if_done(
    path: Path,
    task: TaskArguments,
    arguments: FinetuningArguments,
    splits: dict[str, list[LabelledSong]],
    flag: str,
    free: Sequence[str] = PLACES,
) -> dict[str, Any] | None:
    """
    The `results` of a run, from the file that has them; `None` if there is no such file.

    Args:
        splits: As [`finetune`] has them.
        flag: Of the recipe, with which results come to another place.
        free: Settings that may be others.

    Raises:
        ValueError: they were made with other settings, another encoder or other songs.
    """
    if not path.is_file():
        return None
    results = json.loads(path.read_text(encoding="utf-8"))
    _refuse_other(path, results, stated_settings(pinned(task), arguments, splits), free, flag)
    return results


def stated_settings(
    task: TaskArguments, arguments: FinetuningArguments, splits: dict[str, list[LabelledSong]]
) -> dict[str, dict[str, Any]]:
    """Settings, as results have them, and what shows that the encoder or the songs are others than they were."""
    training = {name: getattr(arguments, name) for name in STATED_ARGUMENTS}
    inputs = {"encoder_digest": _encoder_digest(task), "songs_digest": _songs_digest(task.task, splits)}
    return {"settings": recorded(vars(task)), "training": training, "inputs": inputs}


def _encoder_digest(task: TaskArguments) -> str | None:
    """Of the files of a folder; of a repository the revision says it."""
    folder = Path(task.model)
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=8)
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _songs_digest(task: str, splits: dict[str, list[LabelledSong]]) -> str:
    """Of ids, durations and annotations."""
    digest = hashlib.blake2b(digest_size=8)
    for split, songs in splits.items():
        for song in songs:
            annotation = comparable(annotation_of(song, task))
            digest.update(repr((split, song.id, song.duration, annotation)).encode())
    return digest.hexdigest()


def _refuse_other(made: Path, there: dict, stated: dict, free: Sequence[str], flag: str) -> None:
    here = {key: value for values in stated.values() for key, value in values.items() if key not in free}
    made_with = {key: value for name in stated for key, value in there.get(name, {}).items()}
    refuse_other_settings(made, made_with, here, flag)
