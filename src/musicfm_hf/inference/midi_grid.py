"""
The grid of bars and beats of a MIDI file that follows the beats of a recording: a tempo for each beat, and time
signatures, so that a sequencer shows bar lines where the recording has them.

Every beat is a quarter note. The time before the first beat becomes whole beats of about the first tempo, or, if it
is shorter than half a beat, one short note value. Where beats are missing (a position is skipped, or nothing was found
for longer than a bar), the grid has them. Bars that do not begin with the audio or are incomplete get a time signature
of their own.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from ..tasks.annotations import Beats

TICKS_PER_BEAT = 960
DEFAULT_TEMPO = 500_000  # microseconds per beat of music without beats, the default of MIDI
_BAR = 4  # beats, if positions are unknown
_SHORT_NOTES = (8, 16, 32, 64)  # fractions of a whole note for the time before an early first beat
_SHORTEST_LEAD = 5e-4  # seconds before the first beat that are ignored


@dataclass(frozen=True)
class MidiGrid:
    """
    A tempo map and time signatures.

    Attributes:
        tempos (`list[tuple[int, int]]`): Ticks and microseconds per quarter note, in order; the first one is at 0.
        signatures (`list[tuple[int, int, int]]`): Ticks, beats in a bar, and note value of a beat; empty if no
            downbeat is known.
        ticks_per_beat (`int`): Ticks of a quarter note.
    """

    tempos: list[tuple[int, int]]
    signatures: list[tuple[int, int, int]]
    ticks_per_beat: int = TICKS_PER_BEAT

    def ticks(self, seconds: float) -> int:
        """Return the tick that is nearest to a time."""
        index = max(int(np.searchsorted(self._starts, seconds, side="right")) - 1, 0)
        tick, tempo = self.tempos[index]
        return tick + round((seconds - self._starts[index]) * 1e6 / tempo * self.ticks_per_beat)

    def seconds(self, ticks: int) -> float:
        """Return the time of a tick."""
        index = bisect(self.tempos, ticks, key=lambda entry: entry[0]) - 1
        tick, tempo = self.tempos[index]
        return float(self._starts[index] + (ticks - tick) * tempo / self.ticks_per_beat / 1e6)

    @cached_property
    def _starts(self) -> np.ndarray:
        """Return the seconds at which each tempo starts."""
        lengths = [(after - tick) * tempo for (tick, tempo), (after, _) in pairwise(self.tempos)]
        return np.cumsum([0, *lengths]) / self.ticks_per_beat / 1e6


def grid_of_beats(beats: Beats | None) -> MidiGrid:
    """
    Compute the grid of the beats of a song. With fewer than two beats, it has a constant tempo of 120 beats per minute
    and no bars.
    """
    if beats is None or len(beats.times) < 2:
        return MidiGrid([(0, DEFAULT_TEMPO)], [])
    numbers, downbeats = _count_beats(beats)
    first_beat = (beats.times[1] - beats.times[0]) / (numbers[1] - numbers[0])
    lead_beats, lead_note = _lead(float(beats.times[0]), float(first_beat))
    offset = lead_beats * TICKS_PER_BEAT + (TICKS_PER_BEAT * 4 // lead_note if lead_note else 0)
    ticks = numbers * TICKS_PER_BEAT + offset
    times = beats.times
    if offset:
        ticks, times = np.concatenate([[0], ticks]), np.concatenate([[0.0], times])
    else:
        times = np.concatenate([[0.0], times[1:]])
    signatures = _signatures(downbeats, int(numbers[-1]) + 1, lead_beats, lead_note)
    return MidiGrid(_tempos(ticks.astype(int).tolist(), times.tolist()), signatures)


def _count_beats(beats: Beats) -> tuple[np.ndarray, list[int]]:
    """
    Return the number of each beat, counted from 0 with those that are missing, int64 `(beats,)`, and the numbers of
    the downbeats, which may be missing ones.
    """
    positions = beats.positions.tolist()
    usual_seconds = float(np.median(np.diff(beats.times)))
    bar = _usual_bar(positions)
    numbers, downbeats = [0], [0] if positions[0] == 1 else []
    for (before, after), seconds in zip(pairwise(positions), np.diff(beats.times).tolist(), strict=True):
        length = max(bar, before, after)
        is_known = before > 0 and after > 0
        skips_downbeat = is_known and 1 < after <= before
        step = (after - before) % length if is_known and after > 1 else 1
        step = step or length
        usual_beats = seconds / usual_seconds
        if abs(usual_beats - 1) < abs(usual_beats - step):  # the positions are wrong, and no beat is missing
            step, skips_downbeat = 1, False
        extra = max(0, round((usual_beats - step) / length))  # bars without beats
        if is_known:
            first = numbers[-1] + (1 if after == 1 else length - before + 1)
            downbeats += [first + number * length for number in range(extra + skips_downbeat)]
        numbers.append(numbers[-1] + step + extra * length)
        if after == 1:
            downbeats.append(numbers[-1])
    return np.array(numbers), downbeats


def _usual_bar(positions: Sequence[int]) -> int:
    """Return the most frequent number of beats between two downbeats, or 4 if no bar is complete."""
    downbeats = [index for index, position in enumerate(positions) if position == 1]
    lengths = [after - before for before, after in pairwise(downbeats)]
    return max(sorted(set(lengths)), key=lengths.count) if lengths else _BAR


def _lead(seconds: float, beat_seconds: float) -> tuple[int, int]:
    """Return the whole beats before the first beat, or 0 and the note value that fits the time; 0 and 0 for none."""
    if seconds < _SHORTEST_LEAD:
        return 0, 0
    if number := round(seconds / beat_seconds):
        return number, 0
    return 0, min(_SHORT_NOTES, key=lambda note: abs(np.log(seconds * note / 4 / beat_seconds)))


def _signatures(downbeats: list[int], count: int, lead_beats: int, lead_note: int) -> list[tuple[int, int, int]]:
    """
    Return the time signatures.

    Args:
        downbeats: Numbers of the downbeats.
        count: Number of beats from the first beat to the last.
        lead_beats, lead_note: Time before the first beat, as [`_lead`] returns it.
    """
    if not downbeats:
        return []
    lengths = [after - before for before, after in pairwise(downbeats)]
    last = count - downbeats[-1]
    lengths.append(max(last, lengths[-1]) if lengths else max(last, _BAR))
    bars: list[tuple[int, int]] = [(1, lead_note)] if lead_note else []
    whole, rest = divmod(lead_beats + downbeats[0], lengths[0])
    bars += [(rest, 4)] * (rest > 0) + [(lengths[0], 4)] * whole + [(length, 4) for length in lengths]
    signatures: list[tuple[int, int, int]] = []
    tick = 0
    for number, note in bars:
        if not signatures or signatures[-1][1:] != (number, note):
            signatures.append((tick, number, note))
        tick += number * TICKS_PER_BEAT * 4 // note
    return signatures


def _tempos(ticks: list[int], times: list[float]) -> list[tuple[int, int]]:
    """
    Return tempos with which each of `ticks` is at the time in seconds. MIDI rounds tempos to microseconds; each one
    makes up for the rounding before it, so that errors do not add up.
    """
    tempos: list[tuple[int, int]] = []
    reached = times[0] * 1e6
    for (tick, after), time in zip(pairwise(ticks), times[1:], strict=True):
        beats = (after - tick) / TICKS_PER_BEAT
        tempo = max(1, round((time * 1e6 - reached) / beats))
        reached += tempo * beats
        if not tempos or tempos[-1][1] != tempo:
            tempos.append((tick, tempo))
    return tempos
