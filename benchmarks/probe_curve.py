"""
Probe the checkpoints of a pretraining run, random weights and the log-mel spectrogram, and plot the scores.

    musicfm pretrain small_kmeans … --save_total_limit 20 --output_dir runs/small
    python benchmarks/probe_curve.py --run runs/small --data data/pop909 --tasks chord key --layers 2 4

The probes are those of `musicfm finetune TASK/probe small/probe` on `--limit` songs of each split, and the scores are
for the validation songs. How much a score falls is the difference between the last and the first checkpoint, by the
paired bootstrap over songs, with Holm's correction for all curves. The script writes `probe_curve.json` and
`probe_curve.png`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from probes import parse, train_probe
from reporting import RESULTS

from musicfm_hf.evaluation.bootstrap import Difference, correct_intervals
from musicfm_hf.evaluation.scoring import difference_of_systems
from musicfm_hf.finetuning.run import read_split
from musicfm_hf.tasks import get_task, known_tasks
from musicfm_hf.training.files import complete_file, write_json
from musicfm_hf.training.records import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of `musicfm pretrain`, with checkpoints")
    parser.add_argument("--data", required=True, help="data set made by `musicfm prepare`")
    parser.add_argument("--tasks", nargs="+", choices=known_tasks(), default=["chord"])
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="hidden states to probe")
    parser.add_argument("--steps", type=int, nargs="+", help="checkpoints to probe; all by default")
    parser.add_argument("--limit", type=int, default=50, help="number of songs in each split")
    parser.add_argument("--cache", default=".features", help="folder for features of frozen encoders")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "probe_curve.json")
    arguments = parser.parse_args()
    saved = sorted(int(path.name.split("-")[1]) for path in arguments.run.glob("checkpoint-*"))
    steps = [step for step in saved if arguments.steps is None or step in arguments.steps]
    curves: dict[str, dict] = {}
    songs: dict[str, dict[int, list]] = {}
    for task in arguments.tasks:
        curves[task], songs[task] = curve(task, steps, arguments)
        settings = {"songs": arguments.limit, "steps": steps}
        results = {"curves": curves, "falls": falls(curves, songs), "settings": settings} | environment()
        write_json(arguments.output_file, results)
        draw(curves, arguments.output_file.with_suffix(".png"))


def curve(task: str, steps: list[int], arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[int, list]]:
    """
    Return the scores of each layer as `(minutes of pretraining, score)`, with random weights at 0, and the score of
    the spectrogram; and, for each layer, the scores of songs at each of these points.
    """
    results = json.loads((arguments.run / "results.json").read_text())
    minutes_per_step = results["seconds"] / 60 / results["training"]["max_steps"]
    metric = get_task(task).metric
    layers: dict[int, list[tuple[float, float]]] = {}
    songs: dict[int, list] = {}
    for layer in arguments.layers:
        flags = ["--layer", str(layer)]
        points = [probe(task, arguments.run, [*flags, "--random_encoder", "true"], arguments)]
        points += [probe(task, arguments.run / f"checkpoint-{step}", flags, arguments) for step in steps]
        minutes = [step * minutes_per_step for step in (0, *steps)]
        layers[layer] = [
            (minute, point["scores"]["validation"][metric]["mean"])
            for minute, point in zip(minutes, points, strict=True)
        ]
        songs[layer] = [point["scores_of_songs"]["validation"] for point in points]
    log_mel = probe(task, arguments.run, ["--log_mel", "true"], arguments)["scores"]["validation"][metric]["mean"]
    return {"score": metric, "layers": layers, "log_mel_with_context": log_mel}, songs


def falls(curves: dict[str, dict[str, Any]], songs: dict[str, dict[int, list]]) -> dict[str, dict[int, dict]]:
    """
    Return task → layer → the score of the last checkpoint minus that of the first: the `mean` difference, its 95 %
    `interval`, and what [`correct_intervals`] returns for all of them. Layers with fewer than two are left out.
    """
    compared: dict[tuple[str, int], Difference] = {}
    for task, of_task in curves.items():
        for layer, points in songs[task].items():
            if len(points) < 3:
                continue
            compared[task, layer] = difference_of_systems(task, [points[1]], [points[-1]], of_task["score"])
    corrected = correct_intervals({f"{task} {layer}": value for (task, layer), value in compared.items()})
    by_task: dict[str, dict[int, dict]] = {task: {} for task in curves}
    for (task, layer), value in compared.items():
        by_task[task][layer] = value.summary() | corrected[f"{task} {layer}"]
    return by_task


def probe(task: str, model: Path, flags: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the results of a probe, which has scores for validation songs only."""
    words = ["--model", str(model), "--data", arguments.data, "--seed", "1"]
    words += ["--limit", str(arguments.limit), "--cache", arguments.cache, "--report_to", "none"]
    words += ["--output_dir", str(arguments.run / f"probe_{task}"), "--save_strategy", "no", "--eval_strategy", "no"]
    words += ["--load_best_model_at_end", "false", "--early_stopping_patience", "0", "--disable_tqdm", "true"]
    settings, training = parse(task, "probe", [*words, *flags])
    splits = {split: read_split(settings, split) for split in ("train", "validation")}
    results = train_probe(settings, training, splits).results
    mean = results["scores"]["validation"][get_task(task).metric]["mean"]
    print(f"{task}, {model.name} {' '.join(flags)}: {mean:.4f}", flush=True)
    return results


def draw(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw a panel for each task."""
    figure = Figure(figsize=(5.2 * len(curves), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (task, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for layer, points in curve["layers"].items():
            axes.plot(*zip(*points, strict=True), marker="o", label=f"hidden state {layer} (random weights at 0)")
        axes.axhline(curve["log_mel_with_context"], color="gray", linestyle="--", label="log-mel with context")
        axes.set(title=f"{task}: {curve['score']} of a probe", xlabel="minutes of pretraining")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with complete_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    main()
