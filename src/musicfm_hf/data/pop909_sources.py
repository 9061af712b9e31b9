"""
POP909 from its public repositories, in the layout that `readers/pop909.py` reads, with all labels in seconds of the
MIDI files.

Notes and beats are those of POP909 (Wang et al. 2020). Bars and phrases are those of the analysis of its structure
(Dai et al. 2020), and chords and keys those of POP909-CL (Yao et al. 2026), which count in beats of POP909. The table
`pop909_songs.tsv` has, for each song, its split and its instruments, the beat on which the first bar of the phrases
begins, and the number of beats by which POP909-CL is shifted. Songs are left out whose three sources could not be
aligned, that are not in 4/4, or whose bars were doubtful.
"""

import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from tqdm.auto import tqdm

from ..symbolic.arranging.arrangement import tempo_class
from ..symbolic.arranging.instruments import INSTRUMENTS
from ..symbolic.midi_parts import read_parts
from ..symbolic.midi_synthesis import PARTS, open_midi
from ..symbolic.score import BRIDGE, MELODY, Part
from ..tasks.annotations import Beats, Segment
from ..tasks.chord_vocabularies import QUALITIES, spell_chord
from ..tasks.key import parse_key
from ..training.files import complete_files, write_table
from .pop909_rendering import ARRANGEMENT_COLUMNS, SONG_COLUMNS, SPLITS

SONGS, STRUCTURE, CHORDS = "POP909-Dataset", "hierarchical-structure-analysis", "POP909-CL-Dataset"
REPOSITORIES = {
    SONGS: "https://github.com/music-x-lab/POP909-Dataset",
    STRUCTURE: "https://github.com/Dsqvival/hierarchical-structure-analysis",
    CHORDS: "https://github.com/AndyWeasley2004/POP909-CL-Dataset",
}
_TABLE = Path(__file__).with_name("pop909_songs.tsv")

BEATS_PER_BAR = 4
_LEAST_NOTES = 20  # of the part BRIDGE, with fewer of which its instrument is no tag

_FUNCTIONS = {"i": "intro", "o": "outro", "b": "inst", "x": "inst", "X": "bridge"}

# Quality of a chord → semitones above the root. Sixths are the sevenths with these tones.
_QUALITIES = {name: steps for name, steps in QUALITIES.items() if name not in ("maj6", "min6")} | {
    "5": (0, 7),
    "sus2(b7)": (0, 2, 7, 10),
    "sus4(b7)": (0, 5, 7, 10),
    "aug(b7)": (0, 4, 8, 10),
}
_WITHOUT_FIFTH = ("maj", "min", "7", "maj7", "min7")  # qualities that are recognized without their fifth, too
_SHORTEST = 5e-4  # seconds of a chord
_LATE = 0.5  # seconds after the end of the last note, until which there are beats
_INSTRUMENT_OF = {program: name for name, one in INSTRUMENTS.items() for program in (*one.programs, *one.held_out)}


class _Row(NamedTuple):
    """A song in the table."""

    id: str
    split: str
    is_mini: bool
    programs: tuple[int, int, int]
    first_bar: int
    chord_shift: int


class _Phrase(NamedTuple):
    """A phrase in seconds, the letter of its material, and its length in bars."""

    start: float
    end: float
    letter: str
    bars: int


class _Labels(NamedTuple):
    """Labels of a song in seconds, phrases of two annotators with their functions, and the end of the last note."""

    beats: Beats
    chords: list[Segment]
    keys: list[Segment]
    phrases: tuple[list[tuple[float, float, str, int, str]], ...]
    end: float


