"""From sections on a grid of steps to a score in seconds with labels."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ...tasks.annotations import PITCH_NAMES, Beats, Segment
from ..score import BASS, BRIDGE, MELODY, PIANO, Part, Score, ScoreControl, ScoreNote
from ..synthetic_meters import draw_tempo_map
from ..transposition import transpose_chord
from .material import STEPS, GridNote
from .phrase import Material
from .plan import Plan

PROGRAMS = {MELODY: 73, BRIDGE: 48, PIANO: 0, BASS: 33}  # flute, strings, piano, bass guitar, until others are drawn
_DECIBELS = {MELODY: 1.0, BRIDGE: -3.0, PIANO: 0.0, BASS: 0.0}
_PEDAL = 0.5  # probability that the piano uses the sustain pedal
_PEDAL_SECONDS = 0.06  # from lifting the pedal to pressing it again
_SUSTAIN = 64  # number of its controller
_SILENCE = 0.5  # probability of silence before the song, which lasts up to
_SILENCE_SECONDS = 1.5
_SHORTEST_SPAN = 4  # bars of a part of the song within which the tempo changes
_SWING = (0.0, 1 / 3, 2 / 3, 5 / 6)  # places of the sixteenths of a swung beat
_SLOW, _FAST = 67.0, 90.0  # beats per minute below and from which a song has that tag, as in POP909


@dataclass(frozen=True)
class Composition:
    """
    A composed song.

    Attributes:
        score ([`Score`]): Parts MELODY, BRIDGE, PIANO and BASS, and labels. Sections have functions.
        letters (`list[Segment]`): Letters of the musical material: sections with the same letter vary the same one.
    """

    score: Score
    letters: list[Segment]


Span = tuple[int, int, str]  # start and end step, and label


@dataclass
class Grid:
    """Notes and labels of a song; steps count from the first downbeat. The pickup has negative steps."""

    notes: dict[str, list[GridNote]] = field(default_factory=lambda: {name: [] for name in PROGRAMS})
    chords: list[Span] = field(default_factory=list)
    functions: list[Span] = field(default_factory=list)
    letters: list[Span] = field(default_factory=list)
    keys: list[Span] = field(default_factory=list)
    bars: list[tuple[int, int]] = field(default_factory=list)  # start step, and beats
    end: int = 0

    def append(
        self, material: Material, notes: dict[str, list[GridNote]], letter: str, function: str, semitones: int
    ) -> None:
        """Append a section, transposed by some semitones. Its pickup takes the place of what was there."""
        start, harmony = self.end, material.harmony
        end = start + material.bars * material.meter.bar
        for name, own in notes.items():
            added = [note._replace(step=note.step + start, pitch=note.pitch + semitones) for note in own]
            first = min((note.step for note in added), default=end)
            before = [note for note in self.notes[name] if note.step < first]
            self.notes[name] = [note._replace(length=min(note.length, first - note.step)) for note in before] + added
        edges = [start + step for step, _ in harmony.chords] + [end]
        for (first, last), (_, label) in zip(pairwise(edges), harmony.chords, strict=True):
            _extend(self.chords, first, last, transpose_chord(label, semitones))
        _extend(self.keys, start, end, f"{PITCH_NAMES[(harmony.tonic + semitones) % 12]}:{harmony.mode}")
        self.functions.append((start, end, function))
        self.letters.append((start, end, letter))
        self.bars += [(bar, material.meter.beats) for bar in range(start, end, material.meter.bar)]
        self.end = end


def _extend(spans: list[Span], start: int, end: int, label: str) -> None:
    """Append a span, or extend the last one if it has the same label."""
    if spans and spans[-1][2] == label:
        start = spans.pop()[0]
    spans.append((start, end, label))


class _Clock:
    """Seconds of the steps of a song at a constant tempo, and beats before its first downbeat."""

    def __init__(self, rng: np.random.Generator, plan: Plan, grid: Grid):
        first = min((notes[0].step for notes in grid.notes.values() if notes), default=0)
        self.pickup_beats = -(min(first, 0) // STEPS)
        self._silence = float(rng.uniform(0, _SILENCE_SECONDS)) if rng.random() < _SILENCE else 0.0
        self._beat = 60 / plan.tempo
        self._places = _SWING if plan.swing else (0.0, 0.25, 0.5, 0.75)

    def __call__(self, step: int) -> float:
        """Return the seconds of a step."""
        beat, part = divmod(step, STEPS)
        return self._silence + (self.pickup_beats + beat + self._places[part]) * self._beat


def write_score(rng: np.random.Generator, plan: Plan, grid: Grid, tempo_change: float, name: str) -> Composition:
    """
    Write the score of a song.

    Args:
        plan ([`Plan`]): Its plan, with the tempo.
        grid ([`Grid`]): Its notes and labels.
        tempo_change (`float`): Probability of a change of tempo in a section.
        name (`str`): Id and group.
    """
    clock = _Clock(rng, plan, grid)

    def segments(spans: list[Span]) -> list[Segment]:
        return [Segment(clock(start), clock(end), label) for start, end, label in spans]

    chords, keys = segments(grid.chords), segments(grid.keys)
    if chords[0].start > 0:
        chords.insert(0, Segment(0.0, chords[0].start, "N"))
        keys[0] = keys[0]._replace(start=0.0)
    tempo = "slow" if plan.tempo < _SLOW else "fast" if plan.tempo >= _FAST else "medium"
    score = Score(
        id=name,
        group=name,
        parts=tuple(_part(rng, part, grid, clock) for part in PROGRAMS if grid.notes[part]),
        duration=clock(grid.end),
        beats=_beats(grid, clock),
        chords=chords,
        sections=segments(grid.functions),
        keys=keys,
        tags=("major" if plan.mode == "maj" else "minor", tempo),
    )
    letters = segments(grid.letters)
    tempo_map = draw_tempo_map(rng, *_spans(grid, clock), tempo_change)
    if tempo_map is None:
        return Composition(score, letters)
    letters = [Segment(tempo_map(start), tempo_map(end), letter) for start, end, letter in letters]
    return Composition(score.mapped(tempo_map), letters)


def _part(rng: np.random.Generator, name: str, grid: Grid, clock: _Clock) -> Part:
    """Return a part in seconds."""
    notes = [
        ScoreNote(clock(step), clock(step + length), pitch, velocity)
        for step, length, pitch, velocity in sorted(grid.notes[name])
    ]
    controls: list[ScoreControl] = []
    if name == PIANO and rng.random() < _PEDAL:
        times = [clock(start) for start, _, _ in grid.chords]
        for time in times:
            controls += [ScoreControl(time, _SUSTAIN, 0), ScoreControl(time + _PEDAL_SECONDS, _SUSTAIN, 127)]
        controls.append(ScoreControl(clock(grid.end), _SUSTAIN, 0))
    return Part(name, PROGRAMS[name], tuple(notes), controls=tuple(controls), decibels=_DECIBELS[name])


def _beats(grid: Grid, clock: _Clock) -> Beats:
    """Return all beats, from those of the pickup on."""
    meter = grid.bars[0][1]
    steps = list(range(-clock.pickup_beats * STEPS, 0, STEPS))
    positions = [meter + 1 + step // STEPS for step in steps]
    for start, beats in grid.bars:
        steps += range(start, start + beats * STEPS, STEPS)
        positions += range(1, beats + 1)
    return Beats(np.array([clock(step) for step in steps]), np.array(positions, dtype=np.int64))


def _spans(grid: Grid, clock: _Clock) -> tuple[list[tuple[float, float]], list[float]]:
    """Return parts of at least four bars within which the tempo may change, and the length of a bar in each."""
    spans: list[tuple[int, int]] = []
    for start, end, _ in grid.functions:
        shortest = _SHORTEST_SPAN * STEPS * max(beats for bar, beats in grid.bars if start <= bar < end)
        if spans and spans[-1][1] - spans[-1][0] < shortest:
            start = spans.pop()[0]
        spans.append((start, end))
    if len(spans) > 1 and spans[-1][1] - spans[-1][0] < shortest:
        spans[-2:] = [(spans[-2][0], spans[-1][1])]
    beats = [next(number for bar, number in reversed(grid.bars) if bar < end) for _, end in spans]
    seconds = clock(STEPS) - clock(0)
    return [(clock(start), clock(end)) for start, end in spans], [number * seconds for number in beats]
