"""
Claims of a page: sentences that compare, each with a comment that names what is compared.

    The probe of pretrained weights is better.<!-- claim: POP909 chord majmin: probe (pretrained) > probe (random) -->

A claim names the data, the task, the score, optionally the number of labeled songs (`at 24 songs`), and two rows of
the recorded differences: `>` if the first one is better, `<` if it is worse, both after the correction for all
differences, and `~` if the corrected interval includes 0. Several are separated by semicolons. A sentence that
compares something else has a comment with the reason: `<!-- no claim: … -->`.
"""

import re
from collections.abc import Mapping
from typing import Any

from fill_numbers import FENCE

# Data, or a study on them → name of the results with its differences.
SOURCES = {"POP909": "tasks", "vocabularies": "chords"}
# "Beats" is also what songs have. As a verb, it has an object.
COMPARING = re.compile(
    r"\b(better|worse|above|below|higher|lower|ahead|"
    r"beats (?=(?:the|an?|all|every|each|both|its|chance|random|pretrained|full|LoRA)\b))",
    re.IGNORECASE,
)
COMMENT = re.compile(r"<!-- (claim|no claim): (.+?) -->")
CLAIM = re.compile(r"(\S+) (\S+) (\w+)(?: at (\d+) songs)?: (.+?) ([<>~]) (.+)")
SENTENCE = re.compile(r".+?(?:[.!?:](?:\s*<!-- (?:claim|no claim): .+? -->)+|[.!?](?=\s|$)|$)", re.DOTALL)


def sentences(text: str) -> list[str]:
    """Sentences of a page with their comments, without code, tables, headings and marks of numbers."""
    text = re.sub(r"<!-- results: .*?<!-- end -->", "", FENCE.sub("", text), flags=re.DOTALL)
    text = re.sub(r"<!-- (?:number: .+?|end) -->", "", text)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )|\n(?=#)", text)
    paragraphs = [block for block in blocks if not block.lstrip().startswith(("#", "|", "!["))]
    return [found.strip() for block in paragraphs for found in SENTENCE.findall(block.strip()) if found.strip()]


def check_sentence(sentence: str, results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The problem of a sentence, or `None`. `results` are those of each source."""
    comments = COMMENT.findall(sentence)
    if not comments:
        words = COMPARING.search(COMMENT.sub("", sentence))
        return None if words is None else f"compares ({words[0].strip()!r}), but names no claim: {sentence}"
    problems = [
        check_claim(claim.strip(), results)
        for kind, claims in comments
        if kind == "claim"
        for claim in claims.split(";")
    ]
    return next((problem for problem in problems if problem), None)


def check_claim(claim: str, results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The problem of a claim, or `None` if the recorded differences support it."""
    match = CLAIM.fullmatch(claim)
    if match is None or match[1] not in SOURCES:
        return f"has another form than `DATA TASK SCORE: ROW > ROW`: {claim}"
    data, task, score, songs, ours, sign, theirs = match.groups()
    differences = results[SOURCES[data]]["differences"].get(task, {})
    start = score if songs is None else f"{score}, {songs} songs"
    value, direction = differences.get(f"{start}: {ours} − {theirs}"), 1
    if value is None:
        value, direction = differences.get(f"{start}: {theirs} − {ours}"), -1
    if value is None:
        return f"is not among the recorded differences: {claim}"
    low, high = value["corrected_interval"]
    if sign == "~":
        return None if low <= 0 <= high else f"has a corrected interval of {low:+.3f} to {high:+.3f}: {claim}"
    direction *= 1 if sign == ">" else -1
    if min(low * direction, high * direction) > 0:
        return None
    return f"has a corrected interval of {low:+.3f} to {high:+.3f}, which does not support it: {claim}"
