"""
Measure how well the annotations of models and of other tools agree on recordings without labels.

    musicfm prepare packages --output_dir data/packages --test_songs 60
    python benchmarks/agreement.py --songs data/packages/test.txt --environments peers

Every pair of estimates of a task is compared by the main score of the task, in both directions, on 30 s in the middle
of each recording. What tools agree on need not be right: the table shows whether ours is further from them than
they are from each other. Tools are installed and run as by `peers.py`, with their default settings.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import soundfile
from peer_environments import analyze, install
from peer_methods import METHODS, PEERS
from reporting import RESULTS, markdown_table, write_report
from tqdm.auto import tqdm

from musicfm_hf import SMALL_MODEL, SongAnnotation, annotate, load_annotators, load_audio
from musicfm_hf.audio.reading import audio_length
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.evaluation.bootstrap import bootstrap_interval
from musicfm_hf.tasks import get_task
from musicfm_hf.tasks.averages import drop_nan
from musicfm_hf.training.records import environment, strip_absolute_paths

RATE = 44100
OURS = "ours"
DEFAULT_METHODS = ("madmom, beats", "Essentia, beats", "librosa, beats", "Chordino", "madmom, deep chroma")
DEFAULT_METHODS += ("Essentia, key", "madmom, key")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", required=True, help="folder, list or data set of recordings")
    parser.add_argument("--environments", type=Path, required=True, help="folder for environments, audio and results")
    parser.add_argument("--models", nargs="+", default=[SMALL_MODEL], help="by default the small model")
    parser.add_argument("--methods", nargs="+", default=DEFAULT_METHODS, choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the excerpts")
    parser.add_argument("--limit", type=int, help="use only this many recordings")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "agreement.json")
    arguments = parser.parse_args()
    songs = write_excerpts(arguments)
    models = load_annotators(arguments.models)
    estimates = {OURS: {song.id: annotate(models, song.audio) for song in tqdm(songs, desc=OURS, unit="song")}}
    tasks = {OURS: [model.config.task for model in models.values()]}
    for name in arguments.methods:
        print(f"{name} …", flush=True)
        estimates[name], tasks[name] = estimate(name, songs, arguments.environments), [METHODS[name].task]
    pairs = compare(songs, estimates, tasks)
    used = strip_absolute_paths({"songs": arguments.songs, "seconds": arguments.seconds, "models": arguments.models})
    write_report(
        arguments.output_file, used | {"recordings": len(songs), "pairs": pairs} | environment(), report(pairs)
    )


def write_excerpts(arguments: argparse.Namespace) -> list[LabeledSong]:
    """Write the middle of each recording as a wav file, and return the excerpts."""
    folder = arguments.environments / f"excerpts-{arguments.seconds:g}"
    folder.mkdir(parents=True, exist_ok=True)
    songs = []
    for number, (name, audio) in enumerate(list_sources(arguments.songs)[: arguments.limit]):
        path = folder / f"{number:03}-{Path(name).stem}.wav"
        if not path.is_file():
            samples, rate = audio_length(audio)
            start = max(0.0, samples / rate - arguments.seconds) / 2
            soundfile.write(path, load_audio(audio, RATE, start=start, duration=arguments.seconds), RATE)
        songs.append(LabeledSong(path.stem, str(path), path.stem, duration=soundfile.info(path).duration))
    return songs


def estimate(name: str, songs: Sequence[LabeledSong], folder: Path) -> dict[str, Any]:
    """Return the events that a tool finds in each song; songs on which it fails are left out."""
    method = METHODS[name]
    tool = install(method.peer, PEERS[method.peer], folder)
    read = next(iter(method.choices.values()))
    results = analyze(tool, method.runner, songs, folder)
    return {song.id: read(results[song.id]["result"], song) for song in songs if "result" in results.get(song.id, {})}


def compare(
    songs: Sequence[LabeledSong], estimates: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return the agreement of each pair of estimates of a task, on the songs that both have."""
    rows = []
    for task in tasks[OURS]:
        spec = get_task(task)
        names = [name for name in estimates if task in tasks[name]]
        for first, second in combinations(names, 2):
            scores: list[float] = []
            for song in songs:
                if song.id in estimates[first] and song.id in estimates[second]:
                    pair = [_events(estimates[name][song.id], spec.column) for name in (first, second)]
                    both = [spec.score_song(*order)[spec.metric] for order in (pair, pair[::-1])]
                    scores.append(sum(both) / 2)
            values = drop_nan(scores)
            if not len(values):
                continue
            row = {"task": task, "score": spec.metric, "pair": [first, second], "songs": len(values)}
            rows.append(row | {"mean": float(values.mean()), "interval": bootstrap_interval(values)})
    return rows


def _events(estimated: Any, column: str) -> Any:
    """Return the events of an estimate: those of a tool, or a column of an annotation."""
    return estimated.get(column) if isinstance(estimated, SongAnnotation) else estimated


def report(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Return the table, with a row for each pair."""
    cells = [
        [
            row["task"],
            " – ".join(row["pair"]),
            "{:.3f} [{:.3f}, {:.3f}]".format(row["mean"], *row["interval"]),
            str(row["songs"]),
        ]
        for row in pairs
    ]
    return markdown_table(["task", "pair", "agreement", "recordings"], cells)


if __name__ == "__main__":
    main()
