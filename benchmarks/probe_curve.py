"""
Probe the checkpoints of pretraining runs, random weights and the log-mel spectrogram, and plot the scores.

    musicfm pretrain small_all_frames … --save_total_limit 20 --output_dir runs/small_all_frames
    python benchmarks/probe_curve.py --runs runs/small_all_frames --data data/pop909 --steps 500 1000 2000 4000

The probes are those of `musicfm finetune TASK/probe small/probe` on `--limit` songs of each split, and the scores are
for the validation songs. A probe reads the learned sum of all hidden states, or those of `--layers`. Intervals are
those of the bootstrap over songs, 95 %. A curve falls where the difference between its last and an earlier checkpoint
is negative, and its interval, corrected by Holm's procedure for all such differences, excludes 0.

The probes are recorded in `--store`, and not repeated. The script writes `probe_curve.json`, `.md` and `.png` beside
that folder.
"""

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from probes import parse, train_probe
from reporting import RESULTS, markdown_table, write_report
from run_store import RunStore
from tasks_table import STUDY

from musicfm_hf.evaluation.bootstrap import correct_intervals, percentile_interval
from musicfm_hf.evaluation.scoring import difference_samples
from musicfm_hf.finetuning.run import read_split
from musicfm_hf.tasks import get_task, known_tasks
from musicfm_hf.training.files import complete_file
from musicfm_hf.training.records import environment

LOG_MEL = "log-mel with context"
SUM = "learned sum"
TASKS = list(STUDY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of `musicfm pretrain`")
    parser.add_argument("--data", required=True, help="data set made by `musicfm prepare`")
    parser.add_argument("--tasks", nargs="+", choices=known_tasks(), default=TASKS)
    parser.add_argument("--layers", type=int, nargs="*", default=[], help="hidden states; the learned sum by default")
    parser.add_argument("--steps", type=int, nargs="+", help="checkpoints to probe; all by default")
    parser.add_argument("--limit", type=int, default=60, help="number of songs in each split")
    parser.add_argument("--cache", default=".features", help="folder for features; those of a probed checkpoint go")
    parser.add_argument("--store", type=Path, default=RESULTS / "probe_curve", help="folder for recorded probes")
    arguments = parser.parse_args()
    store = RunStore(arguments.store)
    for run in arguments.runs:
        probe_run(run, store, arguments)
    report(store, arguments.store.with_suffix(".json"))


def probe_run(run: Path, store: RunStore, arguments: argparse.Namespace) -> None:
    """Train and record the probes of a run that the store lacks: of random weights first, then of each checkpoint."""
    saved = sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))
    steps = [step for step in saved if arguments.steps is None or step in arguments.steps]
    if not steps:
        raise SystemExit(f"{run} has no checkpoint of {arguments.steps or 'any step'}, only of {saved or 'none'}.")
    first = run / f"checkpoint-{steps[0]}"
    probe(store, arguments, name=LOG_MEL, model=first, row=LOG_MEL, flags=["--log_mel", "true"])
    for step in (0, *steps):
        model, more = (run / f"checkpoint-{step}", []) if step else (first, ["--random_encoder", "true"])
        for layer in arguments.layers or [None]:
            reads = ["--weighted_layer_sum", "true"] if layer is None else ["--layer", str(layer)]
            row = f"{run.name}, {SUM if layer is None else f'hidden state {layer}'}"
            probe(store, arguments, name=f"{row}, step {step}", model=model, row=row, flags=[*reads, *more], step=step)
        shutil.rmtree(Path(arguments.cache) / run.name, ignore_errors=True)


def probe(
    store: RunStore,
    arguments: argparse.Namespace,
    *,
    name: str,
    model: Path,
    row: str,
    flags: list[str],
    step: int = 0,
) -> None:
    """Train and record the probes of one model for all tasks, unless they are recorded."""
    for task in arguments.tasks:
        if store.read_run(f"{task}, {name}") is None:
            cache = Path(arguments.cache) / model.parent.name
            results = score(task, model, [*flags, "--cache", str(cache)], arguments)
            recorded = results | {"task": task, "row": row, "step": step, "hours": hours(model) if step else 0.0}
            store.write({f"{task}, {name}": recorded})
            print(f"{task}, {name}: {results['scores']['validation'][get_task(task).metric]['mean']:.4f}", flush=True)


def hours(checkpoint: Path) -> float:
    """Return how many hours of music a pretraining run had seen when it saved a checkpoint."""
    return json.loads((checkpoint / "data_0.json").read_text(encoding="utf-8"))["audio_seconds"] / 3600


