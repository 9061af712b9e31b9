"""Numbers in README.md and docs/ are those of benchmarks/results."""

import json
import re
import subprocess
import sys
from pathlib import Path

import fill_numbers as numbers
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = Path(numbers.__file__)


@pytest.fixture
def results(tmp_path) -> Path:
    runs = {"probe": {"majmin": 0.8694, "seconds": 600}, "full": {"majmin": 0.9162, "seconds": 5760}}
    steps = [{"way": "plain", "batch": 1, "seconds": 22.9}, {"way": "ours, fused", "batch": 1, "seconds": 23.5}]
    values = {"runs": runs, "steps": steps, "weights": 3670464, "difference": -0.0144, "machine": "2 cores"}
    (tmp_path / "made.json").write_text(json.dumps(values))
    (tmp_path / "made.md").write_text("2 cores.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n| c |\n| --- |\n| 3 |\n")
    return tmp_path


def test_documents_agree_with_the_results():
    subprocess.run([sys.executable, SCRIPT, "--check"], check=True)


@pytest.mark.parametrize("document", numbers.documents(ROOT), ids=lambda path: path.name)
def test_a_changed_digit_fails(document):
    text = document.read_text(encoding="utf-8")
    for match in [*numbers.NUMBER.finditer(text), *numbers.TABLE.finditer(text)]:
        start, end = match.span()
        content = match.span(3) if match.re is numbers.NUMBER else (text.index("-->", start), end)
        digit = re.compile(r"\d").search(text, *content)
        if digit is not None:
            changed = text[: digit.start()] + str((int(digit[0]) + 1) % 10) + text[digit.end() :]
            assert numbers.differences(changed, numbers.fill(changed)), match[0][:200]


def test_a_changed_digit_is_named_with_its_line(tmp_path):
    text = "Two lines,\nand <!-- number: pretraining_small/scores/eval_accuracy -->.175<!-- end --> in the second.\n"
    document = tmp_path / "page.md"
    document.write_text(text)
    command = [sys.executable, SCRIPT, document]
    check = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 1
    assert f"{document}:2: is" in check.stderr
    assert document.read_text() == text
    subprocess.run(command, check=True)
    assert document.read_text() == text.replace(".175", ".174")
    subprocess.run([*command, "--check"], check=True)


@pytest.mark.parametrize(
    ("mark", "shape", "written"),
    [
        ("made/runs/probe/majmin", ".000", ".869"),
        ("made/runs/probe/majmin", "0.00", "0.87"),
        ("made/runs/probe/majmin * 100", "0", "87"),
        ("made/runs/full/majmin - made/runs/probe/majmin", "+.000", "+.047"),
        ("made/runs/full/seconds / 60", "0", "96"),
        ("min(made/runs/*/seconds) / 60", "0", "10"),
        ("max(made/runs/*/seconds) / 60", "0", "96"),
        ("mean(made/steps/*/seconds)", "0.0", "23.2"),
        ("made/steps/way=ours, fused&batch=1/seconds / made/steps/0/seconds", "0.00", "1.03"),
        ("made/steps/-1/seconds", "0.0", "23.5"),
        ("made/difference", ".000", "−.014"),
        ("made/difference", "+.000", "−.014"),
        ("made/difference", "-0.00", "-0.01"),
        ("made/weights", "0,000", "3,670,464"),
        ("made/weights / 1e6", "0.0", "3.7"),
        ("made/machine", "a machine", "2 cores"),
    ],
)
def test_a_number_takes_the_shape_of_the_present_one(results, mark, shape, written):
    text = f"a <!-- number: {mark} -->{shape}<!-- end --> b"
    assert numbers.fill(text, results) == f"a <!-- number: {mark} -->{written}<!-- end --> b"


def test_tables_are_filled_whole_or_by_block(results):
    text = "<!-- results: made 2 -->\n<!-- end -->\n\nand\n\n<!-- results: made -->\nold\n<!-- end -->\n"
    second, whole = "| a | b |\n| --- | --- |\n| 1 | 2 |", (results / "made.md").read_text().strip()
    expected = f"<!-- results: made 2 -->\n\n{second}\n\n<!-- end -->\n\nand\n\n"
    expected += f"<!-- results: made -->\n\n{whole}\n\n<!-- end -->\n"
    assert numbers.fill(text, results) == expected
    assert numbers.fill(expected, results) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <!-- number: none/a -->.0<!-- end -->", "no none.json"),
        ("a <!-- number: made/runs/lora/majmin -->.0<!-- end -->", "nothing is called 'lora'; .*'probe', 'full'"),
        ("a <!-- number: made/runs/*/majmin -->.0<!-- end -->", "2 values"),
        ("a <!-- number: made/weights -->many<!-- end -->", "in the shape"),
        ("<!-- number: made/weights -->0<!-- end --> weights", "begins with a mark"),
        ("- <!-- number: made/weights -->0<!-- end --> weights", "begins with a mark"),
        ("a <!-- number: made/weights -->0", "no counterpart"),
        ("<!-- results: made 5 -->\n<!-- end -->", "has 3 blocks"),
        ("<!-- results: none -->\n<!-- end -->", "No table is called none"),
        ("a <!-- results: made -->\n<!-- end -->", "on its own line"),
    ],
)
def test_marks_that_cannot_be_filled_are_errors(results, text, message):
    with pytest.raises(numbers.NumbersError, match=message):
        numbers.fill(text, results)


def test_code_is_left_alone_and_measured_numbers_without_a_mark_are_found(results):
    text = "```\n<!-- number: none -->.5<!-- end -->\n```\n"
    text += "It takes 0.5 s, <!-- number: made/weights -->3670464<!-- end -->, `0.1`.\n"
    assert numbers.fill(text, results) == text
    assert [line.split(" in: ")[0] for line in numbers.unmarked(text)] == ["4: 0.5"]
