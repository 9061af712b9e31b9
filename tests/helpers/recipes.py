"""Scripts of `recipes/`, run in the process of the tests."""

import runpy
import sys

from .paths import ROOT


def run_recipe(monkeypatch, script: str, *arguments) -> None:
    """Run a script with these arguments."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(ROOT / "recipes" / script), run_name="__main__")


def prepare(monkeypatch, *arguments) -> None:
    """Run the script that prepares data sets."""
    run_recipe(monkeypatch, "prepare.py", *arguments)
