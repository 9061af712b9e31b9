"""Songs of a catalog that are the same recording, under other names or in other encodings."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from .geometry import Geometry
from .shards import PassageStore

THRESHOLD = 0.95  # see the table in docs/search.md
# By which the similarity of the means of two songs may be lower than that of their passages, as when one of them has
# an introduction that the other lacks.
MARGIN = 0.1
BLOCK_SONGS = 1024


class DuplicateGroup(NamedTuple):
    """
    Songs that are the same recording.

    Attributes:
        songs (`list[str]`): Names of the songs, in alphabetical order.
        paths (`list[str]`): Locations of their audio.
        score (`float`): Lowest similarity by which two of the songs were joined.
    """

    songs: list[str]
    paths: list[str]
    score: float


def find_duplicates(store: PassageStore, geometry: Geometry, threshold: float = THRESHOLD) -> list[DuplicateGroup]:
    """
    Group songs that are the same recording.

    The similarity of two songs is the mean, over the passages of the shorter one, of the cosine similarity to the most
    similar passage of the other. Two songs belong together if it is at least `threshold`, or if both belong to a
    third. Only songs with similar means are compared; means are compared block by block, so time grows with the square
    of the number of songs, and memory holds one vector for each song.

    Args:
        store ([`PassageStore`]), geometry ([`Geometry`]): The passages.
        threshold (`float`): Similarity from which two songs are the same recording, at most 1.

    Returns:
        Groups of at least two songs, with the most similar ones first.

    Raises:
        ValueError: the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"The threshold of duplicates must be more than 0 and at most 1, got {threshold}.")
    means = song_means(store, geometry)
    parents = list(range(store.num_songs))
    scores: dict[int, float] = {}
    for first, second in _similar_pairs(means, threshold - MARGIN):
        score = song_similarity(store, geometry, first, second)
        if score >= threshold:
            roots = sorted({_root(parents, first), _root(parents, second)})
            parents[roots[-1]] = roots[0]
            scores[roots[0]] = min([score, *(scores[root] for root in roots if root in scores)])
    groups: dict[int, list[int]] = defaultdict(list)
    for song in range(store.num_songs):
        groups[_root(parents, song)].append(song)
    duplicates = [_group(store, songs, scores[root]) for root, songs in groups.items() if len(songs) > 1]
    return sorted(duplicates, key=lambda group: (-group.score, group.songs))


def song_means(store: PassageStore, geometry: Geometry) -> torch.Tensor:
    """Return the mean vector of each song, standardized and of norm 1: float32 `(songs, size)`."""
    sums = torch.zeros(store.num_songs, store.size)
    for first, block in geometry.centered_blocks(store, release=True):
        songs = torch.from_numpy(store.songs_of(np.arange(first, first + len(block))))
        sums.index_add_(0, songs, block)
    return torch.nn.functional.normalize(sums / geometry.deviation, dim=1)


def song_similarity(store: PassageStore, geometry: Geometry, first: int, second: int) -> float:
    """Return the similarity of two songs; see [`find_duplicates`]."""
    ours, theirs = (
        geometry.normalized(store.vectors(rows))
        for rows in sorted((store.rows_of(song) for song in (first, second)), key=len)
    )
    return float((ours @ theirs.T).amax(1).mean().clamp(max=1))


def _similar_pairs(means: torch.Tensor, least: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs of songs whose means are similar."""
    for first in range(0, len(means), BLOCK_SONGS):
        rows = means[first : first + BLOCK_SONGS]
        for other in range(first, len(means), BLOCK_SONGS):
            similar = (rows @ means[other : other + BLOCK_SONGS].T >= least).nonzero()
            for song, other_song in (similar + torch.tensor([first, other])).tolist():
                if song < other_song:
                    yield song, other_song


def _root(parents: list[int], song: int) -> int:
    """Return the first song of the group of a song."""
    while parents[song] != song:
        parents[song] = parents[parents[song]]
        song = parents[song]
    return song


def _group(store: PassageStore, songs: list[int], score: float) -> DuplicateGroup:
    """Return a group with the names and paths of its songs."""
    records = sorted((store.record(song) for song in songs), key=lambda record: record.name)
    return DuplicateGroup([record.name for record in records], [record.place for record in records], score)
