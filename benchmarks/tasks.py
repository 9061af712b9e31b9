"""
What pretraining is good for: five tasks × baselines, probes, full fine-tuning and LoRA, on the test songs.

    python recipes/baselines.py --data data/pop909 --split test --output runs/tasks/baselines.json
    python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks

The layer that a probe reads is chosen on the validation songs, for the pretrained encoder and for the one of random
weights; probes have three seeds. Every run is one of `recipes/finetune.py`, and its command is kept beside its scores.
What is done is not done again, so that several of these can share the work (`--tasks`, `--rows`). Flags that are not
its own go to the runs of full fine-tuning and LoRA, such as `--bf16 true`; their models are kept in `--runs`. Writes
`benchmarks/results/tasks.json` and `.md`; differences are over test songs, with the paired bootstrap. The results of
single runs, with scores of every song, are in `benchmarks/results/tasks/`: copied to `--runs`, these are not done
again. (A random encoder has other weights with another seed, of which features are computed once more.)
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from transformers import AutoConfig, set_seed

from musicfm_hf.evaluation.scoring import paired_difference
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.fingerprint import results_if_done
from musicfm_hf.finetuning.run import cache_all_layers, finetune, read_splits
from musicfm_hf.tasks import TASKS, get_task
from musicfm_hf.training.arguments import parse_recipe
from musicfm_hf.training.records import environment, recorded, write_json

ROOT = Path(__file__).parents[1]
SEEDS = (1, 2, 3)
SCORES = {
    "beat": ("beat_f", "downbeat_f"),
    "chord": ("majmin",),
    "structure": ("hr05_f", "frame_accuracy"),
    "key": ("key_weighted",),
    "tagging": ("map", "roc_auc"),
}
FLAGS = {"structure": ["--decoding", '{"peak_window_seconds": 10}']}  # best of full fine-tuning on validation songs
# Full fine-tuning and LoRA play crops faster or slower, in place of pitch shift and time stretch, which take longer
# than a step of a small encoder.
AUGMENTATION = {
    "beat": ["--tempo", "0", "--speed", "3"],
    "chord": ["--transpose", "false", "--speed", "5"],
    "structure": ["--speed", "3"],
    "key": ["--transpose", "false", "--speed", "5"],
    "tagging": [],
}
# What the best of full and LoRA has to be better than, of recipes/baselines.py.
CLASSICAL = {
    "beat_f": "beat_track",
    "downbeat_f": "beat_track",
    "majmin": "templates_true_beats",
    "hr05_f": "eight_bars",
    "frame_accuracy": "eight_bars",
    "key_weighted": "key_profiles",
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
    arguments, arguments.others = parser.parse_known_args()
    if not arguments.table:
        for task in arguments.tasks:
            splits: dict = {}
            for row in arguments.rows:
                run_row(arguments, task, row, splits)
    write_table(arguments.runs)


def run_row(arguments: argparse.Namespace, task: str, row: str, splits: dict) -> None:
    """All runs of one row for one task."""
    common = ["--model", arguments.model, "--data", arguments.data, *FLAGS.get(task, [])]
    if row in ("full", "LoRA"):
        flags = [*common, *AUGMENTATION[task], *arguments.others, "--seed", "1"]
        run(arguments, task, row, f"{row.lower()}.yaml", flags, splits)
        return
    common += ["--cache", arguments.cache, "--report_to", "none"]
    if row == "log-mel with context":
        choices = [["--log_mel", "true"]]
    else:
        layers = AutoConfig.from_pretrained(arguments.model).num_hidden_layers
        choices = [[f"--layer={layer}"] for layer in range(layers + 1)]
        choices.append(["--weighted_layer_sum", "true"])
        if row == "random encoder":
            choices = [[*choice, "--random_encoder", "true"] for choice in choices]
    metric = get_task(task).metric
    first = [run(arguments, task, row, "probe.yaml", [*common, *choice, "--seed", "1"], splits) for choice in choices]
    best = choices[int(np.argmax([result["scores"]["validation"][metric]["mean"] for result in first]))]
    for seed in SEEDS[1:]:
        run(arguments, task, row, "probe.yaml", [*common, *best, "--seed", str(seed)], splits)


def run(arguments: argparse.Namespace, task: str, row: str, recipe: str, flags: list[str], splits: dict) -> dict:
    """
    A run of recipes/finetune.py, of a probe in this process, so that songs are read once; its results from a file if
    it was done before.
    """
    files = [f"recipes/{folder}/{recipe}" for folder in (task, "small")]
    reader = [flag for flag in flags if flag.startswith(("--layer", "--weighted"))]
    name = "_".join([task, row, *reader, flags[-1]]).replace("--", "").replace(" ", "-").replace("=", "-")
    path = arguments.runs / f"{name}.json"
    output = arguments.runs / name
    words = [*(str(ROOT / file) for file in files), *flags, "--output_dir", str(output), "--disable_tqdm", "true"]
    words += ["--results", str(arguments.runs / "results")]
    settings, training = parse_recipe((TaskArguments, FinetuningArguments), words)
    if not splits:
        splits.update(read_splits(settings))
    if (results := results_if_done(path, settings, training, splits, "--runs")) is not None:
        return results
    print(f"{name} …", flush=True)
    if row in ("full", "LoRA"):
        subprocess.run([sys.executable, str(ROOT / "recipes/finetune.py"), *words], check=True)
        results = json.loads((output / "results.json").read_text())
    else:
        if not settings.log_mel:
            cache_all_layers(settings, training, splits)
        set_seed(training.seed)
        results = finetune(settings, training, splits).results
        shutil.rmtree(output)
    shown = recorded({"words": [*files, *flags, "--output_dir", f"{arguments.runs.name}/{name}"]})["words"]
    write_json(path, {"row": row, "command": shlex.join(["python", "recipes/finetune.py", *shown])} | results)
    scores = results["scores"]
    metric = get_task(task).metric
    print(f"  validation {scores['validation'][metric]['mean']:.4f}, test {scores['test'][metric]['mean']:.4f}, "
          f"{results['steps']['run']} steps, {results['seconds']:.0f} s", flush=True)  # fmt: skip
    return results


def write_table(runs: Path) -> None:
    """Collect what is there."""
    found = [json.loads(path.read_text()) for path in sorted(runs.glob("*.json")) if path.name != "baselines.json"]
    table = {
        task: {row: cell(task, [own for own in found if (own["task"], own["row"]) == (task, row)]) for row in ROWS}
        for task in TASKS
    }
    path = runs / "baselines.json"
    baselines = json.loads(path.read_text())["models"] if path.is_file() else {}
    differences = {task: compare(task, table[task], baselines) for task in TASKS}
    for cells in table.values():
        for value in cells.values():
            value.pop("songs", None)
    for result in baselines.values():
        del result["songs"]
    target = ROOT / "benchmarks/results/tasks.json"
    write_json(target, {"table": table, "differences": differences, "baselines": baselines} | environment())
    shown = as_markdown(table, baselines) + "\n" + differences_as_markdown(differences)
    target.with_suffix(".md").write_text(shown, encoding="utf-8")
    print(shown)


def cell(task: str, results: list[dict]) -> dict:
    """A row's scores on the test songs: of the layer that is best on the validation songs, averaged over seeds."""
    if not results:
        return {}
    metric = get_task(task).metric

    def choice(result):
        settings = result["settings"]
        return "weighted" if settings["weighted_layer_sum"] else settings["layer"]

    first = [result for result in results if result["training"]["seed"] == SEEDS[0]]
    validation = {str(choice(result)): result["scores"]["validation"][metric]["mean"] for result in first}
    chosen = max(first, key=lambda result: result["scores"]["validation"][metric]["mean"])
    same = [result for result in results if choice(result) == choice(chosen)]
    means = {name: [result["scores"]["test"][name]["mean"] for result in same] for name in chosen["scores"]["test"]}
    return {
        "command": chosen["command"],
        "layer": choice(chosen),
        "validation": validation,
        "validation_score": chosen["scores"]["validation"][metric]["mean"],
        "test": {name: float(np.mean(values)) for name, values in means.items()},
        "seeds": {name: values for name, values in means.items() if len(values) > 1},
        "trained_parameters": chosen["trained_parameters"],
        "parameters": chosen["parameters"],
        "seconds": chosen["seconds"],
        "songs": [result["scores_of_songs"]["test"] for result in same],
    }


