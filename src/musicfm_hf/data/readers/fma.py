"""
FMA: which files of an extracted archive make up a subset and its splits, under which licence, and which are no good.

Defferrard et al., "FMA: A Dataset for Music Analysis", ISMIR 2017, github.com/mdeff/fma. The archives `fma_small`,
`fma_medium` and `fma_large` have clips of 30 s, `fma_full` whole tracks; each has files such as `000/000002.mp3`.
"""

import csv
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

SUBSETS = ("small", "medium", "large", "full")  # each one contains those before it; full has the tracks of large

SPLITS = {"train": "training", "valid": "validation", "test": "test"}

LICENCE = "Each track has the licence that its artist chose, mostly Creative Commons; the metadata are CC BY 4.0."

# Seconds of audio in clips that were cut in the wrong place, because the length in the metadata was wrong: the list of
# FMA's authors, https://github.com/mdeff/fma/wiki (issues 4, 8, 36, 44, 49). It covers small and medium; of the tracks
# that only large has, no list was published. The tracks of full were not cut.
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

# A clip without audio has under 2 KB (133297 has 1752 bytes: issue 4); this is half a second at 128 kbit/s.
_MIN_BYTES = 8192

_COLUMNS = (("set", "split"), ("set", "subset"), ("track", "license"))


@dataclass(frozen=True)
class Track:
    """
    A track of FMA.

    Attributes:
        id (`int`): The first column of `tracks.csv`.
        path (`Path`): Where its file belongs.
        split (`str`): train, valid or test.
        subset (`str`): The smallest that has it: small, medium or large.
        licence (`str`): As the metadata name it; empty where they do not.
        problem (`str`): Why it should not be used; empty where nothing is known against it.
    """

    id: int
    path: Path
    split: str
    subset: str
    licence: str
    problem: str


def read_tracks(source: str | os.PathLike, metadata: str | os.PathLike, subset: str) -> list[Track]:
    """
    The tracks of a subset, in the order of their ids.

    Args:
        source: The folder of an extracted archive, of this subset or a larger one.
        metadata: The folder of `fma_metadata.zip`, with `tracks.csv`.
        subset (`str`): small, medium or large: clips of 30 s; or full: whole tracks.

    Raises:
        FileNotFoundError: there is no such folder or no `tracks.csv`.
        ValueError: there is no such subset, `tracks.csv` is malformed, or `source` has none of the files.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` must be one of {', '.join(SUBSETS)}, got {subset!r}.")
    folder, table = Path(source), Path(metadata) / "tracks.csv"
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}")
    if not table.is_file():
        raise FileNotFoundError(f"There is no {table}: it comes in fma_metadata.zip.")
    wanted = SUBSETS[: SUBSETS.index(subset) + 1]
    split_of = {name: split for split, name in SPLITS.items()}
    tracks = []
    for track_id, split, smallest, licence in _read_table(table):
        if smallest not in SUBSETS or split not in split_of:
            raise ValueError(f"{table}: track {track_id} has split {split!r} and subset {smallest!r}.")
        if smallest in wanted:
            path = folder / f"{track_id:06d}"[:3] / f"{track_id:06d}.mp3"
            problem = _problem(track_id, path, subset)
            tracks.append(Track(track_id, path, split_of[split], smallest, licence, problem))
    if not any(track.path.is_file() for track in tracks):
        example = tracks[0].path if tracks else "no track"
        raise ValueError(f"{folder} has none of the {len(tracks)} files of {subset}, such as {example}.")
    return sorted(tracks, key=lambda track: track.id)


def _problem(track_id: int, path: Path, subset: str) -> str:
    try:
        size = path.stat().st_size
    except OSError:
        return "missing"
    if subset != "full" and track_id in SHORT_CLIPS:
        return f"known to have {SHORT_CLIPS[track_id]:g} s of audio"
    return f"has {size} bytes: no audio, or next to none" if size < _MIN_BYTES else ""


def _read_table(path: Path) -> list[tuple[int, str, str, str]]:
    """Id, split, subset and licence of all tracks: two rows of names, one that names the index, then the tracks."""
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
        rows = [tuple(row) for row in table[positions].itertuples(index=False)]
        return [(int(row[0]), *row[1:]) for row in rows]
    except ValueError as error:  # of csv, pandas, Unicode and of the above
        raise ValueError(f"{path} is not the table of FMA's tracks ({error}).") from error
