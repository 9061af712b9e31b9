"""Push models, adapters and quantizers to the Hub, each in a single commit."""

import json
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import yaml
from huggingface_hub import HfApi, ModelCard, eval_result_entries_to_yaml
from transformers import AutoConfig

from ..model.adapters_musicfm import check_base, encoder_differences
from ..model.configuration_text_audio_musicfm import MusicFMTextAudioConfig
from ..training.files import complete_file, write_json
from .cards import eval_result_entries, write_card
from .commits import EVAL_RESULTS, HubTarget, commit_with_retries
from .files import check_nothing_private, is_published, published_files


class HubArguments(Protocol):
    """Settings of a push, from Transformers' `TrainingArguments` or from a parser with `add_hub_flags`."""

    push_to_hub: bool
    hub_model_id: str | None
    hub_private_repo: bool | None
    hub_revision: str | None
    hub_token: str | None


def push(
    folder: str | Path,
    repo: str,
    *,
    revision: str | None = None,
    private: bool = True,
    token: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    evaluations: Iterable[str | Path] = (),
) -> str:
    """
    Push a model, an adapter or a quantizer to the Hub, with a card that reports its scores.

    Args:
        folder: Output folder of `musicfm pretrain`, `finetune`, `train-quantizer` or `convert`.
        repo (`str`): ID of the repository, created if it does not exist.
        revision (`str`, *optional*): Branch, created if it does not exist; main by default.
        private (`bool`, defaults to `True`): Visibility of the repository, if it is created now.
        token (`str`, *optional*): Access token; that of `hf auth login` by default.
        base_model (`str`, *optional*), license (`str`, *optional*): As for [`push_folder`].
        evaluations: Result files of `musicfm evaluate`, which are copied to the subfolder `evaluations`.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: the folder or an evaluation does not exist.
        ValueError: two evaluations have the same name; or see [`push_folder`].
        OSError: see [`push_folder`].
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist. Pass the output folder of a finished run.")
    paths = [Path(path) for path in evaluations]
    if repeated := [name for name, count in Counter(path.name for path in paths).items() if count > 1]:
        raise ValueError(f"Several evaluations are named {repeated[0]}: give each file a name of its own.")
    for path in paths:
        with complete_file(folder / "evaluations" / path.name) as temporary:
            shutil.copy(path, temporary)
    return push_folder(folder, HubTarget(repo, revision, private, token), base_model, license)


def hub_target(arguments: HubArguments, output: str | Path) -> HubTarget | None:
    """
    Create the repository that `push_to_hub`, `hub_model_id`, `hub_private_repo`, `hub_revision` and `hub_token`
    specify. The result is pushed once, at the end; the Trainer's own pushes and card are disabled in `arguments`.

    Args:
        arguments: Parsed arguments. With several processes, only the one whose `process_index` is 0 creates anything.
        output: The output folder, whose name is that of the repository by default.

    Returns:
        The target, or `None` without `push_to_hub`. Repositories are private by default.

    Raises:
        OSError: the Hub cannot be reached, or rejects the request.
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


def push_result(
    folder: str | Path, target: HubTarget | None, base_model: str | None = None, license: str | None = None
) -> str | None:
    """
    Finish a run: write the card of its folder and, with a target, push the folder.

    Args:
        folder: Output folder of a run or of a conversion.
        target ([`HubTarget`], *optional*): Where to push; output of [`hub_target`].
        base_model (`str`, *optional*), license (`str`, *optional*): As for [`push_folder`].

    Returns:
        The URL of the commit, or `None` without a target.

    Raises:
        ValueError, OSError: see [`push_folder`]. The message also states that the folder is complete, and gives the
            command that pushes it later.
    """
    if target is None:
        write_card(folder, license=license)
        return None
    try:
        return push_folder(folder, target, base_model, license)
    except (ValueError, OSError) as error:
        command = ["musicfm", "push", str(folder), target.repo]
        command += ["--revision", target.revision] if target.revision else []
        command += [] if target.private else ["--public"]
        raise (ValueError if isinstance(error, ValueError) else OSError)(
            f"{folder} is complete, but it was not pushed: {error}\nTo push it later, run `{shlex.join(command)}`."
        ) from error


