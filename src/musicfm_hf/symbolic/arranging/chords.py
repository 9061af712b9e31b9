"""Accompaniments on the beats and chords of a score: pads, arpeggios and comping."""

from collections.abc import Callable, Sequence

import numpy as np

from ..score import PAD, Part, ScoreNote
from .bars import Bar, Chords, Tones
from .drums import shifted

# Onsets in beats, repeated over the bar; the second list is for validation and test.
_COMPING = (
    (2, (0.0, 1.0)),
    (2, (0.0, 1.0, 1.5)),
    (2, (1.0,)),
    (1, (0.5,)),
    (4, (0.0, 1.5, 2.5)),
    (4, (0.0, 1.0, 1.5, 2.5, 3.0, 3.5)),
)
_HELD_OUT_COMPING = ((4, (0.0, 1.5, 3.0)), (2, (0.0, 0.75, 1.5)), (3, (1.0, 2.0)))
# Order of the tones, from low to high, and notes per beat.
_ARPEGGIOS = (((0, 1, 2, 1), 2), ((0, 1, 2, 3), 2), ((0, 2, 1, 2), 2), ((0, 1, 2), 3), ((0, 2, 1, 3), 4))
_HELD_OUT_ARPEGGIOS = (((3, 2, 1, 0), 2), ((0, 2, 3, 2, 1, 2), 3), ((0, 1, 2, 3, 2, 1), 2))


def pad_part(
    rng: np.random.Generator, bars: Sequence[Bar], chords: Chords, intensity: Callable[[Bar], float], program: int
) -> Part:
    """Compose sustained chords. They begin on beats where the chord changes, and on downbeats or every second one."""
    center, every, notes = int(rng.integers(50, 62)), int(rng.choice([1, 2])), []
    for number, bar in enumerate(bars):
        starts = [0.0] if number % every == 0 or _begins(chords, bar.times[0]) else []
        starts += [float(beat) for beat in range(1, bar.meter) if _begins(chords, bar.times[beat])]
        for beat in starts:
            start = bar.at(beat)
            tones, end = chords.at(start)
            limit = bars[number + every - 1].times[-1] if number + every <= len(bars) else bar.times[-1]
            if tones is not None and min(end, limit) > start + 0.05:
                velocity = int(np.clip(60 + 30 * intensity(bar) * rng.uniform(0.9, 1.1), 1, 127))
                notes += [
                    ScoreNote(start, min(end, limit) - 0.01, pitch, velocity) for pitch in voicing(tones, center)
                ]
    return _ordered(PAD, program, notes)


def arpeggio_part(
    rng: np.random.Generator,
    bars: Sequence[Bar],
    chords: Chords,
    intensity: Callable[[Bar], float],
    program: int,
    held_out: bool,
) -> Part:
    """Compose broken chords: the tones one after the other, two to four in a beat."""
    options = _HELD_OUT_ARPEGGIOS if held_out else _ARPEGGIOS
    order, steps = options[int(rng.integers(len(options)))]
    center, ring, spread = int(rng.integers(52, 66)), rng.uniform(0.9, 2.5), rng.uniform(0.001, 0.004)
    notes = []
    for bar in bars:
        for step in range(bar.meter * steps):
            onset = bar.at(step / steps)
            tones, end = chords.at(onset)
            if tones is None:
                continue
            pitches = [*voicing(tones, center), voicing(tones, center)[0] + 12]
            pitch = pitches[order[step % len(order)] % len(pitches)]
            stop = min(bar.at((step + 1) / steps) - onset, end - onset) * ring + onset
            start = shifted(rng, onset, spread)
            accent = 1.12 if step % steps == 0 else 0.95
            velocity = int(np.clip((62 + 25 * intensity(bar)) * accent * rng.uniform(0.9, 1.1), 1, 127))
            notes.append(ScoreNote(start, max(min(stop, end + 0.05), start + 0.05), pitch, velocity))
    return _ordered("ARPEGGIO", program, notes)


def comping_part(
    rng: np.random.Generator,
    bars: Sequence[Bar],
    chords: Chords,
    intensity: Callable[[Bar], float],
    program: int,
    held_out: bool,
) -> Part:
    """Compose rhythmic chords, slightly strummed."""
    options = _HELD_OUT_COMPING if held_out else _COMPING
    period, pattern = options[int(rng.integers(len(options)))]
    center, share, strum = int(rng.integers(50, 62)), rng.uniform(0.35, 0.95), rng.uniform(0.0, 0.008)
    notes = []
    for bar in bars:
        onsets = sorted({first + beat for first in range(0, bar.meter, period) for beat in pattern})
        onsets = [onset for onset in onsets if onset < bar.meter]
        for onset, following in zip(onsets, [*onsets[1:], float(bar.meter)], strict=True):
            time = bar.at(onset)
            tones, end = chords.at(time)
            if tones is None:
                continue
            stop = min(time + share * (bar.at(following) - time), end)
            velocity = (60 + 32 * intensity(bar)) * (1.1 if onset == int(onset) else 0.95)
            for index, pitch in enumerate(voicing(tones, center)):
                start = shifted(rng, time, 0.002) + index * strum
                loudness = int(np.clip(velocity * rng.uniform(0.92, 1.08), 1, 127))
                notes.append(ScoreNote(start, max(stop, start + 0.05), pitch, loudness))
    return _ordered("COMPING", program, notes)


def voicing(tones: Tones, center: int) -> list[int]:
    """Return the tones of a chord within the octave above `center`, from low to high; at most four."""
    return sorted(center + (tone - center) % 12 for tone in tones.classes[:4])


def _begins(chords: Chords, time: float) -> bool:
    """Return whether a chord begins at a time."""
    return chords.at(time)[1] != chords.at(max(0.0, time - 0.1))[1]


def _ordered(name: str, program: int, notes: list[ScoreNote]) -> Part:
    """Return a part with its notes in order of time."""
    return Part(name, program, tuple(sorted(notes, key=lambda note: (note.start, note.pitch))))
