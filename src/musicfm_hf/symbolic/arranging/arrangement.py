"""
Random arrangements of a score: instruments for its parts, parts left out or doubled, a bass line, drums, pads,
arpeggios and comping on its beats and chords, in another key and tempo. Labels stay exact.

Validation and test songs get programs, drum styles, fills, bass lines and accompaniments that training songs do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...tasks.annotations import Beats
from ..score import BASS, BRIDGE, MELODY, PIANO, Part, Score, ScoreNote
from ..synthetic_meters import TempoMap
from .bars import Bar, Chords, find_bars
from .bass import bass_part
from .chords import arpeggio_part, comping_part, pad_part
from .drums import draw_style, drum_part, shifted
from .instruments import Instrument, draw_instrument, play_on

TRANSPOSITIONS = tuple(range(-6, 6))

TEMPI = (0.8, 1.25)  # slowest and fastest, relative to the score

TEMPO_CLASSES = (67.0, 90.0)  # beats per minute: slow below the first, fast from the second

# Intensity of a section by its label; others have 0.6.
_INTENSITIES = {"intro": 0.3, "verse": 0.5, "chorus": 0.9, "bridge": 0.65, "inst": 0.6, "outro": 0.35, "": 0.3}

# Part of a score → its role, and the probability that it plays.
_ROLES = {MELODY: ("melody", 0.97), BRIDGE: ("counter", 0.75), PIANO: ("piano", 0.8)}

_ACCOMPANIMENTS = {"pad": 0.35, "arpeggio": 0.25, "comping": 0.3}

_DECIBELS = {
    "melody": 2.0,
    "counter": -3.0,
    "piano": 0.0,
    "double": -6.0,
    "bass": -1.0,
    "drums": 0.0,
    "pad": -5.0,
    "arpeggio": -5.0,
    "comping": -4.0,
}


@dataclass(frozen=True)
class Variation:
    """
    Key and tempo of a version of a song.

    Attributes:
        semitones (`int`): Transposition.
        tempo (`float`): Factor by which it is faster.
        rubato (`float`): Standard deviation of the tempo from bar to bar, relative to the tempo.
    """

    semitones: int = 0
    tempo: float = 1.0
    rubato: float = 0.0


def draw_variation(rng: np.random.Generator, tempi: tuple[float, float] = TEMPI) -> Variation:
    """
    Draw a transposition from -6 to 5 semitones, a tempo between those of `tempi` that is evenly distributed on a
    logarithmic scale, and in half of the versions a rubato of up to 4 percent.
    """
    low, high = np.log(tempi)
    return Variation(
        int(rng.choice(TRANSPOSITIONS)),
        round(float(np.exp(rng.uniform(low, high))), 4),
        round(float(rng.uniform(0.005, 0.04)), 4) if rng.random() < 0.5 else 0.0,
    )


def vary(score: Score, variation: Variation, rng: np.random.Generator) -> Score:
    """
    Return the score in another key and tempo. With rubato, the tempo is linear between downbeats, where it is drawn
    around the tempo of the song and stays within two standard deviations.

    Raises:
        ValueError: a transposed note is outside 0 to 127.
    """
    downbeats = score.beats.times[score.beats.positions == 1]
    points = [(0.0, variation.tempo)]
    if variation.rubato and len(downbeats):
        drift = np.clip(rng.normal(0.0, variation.rubato, len(downbeats)), -2 * variation.rubato, 2 * variation.rubato)
        points = list(zip(downbeats.tolist(), (variation.tempo * (1 + drift)).tolist(), strict=True))
        if points[0][0] > 0:
            points.insert(0, (0.0, points[0][1]))
    score = score.transposed(variation.semitones)
    return score if points == [(0.0, 1.0)] else score.mapped(TempoMap(points))


def arrange(score: Score, rng: np.random.Generator, drums: float = 0.5, held_out: bool = False) -> Score:
    """
    Return a random arrangement of a score.

    Args:
        score ([`Score`]): Its parts MELODY, BRIDGE, PIANO and BASS get instruments of these roles, or are left out;
            other parts keep their program. If it has drums, none are added.
        drums (`float`): Probability of a band with drums; a band nearly always has a bass, others rarely.
        held_out (`bool`): Use the instruments and patterns for validation and test.

    Raises:
        ValueError: the score has no notes.
    """
    if not any(part.notes for part in score.parts):
        raise ValueError(f"Score {score.id} has no notes to arrange.")
    bars = find_bars(score)
    band = _Band(rng, bars, Chords(score.chords), _draw_intensity(rng, bars), held_out, set())
    is_band = rng.random() < drums
    parts = _own_parts(band, score)
    if rng.random() < (0.9 if is_band else 0.25):
        parts = [_without_low_notes(part) if part.name == PIANO and rng.random() < 0.6 else part for part in parts]
        parts.append(_bass(band, score))
    parts += _accompaniments(band, has_piano=any(part.name == PIANO for part in parts))
    has_drums = any(part.is_drums for part in score.parts)
    style = draw_style(rng, {bar.meter for bar in bars}, held_out) if is_band and bars and not has_drums else None
    if style is not None:
        parts.append(_leveled(rng, drum_part(rng, bars, style[1], band.intensity, held_out), "drums"))
    return _within(score.with_parts([part for part in parts if part.notes]))


def tempo_class(beats: Beats) -> str | None:
    """Return `slow`, `medium` or `fast` by the median tempo, or `None` for fewer than two beats."""
    if len(beats.times) < 2:
        return None
    tempo = 60 / float(np.median(np.diff(beats.times)))
    return "slow" if tempo < TEMPO_CLASSES[0] else "fast" if tempo >= TEMPO_CLASSES[1] else "medium"


class _Band(NamedTuple):
    """Random generator, bars, chords and intensity of an arrangement, and the instruments that play already."""

    rng: np.random.Generator
    bars: list[Bar]
    chords: Chords
    intensity: Callable[[Bar], float]
    held_out: bool
    used: set[str]

    def draw(self, role: str) -> tuple[Instrument, int]:
        """Draw an instrument for a role that does not play already, and its program."""
        instrument, program = draw_instrument(self.rng, role, self.held_out, self.used)
        self.used.add(instrument.name)
        return instrument, program


def _own_parts(band: _Band, score: Score) -> list[Part]:
    """Return the parts of the score that play, on drawn instruments, up to 10 ms early or late, without its bass."""
    parts: list[Part] = []
    spread = band.rng.uniform(0.0, 0.004)
    for part in score.parts:
        role, share = _ROLES.get(part.name, ("", 1.0))
        if not part.notes or part.name == BASS or band.rng.random() > share:
            continue
        if not role:
            parts.append(part)
            continue
        part = _humanized(band.rng, part, spread)
        pieces = _two_instruments(band, score, play_on(part, *band.draw(role)), role)
        parts += [_leveled(band.rng, piece, role) for piece in pieces]
        if role == "melody" and band.rng.random() < 0.15:
            parts.append(_leveled(band.rng, _doubled(band, part, role), "double"))
    return parts


def _humanized(rng: np.random.Generator, part: Part, spread: float) -> Part:
    """Return a part whose notes start up to 10 ms early or late; chords stay together."""
    starts = {start: shifted(rng, start, spread) for start in dict.fromkeys(note.start for note in part.notes)}
    notes = [replace(note, start=max(0.0, min(starts[note.start], note.end - 0.005))) for note in part.notes]
    return replace(part, notes=tuple(sorted(notes, key=lambda note: note.start)))


def _doubled(band: _Band, part: Part, role: str) -> Part:
    """Return a part an octave higher or lower, on another instrument."""
    shift = int(band.rng.choice([-12, 12]))
    notes = tuple(replace(note, pitch=note.pitch + shift) for note in part.notes if 0 <= note.pitch + shift <= 127)
    return play_on(replace(part, notes=notes, name="DOUBLE"), *band.draw(role))


def _two_instruments(band: _Band, score: Score, part: Part, role: str) -> list[Part]:
    """Return a part, in a quarter of the arrangements divided between two instruments by the label of the section."""
    labels = sorted({section.label for section in score.sections})
    if len(labels) < 2 or band.rng.random() > 0.25:
        return [part]
    chosen = set(band.rng.permutation(labels)[: len(labels) // 2].tolist())
    spans = [(section.start - 0.05, section.end - 0.05) for section in score.sections if section.label in chosen]
    inside = [note for note in part.notes if any(start <= note.start < end for start, end in spans)]
    outside = [note for note in part.notes if not any(start <= note.start < end for start, end in spans)]
    if not inside or not outside:
        return [part]
    other = play_on(replace(part, notes=tuple(inside)), *band.draw(role))
    return [replace(part, notes=tuple(outside)), other]


def _bass(band: _Band, score: Score) -> Part:
    """Return the bass of the score, or a composed one if it has none, and in half of the arrangements."""
    own = [part for part in score.parts if part.name == BASS and part.notes]
    instrument, program = draw_instrument(band.rng, "bass", band.held_out)
    if own and band.rng.random() < 0.5:
        part = play_on(own[0], instrument, program)
    else:
        part = bass_part(band.rng, band.bars, band.chords, band.intensity, program, band.held_out)
    return _leveled(band.rng, part, "bass")


def _accompaniments(band: _Band, has_piano: bool) -> list[Part]:
    """Return the drawn pads, arpeggios and comping: at least one of them if there is no piano part."""
    rng, parts = band.rng, list[Part]()
    roles = [role for role, share in _ACCOMPANIMENTS.items() if rng.random() < share]
    if not roles and not has_piano:
        roles = [list(_ACCOMPANIMENTS)[int(rng.integers(len(_ACCOMPANIMENTS)))]]
    for role in roles:
        instrument, program = band.draw(role)
        music = rng, band.bars, band.chords, band.intensity, program
        if role == "pad":
            part = pad_part(*music)
        else:
            part = (arpeggio_part if role == "arpeggio" else comping_part)(*music, band.held_out)
        if has_piano or parts:  # without a piano, one part plays everywhere
            part = _in_sections(part, band.bars, band.intensity, float(rng.choice([0.0, 0.0, 0.4, 0.7])))
        if part.notes:
            parts.append(_leveled(rng, play_on(part, instrument, program), role))
    return parts


def _draw_intensity(rng: np.random.Generator, bars: Sequence[Bar]) -> Callable[[Bar], float]:
    """Return a function from bars to intensities: of their section's label, with a random deviation for each label."""
    labels = sorted({bar.section for bar in bars})
    values = {
        label: float(np.clip(_INTENSITIES.get(label, 0.6) + rng.normal(0.0, 0.2), 0.05, 1.0)) for label in labels
    }
    return lambda bar: values[bar.section]


