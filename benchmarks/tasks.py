"""
Compare classical baselines, probes, full fine-tuning and LoRA on all tasks, from pretrained and from random weights.

    python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks --plan  # only list the runs
    python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks
    python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks --songs 8 24 80 all
    python benchmarks/tasks.py --table  # only write the tables of recorded runs

Rows: a probe of the log-mel spectrogram with context, and a probe, LoRA and full fine-tuning, each from pretrained and
from random weights, with three seeds. The layer that a head reads is chosen on the validation songs, by probes of each
starting point with the first seed and all labels, and LoRA and full fine-tuning read the same layer. They start from
the head of a probe (`probe_steps`) with the same seed. Runs are those of `musicfm finetune`, and their commands are
recorded with their scores. benchmarks/tasks.yaml specifies the flags and the columns of the table.

`--songs` trains on fewer songs: drawn by the seed, the same for all rows, and fewer songs are a part of more.

Runs are recorded in `songs.parquet` and `runs.json` in `--store`, beside those of earlier studies, and not repeated.
An interrupted call can be repeated, and several processes can share the work: each takes runs that no other one is at.
A recorded run with other settings, songs or another encoder raises an error. Further flags, such as `--bf16 true`,
apply to full fine-tuning and LoRA, whose models are kept in `--runs`. The script writes `tasks.json`, `tasks.md` and
`few_labels.png` to the store. Differences are over test songs and seeds, with the paired bootstrap and Holm's
correction.
"""

import argparse
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from probes import parse, recipes, train_probe
from processes import musicfm
from reporting import RESULTS
from run_store import RunStore
from tasks_table import BASELINE, FULLS, LOG_MEL, LORAS, PROBES, ROWS, STUDY, write_table
from transformers import AutoConfig

from musicfm_hf.evaluation.baselines import score_data_set
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.run import read_splits
from musicfm_hf.finetuning.run_fingerprint import load_matching_results
from musicfm_hf.tasks import get_task
from musicfm_hf.training.files import write_json
from musicfm_hf.training.records import environment, strip_absolute_paths

SEEDS = (1, 2, 3)
METHODS = dict.fromkeys(FULLS, "full") | dict.fromkeys(LORAS, "lora")


