"""
Score tools that other people wrote on a prepared data set, beside models of this package.

    python benchmarks/peers.py --data data/pop909 --environments peers --ours runs/chord runs/beat
    python benchmarks/peers.py --data data/pop909 --environments peers --methods Chordino "Essentia, key"
    python benchmarks/peers.py --table  # only write the table of recorded scores

The script installs each tool with pip in an environment of its own, with pinned versions, and analyzes the songs of a
split there, as mono wav files at 44.1 kHz. The labels of the tool are translated (`peer_methods.py`), and its events
are scored with the code and the annotations of `musicfm evaluate`. What a tool has settings for is scored twice: with
its defaults, and with the setting that is best on the validation songs; for beats, this is a constant shift in time.

Results of tools are kept in `--environments`, song by song, so that an interrupted command can be repeated. Tools that
cannot be installed or started here are recorded with the reason, and a song that a tool cannot analyze counts as
without events. `--ours` names runs of `musicfm finetune`: their folders, or their names in `results/runs.json`. If a
folder has no scores for these songs, its model is evaluated. It also takes files that `musicfm evaluate --output_file`
wrote for these songs; `--trained_on` then names the data set of the training songs.

Scores of songs are recorded in `results/peers`. From all that is recorded there, for any number of data sets, the
script writes `peers.json` and `peers.md`, with intervals over songs, and paired differences with intervals after Holm.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peer_environments import PeerUnavailableError, analyze, install
from peer_methods import METHODS, PEERS, Method
from peers_table import write_table
from reporting import RESULTS
from run_store import RunStore

from musicfm_hf import MusicFMConfig
from musicfm_hf.data.examples import with_annotation
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.data.labeled_dataset import load_songs, split_names
from musicfm_hf.evaluation.evaluate import evaluate
from musicfm_hf.evaluation.scoring import scores_with_intervals
from musicfm_hf.tasks import get_task
from musicfm_hf.training.records import environment

VALIDATION = "validation"


def main() -> None:
    arguments = parse()
    store = RunStore(arguments.store)
    if not arguments.table:
        data = data_name(arguments.data)
        if runs := our_runs(arguments, data):
            store.write({f"{data}, {name}": run for name, run in runs.items()})
        for name in arguments.methods:
            print(f"{name} …", flush=True)
            runs = score_method(name, METHODS[name], arguments)
            store.write({f"{data}, {row}": {"row": row} | run | environment() for row, run in runs.items()})
            for row, run in runs.items():
                print(f"  {row}: {summary(run)}", flush=True)
    write_table(arguments.store)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="data set made by `musicfm prepare`")
    parser.add_argument("--split", default="test", help="train, validation or test")
    parser.add_argument("--environments", type=Path, help="folder for environments, audio and results of the tools")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD",
                        help=f"estimates to score; all by default: {', '.join(METHODS)}")  # fmt: skip
    parser.add_argument("--ours", nargs="+", default=[], metavar="RUN",
                        help="runs of `musicfm finetune`, or files of `musicfm evaluate`, to compare")  # fmt: skip
    parser.add_argument("--trained_on", help="data set that the models in files of `musicfm evaluate` are trained on")
    parser.add_argument("--requirement", nargs="+", default=[], metavar="PACKAGE=REQUIREMENT",
                        help="what pip installs for a package, such as skey=/home/me/skey")  # fmt: skip
    parser.add_argument("--limit", type=int, help="analyze only this many songs of each split")
    parser.add_argument("--no_tuning", action="store_true", help="do not choose settings on validation songs")
    parser.add_argument("--no_run", action="store_true", help="analyze nothing; score the songs that are analyzed")
    parser.add_argument("--store", type=Path, default=RESULTS / "peers", help="folder for recorded scores")
    parser.add_argument("--table", action="store_true", help="only write the table of recorded scores")
    arguments = parser.parse_args()
    if not arguments.table and not (arguments.data and arguments.environments):
        parser.error("without --table, --data and --environments are needed")
    return arguments


def data_name(data: str) -> str:
    """Return the name of a data set."""
    info = Path(data) / "info.json"
    return str(json.loads(info.read_text(encoding="utf-8"))["name"]) if info.is_file() else Path(data).name


def our_runs(arguments: argparse.Namespace, data: str) -> dict[str, dict[str, Any]]:
    """
    Return the runs in `--ours` with their scores on the songs of the split.

    Raises:
        ValueError: a run has another form, or has no scores for these songs and no model that could be evaluated.
    """
    recorded = RunStore(RESULTS)
    runs = {}
    for name in arguments.ours:
        if name.endswith(".json"):
            runs |= evaluated_runs(Path(name), arguments, data)
            continue
        path = Path(name) / "results.json"
        run = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else recorded.read_run(name)
        if run is None:
            raise ValueError(f"--ours needs folders with results.json, or names of recorded runs, got {name!r}.")
        trained_on = (run.get("data") or {}).get("name") if "about" not in run else None
        scores = run["scores_of_songs"].get(arguments.split) if (trained_on or data) == data else None
        if scores is None:
            if not path.is_file():
                raise ValueError(f"The recorded run {name} has no scores on {data}: pass the folder of its model.")
            scores = evaluate(name, arguments.data, arguments.split, limit=arguments.limit)["songs"]
        runs[f"ours, {Path(name).name}"] = our_scores(run["task"], scores, arguments, data) | {
            "row": our_row(run),
            "ours": "about" not in run,
            "trained_on": trained_on,
            "about": run.get("command") or run.get("about") or Path(name).name,
            "training": {"seed": run.get("training", {}).get("seed")},
        }
    return runs


def evaluated_runs(path: Path, arguments: argparse.Namespace, data: str) -> dict[str, dict[str, Any]]:
    """
    Return the models in a file of `musicfm evaluate` for tasks that have peers.

    Raises:
        ValueError: the file has scores of other songs.
    """
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    ids = {song.id for song in load_songs(arguments.data, arguments.split)}
    runs = {}
    for place, result in evaluation["models"].items():
        if result["task"] not in {method.task for method in METHODS.values()}:
            continue
        if evaluation.get("effects") or not set(result["songs"]) <= ids:
            raise ValueError(f"{path} is not for the unchanged songs of {arguments.data} ({arguments.split}).")
        model = Path(place)
        name = model.parent.name if model.name == result["task"] else model.name
        runs[f"ours, {name} {result['task']}"] = our_scores(result["task"], result["songs"], arguments, data) | {
            "row": f"ours, {name}",
            "ours": True,
            "trained_on": arguments.trained_on,
            "about": f"{name}, evaluated with `musicfm evaluate`",
        }
    return runs


def our_scores(
    task: str, scores: Mapping[str, Mapping[str, float]], arguments: argparse.Namespace, data: str
) -> dict[str, Any]:
    """Return what all our rows have: the scores with their intervals, and the environment."""
    return {
        "task": task,
        "data": data,
        "split": arguments.split,
        "scores": {arguments.split: scores_with_intervals(MusicFMConfig(task=task), scores)},
        "scores_of_songs": {arguments.split: scores},
    } | environment()


def our_row(run: Mapping[str, Any]) -> str:
    """Return the name of one of our rows: the method, and the initial weights if they are random."""
    if "about" in run:
        return f"baseline, {run['row']}"
    name = run.get("row") or run["method"]
    random = run["settings"].get("random_encoder") and "random" not in name
    return f"ours, {name}{' from random weights' if random else ''}"


def score_method(name: str, method: Method, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """
    Return the rows of a method with their scores, or one row with the reason for which it cannot be used here.

    Raises:
        ValueError: the data set has no songs with annotations for its task.
    """
    peer = PEERS[method.peer].with_requirements(arguments.requirement)
    about = {"task": method.task, "peer": method.peer, "about": method.about}
    about |= {"data": data_name(arguments.data), "split": arguments.split}
    songs = annotated_songs(arguments, method.task, arguments.split)
    try:
        tool = install(method.peer, peer, arguments.environments)
        results = analyze(tool, method.runner, songs[: arguments.limit], arguments.environments, not arguments.no_run)
        if not any("result" in result for result in results.values()) and not arguments.no_run:
            raise PeerUnavailableError(f"does not run: {next(iter(results.values()))['error']}")
    except PeerUnavailableError as error:
        return {name: about | {"reason": str(error), "scores": {}, "scores_of_songs": {}}}
    about |= {"version": tool.version, "packages": tool.packages, "songs": len(songs)}
    default, *others = method.choices
    rows = {name: scored(method, default, songs, results, arguments.split)}
    if others and rows[name]["scores"] and not arguments.no_tuning and VALIDATION in split_names(arguments.data):
        tuning = annotated_songs(arguments, method.task, VALIDATION)[: arguments.limit]
        found = analyze(tool, method.runner, tuning, arguments.environments, not arguments.no_run)
        if len(found) == len(tuning):
            best, means = best_choice(method, tuning, found)
            tuned = scored(method, best, songs, results, arguments.split)
            rows[f"{name} (tuned)"] = tuned | {"choice": best, "validation": means}
    return {row: about | run for row, run in rows.items() if run["scores"]}


def annotated_songs(arguments: argparse.Namespace, task: str, split: str) -> list[LabeledSong]:
    songs = load_songs(arguments.data, split)
    return with_annotation(songs, task, f"{arguments.data} ({split})")


def scored(
    method: Method, choice: str, songs: Sequence[LabeledSong], results: Mapping[str, Mapping[str, Any]], split: str
) -> dict[str, Any]:
    """Return the scores of the songs that have results, with averages and intervals."""
    analyzed = [song for song in songs if song.id in results]
    scores = {song.id: score_song(method, choice, song, results[song.id]) for song in analyzed}
    if not scores:
        return {"scores": {}, "scores_of_songs": {}}
    return {
        "choice": choice,
        "errors": {song.id: results[song.id]["error"] for song in analyzed if "error" in results[song.id]},
        "scores": {split: scores_with_intervals(MusicFMConfig(task=method.task), scores)},
        "scores_of_songs": {split: scores},
    }


def score_song(method: Method, choice: str, song: LabeledSong, result: Mapping[str, Any]) -> dict[str, float]:
    """Score what a tool found in a song. If it failed, it found silence."""
    spec = get_task(method.task)
    read: Callable[[Any, LabeledSong], Any] = method.choices[choice]
    events = read(result["result"], song) if "result" in result else spec.silence(song.duration)
    scores = spec.score_song(spec.annotation_of(song), events)
    return {name: value for name, value in scores.items() if name not in method.omitted}


def best_choice(
    method: Method, songs: Sequence[LabeledSong], results: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, float]]:
    """Return the setting with the best mean of the main score of the task, the first of several, and all means."""
    metric = get_task(method.task).metric
    means = {
        choice: float(np.mean([score_song(method, choice, song, results[song.id])[metric] for song in songs]))
        for choice in method.choices
    }
    return max(means, key=means.__getitem__), means


def summary(run: Mapping[str, Any]) -> str:
    """Return the scores of a row, or the reason for which it has none, as one line."""
    if "reason" in run:
        return str(run["reason"])
    [scores] = run["scores"].values()
    values = (f"{name} {value['mean']:.3f}" for name, value in scores.items())
    return f"{', '.join(values)} ({len(run['scores_of_songs'][run['split']])} of {run['songs']} songs)"


if __name__ == "__main__":
    main()
