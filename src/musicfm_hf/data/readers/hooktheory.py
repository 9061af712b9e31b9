"""
HookTheory: chords and keys of passages of pop songs, from Sheet Sage (Donahue, Thickstun, Liang 2022).

The source is `Hooktheory.json.gz` of github.com/chrisdonahue/sheetsage (26 175 annotations), or a folder with this
file. The audio is on YouTube and is not included. An annotation covers a passage; the rest of the song is not labeled.
The splits are those of the file, which keeps all songs of an artist in one split.

Some entries have faulty parts: chords that overlap or have no length, and key changes after the end. Only these parts
are left out, and listed.
"""

import gzip
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...tasks.annotations import PITCH_NAMES, TOLERANCE, Segment
from ..dataset_reader import DatasetReader, Option
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


class _Span(NamedTuple):
    """A chord or a key, with the beats at which it starts and ends."""

    entry: Mapping[str, Any]
    start: Any
    end: Any


def song_readers(
    source: str | os.PathLike, audio: str | os.PathLike | None = None, user_alignment: bool = False
) -> SongReaders:
    """
    Return the readers of the songs, keyed by HookTheory's ids.

    Args:
        source: `Hooktheory.json.gz`, the same file uncompressed, or a folder with this file.
        audio: Folder to search for the audio: whole songs, named by their HookTheory or YouTube id. The folder of
            `source` by default.
        user_alignment (`bool`): Use the alignment of a user where there is no refined one. It is less exact: a user
            states the times of a few beats only.

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
    return {name: partial(read_song, path, files, name, song, user_alignment) for name, song in songs.items()}


def read_song(
    path: Path, files: AudioFolder, name: str, song: Mapping[str, Any], user_alignment: bool = False
) -> LabeledSong:
    """
    Read an entry of the file. Faulty chords and keys are left out, and are in the `problems` of the song.

    Raises:
        FileNotFoundError: the audio is missing.
        UnusableSongError: the entry has no chord, or no alignment.
        ValueError: the entry is malformed.
    """
    where = f"{path}, {name}"
    try:
        if song["split"] not in SPLITS:
            raise ValueError(f"split {song['split']!r} is not one of {', '.join(SPLITS)}")
        notes = song["annotations"]
        if not notes.get("harmony"):
            raise UnusableSongError(f"{where}: no chord.")
        alignment = _alignment(song["alignment"] or {}, user_alignment, where)
        seconds = _clock(alignment["beats"], alignment["times"])
        chords, faulty_chords = _read_spans(_chord_spans(notes["harmony"]), seconds, chord_label)
        keys, faulty_keys = _read_spans(
            _key_spans(notes.get("keys") or [], notes.get("num_beats")), seconds, key_label
        )
        problems = [f"{where}, chord {problem}" for problem in faulty_chords]
        problems += [f"{where}, key {problem}" for problem in faulty_keys]
        ids = name, (song.get("youtube") or {}).get("id")
        group = song["hooktheory"]["artist"]
    except UnusableSongError:
        raise
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{where}: is malformed ({type(error).__name__}: {error}).") from error
    if not (chords or keys):
        raise ValueError(" ".join(problems))
    return LabeledSong(
        id=name,
        audio=files.find(*filter(None, ids)),
        group=group,
        split=SPLITS[song["split"]],
        chords=chords or None,
        keys=keys or None,
        files={column: f"{where}, {column}" for column in ("chords", "keys")},
        problems=problems,
    )


def _alignment(alignments: Mapping[str, Any], user_alignment: bool, where: str) -> Mapping[str, Any]:
    """Return the refined alignment or, if it is allowed, that of a user."""
    if refined := alignments.get("refined"):
        return refined
    if not (user := alignments.get("user")):
        raise UnusableSongError(f"{where}: no alignment.")
    if not user_alignment:
        raise UnusableSongError(f"{where}: no refined alignment, only that of a user, which --user_alignment uses.")
    return user


def _chord_spans(chords: Sequence[Mapping[str, Any]]) -> list[_Span]:
    """Return the chords with their beats."""
    return [_Span(chord, chord.get("onset"), chord.get("offset")) for chord in (chord or {} for chord in chords)]


def _key_spans(keys: Sequence[Mapping[str, Any]], num_beats: Any) -> list[_Span]:
    """Return the keys with their beats: from their own to that of the next change, or to the end of the passage."""
    starts: list[Any] = [(key or {}).get("beat") for key in keys]
    if not all(map(_is_beat, [*starts, num_beats])):
        return [_Span(key, start, None) for key, start in zip(keys, starts, strict=True)]
    changes: list[float] = sorted(start for start in starts if start < num_beats)
    ends = [next((change for change in [*changes, num_beats] if change > start), num_beats) for start in starts]
    return [_Span(*row) for row in zip(keys, starts, ends, strict=True)]


def _read_spans(
    spans: Sequence[_Span], seconds: Callable[[float], float], name: Callable[[Mapping[str, Any]], str]
) -> tuple[list[Segment], list[str]]:
    """
    Return segments, and the reasons for those that are left out in part or as a whole, with their numbers. Time that
    several spans claim has no label.

    Args:
        spans: Chords or keys, with their beats.
        seconds (`Callable`): Beat → seconds.
        name (`Callable`): Entry → label.
    """
    usable, problems = [], []
    for number, (entry, start, end) in enumerate(spans, 1):
        try:
            if not (_is_beat(start) and _is_beat(end) and 0 <= start < end):
                raise ValueError(f"it lasts from beat {start} to {end}")
            if seconds(end) <= 0:
                raise ValueError("it ends before the audio begins")
            usable.append((number, Segment(max(0.0, seconds(start)), seconds(end), name(entry))))
            if seconds(start) < -TOLERANCE:
                problems.append(f"{number} begins {-seconds(start):.2f} s before the audio: that part is left out.")
        except (KeyError, TypeError, IndexError, ValueError) as error:
            reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            problems.append(f"{number} is left out: {reason}.")
    segments: list[Segment] = []
    claimed = 0.0  # seconds; end of all segments so far
    for number, segment in sorted(usable, key=lambda row: row[1].start):
        if segment.start < claimed - TOLERANCE:
            problems.append(f"{number} begins before the one before it ends: the time of both is left out.")
            if segments and segments[-1].end > segment.start:
                last = segments.pop()
                segments += [last._replace(end=segment.start)] if segment.start > last.start else []
            segments += [segment._replace(start=claimed)] if segment.end > claimed else []
        else:
            segments.append(segment)
        claimed = max(claimed, segment.end)
    return segments, problems


def _is_beat(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
    (
        Option(
            "user_alignment",
            "also use songs that only have the alignment of a user, which is less exact",
            type=bool,
            default=False,
        ),
    ),
    audio_help="the folder with the audio, named by HookTheory or YouTube id; the folder of the source by default",
    has_splits=True,
)
