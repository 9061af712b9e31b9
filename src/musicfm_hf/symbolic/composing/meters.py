"""
Bars of 2 to 7 beats, into which patterns of four beats are brought, and their accents.

A bar of 2 takes one half of a bar of 4, so that a phrase has twice as many bars. In 3, one of the last three beats is
left out. In 5 and 7, beats are repeated. In 6, which has the accents 3 + 3, an eighth note becomes a beat, and each
half of the bar loses one of its four eighths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .material import BAR, STEPS

# Beats in a bar → the ways of bringing a bar of 4 into it: beats between the accents, steps of the bar of 4 that a
# beat takes, and where they start.
_WAYS: dict[int, tuple[tuple[tuple[int, ...], int, tuple[tuple[int, ...], ...]], ...]] = {
    2: (((2,), 4, ((0, 4), (8, 12))),),
    3: (((3,), 4, ((0, 4, 8),)), ((3,), 4, ((0, 8, 12),)), ((3,), 4, ((0, 4, 12),))),
    4: (((2, 2), 4, ((0, 4, 8, 12),)),),
    5: (((3, 2), 4, ((0, 4, 4, 8, 12),)), ((2, 3), 4, ((0, 4, 8, 12, 12),))),
    6: (((3, 3), 2, ((0, 2, 4, 8, 10, 12),)), ((3, 3), 2, ((0, 4, 6, 8, 12, 14),))),
    7: (((2, 2, 3), 4, ((0, 4, 8, 12, 8, 12, 12),)), ((3, 2, 2), 4, ((0, 4, 4, 8, 12, 8, 12),))),
}
METERS = tuple(_WAYS)


@dataclass(frozen=True)
class Meter:
    """
    A meter, and a way of bringing bars of four beats into it.

    Attributes:
        beats (`int`): Beats in a bar.
        groups (`tuple[int, …]`): Beats between accents.
        width (`int`): Steps of the bar of 4 that a beat takes.
        sources (`tuple[tuple[int, …], …]`): For each bar that a bar of 4 becomes, the steps at which its beats start
            in the bar of 4.
    """

    beats: int
    groups: tuple[int, ...]
    width: int
    sources: tuple[tuple[int, ...], ...]

    @property
    def bar(self) -> int:
        """Steps in a bar."""
        return self.beats * STEPS

    def strengths(self) -> np.ndarray:
        """Return the metrical strength of each step of a bar: 4 at the downbeat, 3 at accents, then 2 to 0."""
        levels = np.tile([2, 0, 1, 0], self.beats)
        levels[np.cumsum((0, *self.groups[:-1])) * STEPS] = 3
        levels[0] = 4
        return levels

    def bring_bars(self, bars: Sequence[Sequence[tuple[int, ...]]]) -> list[list[tuple[int, ...]]]:
        """
        Bring the bars of a pattern in four beats into this meter. An event is a tuple whose first values are its step
        in the bar and its length in steps; events of beats that are left out are dropped.
        """
        return [self._bring(events, beats) for events in bars for beats in self.sources]

    def _bring(self, events: Sequence[tuple[int, ...]], sources: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the events of one bar."""
        scale = STEPS // self.width
        brought = []
        for beat, source in enumerate(sources):
            for step, length, *rest in events:
                if source <= step < source + self.width:
                    start = beat * STEPS + (step - source) * scale
                    brought.append((start, self._end(beat, step + length, sources) - start, *rest))
        return sorted(brought)

    def _end(self, beat: int, end: int, sources: tuple[int, ...]) -> int:
        """Return the step at which a note ends that begins in a beat of this meter, from its end in the bar of 4."""
        scale = STEPS // self.width
        step = beat * STEPS + min(self.width, end - sources[beat]) * scale
        for later in range(beat + 1, len(sources)):
            if not sources[later - 1] < sources[later] < end:  # a beat is repeated, or the note has ended
                return step
            step = later * STEPS + min(self.width, end - sources[later]) * scale
        return step + max(0, end - BAR) * scale

    def bring_chords(self, chords: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """
        Bring chords into this meter: pairs of the beat at which a chord begins, from the start of a phrase, and its
        name. A chord on a beat that is left out begins on the next beat, or is dropped if another one begins there.
        """
        brought: dict[int, str] = {}
        for beat, chord in chords:
            bar, step = divmod(beat * STEPS, BAR)
            for part, sources in enumerate(self.sources):
                part_end = sources[-1] + self.width if part < len(self.sources) - 1 else BAR
                if step < part_end and (part == 0 or step >= sources[0]):
                    place = next((index for index, source in enumerate(sources) if source >= step), None)
                    if place is not None:
                        brought.setdefault((bar * len(self.sources) + part) * self.beats + place, chord)
                    break
        names = sorted(brought.items())
        return [pair for index, pair in enumerate(names) if index == 0 or names[index - 1][1] != pair[1]]


def draw_meter(rng: np.random.Generator, beats: int) -> Meter:
    """Draw a way of bringing bars of four beats into a meter of some beats."""
    ways = _WAYS[beats]
    return Meter(beats, *ways[int(rng.integers(len(ways)))])
