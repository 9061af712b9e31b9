"""
The file `index.json`, which lists the files of an index and how they were made.

It is written last and replaced at once, so that an index is what it was before a run, or what it is after it. Files in
the folder that it does not list are shards of an interrupted run, or left from an earlier state.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..training.files import write_json
from .shards import PassageStore, Shard

NAME = "index.json"
FORMAT = 1  # incremented when the folder is laid out in another way
EXACT, IVFPQ = "exact", "ivfpq"

# Settings that vectors depend on → the flag of `musicfm index` that sets them.
FLAGS = {
    "quantization": "--quantize",
    "weights": "--model",
    "layer": "--layer",
    "passage_seconds": "--passage_seconds",
    "hop_seconds": "--hop_seconds",
    "window_seconds": "--window_seconds",
    "overlap_seconds": "--overlap_seconds",
    "dtype": "--dtype",
}


@dataclass(frozen=True)
class Manifest:
    """
    Content of `index.json`.

    Attributes:
        model (`str`), revision (`str`): Name of the model as it was given, and revision of its weights.
        version (`str`): Version of this package that wrote the index.
        source (`str`): The catalog: an absolute path, or the ID of a data set.
        made (`dict`): Settings that the vectors depend on, and a digest of the weights.
        rows (`int`), songs (`int`), size (`int`): Numbers of passages and songs, and size of the vectors.
        shards (`list[str]`): Names of the shards, in the order of their rows.
        standardize (`bool`): Vectors are standardized; see `geometry.py`.
        geometry (`str`): Name of the file with mean, deviation and norms.
        trained_rows (`int`): Number of passages when mean, deviation and the centroids of FAISS were estimated.
        lookup (`str`): Name of the file that finds songs by name; see `song_lookup.py`.
        index_type (`str`): `exact` or `ivfpq`.
        faiss_file (`str`, *optional*): Name of the file of FAISS.
        labels_file (`str`, *optional*): Name of the file of labels; see `passage_labels.py`.
        annotations (`str`, *optional*): Folder of the annotations that the labels come from.
    """

    model: str
    revision: str
    version: str
    source: str
    made: dict[str, Any]
    rows: int
    songs: int
    size: int
    shards: list[str]
    standardize: bool
    geometry: str
    trained_rows: int
    lookup: str
    index_type: str = EXACT
    faiss_file: str | None = None
    labels_file: str | None = None
    annotations: str | None = None
    format: int = field(default=FORMAT)

    @property
    def files(self) -> set[str]:
        """Names of all files of the index, without `index.json`."""
        names = {*self.shards, self.geometry, self.lookup, self.faiss_file, self.labels_file}
        return {name for name in names if name is not None}

    def save(self, folder: str | os.PathLike) -> None:
        """Write the file into the folder of the index."""
        write_json(Path(folder) / NAME, asdict(self))

    def open_store(self, folder: str | os.PathLike) -> PassageStore:
        """
        Open the shards.

        Raises:
            FileNotFoundError: a shard is missing.
            ValueError: a shard is damaged.
        """
        return PassageStore(Shard(Path(folder) / name) for name in self.shards)


def read_manifest(folder: str | os.PathLike) -> Manifest | None:
    """
    Read the manifest of an index, or return `None` if the folder has none.

    Raises:
        ValueError: it is not a manifest that this version can read.
    """
    path = Path(folder) / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}")
        return Manifest(**content)
    except FileNotFoundError:
        return None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} is not an index that this version of musicfm_hf can read ({error}). Make the index again, in "
            "another folder, with `musicfm index`."
        ) from error


def check_same_settings(folder: str | os.PathLike, present: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """
    Raise a `ValueError` that names the settings in which an index differs from what it would be made with now.

    Args:
        folder: Folder of the index, for the message.
        present: `made` of its shards.
        wanted: Settings of this run.
    """
    differences = [name for name in sorted({*present, *wanted}) if present.get(name) != wanted.get(name)]
    if differences:
        details = "; ".join(
            f"{FLAGS.get(name, name)}: it was made with {_shown(name, present)}, now {_shown(name, wanted)}"
            for name in differences
        )
        raise ValueError(
            f"{folder} has passages that were embedded differently ({details}). Pass the same settings, or another "
            "`--output_dir`."
        )


def _shown(name: str, settings: Mapping[str, Any]) -> str:
    """Return the value of a setting for a message."""
    if name not in settings:
        return "none"
    return f"weights {settings[name][:8]}…" if name == "weights" else str(settings[name])