def _in_sections(part: Part, bars: Sequence[Bar], intensity: Callable[[Bar], float], least: float) -> Part:
    """Return a part that rests in bars whose intensity is below `least`."""
    resting = [(bar.times[0] - 0.05, bar.times[-1] - 0.05) for bar in bars if intensity(bar) < least]
    notes = tuple(note for note in part.notes if not any(start <= note.start < end for start, end in resting))
    return replace(part, notes=notes)


def _without_low_notes(part: Part) -> Part:
    """Return a part without its notes below C3, which the bass plays."""
    return replace(part, notes=tuple(note for note in part.notes if note.pitch >= 48))


def _leveled(rng: np.random.Generator, part: Part, role: str) -> Part:
    """Return a part with a random level around that of its role, and a random pan."""
    pan = 0.0 if role in ("bass", "drums") else round(float(np.clip(rng.normal(0.0, 0.3), -1, 1)), 2)
    return replace(part, decibels=round(_DECIBELS[role] + float(rng.normal(0.0, 2.0)), 2), pan=pan)


def _within(score: Score) -> Score:
    """Return a score whose duration covers all notes."""
    last = max((note.end for part in score.parts for note in part.notes), default=score.duration)
    return replace(score, duration=max(score.duration, last))


def sounding_seconds(notes: Sequence[ScoreNote]) -> float:
    """Return the time for which at least one of the notes lasts, in seconds."""
    total, until = 0.0, 0.0
    for note in sorted(notes, key=lambda note: note.start):
        total += max(0.0, note.end - max(note.start, until))
        until = max(until, note.end)
    return total
