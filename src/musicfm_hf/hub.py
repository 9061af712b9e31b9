"""Cards, and what else a folder needs to be a good citizen of the Hub."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData


def write_card(folder: str | Path, template: str, fields: dict[str, Any], license: str = "mit") -> None:
    """
    Write `folder/README.md` from the template `hub_cards/<template>.md`.

    Args:
        folder: The folder of a saved model.
        template (`str`): Name of a template, without its ending.
        fields: What the template shows.
        license (`str`): Licence of the weights, as the Hub names it.

    Raises:
        FileNotFoundError: if there is no such template.
    """
    data = ModelCardData(
        library_name="transformers",
        license=license,
        pipeline_tag="feature-extraction",
        tags=["musicfm", "music", "audio", "music-information-retrieval"],
    )
    with as_file(files("musicfm_hf.hub_cards") / f"{template}.md") as path:
        if not path.is_file():
            raise FileNotFoundError(f"There is no card template {template!r}.")
        card = ModelCard.from_template(data, template_path=str(path), **fields)
    card.save(Path(folder) / "README.md")
