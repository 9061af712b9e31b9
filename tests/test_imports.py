"""The shape of the package: imports point one way, and what travels to the Hub travels alone."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/musicfm_hf"
# A module may import from its own level and from those before it.
LEVELS = [
    {"audio", "frames", "model"},
    {"tasks", "metrics"},
    {"data"},
    {
        "training",
        "pretraining",
        "quantizer_training",
        "inference",
        "annotation",
        "picture",
        "analysis",
        "baselines",
        "features",
        "finetuning",
        "finetuning_settings",
        "finetuning_trainer",
        "scoring",
        "conversion",
        "cards",
        "hub",
        "whitening",
    },
]
FILES = sorted(PACKAGE.rglob("*.py"))


def level(name: str) -> int:
    return next(index for index, names in enumerate(LEVELS) if name in names)


def imported(path: Path) -> set[str]:
    """Absolute names of all that a file of the package imports."""
    package = ["musicfm_hf", *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names |= {prefix} | ({f"{prefix}.{alias.name}" for alias in node.names} if node.module is None else set())
    return names


@pytest.mark.parametrize("path", [f for f in FILES if f != PACKAGE / "__init__.py"], ids=lambda path: path.stem)
def test_imports_point_one_way(path):
    own = level(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    for name in imported(path):
        if name.startswith("musicfm_hf."):
            target = name.split(".")[1]
            if target != "hub_cards":
                assert level(target) <= own, f"{path.name} imports {name}, which comes after it"
        assert name.split(".")[0] != "recipes"


@pytest.mark.parametrize("path", sorted((PACKAGE / "model").glob("*_musicfm.py")), ids=lambda path: path.stem)
def test_model_code_travels_alone(path):
    allowed = {"torch", "numpy", "transformers"} | sys.stdlib_module_names
    for name in imported(path):
        sibling = name.startswith("musicfm_hf.model.")
        assert sibling or name.split(".")[0] in allowed, f"{path.name} imports {name}"
    # Transformers finds siblings by this pattern, in docstrings too.
    for line in path.read_text().splitlines():
        if re.match(r"\s*from\s+\.|\s*import\s+\.", line):
            assert re.fullmatch(r"\s*from \.\w+_musicfm import [\w, ]+(  # noqa: F401)?", line), line


def test_every_module_has_a_level():
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert names <= set().union(*LEVELS)
