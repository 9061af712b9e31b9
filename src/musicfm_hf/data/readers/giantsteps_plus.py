"""
GiantSteps+ keys: excerpts of two minutes with corrected keys, read with mirdata. By default, all are test songs. Most
results are reported on the keys of GiantSteps (`giantsteps.py`), which are others.
"""

import os
from typing import Any

from ...tasks.annotations import Segment
from ..dataset_reader import DatasetReader
from ..labeled import AudioFolder, LabeledSong, SongReaders, Source, audio_seconds
from ..mirdata_tracks import DOWNLOAD, find_audio, read_annotation, track_readers

SOURCE = Source(
    description="GiantSteps+: excerpts of two minutes of electronic dance music, with one key each.",
    citation="""@inproceedings{knees2015two,
  title={Two Data Sets for Tempo Estimation and Key Detection in Electronic Dance Music Annotated from User
    Corrections},
  author={Knees, Peter and Faraldo, Angel and Herrera, Perfecto and Vogl, Richard and B{\\"o}ck, Sebastian
    and H{\\"o}rschl{\\"a}ger, Florian and Le Goff, Mickael},
  booktitle={Proceedings of the 16th International Society for Music Information Retrieval Conference},
  year={2015}
}""",
    homepage="https://doi.org/10.5281/zenodo.1095691",
    license="CC BY-SA 4.0",
)


def song_readers(
    source: str | os.PathLike, audio: str | os.PathLike | None = None, download: bool = False
) -> SongReaders:
    """Return the readers of the excerpts, keyed by mirdata's ids. For arguments and errors, see [`track_readers`]."""
    return track_readers("giantsteps_key", read_track, source, audio, download)


def read_track(track: Any, files: AudioFolder) -> LabeledSong:
    """Read an excerpt and its key. Excerpts of the same artists are one group."""
    path = find_audio(track, files)
    key = read_annotation(track, "key", track.keys_path)
    try:
        artists = sorted(track.artists or [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it does not exist, or is not JSON of Beatport
        artists = []
    seconds = audio_seconds(path)
    keys = [Segment(0.0, seconds, key.strip())] if key and key.strip() else None
    group = ", ".join(artists) or track.track_id
    return LabeledSong(track.track_id, path, group, keys=keys, files={"keys": str(track.keys_path)})


READER = DatasetReader(
    "giantsteps_plus",
    "keys of GiantSteps+, with mirdata",
    SOURCE,
    song_readers,
    (DOWNLOAD,),
    fractions=(0.0, 0.0, 1.0),
)
