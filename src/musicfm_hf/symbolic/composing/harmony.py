"""Chord progressions of phrases in four beats, drawn from the statistics of songs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .material import BEATS
from .statistics import START, CompositionStatistics

_LOOP_BARS = 4
Progression = list[tuple[int, str]]  # beat from the start of the phrase, and chord relative to the tonic


def draw(rng: np.random.Generator, counts: Mapping[str, float]) -> str:
    """Draw a key of a dictionary in proportion to its value."""
    names = list(counts)
    weights = np.array([counts[name] for name in names], dtype=np.float64)
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def draw_progression(
    rng: np.random.Generator,
    statistics: CompositionStatistics,
    mode: str,
    function: str,
    bars: int,
    weights: Mapping[str, float] | None = None,
) -> Progression:
    """
    Draw the chords of a phrase: first the beats at which they begin, bar by bar, then the chords. Each depends on the
    two before it, and the last one also on the cadences of the songs. In phrases of eight bars or more, bars 5 to 8
    repeat bars 1 to 4 up to their last chord as often as in the songs.

    Args:
        mode (`str`): maj or min.
        function (`str`): Function of the section, on which the first chord depends.
        bars (`int`): Length of the phrase.
        weights (`dict[str, float]`, *optional*): Factors by which chords are more likely in this song; 1 by default.

    Returns:
        Beats from the start of the phrase, the first of which is 0, and chords relative to the tonic.
    """
    chain = _Chain(statistics.transitions[mode], statistics.cadences.get(mode, {}), weights or {})
    if bars < 2 * _LOOP_BARS or rng.random() >= statistics.loops:
        return chain.draw(rng, function, _draw_rhythm(rng, statistics, bars))
    first = chain.draw(rng, function, _draw_rhythm(rng, statistics, _LOOP_BARS))
    progression: Progression = []
    for start in range(0, bars * BEATS, _LOOP_BARS * BEATS):
        progression += [(start + beat, chord) for beat, chord in first if start + beat < bars * BEATS]
    before = [chord for _, chord in progression[:-1]]
    progression[-1] = (progression[-1][0], chain.draw_chord(rng, before, is_last=True))
    return _without_repeats(progression)


def _draw_rhythm(rng: np.random.Generator, statistics: CompositionStatistics, bars: int) -> list[int]:
    """Draw the beats of a phrase at which chords begin."""
    beats: list[int] = []
    rhythm = ""
    for bar in range(bars):
        place = "first" if bar == 0 else "last" if bar == bars - 1 else "inner"
        rhythms = statistics.chord_rhythms
        counts = rhythms.get(f"{place}|{rhythm}") or rhythms.get(f"inner|{rhythm}") or {"0": 1}
        rhythm = draw(rng, counts)
        beats += [bar * BEATS + int(beat) for beat in rhythm.split(",") if beat]
    return beats if beats[:1] == [0] else [0, *beats]


@dataclass(frozen=True)
class _Chain:
    """
    A Markov chain of order two over chords.

    Attributes:
        transitions, cadences: As in [`CompositionStatistics`], of one mode.
        weights: Factors of chords.
    """

    transitions: Mapping[str, Mapping[str, int]]
    cadences: Mapping[str, int]
    weights: Mapping[str, float]

    def draw(self, rng: np.random.Generator, function: str, beats: Sequence[int]) -> Progression:
        """Draw a chord for each beat of a phrase."""
        chords = [START, START + function]
        for index in range(len(beats)):
            chords.append(self.draw_chord(rng, chords, is_last=index == len(beats) - 1))
        return _without_repeats(list(zip(beats, chords[2:], strict=True)))

    def draw_chord(self, rng: np.random.Generator, before: Sequence[str], is_last: bool) -> str:
        """Draw the chord after others; another one than the last of them, where the songs have one."""
        names = ["|".join(before[-2:]), *before[-1:], ""]
        counts = next(self.transitions[name] for name in names if name in self.transitions)
        weights = {
            chord: count * self.weights.get(chord, 1.0) for chord, count in counts.items() if chord not in before[-1:]
        } or {chord: float(count) for chord, count in self.transitions[""].items()}
        if is_last:
            every = self.transitions[""]
            ends = {chord: weight * self.cadences.get(chord, 0) / every[chord] for chord, weight in weights.items()}
            weights = ends if sum(ends.values()) > 0 else weights
        return draw(rng, weights)


def _without_repeats(progression: Progression) -> Progression:
    """Return a progression without chords that equal the one before them."""
    return [pair for index, pair in enumerate(progression) if index == 0 or progression[index - 1][1] != pair[1]]
