"""The Beatles: beats, chords, sections and keys of their albums, read with mirdata. An album is one group."""

import os
from pathlib import Path
from typing import Any

from ..dataset_reader import DatasetReader
from ..labeled import AudioFolder, LabeledSong, SongReaders, Source
from ..mirdata_tracks import DOWNLOAD, find_audio, read_annotation, to_beats, to_segments, track_readers

SOURCE = Source(
    description="The Beatles, by isophonics.net: beats, chords, sections and keys of their albums.",
    citation="""@inproceedings{mauch2009omras2,
  title={OMRAS2 Metadata Project 2009},
  author={Mauch, Matthias and Cannam, Chris and Davies, Matthew and Dixon, Simon and Harte, Christopher
    and Kolozali, Sefki and Tidhar, Dan and Sandler, Mark},
  booktitle={Late-breaking session of the 10th International Conference on Music Information Retrieval},
  year={2009}
}""",
    homepage="http://isophonics.net/content/reference-annotations-beatles",
    license="Not known. The recordings are commercial.",
)


def song_readers(
    source: str | os.PathLike, audio: str | os.PathLike | None = None, download: bool = False
) -> SongReaders:
    """Return the readers of the songs, keyed by mirdata's ids. For arguments and errors, see [`track_readers`]."""
    return track_readers("beatles", read_track, source, audio, download)


def read_track(track: Any, files: AudioFolder) -> LabeledSong:
    """Read a song and its annotations."""
    path = find_audio(track, files)
    paths = {
        "beats": track.beats_path,
        "chords": track.chords_path,
        "sections": track.sections_path,
        "keys": track.keys_path,
    }
    names = {"beats": "beats", "chords": "chords", "sections": "sections", "keys": "key"}  # attributes of a track
    annotations = {column: read_annotation(track, names[column], file) for column, file in paths.items()}
    return LabeledSong(
        track.track_id,
        path,
        Path(track.audio_path).parent.name,  # the album
        beats=to_beats(annotations["beats"]),
        chords=to_segments(annotations["chords"]),
        sections=to_segments(annotations["sections"]),
        keys=to_segments(annotations["keys"], labels="keys"),
        files={column: str(file) for column, file in paths.items() if file},
    )


READER = DatasetReader(
    "beatles", "beats, chords, sections and keys of the Beatles, with mirdata", SOURCE, song_readers, (DOWNLOAD,)
)