def write_pop909(source: str | os.PathLike, output_dir: str | os.PathLike) -> int:
    """
    Write POP909 as a folder for `musicfm prepare pop909` and `rendered`: 470 songs.

    Args:
        source: Folder with copies of the repositories in `REPOSITORIES`, with their names.
        output_dir: Folder to write to.

    Returns:
        Number of songs.

    Raises:
        FileNotFoundError: a repository or a file in it is missing.
        FileExistsError: the output folder has POP909 already.
        ValueError: a file is malformed.
        ImportError: mido is not installed.
    """
    source, output = Path(source), Path(output_dir)
    for name, address in REPOSITORIES.items():
        if not (source / name).is_dir():
            raise FileNotFoundError(f"{source} has no folder {name}: `git clone {address}` there.")
    if (output / "songs.tsv").exists():
        raise FileExistsError(f"{output} has POP909 already: choose another folder, or delete it.")
    rows, table = list(_read_table()), source / SONGS / "POP909/index.xlsx"
    titles = _read_titles(table)
    if missing := [row.id for row in rows if row.id not in titles]:
        raise ValueError(f"{table} has no row for {', '.join(missing)}.")
    songs: list[tuple[str, ...]] = [SONG_COLUMNS]
    arrangements: list[tuple[str, ...]] = [ARRANGEMENT_COLUMNS]
    with complete_files(output, last="songs.tsv") as folder:
        for part in ("midi", "beats", "chords", "keys", "segments", "segments2", "splits"):
            (folder / part).mkdir()
        for row in tqdm(rows, unit="song"):
            midi = folder / "midi" / f"{row.id}.mid"
            shutil.copyfile(source / SONGS / f"POP909/{row.id}/{row.id}.mid", midi)
            parts = read_parts(midi)
            labels = _read_labels(source, row, parts)
            _write_labels(folder, row.id, labels)
            tempo, key = 60 / float(np.median(np.diff(labels.beats.times))), labels.keys[0].label
            songs.append((row.id, row.split, *titles[row.id], f"{labels.end:.2f}", f"{tempo:.1f}", key))
            arrangements.append((row.id, *map(str, row.programs), ",".join(_tags(row, parts, labels))))
        for split in SPLITS:
            of_split = [row for row in rows if row.split == split]
            write_table(folder / f"splits/{split}.txt", [(row.id,) for row in of_split])
            write_table(folder / f"splits/mini_{split}.txt", [(row.id,) for row in of_split if row.is_mini])
        write_table(folder / "arrangements.tsv", arrangements)
        write_table(folder / "songs.tsv", songs)
    return len(rows)


def name_chord(pitches: Sequence[int]) -> str:
    """
    Return the label of a chord in the syntax of `mir_eval.chord`, by its pitch classes and its lowest tone, or `X` for
    chords without a name. Of several names, the one whose root is the lowest tone is preferred.

    Args:
        pitches: MIDI numbers.
    """
    classes, bass = frozenset(pitch % 12 for pitch in pitches), min(pitches) % 12
    complete = list(_names_of(classes, _QUALITIES))
    partial = {name: tuple(step for step in _QUALITIES[name] if step != 7) for name in _WITHOUT_FIFTH}
    names = complete or list(_names_of(classes, partial))
    if not names:
        return "X"
    root, quality = next((name for name in names if name[0] == bass), names[0])
    return spell_chord(root, quality, (bass - root) % 12)


def _names_of(classes: frozenset[int], qualities: dict[str, tuple[int, ...]]) -> Iterator[tuple[int, str]]:
    """Yield the roots and qualities of chords with these pitch classes."""
    for root in range(12):
        for quality, steps in qualities.items():
            if classes == {(root + step) % 12 for step in steps}:
                yield root, quality


def _read_table() -> Iterator[_Row]:
    """Yield the songs of the table in the package."""
    _, *lines = _TABLE.read_text(encoding="utf-8").splitlines()
    for line in lines:
        song, split, is_mini, *numbers = line.split("\t")
        melody, bridge, piano, first_bar, shift = map(int, numbers)
        yield _Row(song, split, is_mini == "1", (melody, bridge, piano), first_bar, shift)


