"""Tables of benchmarks/chords.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reporting import markdown_table, write_report

COLUMNS = ("majmin", "root", "triads", "sevenths", "tetrads", "mirex")
WITH_BASS = ("majmin_inv", "thirds_inv", "triads_inv", "sevenths_inv", "tetrads_inv")
METRICS = (*COLUMNS, *WITH_BASS)
MIN_SECONDS = 20.0  # rarer types of chords are not shown


def write_table(path: Path, results: Mapping[str, Any]) -> None:
    """Write the results as JSON, and their tables as Markdown beside it."""
    write_report(path, results, report(results))


def report(results: Mapping[str, Any]) -> str:
    """Return the tables of scores, of differences and of types of chords."""
    systems, songs = results["systems"], results["songs"]
    parts = [f"{songs['test']} test songs of {results['data']}; mean over songs, with 95 % bootstrap intervals.\n"]
    for columns in (COLUMNS, WITH_BASS):
        rows = [
            [name, *(_interval(system["scores"][column]) for column in columns)] for name, system in systems.items()
        ]
        parts.append(markdown_table(["system", *columns], rows))
    first, differences = results["first"], results["differences"]["chord"]
    parts.append(
        f"Differences from {first}: paired bootstrap over songs, with Holm's correction for all differences; bold "
        "where 0 is outside.\n"
    )
    for columns in (COLUMNS, WITH_BASS):
        rows = [
            [name, *(_difference(differences[f"{column}: {name} − {first}"]) for column in columns)]
            for name in systems
            if name != first
        ]
        parts.append(markdown_table(["system", *columns], rows))
    parts.append(
        "Types of chords: the share of their time in which all tones and the bass are right (`tetrads_inv`); "
        "a quality without a bass includes its inversions.\n"
    )
    types = next(iter(systems.values()))["types"]
    rows = [
        [
            kind,
            f"{values['seconds']:.0f}",
            *(f"{system['types'][kind]['tetrads_inv']:.3f}" for system in systems.values()),
        ]
        for kind, values in types.items()
        if values["seconds"] >= MIN_SECONDS
    ]
    parts.append(markdown_table(["type", "seconds", *systems], rows))
    for name, system in systems.items():
        if "validation" in system:
            scores = ", ".join(f"{decoder} {value:.3f}" for decoder, value in system["validation"].items())
            parts.append(f"{name}: {system['metric']} on {songs['validation']} validation songs: {scores}.\n")
    commands = [command for system in systems.values() for command in system.get("commands", ())]
    parts.append("\n".join(["```bash", *commands, "```\n"]))
    return "\n".join(parts)


def _interval(value: Mapping[str, Any]) -> str:
    """Return a mean with its interval."""
    low, high = value["interval"]
    return f"{value['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _difference(value: Mapping[str, Any]) -> str:
    """Return a difference with its corrected interval, bold if 0 is outside."""
    low, high = value["corrected_interval"]
    text = f"{value['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"**{text}**" if value["holds"] else text
