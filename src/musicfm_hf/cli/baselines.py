"""
Score methods without a trained encoder, as baselines for a model, on whole songs of a prepared data set.

    musicfm baselines --data data/pop909 --split test --output_file results/baselines.json
    musicfm baselines --data data/pop909 --split test --tasks structure tagging

beat: librosa's beat tracker, with a downbeat on every fourth beat from the first. chord: chroma templates between
annotated and between tracked beats. key: Krumhansl's profiles. structure: only the start and the end of the song, a
boundary every eight annotated bars, and the second annotator (column `sections_2`). tagging: the frequency of each tag
in the training songs.

The command prints averages with 95 % bootstrap intervals over songs. `--output_file` saves them and the scores of each
song in the format of `musicfm evaluate`.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ..evaluation.baselines import score_data_set
from ..tasks import TASKS
from ..training.files import write_json
from ..training.records import environment, strip_absolute_paths
from .evaluate import format_interval
from .flags import command_parser, positive, rename_flags, user_errors


def main(argv: Sequence[str]) -> None:
    """Score the baselines, then print and save their scores."""
    arguments = parse(argv)
    with user_errors("Not scored"):
        results = score_data_set(
            arguments.data, arguments.split, arguments.tasks, arguments.num_workers, arguments.limit
        )
    for name, result in results.items():
        print(f"\n{result['task']}, {name}: {result['about']}; {len(result['songs'])} songs")
        for score, value in result["scores"].items():
            print(f"  {score:24} {value['mean']:.3f}{format_interval(value)}")
    if arguments.output_file is not None:
        settings = strip_absolute_paths({"data": arguments.data, "split": arguments.split})
        report = settings | {"models": results, "librosa": version("librosa")} | environment()
        write_json(arguments.output_file, report)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("baselines", __doc__)
    parser.add_argument("--data", required=True, help="data set that `musicfm prepare` wrote, or a Hub repository")
    parser.add_argument("--split", default="test", help="train, validation or test")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="tasks to score; by default all with annotations")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that analyze audio; 0 for none")
    parser.add_argument("--limit", type=positive, help="maximum number of songs to score for each task")
    parser.add_argument("--output_file", type=Path, help="JSON file for the scores")
    return parser.parse_args(rename_flags(argv, {"--output": "--output_file"}))
