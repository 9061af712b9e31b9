"""Argument parsing and logging for the commands that take recipes."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..training.arguments import RecipeArguments
from ..training.recipes import parse_recipe, recipe_names
from .allocator import keep_freed_memory
from .flags import rename_flags


def parse_command(
    command: str,
    kind: str,
    argument_classes: Sequence[type],
    argv: Sequence[str],
    description: str | None,
    keys: Collection[str] | None = None,
    renamed: Mapping[str, str] | None = None,
    add_flags: Callable[[Any], None] | None = None,
) -> tuple[Any, ...]:
    """Parse the recipes and flags of a command as [`parse_recipe`] does; `--help` lists the recipes."""
    return parse_recipe(
        argument_classes,
        rename_flags(argv, renamed),
        description=f"{description or ''}\nRecipes: {', '.join(recipe_names(kind))}\n",
        kind=kind,
        keys=keys,
        prog=f"musicfm {command}",
        add_flags=add_flags,
    )


def prepare_process(arguments: RecipeArguments) -> None:
    """
    Prepare the process of a training: print the log messages of the package, in one process per machine, and, on a
    CPU, keep the memory that a step frees for the next one.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("musicfm_hf").setLevel(logging.INFO if arguments.should_log else logging.WARNING)
    if arguments.device.type == "cpu":
        keep_freed_memory()
