"""Settings from recipes (YAML files, found by name) and command-line flags."""

import argparse
import difflib
import json
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from .deprecation import REMOVED_IN

# A section of a recipe: `unless method is probe:`.
_SECTION = re.compile(r"unless (\w+) is (\w+)")

# A path of earlier releases, such as recipes/pretrain/fm7.yaml, recipes/chord/lora.yaml or recipes/small/probe.yaml.
_OLD_PATH = re.compile(r"(?:.*/)?recipes/(?:(pretrain|finetune)/)?(\w+(?:/\w+)?)\.ya?ml")

# Flags of TrainingArguments that `--help` shows; all others work as well.
_SHOWN_FLAGS = """
    output_dir max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate lr_scheduler_type
    warmup_steps weight_decay seed bf16 use_cpu torch_compile dataloader_num_workers
    logging_steps report_to eval_strategy eval_steps per_device_eval_batch_size save_strategy save_steps
    save_total_limit resume_from_checkpoint push_to_hub hub_model_id hub_private_repo hub_revision hub_token
""".split()


def recipe_names(kind: str) -> list[str]:
    """
    Return the names of the recipes in the package, without those that are only bases of others.

    Args:
        kind (`str`): `"pretrain"` or `"finetune"`.
    """
    folder = _recipe_folder(kind)
    paths = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml") if path.stem[0] != "_")
    return sorted((path.as_posix() for path in paths), key=lambda name: ("/" in name, name))


def find_recipe(name: str, kind: str) -> list[Path]:
    """
    Find a recipe of the package by its name.

    Args:
        name (`str`): A file below `recipes/<kind>`, without its suffix, such as `"fm7"` or `"small/lora"`; or the
            names of several files, joined with slashes, such as `"chord/lora"`.
        kind (`str`): `"pretrain"` or `"finetune"`.

    Returns:
        Files in order; each one overrides those before it.

    Raises:
        ValueError: No recipe has this name; the message lists all names and suggests the most similar one.
    """
    folder = _recipe_folder(kind)
    for parts in ([name], name.split("/")):
        paths = [folder / f"{part}.yaml" for part in parts]
        if all(re.fullmatch(r"\w+(/\w+)*", part) for part in parts) and all(path.is_file() for path in paths):
            return paths
    names = recipe_names(kind)
    single = [known for known in names if "/" not in known]
    pairs = [f"{first}/{second}" for first in single for second in single if first != second]
    near = difflib.get_close_matches(name, [*names, *pairs], n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"No recipe is called {name!r}.{hint} Recipes: {', '.join(names)}. Names may be joined with a slash, and a "
        "path to a YAML file (.yaml) works as well."
    )


