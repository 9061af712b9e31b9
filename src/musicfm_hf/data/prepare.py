"""Prepare data: labeled data sets, lists of files by split, and statistics of a catalog."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from .. import __version__
from ..training.files import complete_files, run_python_file, write_json, write_table, write_text
from .catalog import list_sources
from .dataset_reader import DatasetReader, ListReader
from .labeled import LabeledSong, Problem, read_all
from .labeled_dataset import build, save
from .splits import SPLITS, assign_splits
from .statistics import MelStatistics, mel_statistics

# Split → name of the list of its files.
_LISTS = {"train": "train", "validation": "valid", "test": "test"}

# Kind of problem → its name in counts.
_KINDS = {
    "wrong": "left out for wrong annotations",
    "error": "left out for errors of the reader",
    "part": "used in part",
}


class PreparedData(NamedTuple):
    """
    A prepared data set.

    Attributes:
        output_dir (`Path`): Folder of the data set.
        counts (`dict[str, int]`): Numbers of songs in each list, and of songs that are left out; of those for wrong
            annotations and for errors of the reader, and of songs that are used in part, if there are any.
        problems (`list[Problem]`): Songs, and parts of songs, that are left out, with reasons.
    """

    output_dir: Path
    counts: dict[str, int]
    problems: list[Problem]


def load_reader(path: str | os.PathLike) -> DatasetReader | ListReader:
    """
    Load the reader of a data set from a Python file of the user, which defines `READER`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not define a reader.
    """
    reader = getattr(run_python_file(path), "READER", None)
    if not isinstance(reader, DatasetReader | ListReader):
        raise ValueError(f"{path} must define `READER = DatasetReader(...)`; see docs/new_dataset.md.")
    return reader


def prepare_dataset(
    reader: DatasetReader,
    output_dir: str | os.PathLike,
    source: str | os.PathLike = "",
    audio: str | os.PathLike | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    fractions: Sequence[float] | None = None,
    strict: bool = False,
    license: str | None = None,
) -> PreparedData:
    """
    Prepare a labeled data set: the data set itself for `datasets.load_from_disk`, `train.txt`, `valid.txt` and
    `test.txt` with the paths of its audio, `problems.tsv` with the songs and parts of songs that are left out, and
    `info.json`. Audio is not copied.

    Args:
        reader ([`DatasetReader`]): Reader of the data set.
        output_dir: Folder to write to.
        source, audio, options: Arguments of the function of the reader. Audio that the reader creates is written to
            the folder `audio` of the output.
        seed (`int`), fractions: As for [`assign_splits`]; by default the fractions of the reader.
        strict (`bool`): Raise an error for the first song with wrong annotations, instead of leaving it out.
        license (`str`, *optional*): License of a user's own data.

    Raises:
        ValueError: no song can be used; with `strict`, an annotation is wrong; or the reader or [`assign_splits`]
            raises it.
        FileNotFoundError, ImportError: the reader raises it.
        FileExistsError: see [`musicfm_hf.data.labeled_dataset.save`].
    """
    output = Path(output_dir).absolute()
    defaults = {option.name: option.default for option in reader.options if not option.is_required}
    options = defaults | dict(options or {})
    description = reader.source if license is None else reader.source._replace(license=license)
    audio = output / "audio" if reader.makes_audio else audio
    readers = reader.song_readers(source, audio, **options)
    songs, problems = read_all(tqdm(readers.items(), unit="song"), strict)
    if not songs:
        if not (output / "info.json").exists():  # an earlier data set keeps its own
            _write_problems(output, problems)
        reasons = "; ".join(f"{problem.id}: {problem.reason}" for problem in problems[:3])
        raise ValueError(f"No song has audio and labels ({reasons or 'the source has no songs'}).")
    splits = assign_splits(songs, seed, reader.fractions if fractions is None else fractions)
    dataset = build(splits, description)
    originals = {_LISTS[split]: [song for song in splits[split] if not song.transposition] for split in SPLITS}
    paths = {name: [_listed(song, output) for song in part] for name, part in originals.items()}
    lists = {name: [path for path in part if path is not None] for name, part in paths.items()}
    counts = {name: len(part) for name, part in originals.items()} | _count_problems(problems)
    info = {
        "name": output.name if reader.is_own_data else reader.name,
        "source": Path(source).absolute().name,
        "licence": description.license,
        "homepage": description.homepage,
        "citation": description.citation,
        "hours": round(sum(song.duration for part in originals.values() for song in part) / 3600, 3),
        "counts": counts,
        "rows": {split: len(part) for split, part in splits.items()},
    }
    extra = reader.info(source, audio, **options) if reader.info is not None else {}
    save(dataset, output, partial(_write_files, lists=lists, problems=problems, info=info | extra))
    return PreparedData(output, counts, problems)


def prepare_lists(
    reader: ListReader,
    output_dir: str | os.PathLike,
    source: str | os.PathLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> PreparedData:
    """
    List the files of a collection without labels: `train.txt`, `valid.txt` and `test.txt`, `problems.tsv` with the
    files that are left out, `licences.tsv` with the license of each file, `tracks.tsv` with what else the reader
    knows of the files, and `info.json`.

    Args:
        reader ([`ListReader`]): Reader of the collection.
        output_dir: Folder to write to.
        source, options: Arguments of the function of the reader. The source is the output folder by default.

    Raises:
        FileNotFoundError, ValueError: the reader raises it.
    """
    output, options = Path(output_dir), dict(options or {})
    source = output if source is None else source
    tracks = reader.list_tracks(source, **options)
    usable = [track for track in tracks if not track.problem]
    problems = [Problem(str(track.path), track.problem) for track in tracks if track.problem]
    lists = {_LISTS[split]: [str(track.path) for track in usable if track.split == split] for split in SPLITS}
    counts = {name: len(paths) for name, paths in lists.items()} | {"problems": len(problems)}
    info: dict[str, Any] = {"name": reader.name, "source": Path(source).absolute().name}
    info |= reader.info(source, **options) if reader.info is not None else {}
    info |= {
        "licence": reader.source.license,
        "licences": dict(Counter(track.license for track in usable).most_common()),
        "counts": counts,
    }
    with complete_files(output, last="info.json") as temporary:
        write_table(temporary / "licences.tsv", [(track.path, track.license) for track in usable])
        if reader.columns:
            rows = [(track.path, track.split, track.license, *track.details) for track in usable]
            write_table(temporary / "tracks.tsv", [("path", "split", "license", *reader.columns), *rows])
        _write_files(temporary, lists, problems, info)
        for path in temporary.iterdir():  # so that lists of two preparations never mix
            (output / path.name).unlink(missing_ok=True)
    return PreparedData(output, counts, problems)


def prepare_statistics(
    sources: Sequence[str | os.PathLike],
    output_file: str | os.PathLike,
    max_hours: float | None = 10.0,
    seed: int = 0,
) -> MelStatistics:
    """
    Measure the log-mel spectrogram of catalogs, and write the statistics as JSON.

    Args:
        sources: Catalogs for [`list_sources`].
        output_file: File to write.
        max_hours, seed: As for [`mel_statistics`].

    Raises:
        FileNotFoundError, ValueError: see [`list_sources`] and [`mel_statistics`].
    """
    songs = [song for source in sources for song in list_sources(source)]
    statistics = mel_statistics(songs, max_hours, seed)
    values = statistics.to_dict() | {"source": [str(source) for source in sources]}
    write_json(Path(output_file), values, indent=2, ascii_only=False)
    return statistics


def _count_problems(problems: Sequence[Problem]) -> dict[str, int]:
    """Count the songs that are left out, and, if there are any, those to look at."""
    songs = {kind: len({problem.id for problem in problems if problem.kind == kind}) for kind in _KINDS}
    left_out = sum(problem.kind != "part" for problem in problems)
    return {"left out": left_out} | {name: songs[kind] for kind, name in _KINDS.items() if songs[kind]}


def _write_problems(output: Path, problems: Sequence[Problem]) -> None:
    """Write names and reasons to `problems.tsv`."""
    write_table(output / "problems.tsv", [(problem.id, problem.reason) for problem in problems])


def _listed(song: LabeledSong, folder: Path) -> str | None:
    """Return the path of the audio of a song, for a list in `folder`; `None` if the audio is no file of its own."""
    audio = song.audio
    if isinstance(audio, Mapping):
        audio = None if audio.get("bytes") is not None else audio.get("path")
    if audio is None:
        return None
    path = Path(audio).absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _write_files(
    folder: Path, lists: Mapping[str, Sequence[str]], problems: Sequence[Problem], info: dict[str, Any]
) -> None:
    """Write each list of paths to `NAME.txt`, the problems, and `info.json` with the versions of the packages."""
    _write_problems(folder, problems)
    for name, paths in lists.items():
        write_text(folder / f"{name}.txt", "".join(f"{path}\n" for path in paths))
    info["versions"] = {"musicfm_hf": __version__} | info.get("versions", {})
    write_json(folder / "info.json", info, indent=2, ascii_only=False)
