"""The report of a study: table, differences from the base, and findings, computed from the results of its cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.bootstrap import Difference, correct_intervals
from ..evaluation.layer_map import layer_table, plot_layers
from ..evaluation.scoring import difference_of_systems, mean_over_runs
from ..tasks import get_task
from ..training.files import complete_file, write_json, write_text
from ..training.records import environment
from .cells import Places, load_results
from .plan import EXPECTATIONS, Cell, Study
from .report_text import report_page

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # variant → seed → results of the cell


def write_report(study: Study, cells: Sequence[Cell], places: Places) -> dict[str, Any]:
    """
    Write `study.md`, `study.json`, `study.png`, `layers.md` and `layers.png` from the cells that are finished.

    Returns:
        The contents of `study.json`: see [`summarize`].

    Raises:
        ValueError: No cell is finished, or a cell was run with other settings.
    """
    loaded = [(cell, load_results(study, cell, places)) for cell in cells]
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for cell, contents in loaded:
        if contents is not None:
            results.setdefault(cell.variant, {})[cell.seed] = contents
    if not results:
        raise ValueError(f"No cell in {places.output_dir} is finished: run `musicfm study` without `--report`.")
    summary = summarize(study, cells, results) | environment()
    write_json(places.output_dir / "study.json", summary)
    write_text(places.output_dir / "study.md", report_page(study, summary))
    draw_differences(summary["differences"], places.output_dir / "study.png")
    layers = {variant: _layers(next(iter(runs.values()))) for variant, runs in results.items()}
    write_text(places.output_dir / "layers.md", layer_table(layers))
    plot_layers(layers, places.output_dir / "layers.png")
    return summary


def summarize(study: Study, cells: Sequence[Cell], results: Results) -> dict[str, Any]:
    """
    Summarize the results of a study.

    Args:
        study ([`Study`]): The study.
        cells: All planned cells.
        results: Variant → seed → results of each finished cell.

    Returns:
        `cells`, numbers of `planned` and `finished` cells; `rows`, variants with levels and test scores;
        `differences`, a list of differences from the base; `findings`, a list with a verdict for each finding. A
        difference of a level from the base is the paired bootstrap over songs and seeds, and its
        `corrected_interval` is corrected by Holm's procedure for all differences of the study.
    """
    finished = sum(map(len, results.values()))
    differences = _differences(study, cells, results)
    levels = {cell.variant: cell.levels for cell in cells}
    return {
        "cells": {"planned": len(cells), "finished": finished},
        "base": study.base,
        "rows": {variant: _row(study, levels[variant], runs) for variant, runs in results.items()},
        "differences": differences,
        "findings": [judge(study, position, differences) for position in range(len(study.findings))],
    }


def _row(study: Study, levels: Mapping[str, str], runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Summarize the runs of a variant with all seeds."""
    first = next(iter(runs.values()))
    scores: dict[str, dict[str, Any]] = {}
    for task in study.tasks:
        songs = [run["tasks"][task]["songs"] for run in runs.values()]
        if all(songs):
            scores[task] = {metric: mean_over_runs(task, songs, metric) for metric in study.metrics(task)}
    return {
        "levels": dict(levels),
        "seeds": sorted(runs),
        "parameters": first["pretraining"]["parameters"],
        "minutes": float(np.mean([run["pretraining"]["seconds"] for run in runs.values()])) / 60,
        "best_layers": {task: [run["tasks"][task]["layers"]["best"] for run in runs.values()] for task in study.tasks},
        "scores": scores,
    }


def _differences(study: Study, cells: Sequence[Cell], results: Results) -> list[dict[str, Any]]:
    """Compare the variants that differ from the base in one factor with the base."""
    changes = {cell.variant: cell.changed(study.base) for cell in cells}
    entries: list[dict[str, Any]] = []
    differences: dict[str, Difference] = {}
    for variant, changed in changes.items():
        if len(changed) != 1 or variant not in results or "base" not in results:
            continue
        seeds = [seed for seed in results["base"] if seed in results[variant]]
        ((factor, level),) = changed.items()
        for task in study.tasks if seeds else ():
            before, after = (
                [results[name][seed]["tasks"][task]["songs"] for seed in seeds] for name in ("base", variant)
            )
            if not all([*before, *after]):
                continue
            metric = get_task(task).metric
            difference = difference_of_systems(task, before, after, metric)
            differences[str(len(entries))] = difference
            entry = {"factor": factor, "level": level, "task": task, "metric": metric, "seeds": seeds}
            entries.append(entry | {"mean": difference.mean})
    corrected = correct_intervals(differences)
    return [entry | corrected[str(position)] for position, entry in enumerate(entries)]


