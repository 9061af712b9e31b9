"""Composed songs as versions to render: their statistics are fitted once, in a file that is named by its origin."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path

from ..symbolic.composing.composition import compose_score
from ..symbolic.composing.plan import ComposerSettings
from ..symbolic.composing.statistics import CompositionStatistics, fit_statistics
from ..symbolic.score import Score
from ..tasks.annotations import Segment
from .identity import digest
from .rendering import Version

COMPOSER = 1  # grows when the same seed makes other songs
_SONGS_PER_SEED = 1_000_000
_BASS = 0.5  # share of songs with a bass of their own; others get one from the arranger

Songs = Iterable[tuple[Score, Sequence[Segment]]]


def composed_versions(
    songs: Callable[[], Songs], made_from: str, count: int, folder: str | os.PathLike, seed: int = 0
) -> list[Version]:
    """
    Return training songs that [`compose_score`] composes when they are rendered.

    Args:
        songs (`Callable`): Returns the songs to learn from, as for [`fit_statistics`]. It is called unless their
            statistics are in the folder.
        made_from (`str`): A text that changes with these songs.
        count (`int`): Number of songs.
        folder: Folder for the statistics, `composition_DIGEST.json`; created if needed.
        seed (`int`): Seed of all songs.

    Raises:
        ValueError: `count` is negative or above a million, or see [`fit_statistics`].
    """
    if not 0 <= count <= _SONGS_PER_SEED:
        raise ValueError(f"The number of composed songs must be from 0 to {_SONGS_PER_SEED}, got {count}.")
    if not count:
        return []
    origin = digest(f"{COMPOSER} {made_from}".encode())
    path = Path(folder).absolute() / f"composition_{origin[:12]}.json"
    if not path.is_file():
        fit_statistics(songs()).save(path)
    return [
        Version(name, 1, partial(load_composed, path, seed * _SONGS_PER_SEED + number, name), "train", origin)
        for number in range(count)
        for name in [f"composed_{number}"]
    ]


def load_composed(path: str | os.PathLike, seed: int, name: str) -> Score:
    """Compose a song from the statistics in a file."""
    return compose_score(_load(Path(path)), seed, ComposerSettings(bass=_BASS), name)


@lru_cache(maxsize=1)
def _load(path: Path) -> CompositionStatistics:
    """Load statistics once in each process."""
    return CompositionStatistics.load(path)
