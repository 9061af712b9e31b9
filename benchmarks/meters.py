"""
Score a beat model on composed songs in 2 to 7 beats, or on others: by meter, and for songs with changes of meter or
tempo; and compare settings of the decoder on all songs.

    musicfm prepare synthetic --output_dir data/composed_meters --songs 420 --seconds 60 --meters 2 3 4 5 6 7 \\
        --meter_change 0.25 --tempo_change 0.3 --fractions 0.7 0.1 0.2
    python benchmarks/meters.py --model runs/meters/full --data data/composed_meters
"""

import argparse
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from reporting import RESULTS, markdown_table, write_report
from tqdm.auto import tqdm

from musicfm_hf import SMALL_MODEL
from musicfm_hf.data.catalog import describe_source
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.evaluation.scoring import score_song
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.logits import song_logits
from musicfm_hf.tasks.annotations import Beats
from musicfm_hf.tasks.meter import tempo_curve, time_signatures
from musicfm_hf.training.records import environment, strip_absolute_paths

SCORES = ("beat_f", "downbeat_f", "tempo_acc1", "tempo_acc2", "meter_acc", "meter_time")
STEADY = 1.05  # fastest / slowest tempo of a song, above which its tempo changes
FAST = 120.0  # median tempo in beats per minute, above which a song is in the group of fast songs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=f"{SMALL_MODEL}/beat", help="by default that of the small model")
    parser.add_argument("--data", required=True, help="a labeled data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--output_file", type=Path, default=RESULTS / "meters.json")
    arguments = parser.parse_args()
    (model,) = load_annotators([arguments.model]).values()
    songs = load_songs(arguments.data, arguments.split)[: arguments.limit]
    decoders = decoder_settings(model.config)
    scores: dict[str, dict[str, dict[str, float]]] = {name: {} for name in decoders}
    for song, logits in tqdm(song_logits(model, songs, WindowSettings(batch_size=4)), total=len(songs), unit="song"):
        for name, config in decoders.items():
            scores[name][song.id] = score_song(config, song, logits)
    groups: dict[str, list[str]] = {}
    for song in songs:
        for name in groups_of(song.beats):
            groups.setdefault(name, []).append(song.id)
    trained = scores["trained"]
    results = {
        "model": strip_absolute_paths({"model": arguments.model})["model"],
        "music": describe_source(arguments.data),
        "split": arguments.split,
        "decoding": model.config.decoding,
        "groups": {name: average([trained[song] for song in groups[name]]) for name in sorted(groups, key=order)},
        "decoders": {name: average(rows.values()) for name, rows in scores.items()},
        "songs": trained,
    }
    write_report(arguments.output_file, results | environment(), report(results))


def decoder_settings(config: Any) -> dict[str, Any]:
    """
    Return configurations with the settings of the decoder to compare: those of training, simpler ones, and other
    weights of outputs for tempo and meter, if the model has them.
    """
    settings = {
        "trained": config.decoding,
        "one meter in a song": config.decoding | {"meter_change": 0.0},
        "3 or 4 beats, one meter in a song": config.decoding | {"beats_per_bar": [3, 4], "meter_change": 0.0},
    }
    if config.vocabulary is not None:
        outputs = {"tempo_weight": 1.0, "meter_weight": 1.0}
        settings["outputs of tempo and meter with weight 1"] = config.decoding | outputs
        settings["without these outputs"] = config.decoding | dict.fromkeys(outputs, 0.0)
    configs = {}
    for name, values in settings.items():
        if name == "trained" or values != config.decoding:
            configs[name] = deepcopy(config)
            configs[name].decoding = values
    return configs


def groups_of(beats: Beats) -> list[str]:
    """Return the groups of a song: all, its meter or changes of meter, changes of tempo, and a fast tempo."""
    signatures, tempi = time_signatures(beats), tempo_curve(beats.times)[:, 1]
    labels = {segment.label for segment in signatures}
    meter = f"{signatures[0].label} beats in a bar" if len(labels) == 1 else "meter changes"
    changes = ["tempo changes"] if tempi.max() > STEADY * tempi.min() else []
    fast = [f"faster than {FAST:g} beats per minute"] if np.median(tempi) > FAST else []
    return ["all", meter, *changes, *fast]


def order(name: str) -> tuple[int, str]:
    """Return the key by which groups are sorted: all songs, meters, and changes."""
    return 0 if name == "all" else 1 if name[0].isdigit() else 2, name


def average(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the number of songs and the mean of each score over the songs that have it."""
    rows = list(rows)
    return {"songs": len(rows)} | {name: float(np.nanmean([row[name] for row in rows])) for name in SCORES}


def report(results: dict[str, Any]) -> str:
    """Return two tables: groups of songs, and settings of the decoder on all songs."""
    header = ["songs", "number", "beats, F", "downbeats, F", "tempo, Acc1", "Acc2", "meter, songs", "meter, time"]
    names = {"trained": "meters of the training songs, with changes"}
    if not results["decoding"].get("meter_change"):
        names = {"trained": "settings of the model"}
    tables = []
    for title, kind in (("songs", "groups"), ("decoder, all songs", "decoders")):
        rows = [
            [names.get(name, name), str(scores["songs"]), *(f"{scores[score]:.3f}" for score in SCORES)]
            for name, scores in results[kind].items()
        ]
        tables.append(markdown_table([title, *header[1:]], rows))
    return "\n".join(tables)


if __name__ == "__main__":
    main()
