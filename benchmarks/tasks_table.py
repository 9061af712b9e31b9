"""
Tables of the recorded runs of benchmarks/tasks.py: methods by tasks, few labeled songs, differences on test songs.

A row is a method with its starting point. Runs of an earlier study, in which each task had models of its own, have a
table of their own, and are not compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from learning_curves import curve, draw_curves
from reporting import markdown_table, write_report
from run_store import RunStore

from musicfm_hf.evaluation.bootstrap import Difference, correct_intervals
from musicfm_hf.evaluation.scoring import difference_of_systems, mean_over_runs
from musicfm_hf.tasks import get_task

_FILE = yaml.safe_load(Path(__file__).with_name("tasks.yaml").read_text(encoding="utf-8"))
STUDY: dict[str, dict[str, Any]] = _FILE["tasks"]
FLAGS: dict[str, str] = _FILE["flags"]
RATES: dict[str, float] = _FILE["rates"]
BASELINE, LOG_MEL = "classical baseline", "probe (log-mel)"
PROBES = ("probe (random)", "probe (pretrained)")
LORAS = ("LoRA (random)", "LoRA (pretrained)")
FULLS = ("full (random)", "full (pretrained)")
ROWS = (BASELINE, LOG_MEL, *PROBES, *LORAS, *FULLS)
TRAINED_ROWS = ROWS[1:]
# Rows of the earlier study, with heads that started from random weights and, except for probes, one seed.
EARLIER = ("log-mel with context", "random encoder", "pretrained probe", "LoRA", "full")
# Differences, first minus second. With few songs, the first two.
PAIRS = (
    (PROBES[1], PROBES[0]),
    (FULLS[1], FULLS[0]),
    (LORAS[1], LORAS[0]),
    (PROBES[1], LOG_MEL),
    (FULLS[1], LOG_MEL),
    (FULLS[0], LOG_MEL),
    (LORAS[1], PROBES[1]),
    (FULLS[1], PROBES[1]),
)
ENVIRONMENT = ("versions", "python", "machine")

Runs = list[dict[str, Any]]


def write_table(folder: Path) -> dict[str, Any]:
    """Write `tasks.json`, `tasks.md` and `few_labels.png` for the runs in a store, and return the results."""
    runs = RunStore(folder).read()
    baselines = {name.removeprefix("baseline_"): run for name, run in runs.items() if "about" in run}
    trained = [runs[name] for name in sorted(runs) if "about" not in runs[name]]
    chosen = {task: {row: cell_runs(trained, task, row) for row in TRAINED_ROWS} for task in STUDY}
    few = few_songs(trained)
    results: dict[str, dict] = {"table": {}, "few": few_cells(few), "earlier": {}, "baselines": {}}
    for task, of_rows in chosen.items():
        results["table"][task] = {row: cell(task, *of_row) for row, of_row in of_rows.items()}
        results["earlier"][task] = {row: cell(task, *cell_runs(trained, task, row)) for row in EARLIER}
    results["differences"] = all_differences(chosen, few, baselines)
    for name, run in baselines.items():
        about = {key: run[key] for key in ("task", "metric", "about", "chosen") if key in run}
        results["baselines"][name] = about | {"scores": run["scores"][run["split"]]}
    last = next(reversed(runs.values()), {})
    results |= {key: last[key] for key in ENVIRONMENT if key in last}
    write_report(folder / "tasks.json", results, report(results))
    if any(len(curve(results, task, row)) > 1 for task, rows in results["few"].items() for row in rows):
        draw_curves(results, folder / "few_labels.png")
    return results


def report(results: Mapping[str, Any]) -> str:
    """Return the head of the table, the tables, and the differences, separated by empty lines."""
    table, differences = results["table"], results["differences"]
    parts = [head(table), scores_table(table, ROWS, results["baselines"]), differences_table(differences)]
    parts += [few_table(results["few"]), scores_table(results["earlier"], EARLIER, {})]
    return "\n".join(part for part in parts if part)


# Runs


def reader(run: Mapping[str, Any]) -> int | str | None:
    """Return the layer that the head of a run reads, or "weighted"."""
    settings = run["settings"]
    return "weighted" if settings["weighted_layer_sum"] else settings["layer"]


def validation_score(task: str, run: Mapping[str, Any]) -> float:
    return run["scores"]["validation"][get_task(task).metric]["mean"]


def first_seed(runs: Runs) -> Runs:
    seed = min(run["training"]["seed"] for run in runs)
    return [run for run in runs if run["training"]["seed"] == seed]


def best_runs(task: str, runs: Runs) -> Runs:
    """Return the runs with the layer that is best on the validation songs with the first seed, in order of seeds."""
    if not runs:
        return []
    best = max(first_seed(runs), key=lambda run: validation_score(task, run))
    return sorted((run for run in runs if reader(run) == reader(best)), key=lambda run: run["training"]["seed"])


def select(runs: Runs, task: str, row: str, songs: int | None = None) -> Runs:
    """Return the runs of a row with a number of training songs; `None` for all."""
    return [
        run for run in runs if (run["task"], run["row"], run["settings"].get("max_train_songs")) == (task, row, songs)
    ]


def cell_runs(runs: Runs, task: str, row: str) -> tuple[Runs, Runs]:
    """Return the runs of all layers that a cell of the table is made of, and those of the chosen layer."""
    of_row = select(runs, task, row)
    return of_row, best_runs(task, of_row)


def few_songs(runs: Runs) -> dict[str, dict[int, dict[str, Runs]]]:
    """Return task → number of training songs → row → runs, for runs with a part of the training songs."""
    sizes = sorted({size for run in runs if (size := run["settings"].get("max_train_songs"))})
    few: dict[str, dict[int, dict[str, Runs]]] = {task: {} for task in STUDY}
    for task, of_task in few.items():
        for size in sizes:
            of_size = {row: best_runs(task, select(runs, task, row, size)) for row in TRAINED_ROWS}
            if of_size := {row: of_row for row, of_row in of_size.items() if of_row}:
                of_task[size] = of_size
    return few


# Values


def cell(task: str, runs: Runs, chosen: Runs) -> dict[str, Any]:
    """
    Return the scores of a row on the test songs, averaged over the seeds of the chosen layer; empty without runs.
    """
    if not runs:
        return {}
    best = chosen[0]
    songs = [run["scores_of_songs"]["test"] for run in chosen]
    test = {name: [run["scores"]["test"][name]["mean"] for run in chosen] for name in best["scores"]["test"]}
    return {
        "command": best["command"],
        "layer": reader(best),
        "validation": {str(reader(run)): validation_score(task, run) for run in first_seed(runs)},
        "validation_score": validation_score(task, best),
        "test": {name: float(np.mean(values)) for name, values in test.items()},
        "scores": {name: mean_over_runs(task, songs, name) for name in STUDY[task]["scores"]},
        "seeds": test,
        "songs": {"train": best["data"]["songs"]["train"], "test": len(songs[0])},
        "trained_parameters": best["trained_parameters"],
        "parameters": best["parameters"],
        "seconds": best["seconds"],
    }


def few_cells(few: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return task → row → number of training songs → the main score on test songs, with its interval and seeds."""
    cells: dict[str, dict[str, dict[str, Any]]] = {task: {} for task in few}
    for task, sizes in few.items():
        metric = get_task(task).metric
        for size, rows in sizes.items():
            for row, runs in rows.items():
                values = mean_over_runs(task, [run["scores_of_songs"]["test"] for run in runs], metric)
                values["seeds"] = [run["scores"]["test"][metric]["mean"] for run in runs]
                cells[task].setdefault(row, {})[str(size)] = values
    return cells


