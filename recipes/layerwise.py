"""
Probe every hidden state of encoders, and a learned sum of all of them: which layer knows what.

    python recipes/layerwise.py --models runs/small musicfm-msd --tasks beat chord --data data/pop909 \
        --output results/layerwise
    python recipes/layerwise.py recipes/small/probe.yaml --models runs/small --tasks key --data data/pop909 \
        --output results/small --max_steps 500

Settings are those of recipes/TASK/probe.yaml; YAML files that are given go over them, and all flags of
recipes/finetune.py over these. One pass over the data computes all hidden states and keeps them (`--cache`): float16,
for a minute of music 3 MB times layers times hidden size / 1024. A run that was interrupted goes on: give the same
command again; a probe whose results are there is not trained again.

The output folder has `layers.png`, `layers.md`, `layers.json`, and the results of each probe. The best layer is
chosen by validation songs, and its score on test songs is stated.
"""

import argparse
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

from transformers import AutoConfig, set_seed
from transformers.utils import logging

from musicfm_hf.evaluation.layers import layer_table, plot_layers, summarise_layers
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.fingerprint import results_if_done
from musicfm_hf.finetuning.run import cache_all_layers, finetune, read_split
from musicfm_hf.tasks import TASKS, get_task
from musicfm_hf.training.arguments import parse_recipe
from musicfm_hf.training.records import write_json


def main() -> None:
    own, recipes, others = parse_arguments()
    logging.set_verbosity_error()  # every head that is made would be reported as missing
    logging.disable_progress_bar()
    summary: dict[str, dict] = {}
    try:
        names = [Path(model).resolve().name for model in own.models]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"Two models are called {twice[0]}: their results would be in one folder.")
        jobs = {(model, task): plan(model, task, own, recipes, others) for model in own.models for task in own.tasks}
        data = {task: splits_of(jobs[own.models[0], task][0][1]) for task in own.tasks}
        for (model, task), probes in jobs.items():
            summary.setdefault(Path(model).resolve().name, {})[task] = run_probes(task, probes, data[task])
            write_summary(summary, own.output)
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not probed: {error}") from error
    print(layer_table(summary))


def parse_arguments() -> tuple[argparse.Namespace, list[str], list[str]]:
    """What is only here, YAML files, and what is left for recipes/finetune.py's settings."""
    argv = sys.argv[1:]
    recipes = []
    while argv and argv[0].endswith((".yaml", ".yml")):
        recipes.append(argv.pop(0))
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [recipe.yaml ...] --models MODEL ... --tasks TASK ... --data DATA --output FOLDER [...]",
        allow_abbrev=False,
    )
    parser.add_argument("--models", nargs="+", required=True, help="folders or repositories of encoders")
    parser.add_argument("--tasks", nargs="+", required=True, choices=TASKS)
    parser.add_argument("--data", required=True, help="data set of recipes/prepare.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for tables, picture and results")
    own, others = parser.parse_known_args(argv)
    return own, recipes, others


def plan(model: str, task: str, own: argparse.Namespace, recipes: list[str], others: list[str]) -> list[tuple]:
    """`(path of the results, TaskArguments, FinetuningArguments)` of each layer's probe and, last, of the sum's."""
    layers = range(AutoConfig.from_pretrained(model).num_hidden_layers + 1)
    readers = {f"layer_{layer:02d}": ["--layer", str(layer)] for layer in layers}
    readers["weighted_sum"] = ["--weighted_layer_sum", "true"]
    folder = own.output / Path(model).resolve().name / task
    base = [str(Path(__file__).parent / task / "probe.yaml"), *recipes, "--report_to", "none", *others]
    probes = []
    for name, reader in readers.items():
        places = ["--model", model, "--data", own.data, "--output_dir", str(folder / f".{name}")]
        settings = parse_recipe((TaskArguments, FinetuningArguments), [*base, "--task", task, *places, *reader])
        if settings[0].method != "probe" or settings[0].log_mel:
            raise ValueError("Layers are compared by probes of an encoder: leave `method` and `log_mel` as they are.")
        if settings[1].world_size > 1:
            raise ValueError("Layers are probed by one process: start it without accelerate.")
        probes.append((folder / f"{name}.json", *settings))
    return probes


def splits_of(task: TaskArguments) -> dict[str, list]:
    return {name: read_split(task, name) for name in ("train", "validation", "test")}


def run_probes(task: str, probes: list[tuple], splits: dict[str, list]) -> dict:
    """Train those that are missing, and summarise all."""
    missing = [probe for probe in probes if results_if_done(*probe, splits, "--output") is None]
    if missing:
        cache_all_layers(*missing[0][1:], splits)
    for path, settings, arguments in missing:
        set_seed(arguments.seed)
        found = finetune(settings, arguments, splits)
        weights = getattr(found.trained, "layer_weights", None)
        more = {} if weights is None else {"layer_weights": weights.detach().softmax(0).tolist()}
        write_json(path, found.results | more)
        shutil.rmtree(arguments.output_dir, ignore_errors=True)  # checkpoints
        scores = {split: values[get_task(task).metric]["mean"] for split, values in found.results["scores"].items()}
        print(f"{path.parent}/{path.stem}: " + ", ".join(f"{split} {value:.3f}" for split, value in scores.items()))
    *layers, weighted = [json.loads(path.read_text()) for path, _, _ in probes]
    return summarise_layers(get_task(task).metric, layers, weighted)


def write_summary(summary: dict[str, dict], output: Path) -> None:
    """Table, numbers and picture of what is done so far."""
    write_json(output / "layers.json", summary)
    (output / "layers.md").write_text(layer_table(summary), encoding="utf-8")
    plot_layers(summary, output / "layers.png")


if __name__ == "__main__":
    main()
