"""
MkDocs hooks: pages of the API reference, one for each folder of the package, and copies of the files in
benchmarks/results that pages link to.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import musicfm_hf

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/musicfm_hf"
RESULT = re.compile(r"\((?:\.\./)+(benchmarks/results/[\w.-]+)\)")  # a link as it works in the repository
WITHOUT_PAGE = ("cli",)  # described by `musicfm COMMAND --help`


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference, and the linked results at their paths below the root of the site."""
    linked: set[str] = set()
    for page in files.documentation_pages():
        linked.update(RESULT.findall(page.content_string))
    for path in sorted(linked):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for folder in reference_folders():
        files.append(File.generated(config, f"reference/{folder.name}.md", content=reference_page(folder)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to results at their copies, and list folders and public names on the first reference page."""
    up = "../" * page.file.src_uri.count("/")
    markdown = RESULT.sub(rf"({up}\1)", markdown)
    return markdown + public_names() if page.file.src_uri == "reference/index.md" else markdown


def reference_folders() -> list[Path]:
    return [path.parent for path in sorted(PACKAGE.glob("*/__init__.py")) if path.parent.name not in WITHOUT_PAGE]


def reference_page(folder: Path) -> str:
    """Return Markdown that inserts the docstrings of all modules in a folder."""
    names = []
    for path in sorted(folder.rglob("*.py")):
        module = path.parent if path.name == "__init__.py" else path.with_suffix("")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name != "__init__.py" or any(isinstance(node, ast.FunctionDef) for node in tree.body):
            names.append(".".join(module.relative_to(PACKAGE.parent).parts))
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    if names[0].endswith(f".{folder.name}"):
        docstring = ""  # the first inserted module is the folder itself
    return "\n\n".join([f"# {folder.name}", docstring, *(f"::: {name}" for name in names)]) + "\n"


def public_names() -> str:
    """Return Markdown with links to everything that `musicfm_hf` exports."""
    names = defaultdict(list)
    for name in musicfm_hf.__all__:
        module = getattr(musicfm_hf, name).__module__
        names[module.split(".")[1]].append(f"[`{name}`][{module}.{name}]")
    rows = [f"| [{folder}]({folder}.md) | {', '.join(links)} |" for folder, links in sorted(names.items())]
    others = [f"[{path.name}]({path.name}.md)" for path in reference_folders() if path.name not in names]
    return "\n".join(
        ["", "| folder | public names |", "| --- | --- |", *rows, "", f"Further: {', '.join(others)}.", ""]
    )
