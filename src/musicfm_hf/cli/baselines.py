"""
Score methods without a trained encoder, as baselines for a model, on whole songs of a prepared data set.

    musicfm baselines --data data/pop909 --split test --output_file results/baselines.json
    musicfm baselines --data data/pop909 --split test --tasks structure tagging
    musicfm baselines --data data/versions --tasks same_song same_material

presence has no baselines. beat: librosa's beat tracker, with a downbeat on every fourth beat from the first, and the
same with all beats moved by the time that is best on validation songs. chord: chroma templates between annotated and
between tracked beats, for each vocabulary. key: Krumhansl's profiles. structure: only the start and the end of the
song, a boundary every eight annotated bars, and the second annotator (column `sections_2`). tagging: the frequency of
each tag in the training songs.

The retrieval tasks are scored only if `--tasks` names them, because they need several versions of each song:
same_song, same_material: MFCCs, and chroma compared in two ways, with the settings that are best on validation songs.

The command prints averages with 95 % bootstrap intervals over songs. `--output_file` saves them and the scores of each
song in the format of `musicfm evaluate`.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ..evaluation.baselines import score_data_set
from ..evaluation.retrieval_baselines import score_retrieval_baselines
from ..tasks import TASKS
from ..tasks.retrieval import RETRIEVAL_TASKS
from ..training.files import write_json
from ..training.records import environment, strip_absolute_paths
from .evaluate import format_interval
from .flags import command_parser, positive, rename_flags, user_errors


def main(argv: Sequence[str]) -> None:
    """Score the baselines, then print and save their scores."""
    arguments = parse(argv)
    with user_errors("Not scored"):
        options = (arguments.num_workers, arguments.limit)
        searches = [task for task in arguments.tasks or [] if task in RETRIEVAL_TASKS]
        others = [task for task in arguments.tasks or [] if task not in RETRIEVAL_TASKS]
        results = score_retrieval_baselines(arguments.data, arguments.split, searches, *options) if searches else {}
        if others or not searches:
            results |= score_data_set(arguments.data, arguments.split, others or None, *options)
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
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=[*TASKS, *RETRIEVAL_TASKS],
        help="tasks to score; by default all with annotations",
    )
    parser.add_argument("--num_workers", type=int, default=2, help="processes that analyze audio; 0 for none")
    parser.add_argument("--limit", type=positive, help="maximum number of songs to score for each task")
    parser.add_argument("--output_file", type=Path, help="JSON file for the scores")
    return parser.parse_args(rename_flags(argv, {"--output": "--output_file"}))
