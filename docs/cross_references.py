"""
Griffe extension for docstrings in the style of Transformers: [`Name`] becomes a link to the page that documents it,
and the type in `name (`type`): description` becomes plain text on one line.
"""

import re
from collections.abc import Iterator
from typing import Any

import griffe

REFERENCE = re.compile(r"\[`([\w.]+)`\](?![\[(])")
ARGUMENT = re.compile(r"^( +[\w*, ]+ \()(`|\[`)")
MARKUP = re.compile(r"\[`|`\]|`|\*(?=optional)|(?<=optional)\*")
PACKAGE = "musicfm_hf"


class CrossReferences(griffe.Extension):
    """Resolves references by the last part of their name, after the whole package is read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite all docstrings of the package."""
        objects = list(_objects(pkg))
        paths: dict[str, str] = {}
        for item in objects:
            if (item.is_class or item.is_function) and item.docstring is not None:
                paths.setdefault(item.name, item.path)
        for item in objects:
            if item.docstring is not None:
                text = "\n".join(_plain_types(item.docstring.value.split("\n")))
                item.docstring.value = REFERENCE.sub(lambda match: _link(match[1], paths), text)


def _objects(parent: Any) -> Iterator[Any]:
    """Yield the modules, classes and functions of the package, and their members."""
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _plain_types(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a docstring, with the types of arguments on one line and without markup."""
    remaining = iter(lines)
    for line in remaining:
        if ARGUMENT.match(line):
            if line.count("(") > line.count(")"):
                line = f"{line} {next(remaining, '').strip()}"
            name, separator, description = line.partition("):")
            line = MARKUP.sub("", name) + separator + description if separator else line
        yield line


def _link(name: str, paths: dict[str, str]) -> str:
    """Return a link in the syntax of mkdocs-autorefs, or code if nothing with this name is documented."""
    path = paths.get(name.removeprefix(f"{PACKAGE}.").split(".")[-1])
    return f"[`{name}`][{path}]" if path else f"`{name}`"
