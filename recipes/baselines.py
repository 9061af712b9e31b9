"""
Score what needs no trained encoder on whole songs of a prepared data set: what a model has to be better than.

    python recipes/baselines.py --data data/pop909 --split test --output results/baselines.json
    python recipes/baselines.py --data data/pop909 --split test --tasks structure tagging

beat: librosa's beat tracker, every fourth beat from the first taken for a downbeat. chord: chroma templates between
true and between tracked beats. key: Krumhansl's profiles. structure: start and end alone, a boundary every eight true
bars, and the second annotator (column `sections_2`). tagging: how frequent each tag is in training songs.

Prints averages with 95 % bootstrap intervals over songs; `--output` writes them, and the scores of each song, as
recipes/evaluate.py does.
"""

import argparse
from importlib.metadata import version
from pathlib import Path

from musicfm_hf.data.examples import annotation_of
from musicfm_hf.data.labelled_dataset import load_songs
from musicfm_hf.evaluation.baselines import need_training_songs, score_baselines
from musicfm_hf.tasks import TASKS
from musicfm_hf.training.records import environment, recorded, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set of recipes/prepare.py")
    parser.add_argument("--split", default="test", help="train, validation or test")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="by default all that songs are annotated for")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that listen; 0 listens in this one")
    parser.add_argument("--limit", type=int, help="so many songs of each task only")
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    try:
        songs = load_songs(arguments.data, arguments.split)
        known = [task for task in TASKS if any(annotation_of(song, task) is not None for song in songs)]
        tasks = arguments.tasks or known
        training_songs = load_songs(arguments.data, "train") if need_training_songs(tasks) else []
        where = f"{arguments.data} ({arguments.split})"
        found = score_baselines(tasks, songs, training_songs, where, arguments.num_workers, arguments.limit)
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not scored: {error}") from error
    for name, result in found.items():
        print(f"\n{result['task']}, {name}: {result['about']}; {len(result['songs'])} songs")
        for score, value in result["scores"].items():
            low, high = value.get("interval", (None, None))
            print(f"  {score:24} {value['mean']:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]"))
    if arguments.output is not None:
        settings = recorded({"data": arguments.data, "split": arguments.split})
        write_json(arguments.output, settings | {"models": found, "librosa": version("librosa")} | environment())


if __name__ == "__main__":
    main()
