"""
Griffe extension for docstrings as Transformers writes them: [`Name`] becomes a link to the page that documents it, and
the type in `name (`type`): description` is plain text.
"""

import re
from typing import Any

import griffe

REFERENCE = re.compile(r"\[`([\w.]+)`\](?![\[(])")
ARGUMENT = re.compile(r"^( +[\w*, ]+ \()(.+?)(?=\):)", re.MULTILINE)
PACKAGE = "musicfm_hf"


class CrossReferences(griffe.Extension):
    """Resolves references by the last part of their name, once the whole package is read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite all docstrings of the package."""
        objects = list(_objects(pkg))
        paths: dict[str, str] = {}
        for item in objects:
            if (item.is_class or item.is_function) and item.docstring is not None:
                paths.setdefault(item.name, item.path)
        for item in objects:
            if item.docstring is not None:
                text = ARGUMENT.sub(lambda match: match[1] + re.sub(r"\[`|`\]|`", "", match[2]), item.docstring.value)
                item.docstring.value = REFERENCE.sub(lambda match: _link(match[1], paths), text)


def _objects(parent: Any) -> Any:
    """The package's own modules, classes and functions, and their members."""
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _link(name: str, paths: dict[str, str]) -> str:
    path = paths.get(name.removeprefix(f"{PACKAGE}.").split(".")[-1])
    return f"[`{name}`][{path}]" if path else f"`{name}`"
