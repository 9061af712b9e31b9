"""Sizes of files and functions; only commands print and exit."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/musicfm_hf"
FILES = [*sorted(PACKAGE.rglob("*.py")), *sorted((ROOT / "hub_cards").rglob("*.py"))]
SCRIPTS = [*sorted((ROOT / "recipes").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
LINES_OF_FILE, LINES_OF_MODELING, LINES_OF_FUNCTION = 350, 1000, 50


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def lines_of_code(function: ast.FunctionDef) -> int:
    """Lines of a function from its `def` on, without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name)
def test_files_and_functions_are_short(path):
    lines = len(path.read_text().splitlines())
    if path.name == "modeling_musicfm.py":
        assert lines < LINES_OF_MODELING
    elif path.parent != PACKAGE / "model":
        assert lines <= LINES_OF_FILE
    long = {function.name: lines_of_code(function) for function in functions(path)}
    assert {name: lines for name, lines in long.items() if lines > LINES_OF_FUNCTION} == {}


@pytest.mark.parametrize("path", [path for path in FILES if path.is_relative_to(PACKAGE)], ids=name)
def test_only_commands_print_and_exit(path):
    if path.parent == PACKAGE / "cli":
        return
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert not names & {"print", "SystemExit"}
