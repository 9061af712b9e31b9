"""
Score saved models or adapters on whole songs of a prepared data set.

    python recipes/evaluate.py runs/chord runs/chord-lora --data data/pop909 --split test
    python recipes/evaluate.py runs/beat --data data/gtzan --output results/beat_gtzan.json --window-seconds 12

Prints a row for each song and averages with 95 % bootstrap intervals over songs; of several models on one task, also
the paired difference of each to the first. `--output` writes all of it.
"""

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from musicfm_hf.data.catalogue import describe_source
from musicfm_hf.data.examples import with_annotation
from musicfm_hf.data.labelled_dataset import load_songs
from musicfm_hf.evaluation.scoring import paired_difference, score_song, scores_with_intervals
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.heads import song_logits
from musicfm_hf.tasks import get_task
from musicfm_hf.training.records import environment, recorded, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders or repositories of models or adapters")
    parser.add_argument("--data", required=True, help="data set of recipes/prepare.py")
    parser.add_argument("--split", default="test", help="train, validation or test")
    parser.add_argument("--window-seconds", type=float, default=30.0, help="window in which songs are encoded")
    parser.add_argument("--batch-size", type=int, default=8, help="windows encoded at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit", type=int, help="so many songs only")
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    try:
        names = [recorded({"model": folder})["model"] for folder in arguments.models]
        if len(set(names)) < len(names):
            raise ValueError(f"Two models have the same name in {', '.join(names)}: give relative paths, each once.")
        results = {folder: evaluate(folder, arguments) for folder in arguments.models}
        first = results[arguments.models[0]]
        for folder, found in results.items():
            print_scores(folder, found)
            if found is not first and found["task"] == first["task"]:
                compare(arguments.models[0], first, found)
    except (ValueError, OSError) as error:
        raise SystemExit(f"Not evaluated: {error}") from error
    if arguments.output is not None:
        music = describe_source(arguments.data)
        settings = {"data": arguments.data, "split": arguments.split, "window_seconds": arguments.window_seconds}
        named = dict(zip(names, results.values(), strict=True))
        write_json(arguments.output, recorded(settings) | {"music": music, "models": named} | environment())


def evaluate(folder: str, arguments: argparse.Namespace) -> dict:
    """Scores of one model."""
    model = load_annotators([folder])[folder].to(arguments.device)
    config = model.config
    songs = load_songs(arguments.data, arguments.split)
    songs = with_annotation(songs, config.task, f"{arguments.data} ({arguments.split})")[: arguments.limit]
    settings = WindowSettings(window_seconds=arguments.window_seconds, batch_size=arguments.batch_size)
    logits = tqdm(song_logits(model, songs, settings), total=len(songs), unit="song", desc=folder)
    found = {song.id: score_song(config, song, own) for song, own in logits}
    scores = {song.id: found[song.id] for song in songs}
    summary = scores_with_intervals(config, scores)
    return {"task": config.task, "metric": get_task(config.task).metric, "scores": summary, "songs": scores}


def compare(name: str, first: dict, found: dict) -> None:
    """Adds and shows the difference to the first model."""
    try:
        difference = paired_difference(first["task"], [first["songs"]], [found["songs"]], first["metric"])
    except ValueError as error:
        print(f"  not compared with {name}: {error}")
        return
    found["difference"] = difference
    low, high = difference["interval"]
    print(f"  {found['metric']} beside {name}: {difference['mean']:+.3f} [{low:+.3f}, {high:+.3f}]")


def print_scores(folder: str, found: dict) -> None:
    print(f"\n{folder}: {found['task']}, {len(found['songs'])} songs")
    if get_task(found["task"]).set_scores is None:
        for name, row in found["songs"].items():
            print(f"  {name:24} " + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    for tag, value in found["scores"][found["metric"]].get("tags", {}).items():
        print(f"  {tag:24} {found['metric']} {value:.3f}")
    if skipped := found["scores"][found["metric"]].get("skipped"):
        print(f"  not scored, as all songs have it or none: {', '.join(skipped)}")
    for name, value in found["scores"].items():
        low, high = value.get("interval", (float("nan"),) * 2)
        print(f"  {name:24} {value['mean']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if "interval" in value else ""))


if __name__ == "__main__":
    main()
