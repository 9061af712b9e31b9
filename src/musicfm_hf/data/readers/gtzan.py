"""GTZAN with beats: 1000 clips of 30 s, read with mirdata. By default, all are test songs, as in the literature."""

import os
from typing import Any

from ..dataset_reader import DatasetReader
from ..labeled import AudioFolder, LabeledSong, SongReaders, Source
from ..mirdata_tracks import DOWNLOAD, find_audio, read_annotation, to_beats, track_readers

SOURCE = Source(
    description="GTZAN: 1000 clips of 30 s, with the beats and downbeats of Marchand, Fresnel and Peeters.",
    citation="""@article{tzanetakis2002gtzan,
  title={Musical genre classification of audio signals},
  author={Tzanetakis, George and Cook, Perry},
  journal={IEEE Transactions on Speech and Audio Processing},
  volume={10},
  number={5},
  year={2002}
}
@inproceedings{marchand2015gtzan,
  title={GTZAN-Rhythm: Extending the GTZAN Test-Set with Beat, Downbeat and Swing Annotations},
  author={Marchand, Ugo and Fresnel, Quentin and Peeters, Geoffroy},
  booktitle={Extended abstracts for the Late-Breaking Demo Session of the 16th ISMIR Conference},
  year={2015}
}""",
    homepage="https://github.com/TempoBeatDownbeat/gtzan_tempo_beat",
    license="Not known. The recordings are commercial.",
)


def song_readers(
    source: str | os.PathLike, audio: str | os.PathLike | None = None, download: bool = False
) -> SongReaders:
    """Return the readers of the clips, keyed by mirdata's ids. For arguments and errors, see [`track_readers`]."""
    return track_readers("gtzan_genre", read_track, source, audio, download)


def read_track(track: Any, files: AudioFolder) -> LabeledSong:
    """Read a clip and its beats."""
    path = find_audio(track, files)
    beats = to_beats(read_annotation(track, "beats", track.beats_path))
    return LabeledSong(track.track_id, path, track.track_id, beats=beats, files={"beats": str(track.beats_path)})


READER = DatasetReader(
    "gtzan", "beats of GTZAN, with mirdata", SOURCE, song_readers, (DOWNLOAD,), fractions=(0.0, 0.0, 1.0)
)
