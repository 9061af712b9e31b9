"""Scores of small songs in four beats, to learn composing from."""

import numpy as np

from musicfm_hf.symbolic.composing.material import chord_label
from musicfm_hf.symbolic.score import Part, Score, ScoreNote
from musicfm_hf.tasks.annotations import PITCH_NAMES, Beats, Segment

FORM = [
    ("i", "intro", 2),
    ("A", "verse", 4),
    ("B", "chorus", 4),
    ("A", "verse", 4),
    ("B", "chorus", 4),
    ("o", "outro", 2),
]
# Letter → beats and chords, relative to the tonic.
CHORDS = {
    "maj": {
        "i": [(0, "0:maj"), (4, "5:maj")],
        "A": [(0, "0:maj"), (4, "7:maj/3"), (8, "9:min"), (12, "7:maj")],
        "B": [(0, "5:maj"), (2, "7:7"), (4, "9:min7"), (8, "5:maj"), (10, "7:maj"), (12, "0:maj")],
        "o": [(0, "5:maj"), (4, "0:maj")],
    },
    "min": {
        "i": [(0, "0:min"), (4, "8:maj")],
        "A": [(0, "0:min"), (4, "8:maj"), (8, "3:maj"), (12, "10:maj")],
        "B": [(0, "8:maj"), (2, "10:sus4"), (4, "5:min"), (8, "8:maj"), (10, "10:maj"), (12, "0:min")],
        "o": [(0, "8:maj"), (4, "0:min")],
    },
}
# Rhythm of the melody by letter: beats from the start of a bar; the last bar has one note on beat 1.
RHYTHMS = {"A": (0, 1, 2, 2.5, 3), "B": (0, 0.5, 1.5, 2, 3)}
BEAT = 0.5  # seconds


def learned_song(
    name: str = "a", tonic: int = 0, mode: str = "maj", beats_per_bar: int = 4
) -> tuple[Score, list[Segment]]:
    """
    Return a song at 120 beats a minute and the letters of its sections. The melody moves through the scale, with a
    pickup of two eighth notes before each verse; the piano has a bass and chords; the bridge plays without a melody.
    """
    scale = (0, 2, 4, 5, 7, 9, 11) if mode == "maj" else (0, 2, 3, 5, 7, 8, 10)
    melody, bridge, piano, chords, sections, letters = [], [], [], [], [], []
    start = 0
    for letter, function, bars in FORM:
        end = start + bars * beats_per_bar
        sections.append(Segment(start * BEAT, end * BEAT, function))
        letters.append(Segment(start * BEAT, end * BEAT, letter))
        own = [(start + beat * beats_per_bar // 4, chord) for beat, chord in CHORDS[mode][letter]]
        for (beat, chord), stop in zip(own, [beat for beat, _ in own[1:]] + [end], strict=True):
            chords.append(Segment(beat * BEAT, stop * BEAT, chord_label(chord, tonic)))
            root = tonic + int(chord.split(":")[0])
            piano += [
                note(beat, stop, 36 + root % 12, 70),
                *(note(beat + 0.5, stop, 55 + tone, 60) for tone in (root % 12, (root + 7) % 12)),
            ]
        for bar in range(bars):
            first = start + bar * beats_per_bar
            if letter not in RHYTHMS:
                bridge.append(note(first, first + 2, 72 + tonic, 80))
                continue
            rhythm = RHYTHMS[letter] if bar < bars - 1 else (0,)
            for index, beat in enumerate(beat for beat in rhythm if beat < beats_per_bar):
                degree = scale[(index + 2 * bar) % 7]
                melody.append(
                    note(first + beat, first + beat + (0.5 if len(rhythm) > 1 else 2), 60 + tonic + degree, 90)
                )
        if letter == "A":
            melody += [note(start - 1 + half, start - 0.5 + half, 60 + tonic, 85) for half in (0, 0.5)]
        start = end
    beats = Beats(np.arange(start) * BEAT, np.arange(start) % beats_per_bar + 1)
    parts = [
        Part(part, 0, tuple(sorted(notes, key=lambda note: note.start)))
        for part, notes in (("MELODY", melody), ("BRIDGE", bridge), ("PIANO", piano))
    ]
    keys = [Segment(0.0, start * BEAT, f"{PITCH_NAMES[tonic]}:{mode}")]
    return Score(name, name, tuple(parts), start * BEAT, beats, chords, sections, keys), letters


def note(start: float, end: float, pitch: int, velocity: int) -> ScoreNote:
    """Return a note with its times in beats."""
    return ScoreNote(start * BEAT, end * BEAT, pitch, velocity)


def learned_songs() -> list[tuple[Score, list[Segment]]]:
    """Return songs in several keys."""
    keys = [(mode, tonic) for mode in ("maj", "min") for tonic in (0, 3, 7, 10)]
    return [learned_song(f"{tonic} {mode}", tonic, mode) for mode, tonic in keys]
