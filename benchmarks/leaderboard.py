"""
Write the leaderboard: systems by scores of tasks, one table for each data set.

    musicfm evaluate my_model --data data/pop909 --output_file benchmarks/results/my_model.json
    python benchmarks/leaderboard.py

To add a system, save its scores as JSON in benchmarks/results, with `musicfm evaluate` or another command that
scores whole songs and gives intervals, and describe it in benchmarks/leaderboard.yaml. Scores are not typed in: an
entry names the place of each one. The script writes `leaderboard.md`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fill_numbers import evaluate
from reporting import RESULTS, markdown_table

from musicfm_hf.tasks import get_task
from musicfm_hf.training.files import write_text

ENTRIES = Path(__file__).with_name("leaderboard.yaml")
FIELDS = {"system": str, "data": str, "training": str, "weights": str, "command": str, "scores": dict}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_file", type=Path, default=RESULTS / "leaderboard.md")
    text = tables(read_entries(ENTRIES), RESULTS)
    write_text(parser.parse_args().output_file, text)
    print(text)


def read_entries(path: Path) -> list[dict[str, Any]]:
    """
    Read the entries of a leaderboard.

    Raises:
        ValueError: an entry lacks a field, has another one, or names a task that does not exist.
    """
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    for number, entry in enumerate(entries, start=1):
        name = f"Entry {number} ({entry.get('system', 'without a system')}) of {path.name}"
        if entry.keys() != FIELDS.keys():
            raise ValueError(f"{name} must have the fields {', '.join(FIELDS)}, got {', '.join(entry)}.")
        for field, kind in FIELDS.items():
            if not isinstance(entry[field], kind) or not entry[field]:
                raise ValueError(f"{name}: `{field}` must be a {kind.__name__} that is not empty.")
        for score in entry["scores"]:
            task, _, metric = score.partition(" ")
            if not metric:
                raise ValueError(f"{name}: a score is a task and a metric, such as `chord majmin`, got {score!r}.")
            get_task(task)  # raises if the task does not exist
    return entries


def tables(entries: Sequence[Mapping[str, Any]], results: Path) -> str:
    """Return a table for each data set, with an interval under each score."""
    parts = []
    for data in dict.fromkeys(entry["data"] for entry in entries):
        of_data = [entry for entry in entries if entry["data"] == data]
        scores = list(dict.fromkeys(score for entry in of_data for score in entry["scores"]))
        header = [data, *(score.replace(" ", ", ") for score in scores), "training", "weights"]
        rows = [
            [entry["system"], *cells, entry["training"], entry["weights"]]
            for entry in of_data
            for cells in [[_score(entry["scores"].get(score), results) for score in scores]]
        ]
        parts.append(markdown_table(header, rows))
    return "\n".join(parts)


def _score(path: str | None, results: Path) -> str:
    """Return a score with its interval, from a JSON object with `mean` and `interval`; empty without a path."""
    if path is None:
        return ""
    value = evaluate(path, results)
    low, high = value["interval"]
    return f"{value['mean']:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
