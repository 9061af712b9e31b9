"""The front page and the map in CONTRIBUTING describe the package as it is."""

import re

from helpers.paths import ROOT
from helpers.structure import STEPS

from musicfm_hf.cli.main import COMMANDS

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_front_page_is_short():
    assert len(README.splitlines()) <= 150


def test_the_front_page_lists_the_commands_with_their_summaries():
    rows = re.findall(r"^\| \[`musicfm ([\w-]+)`\]\(docs/[\w-]+\.md\) \| (.+) \|$", README, re.MULTILINE)
    assert dict(rows) == COMMANDS


def test_the_map_names_every_folder():
    folders = set().union(*STEPS)
    first_cells = re.findall(r"^\| (`.+`) \|", CONTRIBUTING, re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`([\w-]+)`", cell)}
    assert folders <= named
    assert {"recipes", "hub_cards", "docs", "notebooks", "benchmarks", "tests"} <= named


def test_the_map_states_the_order_of_imports():
    order = re.search(r"^    (model, training < .+?)\n\n", CONTRIBUTING, re.MULTILINE | re.DOTALL)[1]
    steps = [{name.strip() for name in step.split(",")} for step in order.split("<")]
    assert steps[: len(STEPS)] == STEPS