def judge(study: Study, position: int, differences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Compare a finding with the differences that were measured. A task agrees or disagrees only if the corrected
    interval of its difference excludes 0.

    Returns:
        The entries of the finding; `tasks`: task → `agrees`, `disagrees` or `undecided`; `paper_differences`: task →
        the paper's difference in the same score, for tasks that both have; `verdict`: `agrees` or `disagrees` if some
        task does and no task does the opposite; `mixed`, `undecided`, or `not run`.
    """
    finding = study.findings[position]
    direction = EXPECTATIONS[finding.expected]
    tasks = {}
    for entry in differences:
        if (entry["factor"], entry["level"]) == (finding.factor, finding.level):
            supports = entry["mean"] * direction > 0
            tasks[entry["task"]] = ("agrees" if supports else "disagrees") if entry["holds"] else "undecided"
    decided = set(tasks.values()) - {"undecided"}
    if not tasks:
        verdict = "not run"
    elif len(decided) == 2:
        verdict = "mixed"
    else:
        verdict = decided.pop() if decided else "undecided"
    return vars(finding) | {
        "tasks": tasks,
        "verdict": verdict,
        "paper_differences": paper_differences(study, finding.paper),
    }


def paper_differences(study: Study, names: Sequence[str]) -> dict[str, float]:
    """Return the second row of the paper minus the first: task → difference in the score that the study compares."""
    if not names:
        return {}
    first, second = (study.paper[name]["scores"] for name in names)
    differences = {}
    for task in study.tasks:
        metric = get_task(task).metric
        if metric in first.get(task, {}) and metric in second.get(task, {}):
            differences[task] = round(second[task][metric] - first[task][metric], 6)
    return differences


def _layers(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the scores by layer of a cell, with nan where its file has null."""
    return {task: _restore_nan(entry["layers"]) for task, entry in results["tasks"].items()}


def _restore_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Replace null with nan in the scores that [`summarize_layers`] returned."""
    weighted = entry["weighted_sum"]
    validation, test = _number(weighted["validation"]), _restore_score(weighted["test"])
    return dict(entry) | {
        "validation": [_number(value) for value in entry["validation"]],
        "test": [_number(value) for value in entry["test"]],
        "test_of_best": None if entry["best"] is None else _restore_score(entry["test_of_best"]),
        "weighted_sum": weighted | {"validation": validation, "test": test},
    }


def _restore_score(score: Mapping[str, Any]) -> dict[str, Any]:
    return dict(score) | {"mean": _number(score["mean"])}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def draw_differences(differences: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw the differences from the base with their corrected intervals, a panel for each task."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(entry["task"] for entry in differences))
    names = list(dict.fromkeys(f"{entry['factor']}: {entry['level']}" for entry in differences))
    size = (2.0 + 3.2 * max(1, len(tasks)), 1.4 + 0.4 * len(names))
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    panels = figure.subplots(1, max(1, len(tasks)), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=False):
        entries = [entry for entry in differences if entry["task"] == task]
        for entry in entries:
            row = names.index(f"{entry['factor']}: {entry['level']}")
            color = "#1f77b4" if entry["holds"] else "#999999"
            axes.plot(entry["corrected_interval"], [row, row], color=color, linewidth=2)
            axes.plot([entry["mean"]], [row], "o", color=color)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=f"{task} ({entries[0]['metric']})", xlabel="difference from the base")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names, parse_math=False)
    panels[0].set_ylim(max(0.5, len(names) - 0.5), -0.5)
    with complete_file(path) as temporary:
        figure.savefig(temporary, format="png")
