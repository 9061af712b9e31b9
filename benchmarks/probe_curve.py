"""
What a minute of pretraining is worth: probes on every checkpoint of a run, on random weights, and on log-mel.

    python recipes/pretrain.py recipes/pretrain/small_kmeans.yaml … --save_total_limit 20 --output_dir runs/small
    python benchmarks/probe_curve.py --run runs/small --data data/pop909 --tasks chord key --layers 2 4

Probes are those of recipes/TASK/probe.yaml and recipes/small/probe.yaml on `--limit` songs of each split; scores are
those of validation songs. Writes `benchmarks/results/probe_curve.json` and `.png`.
"""

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from transformers import set_seed

from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.run import cache_all_layers, finetune, read_split
from musicfm_hf.tasks import TASKS, get_task
from musicfm_hf.training.arguments import parse_recipe
from musicfm_hf.training.records import environment, write_json

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "benchmarks/results/probe_curve.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="of recipes/pretrain.py, with checkpoints")
    parser.add_argument("--data", required=True, help="data set of recipes/prepare.py")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["chord"])
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="hidden states that are probed")
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
        layers = {}
        for layer in arguments.layers:
            reader = ["--layer", str(layer)]
            points = [(0.0, probe(arguments, task, arguments.run, [*reader, "--random_encoder", "true"]))]
            for step in steps:
                score = probe(arguments, task, arguments.run / f"checkpoint-{step}", reader)
                points.append((step * minutes_per_step, score))
            layers[layer] = points
        log_mel = probe(arguments, task, arguments.run, ["--log_mel", "true"])
        curves[task] = {"score": get_task(task).metric, "layers": layers, "log_mel_with_context": log_mel}
        settings = {"songs": arguments.limit, "steps": steps}
        write_json(TARGET, {"curves": curves, "settings": settings} | environment())
        draw(curves)


def probe(arguments: argparse.Namespace, task: str, model: Path, flags: list[str]) -> float:
    """The score on validation songs; of a model all layers are computed in one pass, and kept."""
    recipes = [str(ROOT / "recipes" / folder / "probe.yaml") for folder in (task, "small")]
    words = ["--model", str(model), "--data", arguments.data, "--seed", "1"]
    words += ["--limit", str(arguments.limit), "--cache", arguments.cache, "--report_to", "none"]
    words += ["--output_dir", str(arguments.run / f"probe_{task}"), "--save_strategy", "no", "--eval_strategy", "no"]
    words += ["--load_best_model_at_end", "false", "--early_stopping_patience", "0", "--disable_tqdm", "true"]
    settings, training = parse_recipe((TaskArguments, FinetuningArguments), [*recipes, *words, *flags])
    splits = {split: read_split(settings, split) for split in ("train", "validation")}
    if not settings.log_mel:
        cache_all_layers(settings, training, splits)
    set_seed(training.seed)
    score = finetune(settings, training, splits).results["scores"]["validation"]
    print(f"{task}, {model.name} {' '.join(flags)}: {score[get_task(task).metric]['mean']:.4f}", flush=True)
    return score[get_task(task).metric]["mean"]


def draw(curves: dict[str, dict]) -> None:
    figure = Figure(figsize=(5.2 * len(curves), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (task, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for layer, points in curve["layers"].items():
            axes.plot(*zip(*points, strict=True), marker="o", label=f"hidden state {layer} (random weights at 0)")
        axes.axhline(curve["log_mel_with_context"], color="gray", linestyle="--", label="log-mel with context")
        axes.set(title=f"{task}: {curve['score']} of a probe", xlabel="minutes of pretraining")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(TARGET.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
