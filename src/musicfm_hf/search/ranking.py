"""Ranks songs and passages by their similarity to a query of one or several vectors."""

from typing import NamedTuple

import numpy as np

from .nearest import NearestPassages

PASSAGES_PER_RESULT = 10  # passages to look at for each song to return


class Ranked(NamedTuple):
    """Scores of results, descending, and the rows of their passages."""

    scores: np.ndarray
    rows: np.ndarray


def rank_passages(
    nearest: NearestPassages, vectors: np.ndarray, top: int, allowed: np.ndarray | None, without: np.ndarray | None
) -> Ranked:
    """
    Rank passages by their similarity to the nearest of the vectors of a query.

    Args:
        nearest ([`NearestPassages`]): Search for passages.
        vectors (`np.ndarray` of shape `(vectors, size)`): Vectors of the query, as the model computes them.
        top (`int`): Maximum number of results.
        allowed (`np.ndarray` of shape `(passages,)`, *optional*): bool mask of the passages to consider.
        without (`np.ndarray` of shape `(rows,)`, *optional*): Rows of the passages of a song to leave out.
    """
    scores, rows = (part.ravel() for part in nearest.top(vectors, top, allowed, without))
    order = np.argsort(-scores, kind="stable")
    order = order[rows[order] >= 0]
    _, first = np.unique(rows[order], return_index=True)
    order = order[np.sort(first)][:top]
    return Ranked(scores[order], rows[order])


def rank_songs(
    nearest: NearestPassages, vectors: np.ndarray, top: int, allowed: np.ndarray | None, without: np.ndarray | None
) -> Ranked:
    """
    Rank songs by the mean, over the vectors of a query, of the similarity to their nearest passage. So a song has a
    similarity of 1 to itself, and a song of which all passages resemble one passage of the query is not ahead of it.

    Candidates are the songs of the nearest passages of each vector.

    Args:
        nearest, vectors, top, allowed, without: As for [`rank_passages`].

    Returns:
        A score and a row for each song: the passage that is most similar to any of the vectors.
    """
    available = len(nearest.store) if allowed is None else int(allowed.sum())
    count = PASSAGES_PER_RESULT * top
    while True:
        _, rows = nearest.top(vectors, min(count, available), allowed, without)
        songs = np.unique(nearest.store.songs_of(rows[rows >= 0]))
        if len(songs) >= top or count >= available:
            break
        count *= 4
    rows = np.concatenate([nearest.store.rows_of(song) for song in songs.tolist()] or [np.zeros(0, np.int64)])
    rows = rows if allowed is None else rows[allowed[rows]]
    similarities = nearest.geometry.scores(nearest.store, rows, nearest.geometry.normalized(vectors))
    songs, starts = np.unique(nearest.store.songs_of(rows), return_index=True)
    if not len(songs):
        return Ranked(np.zeros(0, np.float32), rows)
    scores = np.maximum.reduceat(similarities, starts).mean(1)
    order = np.argsort(-scores, kind="stable")[:top]
    parts = np.split(np.arange(len(rows)), starts[1:])
    best = [parts[song][similarities[parts[song]].max(1).argmax()] for song in order.tolist()]
    return Ranked(scores[order], rows[best])
