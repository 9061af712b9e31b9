"""Catalogs of songs: list the audio of a folder, a list of paths, or a data set."""

import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tasks.values import read_text
from ..training.files import list_files, readable_name
from .written_files import is_click_track

AUDIO_EXTENSIONS = frozenset(
    ".3gp .aac .aif .aifc .aiff .ape .au .avi .caf .flac .flv .m4a .m4b .mka .mkv .mov .mp2 .mp3 .mp4 .mpg .oga .ogg "
    ".opus .rf64 .w64 .wav .wave .webm .wma .wmv .wv".split()
)

Song = tuple[str, Any]  # a name, and audio as [`musicfm_hf.load_audio`] takes it or as a [`DatasetAudio`]

StreamedSong = tuple[str | None, Any]  # rows of a stream may be without a name

_DESCRIPTION = ("name", "licence", "homepage", "citation")


@dataclass(frozen=True)
class DatasetAudio(Mapping):
    """
    Audio in a row of a `datasets` data set with a column `Audio(decode=False)`: a mapping with `bytes` and `path`, for
    [`musicfm_hf.load_audio`]. Each access to one of them reads the data set; [`fetch_audio`] reads it once.
    """

    dataset: Any
    index: int
    column: str

    def __getitem__(self, key: str) -> Any:
        audio = self.dataset[self.index][self.column]
        return None if audio is None else audio[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("bytes", "path"))

    def __len__(self) -> int:
        return 2


def fetch_audio(source: Any) -> Any:
    """Read the row of a [`DatasetAudio`] from its data set. Return other audio unchanged."""
    return source.dataset[source.index][source.column] if isinstance(source, DatasetAudio) else source


def digest_names(names: Iterable[str]) -> str:
    """Return the CRC-32 of a sequence of names, in hexadecimal."""
    checksum = 0
    for name in names:
        checksum = zlib.crc32(f"{name}\n".encode("utf-8", "surrogateescape"), checksum)
    return f"{checksum:08x}"


def list_audio(folder: str | os.PathLike) -> list[Path]:
    """
    List the audio files below a folder, searched recursively for the extensions in `AUDIO_EXTENSIONS`, sorted, without
    [hidden files][musicfm_hf.training.files.is_hidden], click tracks of `musicfm annotate`, and links to folders.
    Links to files that do not exist are listed, so that they are problems instead of missing songs, unless the song
    exists in another format.
    """
    paths = [path for path in list_files(folder, with_broken_links=True) if path.suffix.lower() in AUDIO_EXTENSIONS]
    broken = {path for path in paths if not path.exists()}
    present = {path.with_suffix("") for path in paths if path not in broken} if broken else set()
    kept = (path for path in paths if path not in broken or path.with_suffix("") not in present)
    return [path for path in kept if not is_click_track(path)]


def list_sources(source: str | os.PathLike, audio_column: str = "audio") -> list[Song]:
    """
    List the songs of a catalog, as names and audio for [`musicfm_hf.embed_files`].

    Args:
        source: An audio file; a folder, with the files of [`list_audio`]; a `.txt` file with one path per line
            (relative paths start at its folder); a folder saved by `datasets.Dataset.save_to_disk`; or the ID of a
            data set on the Hub.
        audio_column (`str`): Column of a data set that holds the audio.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source is empty, has no audio, or is a list that is not in UTF-8.
    """
    if not str(source):
        raise ValueError("The source is an empty text. Pass a folder, a file or a data set; `.` is this folder.")
    path = Path(source)
    is_saved_dataset = (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()
    if is_saved_dataset or _is_hub_id(source):
        return _dataset_sources(str(source), is_saved_dataset, audio_column)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        root, paths = path, list_audio(path)
    elif path.suffix.lower() == ".txt":
        lines = [line.strip() for line in read_text(path).split("\n")]  # other line breaks may be part of a name
        paths = [Path(os.path.normpath(path.parent.absolute() / line)) for line in lines if line]
        root = path.parent.absolute()
        if paths and not all(file.is_relative_to(root) for file in paths):
            root = Path(os.path.commonpath([file.parent for file in paths]))
    else:
        root, paths = path.parent, [path]
    if not paths:
        raise ValueError(f"{path} has no audio ({', '.join(sorted(AUDIO_EXTENSIONS))}).")
    return [(file.relative_to(root).as_posix(), str(file)) for file in paths]


def _is_hub_id(source: str | os.PathLike) -> bool:
    """Return whether a source is the ID of a data set on the Hub instead of a path."""
    path = Path(source)
    is_file = path.exists() or path.suffix.lower() in (*AUDIO_EXTENSIONS, ".txt")
    return not is_file and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) is not None


