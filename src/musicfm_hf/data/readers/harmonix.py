"""
The Harmonix Set: beats, downbeats and sections of 912 pop songs, without the audio.

The source is a copy of github.com/urinieto/harmonixset, or its folder `dataset`, with `metadata.csv`,
`beats_and_downbeats/FILE.txt` (time, position in the bar, bar number) and `segments/FILE.txt` (start and label of each
section). Audio files are named after the column `File`, such as `0001_12step`.

Annotators heard the recordings of a game. `youtube_alignment_scores.csv` has a score from 0 to 1 for the match between
these and the recordings on YouTube (`--min_alignment`).

Won et al. 2023 hold out 150 songs for structure, but do not publish which. `--held_out 150` draws as many.
"""

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...tasks.annotations import Segment, read_beats
from ...tasks.values import read_text, to_number
from ..dataset_reader import DatasetReader, Option
from ..labeled import AudioFolder, LabeledSong, SongReaders, Source, UnusableSongError, raising
from ..splits import hash_name

SOURCE = Source(
    description="The Harmonix Set: beats, downbeats and functional segments of 912 western pop songs.",
    citation="""@inproceedings{nieto2019harmonix,
  title={The Harmonix Set: Beats, Downbeats, and Functional Segment Annotations of Western Popular Music},
  author={Nieto, Oriol and McCallum, Matthew and Davies, Matthew E. P. and Robertson, Andrew and Stark, Adam
    and Egozy, Eran},
  booktitle={Proceedings of the 20th International Society for Music Information Retrieval Conference},
  year={2019}
}""",
    homepage="https://github.com/urinieto/harmonixset",
    license="MIT (annotations). The recordings are commercial and not part of the data set.",
)

_COLUMNS = ("File", "Title", "Artist")


def song_readers(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    min_alignment: float | None = None,
    held_out: int | None = None,
    held_out_seed: int = 0,
) -> SongReaders:
    """
    Return the readers of the songs, keyed by the column `File`.

    Args:
        source: A copy of the repository, or its folder `dataset`.
        audio: Folder to search for the audio; `source` by default.
        min_alignment (`float`, *optional*): Leave out songs with a lower score in `youtube_alignment_scores.csv`, or
            with none.
        held_out (`int`, *optional*): Draw this number of test songs from all songs of `metadata.csv`, whether or not
            their audio is there, so that the test set is the same everywhere. A ninth of the other songs are
            validation songs. All versions of a song are in one split.
        held_out_seed (`int`): Seed of the draw.

    Raises:
        FileNotFoundError: the folder, `metadata.csv` or, if needed, `youtube_alignment_scores.csv` does not exist.
        ValueError: a table is malformed, or an argument is out of range.
    """
    folder = Path(source)
    if (folder / "dataset").is_dir():
        folder = folder / "dataset"
    files = AudioFolder(audio or source)
    songs, readers = _read_metadata(folder / "metadata.csv")
    poor = {} if min_alignment is None else _poorly_aligned(folder, songs, min_alignment)
    splits = {} if held_out is None else _draw_splits(songs, held_out, held_out_seed)
    for name, group in songs.items():
        read = partial(_read_song, folder, files, name, group, splits.get(name))
        readers[name] = raising(UnusableSongError(poor[name])) if name in poor else read
    return readers


def _poorly_aligned(folder: Path, songs: Iterable[str], least: float) -> dict[str, str]:
    """Return the reason to leave out each song with an alignment score below `least`, or without one."""
    if not 0 <= least <= 1:
        raise ValueError(f"`min_alignment` must be between 0 and 1, got {least}.")
    path = folder / "youtube_alignment_scores.csv"
    scores = {
        row["File"]: to_number(row["score"], "the score", where) for where, row in _rows(path, ("File", "score"))
    }
    return {
        name: f"Its alignment score is {scores[name]:.3f}, below {least:g} ({path})."
        if name in scores
        else f"It has no alignment score in {path}."
        for name in songs
        if not scores.get(name, -1.0) >= least
    }


