"""The page of a study in Markdown, written from its summary."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .plan import Study

MINUS = "−"


def report_page(study: Study, summary: Mapping[str, Any]) -> str:
    """
    Return the page of a study in Markdown.

    Args:
        study ([`Study`]): The study.
        summary: Output of [`summarize`][musicfm_hf.study.report.summarize].
    """
    parts = [
        "# What each choice of pretraining changes",
        _introduction(summary),
        "## Table",
        _table(study, summary),
        "## Factors",
        *(_factor(study, factor, summary) for factor in study.factors if len(study.factors[factor]) > 1),
    ]
    if study.findings:
        parts += ["## Findings", _findings(summary["findings"])]
    parts += ["![Differences from the base](study.png)", "Scores by layer: [layers.md](layers.md)."]
    return "\n\n".join(parts) + "\n"


def _introduction(summary: Mapping[str, Any]) -> str:
    """Describe the design, and the limits of the intervals."""
    cells, count = summary["cells"], len(summary["differences"])
    base = ", ".join(f"{factor} {level}" for factor, level in summary["base"].items())
    seeds = min((len(row["seeds"]) for row in summary["rows"].values()), default=0)
    sentences = [
        f"{cells['finished']} of {cells['planned']} cells are finished. The base is: {base}.",
        "Each score is that of a probe on test songs, which reads the layer that is best on validation songs, with "
        "its 95 % bootstrap interval over songs and seeds.",
        "Each difference compares a variant that changes one factor with the base, on the same songs. Holm's "
        f"procedure corrects the intervals of the {count} differences together, so that the probability of one or "
        "more wrong statements is about 5 % at most. A difference whose corrected interval includes 0 is called "
        "undecided; this does not show that two variants are equally good.",
    ]
    if seeds == 1:
        sentences.append(
            "Some or all variants have one seed: the intervals cover the choice of songs, and not how much another "
            "training of the same variant would differ."
        )
    return " ".join(sentences)


def _table(study: Study, summary: Mapping[str, Any]) -> str:
    """Return the table: rows of the paper, then rows of the study."""
    factors = list(study.factors)
    columns = [(task, metric) for task in study.tasks for metric in study.metrics(task)]
    header = ["", *factors, "weights", *(f"{task} {metric}" for task, metric in columns)]
    lines = [_line(header), _line(["---"] * len(header))]
    for name, row in study.paper.items():
        cells = [str(row["settings"].get(factor, "")) for factor in factors]
        values = [row["scores"].get(task, {}).get(metric) for task, metric in columns]
        shown = ["" if value is None else f"{value:.3f}" for value in values]
        lines.append(_line([f"{name} (paper)", *cells, str(row["settings"].get("weights", "")), *shown]))
    for variant, row in summary["rows"].items():
        scores = [row["scores"].get(task, {}).get(metric) for task, metric in columns]
        shown = ["" if score is None else _score(score) for score in scores]
        lines.append(
            _line([variant, *(row["levels"][factor] for factor in factors), f"{row['parameters'] / 1e6:.1f}M", *shown])
        )
    note = (
        "The rows of the paper come from other training music and other test songs: compare differences between rows, "
        "not scores."
    )
    return "\n".join(lines) + (f"\n\n{note}" if study.paper else "")


def _factor(study: Study, factor: str, summary: Mapping[str, Any]) -> str:
    """Return the heading and the paragraph of a factor."""
    base, *levels = study.factors[factor]
    sentences = []
    for level in levels:
        entries = [entry for entry in summary["differences"] if (entry["factor"], entry["level"]) == (factor, level)]
        if entries:
            described = "; ".join(map(describe_difference, entries))
            sentences.append(f"{level} instead of {base}: {described}.")
        else:
            sentences.append(f"{level} instead of {base}: not run.")
    sentences += [describe_finding(finding) for finding in summary["findings"] if finding["factor"] == factor]
    return f"### {factor.capitalize()}\n\n{' '.join(sentences)}"


def describe_difference(entry: Mapping[str, Any]) -> str:
    """
    Describe a difference with its corrected interval. It is called better or worse only if the interval excludes 0.
    """
    low, high = entry["corrected_interval"]
    word = ("better" if entry["mean"] > 0 else "worse") if entry["holds"] else "undecided"
    interval = f"[{_signed(low)}, {_signed(high)}]"
    return f"{entry['task']} ({entry['metric']}) {_signed(entry['mean'])} {interval}, {word}"


def describe_finding(finding: Mapping[str, Any]) -> str:
    """Describe a finding of the paper, and whether the study agrees with it."""
    text = f"The paper's finding: {finding['claim']}"
    if finding["paper_differences"]:
        first, second = finding["paper"]
        values = ", ".join(f"{task} {_signed(value)}" for task, value in finding["paper_differences"].items())
        text += f" (Its {second} minus {first}: {values}.)"
    by_verdict = {
        verdict: [task for task, own in finding["tasks"].items() if own == verdict]
        for verdict in ("agrees", "disagrees", "undecided")
    }
    parts = []
    if by_verdict["agrees"]:
        parts.append(f"agrees for {_list(by_verdict['agrees'])}")
    if by_verdict["disagrees"]:
        parts.append(f"disagrees for {_list(by_verdict['disagrees'])}")
    if by_verdict["undecided"]:
        parts.append(f"does not decide for {_list(by_verdict['undecided'])}")
    return f"{text} This study {_list(parts)}." if parts else f"{text} The variant has not been run."


def _findings(findings: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of findings and verdicts."""
    lines = [_line(["finding", "this study"]), _line(["---", "---"])]
    return "\n".join([*lines, *(_line([finding["claim"], finding["verdict"]]) for finding in findings)])


def _score(score: Mapping[str, Any]) -> str:
    low, high = score["interval"]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def _list(words: Sequence[str]) -> str:
    """Join words as in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