def score(task: str, model: Path, flags: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the results of a probe, with the scores of the validation songs."""
    words = ["--model", str(model), "--data", arguments.data, "--seed", "1"]
    words += ["--limit", str(arguments.limit), "--report_to", "none"]
    words += ["--output_dir", str(arguments.store / f".{task}"), "--save_strategy", "no", "--eval_strategy", "no"]
    words += ["--load_best_model_at_end", "false", "--early_stopping_patience", "0", "--disable_tqdm", "true"]
    settings, training = parse(task, "probe", [*words, *flags])
    splits = {split: read_split(settings, split) for split in ("train", "validation")}
    return train_probe(settings, training, splits).results


def report(store: RunStore, path: Path) -> None:
    """Write the curves and the differences of all recorded probes."""
    recorded = store.read()
    curves: dict[str, dict[str, Any]] = {}
    samples = {}
    for task in sorted({run["task"] for run in recorded.values()}, key=TASKS.index):
        metric = get_task(task).metric
        of_task = [run for run in recorded.values() if run["task"] == task]
        log_mel = next(validation_score(run) for run in of_task if run["row"] == LOG_MEL)
        curves[task] = {"score": metric, "log_mel_with_context": log_mel, "rows": {}, "changes": {}}
        for row in dict.fromkeys(run["row"] for run in of_task if run["row"] != LOG_MEL):
            points = sorted((run for run in of_task if run["row"] == row), key=lambda run: run["step"])
            curves[task]["rows"][row] = [
                {"step": run["step"], "hours": run["hours"]} | validation_score(run) for run in points
            ]
            samples |= {(task, row, step): drawn for step, drawn in changes(task, points).items()}
    corrected = correct_intervals({str(key): drawn for key, (_, drawn) in samples.items()})
    for (task, row, step), (mean, drawn) in samples.items():
        value = {"mean": mean, "interval": percentile_interval(drawn)} | corrected[str((task, row, step))]
        curves[task]["changes"].setdefault(row, {})[str(step)] = value
    settings = {"songs": max(run["settings"]["limit"] or 0 for run in recorded.values())}
    results = {"curves": curves, "settings": settings} | environment()
    write_report(path, results, "\n".join(tables(curves)))
    draw(curves, path.with_suffix(".png"))


def validation_score(run: dict[str, Any]) -> dict[str, Any]:
    """Return the mean score of the validation songs, and its interval."""
    summary = run["scores"]["validation"][get_task(run["task"]).metric]
    return {"mean": summary["mean"], "interval": summary["interval"]}


def changes(task: str, points: list[dict[str, Any]]) -> dict[int, tuple[float, Any]]:
    """Return the differences between the last checkpoint and each earlier one, with bootstrap samples, by step."""
    *earlier, last = points
    metric = get_task(task).metric
    scores = [point["scores_of_songs"]["validation"] for point in (*earlier, last)]
    return {
        point["step"]: difference_samples(task, [before], [scores[-1]], metric)
        for point, before in zip(earlier, scores, strict=False)
        if point["step"]
    }


def tables(curves: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the table of scores, and the table of changes."""
    rows = []
    for task, curve in curves.items():
        for row, points in curve["rows"].items():
            rows += [[f"{task}, {curve['score']}", row, *_score_cells(point)] for point in points]
        low, high = curve["log_mel_with_context"]["interval"]
        mean = curve["log_mel_with_context"]["mean"]
        rows.append([f"{task}, {curve['score']}", LOG_MEL, "", "", f"{mean:.3f} ({low:.3f} to {high:.3f})"])
    falls: list[list[str]] = []
    for task, curve in curves.items():
        for row, values in curve["changes"].items():
            falls += [
                [f"{task}, {curve['score']}", row, *_change_cells(step, value)] for step, value in values.items()
            ]
    return [
        markdown_table(["task, score", "probe of", "step", "hours", "score (95 % interval)"], rows),
        markdown_table(["task, score", "probe of", "last step minus step", "mean", "corrected interval"], falls),
    ]


def _score_cells(point: dict[str, Any]) -> Iterable[str]:
    low, high = point["interval"]
    return str(point["step"]), f"{point['hours']:.1f}", f"{point['mean']:.3f} ({low:.3f} to {high:.3f})"


def _change_cells(step: str, value: dict[str, Any]) -> Iterable[str]:
    low, high = value["corrected_interval"]
    return step, f"{value['mean']:+.3f}", f"{low:+.3f} to {high:+.3f}"


def draw(curves: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Draw a panel for each task."""
    figure = Figure(figsize=(4.2 * len(curves), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (task, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for row, points in curve["rows"].items():
            seen, means = [point["hours"] for point in points], [point["mean"] for point in points]
            low, high = zip(*(point["interval"] for point in points), strict=True)
            (line,) = axes.plot(seen, means, marker="o", label=row)
            axes.fill_between(seen, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.axhline(curve["log_mel_with_context"]["mean"], color="gray", linestyle="--", label=LOG_MEL)
        axes.set(title=f"{task}: {curve['score']}", xlabel="hours of music in pretraining (0: random weights)")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    with complete_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    main()
