"""
Score a model that detects music, for each kind of sound: music, music under speech, speech, noise, applause, silence.

    musicfm prepare presence --music data/packages --speech data/speech --output_dir data/presence
    python benchmarks/presence.py --data data/presence --songs data/pop909
    python benchmarks/presence.py --data data/presence --model runs/presence

`--songs` are whole songs that are music from their first to their last sound, to measure how much of it is taken for
something else.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from reporting import RESULTS, markdown_table, write_report
from tqdm.auto import tqdm

from musicfm_hf import SMALL_MODEL
from musicfm_hf.audio.reading import load_audio
from musicfm_hf.data.catalog import describe_source
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.evaluation.scoring import score_song, scores_with_intervals
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.embedding import HeadModel, WindowSettings
from musicfm_hf.inference.logits import song_logits
from musicfm_hf.tasks import task_of
from musicfm_hf.training.records import environment, strip_absolute_paths

SOUND = 1e-3  # of full scale: what is softer before the first and after the last sound of a song is silence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMALL_MODEL, help="a model for the task presence; by default the small one")
    parser.add_argument("--data", required=True, help="data set that `musicfm prepare presence` wrote")
    parser.add_argument("--songs", nargs="*", default=[], help="data sets of whole songs without speech and noise")
    parser.add_argument("--split", default="test")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "presence.json")
    arguments = parser.parse_args()
    models = load_annotators([arguments.model]).values()
    (model,) = (model for model in models if task_of(model.config).music_parts is not None)
    config, spec = model.config, task_of(model.config)
    songs = load_songs(arguments.data, arguments.split)
    scores, kinds = {}, {}
    for song, logits in tqdm(song_logits(model, songs, WindowSettings(batch_size=4)), total=len(songs), unit="song"):
        scores[song.id] = score_song(config, song, logits)
        events, parts = spec.decode(config, logits), spec.annotation_of(song)
        for kind in {part.label for part in parts}:
            right, seconds = spec.right_items([part for part in parts if part.label == kind], events, {})[spec.column]
            kinds.setdefault(kind, []).append([float(right @ seconds), float(seconds.sum())])
    rows = {kind: dict(zip(("right", "seconds"), np.sum(kinds[kind], axis=0).tolist(), strict=True)) for kind in kinds}
    used = strip_absolute_paths({"model": arguments.model, "data": arguments.data, "songs": arguments.songs})
    results = used | {
        "music": describe_source(arguments.data),
        "made_from": json.loads((Path(arguments.data) / "info.json").read_text(encoding="utf-8")).get("made_from"),
        "split": arguments.split,
        "decoding": config.decoding,
        "scores": scores_with_intervals(config, scores),
        "kinds": rows | whole_songs(model, arguments.songs, arguments.split),
    }
    write_report(arguments.output_file, results | environment(), report(results["kinds"]))


def whole_songs(model: HeadModel, data_sets: Sequence[str], split: str) -> dict[str, dict[str, float]]:
    """
    Return, for each data set, the seconds of its songs from their first to their last sound, how many of these are
    labeled as music, and the numbers of songs and of gaps, which are the parts that are not.
    """
    rows, spec = {}, task_of(model.config)
    for data in data_sets:
        songs = load_songs(data, split)
        row = {"right": 0.0, "seconds": 0.0, "songs": len(songs), "gaps": 0}
        for song, logits in tqdm(song_logits(model, songs, WindowSettings(batch_size=4)), total=len(songs)):
            waveform = load_audio(song.audio, model.config.sampling_rate)
            sound = np.flatnonzero(np.abs(waveform) > SOUND)
            first, last = (float(edge) / model.config.sampling_rate for edge in sound[[0, -1]])
            row["seconds"] += last - first
            segments = spec.decode(model.config, logits)
            for segment, is_music in zip(segments, spec.music_parts(segments), strict=True):
                seconds = min(segment.end, last) - max(segment.start, first)
                row["right"] += max(0.0, seconds) * is_music
                row["gaps"] += int(seconds > 0 and not is_music)
        rows[f"songs of {describe_source(data)['name']}"] = row
    return rows


def report(rows: dict[str, dict[str, float]]) -> str:
    """Return the table, with a row for each kind of sound."""
    order = sorted(rows, key=lambda kind: -rows[kind]["seconds"])
    cells = [
        [kind, f"{rows[kind]['seconds']:.0f} s", f"{100 * rows[kind]['right'] / rows[kind]['seconds']:.1f} %"]
        for kind in order
    ]
    return markdown_table(["", "time", "classified correctly"], cells)


if __name__ == "__main__":
    main()
