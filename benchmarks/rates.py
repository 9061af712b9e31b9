"""
Choose the learning rates of full fine-tuning and LoRA in benchmarks/tasks.py, on validation songs.

    python benchmarks/rates.py --model runs/small --data data/pop909 --runs runs/rates --validation_songs 50
    python benchmarks/rates.py --table --runs runs/rates  # only write the table of finished runs

Each row is trained with each rate, which heads and encoder (or LoRA's matrices) share, with the flags of
benchmarks/tasks.yaml and the first seed. The rate with the highest mean over the tasks' main scores on the validation
songs is chosen, for each row by itself; the scores on test songs are not read. benchmarks/tasks.yaml has the chosen
ones. An interrupted call can be repeated. Further flags, such as `--bf16 true`, apply to all runs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from probes import recipes
from processes import musicfm
from reporting import RESULTS, markdown_table, write_report
from tasks import METHODS, Cell, Study, rate_flags
from tasks_table import STUDY

from musicfm_hf.tasks import get_task

CANDIDATES = {"full": (1e-4, 3e-4, 1e-3), "lora": (1e-3, 3e-3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="pretrained encoder")
    parser.add_argument("--data", help="data set made by `musicfm prepare`")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the models")
    parser.add_argument("--rows", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--cache", default=".features", help="folder for features of frozen encoders")
    parser.add_argument("--store", type=Path, default=RESULTS, help="folder for the table")
    parser.add_argument("--table", action="store_true", help="do not train; only write the table of finished runs")
    arguments, arguments.finetuning_flags = parser.parse_known_args()
    study = Study(arguments)
    values: dict[str, dict[str, Any]] = {}
    for row in arguments.rows:
        cell = Cell(row)
        for rate in CANDIDATES[cell.method]:
            output = arguments.runs / f"{cell.name}_{rate:g}"
            if not arguments.table:
                train(study, cell, rate, output)
            if (output / "results.json").exists():
                values.setdefault(row, {})[f"{rate:g}"] = scores_of(output / "results.json")
    write_report(arguments.store / "rates.json", values, table(values))


def train(study: Study, cell: Cell, rate: float, output: Path) -> None:
    """Train a row with a rate, unless this has been done."""
    rates = [*rate_flags(rate), "--disable_tqdm", "true"]
    folders = ["--results", str(output.parent / "results"), "--output_dir", str(output)]
    musicfm("finetune", *recipes(cell.task, cell.method), *study.flags(cell), *rates, *folders)


def scores_of(results: Path) -> dict[str, Any]:
    """Return the main score of each task on the validation songs, their mean, and the number of steps."""
    run = json.loads(results.read_text(encoding="utf-8"))
    scores = {task: run["scores"]["validation"][task][get_task(task).metric]["mean"] for task in STUDY}
    return {"scores": scores, "mean": sum(scores.values()) / len(scores), "max_steps": run["training"]["max_steps"]}


def chosen(of_row: dict[str, Any]) -> str:
    """Return the rate with the highest mean."""
    return max(of_row, key=lambda rate: of_row[rate]["mean"])


def table(values: dict[str, dict[str, Any]]) -> str:
    """Return a table of rows and rates by tasks; the chosen rates are in bold type."""
    rows = []
    for row, of_row in values.items():
        for rate, run in of_row.items():
            name = f"**{rate}**" if rate == chosen(of_row) else rate
            rows.append([row, name, *(f"{score:.3f}" for score in run["scores"].values()), f"{run['mean']:.3f}"])
    columns = (f"{task}, {get_task(task).metric}" for task in STUDY)
    return markdown_table(["validation songs", "rate", *columns, "mean"], rows)


if __name__ == "__main__":
    main()
