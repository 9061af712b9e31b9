"""
Train a head for beats, chords, structure, keys, tags, music detection or retrieval on a pretrained encoder, and score
it on songs.

  musicfm finetune chord/probe --model musicfm-msd --data data/pop909 --output_dir runs/chord
  musicfm finetune chord/lora small/lora --model runs/small --data data/pop909 --output_dir runs/chord-lora
  musicfm finetune retrieval/probe --task same_song --model musicfm-msd --data data/versions --output_dir runs/songs

A recipe combines a task and a method: a probe (the encoder is frozen and its features are computed once), full
fine-tuning, or LoRA. A later recipe overrides the ones before it, and flags override all recipes. To resume an
interrupted run from its last checkpoint, repeat the command. The output folder holds the model or the adapter,
`curves.png`, TensorBoard logs and checkpoints; the scores are in `results/<name of the folder>.json`. Retrieval has
flags of its own: `musicfm finetune retrieval --help`.

Several tasks are trained at once, on one encoder, with a head for each (`musicfm finetune joint --help`):

  musicfm finetune joint/full --model musicfm-msd --data data/pop909 tagging=data/mtat --output_dir runs/joint
"""

import argparse
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from ..finetuning.arguments import FinetuningArguments, HeadArguments, RetrievalArguments, TaskArguments
from ..finetuning.joint import finetune_joint, joint_curves
from ..finetuning.joint_arguments import JOINT, JointArguments
from ..finetuning.joint_data import read_joint_splits
from ..finetuning.joint_files import save_joint_run
from ..finetuning.retrieval import finetune_retrieval, read_versions
from ..finetuning.run import Finetuned, check_results_path, finetune, read_splits, save_run, training_curves
from ..hub.push import hub_target
from ..tasks.retrieval import METRIC, RETRIEVAL_TASKS
from ..training.curves import CurveCallback
from ..training.recipes import read_recipe
from .flags import share_result, user_errors
from .training import parse_command, prepare_process


def main(argv: list[str]) -> None:
    """Run `musicfm finetune`."""
    with user_errors("Not trained"):
        kind = _kind(argv)
        task, arguments = parse_command("finetune", "finetune", (kind.arguments, FinetuningArguments), argv, __doc__)
        prepare_process(arguments)
        if arguments.push_to_hub:
            _check_base_can_be_found(task)
        splits = kind.read(task)
        check_results_path(task, arguments, splits)
        target = hub_target(arguments, arguments.output_dir)
        run = kind.train(task, arguments, splits, [kind.curves(task)])
    if not arguments.should_save:
        return
    kind.save(run, task, arguments)
    for split, scores in run.results["scores"].items():
        for name, values in scores.items() if kind is _JOINT else [("", scores)]:
            shown = ", ".join(f"{score} {value['mean']:.3f}" for score, value in values.items())
            print(f"{split} {name}".rstrip() + f": {shown}")
    if run.model is not None:
        share_result(arguments.output_dir, target)


class _Kind(NamedTuple):
    """A kind of training: the class of its settings, and functions that read songs, train, plot and save."""

    arguments: type[HeadArguments]
    read: Callable[[Any], dict[str, Any]]
    train: Callable[..., Finetuned]
    curves: Callable[[Any], CurveCallback]
    save: Callable[..., None] = save_run


_TASK = _Kind(TaskArguments, read_splits, finetune, lambda task: training_curves(task.spec.metric))
_RETRIEVAL = _Kind(RetrievalArguments, read_versions, finetune_retrieval, lambda task: training_curves(METRIC))
_JOINT = _Kind(
    JointArguments, read_joint_splits, finetune_joint, lambda task: joint_curves(task.tasks), save_joint_run
)


def _kind(argv: list[str]) -> _Kind:
    """Return the kind of training that a flag or a recipe names by its task."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task")
    recipes = list(takewhile(lambda word: not word.startswith("-"), argv))
    tasks = {parser.parse_known_args(argv)[0].task, read_recipe(*recipes, kind="finetune").get("task")}
    if JOINT in tasks:
        return _JOINT
    return _RETRIEVAL if tasks & RETRIEVAL_TASKS.keys() else _TASK


def _check_base_can_be_found(task: HeadArguments) -> None:
    """Raise a `ValueError` before pushing an adapter whose base model others cannot load."""
    if task.method == "lora" and not task.random_encoder and Path(task.model).is_dir():
        raise ValueError(
            f"Nobody else can use an adapter for {task.model}, a folder on this machine. Push that folder and pass "
            "its repository as `--model`, or push the adapter later, with `musicfm push` and `--base_model`."
        )
