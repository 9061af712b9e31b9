"""Fingerprints of runs, which identify the settings, encoder and songs of results and checkpoints."""

import hashlib
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.labeled import LabeledSong
from ..training.files import matching_files
from ..training.records import OPTIMIZER_ARGUMENTS, RECORDED_ARGUMENTS, require_same_settings, strip_absolute_paths
from .arguments import Arguments, FinetuningArguments, HeadArguments, pin_revision

# Fields of FinetuningArguments that results depend on.
FINGERPRINT_ARGUMENTS = [
    *RECORDED_ARGUMENTS,
    "encoder_learning_rate",
    *OPTIMIZER_ARGUMENTS,
    "eval_steps",
    "load_best_model_at_end",
    "early_stopping_patience",
]

PLACES = ("cache", "results")  # settings that results do not depend on

PROBE_FIRST = ("probe_steps", "probe_learning_rate", "probe_batch_size")  # of no effect without such a probe

FREE_TO_CHANGE = (*PLACES, "max_steps", "early_stopping_patience")  # settings that may change when a run resumes

PROGRESS = "finetuning.json"

# Settings whose names on disk are those of version 0.1; this list outlives the old flags.
NAMES_ON_DISK = {"label_rate": "rate", "lora_r": "lora_rank", "lora_target_modules": "lora_targets"}

EARLIER_DECODING = '{"beats_per_bar": [3, 4]}'  # of the recipe of version 0.1; now learned from the training songs

Fingerprint = dict[str, dict[str, Any]]


def run_fingerprint(
    task: HeadArguments, arguments: FinetuningArguments, splits: Mapping[str, Sequence[LabeledSong]]
) -> Fingerprint:
    """
    Collect everything that the results of a run depend on, in the form that is recorded in the results.

    Args:
        task: Settings with a pinned revision.
        splits: Songs of each split, as returned by [`read_splits`].

    Returns:
        `settings` and `training`, the settings under the names that have been used on disk since version 0.1; and
        `inputs`, digests of the files of the encoder and of the annotations.
    """
    unused = () if task.trains_probe_first else PROBE_FIRST
    recorded = task.recorded_settings().items()
    settings = {NAMES_ON_DISK.get(name, name): value for name, value in recorded if name not in unused}
    training = {name: getattr(arguments, name) for name in FINGERPRINT_ARGUMENTS}
    training["metric_for_best_model"] = arguments.chosen_score
    inputs = {"encoder_digest": _encoder_digest(task), "songs_digest": songs_digest(task, splits)}
    if task.random_encoder:
        inputs["batch_statistics"] = "measured"  # those of earlier versions were the initial ones
    if task_files := settings.get("task_file"):
        files = [task_files] if isinstance(task_files, str) else task_files
        content = b"".join(Path(file).read_bytes() for file in files)
        inputs["task_digest"] = hashlib.blake2b(content, digest_size=8).hexdigest()
    return {"settings": strip_absolute_paths(settings), "training": training, "inputs": inputs}


def check_checkpoint(checkpoint: Path, fingerprint: Fingerprint) -> float:
    """
    Check that a run may resume from a checkpoint, and return the duration of the run up to it, in seconds.

    Raises:
        ValueError: The checkpoint was made with other settings, another encoder or other songs, or has already taken
            more than `max_steps` steps. A checkpoint with fewer steps is valid, because the run continues from it.
    """
    path = checkpoint / PROGRESS
    if not path.is_file():
        raise ValueError(f"{checkpoint} was not written by `musicfm finetune`. Pass another `--output_dir`.")
    progress = json.loads(path.read_text(encoding="utf-8"))
    max_steps = fingerprint["training"]["max_steps"]
    if max_steps < progress["steps"]:
        raise ValueError(f"{checkpoint} has already taken more than {max_steps} steps.")
    _require_same(checkpoint, progress, fingerprint, FREE_TO_CHANGE, "--output_dir")
    return progress["seconds"]


def as_it_began(task: Arguments, checkpoint: Path) -> Arguments:
    """Return the settings as a run of an earlier version began: without a first probe, and with the meters of then."""
    path = checkpoint / PROGRESS
    settings = json.loads(path.read_text(encoding="utf-8"))["settings"] if path.is_file() else {}
    return _with_earlier_decoding(task if "probe_steps" in settings else replace(task, probe_steps=0), settings)


def _with_earlier_decoding(task: Arguments, settings: Mapping[str, Any]) -> Arguments:
    """Return the settings with the meters of the recipe of version 0.1, if they were recorded and none are given."""
    if getattr(task, "decoding", None) == "{}" and settings.get("decoding") == EARLIER_DECODING:
        return replace(task, decoding=EARLIER_DECODING)  # type: ignore[call-arg]  # of `TaskArguments`
    return task


def load_matching_results(
    path: Path,
    task: HeadArguments,
    arguments: FinetuningArguments,
    splits: Mapping[str, Sequence[LabeledSong]],
    flag: str,
    free: Collection[str] = PLACES,
) -> dict[str, Any] | None:
    """
    Load the `results` of a run from their file, if it was made with the current settings.

    Args:
        path: JSON that a run of this version or of 0.1 wrote.
        splits: Songs of each split, as for [`finetune`].
        flag: The command-line flag that sets the location, for the message.
        free: Settings that may differ.

    Returns:
        The results, or `None` if the file does not exist.

    Raises:
        ValueError: The results were made with other settings, another encoder or other songs.
    """
    if not path.is_file():
        return None
    results = json.loads(path.read_text(encoding="utf-8"))
    task = _with_earlier_decoding(task, results.get("settings", {}))
    _require_same(path, results, run_fingerprint(pin_revision(task), arguments, splits), free, flag)
    return results


def _encoder_digest(task: HeadArguments) -> str | None:
    """
    Return a digest of the files in a folder, or `None` for a repository, which is identified by its revision. A random
    encoder depends on the configuration alone.
    """
    folder = Path(task.model)
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=8)
    weights = [] if task.random_encoder else matching_files(folder, "*.safetensors")
    for path in (folder / "config.json", *weights):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def songs_digest(task: HeadArguments, splits: Mapping[str, Sequence[LabeledSong]]) -> str:
    """Return a digest of ids, durations and annotations."""
    digest = hashlib.blake2b(digest_size=8)
    with np.printoptions(threshold=sys.maxsize):  # otherwise, the text of a long array has only its ends
        for split, songs in splits.items():
            for song in songs:
                digest.update(repr((split, song.id, song.duration, task.annotation_of(song))).encode())
    return digest.hexdigest()


def _require_same(
    product: Path, recorded: Mapping[str, Any], current: Fingerprint, free: Collection[str], flag: str
) -> None:
    """Check that a record has the current fingerprint, except for settings that may differ."""
    present_names = {on_disk: name for name, on_disk in NAMES_ON_DISK.items()}
    before: dict[str, Any] = {}
    now: dict[str, Any] = {}
    for group in current:
        before |= {present_names.get(name, name): value for name, value in recorded.get(group, {}).items()}
        now |= {present_names.get(name, name): value for name, value in current[group].items()}
    now = {name: value for name, value in now.items() if name not in free}
    require_same_settings(product, before, now, flag)
