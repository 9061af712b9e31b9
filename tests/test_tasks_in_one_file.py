"""A task is one file: outside tasks/, code asks the `TaskSpec` and never branches on the name of a task."""

import ast
import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

from musicfm_hf.tasks import TASKS

TASKS_FOLDER = ROOT / "src/musicfm_hf/tasks"
PYTHON = [
    path
    for folder in ("src", "recipes", "benchmarks", "hub_cards")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if TASKS_FOLDER not in path.parents
]
TEMPLATES = sorted(path for ending in ("md", "html", "js") for path in (ROOT / "hub_cards").rglob(f"*.{ending}"))
# Code about single tasks, which uses what is in their files. Other code asks `get_task`.
ABOUT_TASKS = (
    "src/musicfm_hf/metrics/",  # a module for each task
    "src/musicfm_hf/data/readers/",  # parse the labels of their annotations
    "src/musicfm_hf/data/pop909_sources.py",  # likewise
    "src/musicfm_hf/symbolic/",  # transposes keys and composes in them
    "src/musicfm_hf/evaluation/baselines.py",  # methods for single tasks
    "benchmarks/peer_",  # tools for single tasks
)


def names_a_task(node: ast.AST) -> bool:
    """Whether an expression has a task's name in it, but for keys such as `row["key"]`, or takes it from its file."""
    if isinstance(node, ast.Subscript):
        return names_a_task(node.value)
    if isinstance(node, ast.Constant):
        return node.value in TASKS
    if isinstance(node, ast.Attribute) and node.attr == "TASK":
        return True
    return any(map(names_a_task, ast.iter_child_nodes(node)))


def is_about_a_task(node: ast.AST) -> bool:
    """`task`, `config.task`, `results["task"]`, `spec.name`, `spec.column`."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "task"
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        return node.attr == "task" or (node.attr in ("name", "column") and owner in ("spec", "task"))
    return isinstance(node, ast.Name) and node.id == "task"


def branches(path: Path) -> list[str]:
    """Comparisons with, matches of and tables by the names of tasks, with their lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and names_a_task(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = any(names_a_task(side) or (isinstance(side, ast.Name) and side.id in constants) for side in sides)
            wrong = named and (any(map(is_about_a_task, sides)) or any(map(names_a_task, sides)))
        elif isinstance(node, ast.MatchValue):
            wrong = names_a_task(node)
        elif isinstance(node, ast.Dict):
            wrong = sum(names_a_task(key) for key in node.keys if key is not None) > 1
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            wrong = sum(isinstance(part, ast.Constant) and part.value in TASKS for part in node.elts) > 1
        elif isinstance(node, ast.Call):  # task.startswith("ch")
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            wrong = method in ("startswith", "endswith", "index", "find") and is_about_a_task(node.func.value)
        else:
            wrong = isinstance(node, ast.Constant) and node.value in ("structure", "tagging")
        if wrong:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_the_search_finds_branches(tmp_path):
    """What it must not overlook, and what it must leave alone."""
    path = tmp_path / "code.py"
    for code in (
        "if config.task == 'beat': pass",
        "x = 1 if task in ('chord', 'key') else 2",
        "if results['task'] != beat.TASK.name: pass",
        "PITCHED = {'chord', 'key'}\nif config.task in PITCHED: pass",
        "match task:\n    case 'key': pass",
        "COLUMNS = {'beat': 'beats', 'chord': 'chords'}",
        "names = ['chord', 'key']",
        "if config.task.startswith('tag'): pass",
        "run('tagging')",
    ):
        path.write_text(code)
        assert branches(path), code
    for code in (
        "row['key'] = beat['beat']",
        "if row['key'] is None: pass",
        "if config.task is None: pass",
        "spec = get_task(config.task)",
        "if task in models: pass",
        "Baseline(beat.TASK.name, 'librosa')",
    ):
        path.write_text(code)
        assert not branches(path), code


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_code_does_not_branch_on_tasks(path):
    assert branches(path) == []


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_code_asks_the_lookup_of_tasks(path):
    """Files of single tasks are imported only where the code is about that task."""
    if path.relative_to(ROOT).as_posix().startswith(ABOUT_TASKS):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            *_, folder = node.module.split(".")
            names = {alias.name for alias in node.names} if folder == "tasks" else {folder}
            is_task = folder == "tasks" or node.module.split(".")[-2:-1] == ["tasks"]
            assert not (is_task and names & set(TASKS)), f"line {node.lineno}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_templates_do_not_branch_on_tasks(path):
    logic = re.findall(r"\{[{%].*?[%}]\}", path.read_text(encoding="utf-8"), re.DOTALL)
    if path.suffix == ".js":
        logic = re.findall(r"[=!]==?\s*\S+|case .*?:", path.read_text(encoding="utf-8"))
    quoted = re.compile("|".join(rf"[\"']{task}[\"']" for task in TASKS))
    assert [part for part in logic if quoted.search(part)] == []
