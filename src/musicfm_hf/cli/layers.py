"""
Probe every hidden state of encoders, and a learned sum of all hidden states, to find the best layer for each task.

  musicfm layers --models runs/small musicfm-msd --tasks beat chord --data data/pop909 --output_dir results/layers
  musicfm layers small/probe --models runs/small --tasks key --data data/pop909 --output_dir results/small \\
      --max_steps 500

Settings come from the recipe TASK/probe; the given recipes override them, and flags override both. All flags of
`musicfm finetune` are accepted. One pass over the data computes all hidden states and caches them (`--cache`) in
float16: a minute of music takes 3 MB times layers times hidden size / 1024. To resume an interrupted run, repeat the
command: a probe whose results exist is not trained again.

The output folder holds `layers.png`, `layers.md`, `layers.json`, and the results of each probe. The best layer is
chosen on validation songs and also scored on test songs.
"""

import argparse
from typing import Any

from transformers.utils import logging

from ..evaluation.layer_map import layer_table
from ..finetuning.arguments import FinetuningArguments, TaskArguments
from ..finetuning.layer_probes import LayerProbe, probe_layers
from ..tasks import load_task_file
from .flags import add_task_file_flag, command_parser, rename_flags, user_errors
from .training import parse_command

RENAMED_FLAGS = {"--output": "--output_dir"}


def main(argv: list[str]) -> None:
    """Run `musicfm layers`."""
    logging.set_verbosity_error()  # every new head would be reported as missing from the checkpoint
    logging.disable_progress_bar()
    own, recipes, others = _parse(rename_flags(argv, RENAMED_FLAGS))
    with user_errors("Not probed"):
        task_files = {load_task_file(path).name: path for path in own.task_file}
        settings = {task: _settings(task, own, recipes, others, task_files) for task in own.tasks}
        summary = probe_layers(own.models, settings, own.output_dir, _print_scores)
    print(layer_table(summary))


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Return the command's own flags, the recipes, and the remaining flags, which `musicfm finetune` defines."""
    recipes = []
    while argv and not argv[0].startswith("-"):
        recipes.append(argv.pop(0))
    parser = command_parser("layers", __doc__)
    parser.usage = "%(prog)s [recipe ...] --models MODEL ... --tasks TASK ... --data DATA --output_dir FOLDER [...]"
    parser.add_argument("--models", nargs="+", required=True, help="folders or repositories of encoders")
    parser.add_argument("--tasks", nargs="+", required=True, help="names of tasks")
    add_task_file_flag(parser)
    parser.add_argument("--data", required=True, help="labeled data set: a folder that `musicfm prepare` wrote")
    parser.add_argument("--output_dir", required=True, help="folder for the tables, the plot and the results")
    own, others = parser.parse_known_args(argv)
    return own, recipes, others


def _settings(
    task: str, own: argparse.Namespace, recipes: list[str], others: list[str], task_files: dict[str, str]
) -> tuple[TaskArguments, FinetuningArguments]:
    """Return the settings for the probes of a task."""
    places = ["--task", task, "--model", own.models[0], "--data", own.data, "--output_dir", own.output_dir]
    places += ["--task_file", task_files[task]] if task in task_files else []
    first = "probe" if task in task_files else f"{task}/probe"  # a task of one's own has no recipe
    words = [first, *recipes, "--report_to", "none", *others, *places]
    return parse_command("layers", "finetune", (TaskArguments, FinetuningArguments), words, __doc__)


def _print_scores(probe: LayerProbe, results: dict[str, Any]) -> None:
    metric = probe.task.spec.metric
    scores = ", ".join(f"{split} {values[metric]['mean']:.3f}" for split, values in results["scores"].items())
    print(f"{probe.path.parent}/{probe.path.stem}: {scores}")
