"""
Phrases of a score on a grid of sixteenth notes, relative to their key: what [`fit_statistics`] counts.

Only phrases whose bars all have four beats are returned, because that is the meter of the patterns that are learned;
`composing_meters.py` adapts them to others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ...tasks.annotations import PITCH_NAMES, Segment
from ...tasks.chord_syntax import encode_chord
from ...tasks.key import parse_key
from ..score import Part, Score

STEPS = 4  # per beat
BEATS = 4  # per bar of the patterns
BAR = STEPS * BEATS
_TOLERANCE = 0.1  # beats from a chord change to its beat
_LONGEST_PICKUP = 2 * STEPS
_REST = STEPS  # silence before a pickup


class GridNote(NamedTuple):
    """A note on the grid, with its start and length in steps."""

    step: int
    length: int
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Phrase:
    """
    A phrase: a section of a song that has a letter.

    Attributes:
        letter (`str`): Letter of its musical material; phrases with equal letters repeat each other.
        function (`str`): Function, such as verse.
        bars (`int`): Length.
        tonic (`int`): Pitch class of the tonic.
        mode (`str`): maj or min.
        chords (`list[tuple[int, str | None]]`): Beat from the start of the phrase at which a chord begins, and the
            chord relative to the tonic as in [`relative_chord`]; `None` for no chord or an unknown one.
        notes (`dict[str, list[GridNote]]`): Notes of each part, with steps from the start of the phrase. The pickup of
            the melody has negative steps.
    """

    letter: str
    function: str
    bars: int
    tonic: int
    mode: str
    chords: list[tuple[int, str | None]]
    notes: dict[str, list[GridNote]]


@lru_cache(maxsize=4096)
def relative_chord(label: str, tonic: int) -> str | None:
    """
    Return a chord with the semitones from the tonic to its root instead of the root: `A:min7/b3` in C is `9:min7/b3`.
    N and X are `None`.

    Raises:
        ValueError: if the label is not a chord.
    """
    root, _, _ = encode_chord(label)
    if root < 0:
        return None
    kind = re.sub(r"^[A-G][b#]*:?", "", label)
    return f"{(root - tonic) % 12}:{'maj' + kind if kind[:1] in ('', '/') else kind}"


def chord_label(chord: str, tonic: int) -> str:
    """Return the label of a chord from [`relative_chord`]."""
    interval, kind = chord.split(":")
    return f"{PITCH_NAMES[(int(interval) + tonic) % 12]}:{kind}"


def split_phrases(score: Score, letters: Sequence[Segment]) -> list[Phrase]:
    """
    Return the phrases of a song, in order.

    Args:
        score ([`Score`]): Song with beats, chords, sections and keys.
        letters: Letters of the musical material, with the boundaries of the sections.

    Raises:
        ValueError: the song has fewer than two downbeats, no key or a chord that cannot be parsed.
    """
    downbeats = np.flatnonzero(score.beats.positions == 1)
    if len(downbeats) < 2 or not score.keys:
        raise ValueError(f"Song {score.id} needs at least two downbeats and a key, to learn composing from it.")
    parts = {part.name: _grid_notes(part, score.beats.times) for part in score.parts if not part.is_drums}
    starts = score.beats.times[downbeats]
    phrases: list[Phrase] = []
    for segment in letters:
        first, last = (int(np.argmin(np.abs(starts - time))) for time in segment[:2])
        if segment.end > starts[-1] + (starts[-1] - starts[-2]) / 2:
            last = len(downbeats)  # the last bar has no downbeat after it
        edges = downbeats[first : last + 1].tolist()
        edges += [edges[-1] + BEATS] if edges and last == len(downbeats) else []
        if len(edges) > 1 and all(stop - start == BEATS for start, stop in pairwise(edges)):
            phrases.append(_phrase(score, segment, edges[0], len(edges) - 1, parts))
    return phrases


def _phrase(score: Score, segment: Segment, beat: int, bars: int, parts: dict[str, list[GridNote]]) -> Phrase:
    """Return the phrase that begins at a beat."""
    middle = (segment.start + segment.end) / 2
    key = parse_key(_label_at(score.keys, middle) or score.keys[0].label)
    if key in (None, "N"):
        raise ValueError(f"Song {score.id} needs a major or minor key, got {score.keys[0].label!r}.")
    name, mode = key.split(":")
    tonic = encode_chord(name)[0]
    chords: list[tuple[int, str | None]] = []
    for number in range(bars * BEATS):
        if beat + number >= len(score.beats.times):
            break
        label = _label_at(score.chords, score.beats.times[beat + number] + _TOLERANCE * 0.5)
        chord = None if label is None else relative_chord(label, tonic)
        if not chords or chords[-1][1] != chord:
            chords.append((number, chord))
    start, end = beat * STEPS, (beat + bars * BEATS) * STEPS
    notes = {part: [_moved(note, start) for note in own if start <= note.step < end] for part, own in parts.items()}
    if "MELODY" in parts:
        pickup, following = (_pickup(parts["MELODY"], step) for step in (start, end))
        rest = min((note.step for note in following), default=end) - start
        own = [note for note in notes["MELODY"] if note.step < rest]
        notes["MELODY"] = [_moved(note, start) for note in pickup] + own
    function = _label_at(score.sections, middle) or segment.label
    return Phrase(segment.label, function, bars, tonic, mode, chords, notes)


def _pickup(melody: Sequence[GridNote], downbeat: int) -> list[GridNote]:
    """Return the notes that lead to a downbeat: those of at most two beats before it that follow a rest."""
    before = [note for note in melody if downbeat - 3 * BAR <= note.step < downbeat]
    group: list[GridNote] = []
    for note in reversed(before):
        if note.step < downbeat - _LONGEST_PICKUP:
            break
        group.insert(0, note)
        earlier = [other.step + other.length for other in before if other.step < note.step]
        if note.step - max(earlier, default=note.step - BAR) >= _REST:
            return group
    return []


def _grid_notes(part: Part, beats: np.ndarray) -> list[GridNote]:
    """Return the notes of a part on the grid of a song; notes that begin before the first beat are left out."""
    if not part.notes:
        return []
    extended = np.append(beats, beats[-1] + np.arange(1, 9) * (beats[-1] - beats[-2]))
    grid = np.arange(len(extended)) * STEPS
    starts = np.interp([note.start for note in part.notes], extended, grid, left=-1)
    ends = np.interp([note.end for note in part.notes], extended, grid)
    notes = [
        GridNote(round(start), max(1, round(end) - round(start)), note.pitch, note.velocity)
        for note, start, end in zip(part.notes, starts, ends, strict=True)
        if start >= 0
    ]
    return sorted(notes)


def _moved(note: GridNote, start: int) -> GridNote:
    """Return a note with its step counted from another one."""
    return note._replace(step=note.step - start)


def _label_at(segments: Sequence[Segment], time: float) -> str | None:
    """Return the label at a time."""
    return next((label for start, end, label in segments if start <= time < end), None)
