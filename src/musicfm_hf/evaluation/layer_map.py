"""Scores of probes by layer: summary, table and plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..training.files import complete_file

Summary = dict[str, dict[str, dict[str, Any]]]  # model → task → what `summarize_layers` returns


def best_layer(scores: Sequence[float]) -> int | None:
    """Return the layer with the highest score, and the lowest one in a tie; `None` if all scores are nan."""
    values = np.asarray(scores, dtype=np.float64)
    return None if np.isnan(values).all() else int(np.nanargmax(values))


def summarize_layers(metric: str, layers: Sequence[dict[str, Any]], weighted: dict[str, Any]) -> dict[str, Any]:
    """
    Summarize the probes of all layers of one model for one task.

    Args:
        metric (`str`): Score to summarize.
        layers: The `results` of [`finetune`] for each hidden state.
        weighted: The results of the probe of the learned sum, with `layer_weights`.

    Returns:
        `metric`; `validation` and `test`, scores by layer; `best`, the layer with the best validation score, and
        `test_of_best`, its `mean` and, if songs have scores, `interval` on test songs; `weighted_sum`: `validation`,
        `test` and `layer_weights` of the learned sum.
    """

    def score(results: dict[str, Any], split: str) -> dict[str, Any]:
        entry = results["scores"][split][metric]
        return entry if entry["mean"] is not None else {"mean": float("nan")}  # nan is null in JSON

    values = {split: [score(results, split)["mean"] for results in layers] for split in ("validation", "test")}
    best = best_layer(values["validation"])
    return {
        "metric": metric,
        **values,
        "best": best,
        "test_of_best": None if best is None else score(layers[best], "test"),
        "weighted_sum": {
            "validation": score(weighted, "validation")["mean"],
            "test": score(weighted, "test"),
            "layer_weights": weighted["layer_weights"],
        },
    }


def layer_table(summary: Summary) -> str:
    """
    Return a Markdown table of scores by layer for each model.

    Args:
        summary: Model → task → output of [`summarize_layers`].
    """
    lines = []
    for model, tasks in summary.items():
        count = max(len(entry["validation"]) for entry in tasks.values())
        columns = ["task", "metric", *(str(layer) for layer in range(count)), "sum", "test of best", "test of sum"]
        lines += [f"## {model}", "", "Validation scores by layer; the best is bold. `sum` is the learned sum.", ""]
        lines += [_row(columns), _row(["---"] * len(columns))]
        for task, entry in tasks.items():
            cells = [f"{value:.3f}" for value in entry["validation"]]
            if entry["best"] is not None:
                cells[entry["best"]] = f"**{cells[entry['best']]}**"
            weighted = entry["weighted_sum"]
            best = "" if entry["best"] is None else f"{_with_interval(entry['test_of_best'])} (layer {entry['best']})"
            cells += [f"{weighted['validation']:.3f}", best, _with_interval(weighted["test"])]
            lines.append(_row([task, entry["metric"], *cells]))
        lines += ["", "Weights of the learned sum:", ""]
        columns = ["task", *(str(layer) for layer in range(count))]
        lines += [_row(columns), _row(["---"] * len(columns))]
        for task, entry in tasks.items():
            lines.append(_row([task, *(f"{weight:.3f}" for weight in entry["weighted_sum"]["layer_weights"])]))
        lines.append("")
    return "\n".join(lines)


def plot_layers(summary: Summary, output: str | Path) -> None:
    """
    Draw validation scores by task and layer as PNG, with one panel for each model. The best layer has a frame, and its
    test score is on the right. Colors range from the lowest to the highest score of a task over all models.

    Args:
        summary: Model → task → output of [`summarize_layers`].
        output: File to write.
    """
    from matplotlib.figure import Figure

    columns = max(len(entry["validation"]) for tasks in summary.values() for entry in tasks.values()) + 1.5
    rows = [len(tasks) for tasks in summary.values()]
    width, height = 0.58 * columns + 4.2, 0.42 * sum(rows) + 0.8 * len(rows) + 0.6
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    limits = _limits(summary)
    for axes, (model, tasks) in zip(panels, summary.items(), strict=True):
        _draw_layers(axes, tasks, limits, columns)
        axes.set_title(model, loc="left", fontsize=11, fontweight="bold", parse_math=False)
    panels[-1].set_xlabel(
        "Validation scores of probes, by the hidden state they read.\n"
        "0: before the first layer; Σ: learned sum of all. Red: the best layer.\n"
        "Colors range from the lowest to the highest score of a task.",
        loc="left",
        fontsize=9,
    )
    with complete_file(output) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight")


def _limits(summary: Summary) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest validation score of each task over all models."""
    values: dict[str, list[float]] = {}
    for tasks in summary.values():
        for task, entry in tasks.items():
            values.setdefault(task, []).extend([*entry["validation"], entry["weighted_sum"]["validation"]])
    return {
        task: (np.nanmin(scores), np.nanmax(scores)) if np.isfinite(scores).any() else (0.0, 1.0)
        for task, scores in values.items()
    }


def _draw_layers(
    axes: Any, tasks: dict[str, dict[str, Any]], limits: dict[str, tuple[float, float]], columns: float
) -> None:
    """Draw one model: a cell for each task and layer, a separate cell for the learned sum, and test scores as text."""
    from matplotlib import colormaps

    layers = max(len(entry["validation"]) for entry in tasks.values())
    place_of_sum = layers + 0.3
    for row, (task, entry) in enumerate(tasks.items()):
        low, high = limits[task]
        cells = [*enumerate(entry["validation"]), (place_of_sum, entry["weighted_sum"]["validation"])]
        for place, value in cells:
            share = (value - low) / max(high - low, 1e-9)
            color = "#dddddd" if np.isnan(value) else colormaps["viridis"](share)
            axes.fill_between([place - 0.47, place + 0.47], row - 0.46, row + 0.46, color=color, linewidth=0)
            text = "–" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)
            ink = "black" if np.isnan(value) or share > 0.6 else "white"
            axes.text(place, row, text, ha="center", va="center", fontsize=8.5, color=ink)
        best = entry["best"]
        text = f"test of sum {_with_interval(entry['weighted_sum']['test'])}"
        if best is not None:
            corners = ([best - 0.47, best + 0.47, best + 0.47, best - 0.47], [row - 0.46] * 2 + [row + 0.46] * 2)
            axes.fill(*corners, facecolor="none", edgecolor="#e4002b", linewidth=2.2, zorder=3)
            text = f"test of layer {best} {_with_interval(entry['test_of_best'])}\n{text}"
        axes.text(place_of_sum + 0.7, row, text, va="center", fontsize=8, linespacing=1.15)
    axes.set_xticks([*range(layers), place_of_sum], [*range(layers), "Σ"])
    axes.set_yticks(range(len(tasks)), [f"{task} ({entry['metric']})" for task, entry in tasks.items()])
    axes.set(xlim=(-0.6, columns + 3.6), ylim=(len(tasks) - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _with_interval(score: dict[str, Any]) -> str:
    """Format a score with its interval, if it has one."""
    if "interval" not in score:
        return f"{score['mean']:.3f}"
    low, high = score["interval"]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _row(cells: Sequence[str]) -> str:
    """Format a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
