"""
Meters and tempi of synthetic songs: bars whose accents make 2 to 7 beats audible, changes of meter between sections,
ritardandi and gradual changes of tempo.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..tasks.meter import METERS

# Beats between the accents of a bar. The accent on beat 1 is the strongest.
_GROUPINGS = {
    2: ((2,),),
    3: ((3,),),
    4: ((2, 2),),
    5: ((3, 2), (2, 3)),
    6: ((3, 3),),
    7: ((2, 2, 3), (3, 2, 2)),
}
_RITARDANDO = (0.75, 0.9)  # tempo at the end of a ritardando, relative to the tempo before it
_RITARDANDO_BARS = 2
_GRADUAL = (0.9, 1.2)  # tempo after a gradual change, relative to the tempo of the song
Note = tuple[float, float, int, str, float]


@dataclass(frozen=True)
class Meters:
    """
    Meters and tempi to compose in.

    Attributes:
        meters (`tuple[int, …]`): Numbers of beats in a bar from which the meter of a song is drawn, from 2 to 7.
        change (`float`): Probability that a section has another meter than the section before it.
        tempo_change (`float`): Probability that the tempo changes in a section: it ends with a ritardando, after which
            the tempo returns, or it gradually reaches another tempo, which remains.

    Raises:
        ValueError: a meter cannot be composed, or a probability is not from 0 to 1.
    """

    meters: tuple[int, ...]
    change: float = 0.0
    tempo_change: float = 0.0

    def __post_init__(self) -> None:
        if not self.meters or set(self.meters) - set(METERS) or len(set(self.meters)) < len(self.meters):
            raise ValueError(
                f"Songs are composed in different meters from {METERS[0]} to {METERS[-1]} beats, got "
                f"{', '.join(map(str, self.meters)) or 'none'}."
            )
        if not (0 <= self.change <= 1 and 0 <= self.tempo_change <= 1):
            raise ValueError(f"Probabilities are from 0 to 1, got {self.change} and {self.tempo_change}.")
        if self.change and len(self.meters) == 1:
            raise ValueError(f"The meter can change only with several meters, got only {self.meters[0]}.")

    def draw(self, rng: np.random.Generator, sections: int) -> list[int]:
        """Draw the meter of each section of a song."""
        drawn = [int(rng.choice(self.meters))]
        while len(drawn) < sections:
            others = [meter for meter in self.meters if meter != drawn[-1]]
            drawn.append(int(rng.choice(others)) if rng.random() < self.change else drawn[-1])
        return drawn


def grouping(rng: np.random.Generator, meter: int) -> tuple[int, ...]:
    """Draw the beats between the accents of a meter, such as (3, 2) for 5."""
    options = _GROUPINGS[meter]
    return options[int(rng.integers(len(options)))]


def accented_bar(
    rng: np.random.Generator, function: str, triad: Sequence[int], start: float, beat: float, groups: Sequence[int]
) -> list[Note]:
    """
    Return the notes of one bar: a chord that lasts for the bar, a bass that is loudest on beat 1 and moves to the
    fifth on the other accents, and, by the function of the section, an arpeggio, a melody and drums.

    Args:
        triad: Root, third and fifth, in semitones above C.
        start, beat: Start of the bar, and the length of a beat, in seconds.
        groups: Output of [`grouping`].
    """
    meter, accents = sum(groups), [sum(groups[:index]) for index in range(len(groups))]

    def note(first: float, length: float, pitch: int, instrument: str, loudness: float) -> Note:
        return (start + first * beat, start + (first + length) * beat, pitch, instrument, loudness)

    pad = "strings" if function == "chorus" else "organ"
    notes = [note(0, meter, 60 + pitch, pad, 0.12) for pitch in triad]
    for accent, length in zip(accents, groups, strict=True):
        pitch, loudness = (triad[0], 0.36) if accent == 0 else (triad[2], 0.22)
        notes.append(note(accent, length, 36 + pitch, "bass", loudness))
    if function in ("verse", "outro"):
        accented = {2 * accent for accent in accents}
        notes += [
            note(k / 2, 1, 60 + triad[k % 3], "guitar", 0.24 if k in accented else 0.2 if k % 2 == 0 else 0.13)
            for k in range(2 * meter)
        ]
    if function == "chorus":
        notes += [note(k, 0.9, 72 + int(rng.choice(triad)), "lead", 0.25) for k in range(meter)]
    if function in ("verse", "chorus"):
        notes += [note(accent, 1, 0, "kick", 0.5 if accent == 0 else 0.25) for accent in accents]
        loudness = 0.3 if function == "chorus" else 0.15
        last = [accent + length - 1 for accent, length in zip(accents, groups, strict=True)]
        notes += [note(k, 1, 0, "snare", loudness) for k in last]
    step = 0.5 if function == "chorus" else 1.0
    notes += [note(k * step, 0.2, 0, "hat", 0.1) for k in range(round(meter / step))]
    return notes


class TempoMap:
    """
    A map from seconds at a constant tempo to seconds with changes of tempo. The tempo, relative to the constant one,
    is linear between points.

    Args:
        points: Pairs of seconds at the constant tempo and relative tempo, in order. Two points with the same time make
            the tempo jump. The first and last tempo extend beyond the points.
    """

    def __init__(self, points: Sequence[tuple[float, float]]):
        self._times, self._tempi = np.array(points, dtype=np.float64).T
        spans = _seconds(np.diff(self._times), self._tempi[:-1], self._tempi[1:])
        self._mapped = np.concatenate([[self._times[0] / self._tempi[0]], spans]).cumsum()

    def __call__(self, seconds: float) -> float:
        """Return the time that corresponds to `seconds` at the constant tempo."""
        index = int(np.searchsorted(self._times, seconds, side="right")) - 1
        if index < 0:
            return float(seconds / self._tempi[0])
        passed, before = seconds - self._times[index], self._tempi[index]
        if index == len(self._times) - 1:
            return float(self._mapped[index] + passed / before)
        after = np.interp(passed, [0, self._times[index + 1] - self._times[index]], self._tempi[index : index + 2])
        return float(self._mapped[index] + _seconds(passed, before, after))


def draw_tempo_map(
    rng: np.random.Generator, sections: Sequence[tuple[float, float]], bars: Sequence[float], probability: float
) -> TempoMap | None:
    """
    Draw ritardandi and gradual changes of tempo.

    Args:
        sections: Start and end of each section, in seconds at a constant tempo.
        bars: Length of a bar in each section, in seconds.
        probability (`float`): Probability of a change in a section.

    Returns:
        The map; `None` if no tempo changes.
    """
    tempo, points = 1.0, [(0.0, 1.0)]
    for (start, end), bar in zip(sections, bars, strict=True):
        if rng.random() >= probability:
            continue
        if rng.random() < 0.5:
            points += [(end - _RITARDANDO_BARS * bar, tempo), (end, tempo * rng.uniform(*_RITARDANDO)), (end, tempo)]
        else:
            points.append((start, tempo))
            tempo = rng.uniform(*_GRADUAL)
            points.append((end, tempo))
    return TempoMap(points) if len(points) > 1 else None


def _seconds(length: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the seconds in which the tempo goes from `before` to `after`, linearly over `length` seconds of music."""
    ratio = np.asarray(after) / before
    change = np.where(ratio == 1, 1.0, ratio - 1)
    return length / before * np.where(ratio == 1, 1.0, np.log(ratio) / change)
