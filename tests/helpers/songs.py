"""Labeled synthetic songs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.data.synthetic import compose, synthesize
from musicfm_hf.tasks.annotations import Beats, Segment


def write_labeled_song(folder: Path, number: int, split: str) -> LabeledSong:
    """Write the first 10 s (of song 1, 3 s) of a synthetic song at 24 kHz, and return it with labels for all tasks."""
    seconds = 3.0 if number == 1 else 10.0
    whole = compose(10 + number)
    notes = [note for note in whole.notes if note[0] < seconds]
    audio = synthesize(replace(whole, notes=notes), 24000)[: round(seconds * 24000)].mean(1)
    soundfile.write(folder / f"{number}.wav", audio, 24000)
    beats = whole.beats[whole.beats[:, 0] < seconds]

    def crop(segments: list) -> list[Segment]:
        return [Segment(start, min(end, seconds), label) for start, end, label in segments if start < seconds]

    return LabeledSong(
        f"song {number}",
        str(folder / f"{number}.wav"),
        f"song {number}",
        split,
        seconds,
        beats=Beats(beats[:, 0], beats[:, 1].astype(np.int64)),
        chords=crop(whole.chords),
        sections=crop(whole.sections),
        keys=[Segment(0.0, seconds, whole.key)],
        tags=["major" if "maj" in whole.key else "minor"] + ["even"] * (number % 2 == 0),
    )
