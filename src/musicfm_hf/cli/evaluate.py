"""
Score saved models or adapters on whole songs of a prepared data set.

    musicfm evaluate runs/chord runs/chord-lora --data data/pop909 --split test
    musicfm evaluate runs/chord --data data/pop909 --effects 1.0
    musicfm evaluate runs/beat --data data/gtzan --output_file results/beat_gtzan.json --window_seconds 12
    musicfm evaluate runs/beat --data data/mine --calibrate

The command prints the scores of each song, and averages with 95 % bootstrap intervals over songs. For each further
model with the same task as the first, it also prints the paired difference from the first. `--output_file` saves all
results as JSON. Models with the same encoder share one pass through it.

It also compares the probabilities of beats, chords and so on with the share of them that is right. Models are
calibrated on the validation songs when they are fine-tuned. --calibrate does so with the songs of this command, and
saves the result in the configuration of the model, or of the head of an exported model: use it for models that were
trained without calibration, or with validation songs of your own kind of music.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..evaluation.evaluate import evaluate_models
from ..inference.embedding import WindowSettings
from ..tasks import load_task_file
from ..tasks.calibration import UNCERTAIN_SHARE
from ..training.files import write_json
from .flags import (
    add_device_flag,
    add_task_file_flag,
    add_window_flags,
    command_parser,
    positive,
    rename_flags,
    user_errors,
)


def main(argv: Sequence[str]) -> None:
    """Evaluate the models, then save and print their scores."""
    arguments = parse(argv)
    settings = WindowSettings(None, arguments.window_seconds, arguments.overlap_seconds, arguments.batch_size)
    with user_errors("Not evaluated"):
        if arguments.output_file is not None and arguments.output_file.is_dir():
            raise ValueError(f"`--output_file` must name a file, and {arguments.output_file} is a folder.")
        for path in arguments.task_file:
            load_task_file(path)
        report = evaluate_models(
            arguments.models,
            arguments.data,
            arguments.split or ("test" if arguments.calibrate is None else "validation"),
            settings,
            arguments.device or str(PartialState().device),
            arguments.limit,
            arguments.effects,
            arguments.effects_seed,
            arguments.calibrate,
        )
        if arguments.output_file is not None:
            write_json(arguments.output_file, report)
    for name, result in report["models"].items():
        print_scores(name, result)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders or repositories of models or adapters")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="DATA",
        help="data set that `musicfm prepare` wrote, or a Hub repository; the songs of several are scored together",
    )
    parser.add_argument("--split", help="train, validation or test; by default test, or validation with --calibrate")
    parser.add_argument("--limit", type=positive, help="maximum number of songs to score")
    effects = "share of the songs that get random audio effects, to test robustness, such as 1.0; 0 by default"
    parser.add_argument("--effects", type=float, default=0.0, help=effects)
    parser.add_argument("--effects_seed", type=int, default=0, help="seed of the effects; 0 by default")
    parser.add_argument(
        "--calibrate",
        nargs="?",
        type=float,
        const=UNCERTAIN_SHARE,
        metavar="SHARE",
        help="fit the probabilities of the models to these songs, and save that in their config.json; items that are "
        "right less often than this share (0.5 by default) are marked as uncertain",
    )
    parser.add_argument("--output_file", type=Path, help="JSON file for the scores")
    add_device_flag(parser)
    add_task_file_flag(parser)
    add_window_flags(parser, batch_size=8)
    return parser.parse_args(rename_flags(argv, {"--output": "--output_file"}))


def print_scores(name: str, result: dict[str, Any]) -> None:
    """Print the score of each song or tag, where the task has them, and the averages."""
    print(f"\n{name}: {result['task']}, {len(result['songs'])} songs")
    for song, scores in result["songs"].items():
        if result["metric"] in scores:
            print(f"  {song:24} " + "  ".join(f"{key} {value:.3f}" for key, value in scores.items()))
    main_score = result["scores"][result["metric"]]
    for tag, value in main_score.get("tags", {}).items():
        print(f"  {tag:24} {result['metric']} {value:.3f}")
    if skipped := main_score.get("skipped"):
        print(f"  not scored, because all songs or no songs have them: {', '.join(skipped)}")
    for score, value in result["scores"].items():
        print(f"  {score:24} {value['mean']:.3f}" + format_interval(value))
    for kind, summary in result.get("calibration", {}).items():
        print(f"  {kind + ':':24} {_describe_calibration(summary)}")
    if difference := result.get("difference"):
        print(
            f"  {difference['metric']} minus that of the first model: {difference['mean']:+.3f}"
            + format_interval(difference, "+")
        )
    elif "not_compared" in result:
        print(f"  not compared with the first model: {result['not_compared']}")


def _describe_calibration(summary: dict[str, Any]) -> str:
    """Return the calibration of the probabilities of a result in words."""
    text = f"probability {summary['probability']:.3f}, right {summary['right']:.3f}, "
    text += f"calibration error {summary['ece']['mean']:.3f}{format_interval(summary['ece'])}"
    if "ece_before" in summary:
        text += f", before {summary['ece_before']['mean']:.3f}"
    if (uncertain := summary.get("uncertain")) is not None:
        text += f"; {uncertain['share']:.1%} uncertain"
        text += f" ({uncertain['right']:.1%} of these are right)" if uncertain["share"] else ""
    return text


def format_interval(value: dict[str, Any], sign: str = "") -> str:
    """Return the interval of a score in brackets, a note that songs are too few for it, or an empty string."""
    if "interval" not in value:
        return ""
    low, high = value["interval"]
    if math.isnan(low):
        return " (too few songs for an interval)"
    return f" [{low:{sign}.3f}, {high:{sign}.3f}]"
