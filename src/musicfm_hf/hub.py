"""Sharing folders of models, adapters and quantizers on the Hub: all of it in one commit, or nothing."""

import argparse
import importlib.metadata
import json
import re
import time
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    SpaceCard,
    eval_result_entries_to_yaml,
    get_token,
)
from huggingface_hub.errors import HTTPError
from packaging.requirements import Requirement
from transformers import TrainingArguments
from transformers.utils import strtobool

from .cards import eval_result_entries, write_card
from .model.classification_musicfm import check_base
from .model.configuration_musicfm import MusicFMConfig
from .training import write_json

# What a repository has of a folder. Not optimizer states, logs, lists of files: those say who trained where.
PUBLISHED = (
    "README.md",
    "config.json",
    "preprocessor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "*_musicfm.py",
    "results.json",
    "report.json",
    "conversion.json",
    "stats.json",
    "evaluations/*.json",
    "curves.png",
)
PACKAGE = Path(__file__).parent
WAITS = (2, 10, None)  # seconds after attempts; the client retries each file by itself, but not the commit
SPACE_FILES = ("app.py", "timeline.*", "README.md")
EVAL_RESULTS = ".eval_results/musicfm_hf.yaml"


class HubTarget(NamedTuple):
    """
    Where something is pushed.

    Attributes:
        repo (`str`): Its id; of the user whose token it is, if it has no `/`.
        revision (`str`, *optional*): A branch, made if it is not there; main by default.
        private (`bool`): Who sees it, if it is made now.
        token (`str`, *optional*): The one that is logged in by default.
        kind (`str`): `"model"`, or `"space"` for one of Gradio.
    """

    repo: str
    revision: str | None = None
    private: bool = True
    token: str | None = None
    kind: str = "model"

    def create(self) -> "HubTarget":
        """Make the repository, if it is not there, and say its whole id; so that a wrong token shows before work."""
        api = HfApi(token=self.token)
        common = {"repo_type": self.kind, "exist_ok": True}
        sdk = "gradio" if self.kind == "space" else None
        repo = api.create_repo(self.repo, private=self.private, space_sdk=sdk, **common).repo_id
        if self.revision is not None:
            api.create_branch(repo, branch=self.revision, **common)
        return self._replace(repo=repo)


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of [`TrainingArguments`] for a recipe that has no Trainer."""
    parser.add_argument("--push_to_hub", action="store_true", help="push the result to the Hub")
    parser.add_argument("--hub_model_id", help="its repository; called as the output folder by default")
    parser.add_argument("--hub_private_repo", type=strtobool, help="true (the default) or false, if it is made now")
    parser.add_argument("--hub_revision", help="a branch, made if it is not there; main by default")
    parser.add_argument("--hub_token", help="the one that is logged in by default")


def hub_target(arguments: TrainingArguments | argparse.Namespace, output: str | Path) -> HubTarget | None:
    """
    Where `--push_to_hub`, `--hub_model_id`, `--hub_private_repo`, `--hub_revision` and `--hub_token` of a recipe say
    that its result goes, once, at the end. The repository is made now; it is private unless said otherwise. The
    Trainer itself, and its own card, are switched off.

    Raises:
        OSError: the Hub does not let us.
    """
    if not arguments.push_to_hub:
        return None
    target = HubTarget(
        arguments.hub_model_id or Path(output).resolve().name,
        arguments.hub_revision,
        arguments.hub_private_repo in (None, True),
        arguments.hub_token,
    )
    arguments.push_to_hub, arguments.hub_token = False, None
    return target.create() if getattr(arguments, "process_index", 0) == 0 else target


def publish(folder: str | Path, target: HubTarget | None, **settings) -> None:
    """
    The end of a recipe: the card, and with a target the push.

    Raises:
        SystemExit: it could not be pushed; says that the folder is whole, and how to push it later.
    """
    if target is None:
        write_card(folder)
        return
    try:
        print(push_folder(folder, target, **settings))
    except (ValueError, OSError) as error:
        later = f"python recipes/push.py {folder} {target.repo}"
        later += f" --revision {target.revision}" if target.revision else ""
        raise SystemExit(f"{folder} is complete, but was not pushed: {error}\nPush it later: {later}") from error


def push_folder(
    folder: str | Path,
    target: HubTarget,
    base_model: str | None = None,
    licence: str | None = None,
) -> str:
    """
    Write the card of a folder, and push what belongs in a repository, in one commit: what did not change is not sent
    again, what is gone is deleted. Large files are sent one by one before that, and those that arrived are not sent
    again by the next attempt.

    Args:
        folder: Of a recipe or of the conversion.
        target ([`HubTarget`]): Where to.
        base_model (`str`, *optional*): For an adapter, the repository of its base model, if it was trained on a folder
            of this machine; pinned to what is there now.
        licence (`str`, *optional*): Of the weights, as the Hub names it.

    Returns:
        The address of the commit.

    Raises:
        ValueError: nothing there can be shared, a file says who or where you are, or an adapter has no base model on
            the Hub.
        OSError: the Hub cannot be reached, or does not let us. Nothing is then to be seen there, and the folder is
            whole.
    """
    folder = Path(folder)
    target = target.create()
    api = HfApi(token=target.token)
    if (folder / "adapter_config.json").is_file():
        pin_base_model(folder, api, base_model)
    write_card(folder, target.repo, licence)
    paths = {path.relative_to(folder).as_posix(): path for path in published_files(folder)}
    check_nothing_private(folder, paths.values(), target.token)
    ModelCard.load(folder / "README.md").validate()
    contents: dict[str, Path | bytes] = dict(paths)
    entries = eval_result_entries(folder)
    if entries:
        contents[EVAL_RESULTS] = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False).encode()
    return _commit_until_done(api, target, contents, f"{folder.resolve().name}, by musicfm_hf")


def push_space(folder: str | Path, target: HubTarget, models: list[str]) -> str:
    """
    Push the application that annotates songs on a web page, in one commit: `hub_cards/space`, this package beside it,
    and what it needs.

    Args:
        folder: Of the application.
        target ([`HubTarget`]): Where to; a Space.
        models (`list[str]`): Repositories of models, one for each task.

    Returns:
        The address of the commit.

    Raises:
        ValueError: a model has no task, or two have the same one; a file has a token or a path of this machine.
        OSError: the Hub cannot be reached, does not let us, or has no such model.
    """
    folder, target = Path(folder), target._replace(kind="space")
    api, found = HfApi(token=target.token), dict[str, str]()
    for name in models:
        api.model_info(name)  # a folder of this machine is none
        task = MusicFMConfig.from_pretrained(name, token=target.token).task
        if task is None or task in found:
            reason = "has no task" if task is None else f"and {found[task]} are both for {task}"
            raise ValueError(f"A Space has one model for each task, but {name} {reason}.")
        found[task] = name
    target = target.create()
    card = SpaceCard.load(folder / "README.md", ignore_metadata_errors=False)
    card.data.models = models
    card.validate()
    files = {path.name: path for pattern in SPACE_FILES for path in sorted(folder.glob(pattern))}
    check_nothing_private(folder, files.values(), target.token)
    contents: dict[str, Path | bytes] = dict(files)
    contents |= {f"musicfm_hf/{path.relative_to(PACKAGE).as_posix()}": path for path in sorted(PACKAGE.rglob("*.py"))}
    contents |= {"README.md": str(card).encode(), "requirements.txt": space_requirements().encode()}
    return _commit_until_done(api, target, contents, "A song's annotations, by musicfm_hf")


def space_requirements() -> str:
    """What annotating needs, for pip; which Gradio, the Space's `README.md` says."""
    needed = [Requirement(line) for line in importlib.metadata.requires("musicfm_hf") or ()]
    extras = ({"extra": ""}, {"extra": "train"})  # peft is among those of training
    needed = [one for one in needed if one.marker is None or any(one.marker.evaluate(extra) for extra in extras)]
    return "".join(f"{one.name}{one.specifier}\n" for one in needed)


