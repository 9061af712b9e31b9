"""
Compose songs in the manner of others, with exactly known beats, chords, sections and keys.

[`fit_statistics`] counts what songs have in common and keeps the manner of each; [`compose_score`] draws a song from
top to bottom: key, form, meters and tempo; then, for each letter of the form, chords, melody, counter melody and
accompaniment; then the sections, of which those with the same letter vary the same material. Labels are known because
notes are made from them.
"""

import numpy as np

from ..score import BASS, PIANO, Score
from .phrase import Material, compose_material
from .plan import ComposerSettings, Plan, draw_plan
from .statistics import CompositionStatistics
from .variation import ended, shortened, vary
from .writing import Composition, Grid, write_score

_VARIED = 0.7  # probability that a repeated section is varied
_OTHER_PATTERN = 0.3  # probability that a varied section has another accompaniment


def compose_score(
    statistics: CompositionStatistics, seed: int, settings: ComposerSettings | None = None, id: str | None = None
) -> Score:
    """
    Compose a song. The same arguments give the same song, and global generators are not used.

    Args:
        statistics ([`CompositionStatistics`]): Statistics of songs.
        seed (`int`): Seed of the song.
        settings ([`ComposerSettings`], *optional*): Meters and the probabilities of changes.
        id (`str`, *optional*): Name and group of the song; `composed_` and the seed by default.

    Returns:
        [`Score`] with the parts PIANO and, except in a few songs, MELODY and BRIDGE, and BASS if `settings` have one.
    """
    return compose_song(statistics, seed, settings, id).score


def compose_song(
    statistics: CompositionStatistics, seed: int, settings: ComposerSettings | None = None, id: str | None = None
) -> Composition:
    """Compose a song as [`compose_score`] does, and return it with the letters of its sections."""
    settings = settings or ComposerSettings()
    rng = np.random.default_rng(seed)
    plan = draw_plan(rng, statistics, settings)
    materials = {}
    for letter in dict.fromkeys(letter for letter, _, _ in plan.form):
        functions, lengths = zip(*((name, bars) for own, name, bars in plan.form if own == letter), strict=True)
        materials[letter] = compose_material(rng, statistics, plan, letter, functions[0], max(lengths))
    grid = _place(rng, statistics, plan, materials)
    return write_score(rng, plan, grid, settings.tempo_change, id or f"composed_{seed}")


def _place(
    rng: np.random.Generator, statistics: CompositionStatistics, plan: Plan, materials: dict[str, Material]
) -> Grid:
    """Put the sections of a song one after another."""
    grid = Grid()
    choruses = [number for number, (_, function, _) in enumerate(plan.form) if function == "chorus"]
    modulation = choruses[-1] if plan.modulation and len(choruses) > 1 else len(plan.form)
    played: set[str] = set()
    for number, (letter, function, bars) in enumerate(plan.form):
        material, pattern = materials[letter], 0
        if letter in played and rng.random() < _VARIED:
            material = vary(rng, statistics.melody, material, 1 - statistics.repeats)
            pattern = int(rng.random() < _OTHER_PATTERN)
        played.add(letter)
        material = shortened(material, bars * len(material.meter.sources))
        if number < len(plan.form) - 1:
            notes = material.parts(pattern)
        else:
            material, notes = ended(material, pattern)
        if plan.bass:
            notes[BASS] = material.bass(notes[PIANO])
        semitones = plan.modulation if number >= modulation else 0
        grid.append(material, notes, letter, function, semitones)
    return grid
