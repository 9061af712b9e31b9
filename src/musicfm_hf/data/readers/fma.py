"""
FMA: the files of an extracted archive by subset and split, with their licenses, and a list of faulty files.

Defferrard et al., "FMA: A Dataset for Music Analysis", ISMIR 2017, github.com/mdeff/fma. The archives `fma_small`,
`fma_medium` and `fma_large` have clips of 30 s, `fma_full` whole tracks; each has files such as `000/000002.mp3`.
"""

import csv
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..dataset_reader import ListedTrack, ListReader, Option
from ..labeled import Source

SUBSETS = ("small", "medium", "large", "full")  # each contains the previous ones; full has the tracks of large

SPLITS = {"training": "train", "validation": "validation", "test": "test"}

SOURCE = Source(
    description="FMA: A Dataset for Music Analysis.",
    citation="",
    homepage="https://github.com/mdeff/fma",
    license="Each track has the license that its artist chose, mostly Creative Commons; the metadata are CC BY 4.0.",
)

# Seconds of audio in clips that were cut at the wrong position, because the length in the metadata was wrong. The list
# is that of FMA's authors, https://github.com/mdeff/fma/wiki (issues 4, 8, 36, 44, 49). It covers small and medium; no
# list was published for the additional tracks of large. The tracks of full were not cut.
SHORT_CLIPS = {
    1486: 0.0,
    5574: 0.0,
    65753: 0.0,
    80391: 0.0,
    98558: 0.0,
    98559: 0.0,
    98560: 0.0,
    98565: 1.6,
    98566: 6.2,
    98567: 0.5,
    98568: 6.6,
    98569: 1.5,
    98571: 0.0,
    99134: 0.0,
    105247: 0.0,
    108924: 27.4,
    108925: 0.0,
    126981: 0.0,
    127336: 0.0,
    133297: 0.0,
    143992: 0.0,
}

# A clip without audio has less than 2 KB (133297 has 1752 bytes: issue 4); this limit is half a second at 128 kbit/s.
_MIN_BYTES = 8192

_COLUMNS = (("set", "split"), ("set", "subset"), ("track", "license"))


@dataclass(frozen=True)
class Track(ListedTrack):
    """
    A track of FMA.

    Attributes:
        id (`int`): The first column of `tracks.csv`.
        subset (`str`): The smallest subset with the track: small, medium or large.
    """

    id: int
    subset: str


def list_tracks(source: str | os.PathLike, metadata: str | os.PathLike, subset: str | None = None) -> list[Track]:
    """
    List the tracks of a subset, in the order of their ids.

    Args:
        source: The folder of an extracted archive, of this subset or a larger one.
        metadata: The folder of `fma_metadata.zip`, with `tracks.csv`.
        subset (`str`, *optional*): small, medium or large: clips of 30 s; or full: whole tracks. By default, the name
            of `source` after its last `_`.

    Raises:
        FileNotFoundError: the folder or `tracks.csv` does not exist.
        ValueError: the subset does not exist, `tracks.csv` is malformed, or `source` has none of the files. A track
            with an unknown split or subset has a `problem`.
    """
    subset = subset or _default_subset(source)
    if subset not in SUBSETS:
        raise ValueError(f"`subset` must be one of {', '.join(SUBSETS)}, got {subset!r}.")
    folder, table = Path(source).absolute(), Path(metadata) / "tracks.csv"
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist")
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist: it is in fma_metadata.zip.")
    wanted = SUBSETS[: SUBSETS.index(subset) + 1]
    tracks = []
    for number, split, smallest, license_name in _read_table(table):
        if not number.isdecimal():
            tracks.append(Track(folder / number, "", license_name, f"is not a number in {table}", -1, smallest))
            continue
        track_id = int(number)
        path = folder / f"{track_id:06d}"[:3] / f"{track_id:06d}.mp3"
        problem = _problem(track_id, path, subset)
        if smallest not in SUBSETS or split not in SPLITS:
            problem = f"has split {split!r} and subset {smallest!r} in {table}"
        elif smallest not in wanted:
            continue
        tracks.append(Track(path, SPLITS.get(split, ""), license_name, problem, track_id, smallest))
    if not any(track.path.is_file() for track in tracks):
        example = tracks[0].path if tracks else "no track"
        raise ValueError(f"{folder} has none of the {len(tracks)} files of {subset}, such as {example}.")
    return sorted(tracks, key=lambda track: track.id)


def _default_subset(source: str | os.PathLike) -> str:
    """Return the subset in the folder name of an archive, such as `fma_large`."""
    return Path(source).absolute().name.rpartition("_")[2]


def _problem(track_id: int, path: Path, subset: str) -> str:
    """Return the reason not to use a track, or an empty string."""
    try:
        size = path.stat().st_size
    except OSError:
        return "missing"
    if subset != "full" and track_id in SHORT_CLIPS:
        return f"known to have {SHORT_CLIPS[track_id]:g} s of audio"
    return f"has {size} bytes: no audio, or almost none" if size < _MIN_BYTES else ""


def _read_table(path: Path) -> list[tuple[str, str, str, str]]:
    """Return the id, split, subset and license of each track. The table has two header rows and one for the index."""
    import pandas

    try:
        with path.open(encoding="utf-8", newline="") as file:
            tops, names, index = islice(csv.reader(file), 3)
        columns = list(zip(tops, names, strict=True))
        if missing := [".".join(column) for column in _COLUMNS if column not in columns]:
            raise ValueError(f"no column {', '.join(missing)}")
        if index[:1] != ["track_id"]:
            raise ValueError(f"its third row begins with {index[:1]}, not with track_id")
        positions = [0, *(columns.index(column) for column in _COLUMNS)]
        table = pandas.read_csv(path, header=None, skiprows=3, usecols=positions, dtype=str, keep_default_na=False)
        return [tuple(row) for row in table[positions].itertuples(index=False)]
    except ValueError as error:  # from csv, pandas, decoding and the lines above
        raise ValueError(f"{path} is not the table of FMA's tracks ({error}).") from error


def _info(source: str | os.PathLike, metadata: str | os.PathLike, subset: str | None = None) -> dict[str, Any]:
    """Return entries of `info.json`."""
    return {"metadata": Path(metadata).absolute().name, "subset": subset or _default_subset(source)}


READER = ListReader(
    "fma",
    "lists of the files of an FMA archive, without labels",
    SOURCE,
    list_tracks,
    (
        Option("metadata", "the folder of fma_metadata.zip", is_required=True),
        Option("subset", "by default, the last part of the name of the source", choices=SUBSETS),
    ),
    info=_info,
)
