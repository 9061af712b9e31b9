"""Bars of a score, and the tones of its chords."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ...tasks.annotations import Segment
from ..score import Score

_TOLERANCE = 0.03  # seconds by which a chord may change after the beat


class Bar(NamedTuple):
    """
    A bar.

    Attributes:
        times (`tuple[float, …]`): Its beats, and the start of the next bar, in seconds.
        section (`str`): Label of the section, or an empty string.
        begins_section, ends_section (`bool`): Whether the bar is the first or the last of a section.
        number (`int`): Number of the bar in its section, from 0.
    """

    times: tuple[float, ...]
    section: str
    begins_section: bool
    ends_section: bool
    number: int

    @property
    def meter(self) -> int:
        """Number of beats."""
        return len(self.times) - 1

    def at(self, beats: float) -> float:
        """Return the time of a position in the bar, in beats from 0; between two beats it is interpolated."""
        index = min(int(beats), self.meter - 1)
        return self.times[index] + (beats - index) * (self.times[index + 1] - self.times[index])


class Tones(NamedTuple):
    """
    The tones of a chord.

    Attributes:
        root, bass (`int`): Pitch classes from 0, C.
        classes (`tuple[int, …]`): All pitch classes, upwards from the root.
    """

    root: int
    bass: int
    classes: tuple[int, ...]

    @property
    def fifth(self) -> int:
        """Pitch class of the fifth, or of the root if the chord has none."""
        fifths = [tone for tone in self.classes if (tone - self.root) % 12 in (6, 7, 8)]
        return fifths[0] if fifths else self.root


class Chords:
    """The chords of a score, by time."""

    def __init__(self, chords: Sequence[Segment]):
        self._chords = chords
        self._starts = [chord.start for chord in chords]

    def at(self, time: float) -> tuple[Tones | None, float]:
        """Return the tones of the chord at a time, or `None` for no chord, and the time at which it ends."""
        index = bisect_right(self._starts, time + _TOLERANCE) - 1
        if index < 0:
            return None, self._starts[0] if self._starts else float("inf")
        chord = self._chords[index]
        if chord.end <= time + _TOLERANCE:
            following = self._starts[index + 1 : index + 2]
            return None, following[0] if following else float("inf")
        return tones(chord.label), chord.end


def find_bars(score: Score) -> list[Bar]:
    """
    Return the bars of a score, from the first downbeat on. A last bar that is not complete has as many beats as the
    bar before it, as long as the score lasts. A section begins with the bar whose start is closest to its own.
    """
    times, positions = score.beats
    downbeats = np.flatnonzero(positions == 1)
    if not len(downbeats) or len(times) < 2:
        return []
    grid = [tuple(times[first : last + 1].tolist()) for first, last in pairwise(downbeats)]
    tail, step = times[downbeats[-1] :].tolist(), float(np.median(np.diff(times)))
    length = len(grid[-1]) if grid else len(tail) + 1
    while len(tail) < length:
        tail.append(tail[-1] + step)
    if tail[-1] <= score.duration + step and len(tail) > 1:
        grid.append(tuple(tail))
    starts = np.array([bar[0] for bar in grid])
    labels, begins = [""] * len(grid), {0, len(grid)}
    for section in score.sections:
        first, last = (int(np.abs(starts - time).argmin()) for time in (section.start, section.end))
        last = len(grid) if section.end >= starts[-1] + step else last
        labels[first:last] = [section.label] * (last - first)
        begins |= {first, last}
    bars, number = [], 0
    for index, beats in enumerate(grid):
        number = 0 if index in begins else number + 1
        bars.append(Bar(beats, labels[index], index in begins, index + 1 in begins, number))
    return bars


@lru_cache(maxsize=4096)
def tones(label: str) -> Tones | None:
    """Return the tones of a chord in the syntax of `mir_eval.chord`; `None` for N and X."""
    from mir_eval.chord import encode

    root, intervals, bass = encode(label)
    if root < 0:
        return None
    classes = tuple(int((root + step) % 12) for step in np.flatnonzero(intervals))
    return Tones(int(root), int((root + bass) % 12), classes)
