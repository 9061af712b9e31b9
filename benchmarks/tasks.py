"""
Compare classical baselines, probes, full fine-tuning and LoRA on all tasks.

    python benchmarks/tasks.py --model runs/small --data data/pop909 --runs runs/tasks
    python benchmarks/tasks.py --table  # only write the table of recorded runs

The layer that a probe reads is chosen on the validation songs, both for the pretrained encoder and for the encoder
with random weights. Probes are trained with three seeds. All other runs use `musicfm finetune`, and their commands are
recorded with their scores. benchmarks/tasks.yaml specifies the flags and the columns of the table.

Runs are recorded in `songs.parquet` and `runs.json` in `--store`. Recorded runs are not repeated, so several processes
can share the work (`--tasks`, `--rows`); a recorded run with other settings, songs or another encoder raises an error.
Further flags, such as `--bf16 true`, apply to full fine-tuning and LoRA, whose models are kept in `--runs`. The script
writes `tasks.json` and `tasks.md` to the store; differences are over test songs, with the paired bootstrap. (The
weights of a random encoder depend on the seed, so its features are computed for each seed.)
"""

import argparse
import json
import shlex
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from probes import parse, recipes, train_probe
from processes import musicfm
from reporting import RESULTS
from run_store import RunStore
from tasks_table import BASELINE, FULL, LOG_MEL, LORA, RANDOM, ROWS, STUDY, write_table
from transformers import AutoConfig

from musicfm_hf.evaluation.baselines import score_data_set
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.run import read_splits
from musicfm_hf.finetuning.run_fingerprint import load_matching_results
from musicfm_hf.tasks import get_task
from musicfm_hf.training.files import write_json
from musicfm_hf.training.records import environment, strip_absolute_paths

SEEDS = (1, 2, 3)
METHODS = {FULL: "full", LORA: "lora"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="pretrained encoder")
    parser.add_argument("--data", help="data set made by `musicfm prepare`")
    parser.add_argument("--runs", type=Path, help="folder for the models of full fine-tuning and LoRA")
    parser.add_argument("--tasks", nargs="+", default=list(STUDY), choices=list(STUDY))
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--cache", default=".features", help="folder for features of frozen encoders")
    parser.add_argument("--store", type=Path, default=RESULTS, help="folder for recorded runs and the table")
    parser.add_argument("--table", action="store_true", help="do not train; only write the table of recorded runs")
    arguments, arguments.finetuning_flags = parser.parse_known_args()
    if not arguments.table:
        if missing := [name for name in ("model", "data", "runs") if getattr(arguments, name) is None]:
            parser.error(f"without --table, these are needed: {', '.join(f'--{name}' for name in missing)}")
        for task in arguments.tasks:
            study = Study(task, arguments)
            for row in arguments.rows:
                study.run_row(row)
    write_table(arguments.store)


class Study:
    """All runs for one task. The songs are read once."""

    def __init__(self, task: str, arguments: argparse.Namespace):
        self.task, self.arguments = task, arguments
        self.metric = get_task(task).metric
        self.store = RunStore(arguments.store)
        self.splits: dict[str, list] = {}

    def run_row(self, row: str) -> None:
        """Execute the runs that a row of the table needs and that the store does not have."""
        arguments = self.arguments
        flags = ["--model", arguments.model, "--data", arguments.data]
        flags += shlex.split(STUDY[self.task].get("flags", ""))
        if row == BASELINE:
            self.score_baselines()
        elif row in METHODS:
            flags += shlex.split(STUDY[self.task].get("finetuning", ""))
            self.run(row, [*flags, *arguments.finetuning_flags], 1)
        else:
            flags += ["--cache", arguments.cache, "--report_to", "none"]
            readers = self.readers(row)
            runs = [self.run(row, [*flags, *reader], SEEDS[0], reader) for reader in readers]
            best = readers[int(np.argmax([run["scores"]["validation"][self.metric]["mean"] for run in runs]))]
            for seed in SEEDS[1:]:
                self.run(row, [*flags, *best], seed, best)

    def readers(self, row: str) -> list[list[str]]:
        """Return the flags for each input of a probe: every hidden state and their learned sum, or the spectrogram."""
        if row == LOG_MEL:
            return [["--log_mel", "true"]]
        layers = range(AutoConfig.from_pretrained(self.arguments.model).num_hidden_layers + 1)
        readers = [*([f"--layer={layer}"] for layer in layers), ["--weighted_layer_sum", "true"]]
        return [[*reader, "--random_encoder", "true"] for reader in readers] if row == RANDOM else readers

    def run(self, row: str, flags: list[str], seed: int, reader: list[str] | None = None) -> dict[str, Any]:
        """Return a run, after training and recording it if necessary."""
        method = METHODS.get(row, "probe")
        reader_flags = [flag for flag in reader or [] if flag.startswith(("--layer", "--weighted"))]
        name = "_".join([self.task, row, *reader_flags, str(seed)])
        name = name.replace("--", "").replace(" ", "-").replace("=", "-")
        output = self.arguments.runs / name
        flags = [*flags, "--seed", str(seed), "--output_dir", str(output)]
        words = [*flags, "--disable_tqdm", "true", "--results", str(self.arguments.runs / "results")]
        settings, training = parse(self.task, method, words)
        self.splits = self.splits or read_splits(settings)
        if (results := self.recorded_run(name, settings, training)) is not None:
            return results
        print(f"{name} …", flush=True)
        if row in METHODS:
            musicfm("finetune", *recipes(self.task, method), *words)
            results = json.loads((output / "results.json").read_text())
        else:
            results = train_probe(settings, training, self.splits).results
            shutil.rmtree(output)
        shown = strip_absolute_paths({"words": [*flags[:-1], f"{self.arguments.runs.name}/{name}"]})["words"]
        command = shlex.join(["musicfm", "finetune", *recipes(self.task, method), *shown])
        self.store.write({name: {"row": row, "command": command} | results})
        scores = {split: averages[self.metric]["mean"] for split, averages in results["scores"].items()}
        print("  " + ", ".join(f"{split} {score:.4f}" for split, score in scores.items()), flush=True)
        return results

    def recorded_run(self, name: str, settings: TaskArguments, training: FinetuningArguments) -> dict[str, Any] | None:
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
            return load_matching_results(path, settings, training, self.splits, "--store")

    def score_baselines(self) -> None:
        """Score and record the classical baselines of the task on its test songs."""
        if any(run["task"] == self.task for run in self.store.read().values() if "about" in run):
            return
        results = score_data_set(self.arguments.data, "test", [self.task], num_workers=2)
        common = strip_absolute_paths({"data": self.arguments.data, "split": "test"})
        common |= {"librosa": version("librosa")} | environment()
        runs = {}
        for name, result in results.items():
            own_scores = {"scores": {"test": result["scores"]}, "scores_of_songs": {"test": result["songs"]}}
            about = {key: result[key] for key in ("task", "metric", "about")}
            runs[f"baseline_{name}"] = {"row": name} | common | about | own_scores
        self.store.write(runs)


if __name__ == "__main__":
    main()
