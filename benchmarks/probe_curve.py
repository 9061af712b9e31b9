"""
What a minute of pretraining is worth: a probe on every checkpoint of a run, on random weights, and on log-mel.

    python recipes/pretrain.py recipes/pretrain/small_kmeans.yaml … --save_total_limit 20 --output_dir runs/small
    python benchmarks/probe_curve.py --run runs/small --data data/pop909 --tasks chord key --layer 2

Probes are those of recipes/TASK/probe.yaml and recipes/small/probe.yaml on `--limit` songs of each split; scores are
those of validation songs. Writes `benchmarks/results/probe_curve.json` and `.png`.
"""

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from transformers import set_seed

from musicfm_hf.finetuning import finetune, read_split
from musicfm_hf.finetuning_settings import FinetuningArguments, TaskArguments
from musicfm_hf.tasks import TASKS, task_module
from musicfm_hf.training import environment, parse_recipe, write_json

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "benchmarks/results/probe_curve.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="of recipes/pretrain.py, with checkpoints")
    parser.add_argument("--data", required=True, help="data set of recipes/prepare.py")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["chord"])
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--steps", type=int, nargs="+", help="of which checkpoints; all by default")
    parser.add_argument("--limit", type=int, default=50, help="songs of each split")
    parser.add_argument("--cache", default=".features")
    arguments = parser.parse_args()
    history = json.loads((arguments.run / "results.json").read_text())
    minutes_per_step = history["seconds"] / 60 / history["training"]["max_steps"]
    found = sorted(int(path.name.split("-")[1]) for path in arguments.run.glob("checkpoint-*"))
    steps = [step for step in found if arguments.steps is None or step in arguments.steps]

    curves: dict[str, dict] = {}
    for task in arguments.tasks:
        random = probe(arguments, task, arguments.run, ["--random_encoder", "true"])
        points = [(0.0, random)]
        for step in steps:
            score = probe(arguments, task, arguments.run / f"checkpoint-{step}", [])
            points.append((step * minutes_per_step, score))
        log_mel = probe(arguments, task, arguments.run, ["--log_mel", "true"])
        curves[task] = {"score": task_module(task).METRIC, "points": points, "log_mel_with_context": log_mel}
        settings = {"layer": arguments.layer, "songs": arguments.limit, "steps": steps}
        write_json(TARGET, {"curves": curves, "settings": settings} | environment())
        draw(curves)


def probe(arguments: argparse.Namespace, task: str, model: Path, flags: list[str]) -> float:
    """The score on validation songs."""
    recipes = [str(ROOT / "recipes" / folder / "probe.yaml") for folder in (task, "small")]
    words = ["--model", str(model), "--data", arguments.data, "--layer", str(arguments.layer), "--seed", "1"]
    words += ["--limit", str(arguments.limit), "--cache", arguments.cache, "--report_to", "none"]
    words += ["--output_dir", str(arguments.run / f"probe_{task}"), "--save_strategy", "no", "--eval_strategy", "no"]
    words += ["--load_best_model_at_end", "false", "--early_stopping_patience", "0", "--disable_tqdm", "true"]
    settings, training = parse_recipe((TaskArguments, FinetuningArguments), [*recipes, *words, *flags])
    set_seed(training.seed)
    splits = {split: read_split(settings, split) for split in ("train", "validation")}
    score = finetune(settings, training, splits).results["scores"]["validation"]
    print(f"{task}, {model.name} {' '.join(flags)}: {score[task_module(task).METRIC]['mean']:.4f}", flush=True)
    return score[task_module(task).METRIC]["mean"]


def draw(curves: dict[str, dict]) -> None:
    figure = Figure(figsize=(5.2 * len(curves), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (task, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        minutes, scores = zip(*curve["points"], strict=True)
        axes.plot(minutes, scores, marker="o", label="pretrained (random weights at 0)")
        axes.axhline(curve["log_mel_with_context"], color="gray", linestyle="--", label="log-mel with context")
        axes.set(title=f"{task}: {curve['score']} of a probe", xlabel="minutes of pretraining")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(TARGET.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
