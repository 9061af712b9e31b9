"""Picture of scores by the number of labeled songs, from the results of benchmarks/tasks.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from musicfm_hf.tasks import get_task
from musicfm_hf.training.files import complete_file

COLORS = {"probe": "tab:blue", "LoRA": "tab:green", "full": "tab:orange"}


def curve(results: Mapping[str, Any], task: str, row: str) -> list[tuple[int, float, list[float]]]:
    """
    Return the points of a row: number of training songs, mean score on test songs, and the score of each seed. The
    last one is the cell of the table, with all songs, if it has runs.
    """
    few = results["few"][task].get(row, {})
    points = [(int(size), values["mean"], values["seeds"]) for size, values in few.items()]
    whole, metric = results["table"][task].get(row), get_task(task).metric
    if points and whole:
        points.append((whole["songs"]["train"], whole["test"][metric], whole["seeds"][metric]))
    return sorted(points)


def draw_curves(results: Mapping[str, Any], path: Path) -> None:
    """Draw a panel for each task with runs on few songs: lines through the means, and a dot for each seed."""
    tasks = [task for task, rows in results["few"].items() if rows]
    figure = Figure(figsize=(4.2 * len(tasks), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for row in results["few"][task]:
            points = curve(results, task, row)
            style = {
                "color": COLORS.get(row.split()[0], "gray"),
                "linestyle": "-" if "pretrained" in row else "--" if "random" in row else ":",
            }
            axes.plot([size for size, _, _ in points], [mean for _, mean, _ in points], label=row, **style)
            for size, _, seeds in points:
                axes.plot([size] * len(seeds), seeds, ".", color=style["color"], markersize=4)
        sizes = sorted({size for row in results["few"][task] for size, _, _ in curve(results, task, row)})
        axes.set(xscale="log", title=task, xlabel="labeled songs", ylabel=get_task(task).metric)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    with complete_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