class Cell(NamedTuple):
    """A run of the study. `reader` is set only for the probes that choose a layer; `songs` is `None` for all."""

    task: str
    row: str
    songs: int | None = None
    seed: int = SEEDS[0]
    reader: tuple[str, ...] | None = None

    @property
    def method(self) -> str:
        return METHODS.get(self.row, "probe")

    @property
    def name(self) -> str:
        songs = [] if self.songs is None else [f"{self.songs} songs"]
        parts = [self.task, self.row.replace(")", ""), *(self.reader or ())[:1], *songs, str(self.seed)]
        return re.sub(r"[^\w-]+", "-", "_".join(parts).replace("--", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="pretrained encoder")
    parser.add_argument("--data", help="data set made by `musicfm prepare`")
    parser.add_argument("--runs", type=Path, help="folder for the models of full fine-tuning and LoRA")
    parser.add_argument("--tasks", nargs="+", default=list(STUDY), choices=list(STUDY))
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--songs", nargs="+", type=_songs, default=[None], help="numbers of training songs, or all")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="the first one chooses layers")
    parser.add_argument("--cache", default=".features", help="folder for features of frozen encoders")
    parser.add_argument("--store", type=Path, default=RESULTS, help="folder for recorded runs and the tables")
    parser.add_argument("--plan", action="store_true", help="do not train; list the runs and estimate their minutes")
    parser.add_argument("--table", action="store_true", help="do not train; only write the tables of recorded runs")
    arguments, arguments.finetuning_flags = parser.parse_known_args()
    if not arguments.table:
        if missing := [name for name in ("model", "data", "runs") if getattr(arguments, name) is None]:
            parser.error(f"without --table, these are needed: {', '.join(f'--{name}' for name in missing)}")
        study = Study(arguments)
        study.check_flags()
        if arguments.plan:
            return print(study.plan())
        study.run()
    write_table(arguments.store)


def _songs(text: str) -> int | None:
    return None if text == "all" else int(text)


class Study:
    """All runs of the study. The songs of a task are read once."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.store = RunStore(arguments.store)
        self.splits: dict[str, dict[str, list]] = {}

    @cached_property
    def num_layers(self) -> int:
        return AutoConfig.from_pretrained(self.arguments.model).num_hidden_layers

    def check_flags(self) -> None:
        """Raise a `ValueError` if a flag of any run is wrong."""
        for task in self.arguments.tasks:
            for row in self.arguments.rows:
                if row != BASELINE:
                    parse(task, METHODS.get(row, "probe"), self.flags(Cell(task, row)))

    def cells(self) -> Iterable[Cell]:
        """Yield the runs that were asked for; the probes that choose a layer come before the runs that read it."""
        arguments = self.arguments
        for row in arguments.rows:
            for task in arguments.tasks:
                if row == BASELINE:
                    yield Cell(task, row)
                    continue
                if row != LOG_MEL:
                    yield from self.search_cells(task, row)
                for songs in arguments.songs:
                    # The first probe with all songs is one of those that chose the layer.
                    is_searched = row in PROBES and songs is None
                    yield from (Cell(task, row, songs, seed) for seed in arguments.seeds[is_searched:])

    def search_cells(self, task: str, row: str) -> list[Cell]:
        """Return the probes of every hidden state and of their learned sum, from the starting point of a row."""
        is_random = row in (PROBES[0], LORAS[0], FULLS[0])
        readers = [*(f"--layer={layer}" for layer in range(self.num_layers + 1)), "--weighted_layer_sum=true"]
        row, seed = PROBES[not is_random], self.arguments.seeds[0]
        random = ("--random_encoder=true",) if is_random else ()
        return [Cell(task, row, None, seed, (reader, *random)) for reader in readers]

    def run(self) -> None:
        """Execute and record all runs. Runs that another process is at come last, and are waited for."""
        cells = list(dict.fromkeys(self.cells()))
        for timeout in (0, -1):
            for cell in cells:
                with suppress(Timeout):
                    self.run_cell(cell, timeout)

    def run_cell(self, cell: Cell, timeout: float = -1) -> dict[str, Any] | None:
        """
        Return a run, after training and recording it if necessary; `None` for baselines.

        Raises:
            Timeout: another process is at this run.
        """
        self.arguments.runs.mkdir(parents=True, exist_ok=True)
        if cell.row == BASELINE:
            with FileLock(self.arguments.runs / f".{cell.name}.lock", timeout):
                return self.score_baselines(cell.task)
        flags = self.flags(cell, self.reader(cell))
        words = [*flags, "--disable_tqdm", "true", "--results", str(self.arguments.runs / "results")]
        settings, training = parse(cell.task, cell.method, words)
        splits = self.splits.setdefault(cell.task, {}) or read_splits(settings)
        self.splits[cell.task] = splits
        with FileLock(self.arguments.runs / f".{cell.name}.lock", timeout):
            if (results := self.recorded_run(cell.name, settings, training, splits)) is not None:
                return results
            print(f"{cell.name} …", flush=True)
            output = Path(training.output_dir)
            if cell.row in METHODS:
                musicfm("finetune", *recipes(cell.task, cell.method), *words)
                results = json.loads((output / "results.json").read_text())
                for checkpoint in output.glob("checkpoint-*"):
                    shutil.rmtree(checkpoint)
            else:
                results = train_probe(settings, training, splits).results
                shutil.rmtree(output)
            shown = strip_absolute_paths({"words": [*flags[:-1], f"{self.arguments.runs.name}/{cell.name}"]})["words"]
            command = shlex.join(["musicfm", "finetune", *recipes(cell.task, cell.method), *shown])
            self.store.write({cell.name: {"row": cell.row, "command": command} | results})
        metric = get_task(cell.task).metric
        scores = {split: averages[metric]["mean"] for split, averages in results["scores"].items()}
        print("  " + ", ".join(f"{split} {score:.4f}" for split, score in scores.items()), flush=True)
        return results

    def flags(self, cell: Cell, reader: Iterable[str] = ()) -> list[str]:
        """Return the flags of `musicfm finetune` for a run, the last two of which are its output folder."""
        arguments, study = self.arguments, STUDY[cell.task]
        flags = ["--model", arguments.model, "--data", arguments.data, *shlex.split(study.get("flags", ""))]
        if cell.row in METHODS:
            flags += [*shlex.split(study.get("finetuning", "")), *arguments.finetuning_flags]
        flags += ["--cache", arguments.cache, "--report_to", "none", *reader]
        if cell.songs is not None:
            flags += ["--max_train_songs", str(cell.songs), "--songs_seed", str(cell.seed)]
        return [*flags, "--seed", str(cell.seed), "--output_dir", str(arguments.runs / cell.name)]

    def reader(self, cell: Cell) -> tuple[str, ...]:
        """Return the flags for what the head reads: the spectrogram, or the layer that is best on validation songs."""
        if cell.row == LOG_MEL:
            return ("--log_mel=true",)
        return cell.reader if cell.reader is not None else self.best_reader(cell.task, cell.row)

    @cache  # noqa: B019  # as long as the study
    def best_reader(self, task: str, row: str) -> tuple[str, ...]:
        cells = self.search_cells(task, row)
        runs = [self.run_cell(cell) for cell in cells]
        scores = [run["scores"]["validation"][get_task(task).metric]["mean"] for run in runs if run is not None]
        best = cells[int(np.argmax(scores))].reader
        assert best is not None
        return best

    def recorded_run(
        self, name: str, settings: TaskArguments, training: FinetuningArguments, splits: dict[str, list]
    ) -> dict[str, Any] | None:
        """
        Return a run from the store, or `None` if it does not exist.

        Raises:
            ValueError: the run has other settings, another encoder or other songs.
        """
        run = self.store.read_run(name)
        if run is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            write_json(path, run)
            return load_matching_results(path, settings, training, splits, "--store")

    def score_baselines(self, task: str) -> None:
        """Score and record the classical baselines of a task on its test songs, unless all are recorded."""
        wanted = {name for names in STUDY[task]["scores"].values() for name in names}
        if {f"baseline_{name}" for name in wanted} <= self.store.read().keys():
            return
        results = score_data_set(self.arguments.data, "test", [task], num_workers=2)
        common = strip_absolute_paths({"data": self.arguments.data, "split": "test"})
        common |= {"librosa": version("librosa")} | environment()
        runs = {}
        for name, result in results.items():
            own_scores = {"scores": {"test": result["scores"]}, "scores_of_songs": {"test": result["songs"]}}
            about = {key: result[key] for key in ("task", "metric", "about", "chosen") if key in result}
            runs[f"baseline_{name}"] = {"row": name} | common | about | own_scores
        self.store.write(runs)

    def plan(self) -> str:
        """Return a list of the runs, with the minutes that they are expected to take or have taken."""
        runs = self.store.read()
        lines, minutes, unknown = [], 0.0, 0
        for cell in dict.fromkeys(self.cells()):
            if cell.row == BASELINE:
                names = [name for names in STUDY[cell.task]["scores"].values() for name in names]
                state = "recorded" if all(f"baseline_{name}" in runs for name in names) else "a few minutes"
            elif cell.name in runs:
                state = f"recorded ({runs[cell.name]['seconds'] / 60:.1f} min)"
            elif (estimate := self.expected_minutes(cell, runs)) is None:
                state, unknown = "unknown", unknown + 1
            else:
                state, minutes = f"{estimate:.1f} min", minutes + estimate
            lines.append(f"{cell.name:60} {state}")
        note = f", and {unknown} runs of a kind that no run has been recorded of" if unknown else ""
        return "\n".join([*lines, f"\n{minutes / 60:.1f} hours in one process{note}"])

    def expected_minutes(self, cell: Cell, runs: dict[str, Any]) -> float | None:
        """Estimate the minutes of a run from recorded runs with this task and method, by the audio in their steps."""
        alike = [
            run
            for run in runs.values()
            if "about" not in run
            and (run["task"], run["method"]) == (cell.task, cell.method)
            and run["settings"]["log_mel"] == (cell.row == LOG_MEL)
        ]
        if not alike:
            return None
        settings, training = parse(cell.task, cell.method, self.flags(cell))
        work = _trained_seconds(vars(settings), vars(training))
        return work * median(run["seconds"] / _trained_seconds(run["settings"], run["training"]) for run in alike) / 60


def _trained_seconds(settings: dict[str, Any], training: dict[str, Any]) -> float:
    """Return the seconds of audio in all steps of a run."""
    seconds = settings["crop_seconds"] or get_task(settings["task"]).crop_seconds
    return training["max_steps"] * training["per_device_train_batch_size"] * seconds


if __name__ == "__main__":
    main()
