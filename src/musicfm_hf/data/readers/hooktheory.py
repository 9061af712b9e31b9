"""
HookTheory: chords and keys of passages of pop songs, from Sheet Sage (Donahue, Thickstun, Liang 2022).

The source is `Hooktheory.json.gz` of github.com/chrisdonahue/sheetsage (26 175 annotations), or a folder with this
file. The audio is on YouTube and is not included. An annotation covers a passage; the rest of the song is not labeled.
The splits are those of the file, which keeps all songs of an artist in one split.
"""

import gzip
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...tasks.annotations import PITCH_NAMES, Segment
from ..dataset_reader import DatasetReader
from ..labeled import AudioFolder, LabeledSong, SongReaders, Source, UnusableSongError

SOURCE = Source(
    description="Chords and keys of passages of songs, by the users of hooktheory.com, aligned with audio on YouTube.",
    citation="""@inproceedings{donahue2022melody,
  title={Melody Transcription via Generative Pre-Training},
  author={Donahue, Chris and Thickstun, John and Liang, Percy},
  booktitle={Proceedings of the 23rd International Society for Music Information Retrieval Conference},
  year={2022}
}""",
    homepage="https://github.com/chrisdonahue/sheetsage",
    license="CC BY-NC-SA 3.0 (annotations). The recordings are commercial and not part of the data set.",
)

SPLITS = {"TRAIN": "train", "VALID": "validation", "TEST": "test"}

# Semitones above the root → mir_eval's name. A chord gets the name of its longest matching prefix.
_QUALITIES = {
    (0,): "1",
    (0, 7): "5",
    (0, 2, 7): "sus2",
    (0, 5, 7): "sus4",
    (0, 4, 7): "maj",
    (0, 3, 7): "min",
    (0, 3, 6): "dim",
    (0, 4, 8): "aug",
    (0, 4, 7, 9): "maj6",
    (0, 3, 7, 9): "min6",
    (0, 4, 7, 10): "7",
    (0, 4, 7, 11): "maj7",
    (0, 3, 7, 10): "min7",
    (0, 3, 7, 11): "minmaj7",
    (0, 3, 6, 9): "dim7",
    (0, 3, 6, 10): "hdim7",
}

_DEGREES = tuple("1 b2 2 b3 3 4 b5 5 #5 6 b7 7 8 b9 9 #9 b11 11 #11 12 b13 13 #13 b15".split())


def song_readers(source: str | os.PathLike, audio: str | os.PathLike | None = None) -> SongReaders:
    """
    Return the readers of the songs, keyed by HookTheory's ids.

    Args:
        source: `Hooktheory.json.gz`, the same file uncompressed, or a folder with this file.
        audio: Folder to search for the audio: whole songs, named by their HookTheory or YouTube id. The folder of
            `source` by default.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not JSON, or does not contain songs by id.
    """
    path = Path(source)
    if path.is_dir():
        path = path / "Hooktheory.json.gz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        content = path.read_bytes()
        songs = json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not JSON that can be read ({error}).") from error
    if not isinstance(songs, dict):
        raise ValueError(f"{path} must have songs by id, got {type(songs).__name__}.")
    files = AudioFolder(audio or path.parent)
    return {name: partial(read_song, path, files, name, song) for name, song in songs.items()}


