"""Scores of known notes and labels."""

from itertools import pairwise

import numpy as np

from musicfm_hf.symbolic.score import Part, Score, ScoreControl, ScoreNote
from musicfm_hf.tasks.annotations import Beats, Segment

LABELS = ("C:maj", "A:min", "F:maj/3", "G:7")
SECTIONS = ("intro", "verse", "chorus", "outro")


def make_score(meter: int = 4, bars: int = 16, beat: float = 0.5, start: float = 0.25) -> Score:
    """Return a score in one meter: a chord in each bar, four sections of equal length, and a pickup of a beat."""
    times = start + beat * np.arange(-1, bars * meter)
    times = times[times >= 0]
    first = start + beat * meter * np.arange(bars + 1)
    corners = first[:: bars // 4]
    melody = [ScoreNote(time, time + 0.9 * beat, 72, 90) for time in times]
    piano = [ScoreNote(time, time + meter * beat, pitch, 80) for time in first[:-1] for pitch in (40, 60, 64)]
    positions = (np.arange(len(times)) - (len(times) - bars * meter)) % meter + 1
    return Score(
        "song",
        "song",
        (Part("MELODY", 0, tuple(melody)), Part("PIANO", 0, tuple(piano), controls=(ScoreControl(0.0, 64, 127),))),
        float(first[-1]),
        Beats(times, positions),
        [Segment(float(a), float(b), LABELS[k % 4]) for k, (a, b) in enumerate(pairwise(first))],
        [Segment(float(a), float(b), name) for (a, b), name in zip(pairwise(corners), SECTIONS, strict=True)],
        [Segment(0.0, float(first[-1]), "C:maj")],
        ("major",),
    )
