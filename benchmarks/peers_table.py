"""Tables of the scores that benchmarks/peers.py recorded: one for the tools, and for each data set one per task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peer_methods import PEERS
from reporting import markdown_table, write_report
from run_store import RunStore
from tasks_table import ENVIRONMENT, STUDY

from musicfm_hf.evaluation.bootstrap import Difference, bootstrap_interval, correct_intervals
from musicfm_hf.evaluation.scoring import difference_of_systems
from musicfm_hf.tasks import get_task

MIN_SONGS = 10  # with fewer, neither scores nor differences are shown, because intervals would mean nothing
DRAWS = 40_000  # bootstrap samples of a difference; the smallest level after the correction needs many


def write_table(store: Path) -> None:
    """Write `peers.json` and `peers.md` beside a store, from its runs."""
    runs = list(RunStore(store).read().values())
    data = list(dict.fromkeys(run["data"] for run in runs))
    results: dict[str, Any] = {"tools": tools(runs), "data": {name: {} for name in data}}
    compared: dict[tuple, Difference] = {}
    for name in data:
        for task in STUDY:
            rows = rows_of([run for run in runs if (run["data"], run["task"]) == (name, task)])
            if any("test" in row for row in rows.values()):
                results["data"][name][task] = {label: describe(row) for label, row in rows.items()}
                compared |= {(name, task, *pair): value for pair, value in differences(task, rows).items()}
    corrected = correct_intervals({str(key): value for key, value in compared.items()})
    results["differences"] = [
        dict(zip(("data", "task", "metric", "ours", "theirs"), key, strict=True))
        | value.summary()
        | {"songs": value.songs}
        | corrected[str(key)]
        for key, value in compared.items()
    ]
    last = runs[-1] if runs else {}
    results |= {key: last[key] for key in ENVIRONMENT if key in last}
    write_report(store.with_suffix(".json"), results, report(results))


def tools(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the tools that were tried, with their licenses, and versions or reasons for their absence."""
    tried: dict[str, dict[str, Any]] = {}
    for run in runs:
        if "peer" in run:
            peer = PEERS[run["peer"]]
            licenses = {"code": peer.code, "weights": peer.weights, "source": peer.source, "remark": peer.remark}
            entry = tried.setdefault(run["peer"], licenses | {"tasks": []})
            entry |= {key: run[key] for key in ("version", "packages", "reason") if key in run}
            if run["task"] not in entry["tasks"]:
                entry["tasks"].append(run["task"])
    return {name: tried[name] for name in PEERS if name in tried}


