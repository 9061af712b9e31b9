"""Links, files and targets that README.md and docs/ name exist; the front page is short."""

import re

import pytest
import yaml
from helpers.documents import DOCUMENTS
from helpers.paths import ROOT

from musicfm_hf import __version__

README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = {f"reference/{path.parent.name}.md" for path in ROOT.glob("src/musicfm_hf/*/__init__.py")}  # by make docs
ADDED_BY_READER = {"recipes/finetune/meter.yaml"}
FOLDERS = r"(?:recipes|benchmarks|tests|hub_cards|notebooks|src)"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    assert [name for name in linked if not ((document.parent / name).exists() or name in REFERENCE)] == []
    named = re.findall(rf"(?<![\w/]){FOLDERS}/[\w./-]+\.(?:py|json|md|yaml|png)", text)
    assert [name for name in named if not (ROOT / name).exists() and name not in ADDED_BY_READER] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_targets_that_are_named_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8"))) <= targets


def test_the_front_page_is_short_and_shows_the_two_commands():
    assert README.count("\n") <= 150
    assert re.search(r"## Try it\n\n```bash\nmake demo\b.*\nmake test\n```", README)


def test_the_site_has_every_page():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert pages <= set(listed)
    folders = {path.parent.name for path in (ROOT / "src/musicfm_hf").glob("*/__init__.py")} - {"cli"}
    assert {f"reference/{name}.md" for name in ("index", *folders)} == {
        name for name in listed if name.startswith("reference/")
    }


def test_the_changelog_has_the_version():
    version = __version__.partition(".dev")[0]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