def _read_titles(path: Path) -> dict[str, tuple[str, str]]:
    """Return the title and the artist of each song, from the first three columns of a spreadsheet."""
    name = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    try:
        with zipfile.ZipFile(path) as archive:
            sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} is not the spreadsheet of POP909 ({error}).") from error
    rows = [["".join(cell.itertext()) for cell in row.iter(f"{name}c")] for row in sheet.iter(f"{name}row")]
    return {row[0]: (row[1].strip(), row[2].strip()) for row in rows if len(row) >= 3}


def _read_labels(source: Path, row: _Row, parts: Sequence[Part]) -> _Labels:
    """Return the labels of a song."""
    end = max(note.end for part in parts for note in part.notes)
    times = np.loadtxt(source / SONGS / f"POP909/{row.id}/beat_midi.txt", ndmin=2)[:, 0]
    times = times[times <= end + _LATE]
    midi = open_midi(source / CHORDS / f"POP909_processed/{row.id}.mid")
    folder = source / STRUCTURE / f"POP909/{row.id}"
    melody = next(part for part in parts if part.name == MELODY)
    first, second = (
        _read_phrases(folder / f"human_label{number}.txt", times, row.first_bar, end) for number in (1, 2)
    )
    functions = _FUNCTIONS | _functions(first, melody)
    return _Labels(
        Beats(times, (np.arange(len(times)) - row.first_bar) % BEATS_PER_BAR + 1),
        _in_seconds(_chords(midi), times, row.chord_shift, end),
        [key._replace(end=min(key.end, end)) for key in _in_seconds(_keys(midi), times, row.chord_shift, end)],
        tuple([(*phrase, functions.get(phrase.letter, "bridge")) for phrase in part] for part in (first, second)),
        end,
    )


def _chords(midi: Any) -> Iterator[tuple[float, float, str]]:
    """
    Yield the chords of POP909-CL: their start and end in beats, and their labels. A chord has the notes that begin
    together, and lasts until the next ones begin, or until its last note ends.
    """
    if len(midi.tracks) < 3:
        raise ValueError(f"{midi.filename} has {len(midi.tracks)} tracks: chords are in the third.")
    tick = 0
    sounding: dict[int, list[int]] = {}
    groups: dict[int, list[tuple[int, int]]] = {}
    for message in midi.tracks[2]:
        tick += message.time
        if message.type == "note_on" and message.velocity:
            sounding.setdefault(message.note, []).append(tick)
        elif message.type in ("note_on", "note_off") and sounding.get(message.note):
            groups.setdefault(sounding[message.note].pop(0), []).append((tick, message.note))
    starts = sorted(groups)
    for start, following in zip(starts, [*starts[1:], np.inf], strict=True):
        end = min(following, max(end for end, _ in groups[start]))
        pitches = [pitch for _, pitch in groups[start]]
        yield start / midi.ticks_per_beat, end / midi.ticks_per_beat, name_chord(pitches)


def _keys(midi: Any) -> Iterator[tuple[float, float, str]]:
    """Yield the keys of POP909-CL: their start and end in beats, and their labels. The outer ones are endless."""
    tick = 0
    changes: list[tuple[float, str]] = []
    for message in midi.tracks[0]:
        tick += message.time
        if message.type == "key_signature":
            changes.append((tick / midi.ticks_per_beat, str(parse_key(message.key))))
    edges = [-np.inf, *(beat for beat, _ in changes[1:]), np.inf]
    for (_, label), (start, end) in zip(changes, pairwise(edges), strict=True):
        yield start, end, label


def _in_seconds(
    labels: Iterable[tuple[float, float, str]], times: np.ndarray, shift: int, end: float
) -> list[Segment]:
    """
    Return labels in beats as segments from 0 to the end of the music or of the last label, with N between them. Equal
    neighbors are joined.
    """
    segments = [Segment(0.0, 0.0, "N")]
    for start, stop, label in labels:
        first, last = (max(0.0, _time_of(beat + shift, times)) for beat in (start, stop))
        last = end if np.isinf(last) else last
        if last - first < _SHORTEST:
            continue
        if first > segments[-1].end + 1e-6:
            segments.append(Segment(segments[-1].end, first, "N"))
        segments.append(Segment(first, last, label))
    if end > segments[-1].end + 1e-3:
        segments.append(Segment(segments[-1].end, end, "N"))
    joined: list[Segment] = []
    for segment in segments[1:]:
        if joined and joined[-1].label == segment.label:
            joined[-1] = joined[-1]._replace(end=segment.end)
        else:
            joined.append(segment)
    return joined