def _commit_until_done(api: HfApi, target: HubTarget, contents: dict[str, Path | bytes], message: str) -> str:
    """
    Raises:
        OSError: the Hub cannot be reached, or does not let us.
    """
    for wait in WAITS:
        try:
            return _commit(api, target, contents, message)
        except (HTTPError, OSError, RuntimeError) as error:  # a runtime error: a file could not be sent
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if wait is None or status < 500:
                raise OSError(f"{error} {error.__cause__ or ''}") from error
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _commit(api: HfApi, target: HubTarget, contents: dict[str, Path | bytes], message: str) -> str:
    """What is to be there, and what is there and not to be any more, in one commit."""
    where = {"repo_id": target.repo, "revision": target.revision, "repo_type": target.kind}
    gone = [name for name in api.list_repo_files(**where) if name not in contents]
    ours = _is_published if target.kind == "model" else re.compile(r"musicfm_hf/").match
    operations: list[Any] = [CommitOperationAdd(name, content) for name, content in contents.items()]
    operations += [CommitOperationDelete(name) for name in gone if ours(name)]
    return str(api.create_commit(operations=operations, commit_message=message, **where).commit_url)


def published_files(folder: Path) -> list[Path]:
    """
    Files of a folder that belong in a repository.

    Raises:
        ValueError: there are no weights.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if _is_published(path.relative_to(folder).as_posix())]
    if not any(path.suffix == ".safetensors" for path in paths):
        raise ValueError(f"{folder} has no weights (*.safetensors) to push.")
    return paths


def _is_published(name: str) -> bool:
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in PUBLISHED)


def pin_base_model(folder: Path, api: HfApi, base_model: str | None) -> None:
    """
    An adapter names its base model by repository and revision.

    Raises:
        ValueError: it was trained on a folder, and no repository is given; or its base has another shape.
    """
    path = folder / "adapter_config.json"
    named = json.loads(path.read_text(encoding="utf-8"))
    if base_model is None and named.get("revision"):
        return
    if base_model is None:
        raise ValueError(
            f"The adapter's base model is the folder {Path(named['base_model_name_or_path']).name}, which nobody else "
            "has: push it, and name its repository (`--base_model`)."
        )
    commit = api.model_info(base_model).sha
    check_base(MusicFMConfig.from_pretrained(folder), base_model, revision=commit, token=api.token)
    named |= {"base_model_name_or_path": base_model, "revision": commit}
    write_json(path, named)


def check_nothing_private(folder: Path, paths: Iterable[Path], token: str | None = None) -> None:
    """
    Raises:
        ValueError: a text file has the token, or a path of this machine.
    """
    tokens = [re.escape(value) for value in (token, get_token()) if value]
    places = [re.escape(str(place)) for place in {Path.home(), folder.resolve().parent} if len(place.parts) > 1]
    secret = re.compile("|".join([*tokens, *(f"{place}(?![\\w-])" for place in places)]) or r"(?!)")
    for path in paths:
        if path.suffix in (".safetensors", ".png"):
            continue
        found = secret.search(path.read_text(encoding="utf-8", errors="replace"))
        if found is not None:
            shown = "your token" if found[0] in (token, get_token()) else found[0]
            raise ValueError(f"{path} has {shown}, which is nobody else's business: nothing was pushed.")
