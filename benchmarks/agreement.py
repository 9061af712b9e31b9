"""
Measure how well the annotations of models and of other tools agree on recordings without labels.

    musicfm prepare packages --output_dir data/packages --test_songs 60
    python benchmarks/agreement.py --songs data/packages/test.txt --environments peers

Every pair of estimates of a task is compared by the main score of the task, on 30 s in the middle of each recording.
The score is the mean of both directions, each with one of the two as the reference. What tools agree on need not be
right: the tables show whether ours is further from them than they are from each other. Tools are installed and run as
by `peers.py`, with their default settings.

- A recording in which one of the two finds no beats scores 0. If neither finds any, or if no chord can be compared,
  the pair has no score for this recording, and its mean is over the others.
- A recording that a tool cannot analyze has no score for the pairs of this tool.
- Ours has the key of the whole excerpt, as the tools have.
- The ratio is the mean over the pairs of ours, divided by the mean over the pairs of tools. Its interval draws the
  same recordings for both. A tool that agrees little with all others increases the ratio, so ours is also compared
  with the two tools that agree most.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from peer_environments import PeerUnavailableError, analyze, install
from peer_methods import METHODS, PEERS
from reporting import RESULTS, markdown_table, write_report
from tqdm.auto import tqdm

from musicfm_hf import SMALL_MODEL, SongAnnotation, annotate, load_annotators, load_audio
from musicfm_hf.audio.reading import audio_length
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.evaluation.bootstrap import bootstrap_interval, percentile_interval
from musicfm_hf.tasks import get_task
from musicfm_hf.tasks.annotations import Beats, Segment
from musicfm_hf.tasks.averages import drop_nan
from musicfm_hf.tasks.spec import TaskSpec
from musicfm_hf.training.records import environment, strip_absolute_paths

RATE = 44100
OURS = "ours"
KEYS = "keys"  # column of annotations
# One method of each tool for a task, because two models of the same authors agree more. The slowest are left out.
DEFAULT_METHODS = ("madmom, beats", "Essentia, beats", "librosa, beats", "sonara, beats")
DEFAULT_METHODS += ("Chordino", "madmom, deep chroma", "sonara, chords", "Essentia, key", "madmom, key", "sonara, key")
SINGLE = ("madmom, beats",)  # tools whose agreement with ours has a row of its own
DRAWS = 10_000


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
    tools: dict[str, dict[str, Any]] = {}
    for name in arguments.methods:
        print(f"{name} …", flush=True)
        try:
            version, estimates[name] = estimate(name, songs, arguments.environments)
        except PeerUnavailableError as error:
            tools[name] = {"reason": str(error)}
            print(f"  {error}", flush=True)
            continue
        tasks[name] = [METHODS[name].task]
        tools[name] = {"version": version, "songs": len(estimates[name])}
    pairs = compare(songs, estimates, tasks)
    used = strip_absolute_paths({"songs": arguments.songs, "seconds": arguments.seconds, "models": arguments.models})
    used |= {"recordings": [song.id for song in songs], "tools": tools}
    values = used | {"relative": relate(pairs), "pairs": pairs} | environment()
    write_report(arguments.output_file, values, report(values))


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


def estimate(name: str, songs: Sequence[LabeledSong], folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the version of a tool, and the events that it finds in each song, without songs on which it fails."""
    method = METHODS[name]
    tool = install(method.peer, PEERS[method.peer], folder)
    read = next(iter(method.choices.values()))
    results = analyze(tool, method.runner, songs, folder)
    analyzed = [song for song in songs if "result" in results.get(song.id, {})]
    return tool.version, {song.id: read(results[song.id]["result"], song) for song in analyzed}


