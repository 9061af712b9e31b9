"""The Space on the Hub that annotates songs on a web page."""

import importlib.metadata
from importlib.resources import files
from pathlib import Path

from huggingface_hub import HfApi, SpaceCard
from packaging.requirements import Requirement

from .. import SMALL_MODEL
from ..model.adapters_musicfm import adapter_config
from ..training.files import list_files, matching_files
from .commits import HubTarget, commit_with_retries
from .files import check_nothing_private

PACKAGE = Path(__file__).parents[1]

APPLICATION_FILES = ("app.py", "timeline.*", "README.md")

# Folders that are installed in the package but that the application does not need.
DATA_FOLDERS = ("hub_cards", "recipes")


def application_folder() -> Path:
    """Return the folder of the web application. Its `app.py` also runs on this machine."""
    return Path(str(files("musicfm_hf.hub_cards") / "space"))


def push_space(target: HubTarget, models: list[str], folder: str | Path | None = None) -> str:
    """
    Push the web application that annotates songs in one commit, with this package and its requirements.

    Args:
        target ([`HubTarget`]): Where to push; created as a Gradio Space if it does not exist.
        models (`list[str]`): Repositories of models, one for each task. If it is empty, the Space has the small model
            of the package.
        folder (*optional*): The application to push; [`application_folder`] by default.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: a model has no task, two models have the same task, or a file contains private information.
        OSError: the Hub cannot be reached, rejects the request, or does not have a model.
    """
    folder, target = Path(folder or application_folder()), target._replace(kind="space")
    api = HfApi(token=target.token)
    _check_models(api, models)
    target = target.create()
    card = SpaceCard.load(folder / "README.md", ignore_metadata_errors=False)
    card.data.models = models or None
    card.validate()
    application = {path.name: path for pattern in APPLICATION_FILES for path in matching_files(folder, pattern)}
    check_nothing_private(folder, application.values(), target.token)
    contents: dict[str, Path | bytes] = dict(application)
    contents |= {f"musicfm_hf/{path.relative_to(PACKAGE).as_posix()}": path for path in _package_files(not models)}
    contents |= {"README.md": str(card).encode(), "requirements.txt": space_requirements().encode()}
    return commit_with_retries(api, target, contents, "Push the song annotation Space with musicfm_hf")


def space_requirements() -> str:
    """Return the requirements of the application, for pip. The Gradio version is in the Space's `README.md`."""
    requirements = [Requirement(line) for line in importlib.metadata.requires("musicfm_hf") or ()]
    extras = ({"extra": ""}, {"extra": "train"})  # peft, for adapters, is in `train`
    needed = [part for part in requirements if part.marker is None or any(map(part.marker.evaluate, extras))]
    return "".join(f"{part.name}{part.specifier}\n" for part in needed)


def _check_models(api: HfApi, models: list[str]) -> None:
    """Check that all models are repositories, with one model for each task."""
    model_of_task: dict[str, str] = {}
    for name in models:
        api.model_info(name)  # fails for a local folder
        task = adapter_config(name, token=api.token).task
        if task is None:
            raise ValueError(f"{name} has no task: a Space needs fine-tuned models, one for each task.")
        if task in model_of_task:
            raise ValueError(
                f"{model_of_task[task]} and {name} both have the task {task}: a Space needs one model for each task."
            )
        model_of_task[task] = name


def _package_files(with_small_model: bool) -> list[Path]:
    """Return the modules of this package, which are the same for a wheel and a checkout, and its small model."""
    paths = [*(path for path in list_files(PACKAGE) if path.suffix == ".py"), PACKAGE / "py.typed"]
    paths += list_files(SMALL_MODEL) if with_small_model else []
    return [path for path in paths if path.relative_to(PACKAGE).parts[0] not in DATA_FOLDERS]
