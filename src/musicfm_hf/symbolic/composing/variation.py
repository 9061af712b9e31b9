"""Variations of the material of a letter: other pitches, fewer bars, and the end of a song."""

from dataclasses import replace

import numpy as np

from ...tasks.annotations import PITCH_NAMES
from ..score import BRIDGE, MELODY, PIANO
from .accompaniment import accompany, held_pattern
from .material import GridNote
from .melody import MelodyStatistics, draw_pitches
from .phrase import Line, Material, Notes

_LAST_VELOCITY = 88


def vary(rng: np.random.Generator, statistics: MelodyStatistics, material: Material, share: float) -> Material:
    """Return material whose melody has other pitches in about a share of its bars."""
    if material.melody is None:
        return material
    line = material.melody
    chosen = [number for number, unit in enumerate(line.rhythm) if unit and rng.random() < share]
    pitches = list(line.pitches)
    for number in chosen:
        previous = next((own[-1] for own in reversed(pitches[:number]) if own), None)
        steps = [step for step, _ in line.rhythm[number]]
        centers = [line.centers[number]] * len(steps)
        is_last = number == len(pitches) - 1
        pitches[number] = draw_pitches(
            rng, statistics, steps, material.harmony, centers, previous=previous, is_last=is_last
        )
    return replace(material, melody=replace(line, pitches=pitches))


def shortened(material: Material, bars: int) -> Material:
    """Return material that ends after a number of bars, or as it is if it is not longer."""
    if bars >= material.bars:
        return material
    end = bars * material.meter.bar
    chords = [(step, label) for step, label in material.harmony.chords if step < end]
    return replace(
        material,
        bars=bars,
        harmony=replace(material.harmony, chords=chords),
        melody=_shortened_line(material.melody, end),
        bridge=_shortened_line(material.bridge, end),
    )


def _shortened_line(line: Line | None, end: int) -> Line | None:
    """Return a melody without the notes from a step on."""
    if line is None:
        return None
    counts = [sum(step < end for step, _ in unit) for unit in line.rhythm]
    rhythm = [unit[:count] for unit, count in zip(line.rhythm, counts, strict=True)]
    pitches = [unit[:count] for unit, count in zip(line.pitches, counts, strict=True)]
    return replace(line, rhythm=rhythm, pitches=pitches)


def ended(material: Material, pattern: int) -> tuple[Material, Notes]:
    """
    Return the last section of a song and its notes. Its last bar holds the tonic chord and, in the melody, the tonic.
    """
    harmony, meter = material.harmony, material.meter
    last = (material.bars - 1) * meter.bar
    label = f"{PITCH_NAMES[harmony.tonic]}:{harmony.mode}"
    chords: list[tuple[int, str]] = []
    notes: Notes = {MELODY: [], BRIDGE: [], PIANO: []}
    if last:
        body = shortened(material, material.bars - 1)
        chords, notes = list(body.harmony.chords), body.parts(pattern)
    if not chords or chords[-1][1] != label:
        chords.append((last, label))
    held = accompany(held_pattern(meter), replace(harmony, chords=[(0, label)]), 1, meter)
    notes[PIANO] += [note._replace(step=note.step + last) for note in held]
    if notes[MELODY]:
        pitch = notes[MELODY][-1].pitch
        tonic = min(range(pitch - 6, pitch + 6), key=lambda other: (other - harmony.tonic) % 12)
        notes[MELODY].append(GridNote(last, meter.bar, tonic, _LAST_VELOCITY))
    return replace(material, harmony=replace(harmony, chords=chords)), notes
