"""Table of the recorded runs of benchmarks/retrieval.py: methods by scores of both tasks, with paired differences."""

from pathlib import Path
from typing import Any

import numpy as np
from reporting import markdown_table, write_report
from run_store import RunStore

from musicfm_hf.evaluation.bootstrap import bootstrap_interval, correct_intervals
from musicfm_hf.evaluation.retrieval import search_difference
from musicfm_hf.evaluation.retrieval_baselines import RETRIEVAL_BASELINES
from musicfm_hf.tasks.retrieval import METRIC, RETRIEVAL_TASKS, SCORES

MEANS = ("random encoder, mean", "pretrained, mean")
PROBE, FULL, LORA, ON_PAIRS = "pretrained probe", "full", "LoRA", "full on pairs"
FULL_PROBE = "full, then probe"  # of the second part of the head
RANDOM_PROBE = "random encoder, probe"
METHODS = {PROBE: "probe", FULL: "full", FULL_PROBE: "probe", LORA: "lora", ON_PAIRS: "full"}
LOSSES = {"InfoNCE": "info_nce", "VICReg": "vicreg"}
TRAINED = [f"{method}, {loss}" for method in METHODS for loss in LOSSES]
ROWS = [*RETRIEVAL_BASELINES, *MEANS, RANDOM_PROBE, *TRAINED]
SHOWN = ("map", "recall_at_1", "recall_at_10")
ENVIRONMENT = ("versions", "python", "machine")


def write_table(store: Path) -> None:
    """Write `retrieval.json` and `retrieval.md` beside a store, for its runs."""
    runs = RunStore(store).read()
    table: dict[str, dict[str, Any]] = {task: {} for task in RETRIEVAL_TASKS}
    songs: dict[str, dict[str, list]] = {}
    for task, cells in table.items():
        of_row = {row: [run for run in runs.values() if (run["task"], run["row"]) == (task, row)] for row in ROWS}
        of_row = {row: found for row, found in of_row.items() if found}
        for row, found in of_row.items():
            cells[row] = cell(found)
        songs[task] = {row: [run["scores_of_songs"]["test"] for run in found] for row, found in of_row.items()}
    values = {
        (task, f"{ours} − {theirs}"): search_difference(songs[task][theirs], songs[task][ours], METRIC)
        for task, cells in table.items()
        for ours, theirs in compared(cells)
    }
    corrected = correct_intervals({f"{task} {name}": value for (task, name), value in values.items()})
    differences: dict[str, dict[str, Any]] = {task: {} for task in table}
    for (task, name), value in values.items():
        differences[task][name] = value.summary() | corrected[f"{task} {name}"]
    results: dict[str, Any] = {"table": table, "differences": differences}
    last = next(reversed(runs.values()), {})
    results |= {key: last[key] for key in ENVIRONMENT if key in last}
    report = "\n".join([*(scores_table(cells) for cells in table.values()), differences_table(differences)])
    write_report(store.with_suffix(".json"), results, report)


def cell(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of a row on the test songs, averaged over seeds, with intervals over songs."""
    first = min(runs, key=lambda run: run.get("training", {}).get("seed", 0))
    tested = [run["scores_of_songs"]["test"] for run in runs]
    test = {}
    for name in SCORES:
        values = [np.mean([scores[song][name] for scores in tested]) for song in tested[0]]
        test[name] = {"mean": float(np.mean(values)), "interval": bootstrap_interval(values)}
    return {
        **{key: first[key] for key in ("command", "about", "chosen", "seconds", "trained_parameters") if key in first},
        "validation_score": first["scores"]["validation"][METRIC]["mean"],
        "test": test,
        "seeds": [run["scores"]["test"][METRIC]["mean"] for run in runs],
    }


def compared(cells: dict[str, Any]) -> list[tuple[str, str]]:
    """
    Return the pairs of rows whose difference is shown: the means and the best probe against the baselines and the
    random encoder, the best model with a trained encoder against the baselines, the other methods against the probe
    with the same loss, and the losses. The best are those on the validation songs.
    """

    def best(rows: list[str]) -> str:
        return max(rows, key=lambda row: cells[row]["validation_score"], default="")

    trained = [row for row in cells if row in TRAINED]
    probe = best([row for row in trained if row.startswith(PROBE)])
    pairs = [(MEANS[1], row) for row in ("mfcc", "chroma_fourier", MEANS[0])]
    pairs += [(probe, row) for row in (*RETRIEVAL_BASELINES, RANDOM_PROBE, MEANS[1])]
    pairs += [(best([row for row in trained if not row.startswith(PROBE)]), row) for row in RETRIEVAL_BASELINES]
    pairs += [(f"{method}, {loss}", f"{PROBE}, {loss}") for method in METHODS if method != PROBE for loss in LOSSES]
    pairs.append((f"{PROBE}, VICReg", f"{PROBE}, InfoNCE"))
    return [(ours, theirs) for ours, theirs in pairs if ours in cells and theirs in cells]


def scores_table(cells: dict[str, Any]) -> str:
    """Return a table of methods by scores on the test songs."""
    rows = []
    for row, values in cells.items():
        low, high = values["test"][METRIC]["interval"]
        shown = [f"{values['test'][name]['mean']:.3f}" for name in SHOWN]
        rows.append([row, shown[0], f"{low:.3f} to {high:.3f}", *shown[1:]])
    return markdown_table(["", "mAP", "95 % interval", "recall at 1", "recall at 10"], rows)


def differences_table(differences: dict[str, dict[str, Any]]) -> str:
    """Return a table of paired differences with their intervals."""
    rows = []
    for task, of_task in differences.items():
        for name, value in of_task.items():
            low, high = value["corrected_interval"]
            mean = f"{value['mean']:+.3f}"
            rows.append([task, name, f"**{mean}**" if value["holds"] else mean, f"{low:+.3f} to {high:+.3f}"])
    return markdown_table(["", "difference in mAP on test songs", "mean", "corrected 95 % interval"], rows)
