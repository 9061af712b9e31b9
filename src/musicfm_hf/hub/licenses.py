"""Licenses of models, as their cards state them."""

from pathlib import Path

import yaml
from huggingface_hub import ModelCard, hf_hub_download


def license_of(name: str | Path, revision: str | None = None) -> str | None:
    """
    Return the license on the card of a model in a folder or, with a revision, in a repository. Return `None` if the
    card cannot be read or states no license.
    """
    try:
        local = Path(name) / "README.md"
        path = local if revision is None else hf_hub_download(str(name), "README.md", revision=revision)
        stated = ModelCard.load(path).data.license
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return None if stated == "other" else stated
