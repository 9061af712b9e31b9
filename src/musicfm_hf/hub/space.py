"""The Space that annotates songs on a web page."""

import importlib.metadata
from pathlib import Path

from huggingface_hub import HfApi, SpaceCard
from packaging.requirements import Requirement

from ..model.configuration_musicfm import MusicFMConfig
from .commits import HubTarget, commit_until_done
from .files import check_nothing_private

PACKAGE = Path(__file__).parents[1]

SPACE_FILES = ("app.py", "timeline.*", "README.md")


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
    return commit_until_done(api, target, contents, "A song's annotations, by musicfm_hf")


def space_requirements() -> str:
    """What annotating needs, for pip; which Gradio, the Space's `README.md` says."""
    needed = [Requirement(line) for line in importlib.metadata.requires("musicfm_hf") or ()]
    extras = ({"extra": ""}, {"extra": "train"})  # peft is among those of training
    needed = [one for one in needed if one.marker is None or any(one.marker.evaluate(extra) for extra in extras)]
    return "".join(f"{one.name}{one.specifier}\n" for one in needed)