def baseline_of(task: str, metric: str, baselines: Mapping[str, Any]) -> str | None:
    """Return the name of the classical baseline that a score is compared with."""
    return next((name for name in STUDY[task]["scores"][metric] if name in baselines), None)


def all_differences(
    chosen: Mapping[str, Mapping[str, tuple[Runs, Runs]]], few: Mapping[str, Any], baselines: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Return task → "score: ours − theirs" → `mean`, 95 % `interval`, number of `seeds` on either side and, with Holm's
    correction for all of these differences, `corrected_interval`, `p` and `holds`.
    """
    compared: dict[tuple[str, str], Difference] = {}
    seeds: dict[tuple[str, str], list[int]] = {}
    for task, name, ours, theirs, metric in _comparisons(chosen, few, baselines):
        sides = [[run["scores_of_songs"]["test"] for run in runs] for runs in (theirs, ours)]
        compared[task, name] = difference_of_systems(task, *sides, metric)
        seeds[task, name] = [len(ours), len(theirs)]
    corrected = correct_intervals({f"{task} {name}": values for (task, name), values in compared.items()})
    differences: dict[str, dict[str, dict[str, Any]]] = {task: {} for task in chosen}
    for (task, name), value in compared.items():
        differences[task][name] = value.summary() | {"seeds": seeds[task, name]} | corrected[f"{task} {name}"]
    return differences


def _comparisons(
    chosen: Mapping[str, Mapping[str, tuple[Runs, Runs]]], few: Mapping[str, Any], baselines: Mapping[str, Any]
) -> Iterable[tuple[str, str, Runs, Runs, str]]:
    """Yield the task, the name, the runs of both sides and the score of each difference that the page shows."""
    for task, of_rows in chosen.items():
        runs, metric = {row: best for row, (_, best) in of_rows.items() if best}, get_task(task).metric
        for ours, theirs in PAIRS:
            if ours in runs and theirs in runs:
                yield task, f"{metric}: {ours} − {theirs}", runs[ours], runs[theirs], metric
        for score in STUDY[task]["scores"]:
            name = baseline_of(task, score, baselines)
            if name is not None and FULLS[1] in runs:
                yield task, f"{score}: {FULLS[1]} − {name}", runs[FULLS[1]], [baselines[name]], score
        for size, rows in few.get(task, {}).items():
            for ours, theirs in PAIRS[:2]:
                if ours in rows and theirs in rows:
                    yield task, f"{metric}, {size} songs: {ours} − {theirs}", rows[ours], rows[theirs], metric


# Tables


def head(table: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what a reader has to know about the table, as a list."""
    cells = [cell for of_task in table.values() for cell in of_task.values() if cell]
    songs = sorted({cell["songs"]["test"] for cell in cells})
    labels = "; ".join(f"{task}: {study['labels']}" for task, study in STUDY.items())
    lines = [
        f"- **In domain:** scores of the {songs[0] if songs else 0} test songs of POP909, rendered from MIDI. All "
        "models were trained, and the encoder pretrained, on other songs of the same data set.",
        f"- **Labels:** {labels}.",
        "- **Seeds:** means over three seeds, where not marked; \\* is a single seed, \\*\\* two seeds.",
        "- **Settings:** each run trains the heads of all tasks at once (the spectrogram has a probe for each task). "
        "All rows have the same heads, decoders and length of crops, and heads read the learned sum of all hidden "
        "states. Full fine-tuning and LoRA have the same steps, start from the heads of a probe with the same seed, "
        "and are scored after the last step.",
    ]
    return "\n".join(lines) + "\n"


def seeds_mark(seeds: Sequence[float]) -> str:
    """Return the mark of one or two seeds: as many asterisks."""
    return "\\*" * len(seeds) if len(seeds) < 3 else ""


def scores_table(table: Mapping[str, Any], names: Sequence[str], baselines: Mapping[str, Any]) -> str:
    """Return a table of methods by scores of tasks, on the test songs."""
    columns = [(task, score) for task, study in STUDY.items() for score in study["scores"]]
    rows = []
    for row in names:
        cells = [row]
        for task, name in columns:
            if row == BASELINE:
                baseline = baseline_of(task, name, baselines)
                cells.append("" if baseline is None else f"{baselines[baseline]['scores'][name]['mean']:.3f}")
            else:
                values = table[task][row]
                cells.append(f"{values['test'][name]:.3f}{seeds_mark(values['seeds'][name])}" if values else "")
        if any(cells[1:]):
            rows.append(cells)
    return markdown_table(["", *(f"{task}, {name}" for task, name in columns)], rows)


def differences_table(differences: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a table of differences with their intervals. Those that hold after the correction are bold."""
    rows = []
    for of_task in differences.values():
        for name, value in of_task.items():
            mean = f"{value['mean']:+.3f}"
            rows.append([name, f"**{mean}**" if value["holds"] else mean, *map(_interval, _limits(value))])
    return markdown_table(["difference on test songs", "mean", "95 % interval", "corrected interval"], rows)


def few_table(few: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a table of the main score by the number of labeled songs."""
    sizes = sorted({size for rows in few.values() for cells in rows.values() for size in cells}, key=int)
    rows = [
        [
            f"{task}, {get_task(task).metric}",
            row,
            *(
                f"{cells[size]['mean']:.3f}{seeds_mark(cells[size]['seeds'])}" if size in cells else ""
                for size in sizes
            ),
        ]
        for task, of_rows in few.items()
        for row, cells in of_rows.items()
    ]
    return markdown_table(["", "", *(f"{size} songs" for size in sizes)], rows)


def _limits(value: Mapping[str, Any]) -> tuple[Any, Any]:
    return value["interval"], value["corrected_interval"]


def _interval(limits: tuple[float, float]) -> str:
    return f"{limits[0]:+.3f} to {limits[1]:+.3f}"
