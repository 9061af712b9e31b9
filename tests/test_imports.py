"""Order of imports, and the code that travels to the Hub."""

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.structure import STEPS

PACKAGE = ROOT / "src/musicfm_hf"
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = {".".join(("musicfm_hf", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}


def step(folder: str) -> int:
    return next(index for index, folders in enumerate(STEPS) if folder in folders)


def imported(path: Path) -> set[str]:
    """Absolute names of everything that a file of the package imports, in functions and under TYPE_CHECKING too."""
    return names_of(path, ast.walk(ast.parse(path.read_text())))


def tried(path: Path) -> set[str]:
    """Absolute names that a file imports in `try` alone, and that Transformers does not need to load the file."""
    nodes = [*ast.walk(ast.parse(path.read_text()))]
    inside = [part for node in nodes if isinstance(node, ast.Try) for part in ast.walk(node)]
    outside = [node for node in nodes if node not in inside]
    return names_of(path, inside) - names_of(path, outside)


def names_of(path: Path, nodes: Iterable[ast.AST]) -> set[str]:
    """Absolute names that these nodes of a file import."""
    package = ["musicfm_hf", *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names |= {prefix, *(f"{prefix}.{alias.name}" for alias in node.names)}
    return names


def test_every_folder_has_a_step():
    assert sorted(set().union(*STEPS)) == FOLDERS


def test_the_root_of_the_package_is_empty():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {"__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != PACKAGE], ids=lambda path: path.stem)
def test_folders_import_earlier_folders_only(path):
    own = path.relative_to(PACKAGE).parts[0]
    for name in imported(path):
        assert name.split(".")[0] not in ("recipes", "benchmarks", "tests")
        parts = name.split(".")
        if parts[0] == "musicfm_hf" and len(parts) > 1 and parts[1] in FOLDERS and parts[1] != own:
            assert step(parts[1]) < step(own), f"{own}/{path.name} imports {name}, which comes later"


def test_files_do_not_import_each_other_in_a_circle():
    needs = {
        name: {target for target in imported(path) if target in NAMES and target != name}
        for name, path in NAMES.items()
    }
    done: set[str] = set()
    while ready := {name for name in needs.keys() - done if needs[name] <= done}:
        done |= ready
    assert needs.keys() == done, f"a circle among {', '.join(sorted(needs.keys() - done))}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "model").glob("*_musicfm.py")), ids=lambda path: path.stem)
def test_model_code_travels_alone(path):
    allowed = {"torch", "numpy", "transformers"} | sys.stdlib_module_names
    optional = tried(path)
    assert {name.split(".")[0] for name in optional} <= {"soundfile", "soxr"}
    for name in imported(path) - optional:
        sibling = name.startswith("musicfm_hf.model.")
        assert sibling or name.split(".")[0] in allowed, f"{path.name} imports {name}"
    # Transformers finds siblings by this pattern, in docstrings too.
    for line in path.read_text().splitlines():
        if re.match(r"\s*from\s+\.|\s*import\s+\.", line):
            assert re.fullmatch(r"\s*from \.\w+_musicfm import [\w, ]+(  # noqa: F401)?", line), line
