"""Chords in the syntax of Harte et al., *Symbolic Representation of Musical Chords*, ISMIR 2005: `A:min7/b3`, `N`."""

from functools import lru_cache

import numpy as np


def encode_chord(text: str) -> tuple[int, np.ndarray, int]:
    """
    Return the root of a chord, negative for N and X; 1 or 0 for each of the twelve semitones from it, including its
    bass; and the semitones from the root to the bass. See `mir_eval.chord.encode`.

    Raises:
        ValueError: if the text is not a chord.
    """
    from mir_eval.chord import InvalidChordException, encode

    try:
        return encode(text)
    except InvalidChordException as error:
        raise ValueError(
            f"{text!r} is not a chord ({error}). Chords are written like C, F#:min7 or Bb:maj/3."
        ) from error


@lru_cache(maxsize=4096)
def chord_tones(text: str) -> tuple[int, ...]:
    """
    Return the pitch classes of a chord and its bass, 0 (C) to 11; none for N and X.

    Raises:
        ValueError: if the text is not a chord.
    """
    root, semitones, _ = encode_chord(text)
    return () if root < 0 else tuple(sorted((root + interval) % 12 for interval in np.flatnonzero(semitones).tolist()))
