"""
Accompaniments: patterns of songs or of a meter, brought to the chords of a phrase, and a bass below them.

Each note of a pattern keeps its height and moves to the nearest tone of the chord, so that voices move little between
chords. Every chord begins with its bass, and all of its tones sound before it ends.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ...tasks.chord_syntax import chord_tones, encode_chord
from .material import STEPS, GridNote
from .melody import Harmony
from .meters import Meter

_BASS = 43  # height of bass notes of the piano, where a pattern has none
_MIDDLE = 60  # height of tones that a pattern does not play
_BASS_RANGE = (28, 40)  # lowest note of the bass, and the lowest one of its highest octave
_VELOCITY = 72  # of an accompaniment without notes
_SOFTER = 6  # by which tones are softer that a pattern does not play
_ACCENT = 3  # velocity for each degree of strength
PatternNote = tuple[int, ...]  # step in the bar, length, height, velocity, and 1 for a bass note
Pattern = list[list[PatternNote]]


@lru_cache(maxsize=4096)
def chord_bass(label: str) -> int:
    """Return the pitch class of the bass of a chord."""
    root, _, bass = encode_chord(label)
    return (root + bass) % 12


def nearest(height: float, classes: Sequence[int], used: Sequence[int] = ()) -> int:
    """Return the pitch nearest to a height with one of some pitch classes, if possible not a used one."""
    pitches = [pitch for pitch in range(round(height) - 12, round(height) + 13) if pitch % 12 in classes]
    return min([pitch for pitch in pitches if pitch not in used] or pitches, key=lambda pitch: abs(pitch - height))


def learned_pattern(meter: Meter, bars: Sequence[Sequence[int]]) -> Pattern:
    """Return an accompaniment of [`accompaniment_bars`], brought into a meter."""
    return meter.bring_bars([[tuple(bar[first : first + 5]) for first in range(0, len(bar), 5)] for bar in bars])


def metric_pattern(rng: np.random.Generator, meter: Meter) -> Pattern:
    """
    Draw a bar for a meter other than four: a bass on the accents and chords between them; a bass on the downbeat and
    an arpeggio; or chords on the accents.
    """
    kind = str(rng.choice(["bass and chords", "arpeggio", "chords"]))
    velocity = int(rng.integers(64, 88))
    accents = (np.cumsum((0, *meter.groups[:-1])) * STEPS).tolist()
    chord = (55, 60, 64)
    notes: list[PatternNote] = []
    if kind == "arpeggio":
        width = STEPS if meter.width == 2 or rng.random() < 0.3 else STEPS // 2
        heights = (48, *(chord[index % 3] for index in range(1, meter.bar // width)))
        notes = [(index * width, 2 * width, height, velocity, 0) for index, height in enumerate(heights)]
        return [sorted([(0, meter.bar, _BASS, velocity, 1), *notes[1:]])]
    for accent, beats in zip(accents, meter.groups, strict=True):
        notes.append((accent, STEPS * (beats if kind == "chords" else 1), _BASS, velocity + 6, 1))
        offbeats = [accent] if kind == "chords" else [accent + beat * STEPS for beat in range(1, beats)]
        length = STEPS * (beats if kind == "chords" else 1)
        notes += [(step, length, height, velocity - 4, 0) for step in offbeats for height in chord]
    return [sorted(notes)]


def held_pattern(meter: Meter, velocity: int = 76) -> Pattern:
    """Return a bar in which the chord is held."""
    return [[(0, meter.bar, height, velocity, int(height == _BASS)) for height in (_BASS, 55, 60, 64)]]


def accompany(pattern: Pattern, harmony: Harmony, bars: int, meter: Meter) -> list[GridNote]:
    """
    Bring a pattern to the chords of a phrase.

    Args:
        pattern: Bars that are repeated through the phrase.
        harmony ([`Harmony`]): Chords of the phrase.
        bars (`int`): Length of the phrase.

    Returns:
        Notes of the piano, in order. Its lowest notes are below G3.
    """
    notes: list[GridNote] = []
    end = bars * meter.bar
    for bar in range(bars):
        used: dict[int, list[int]] = {}
        for step, length, height, velocity, is_bass in pattern[bar % len(pattern)]:
            start = bar * meter.bar + step
            label = harmony.chord(start)
            onset = used.setdefault(start, [])
            classes = _bass_classes(harmony, start) if is_bass else chord_tones(label)
            pitch = nearest(height, classes, onset)
            onset.append(pitch)
            stop = harmony.leaves(pitch, start, min(start + length, end))
            loud = velocity + (0 if meter.beats == 4 else _ACCENT * (harmony.strength(start) - 2))
            notes.append(GridNote(start, stop - start, pitch, int(np.clip(loud, 20, 120))))
    return _apart(_completed(notes, harmony, end))


def _bass_classes(harmony: Harmony, step: int) -> tuple[int, ...]:
    """Return the pitch classes of a bass note: the bass at the start of a chord, later also the root and fifth."""
    label = harmony.chord(step)
    bass = chord_bass(label)
    if any(start == step for start, _ in harmony.chords):
        return (bass,)
    root = encode_chord(label)[0]
    fifth = (root + 7) % 12
    return (bass, root, fifth) if fifth in chord_tones(label) else (bass, root)


def _completed(notes: list[GridNote], harmony: Harmony, end: int) -> list[GridNote]:
    """Add the bass at the start of each chord, and above it the tones that would not sound."""
    added: list[GridNote] = []
    velocity = round(float(np.median([note.velocity for note in notes]))) if notes else _VELOCITY
    for start, label in harmony.chords:
        stop = harmony.next_change(start, end)
        inside = [note for note in notes if start <= note.step < stop]
        onset = [note.pitch for note in inside if note.step == start]
        bass = min(onset, default=-1)
        if bass < 0 or bass % 12 != chord_bass(label):
            bass = nearest(_BASS, (chord_bass(label),))
            while onset and bass >= min(onset):
                bass -= 12
            added.append(GridNote(start, stop - start, bass, velocity))
        sounding = {note.pitch % 12 for note in inside} | {bass % 12}
        for tone in chord_tones(label):
            if tone not in sounding:
                pitch = nearest(max(_MIDDLE, bass + 7), (tone,))
                pitch += 12 * (pitch < bass)
                added.append(GridNote(start, stop - start, pitch, velocity - _SOFTER))
    return notes + added


def _apart(notes: list[GridNote]) -> list[GridNote]:
    """Return notes in order, where a note ends when its pitch begins again, and of equal ones the longest is left."""
    apart: list[GridNote] = []
    following: dict[int, int] = {}  # step at which a pitch begins next
    for note in sorted(notes, reverse=True):
        step = following.get(note.pitch)
        if step != note.step:
            apart.append(note if step is None else note._replace(length=min(note.length, step - note.step)))
            following[note.pitch] = note.step
    return sorted(apart)


def bass_line(piano: Sequence[GridNote], harmony: Harmony, end: int) -> list[GridNote]:
    """
    Return a bass: the lowest notes of the piano at the steps where it plays the bass, root or fifth, an octave or more
    lower, each held until the next one or the next chord. Every chord begins with its bass.
    """
    lowest: dict[int, GridNote] = {}
    for note in piano:
        if note.step not in lowest or note.pitch < lowest[note.step].pitch:
            lowest[note.step] = note
    starts = {start for start, _ in harmony.chords}
    chosen = [
        note
        for step, note in sorted(lowest.items())
        if step in starts or (note.pitch < _BASS + 12 and note.pitch % 12 in _bass_classes(harmony, step))
    ]
    line: list[GridNote] = []
    for index, note in enumerate(chosen):
        stop = min(chosen[index + 1].step if index + 1 < len(chosen) else end, harmony.next_change(note.step, end))
        low, high = _BASS_RANGE
        pitch = low + (note.pitch - low) % 12 if note.pitch >= high else note.pitch
        line.append(GridNote(note.step, stop - note.step, pitch, note.velocity))
    return line
