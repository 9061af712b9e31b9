"""Sharing folders of models, adapters and quantizers on the Hub: all of it in one commit, or nothing."""

import argparse
import json
from pathlib import Path

import yaml
from huggingface_hub import HfApi, ModelCard, eval_result_entries_to_yaml
from transformers import TrainingArguments
from transformers.utils import strtobool

from ..model.adapters_musicfm import check_base
from ..model.configuration_musicfm import MusicFMConfig
from ..training.records import write_json
from .cards import eval_result_entries, write_card
from .commits import HubTarget, commit_until_done
from .files import check_nothing_private, published_files

EVAL_RESULTS = ".eval_results/musicfm_hf.yaml"


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
    return commit_until_done(api, target, contents, f"{folder.resolve().name}, by musicfm_hf")


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