def _time_of(beat: float, times: np.ndarray) -> float:
    """Return the time of a beat, counted from 0; before and after all beats, the tempo is that of the next eight."""
    last, intervals = len(times) - 1, np.diff(times)
    if beat < 0:
        return float(times[0] + beat * np.median(intervals[:8]))
    if beat > last:
        return float(times[-1] + (beat - last) * np.median(intervals[-8:]))
    return float(np.interp(beat, np.arange(len(times)), times))


def _read_phrases(path: Path, times: np.ndarray, first_bar: int, end: float) -> list[_Phrase]:
    """Return the phrases of an annotator, such as `i4A8B8o2`. The last one lasts until the end."""
    pairs = [(letter, int(bars)) for letter, bars in re.findall(r"([A-Za-z])(\d+)", path.read_text(encoding="utf-8"))]
    if not pairs:
        raise ValueError(f"{path} has no phrases such as A8.")
    edges = first_bar + BEATS_PER_BAR * np.cumsum([0, *(bars for _, bars in pairs)])
    starts = [max(0.0, _time_of(float(edge), times)) for edge in edges[:-1]]
    return [
        _Phrase(start, stop, letter, bars)
        for (letter, bars), start, stop in zip(pairs, starts, [*starts[1:], end], strict=True)
    ]


def _functions(phrases: Sequence[_Phrase], melody: Part) -> dict[str, str]:
    """
    Return the functions of sung letters, by a rule: the first letter is the verse; of the others that occur at least
    twice, the one with the highest melody is the chorus; the rest are bridges.
    """
    pitches: dict[str, list[int]] = {}
    for start, end, letter, _ in phrases:
        pitches.setdefault(letter, []).extend(note.pitch for note in melody.notes if start <= note.start < end)
    letters = [phrase.letter for phrase in phrases]
    sung = [letter for letter in dict.fromkeys(letters) if letter in "ABCDE"]
    frequent = [letter for letter in sung[1:] if letters.count(letter) >= 2 and pitches[letter]]
    functions = dict.fromkeys(sung, "bridge") | dict.fromkeys(sung[:1], "verse")
    if frequent:
        functions[max(frequent, key=lambda letter: float(np.mean(pitches[letter])))] = "chorus"
    return functions


def _tags(row: _Row, parts: Sequence[Part], labels: _Labels) -> list[str]:
    """Return the tags of a song: its instruments, the mode of its first key, and the class of its tempo."""
    notes = {part.name: len(part.notes) for part in parts}
    names = {
        _INSTRUMENT_OF[program]
        for part, program in zip(PARTS, row.programs, strict=True)
        if part != BRIDGE or notes.get(part, 0) >= _LEAST_NOTES
    }
    mode = "major" if labels.keys[0].label.endswith("maj") else "minor"
    return [*sorted(names), mode, str(tempo_class(labels.beats))]


def _write_labels(folder: Path, song: str, labels: _Labels) -> None:
    """Write the labels of a song, with times in milliseconds."""
    beats = zip(labels.beats.times, labels.beats.positions, strict=True)
    write_table(folder / f"beats/{song}.beats", [(f"{time:.3f}", position) for time, position in beats])
    for part, segments in (("chords", labels.chords), ("keys", labels.keys)):
        rows = [(f"{start:.3f}", f"{end:.3f}", label) for start, end, label in segments]
        write_table(folder / f"{part}/{song}.lab", rows)
    for part, phrases in zip(("segments", "segments2"), labels.phrases, strict=True):
        write_table(
            folder / f"{part}/{song}.lab",
            [(f"{start:.3f}", f"{end:.3f}", *more) for start, end, *more in phrases],
        )
