"""Bass lines on the beats and chords of a score."""

from collections.abc import Callable, Sequence

import numpy as np

from ..score import BASS, Part, ScoreNote
from .bars import Bar, Chords, Tones
from .drums import shifted

# Style → onset in beats, length in beats, and tone for each note of two beats: r root, f fifth, o octave of the root,
# b bass of the chord. The first tone of a chord is always its bass.
TRAINING: dict[str, tuple[tuple[float, float, str], ...]] = {
    "whole": (),  # a note for each chord
    "beats": ((0, 1, "b"), (1, 1, "r")),
    "eighths": ((0, 0.5, "b"), (0.5, 0.5, "r"), (1, 0.5, "r"), (1.5, 0.5, "r")),
    "fifths": ((0, 1, "b"), (1, 1, "f")),
    "halves": ((0, 2, "b"),),
    "pop": ((0, 1.5, "b"), (1.5, 0.5, "r")),
    "dotted": ((0, 0.75, "b"), (0.75, 0.75, "r"), (1.5, 0.5, "f")),
}
HELD_OUT: dict[str, tuple[tuple[float, float, str], ...]] = {
    "octaves": ((0, 0.5, "b"), (0.5, 0.5, "o"), (1, 0.5, "r"), (1.5, 0.5, "o")),
    "walking": ((0, 1, "b"), (1, 1, "w")),
    "offbeat": ((0, 0.5, "b"), (1.5, 0.5, "o")),
}

_LOWEST = 28  # E1


def bass_part(
    rng: np.random.Generator,
    bars: Sequence[Bar],
    chords: Chords,
    intensity: Callable[[Bar], float],
    program: int,
    held_out: bool,
) -> Part:
    """
    Compose a bass line. Every chord begins with its bass, and a note ends where its chord does. Where the intensity is
    low, only chords and bars begin with a note.

    Args:
        bars: Bars from [`find_bars`].
        chords ([`Chords`]): Chords of the score.
        intensity (`Callable`): Intensity of a bar from 0 to 1.
        program (`int`): General MIDI program.
        held_out (`bool`): Draw a style for validation and test.
    """
    styles = HELD_OUT if held_out else TRAINING
    style = styles[list(styles)[int(rng.integers(len(styles)))]]
    center, spread = int(rng.integers(_LOWEST, _LOWEST + 8)), rng.uniform(0.001, 0.004)
    notes: list[ScoreNote] = []
    for bar in bars:
        level = intensity(bar)
        for onset, length, tone in _onsets(bar, chords, style, is_sparse=level < 0.35):
            tones, end = chords.at(onset)
            if tones is None:
                continue
            pitch = _pitch(rng, tones, tone, center)
            stop = min(onset + 0.95 * length, end)
            start = shifted(rng, onset, spread)
            velocity = int(np.clip(82 * (0.8 + 0.3 * level) * rng.uniform(0.9, 1.1), 1, 127))
            if stop > start + 0.03:
                notes.append(ScoreNote(start, stop, pitch, velocity))
    return Part(BASS, program, tuple(sorted(notes, key=lambda note: note.start)))


def _onsets(
    bar: Bar, chords: Chords, style: Sequence[tuple[float, float, str]], is_sparse: bool
) -> list[tuple[float, float, str]]:
    """Return the notes of a bar: time and length in seconds, and tone. Chords that begin between notes get a note."""
    beats = {0.0: (float(bar.meter), "b")}
    for first in range(0, bar.meter, 2) if not is_sparse else ():
        for onset, length, tone in style:
            if first + onset < bar.meter:
                beats[first + onset] = (length, tone)
    changes = [first for first in range(1, bar.meter) if _changes(chords, bar.times[first])]
    for beat in changes:
        beats[float(beat)] = (beats.get(beat, (1.0, "b"))[0], "b")
    onsets = sorted(beats)
    rows = []
    for onset, following in zip(onsets, [*onsets[1:], float(bar.meter)], strict=True):
        length, tone = beats[onset]
        if not style or is_sparse:
            length = following - onset
        start, stop = bar.at(onset), bar.at(min(onset + length, following))
        if _changes(chords, start):
            tone = "b"
        rows.append((start, stop - start, tone))
    return rows


def _changes(chords: Chords, time: float) -> bool:
    """Return whether another chord begins at a time."""
    return chords.at(time)[1] != chords.at(max(0.0, time - 0.1))[1]


def _pitch(rng: np.random.Generator, tones: Tones, tone: str, center: int) -> int:
    """Return the pitch of a tone in the octave above `center`."""
    classes = {"b": tones.bass, "r": tones.root, "o": tones.root, "f": tones.fifth}
    chosen = classes[tone] if tone in classes else int(rng.choice(tones.classes))
    pitch = center + (chosen - center) % 12
    return pitch + 12 if tone == "o" else pitch