def read_song(path: Path, files: AudioFolder, name: str, song: Mapping[str, Any]) -> LabeledSong:
    """
    Read an entry of the file.

    Raises:
        FileNotFoundError: the audio is missing.
        UnusableSongError: the entry has no chord, or no refined alignment.
        ValueError: the entry is malformed.
    """
    where = f"{path}, {name}"
    try:
        if song["split"] not in SPLITS:
            raise ValueError(f"split {song['split']!r} is not one of {', '.join(SPLITS)}")
        notes, alignment = song["annotations"], song["alignment"]["refined"]
        if not (alignment and notes.get("harmony")):
            raise UnusableSongError(f"{where}: no {'chord' if alignment else 'refined alignment'}.")
        seconds = _clock(alignment["beats"], alignment["times"])
        rows = [(chord["onset"], chord["offset"], chord_label(chord)) for chord in notes["harmony"]]
        chords = [Segment(seconds(onset), seconds(offset), label) for onset, offset, label in rows]
        ends = [key["beat"] for key in notes["keys"][1:]] + [notes["num_beats"]]
        rows = [(key["beat"], end, key_label(key)) for key, end in zip(notes["keys"], ends, strict=True)]
        keys = [Segment(seconds(start), seconds(end), label) for start, end, label in rows]
        ids = name, (song.get("youtube") or {}).get("id")
        group = song["hooktheory"]["artist"]
    except UnusableSongError:
        raise
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{where}: is malformed ({type(error).__name__}: {error}).") from error
    return LabeledSong(
        id=name,
        audio=files.find(*filter(None, ids)),
        group=group,
        split=SPLITS[song["split"]],
        chords=chords,
        keys=keys or None,
        files={column: f"{where}, {column}" for column in ("chords", "keys")},
    )


def chord_label(chord: Mapping[str, Any]) -> str:
    """
    Return a chord in the syntax of `mir_eval.chord`, with its bass note: root 7, intervals 4, 3, 3 and inversion 1
    give `G:7/3`.

    Raises:
        ValueError: the root or an interval is out of range.
    """
    root, intervals = chord["root_pitch_class"], chord["root_position_intervals"]
    semitones = (0, *np.cumsum(intervals, dtype=int).tolist())
    if not 0 <= root < 12 or semitones[-1] >= len(_DEGREES) or min(intervals, default=1) < 1:
        raise ValueError(f"a chord has root {root} and intervals {intervals}")
    length = max(count for count in range(1, len(semitones) + 1) if semitones[:count] in _QUALITIES)
    added = ",".join(_DEGREES[semitone] for semitone in semitones[length:])
    inversion = chord.get("inversion") or 0
    bass = f"/{_DEGREES[semitones[inversion] % 12]}" if inversion else ""
    return f"{PITCH_NAMES[root]}:{_QUALITIES[semitones[:length]]}" + (f"({added})" if added else "") + bass


def key_label(key: Mapping[str, Any]) -> str:
    """
    Return a key, whose mode is that of its third: tonic 9 and intervals 2, 1, 2, 2, 1, 2 give `A:min`. A key with
    neither third is X.

    Raises:
        ValueError: the tonic is out of range.
    """
    tonic, intervals = key["tonic_pitch_class"], key["scale_degree_intervals"]
    if not 0 <= tonic < 12:
        raise ValueError(f"a key has tonic {tonic}")
    mode = {3: "min", 4: "maj"}.get(sum(intervals[:2]))
    return f"{PITCH_NAMES[tonic]}:{mode}" if mode else "X"


def _clock(aligned_beats: Sequence[float], aligned_times: Sequence[float]) -> Callable[[float], float]:
    """Return a function from beats to seconds: linear between aligned beats, with the nearest tempo beyond them."""
    beats, times = np.asarray(aligned_beats, dtype=np.float64), np.asarray(aligned_times, dtype=np.float64)
    if len(beats) < 2 or beats.shape != times.shape or np.any(np.diff(beats) <= 0) or np.any(np.diff(times) <= 0):
        raise ValueError("the alignment needs at least two ascending beats, and the same number of ascending times")

    def seconds(beat: float) -> float:
        if beats[0] <= beat <= beats[-1]:
            return float(np.interp(beat, beats, times))
        first = 0 if beat < beats[0] else len(beats) - 2
        tempo = (times[first + 1] - times[first]) / (beats[first + 1] - beats[first])
        return float(times[first] + (beat - beats[first]) * tempo)

    return seconds


READER = DatasetReader(
    "hooktheory",
    "chords and keys of HookTheory",
    SOURCE,
    song_readers,
    audio_help="the folder with the audio, named by HookTheory or YouTube id; the folder of the source by default",
    has_splits=True,
)
