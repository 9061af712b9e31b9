"""
Data sets that mirdata reads: GTZAN (beats), GiantSteps (keys) and the Beatles (beats, chords, sections, keys).

Each is a folder in the layout of mirdata, which says how to come by it: mirdata.readthedocs.io. Nothing is downloaded
unless it is asked for; the index, a list of files, has to be downloaded once.
"""

import csv
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...audio.reading import audio_length
from ...tasks.annotations import Beats, Segment
from ..labelled import AudioFolder, LabelledSong, LeftOutError, Source

NAMES = {"gtzan": "gtzan_genre", "giantsteps": "giantsteps_key", "beatles": "beatles"}

SOURCES = {
    "gtzan": Source(
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
        licence="Not known. The recordings are commercial.",
    ),
    "giantsteps": Source(
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
        licence="CC BY-SA 4.0",
    ),
    "beatles": Source(
        description="The Beatles, by isophonics.net: beats, chords, sections and keys of their albums.",
        citation="""@inproceedings{mauch2009omras2,
  title={OMRAS2 Metadata Project 2009},
  author={Mauch, Matthias and Cannam, Chris and Davies, Matthew and Dixon, Simon and Harte, Christopher
    and Kolozali, Sefki and Tidhar, Dan and Sandler, Mark},
  booktitle={Late-breaking session of the 10th International Conference on Music Information Retrieval},
  year={2009}
}""",
        homepage="http://isophonics.net/content/reference-annotations-beatles",
        licence="Not known. The recordings are commercial.",
    ),
}


def song_readers(
    name: str,
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    download: bool = False,
) -> dict[str, Callable[[], LabelledSong]]:
    """
    By mirdata's id, what reads a song; for [`musicfm_hf.data.labelled.read_all`].

    Args:
        name (`str`): gtzan, giantsteps or beatles.
        source: What mirdata calls the `data_home`.
        audio: A folder in which audio that is not where mirdata expects it is found by its name.
        download (`bool`): Let mirdata download its index, and what else it can.

    Raises:
        FileNotFoundError: there is no such folder, or no index.
        ImportError: mirdata is not installed.
        ValueError: there is no such data set.
    """
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}.")
    try:
        import mirdata
    except ModuleNotFoundError as error:
        raise ImportError("This data set is read by mirdata: `pip install mirdata`.") from error
    dataset = mirdata.initialize(NAMES[name], data_home=str(source))
    if download:
        dataset.download()
    if not Path(dataset.index_path).is_file():
        raise FileNotFoundError(
            f"There is no {dataset.index_path}, a list of files that mirdata needs. With `--download` mirdata "
            "downloads it, and what else it can."
        )
    files = AudioFolder(audio or source)
    read = {"gtzan": _read_gtzan, "giantsteps": _read_giantsteps, "beatles": _read_beatles}[name]
    return {track_id: partial(read, dataset.track(track_id), files) for track_id in dataset.track_ids}


def _read_gtzan(track: Any, files: AudioFolder) -> LabelledSong:
    path = _audio_path(track, files)
    beats = _beats(_annotation(track, "beats", track.beats_path))
    return LabelledSong(track.track_id, path, track.track_id, beats=beats, files={"beats": str(track.beats_path)})


def _read_giantsteps(track: Any, files: AudioFolder) -> LabelledSong:
    path = _audio_path(track, files)
    key = _annotation(track, "key", track.keys_path)
    try:
        artists = sorted(track.artists or [])
    except (OSError, ValueError, KeyError):  # there is none, or it is not JSON of Beatport
        artists = []
    samples, rate = _length(path)
    keys = [Segment(0.0, samples / rate, key.strip())] if key and key.strip() else None
    group = ", ".join(artists) or track.track_id
    return LabelledSong(track.track_id, path, group, keys=keys, files={"keys": str(track.keys_path)})


def _read_beatles(track: Any, files: AudioFolder) -> LabelledSong:
    path = _audio_path(track, files)
    where = {
        "beats": track.beats_path,
        "chords": track.chords_path,
        "sections": track.sections_path,
        "keys": track.keys_path,
    }
    names = {"beats": "beats", "chords": "chords", "sections": "sections", "keys": "key"}
    found = {column: _annotation(track, names[column], file) for column, file in where.items()}
    return LabelledSong(
        track.track_id,
        path,
        Path(track.audio_path).parent.name,  # the album
        beats=_beats(found.pop("beats")),
        files={column: str(file) for column, file in where.items() if file},
        **{column: _segments(value, column) for column, value in found.items()},
    )


def _annotation(track: Any, name: str, path: str | None) -> Any:
    """What mirdata reads, with the file in its errors; `None` where the index has none."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no {path}, which has the {name} of {track.track_id}")
    try:
        return getattr(track, name)
    except (ValueError, TypeError, IndexError, csv.Error) as error:
        raise ValueError(f"{path}: mirdata cannot read it ({error}).") from error


def _audio_path(track: Any, files: AudioFolder) -> Path:
    path = Path(track.audio_path)
    return path if path.is_file() else files.find(path.stem)


def _length(path: Path) -> tuple[int, int]:
    try:
        return audio_length(path)
    except ValueError as error:
        raise LeftOutError(str(error)) from error


def _beats(found: Any) -> Beats | None:
    if found is None:
        return None
    times = np.asarray(found.times, dtype=np.float64)
    positions = np.zeros(len(times)) if found.positions is None else found.positions
    return Beats(times, np.asarray(positions).astype(np.int64))


def _segments(found: Any, column: str) -> list[Segment] | None:
    if found is None:
        return None
    labels = found.keys if column == "keys" else found.labels
    return [
        Segment(float(start), float(end), label) for (start, end), label in zip(found.intervals, labels, strict=True)
    ]