def compare(
    songs: Sequence[LabeledSong], estimates: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """
    Return the agreement of each pair of estimates of a task: its mean with an interval, and the scores of all songs,
    nan where there is none.
    """
    rows = []
    for task in tasks[OURS]:
        spec = get_task(task)
        names = [name for name in estimates if task in tasks[name]]
        for pair in combinations(names, 2):
            found = [[_events(estimates[name].get(song.id), spec.column) for name in pair] for song in songs]
            scores = [agreement(spec, *both) for both in found]
            values = drop_nan(scores)
            if len(values):
                row = {"task": task, "score": spec.metric, "pair": list(pair), "songs": len(values)}
                row |= {"mean": float(values.mean()), "interval": bootstrap_interval(values)}
                rows.append(row | {"scores": [round(score, 6) for score in scores]})
    return rows


def agreement(spec: TaskSpec, first: Any, second: Any) -> float:
    """
    Return the mean of the main score in both directions. It is nan if one of the estimates is missing, if neither has
    beats, or if a direction has no score.
    """
    if first is None or second is None:
        return float("nan")
    if isinstance(first, Beats) and not len(first.times) and not len(second.times):
        return float("nan")
    directions = (spec.score_song(first, second), spec.score_song(second, first))
    return sum(spec.song_value(scores, spec.metric) for scores in directions) / 2


def _events(estimated: Any, column: str) -> Any:
    """Return the events of an estimate: those of a tool, or a column of an annotation, with one key for the song."""
    if not isinstance(estimated, SongAnnotation):
        return estimated
    if column == KEYS:
        return [Segment(0.0, estimated.duration, estimated.key or "N")]
    return estimated.get(column)


def relate(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Return the rows of [`comparisons`] for each task: the mean agreement of a tool, the mean agreement of the pairs of
    tools that it is compared with, and the ratio of both with an interval.

    Args:
        pairs: Output of [`compare`].
    """
    rows: list[dict[str, Any]] = []
    for task in dict.fromkeys(row["task"] for row in pairs):
        of_task = {tuple(row["pair"]): row for row in pairs if row["task"] == task}
        samples = dict(zip(of_task, draw_means([row["scores"] for row in of_task.values()]), strict=True))
        for tool, partners, between in comparisons({pair: row["mean"] for pair, row in of_task.items()}):
            own = [pair for pair in of_task if tool in pair and any(name in partners for name in pair)]
            mean, reference = (float(np.mean([of_task[pair]["mean"] for pair in some])) for some in (own, between))
            drawn, drawn_reference = (np.mean([samples[pair] for pair in some], axis=0) for some in (own, between))
            row = {"task": task, "tool": tool, "with": partners, "mean": mean, "between_tools": reference}
            row |= {"ratio": mean / reference, "interval": percentile_interval(drawn / drawn_reference)}
            rows.append(row)
    return rows


def comparisons(means: Mapping[tuple[str, ...], float]) -> list[tuple[str, list[str], list[tuple[str, ...]]]]:
    """
    Return the comparisons of a task as `(tool, its partners, pairs of tools)`: ours with all tools, with those of
    `SINGLE`, and with the two tools that agree most, compared with these two alone; and each tool with the others.
    There are none with fewer than two tools.

    Args:
        means: Pair → mean agreement.
    """
    between = [pair for pair in means if OURS not in pair]
    if not between:
        return []
    tools = list(dict.fromkeys(name for pair in between for name in pair))
    rows = [(OURS, tools, between), *((OURS, [name], between) for name in SINGLE if name in tools)]
    if len(tools) > 2:
        closest = max(between, key=means.__getitem__)
        rows.append((OURS, list(closest), [closest]))
    return rows + [(name, [other for other in tools if other != name], between) for name in tools]


def draw_means(scores: Sequence[Sequence[float | None]], seed: int = 0) -> np.ndarray:
    """
    Return the means of several lists of scores over the same random samples of songs, without those that are nan or
    `None`: float64 `(lists, draws)`, nan for samples without a score.
    """
    values = np.array(scores, dtype=np.float64)
    chosen = np.random.default_rng(seed).integers(values.shape[1], size=(DRAWS, values.shape[1]))
    drawn = values[:, chosen]  # (lists, draws, songs)
    with np.errstate(invalid="ignore"):  # 0 / 0 without a score
        return np.nansum(drawn, axis=2) / (~np.isnan(drawn)).sum(axis=2)


def report(values: Mapping[str, Any]) -> str:
    """Return the table of relative agreement and, after an empty line, that of all pairs."""
    relative = [
        [
            row["task"],
            _with(row),
            f"{row['mean']:.3f}",
            f"{row['between_tools']:.3f}",
            f"{row['ratio']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]",
        ]
        for row in values["relative"]
    ]
    pairs = [
        [
            row["task"],
            " – ".join(row["pair"]),
            "{:.3f} [{:.3f}, {:.3f}]".format(row["mean"], *row["interval"]),
            str(row["songs"]),
        ]
        for row in values["pairs"]
    ]
    first = markdown_table(["task", "agreement of", "mean", "between tools", "ratio"], relative)
    return first + "\n" + markdown_table(["task", "pair", "agreement", "recordings"], pairs)


def _with(row: Mapping[str, Any]) -> str:
    """Return the name of a row of relative agreement."""
    if row["tool"] != OURS:
        return f"{row['tool']}, with the other tools"
    partners = "all tools" if len(row["with"]) > 2 else " and ".join(f"“{name}”" for name in row["with"])
    return f"**ours**, with {partners}"


if __name__ == "__main__":
    main()
