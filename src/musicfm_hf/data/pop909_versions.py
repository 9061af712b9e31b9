"""
Further versions of songs of POP909, for retrieval: the same music on other instruments, in another key, and faster or
slower, as a cover might be. They depend only on the id of the song and the number of the version.
"""

from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np

from .pop909_rendering import Song

TRANSPOSITIONS = tuple(semitones for semitones in range(-5, 7) if semitones)

TEMPOS = (0.85, 1.18)  # slowest and fastest, relative to the file; about 1 / 1.18 and 1.18


def add_versions(songs: Sequence[Song], everything: Sequence[Song], versions: int) -> list[Song]:
    """
    Return songs and their further versions, each song followed by its own.

    Args:
        songs: Songs from [`read_songs`].
        everything: All songs of the source, whose arrangements provide the instruments of each part.
        versions (`int`): Number of versions of a song, including the first, which is the song itself.

    Raises:
        ValueError: `versions` is below 1, or above the number of instruments that a part can have.
    """
    programs = [sorted({song.programs[part] for song in everything}) for part in range(3)]
    most = min(map(len, programs))
    if not 1 <= versions <= most:
        raise ValueError(f"`versions` must be 1 to {most}, the number of instruments of a part, got {versions}.")
    return [draw_version(song, number, programs) for song in songs for number in range(1, versions + 1)]


def draw_version(song: Song, number: int, programs: Sequence[Sequence[int]]) -> Song:
    """
    Return version `number` of a song, 1 being the song itself. Each part plays an instrument that no earlier version
    of the song has in that part; the transposition is one of -5 to 6 semitones without 0, and the tempo 0.85 to 1.18
    times that of the file, evenly distributed on a logarithmic scale.

    Args:
        programs: General MIDI programs that each of the three parts can have.
    """
    if number == 1:
        return song
    instruments = np.random.default_rng([crc32(song.id.encode()), 0])
    chosen = []
    for part, own in enumerate(song.programs):
        others = [program for program in programs[part] if program != own]
        chosen.append(int(instruments.permutation(others)[number - 2]))
    generator = np.random.default_rng([crc32(song.id.encode()), number])
    low, high = np.log(TEMPOS)
    return replace(
        song,
        version=number,
        programs=(chosen[0], chosen[1], chosen[2]),
        transposition=int(generator.choice(TRANSPOSITIONS)),
        tempo=round(float(np.exp(generator.uniform(low, high))), 4),
    )