def read_recipe(*names: str, kind: str | None = None, flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    Read the settings of recipes. Settings of a later recipe override those of an earlier one.

    A recipe may begin with `base: NAME`, or a list of names. These are recipes in the same folder or in the package
    whose settings it inherits and overrides. Within a recipe and its bases, mappings are merged key by key. A section
    `unless NAME is VALUE:` holds settings that apply only if the setting NAME has another value in the combined
    recipes, or in `flags` if no recipe sets it.

    Args:
        names (`str`): Names of recipes, or paths to YAML files.
        kind (`str`, *optional*): Where to look up names: `"pretrain"` or `"finetune"`. Without it, only paths work.
        flags (`dict`, *optional*): Settings from elsewhere.

    Returns:
        Setting → value.

    Raises:
        ValueError: A recipe does not exist, is not a mapping in YAML, or is its own base.
    """
    recipes = [list(_layers(name, kind, ())) for name in names]
    known = dict(flags or {})
    for layers in recipes:
        for layer in layers:
            known |= layer
    settings: dict[str, Any] = {}
    for layers in recipes:
        merged: dict[str, Any] = {}
        for layer in layers:
            merged = merge_settings(merged, _resolve_sections(layer, known))
        settings |= {name: value for name, value in merged.items() if value is not None}
    return settings


def parse_recipe(
    argument_classes: Sequence[type],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    kind: str | None = None,
    keys: Collection[str] | None = None,
    prog: str | None = None,
    add_flags: Callable[[argparse.ArgumentParser], None] | None = None,
) -> tuple[Any, ...]:
    """
    Parse settings from recipes, which are the first arguments, and from flags, which override them.

    A key in YAML is the name of a flag without `--`. A mapping becomes JSON for flags that take JSON. The attribute
    `RENAMED_FLAGS` of a class maps names of earlier releases to current ones; the old names give a `FutureWarning`.

    Args:
        argument_classes: Dataclasses, as for [`HfArgumentParser`].
        argv: Arguments; those of the process by default.
        description: For `--help`.
        kind: Kind of the recipes, as for [`read_recipe`].
        keys: Settings that are taken from recipes; all by default.
        prog: Name of the program for `--help`.
        add_flags (`Callable[[ArgumentParser], None]`, *optional*): Adds flags that are not fields of any class.

    Returns:
        An instance of each class, and with `add_flags` a namespace of the added flags.

    Raises:
        ValueError: A recipe does not exist, a setting belongs to none of the classes, or a class rejects a value.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _make_parser(argument_classes, description, prog)
    if add_flags is not None:
        add_flags(parser)
    renamed = {old: new for cls in argument_classes for old, new in getattr(cls, "RENAMED_FLAGS", {}).items()}
    names = []
    while argv and not argv[0].startswith("-") and (kind is not None or _is_path(argv[0])):
        names.append(argv.pop(0))
    argv = [_present_flag(word, renamed) for word in argv]
    settings = read_recipe(*names, kind=kind, flags=vars(parser.parse_known_args(argv)[0]))
    chosen = {name: value for name, value in settings.items() if keys is None or name in keys}
    from_recipes = [flag for name, value in chosen.items() for flag in _as_flags(_present_name(name, renamed), value)]
    return _parse_words(parser, [*from_recipes, *argv])  # later flags win


def parse_settings(argument_classes: Sequence[type], settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """
    Create instances of argument classes from settings, such as those that [`read_recipe`] returns.

    Raises:
        ValueError: A setting belongs to none of the classes, or a class rejects a value.
    """
    words = [word for name, value in settings.items() if value is not None for word in _as_flags(name, value)]
    return _parse_words(_make_parser(argument_classes, None, None), words)


def _parse_words(parser: "_Parser", arguments: Sequence[str]) -> tuple[Any, ...]:
    """Parse flags into the argument classes of the parser."""
    _, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = next((word for word in unknown if word.startswith("--")), unknown[0]).partition("=")[0]
        near = difflib.get_close_matches(name, parser._option_string_actions, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`--help` lists them."
        raise ValueError(f"Unknown setting {name}. {hint}")
    return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)


class _Parser(HfArgumentParser):
    """A parser that raises `ValueError` where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A help formatter that keeps the line breaks of the description and shows only informative defaults."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default not in (None, False, -1, "", "{}", [], argparse.SUPPRESS)
        return f"{action.help} Default: %(default)s." if has_default else action.help


def _make_parser(argument_classes: Sequence[type], description: str | None, prog: str | None) -> _Parser:
    """Create a parser whose help shows the flags of the package and the common flags of TrainingArguments."""
    is_training = any(issubclass(cls, TrainingArguments) for cls in argument_classes)
    parser = _Parser(
        list(argument_classes),  # type: ignore[arg-type]  # all are dataclasses
        prog=prog,
        description=description,
        epilog="All other fields of transformers.TrainingArguments are flags as well." if is_training else None,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        usage="%(prog)s [recipe ...] [--name value ...]",
    )
    hidden = {f.name for f in fields(TrainingArguments)} - set(_SHOWN_FLAGS)
    for cls in argument_classes:
        for ancestor in cls.__mro__:
            if ancestor.__module__.startswith(__package__.partition(".")[0]):
                hidden -= set(ancestor.__annotations__)
    for action in parser._actions:
        if action.dest in hidden or action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS
        elif action.dest != "help":
            action.option_strings = action.option_strings[:1]  # without the spelling with hyphens
            if action.type is string_to_bool:
                action.metavar = "BOOL"
            elif not action.choices or len(list(action.choices)) > 4:
                action.metavar = "N" if action.type is int else "X" if action.type is float else "TEXT"
    return parser


def _recipe_folder(kind: str) -> Path:
    return Path(str(files("musicfm_hf.recipes"))) / kind


def _is_path(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _layers(name: str, kind: str | None, outer: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
    """Yield the settings of a recipe file by file, with those of its bases first."""
    for path in _recipe_paths(name, kind):
        if path in outer:
            raise ValueError(f"{path} is its own base.")
        settings = _load(path)
        bases = settings.pop("base", None) or []
        for base in [bases] if isinstance(bases, str) else bases:
            beside = path.parent / (base if _is_path(base) else f"{base}.yaml")
            is_beside = beside.is_file() and not beside.samefile(path)
            yield from _layers(str(beside) if is_beside else base, kind, (*outer, path))
        yield settings


def _recipe_paths(name: str, kind: str | None) -> list[Path]:
    """Return the files of a recipe, given by its name, its path, or its path in an earlier release."""
    if _is_path(name):
        if Path(name).is_file():
            return [Path(name)]
        old = _OLD_PATH.fullmatch(Path(name).as_posix())
        if old is None:
            raise ValueError(f"The file {name} does not exist.")
        old_kind, present = ("pretrain", "demo") if old[2] == "demo/pretrain" else (old[1] or "finetune", old[2])
        paths = find_recipe(present, old_kind)
        message = f"{name} is now the recipe `{present}`; the path will stop working in {REMOVED_IN}."
        warnings.warn(message, FutureWarning, stacklevel=2)
        return paths
    if kind is None:
        raise ValueError(f"A recipe must be a path to a YAML file (.yaml), got {name!r}.")
    return find_recipe(name, kind)


def _load(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML file."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold `name: value` lines.")
    return settings


def _resolve_sections(layer: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a layer, including those of the sections that apply."""
    settings: dict[str, Any] = {}
    for name, value in layer.items():
        section = _SECTION.fullmatch(str(name))
        if section is None:
            settings[name] = value
        elif known.get(section[1]) != yaml.safe_load(section[2]):
            settings |= value or {}
    return settings


def merge_settings(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings `base` overridden by `over`, with mappings merged key by key."""
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merge_settings(merged[name], value) if both else value
    return merged


def _present_name(name: str, renamed: Mapping[str, str]) -> str:
    """Return the current name of a setting, with a warning if it was renamed."""
    if name not in renamed:
        return name
    message = f"`{name}` is now `{renamed[name]}`; the old name will stop working in {REMOVED_IN}."
    warnings.warn(message, FutureWarning, stacklevel=3)
    return renamed[name]


def _present_flag(word: str, renamed: Mapping[str, str]) -> str:
    """Return a word of the command line, with the current name if it is a flag that was renamed."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word[2:].partition("=")
    name = flag.replace("-", "_")
    return f"--{_present_name(name, renamed)}{equals}{value}" if name in renamed else word


def _as_flags(name: str, value: Any) -> Iterable[str]:
    """Convert a setting to words of the command line."""
    if isinstance(value, list):
        return [f"--{name}", *(str(part) for part in value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]