def compare(task: str, cells: dict[str, dict], baselines: dict) -> dict[str, dict]:
    """Paired differences on the test songs: the pretrained probe to other probes, the best training to a baseline."""
    runs = {row: own["songs"] for row, own in cells.items() if own}
    runs |= {name: [own["songs"]] for name, own in baselines.items() if own["task"] == task}
    pairs = [("pretrained probe", row, get_task(task).metric) for row in ("log-mel with context", "random encoder")]
    if trained := [row for row in ("full", "LoRA") if row in runs]:
        best = max(trained, key=lambda row: cells[row]["validation_score"])
        pairs += [(best, CLASSICAL.get(name, "prevalence"), name) for name in SCORES[task]]
    return {
        f"{name}: {ours} − {theirs}": paired_difference(task, runs[theirs], runs[ours], name)
        for ours, theirs, name in pairs
        if ours in runs and theirs in runs
    }


def as_markdown(table: dict, baselines: dict) -> str:
    """Task × row, on the test songs; of probes the mean over seeds."""
    names = [(task, name) for task in TASKS for name in SCORES[task]]
    lines = ["| | " + " | ".join(f"{task}, {name}" for task, name in names) + " |", "| --- |" + " --- |" * len(names)]
    rows = {row: [table[task][row].get("test", {}).get(name) for task, name in names] for row in ROWS}
    classical = [
        baselines.get(CLASSICAL.get(name, "prevalence"), {}).get("scores", {}).get(name, {}).get("mean")
        for _, name in names
    ]
    rows = {"classical baseline": classical} | rows
    for row, values in rows.items():
        lines.append(f"| {row} | " + " | ".join("" if value is None else f"{value:.3f}" for value in values) + " |")
    return "\n".join(lines) + "\n"


def differences_as_markdown(differences: dict[str, dict]) -> str:
    lines = ["| difference on test songs | mean | 95 % interval |", "| --- | --- | --- |"]
    for found in differences.values():
        for name, value in found.items():
            low, high = value["interval"]
            lines.append(f"| {name} | {value['mean']:+.3f} | {low:+.3f} to {high:+.3f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