def rows_of(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """
    Return the rows of a table: name → entries of the first run, and `runs`, the scores of songs of each run. Runs of
    ours with several seeds are one row.
    """
    rows: dict[str, dict[str, Any]] = {}
    for run in runs:
        row = rows.setdefault(run["row"], run | {"runs": []})
        if run.get("scores_of_songs"):
            row["runs"].append(run["scores_of_songs"][run["split"]])
            row["test"] = run["scores"][run["split"]]
    return rows


def describe(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a row for JSON."""
    keys = ("about", "peer", "version", "choice", "validation", "errors", "reason", "trained_on", "songs")
    entry = {key: row[key] for key in keys if key in row}
    if "test" in row:
        songs = list(row["runs"][0])
        entry |= {"analyzed": len(songs), "seeds": len(row["runs"]), "ours": row.get("ours", False)}
        entry["in_domain"] = row.get("trained_on") == row["data"]
        shown = STUDY[row["task"]]["scores"] if len(songs) >= MIN_SONGS else ()
        entry["test"] = {name: score(row, name) for name in shown if name in row["test"]}
    return entry


def score(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the mean of a score over songs and runs, with its 95 % interval over songs."""
    values = [
        np.mean([get_task(row["task"]).song_value(run[song], name) for run in row["runs"]]) for song in row["runs"][0]
    ]
    return {"mean": float(np.nanmean(values)), "interval": bootstrap_interval(values)}


def differences(task: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str, str], Difference]:
    """
    Return the difference between each of our rows and each tool, for each score that both have, on the songs that both
    have.
    """
    result = {}
    scored = {label: row for label, row in rows.items() if "test" in row}
    for metric in STUDY[task]["scores"]:
        for ours in (label for label, row in scored.items() if row.get("ours")):
            for theirs in (label for label, row in scored.items() if not row.get("ours")):
                pair = [scored[label]["runs"] for label in (theirs, ours)]
                songs = [song for song in pair[0][0] if all(song in run for runs in pair for run in runs)]
                if len(songs) >= MIN_SONGS and all(metric in run[songs[0]] for runs in pair for run in runs):
                    shared = [[{song: run[song] for song in songs} for run in runs] for runs in pair]
                    result[metric, ours, theirs] = difference_of_systems(task, *shared, metric, DRAWS)
    return result


def report(results: Mapping[str, Any]) -> str:
    """Return the tables as Markdown, from the content of `peers.json`."""
    parts = [tools_table(results["tools"])]
    for data, tasks in results["data"].items():
        parts.append(headline(data, tasks))
        parts += [scores_table(task, rows) for task, rows in tasks.items()]
        rows = [row for row in results["differences"] if row["data"] == data]
        if rows:
            parts.append(differences_table(rows))
    return "\n".join(parts)


def tools_table(tried: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the tools: versions, licenses, or why they are missing."""
    rows = []
    for name, entry in tried.items():
        version = entry["reason"] if "reason" in entry else entry["version"]
        weights = entry["weights"]
        rows.append(
            [
                f"[{name}]({entry['source']})",
                ", ".join(entry["tasks"]),
                version,
                entry["code"],
                weights,
                entry["remark"],
            ]
        )
    return markdown_table(["tool", "tasks", "version", "license of the code", "of the weights", "installed"], rows)


def headline(data: str, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the heading of a data set, with a sentence about the songs that the systems know."""
    ours = [row for rows in tasks.values() for row in rows.values() if row.get("ours")]
    if any(row["in_domain"] for row in ours):
        text = (
            "Our models were trained on other songs of this data set, and are in domain; the tools were not, and had "
            "to work with music that is new to them."
        )
    elif ours:
        text = "Neither our models nor the tools were trained on songs of this data set."
    else:
        text = "No tool was trained on songs of this data set."
    if ours:
        seeds = " or ".join(map(str, sorted({row["seeds"] for row in ours})))
        text += f" Each of our rows is {'one run' if seeds == '1' else f'the mean of {seeds} runs'}."
    return f"### Songs of {data}\n\n{text}\n"


def scores_table(task: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of systems by scores of a task, the best first, and at the end those that do not run."""
    names = list(STUDY[task]["scores"])
    main = get_task(task).metric
    scored = [label for label, row in rows.items() if "test" in row]
    lines = []
    means = {label: rows[label]["test"].get(main, {"mean": 0})["mean"] for label in scored}
    for label in sorted(scored, key=means.__getitem__, reverse=True):
        row = rows[label]
        domain = "yes" if row["in_domain"] else "no"
        analyzed = f"{row['analyzed']} of {row['songs']}" if row.get("songs", 0) > row["analyzed"] else row["analyzed"]
        setting = f" {row['choice']}" if row.get("validation") else ""
        cells = [with_interval(row["test"][name]) if name in row["test"] else "" for name in names]
        lines.append([f"**{label}**" if row["ours"] else f"{label}{setting}", domain, str(analyzed), *cells])
    lines += [[label, "", row["reason"], *[""] * len(names)] for label, row in rows.items() if "reason" in row]
    header = [f"{task}: system", "trained on these data", "songs", *(f"{name} [95 % interval]" for name in names)]
    return markdown_table(header, lines)


def with_interval(score: Mapping[str, Any]) -> str:
    low, high = score["interval"]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"


def differences_table(rows: list[Mapping[str, Any]]) -> str:
    """Return a table of the differences between our rows and the tools."""
    lines = []
    for row in rows:
        low, high = row["corrected_interval"]
        name = f"{row['metric']}: {row['ours']} − {row['theirs']}"
        limits = f"{low:+.3f} to {high:+.3f}"
        lines.append([name, str(row["songs"]), f"{row['mean']:+.3f}", limits, "yes" if row["holds"] else "no"])
    return markdown_table(["difference", "songs", "mean", "95 % interval after Holm", "excludes 0"], lines)