def _draw_splits(songs: Mapping[str, str], num_test: int, seed: int) -> dict[str, str]:
    """Return the split of each song. Groups are drawn in the order of a hash, without those that do not fit."""
    if not 0 < num_test < len(songs):
        raise ValueError(f"`held_out` must be between 1 and {len(songs) - 1}, one song less than all, got {num_test}.")
    sizes = Counter(songs.values())
    splits: dict[str, str] = {}
    for split, room in (("test", num_test), ("validation", (len(songs) - num_test) // 9)):
        for group in sorted(sizes.keys() - splits.keys(), key=lambda group: (hash_name(group, seed), group)):
            if sizes[group] <= room:
                splits[group] = split
                room -= sizes[group]
    return {name: splits.get(group, "train") for name, group in songs.items()}


def read_sections(path: str | os.PathLike, last: float) -> list[Segment]:
    """
    Read the sections of a file with a time and a label in each line. Each section lasts until the next one; `end`
    marks the end of the last section.

    Args:
        path: File to read.
        last (`float`): End of the last section in seconds, if the file has no `end`. The section is left out if it
            would have no length.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is malformed, or the times do not ascend.
    """
    path = Path(path)
    starts, labels = [], []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        time, _, label = line.strip().replace("\t", " ").partition(" ")
        starts.append(to_number(time, "the time of a section", f"{path}, line {number}"))
        labels.append(label.strip())
        if starts[-1] < 0 or starts[-1] <= max(starts[:-1], default=-1.0):
            raise ValueError(f"{path}, line {number}: sections must ascend from 0 s on, got {line!r}.")
    if labels and labels[-1].lower() != "end" and last > starts[-1]:
        starts.append(last)
    rows = zip(starts[:-1], starts[1:], labels, strict=False)
    return [Segment(*row) for row in rows if row[2].lower() != "end"]


def _read_song(folder: Path, files: AudioFolder, name: str, group: str, split: str | None) -> LabeledSong:
    """Read a song. Without `end`, its last section ends at the last beat."""
    paths = {"beats": folder / f"beats_and_downbeats/{name}.txt", "sections": folder / f"segments/{name}.txt"}
    beats = read_beats(paths["beats"])
    last = beats.times[-1] if len(beats.times) else 0.0
    sections = read_sections(paths["sections"], float(last))
    where = {column: str(path) for column, path in paths.items()}
    return LabeledSong(name, files.find(name), group, split, beats=beats, sections=sections, files=where)


def _read_metadata(path: Path) -> tuple[dict[str, str], SongReaders]:
    """
    Return a dictionary from ids to groups, and readers of faulty lines, which raise an error. All versions of a song
    are one group.
    """
    songs: dict[str, str] = {}
    faulty: SongReaders = {}
    for where, row in _rows(path, _COLUMNS):
        if not row["File"] or row["File"] in songs:
            faulty[where] = raising(ValueError(f"{where}: {row['File']!r} is empty or appears twice."))
        else:
            songs[row["File"]] = f"{_plain(row['Artist'])} - {_plain(row['Title'])}"
    return songs, faulty


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each line, for error messages, and its values by column."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: is this a copy of github.com/urinieto/harmonixset?")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in columns if name not in (rows.fieldnames or [])]:
            raise ValueError(f"{path}, line 1: no column {', '.join(missing)}.")
        for row in rows:
            yield f"{path}, line {rows.line_num}", row


def _plain(name: str | None) -> str:
    """Remove guests, remarks in brackets, accents, punctuation and case, so that versions of a song compare equal."""
    name = unicodedata.normalize("NFKD", name or "").casefold()
    host = re.split(r"\s(?:feat|ft)\b", name)[0]
    letters = re.sub(r"\s*[(\[].*?[)\]]", "", host) or host
    return " ".join(re.findall(r"\w+", re.sub(r"[\u0300-\u036f'\u2019]", "", letters)))


def _info(
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    min_alignment: float | None = None,
    held_out: int | None = None,
    held_out_seed: int = 0,
) -> dict[str, Any]:
    """Return entries of `info.json`."""
    drawn = {} if held_out is None else {"held_out": held_out, "held_out_seed": held_out_seed}
    return ({} if min_alignment is None else {"min_alignment": min_alignment}) | drawn


READER = DatasetReader(
    "harmonix",
    "beats and sections of the Harmonix Set",
    SOURCE,
    song_readers,
    (
        Option("min_alignment", "leave out songs whose score in youtube_alignment_scores.csv is lower", type=float),
        Option("held_out", "draw this number of test songs (150 in the paper, which does not list them)", type=int),
        Option("held_out_seed", "seed of this draw; 0 by default", type=int, default=0),
    ),
    info=_info,
)
