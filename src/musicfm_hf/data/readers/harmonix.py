"""
The Harmonix Set: beats, downbeats and sections of 912 pop songs, without the audio.

The source is a copy of github.com/urinieto/harmonixset, or its folder `dataset`, with `metadata.csv`,
`beats_and_downbeats/FILE.txt` (time, position in the bar, bar number) and `segments/FILE.txt` (start and label of each
section). Audio files are named after the column `File`, such as `0001_12step`.
"""

import csv
import os
import re
import unicodedata
from functools import partial
from pathlib import Path

from ...tasks.annotations import Segment, read_beats
from ..dataset_reader import DatasetReader
from ..labeled import AudioFolder, LabeledSong, SongReaders, Source

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


def song_readers(source: str | os.PathLike, audio: str | os.PathLike | None = None) -> SongReaders:
    """
    Return the readers of the songs, keyed by the column `File`.

    Args:
        source: A copy of the repository, or its folder `dataset`.
        audio: Folder to search for the audio; `source` by default.

    Raises:
        FileNotFoundError: the folder or `metadata.csv` does not exist.
        ValueError: `metadata.csv` is malformed.
    """
    folder = Path(source)
    if (folder / "dataset").is_dir():
        folder = folder / "dataset"
    files = AudioFolder(audio or source)
    songs = _read_metadata(folder / "metadata.csv")
    return {name: partial(_read_song, folder, files, name, group) for name, group in songs.items()}


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
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        time, _, label = line.strip().replace("\t", " ").partition(" ")
        try:
            starts.append(float(time))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: needs a time in seconds and a label, got {line!r}.") from error
        labels.append(label.strip())
        if starts[-1] < 0 or starts[-1] <= max(starts[:-1], default=-1.0):
            raise ValueError(f"{path}, line {number}: sections must ascend from 0 s on, got {line!r}.")
    if labels and labels[-1].lower() != "end" and last > starts[-1]:
        starts.append(last)
    rows = zip(starts[:-1], starts[1:], labels, strict=False)
    return [Segment(*row) for row in rows if row[2].lower() != "end"]


def _read_song(folder: Path, files: AudioFolder, name: str, group: str) -> LabeledSong:
    """Read a song. Without `end`, its last section ends at the last beat."""
    paths = {"beats": folder / f"beats_and_downbeats/{name}.txt", "sections": folder / f"segments/{name}.txt"}
    beats = read_beats(paths["beats"])
    last = beats.times[-1] if len(beats.times) else 0.0
    sections = read_sections(paths["sections"], float(last))
    where = {column: str(path) for column, path in paths.items()}
    return LabeledSong(name, files.find(name), group, beats=beats, sections=sections, files=where)


def _read_metadata(path: Path) -> dict[str, str]:
    """Return a dictionary from ids to groups. All versions of a song are one group."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: is this a copy of github.com/urinieto/harmonixset?")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or [])]:
            raise ValueError(f"{path}, line 1: no column {', '.join(missing)}.")
        songs = {}
        for row in rows:
            if not row["File"] or row["File"] in songs:
                raise ValueError(f"{path}, line {rows.line_num}: {row['File']!r} is empty or appears twice.")
            songs[row["File"]] = f"{_plain(row['Artist'])} - {_plain(row['Title'])}"
    return songs


def _plain(name: str | None) -> str:
    """Remove guests, remarks in brackets, accents, punctuation and case, so that versions of a song compare equal."""
    name = unicodedata.normalize("NFKD", name or "").casefold()
    host = re.split(r"\s(?:feat|ft)\b", name)[0]
    letters = re.sub(r"\s*[(\[].*?[)\]]", "", host) or host
    return " ".join(re.findall(r"\w+", re.sub(r"[\u0300-\u036f'\u2019]", "", letters)))


READER = DatasetReader("harmonix", "beats and sections of the Harmonix Set", SOURCE, song_readers)
