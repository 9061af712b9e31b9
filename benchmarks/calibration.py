"""
Compare the probabilities of models with the share of their results that is right, before and after calibration.

    musicfm finetune beat/probe small/probe --model runs/small --data data/pop909 --output_dir runs/beat
    python benchmarks/calibration.py results/beat.json results/chord.json

It reads the files that `musicfm finetune` writes. The models are calibrated on validation songs; the table is about
test songs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from reporting import RESULTS, markdown_table, write_report

SPLIT = "test"
# Settings of the runs that are named in the results.
SETTINGS = ("method", "layer", "limit", "max_train_songs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE", help="results of `musicfm finetune`")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "calibration.json")
    arguments = parser.parse_args()
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.results]
    rows = {run["task"]: summary_of(run) for run in runs}
    write_report(arguments.output_file, {"rows": rows}, report(rows))


def summary_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return the calibration of a run, its data, and its settings."""
    return {
        "calibration": run["calibration"][SPLIT],
        "base": run["base"]["name"],
        "data": run["data"]["name"],
        "songs": run["data"]["songs"],
        "settings": {name: run["settings"].get(name) for name in SETTINGS},
        "versions": run["versions"],
        "machine": run["machine"],
    }


def report(rows: dict[str, dict[str, Any]]) -> str:
    """Return the table, with a row for each result."""
    cells = []
    for task, row in rows.items():
        for name, summary in row["calibration"].items():
            low, high = summary["ece"]["interval"]
            uncertain = summary.get("uncertain")
            marks = ["", ""] if uncertain is None else [percent(uncertain["share"]), percent(uncertain["right"])]
            cells.append(
                [
                    name.replace("_", " "),
                    task,
                    f"{summary['items']}",
                    percent(summary["right"]),
                    f"{summary['ece_before']['mean']:.3f}",
                    f"{summary['ece']['mean']:.3f} [{low:.3f}, {high:.3f}]",
                    *marks,
                ]
            )
    header = ["", "task", "items", "right", "ECE before", "ECE", "uncertain", "right, of these"]
    return markdown_table(header, cells)


def percent(share: float | None) -> str:
    """Return a share in percent, or an empty string if there are no items."""
    return "" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
