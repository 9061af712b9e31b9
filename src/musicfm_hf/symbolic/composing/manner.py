"""
The manner of a song: its tempo, and, for each function of a section, the rhythms of the melody and of the counter
melody, and the accompaniment.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .material import BAR, GridNote, Phrase

PATTERN_BARS = 4  # bars of an accompaniment
_MOST_ACCOMPANIMENTS = 2  # of a function
_BASS_TOP = 55  # MIDI pitch above which the lowest note is not the bass
Rhythm = list[int]  # step and length of each note of a bar, flat


def learn_manner(phrases: Sequence[Phrase], beats: np.ndarray) -> dict[str, Any]:
    """
    Return the manner of a song, as JSON stores it.

    Args:
        phrases: Phrases of the song.
        beats (`np.ndarray` of shape `(beats,)`): Times of its beats, in seconds.

    Returns:
        `tempo`, in beats per minute; `center`, the median pitch of the melody, or `None`; `bridge_center`, the same of
        the counter melody, relative to the melody; `height`, by function, the mean pitch of the melody relative to
        that of the song; `mode`, that of most phrases, and `chords`, those of these phrases, relative to the tonic;
        `melody` and `bridge`, by function: `inner` and `last`, the rhythms
        of the bars before the last of a phrase and of the last, and `pickup`. `piano`, by function: accompaniments,
        each with the bars of [`accompaniment_bars`].
    """
    every = [note.pitch for phrase in phrases for note in phrase.notes.get("MELODY", ())]
    bridge = [note.pitch for phrase in phrases for note in phrase.notes.get("BRIDGE", ())]
    modes = [phrase.mode for phrase in phrases]
    mode = max(sorted(set(modes)), key=modes.count)
    manner: dict[str, Any] = {
        "tempo": round(60 / float(np.median(np.diff(beats))), 1),
        "center": float(np.median(every)) if every else None,
        "bridge_center": float(np.median(bridge) - np.median(every)) if every and bridge else 0.0,
        "height": {},
        "mode": mode,
        "chords": sorted({chord for phrase in phrases if phrase.mode == mode for _, chord in phrase.chords if chord}),
        "melody": {},
        "bridge": {},
        "piano": {},
    }
    for function in dict.fromkeys(phrase.function for phrase in phrases):
        own = [phrase for phrase in phrases if phrase.function == function]
        melody = [note.pitch for phrase in own for note in phrase.notes.get("MELODY", ())]
        if melody:
            manner["height"][function] = round(float(np.mean(melody) - np.mean(every)), 1)
        for name in ("MELODY", "BRIDGE"):
            rhythms = _rhythms(own, name)
            if rhythms["inner"]:
                manner[name.lower()][function] = rhythms
        pianos = {phrase.letter: accompaniment_bars(phrase) for phrase in reversed(own)}
        if usable := [bars for bars in reversed(pianos.values()) if all(bars)]:
            manner["piano"][function] = usable[:_MOST_ACCOMPANIMENTS]
    return manner


def bar_rhythm(notes: Sequence[GridNote], bar: int) -> Rhythm:
    """Return the rhythm of a bar of a part; of notes that begin together, the highest counts."""
    own = [note for note in notes if bar * BAR <= note.step < (bar + 1) * BAR]
    top = {note.step: note for note in sorted(own, key=lambda note: note.pitch)}
    return [value for step in sorted(top) for value in (step - bar * BAR, min(top[step].length, BAR))]


def _rhythms(phrases: Sequence[Phrase], part: str) -> dict[str, list[Rhythm]]:
    """Return the rhythms of a part; empty if it plays in less than a quarter of the bars."""
    result: dict[str, list[Rhythm]] = {"inner": [], "last": [], "pickup": []}
    for phrase in phrases:
        notes = phrase.notes.get(part, [])
        rhythms = [bar_rhythm(notes, bar) for bar in range(phrase.bars)]
        result["inner"] += rhythms[:-1] or rhythms
        result["last"] += rhythms[-1:]
        pickup = {note.step: note.length for note in notes if note.step < 0}  # of notes that begin together, one
        result["pickup"].append([value for pair in sorted(pickup.items()) for value in pair])
    bars = result["inner"] + result["last"]
    if sum(map(bool, bars)) < 0.25 * len(bars):
        return {"inner": [], "last": [], "pickup": []}
    return {name: _distinct(rhythms) for name, rhythms in result.items()}


def _distinct(rhythms: Sequence[Rhythm], most: int = 12) -> list[Rhythm]:
    """Return at most twelve rhythms, with repetitions, evenly from the song."""
    step = max(1, -(-len(rhythms) // most))
    return list(rhythms[::step])


def accompaniment_bars(phrase: Phrase) -> list[list[int]]:
    """
    Return the first bars of an accompaniment, up to four. A bar is a flat list of five numbers for each note: step,
    length, pitch, velocity, and 1 for a bass note, the lowest one at its step and below G3.
    """
    notes = phrase.notes.get("PIANO", [])
    bars: list[list[int]] = []
    for bar in range(min(PATTERN_BARS, phrase.bars)):
        own = [note for note in notes if bar * BAR <= note.step < (bar + 1) * BAR]
        lowest: dict[int, int] = {}
        for note in own:
            lowest[note.step] = min(note.pitch, lowest.get(note.step, 127))
        flat: list[int] = []
        for step, length, pitch, velocity in sorted(set(own)):
            is_bass = pitch == lowest[step] and pitch < _BASS_TOP
            flat += [step - bar * BAR, min(length, BAR), pitch, velocity, int(is_bass)]
        bars.append(flat)
    return bars
