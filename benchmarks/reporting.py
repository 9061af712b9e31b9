"""Write the results of a benchmark to a JSON file and a Markdown file with the same name."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from musicfm_hf.training.files import write_json, write_text

RESULTS = Path(__file__).parent / "results"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table that ends with a line break."""
    lines = ["| " + " | ".join(header).lstrip() + " |", "| --- |" + " --- |" * (len(header) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def write_report(path: Path, values: Any, report: str) -> None:
    """Write values to a JSON file and the report to a Markdown file beside it, and print the report."""
    write_json(path, values)
    write_text(path.with_suffix(".md"), report)
    print(report)