def push_folder(
    folder: str | Path, target: HubTarget, base_model: str | None = None, license: str | None = None
) -> str:
    """
    Write the card of a folder, and push the files that belong in a repository in one commit. Unchanged files are not
    sent again, and published files that are no longer in the folder are deleted. Large files are sent one by one
    before the commit; another attempt does not send them again.

    Args:
        folder: Output folder of a run or of a conversion.
        target ([`HubTarget`]): Where to push; created if it does not exist.
        base_model (`str`, *optional*): Repository of the base model of an adapter, if the adapter was trained on a
            local folder. The adapter is pinned to the current revision of the repository.
        license (`str`, *optional*): License of the weights, as an identifier of the Hub.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: the folder has nothing to publish, a file contains private information, or the base model of an
            adapter is not on the Hub.
        OSError: the Hub cannot be reached, or rejects the request. The repository is then unchanged, and the folder is
            complete.
    """
    folder = Path(folder)
    target = target.create()
    api = HfApi(token=target.token)
    for adapter in sorted([*folder.glob("adapter_config.json"), *folder.glob("*/adapter_config.json")]):
        if is_published(adapter.relative_to(folder).as_posix()):
            _pin_base_model(adapter.parent, api, base_model)
    write_card(folder, target.repo, license)
    paths = {path.relative_to(folder).as_posix(): path for path in published_files(folder)}
    check_nothing_private(folder, paths.values(), target.token)
    ModelCard.load(folder / "README.md").validate()
    contents: dict[str, Path | bytes] = dict(paths)
    entries = eval_result_entries(folder)
    if entries:
        contents[EVAL_RESULTS] = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False).encode()
    return commit_with_retries(api, target, contents, f"Push {folder.resolve().name} with musicfm_hf")


def _pin_base_model(folder: Path, api: HfApi, base_model: str | None) -> None:
    """Record the repository and revision of the base model in an adapter, after checking that the model matches."""
    path = folder / "adapter_config.json"
    adapter_config = json.loads(path.read_text(encoding="utf-8"))
    if base_model is None and adapter_config.get("revision"):
        return
    if base_model is None:
        name = Path(adapter_config.get("base_model_name_or_path") or "that it was trained on").name
        raise ValueError(
            f"The base model of this adapter is the local folder {name}, which others cannot load. Push that folder "
            "first, then pass its repository as the base model (`musicfm push … --base_model REPO`)."
        )
    commit = api.model_info(base_model).sha
    config = AutoConfig.from_pretrained(folder)
    if isinstance(config, MusicFMTextAudioConfig):
        _check_text_audio_base(config, base_model, revision=commit, token=api.token)
    else:
        check_base(folder, config, base_model, revision=commit, token=api.token)
    write_json(path, adapter_config | {"base_model_name_or_path": base_model, "revision": commit})


def _check_text_audio_base(config: MusicFMTextAudioConfig, base_model: str, **kwargs: Any) -> None:
    """Check that the base model of an adapter of music and text has the towers that the adapter was trained for."""
    base = MusicFMTextAudioConfig.from_pretrained(base_model, **kwargs)
    names = ("audio_layer", "audio_transformer", "text_transformer", "projection_dim")
    pairs = [(name, getattr(config, name), getattr(base, name)) for name in names]
    sizes = ("hidden_size", "num_hidden_layers", "intermediate_size")
    pairs += [(f"text_config.{name}", *(getattr(part.text_config, name) for part in (config, base))) for name in sizes]
    differences = [f"{name} {own} (it has {other})" for name, own, other in pairs if own != other]
    differences += [f"audio_config.{text}" for text in encoder_differences(config.audio_config, base.audio_config)]
    if differences:
        raise ValueError(f"The adapter cannot be used with {base_model}: it was trained for {', '.join(differences)}.")
