"""Plans of new songs: key, form, meter and tempo, and the songs whose manner they take."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .meters import METERS, Meter, draw_meter
from .statistics import CompositionStatistics

_METER_SHARES = {2: 0.1, 3: 0.2, 4: 0.5, 5: 0.03, 6: 0.14, 7: 0.03}
_TEMPI = (58.0, 180.0)  # slowest and fastest
_TEMPO_SPREAD = 0.06  # standard deviation of the tempo relative to that of the song whose manner is taken
_COMPOUND_TEMPI = (100.0, 190.0)  # of eighth notes, in a meter of 6
_OTHER_CHORDS = 0.2  # factor of chords that the song whose chords are preferred does not have
_NO_INTRO = 0.15  # probability that a song begins without the intro of its form, and so perhaps with a pickup
_MODULATIONS = (1, 2)  # semitones


@dataclass(frozen=True)
class ComposerSettings:
    """
    Settings of [`compose_score`].

    Attributes:
        meters (`dict[int, float]`): Numbers of beats in a bar, from 2 to 7, and the share of songs with each.
        meter_change (`float`): Probability that the material of a letter has another meter than the song.
        tempo_change (`float`): Probability of a ritardando or a gradual change of tempo in a section; see
            [`draw_tempo_map`].
        modulation (`float`): Probability that the song goes up by a semitone or a tone at the last chorus.
        bass (`float`): Probability of a bass.
        swing (`float`): Probability that the second eighth note of a beat comes late, at two thirds of it; not in 6.

    Raises:
        ValueError: a meter cannot be composed, or a share or probability is out of range.
    """

    meters: Mapping[int, float] = field(default_factory=_METER_SHARES.copy)
    meter_change: float = 0.03
    tempo_change: float = 0.08
    modulation: float = 0.12
    bass: float = 1.0
    swing: float = 0.1

    def __post_init__(self) -> None:
        if not self.meters or set(self.meters) - set(METERS):
            raise ValueError(
                f"Songs are composed in meters from {METERS[0]} to {METERS[-1]} beats, got "
                f"{', '.join(map(str, self.meters)) or 'none'}."
            )
        if min(self.meters.values()) < 0 or sum(self.meters.values()) <= 0:
            raise ValueError(f"Shares of meters must not be negative, and not all 0, got {dict(self.meters)}.")
        for name in ("meter_change", "tempo_change", "modulation", "bass", "swing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a probability from 0 to 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Plan:
    """
    Plan of a song.

    Attributes:
        tonic, mode: Key at the start: pitch class, and maj or min.
        form (`list[tuple[str, str, int]]`): Sections: letter, function, and length in bars of four beats.
        meters (`dict[str, Meter]`): Meter of each letter.
        tempo (`float`): Beats per minute.
        bass (`bool`): Whether it has a bass.
        swing (`bool`): Whether eighth notes swing.
        modulation (`int`): Semitones by which the song goes up at the last chorus.
        chords (`dict[str, float]`): Factors by which chords, relative to the tonic, are more likely than in all songs.
        melody, bridge, piano: Manners of songs from [`learn_manner`] for each part.
    """

    tonic: int
    mode: str
    form: list[tuple[str, str, int]]
    meters: dict[str, Meter]
    tempo: float
    swing: bool
    bass: bool
    modulation: int
    chords: dict[str, float]
    melody: dict[str, Any]
    bridge: dict[str, Any]
    piano: dict[str, Any]


def draw_plan(rng: np.random.Generator, statistics: CompositionStatistics, settings: ComposerSettings) -> Plan:
    """Draw the plan of a song: all keys and both modes are equally likely."""
    form = list(statistics.forms[int(rng.integers(len(statistics.forms)))])
    if len(form) > 2 and form[0][1] == "intro" and rng.random() < _NO_INTRO:
        form = form[1:]
    mode = str(rng.choice(sorted(statistics.transitions)))
    shares = np.array(list(settings.meters.values()), dtype=np.float64)
    beats = int(rng.choice(list(settings.meters), p=shares / shares.sum()))
    meters = _draw_meters(rng, settings, beats, sorted({letter for letter, _, _ in form}))
    melody, bridge, piano = (_draw_manner(rng, statistics, part) for part in ("melody", "bridge", "piano"))
    return Plan(
        tonic=int(rng.integers(12)),
        mode=mode,
        form=form,
        meters=meters,
        tempo=_draw_tempo(rng, piano["tempo"], beats),
        swing=bool(rng.random() < settings.swing) and all(meter.width != 2 for meter in meters.values()),
        bass=bool(rng.random() < settings.bass),
        modulation=int(rng.choice(_MODULATIONS)) if rng.random() < settings.modulation else 0,
        chords=_draw_chords(rng, statistics, mode),
        melody=melody,
        bridge=bridge,
        piano=piano,
    )


def _draw_chords(rng: np.random.Generator, statistics: CompositionStatistics, mode: str) -> dict[str, float]:
    """
    Draw a song with a mode, and return factors that prefer its chords. The mean of the factor of a chord over all
    songs is 1, so that rare chords are not rarer in new songs.
    """
    palettes = [set(manner["chords"]) for manner in statistics.manners if manner["mode"] == mode]
    if not palettes:
        return {}
    palette = palettes[int(rng.integers(len(palettes)))]
    counts = Counter(chord for other in palettes for chord in other)
    return {
        chord: _OTHER_CHORDS + (1 - _OTHER_CHORDS) * (chord in palette) * len(palettes) / count
        for chord, count in sorted(counts.items())
    }


def _draw_meters(
    rng: np.random.Generator, settings: ComposerSettings, beats: int, letters: list[str]
) -> dict[str, Meter]:
    """Draw the meter of each letter; letters with as many beats have the same one."""
    usual = draw_meter(rng, beats)
    # In 6, beats are twice as fast, so that a change from or to it would change the tempo.
    others = [other for other in settings.meters if other not in (beats, 6)] if beats != 6 else []
    meters = {}
    for letter in letters:
        changes = others and rng.random() < settings.meter_change
        meters[letter] = draw_meter(rng, int(rng.choice(others))) if changes else usual
    return meters


def _draw_tempo(rng: np.random.Generator, tempo: float, beats: int) -> float:
    """Draw the tempo of a song near that of another one in four beats."""
    tempo *= float(np.exp(rng.normal(0, _TEMPO_SPREAD)))
    if beats == 6:
        return float(np.clip(1.7 * tempo, *_COMPOUND_TEMPI))
    if beats in (3, 5, 7):
        tempo *= float(rng.uniform(1.0, 1.5))
    return float(np.clip(tempo, *_TEMPI))


def _draw_manner(rng: np.random.Generator, statistics: CompositionStatistics, part: str) -> dict[str, Any]:
    """Draw a song whose manner is taken for a part; every song for the counter melody, which some songs lack."""
    usable = [manner for manner in statistics.manners if manner[part] or part == "bridge"]
    return usable[int(rng.integers(len(usable)))]
