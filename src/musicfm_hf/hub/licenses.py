"""Licenses of models, as their cards state them."""

from pathlib import Path

import yaml
from huggingface_hub import ModelCard, hf_hub_download

NOT_STATED = "not-stated"  # `license_name` on the Hub for weights without a known license
_OTHER = "other: "  # before the name of a license that has no identifier on the Hub


def license_of(name: str | Path, revision: str | None = None) -> str | None:
    """
    Return the license on the card of a model in a folder or, with a revision, in a repository: its identifier on the
    Hub, or `other: NAME` if it has none. Return `None` if the card cannot be read or states no license.
    """
    try:
        local = Path(name) / "README.md"
        path = local if revision is None else hf_hub_download(str(name), "README.md", revision=revision)
        card = ModelCard.load(path).data
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if card.license != "other":
        return card.license
    own_name = card.get("license_name")
    return None if own_name in (None, NOT_STATED) else f"{_OTHER}{own_name}"


def license_metadata(license: str) -> dict[str, str]:
    """Return the metadata of a card for the output of [`license_of`], or for `other`, a license that is not stated."""
    if license == "other":
        return {"license": "other", "license_name": NOT_STATED}
    if license.startswith(_OTHER):
        return {"license": "other", "license_name": license.removeprefix(_OTHER)}
    return {"license": license}
