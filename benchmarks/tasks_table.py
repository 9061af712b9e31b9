"""Table of the recorded runs of benchmarks/tasks.py: methods by tasks, with paired differences on test songs."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from reporting import markdown_table, write_report
from run_store import RunStore

from musicfm_hf.evaluation.scoring import paired_difference
from musicfm_hf.tasks import get_task

STUDY: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("tasks.yaml").read_text(encoding="utf-8"))
BASELINE, LOG_MEL, RANDOM, PROBE, FULL, LORA = ROWS = (
    "classical baseline",
    "log-mel with context",
    "random encoder",
    "pretrained probe",
    "full",
    "LoRA",
)
TRAINED_ROWS = ROWS[1:]
ENVIRONMENT = ("versions", "python", "machine")


def write_table(folder: Path) -> None:
    """Write `tasks.json` and `tasks.md` for the runs in the store of a folder."""
    runs = RunStore(folder).read()
    baselines = {name.removeprefix("baseline_"): run for name, run in runs.items() if "about" in run}
    trained = [runs[name] for name in sorted(runs) if "about" not in runs[name]]
    results: dict[str, dict] = {"table": {}, "differences": {}, "baselines": {}}
    for task in STUDY:
        selected = {row: [run for run in trained if (run["task"], run["row"]) == (task, row)] for row in TRAINED_ROWS}
        chosen = {row: best_runs(task, found) for row, found in selected.items()}
        results["table"][task] = {row: cell(task, selected[row], chosen[row]) for row in TRAINED_ROWS}
        results["differences"][task] = differences(task, chosen, baselines)
    for name, run in baselines.items():
        about = {key: run[key] for key in ("task", "metric", "about")}
        results["baselines"][name] = about | {"scores": run["scores"][run["split"]]}
    last = next(reversed(runs.values()), {})
    results |= {key: last[key] for key in ENVIRONMENT if key in last}
    report = scores_table(results["table"], results["baselines"]) + "\n" + differences_table(results["differences"])
    write_report(folder / "tasks.json", results, report)


def reader(run: dict[str, Any]) -> int | str | None:
    """Return the layer that the head of a run reads, or "weighted"."""
    settings = run["settings"]
    return "weighted" if settings["weighted_layer_sum"] else settings["layer"]


def validation_score(task: str, run: dict[str, Any]) -> float:
    return run["scores"]["validation"][get_task(task).metric]["mean"]


def first_seed(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seed = min(run["training"]["seed"] for run in runs)
    return [run for run in runs if run["training"]["seed"] == seed]


def best_runs(task: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs with the layer that is best on the validation songs with the first seed."""
    if not runs:
        return []
    best = max(first_seed(runs), key=lambda run: validation_score(task, run))
    return [run for run in runs if reader(run) == reader(best)]


def cell(task: str, runs: list[dict[str, Any]], chosen: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Return the scores of a row on the test songs, averaged over the seeds of the chosen layer; empty without runs.
    """
    if not runs:
        return {}
    [best] = first_seed(chosen)
    test = {name: [run["scores"]["test"][name]["mean"] for run in chosen] for name in best["scores"]["test"]}
    return {
        "command": best["command"],
        "layer": reader(best),
        "validation": {str(reader(run)): validation_score(task, run) for run in first_seed(runs)},
        "validation_score": validation_score(task, best),
        "test": {name: float(np.mean(values)) for name, values in test.items()},
        "seeds": {name: values for name, values in test.items() if len(values) > 1},
        "trained_parameters": best["trained_parameters"],
        "parameters": best["parameters"],
        "seconds": best["seconds"],
    }


def differences(task: str, chosen: dict[str, list], baselines: dict[str, dict[str, Any]]) -> dict[str, dict]:
    """
    Return paired differences on the test songs, of the pretrained probe from other probes and of the best training
    method from a baseline.
    """
    songs = {row: [run["scores_of_songs"]["test"] for run in runs] for row, runs in chosen.items() if runs}
    songs |= {name: [run["scores_of_songs"][run["split"]]] for name, run in baselines.items() if run["task"] == task}
    pairs = [(PROBE, row, get_task(task).metric) for row in (LOG_MEL, RANDOM)]
    if trained := [row for row in (FULL, LORA) if row in songs]:
        best = max(trained, key=lambda row: validation_score(task, chosen[row][0]))
        pairs += [(best, baseline, name) for name, baseline in STUDY[task]["scores"].items()]
    return {
        f"{name}: {ours} − {theirs}": paired_difference(task, songs[theirs], songs[ours], name)
        for ours, theirs, name in pairs
        if ours in songs and theirs in songs
    }


def scores_table(table: dict[str, dict], baselines: dict[str, dict[str, Any]]) -> str:
    """Return a table of methods by scores of tasks, on the test songs."""
    columns = [(task, *score) for task, study in STUDY.items() for score in study["scores"].items()]
    rows = []
    for row in ROWS:
        cells = [row]
        for task, name, baseline in columns:
            if row == BASELINE:
                value = baselines[baseline]["scores"][name]["mean"] if baseline in baselines else None
            else:
                value = table[task][row].get("test", {}).get(name)
            cells.append("" if value is None else f"{value:.3f}")
        rows.append(cells)
    return markdown_table(["", *(f"{task}, {name}" for task, name, _ in columns)], rows)


def differences_table(differences: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return a table of paired differences with their intervals."""
    rows = []
    for of_task in differences.values():
        for name, value in of_task.items():
            low, high = value["interval"]
            rows.append([name, f"{value['mean']:+.3f}", f"{low:+.3f} to {high:+.3f}"])
    return markdown_table(["difference on test songs", "mean", "95 % interval"], rows)
