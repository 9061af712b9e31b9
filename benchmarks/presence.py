"""
Score a model that detects music, for each kind of sound: music, music under speech, speech, noise, applause, silence.

    musicfm prepare presence --music data/pop909 --speech data/speech --output_dir data/presence
    musicfm finetune presence/probe small/probe --model runs/small --data data/presence --output_dir runs/presence
    python benchmarks/presence.py --model runs/presence --data data/presence
"""

import argparse
import json
from pathlib import Path

import numpy as np
from reporting import RESULTS, markdown_table, write_report
from tqdm.auto import tqdm

from musicfm_hf.data.catalog import describe_source
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.evaluation.scoring import score_song, scores_with_intervals
from musicfm_hf.inference.annotators import load_annotators
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.logits import song_logits
from musicfm_hf.tasks import task_of
from musicfm_hf.training.records import environment, strip_absolute_paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model for the task presence")
    parser.add_argument("--data", required=True, help="data set that `musicfm prepare presence` wrote")
    parser.add_argument("--split", default="test")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "presence.json")
    arguments = parser.parse_args()
    (model,) = load_annotators([arguments.model]).values()
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
    used = strip_absolute_paths({"model": arguments.model, "data": arguments.data})
    results = used | {
        "music": describe_source(arguments.data),
        "made_from": json.loads((Path(arguments.data) / "info.json").read_text(encoding="utf-8")).get("made_from"),
        "split": arguments.split,
        "scores": scores_with_intervals(config, scores),
        "kinds": rows,
    }
    write_report(arguments.output_file, results | environment(), report(rows))


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
