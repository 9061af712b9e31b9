"""Material of a letter: chords, melody, counter melody, and accompaniment of a phrase, and its variations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..score import BRIDGE, MELODY, PIANO
from .accompaniment import Pattern, accompany, bass_line, learned_pattern, metric_pattern
from .harmony import draw, draw_progression
from .material import STEPS, GridNote, chord_label
from .melody import Harmony, MelodyStatistics, draw_pitches
from .meters import Meter
from .plan import Plan
from .statistics import CompositionStatistics

Notes = dict[str, list[GridNote]]  # by the name of the part
SUNG = ("verse", "chorus", "bridge")
_METRIC_PATTERN = 0.5  # probability of a pattern of the meter, in other meters than four
_ACCENT = 4  # velocity of a melody for each degree of strength
_ARCH = 8  # by which a melody is louder in the middle of a phrase
_DEFAULT_CENTER = 70.0


@dataclass(frozen=True)
class Line:
    """
    A melody.

    Attributes:
        rhythm (`list[list[tuple[int, int]]]`): Step, from the start of the phrase, and length of each note, by unit:
            the bars that a bar of four beats becomes.
        form (`str`): Form of the rhythm; a letter for each unit.
        pitches (`list[list[int]]`): Pitches of the notes by unit.
        centers (`list[float]`): Pitches around which the units lie.
        velocity (`int`): Velocity of a note on the beat.
    """

    rhythm: list[list[tuple[int, int]]]
    form: str
    pitches: list[list[int]]
    centers: list[float]
    velocity: int

    def by_step(self) -> dict[int, int]:
        """Return the pitches by step."""
        pairs = zip(self.rhythm, self.pitches, strict=True)
        return {step: pitch for notes, own in pairs for (step, _), pitch in zip(notes, own, strict=True)}


@dataclass(frozen=True)
class Material:
    """
    Material of a letter.

    Attributes:
        function (`str`): Function of its sections.
        meter ([`Meter`]): Its meter.
        bars (`int`): Length in bars of its meter.
        harmony ([`Harmony`]): Chords.
        melody, bridge ([`Line`], *optional*): Melody and counter melody, if they play.
        patterns (`list[Pattern]`): Accompaniments; the first section with this letter has the first one.
    """

    function: str
    meter: Meter
    bars: int
    harmony: Harmony
    melody: Line | None
    bridge: Line | None
    patterns: list[Pattern]

    def parts(self, pattern: int) -> Notes:
        """Return the notes of the melody, the counter melody, and the accompaniment with one of the patterns."""
        chosen = self.patterns[pattern % len(self.patterns)]
        piano = accompany(chosen, self.harmony, self.bars, self.meter)
        return {MELODY: self._notes(self.melody), BRIDGE: self._notes(self.bridge), PIANO: piano}

    def bass(self, piano: Sequence[GridNote]) -> list[GridNote]:
        """Return the bass below an accompaniment."""
        return bass_line(piano, self.harmony, self.bars * self.meter.bar)

    def _notes(self, line: Line | None) -> list[GridNote]:
        """Return the notes of a melody."""
        if line is None or not any(line.rhythm):
            return []
        pairs = [pair for unit in line.rhythm for pair in unit]
        pitches = [pitch for unit in line.pitches for pitch in unit]
        end = self.bars * self.meter.bar
        stops = [step for step, _ in pairs[1:]] + [end]
        notes = []
        for (step, length), pitch, stop in zip(pairs, pitches, stops, strict=True):
            arch = _ARCH * float(np.sin(np.pi * max(0, step) / end))
            velocity = line.velocity + _ACCENT * (self.harmony.strength(step) - 2) + arch
            notes.append(GridNote(step, min(length, stop - step), pitch, int(np.clip(velocity, 20, 127))))
        return notes


def compose_material(
    rng: np.random.Generator, statistics: CompositionStatistics, plan: Plan, letter: str, function: str, bars: int
) -> Material:
    """
    Compose the material of a letter.

    Args:
        plan ([`Plan`]): Plan of the song.
        letter, function: Letter and function of its sections.
        bars (`int`): Length of the longest section with this letter, in bars of four beats.
    """
    meter = plan.meters[letter]
    progression = meter.bring_chords(draw_progression(rng, statistics, plan.mode, function, bars, plan.chords))
    chords = [(beat * STEPS, chord_label(chord, plan.tonic)) for beat, chord in progression]
    harmony = Harmony(plan.tonic, plan.mode, chords, meter.strengths())
    center = _center(rng, plan, function)
    melody = bridge = None
    if function in SUNG:
        melody = _compose_line(rng, statistics.melody, plan.melody["melody"], function, bars, meter, harmony, center)
    other = melody.by_step() if melody is not None else {}
    rhythms = plan.bridge["bridge"]
    if function in rhythms:
        bridge = _compose_line(
            rng, statistics.melody, rhythms, function, bars, meter, harmony, _bridge_center(plan), other
        )
    patterns = [_draw_pattern(rng, statistics, plan, function, meter) for _ in range(2)]
    return Material(function, meter, bars * len(meter.sources), harmony, melody, bridge, patterns)


def _center(rng: np.random.Generator, plan: Plan, function: str) -> float:
    """Return the pitch around which a melody lies, in the register of its function."""
    center = plan.melody["center"] or _DEFAULT_CENTER
    return float(np.clip(center + plan.melody["height"].get(function, 0.0) + rng.normal(0, 1), 55, 82))


def _bridge_center(plan: Plan) -> float:
    """Return the pitch around which the counter melody lies, as far from the melody as in the song of its manner."""
    return float(np.clip((plan.melody["center"] or _DEFAULT_CENTER) + plan.bridge["bridge_center"], 55, 82))


def _compose_line(
    rng: np.random.Generator,
    statistics: MelodyStatistics,
    manner: dict[str, Any],
    function: str,
    bars: int,
    meter: Meter,
    harmony: Harmony,
    center: float,
    other: dict[int, int] | None = None,
) -> Line:
    """Compose a melody: its rhythm, then the contour of its bars, then its pitches."""
    rhythms = manner.get(function) or manner[str(rng.choice(sorted(manner)))]
    form = _draw_form(rng, statistics, bars)
    rhythm = _draw_rhythm(rng, rhythms, form, meter)
    contour = np.array(_nearest(rng, statistics.contours, bars), dtype=np.float64)
    contour = np.interp(np.linspace(0, 1, bars), np.linspace(0, 1, len(contour)), contour)
    centers = [float(value) for value in center + contour]
    line = Line(rhythm, form, [], centers, int(rng.integers(84, 104)))
    for number, unit in enumerate(rhythm):
        previous = next((own[-1] for own in reversed(line.pitches) if own), None)
        first = form.index(form[number])
        if first < number and len(line.pitches[first]) == len(unit) and rng.random() < statistics.copies:
            line.pitches.append(_copied(line.pitches[first], [step for step, _ in unit], harmony))
            continue
        steps = [step for step, _ in unit]
        is_last = number == len(rhythm) - 1
        line.pitches.append(
            draw_pitches(rng, statistics, steps, harmony, [centers[number]] * len(steps), other, previous, is_last)
        )
    return line


def _copied(pitches: Sequence[int], steps: Sequence[int], harmony: Harmony) -> list[int]:
    """Return the pitches of an earlier bar, of which those on beats that clash with the chord move to a chord tone."""
    scale = harmony.scale()
    copied = []
    for pitch, step in zip(pitches, steps, strict=True):
        tones = set(harmony.tones(step))
        allowed = tones if harmony.strength(step) >= 3 else tones | scale
        copied.append(
            min(range(pitch - 6, pitch + 7), key=lambda other: (other % 12 not in allowed, abs(other - pitch)))
        )
    return copied


def _draw_form(rng: np.random.Generator, statistics: MelodyStatistics, bars: int) -> str:
    """Draw the form of the rhythm of a phrase."""
    forms = statistics.forms.get(str(bars))
    if forms:
        return draw(rng, forms)
    form = draw(rng, statistics.forms[min(statistics.forms, key=lambda name: (abs(int(name) - bars), name))])
    return (form * bars)[:bars]


def _nearest(rng: np.random.Generator, table: dict[str, list[list[float]]], bars: int) -> list[float]:
    """Draw an entry of the nearest number of bars."""
    entries = table[min(table, key=lambda name: (abs(int(name) - bars), name))]
    return entries[int(rng.integers(len(entries)))]


def _draw_rhythm(
    rng: np.random.Generator, rhythms: dict[str, list[list[int]]], form: str, meter: Meter
) -> list[list[tuple[int, int]]]:
    """Draw a rhythm for each letter of a form, and the pickup."""
    chosen: dict[str, list[int]] = {}
    units: list[list[tuple[int, int]]] = []
    for number, name in enumerate(form):
        if name not in chosen:
            bag = rhythms["last" if number == len(form) - 1 else "inner"]
            chosen[name] = bag[int(rng.integers(len(bag)))]
        flat = chosen[name]
        bars = meter.bring_bars([list(zip(flat[::2], flat[1::2], strict=True))])
        start = number * len(bars) * meter.bar
        unit = [(start + bar * meter.bar + step, length) for bar, own in enumerate(bars) for step, length in own]
        units.append(sorted(dict(reversed(unit)).items()))
    flat = rhythms["pickup"][int(rng.integers(len(rhythms["pickup"])))]
    scale = STEPS // meter.width
    pickup = [(step * scale, length * scale) for step, length in zip(flat[::2], flat[1::2], strict=True)]
    units[0] = [pair for pair in pickup if pair[0] > -meter.bar] + units[0]
    return units


def _draw_pattern(
    rng: np.random.Generator, statistics: CompositionStatistics, plan: Plan, function: str, meter: Meter
) -> Pattern:
    """Draw an accompaniment from the manner of the song; else that of its other functions."""
    if meter.beats != 4 and rng.random() < _METRIC_PATTERN:
        return metric_pattern(rng, meter)
    pianos = plan.piano["piano"]
    options = pianos.get(function) or pianos[str(rng.choice(sorted(pianos)))]
    return learned_pattern(meter, options[int(rng.integers(len(options)))])
