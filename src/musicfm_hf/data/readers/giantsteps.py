"""
GiantSteps keys: 604 excerpts of two minutes with one key each. By default, all are test songs, as in the literature.

The source is a copy of github.com/GiantSteps/giantsteps-key-dataset, or any folder with its files `NAME.LOFI.key`,
which have one line such as `Eb minor`. Its script `audio_dl.sh` downloads the audio, `NAME.LOFI.mp3`.
"""

import os
import warnings
from functools import partial
from pathlib import Path

from ...tasks.annotations import Segment
from ...tasks.values import read_text
from ...training.deprecation import REMOVED_IN
from ...training.files import list_files
from ..dataset_reader import DatasetReader, Option
from ..labeled import AudioFolder, LabeledSong, SongReaders, Source, audio_seconds, raising
from . import giantsteps_plus

SOURCE = Source(
    description="GiantSteps: 604 excerpts of two minutes of electronic dance music, with one key each.",
    citation=giantsteps_plus.SOURCE.citation,
    homepage="https://github.com/GiantSteps/giantsteps-key-dataset",
    license="Not stated. The recordings are previews of beatport.com.",
)


def song_readers(
    source: str | os.PathLike, audio: str | os.PathLike | None = None, download: bool = False
) -> SongReaders:
    """
    Return the readers of the excerpts, keyed by the names of their files without `.key`.

    Args:
        source: Folder to search for the files `.key`. A folder in the layout of mirdata is read as `giantsteps_plus`,
            with a `FutureWarning`.
        audio: Folder to search for the audio; `source` by default.
        download (`bool`): Deprecated; see `giantsteps_plus`.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: the folder has no file `.key`.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist")
    if download or (folder / "keys_gs+").is_dir():
        message = f"GiantSteps+ is now called giantsteps_plus; giantsteps will read only GiantSteps from {REMOVED_IN}."
        warnings.warn(message, FutureWarning, stacklevel=2)
        return giantsteps_plus.song_readers(source, audio, download)
    readers: SongReaders = {}
    files = AudioFolder(audio or source)
    # The folder `annotations/giantsteps` has files of the same names in another format.
    folder = next((folder / name for name in ("annotations/key", "key") if (folder / name).is_dir()), folder)
    for path in (path for path in list_files(folder) if path.suffix == ".key"):
        if path.stem in readers:
            readers[path.stem] = raising(ValueError(f"{folder} has several files {path.name}: keep one of them."))
        else:
            readers[path.stem] = partial(_read_song, path, files)
    if not readers:
        raise ValueError(f"{folder} has no file .key: is this a copy of github.com/GiantSteps/giantsteps-key-dataset?")
    return readers


def _read_song(path: Path, files: AudioFolder) -> LabeledSong:
    """Read an excerpt and its key."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if len(lines) != 1:
        raise ValueError(f"{path} must have one line with a key, such as Eb minor, got {len(lines)} lines.")
    audio = files.find(path.stem)
    keys = [Segment(0.0, audio_seconds(audio), lines[0])]
    return LabeledSong(path.stem, audio, path.stem, keys=keys, files={"keys": str(path)})


READER = DatasetReader(
    "giantsteps",
    "keys of GiantSteps, from its files .key",
    SOURCE,
    song_readers,
    (Option("download", "deprecated: see giantsteps_plus", type=bool, default=False),),
    fractions=(0.0, 0.0, 1.0),
)
