"""
Compare classical baselines, probes, full fine-tuning and LoRA on all tasks, from pretrained and from random weights.

    python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks --plan  # only list the runs
    python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks
    python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks --songs 8 24 80 all
    python benchmarks/tasks.py --table  # only write the tables of recorded runs

Rows: a probe of the log-mel spectrogram with context, and a probe, LoRA and full fine-tuning, each from pretrained and
from random weights, with three seeds. A run trains the heads of all tasks at once (`musicfm finetune joint`), except
for the spectrogram, of which each task has a probe of its own. Heads read the learned sum of all hidden states. LoRA
and full fine-tuning start from the heads of a probe with the same seed. The commands of runs are recorded with their
scores. benchmarks/tasks.yaml specifies their flags and the columns of the table.

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
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from probes import parse, recipes, train_probe
from processes import musicfm
from reporting import RESULTS
from run_store import RunStore
from tasks_table import BASELINE, FLAGS, FULLS, LOG_MEL, LORAS, RATES, ROWS, STUDY, write_table

from musicfm_hf.data.splits import SPLITS
from musicfm_hf.evaluation.baselines import score_data_set
from musicfm_hf.finetuning.arguments import FinetuningArguments, HeadArguments
from musicfm_hf.finetuning.joint import finetune_joint
from musicfm_hf.finetuning.joint_arguments import JOINT
from musicfm_hf.finetuning.joint_data import read_joint_splits
from musicfm_hf.finetuning.run import read_splits
from musicfm_hf.finetuning.run_fingerprint import load_matching_results
from musicfm_hf.training.files import write_json
from musicfm_hf.training.records import environment, strip_absolute_paths

SEEDS = (1, 2, 3)
METHODS = dict.fromkeys(FULLS, "full") | dict.fromkeys(LORAS, "lora")


class Cell(NamedTuple):
    """A run of the study: of all tasks or, for baselines and the spectrogram, of one. `songs` is `None` for all."""

    row: str
    songs: int | None = None
    seed: int = SEEDS[0]
    task: str = JOINT

    @property
    def method(self) -> str:
        return METHODS.get(self.row, "probe")

    @property
    def name(self) -> str:
        songs = [] if self.songs is None else [f"{self.songs} songs"]
        parts = [self.task, self.row.replace(")", ""), *songs, str(self.seed)]
        return re.sub(r"[^\w-]+", "-", "_".join(parts).replace("--", ""))

    @property
    def records(self) -> dict[str, str]:
        """The name of the record of each task that the run trains."""
        tasks = STUDY if self.task == JOINT else [self.task]
        return {task: self._replace(task=task).name for task in tasks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="pretrained encoder")
    parser.add_argument("--data", help="data set made by `musicfm prepare`")
    parser.add_argument("--runs", type=Path, help="folder for the models of full fine-tuning and LoRA")
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--songs", nargs="+", type=_songs, default=[None], help="numbers of training songs, or all")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
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


def rate_flags(rate: float) -> list[str]:
    """Return the flags of `musicfm finetune` for one learning rate of heads and encoder, or of LoRA's matrices."""
    return ["--learning_rate", f"{rate:g}", "--encoder_learning_rate", f"{rate:g}"]


def _songs(text: str) -> int | None:
    return None if text == "all" else int(text)


