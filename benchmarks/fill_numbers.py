"""
Fill README.md and docs/ with measured tables and numbers, or check that they still agree with benchmarks/results.

    python benchmarks/fill_numbers.py              # write them, as `make numbers` does
    python benchmarks/fill_numbers.py --check      # fail if a document differs from the results
    python benchmarks/fill_numbers.py --unmarked   # list numbers with decimals or units that have no mark

A table is placed between two marks, each on its own line. It is `benchmarks/results/NAME.md` or, with a number after
the name, one block of that file (blocks are separated by empty lines; the first is 1):

    <!-- results: tasks 1 -->

    | written | by this script |

    <!-- end -->

A number, or a text such as the name of a machine, is placed between two marks within a line. The mark contains the
file and the keys of the value, separated by slashes. Items of a list are selected by their index (`-1` is the last)
or by their values (`way=plain&batch_size=1`):

    Chords: <!-- number: tasks/earlier/chord/pretrained probe/test/majmin -->.869<!-- end --> of the time, after
    <!-- number: pretraining_small/seconds / 60 -->52.8<!-- end --> minutes

The number keeps the format of the one that it replaces: decimals, leading zero, sign and thousands separators. For a
new number, write zeros in that format (`.000`, `+0.00`, `0,000`).

A value can be scaled (` * 100`, ` / 60`), or combined with another by division or subtraction (`FILE/KEY / FILE/KEY`),
from left to right. `min`, `max` and `mean` aggregate over all keys or items that have the rest of the path:
`min(tasks/earlier/*/full/seconds) / 60`. The mark of a number cannot begin a line or a list item, because Markdown
would treat the comment as a block of HTML. Fenced code is not changed.
"""

import argparse
import difflib
import json
import re
import statistics
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.DOTALL | re.MULTILINE)
TABLE = re.compile(r"^<!-- results: (\w+)(?: (\d+))? -->\n.*?^<!-- end -->$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(<!-- number: (.+?) -->)(.*?)(<!-- end -->)")
MARK = re.compile(r"<!-- (?:results:|number:|end -->)")
AT_LINE_START = re.compile(r"^\s*(?:(?:[-*+>]|\d+[.)])\s+)*<!-- number: .*$", re.MULTILINE)
SHAPE = re.compile(r"(?P<sign>[+−-]?)(?P<whole>[\d,]*)(?:\.(?P<decimals>\d+))?")
OPERATOR = re.compile(r" ([*/-]) ")
COLLECTION = re.compile(r"(min|max|mean)\((.+)\)")
COLLECT: dict[str, Callable] = {"min": min, "max": max, "mean": statistics.fmean}
UNITS = "ms|s|min|minutes?|hours?|h|MB|GB|%|MHz"
MEASURED = re.compile(rf"(?<![\w.,/-])[+−-]?(?:\d*\.\d+|\d+(?= ?(?:{UNITS})\b))")


class NumbersError(ValueError):
    """A mark that cannot be filled."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", type=Path, help="README.md and docs/**/*.md by default")
    parser.add_argument("--check", action="store_true", help="write nothing; fail on any difference")
    parser.add_argument("--unmarked", action="store_true", help="list measured numbers that have no mark")
    arguments = parser.parse_args()
    problems = []
    for document in arguments.documents or documents(ROOT):
        text = document.read_text(encoding="utf-8")
        if arguments.unmarked:
            problems += [f"{document}:{line}" for line in unmarked(text)]
            continue
        try:
            filled = fill(text)
        except NumbersError as error:
            problems.append(f"{document}: {error}")
            continue
        if arguments.check:
            problems += [f"{document}:{line}" for line in differences(text, filled)]
        elif filled != text:
            from musicfm_hf.training.files import write_text

            write_text(document, filled)
    if problems:
        raise SystemExit("\n".join(problems))


def documents(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def fill(text: str, results: Path = RESULTS) -> str:
    """
    Return a Markdown document with all marked tables and numbers filled from `results`.

    Raises:
        NumbersError: a mark names a file, a key or a table that does not exist, is where Markdown would not treat it
            as a comment within a line, or has no counterpart.
    """
    return "".join(part if is_code else _fill_prose(part, results) for part, is_code in split_at_code(text))


def differences(text: str, filled: str) -> list[str]:
    """Return the changed lines of a document, as `number of the line: is …, should be …`."""
    present, wanted = text.splitlines(), filled.splitlines()
    matcher = difflib.SequenceMatcher(None, present, wanted, autojunk=False)
    return [
        "\n  ".join([f"{start + 1}: is", *present[start:end], "should be", *wanted[new_start:new_end]])
        for kind, start, end, new_start, new_end in matcher.get_opcodes()
        if kind != "equal"
    ]


def unmarked(text: str) -> list[str]:
    """Return the numbers with decimals or units outside of marks, code and links, as `line: number in: text`."""
    text = "".join(_blank(part) if is_code else part for part, is_code in split_at_code(text))
    for pattern in (TABLE, NUMBER, re.compile(r"`[^`\n]*`"), re.compile(r"\]\([^)]*\)"), re.compile(r"https?://\S+")):
        text = pattern.sub(lambda match: _blank(match[0]), text)
    return [
        f"{line}: {match[0]} in: {content.strip()}"
        for line, content in enumerate(text.splitlines(), 1)
        for match in MEASURED.finditer(content)
    ]


def split_at_code(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a document, and whether each is fenced code."""
    end = 0
    for match in FENCE.finditer(text):
        yield text[end : match.start()], False
        yield match[0], True
        end = match.end()
    yield text[end:], False


