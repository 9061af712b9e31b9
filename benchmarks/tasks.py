"""
What pretraining is good for: five tasks × baselines, probes, full fine-tuning and LoRA, on the test songs.

    python recipes/baselines.py --data data/pop909 --split test --output runs/tasks/baselines.json
    python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks

The layer that a probe reads is chosen on the validation songs, for the pretrained encoder and for the one of random
weights; probes have three seeds. Every run is one of `recipes/finetune.py`, and its command is kept beside its scores.
What is done is not done again, so that several of these can share the work (`--tasks`). Writes
`benchmarks/results/tasks.json` and `.md`.
"""

import argparse
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
from transformers import set_seed

from musicfm_hf.data.examples import task_module
from musicfm_hf.finetuning import FinetuningArguments, TaskArguments, finetune, read_split
from musicfm_hf.scoring import bootstrap_interval
from musicfm_hf.training import parse_recipe, recorded, write_json

ROOT = Path(__file__).parents[1]
TASKS = ("beat", "chord", "structure", "key", "tagging")
SEEDS = (1, 2, 3)
SCORES = {
    "beat": ("beat_f", "downbeat_f"),
    "chord": ("majmin",),
    "structure": ("hr05_f", "frame_accuracy"),
    "key": ("key_weighted",),
    "tagging": ("map", "roc_auc"),
}
ROWS = ("log-mel with context", "random encoder", "pretrained probe", "full", "LoRA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="pretrained encoder")
    parser.add_argument("--data", required=True, help="data set of recipes/prepare.py")
    parser.add_argument("--runs", type=Path, required=True, help="where results of single runs are kept")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--cache", default=".features")
    parser.add_argument("--table", action="store_true", help="only make the table of what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        for task in arguments.tasks:
            splits: dict = {}
            for row in arguments.rows:
                run_row(arguments, task, row, splits)
    write_table(arguments.runs)


def run_row(arguments: argparse.Namespace, task: str, row: str, splits: dict) -> None:
    """All runs of one row for one task."""
    common = ["--model", arguments.model, "--data", arguments.data]
    if row in ("full", "LoRA"):
        run(arguments, task, row, f"{row.lower()}.yaml", [*common, "--seed", "1"], splits)
        return
    common += ["--cache", arguments.cache]
    if row == "log-mel with context":
        choices = [["--log_mel", "true"]]
    else:
        choices = [[f"--layer={layer}"] for layer in range(layers(arguments.model) + 1)]
        choices.append(["--weighted_layer_sum", "true"])
        if row == "random encoder":
            choices = [[*choice, "--random_encoder", "true"] for choice in choices]
    metric = task_module(task).METRIC
    first = [
        run(arguments, task, row, ["probe.yaml"], [*common, *choice, "--seed", "1"], splits) for choice in choices
    ]
    best = choices[int(np.argmax([result["scores"]["validation"][metric]["mean"] for result in first]))]
    for seed in SEEDS[1:]:
        run(arguments, task, row, "probe.yaml", [*common, *best, "--seed", str(seed)], splits)


def run(
    arguments: argparse.Namespace, task: str, row: str, recipes: list[str], flags: list[str], splits: dict
) -> dict:
    """A run of recipes/finetune.py, in this process; its results from a file if it was done before."""
    files = [f"recipes/{folder}/{name}" for name in recipes for folder in (task, "small")]
    name = "_".join([task, row, *flags[4:]]).replace("--", "").replace("/", "_").replace(" ", "-").replace("=", "-")
    path = arguments.runs / f"{name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    output = arguments.runs / name
    words = [*(str(ROOT / file) for file in files), *flags]
    settings, training = parse_recipe(
        (TaskArguments, FinetuningArguments), [*words, "--output_dir", str(output), "--disable_tqdm", "true"]
    )
    print(f"{name} …", flush=True)
    set_seed(training.seed)
    if not splits:
        splits.update({split: read_split(settings, split) for split in ("train", "validation", "test")})
    results = finetune(settings, training, splits).results
    shown = list(recorded({"words": [*files, *flags]})["words"])
    write_json(path, {"row": row, "command": shlex.join(["python", "recipes/finetune.py", *shown])} | results)
    shutil.rmtree(output)
    scores = results["scores"]
    metric = task_module(task).METRIC
    print(f"  validation {scores['validation'][metric]['mean']:.4f}, test {scores['test'][metric]['mean']:.4f}, "
          f"{results['steps']} steps, {results['seconds']:.0f} s", flush=True)  # fmt: skip
    return results


def layers(model: str) -> int:
    """Layers of an encoder."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model).num_hidden_layers


def write_table(runs: Path) -> None:
    """Collect what is there."""
    found = [json.loads(path.read_text()) for path in sorted(runs.glob("*.json")) if path.name != "baselines.json"]
    table = {
        task: {row: cell(task, [own for own in found if (own["task"], own["row"]) == (task, row)]) for row in ROWS}
        for task in TASKS
    }
    differences = {task: compare(task, table[task]) for task in TASKS}
    for cells in table.values():
        for value in cells.values():
            value.pop("songs", None)
    baselines = runs / "baselines.json"
    content = {
        "command": "python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks",
        "table": table,
        "differences": differences,
        "baselines": json.loads(baselines.read_text()) if baselines.is_file() else {},
    }
    target = ROOT / "benchmarks/results/tasks.json"
    write_json(target, content)
    target.with_suffix(".md").write_text(as_markdown(table), encoding="utf-8")
    print(as_markdown(table))


def cell(task: str, results: list[dict]) -> dict:
    """A row's scores on the test songs: of the layer that is best on the validation songs, averaged over seeds."""
    if not results:
        return {}
    metric = task_module(task).METRIC

    def choice(result):
        settings = result["settings"]
        return "weighted" if settings["weighted_layer_sum"] else settings["layer"]

    first = [result for result in results if result["training"]["seed"] == SEEDS[0]]
    validation = {str(choice(result)): result["scores"]["validation"][metric]["mean"] for result in first}
    chosen = max(first, key=lambda result: result["scores"]["validation"][metric]["mean"])
    same = [result for result in results if choice(result) == choice(chosen)]
    means = {name: [result["scores"]["test"][name]["mean"] for result in same] for name in chosen["scores"]["test"]}
    songs = {}
    if task != "tagging":
        for song in chosen["scores_of_songs"]["test"]:
            songs[song] = float(np.mean([result["scores_of_songs"]["test"][song][metric] for result in same]))
    return {
        "command": chosen["command"],
        "layer": choice(chosen),
        "validation": validation,
        "test": {name: float(np.mean(values)) for name, values in means.items()},
        "seeds": {name: values for name, values in means.items() if len(values) > 1},
        "trained_parameters": chosen["trained_parameters"],
        "seconds": chosen["seconds"],
        "songs": songs,
    }


def compare(task: str, cells: dict[str, dict]) -> dict:
    """Paired differences of the pretrained probe to what it should be better than, on the test songs."""
    ours = cells["pretrained probe"].get("songs")
    found = {}
    for row in ("log-mel with context", "random encoder"):
        theirs = cells[row].get("songs")
        if ours and theirs:
            values = [ours[song] - theirs[song] for song in ours]
            found[row] = {"mean": float(np.nanmean(values)), "interval": bootstrap_interval(values)}
    return found


def as_markdown(table: dict) -> str:
    names = [(task, name) for task in TASKS for name in SCORES[task]]
    lines = ["| | " + " | ".join(f"{task} {name}" for task, name in names) + " |", "| --- |" + " --- |" * len(names)]
    for row in ROWS:
        values = [table[task][row].get("test", {}).get(name) for task, name in names]
        lines.append(f"| {row} | " + " | ".join("" if v is None else f"{v:.3f}" for v in values) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