class Study:
    """All runs of the study. The songs of a task are read once."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.store = RunStore(arguments.store)
        self.splits: dict[str, dict[str, list]] = {}

    def check_flags(self) -> None:
        """Raise a `ValueError` if a flag of any run is wrong."""
        for cell in self.cells():
            if cell.row != BASELINE:
                parse(cell.task, cell.method, self.flags(cell))

    def cells(self) -> Iterable[Cell]:
        """Yield the runs that were asked for."""
        arguments = self.arguments
        for row in arguments.rows:
            tasks = list(STUDY) if row in (BASELINE, LOG_MEL) else [JOINT]
            if row == BASELINE:
                yield from (Cell(row, task=task) for task in tasks)
                continue
            for songs in arguments.songs:
                yield from (Cell(row, songs, seed, task) for seed in arguments.seeds for task in tasks)

    def run(self) -> None:
        """Execute and record all runs. Runs that another process is at come last, and are waited for."""
        cells = list(self.cells())
        for timeout in (0, -1):
            for cell in cells:
                with suppress(Timeout):
                    self.run_cell(cell, timeout)

    def run_cell(self, cell: Cell, timeout: float = -1) -> None:
        """
        Train and record a run, unless it is recorded.

        Raises:
            Timeout: another process is at this run.
        """
        self.arguments.runs.mkdir(parents=True, exist_ok=True)
        with FileLock(self.arguments.runs / f".{cell.name}.lock", timeout):
            if cell.row == BASELINE:
                return self.score_baselines(cell.task)
            words = [*self.flags(cell), "--disable_tqdm", "true", "--results", str(self.arguments.runs / "results")]
            settings, training = parse(cell.task, cell.method, words)
            if cell.task not in self.splits:
                self.splits[cell.task] = (read_joint_splits if cell.task == JOINT else read_splits)(settings)
            if self.is_recorded(cell, settings, training):
                return None
            print(f"{cell.name} …", flush=True)
            results = self.train(cell, words, settings, training)
            self.store.write(records_of(cell, results, self.command(cell)))
        return None

    def train(self, cell: Cell, words: list[str], settings: Any, training: FinetuningArguments) -> dict[str, Any]:
        """Train a run and return its results. Only the models of full fine-tuning and LoRA are kept."""
        output = Path(training.output_dir)
        if cell.row in METHODS:
            musicfm("finetune", *recipes(cell.task, cell.method), *words)
            for checkpoint in output.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
            return json.loads((output / "results.json").read_text())
        train = finetune_joint if cell.task == JOINT else train_probe
        results = train(settings, training, self.splits[cell.task]).results
        shutil.rmtree(output)
        return results

    def flags(self, cell: Cell) -> list[str]:
        """Return the flags of `musicfm finetune` for a run, the last two of which are its output folder."""
        arguments = self.arguments
        flags = ["--model", arguments.model, "--data", arguments.data, *shlex.split(FLAGS["all"])]
        if cell.task == JOINT:
            flags += ["--tasks", *STUDY, *shlex.split(FLAGS["joint"])]
        else:
            flags += ["--log_mel", "true"]
        if cell.row in METHODS:
            flags += shlex.split(FLAGS["finetuning"])
            if (rate := RATES.get(cell.row)) is not None:
                flags += rate_flags(rate)
            flags += arguments.finetuning_flags
        if "random" in cell.row:
            flags += ["--random_encoder", "true"]
        flags += ["--cache", arguments.cache, "--report_to", "none"]
        if cell.songs is not None:
            flags += ["--max_train_songs", str(cell.songs), "--songs_seed", str(cell.seed)]
        return [*flags, "--seed", str(cell.seed), "--output_dir", str(arguments.runs / cell.name)]

    def command(self, cell: Cell) -> str:
        """Return the command of a run, without absolute paths."""
        words = [*self.flags(cell)[:-1], f"{self.arguments.runs.name}/{cell.name}"]
        shown = strip_absolute_paths({"words": words})["words"]
        return shlex.join(["musicfm", "finetune", *recipes(cell.task, cell.method), *shown])

    def is_recorded(self, cell: Cell, settings: HeadArguments, training: FinetuningArguments) -> bool:
        """
        Return whether a run is in the store.

        Raises:
            ValueError: the run has other settings, another encoder or other songs.
        """
        run = self.store.read_run(next(iter(cell.records.values())))
        if run is None:
            return False
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{cell.name}.json"
            write_json(path, run)
            load_matching_results(path, settings, training, self.splits[cell.task], "--store")
        return True

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
        for cell in self.cells():
            record = runs.get(next(iter(cell.records.values())))
            if cell.row == BASELINE:
                names = [name for names in STUDY[cell.task]["scores"].values() for name in names]
                state = "recorded" if all(f"baseline_{name}" in runs for name in names) else "a few minutes"
            elif record is not None:
                state = f"recorded ({record['seconds'] / 60:.1f} min)"
            elif (estimate := expected_minutes(cell, runs)) is None:
                state, unknown = "unknown", unknown + 1
            else:
                state, minutes = f"{estimate:.1f} min", minutes + estimate
            lines.append(f"{cell.name:60} {state}")
        note = f", and {unknown} runs of a kind that no run has been recorded of" if unknown else ""
        return "\n".join([*lines, f"\n{minutes / 60:.1f} hours in one process{note}"])


def records_of(cell: Cell, results: dict[str, Any], command: str) -> dict[str, dict[str, Any]]:
    """Return the record of each task of a run, without the history of its training."""
    common = {"row": cell.row, "command": command} | results
    del common["history"]
    if cell.task != JOINT:
        return {cell.name: common}
    counts, by_task = results["data"]["songs"], ("scores", "calibration", "scores_of_songs")
    records = {}
    for task, name in cell.records.items():
        data = results["data"]["tasks"][task] | {"songs": {split: counts[f"{task}/{split}"] for split in SPLITS}}
        own = {key: {split: values[task] for split, values in results[key].items()} for key in by_task}
        records[name] = common | {"task": task, "data": data} | own
    return records


def expected_minutes(cell: Cell, runs: dict[str, Any]) -> float | None:
    """Return the median of recorded runs with the same method and, for probes of the spectrogram, the same task."""
    seconds = [
        run["seconds"]
        for run in runs.values()
        if "about" not in run
        and run["row"] in ROWS
        and (METHODS.get(run["row"], "probe"), run["row"] == LOG_MEL) == (cell.method, cell.row == LOG_MEL)
        and run["task"] == next(iter(cell.records))
    ]
    return median(seconds) / 60 if seconds else None


if __name__ == "__main__":
    main()
