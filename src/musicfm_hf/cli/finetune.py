"""
Train a head for beats, chords, structure, keys, tags or retrieval on a pretrained encoder, and score it on songs.

  musicfm finetune chord/probe --model musicfm-msd --data data/pop909 --output_dir runs/chord
  musicfm finetune chord/lora small/lora --model runs/small --data data/pop909 --output_dir runs/chord-lora
  musicfm finetune retrieval/probe --task same_song --model musicfm-msd --data data/versions --output_dir runs/songs

A recipe combines a task and a method: a probe (the encoder is frozen and its features are computed once), full
fine-tuning, or LoRA. A later recipe overrides the ones before it, and flags override all recipes. To resume an
interrupted run from its last checkpoint, repeat the command. The output folder holds the model or the adapter,
`curves.png`, TensorBoard logs and checkpoints; the scores are in `results/<name of the folder>.json`. Retrieval has
flags of its own: `musicfm finetune retrieval --help`.
"""

import argparse
from itertools import takewhile
from pathlib import Path

from ..finetuning.arguments import FinetuningArguments, HeadArguments, RetrievalArguments, TaskArguments
from ..finetuning.retrieval import finetune_retrieval, read_versions
from ..finetuning.run import check_results_path, finetune, read_splits, save_run, training_curves
from ..hub.push import hub_target
from ..tasks.retrieval import METRIC, RETRIEVAL_TASKS
from ..training.recipes import read_recipe
from .flags import share_result, user_errors
from .training import parse_command, prepare_process


def main(argv: list[str]) -> None:
    """Run `musicfm finetune`."""
    with user_errors("Not trained"):
        is_retrieval = _is_retrieval(argv)
        classes = (RetrievalArguments if is_retrieval else TaskArguments, FinetuningArguments)
        task, arguments = parse_command("finetune", "finetune", classes, argv, __doc__)
        prepare_process(arguments)
        if arguments.push_to_hub:
            _check_base_can_be_found(task)
        splits = read_versions(task) if is_retrieval else read_splits(task)
        check_results_path(task, arguments, splits)
        target = hub_target(arguments, arguments.output_dir)
        train = finetune_retrieval if is_retrieval else finetune
        metric = METRIC if is_retrieval else task.spec.metric
        run = train(task, arguments, splits, [training_curves(metric)])
    if not arguments.should_save:
        return
    save_run(run, task, arguments)
    for split, scores in run.results["scores"].items():
        print(f"{split}: " + ", ".join(f"{name} {value['mean']:.3f}" for name, value in scores.items()))
    if run.model is not None:
        share_result(arguments.output_dir, target)


def _is_retrieval(argv: list[str]) -> bool:
    """Return whether a flag or a recipe names a retrieval task."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task")
    recipes = list(takewhile(lambda word: not word.startswith("-"), argv))
    tasks = {parser.parse_known_args(argv)[0].task, read_recipe(*recipes, kind="finetune").get("task")}
    return bool(tasks & RETRIEVAL_TASKS.keys())


def _check_base_can_be_found(task: HeadArguments) -> None:
    """Raise a `ValueError` before pushing an adapter whose base model others cannot load."""
    if task.method == "lora" and not task.random_encoder and Path(task.model).is_dir():
        raise ValueError(
            f"Nobody else can use an adapter for {task.model}, a folder on this machine. Push that folder and pass "
            "its repository as `--model`, or push the adapter later, with `musicfm push` and `--base_model`."
        )
