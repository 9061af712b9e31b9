"""
Collect the scores of the small model, and measure the command that annotates a song with it.

    python recipes/small_model.py --source POP909 --lead_sheets OpenEWLD/dataset --output_dir small_model
    musicfm evaluate small_model/musicfm-small --data data/folk_tunes \\
        --output_file small_model/musicfm-small/evaluations/folk_tunes.json
    python benchmarks/small_model.py small_model --data small_model/data/rendered

The scores are those that the recipe measured on test songs, and those of folk tunes. The song is made of test songs,
as a wav file of `--seconds`; times include the start of the command and the picture, and memory is its peak.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import soundfile
from annotate import RATE, joined_music
from reporting import RESULTS, markdown_table, write_report

from musicfm_hf import SMALL_MODEL, load_annotators
from musicfm_hf.tasks import get_task
from musicfm_hf.training.files import list_files
from musicfm_hf.training.records import environment

# Scores and calibration errors in the tables, in order.
SCORES = ("beat_f", "downbeat_f", "meter_acc", "majmin", "sevenths", "sevenths_inv", "key_weighted", "hr05_f", "map")
SCORES += ("no_music_f",)
CALIBRATED = ("beats", "downbeats", "time_signatures", "chords", "sections", "keys", "tags")
PLAIN, EFFECTS = "test", "test_with_effects"
# Columns of the tables, and their titles. Those after the second are named by the files of their evaluations.
COLUMNS = {
    PLAIN: "test songs",
    EFFECTS: "with audio effects",
    "lead_sheets": "lead sheets",
    "folk_tunes": "folk tunes",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of recipes/small_model.py")
    parser.add_argument("--data", help="data set with the songs to annotate; its test songs must be audio files")
    parser.add_argument("--seconds", type=float, default=240.0, help="length of the song")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output_file", type=Path, default=RESULTS / "small_model.json")
    arguments = parser.parse_args()
    values = collect(arguments.folder) | size_of_package()
    if arguments.data is not None:
        values["annotate"] = time_command(arguments.data, arguments.seconds, arguments.repeats)
    write_report(arguments.output_file, values | environment(), report(values))


def collect(folder: Path) -> dict[str, Any]:
    """Return the scores and calibration errors of test songs, the data, and the duration of each training."""
    names = ("encoder", "first", "second", "third", "same_song")
    runs = {name: json.loads((folder / f"runs/{name}/results.json").read_text()) for name in names}
    data = {path.parent.name: json.loads(path.read_text()) for path in sorted((folder / "data").glob("*/info.json"))}
    return scores_of(folder / "musicfm-small/evaluations") | {
        "data": {name: {key: info.get(key) for key in ("hours", "counts")} for name, info in data.items()},
        "seconds": {name: run["seconds"] for name, run in runs.items()},
        "steps": {name: run["training"]["max_steps"] for name, run in runs.items()},
        "weights": runs["third"]["parameters"],
        "search_weights": runs["same_song"]["trained_parameters"],
    }


def scores_of(evaluations: Path) -> dict[str, Any]:
    """Return the scores and calibration errors in a folder of files of `musicfm evaluate`."""
    scores: dict[str, dict[str, Any]] = {name: {} for name in COLUMNS}
    errors: dict[str, dict[str, Any]] = {name: {} for name in COLUMNS}
    for path in sorted(evaluations.glob("*.json")):
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        column = path.stem if path.stem in COLUMNS else EFFECTS if evaluation.get("effects") else PLAIN
        for result in evaluation["models"].values():
            scores[column] |= result["scores"]
            errors[column] |= {name: value["ece"] for name, value in result.get("calibration", {}).items()}
    return {
        "scores": {name: {key: of[key] for key in SCORES if key in of} for name, of in scores.items()},
        "calibration_errors": {name: {key: of[key] for key in CALIBRATED if key in of} for name, of in errors.items()},
    }


def size_of_package() -> dict[str, float]:
    """Return the size of the folder in the package."""
    return {"megabytes": sum(path.stat().st_size for path in list_files(SMALL_MODEL)) / 1e6}


def time_command(data: str, seconds: float, repeats: int) -> dict[str, Any]:
    """Return the times and the largest memory of `musicfm annotate` for a song, and its tasks."""
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder) / "song.wav"
        soundfile.write(song, joined_music(data, [seconds]).popitem()[1], RATE)
        runs = [_run(song, Path(folder) / str(number)) for number in range(repeats)]
    return {
        "song_seconds": seconds,
        "seconds": median(run["seconds"] for run in runs),
        "peak_megabytes": max(run["peak_megabytes"] for run in runs),
        "runs": runs,
        "tasks": [model.config.task for model in load_annotators().values()],
    }


def _run(song: Path, output: Path) -> dict[str, float]:
    """Run the command, and return its time and the peak of its memory."""
    command = [sys.executable, "-m", "musicfm_hf", "annotate", str(song), "--output_dir", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed with status {status}.")
    return {"seconds": time.perf_counter() - start, "peak_megabytes": usage.ru_maxrss / 1024}


def report(values: dict[str, Any]) -> str:
    """Return the table of scores and, after an empty line, that of calibration errors."""
    labels = {name: score.label for task in _tasks() for name, score in task.scores.items()}
    scores, errors = values["scores"], values["calibration_errors"]
    rows = [
        [labels[name], *(_cell(scores[column].get(name)) for column in COLUMNS), str(scores[PLAIN][name]["songs"])]
        for name in SCORES
        if name in scores[PLAIN]
    ]
    more = [
        [name.replace("_", " "), *(_cell(errors[column].get(name)) for column in COLUMNS)]
        for name in CALIBRATED
        if name in errors[PLAIN]
    ]
    titles = list(COLUMNS.values())
    first = markdown_table(["score", *titles, "songs"], rows)
    return first + "\n" + markdown_table(["calibration error", *titles], more)


def _tasks() -> list[Any]:
    """Return the tasks with the vocabularies of the small model."""
    return [get_task(model.config.task, model.config.vocabulary) for model in load_annotators().values()]


def _cell(value: dict[str, Any] | None) -> str:
    """Return a score with its interval."""
    if value is None:
        return ""
    interval = "" if "interval" not in value else " [{:.3f}, {:.3f}]".format(*value["interval"])
    return f"{value['mean']:.3f}{interval}"


if __name__ == "__main__":
    main()