def _fill_prose(text: str, results: Path) -> str:
    if match := AT_LINE_START.search(text):
        raise NumbersError(f"A line or list item begins with a mark; put a word before it: {match[0].strip()}")
    left_over = MARK.search(NUMBER.sub("", TABLE.sub("", text)))
    if left_over:
        raise NumbersError(f"A mark has no counterpart or is not on its own line: {text_around(text, left_over[0])}")
    text = TABLE.sub(lambda match: _table(results, match[1], match[2]), text)
    return NUMBER.sub(lambda match: match[1] + shaped(evaluate(match[2], results), match[3]) + match[4], text)


def text_around(text: str, mark: str) -> str:
    return next(line for line in text.splitlines() if mark in line).strip()


def _table(results: Path, name: str, block: str | None) -> str:
    path = results / f"{name}.md"
    if not path.is_file():
        raise NumbersError(
            f"No table is called {name}; there are {', '.join(sorted(p.stem for p in results.glob('*.md')))}."
        )
    table = path.read_text(encoding="utf-8").strip()
    blocks = table.split("\n\n")
    if block is not None:
        if not 1 <= int(block) <= len(blocks):
            raise NumbersError(f"{path.name} has {len(blocks)} blocks, and no block {block}.")
        table = blocks[int(block) - 1]
    return f"<!-- results: {name}{f' {block}' if block else ''} -->\n\n{table}\n\n<!-- end -->"


def evaluate(expression: str, results: Path = RESULTS) -> Any:
    """Return the value of an expression of paths and numbers, as described in the docstring of this module."""
    first, *rest = OPERATOR.split(expression)
    value = _operand(first, results)
    for operator, text in zip(rest[::2], rest[1::2], strict=True):
        operand = _operand(text, results)
        value = {"*": lambda a, b: a * b, "/": lambda a, b: a / b, "-": lambda a, b: a - b}[operator](value, operand)
    return value


def _operand(text: str, results: Path) -> Any:
    if re.fullmatch(r"\d+(\.\d+)?(e\d+)?", text):
        return float(text)
    if match := COLLECTION.fullmatch(text):
        return COLLECT[match[1]](_values(match[2], results))
    values = _values(text, results)
    if len(values) != 1:
        raise NumbersError(f"{text} has {len(values)} values: wrap it in min(…), max(…) or mean(…).")
    return values[0]


def _values(path: str, results: Path) -> list[Any]:
    """Return the values at a path; with `*`, of all keys or items that have the rest of the path."""
    name, *keys = path.split("/")
    if not (results / f"{name}.json").is_file():
        raise NumbersError(f"{path}: benchmarks/results has no {name}.json.")
    values, optional = [_load(results / f"{name}.json")], False
    for key in keys:
        if key == "*":
            values = [item for value in values for item in (value.values() if isinstance(value, dict) else value)]
            optional = True
            continue
        found = [item for value in values for item in _items(value, key)]
        if not found or (len(found) < len(values) and not optional):
            known = list(values[0]) if isinstance(values[0], dict) else f"a list of {len(values[0])}"
            raise NumbersError(f"{path}: nothing is called {key!r}; there is {known}.")
        values = found
    return values


@cache
def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _items(value: Any, key: str) -> list[Any]:
    """Return the value of a key or, in a list, the item with an index or with all values of `name=value&…`."""
    if isinstance(value, dict):
        return [value[key]] if key in value else []
    if re.fullmatch(r"-?\d+", key):
        return [value[int(key)]] if -len(value) <= int(key) < len(value) else []
    wanted = dict(part.split("=", 1) for part in key.split("&"))
    return [item for item in value if all(str(item.get(name)) == text for name, text in wanted.items())]


def shaped(value: Any, example: str) -> str:
    """Format a number with the decimals, leading zero, sign and separators of an example. Return text unchanged."""
    if isinstance(value, str):
        return value
    shape = SHAPE.fullmatch(example)
    if shape is None or not (shape["whole"] or shape["decimals"]):
        raise NumbersError(f"Replace {example!r} with a number in the shape that {value} should have, such as 0.000.")
    separator = "," if "," in shape["whole"] else ""
    digits = f"{abs(value):{separator}.{len(shape['decimals'] or '')}f}"
    if not shape["whole"] and digits.startswith("0."):
        digits = digits[1:]
    minus = "-" if shape["sign"] == "-" else "−"
    return (minus if value < 0 else "+" if shape["sign"] else "") + digits


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


if __name__ == "__main__":
    main()
