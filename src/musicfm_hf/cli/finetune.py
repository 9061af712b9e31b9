"""
Train a head for beats, chords, structure, keys or tags on a pretrained encoder, and score it on whole songs.

  musicfm finetune chord/probe --model musicfm-msd --data data/pop909 --output_dir runs/chord
  musicfm finetune chord/lora small/lora --model runs/small --data data/pop909 --output_dir runs/chord-lora

A recipe combines a task and a method: a probe (the encoder is frozen and its features are computed once), full
fine-tuning, or LoRA. A later recipe overrides the ones before it, and flags override all recipes. To resume an
interrupted run from its last checkpoint, repeat the command. The output folder holds the model or the adapter,
`curves.png`, TensorBoard logs and checkpoints; the scores are in `results/<name of the folder>.json`.
"""

from pathlib import Path

from ..finetuning.arguments import FinetuningArguments, TaskArguments
from ..finetuning.run import check_results_path, finetune, read_splits, save_run, training_curves
from ..hub.push import hub_target
from .flags import share_result, user_errors
from .training import log_progress, parse_command


def main(argv: list[str]) -> None:
    """Run `musicfm finetune`."""
    with user_errors("Not trained"):
        task, arguments = parse_command("finetune", "finetune", (TaskArguments, FinetuningArguments), argv, __doc__)
        log_progress(arguments)
        if arguments.push_to_hub:
            _check_base_can_be_found(task)
        splits = read_splits(task)
        check_results_path(task, arguments, splits)
        target = hub_target(arguments, arguments.output_dir)
        run = finetune(task, arguments, splits, [training_curves(task.task)])
    if not arguments.should_save:
        return
    save_run(run, task, arguments)
    for split, scores in run.results["scores"].items():
        print(f"{split}: " + ", ".join(f"{name} {value['mean']:.3f}" for name, value in scores.items()))
    if run.model is not None:
        share_result(arguments.output_dir, target)


def _check_base_can_be_found(task: TaskArguments) -> None:
    """Raise a `ValueError` before pushing an adapter whose base model others cannot load."""
    if task.method == "lora" and Path(task.model).is_dir():
        raise ValueError(
            f"Nobody else can use an adapter for {task.model}, a folder on this machine. Push that folder and pass "
            "its repository as `--model`, or push the adapter later, with `musicfm push` and `--base_model`."
        )