def _prepared_info(folder: Path) -> dict[str, Any] | None:
    """Return the `info.json` of `musicfm prepare` in a folder; `None` without one, or for a file of something else."""
    try:
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return info if isinstance(info, dict) and {"name", "source"} <= info.keys() else None


def describe_source(source: str | os.PathLike) -> dict[str, str]:
    """
    Describe music for results and cards: its `name` and, if known, its `licence`, `homepage` and `citation`. They come
    from the `info.json` of `musicfm prepare` (in the folder, or beside the list), or from the data set on the Hub,
    whose ID is returned as `hub_id`.
    """
    path = Path(source)
    for folder in (path, path.parent):
        if info := _prepared_info(folder):
            name = readable_name(folder.resolve().name)
            return {"name": name} | {key: info[key] for key in _DESCRIPTION if info.get(key)}
    if not _is_hub_id(source):
        is_pattern = not path.exists() and any(letter in path.name for letter in "*?[")
        return {"name": readable_name(f"{path.absolute().parent.name}/{path.name}" if is_pattern else path.name)}
    from datasets import load_dataset_builder

    info = load_dataset_builder(str(source)).info
    description = {"licence": info.license, "homepage": info.homepage, "citation": info.citation}
    known = {key: value for key, value in description.items() if value}
    return {"name": str(source), "hub_id": str(source)} | known


def describe_sources(sources: Sequence[str | os.PathLike]) -> dict[str, str]:
    """Join the descriptions of several data sets; see [`describe_source`]. Together they have no `hub_id`."""
    described = [describe_source(source) for source in sources]
    names = list(dict.fromkeys(name for source in described for name in source))
    if len(described) > 1:
        names = [name for name in names if name != "hub_id"]  # scores are of no data set on the Hub
    separators = {"name": ", ", "licence": "; "}
    return {
        name: separators.get(name, "\n").join(dict.fromkeys(source[name] for source in described if source.get(name)))
        for name in names
    }


def _dataset_sources(source: str, is_saved: bool, audio_column: str) -> list[Song]:
    """Return the rows of all splits of a data set."""
    from datasets import Audio, DatasetDict, load_dataset, load_from_disk

    try:
        loaded = load_from_disk(source) if is_saved else load_dataset(source)
    except OSError as error:
        if is_saved:
            raise
        raise FileNotFoundError(
            f"{source} is neither a file or folder nor a data set that the Hub finds ({error})."
        ) from error
    splits = loaded if isinstance(loaded, DatasetDict) else {"": loaded}
    sources = []
    for split, dataset in splits.items():
        if audio_column not in dataset.column_names:
            raise ValueError(f"{source} has no column `{audio_column}`, only {', '.join(dataset.column_names)}.")
        try:
            dataset = dataset.select_columns([audio_column]).cast_column(audio_column, Audio(decode=False))
        except TypeError as error:
            raise ValueError(f"The column `{audio_column}` of {source} has no audio files: {error}") from error
        prefix = f"{split}/" if split else ""
        sources += [(f"{prefix}{row:07d}", DatasetAudio(dataset, row, audio_column)) for row in range(len(dataset))]
    if not sources:
        raise ValueError(f"{source} has no rows.")
    return sources
