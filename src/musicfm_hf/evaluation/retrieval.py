"""Scores of searches, with bootstrap intervals over songs, and differences between systems."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..tasks.retrieval import SCORES, Search, score
from .bootstrap import Difference, bootstrap_interval, draw_means

SearchScores = Mapping[str, Mapping[str, float]]  # song → its scores


def similarities(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return the cosine similarities of vectors, float64 `(queries, items)`."""
    return _normalized(queries) @ _normalized(gallery).T


def score_vectors(search: Search, queries: np.ndarray, gallery: np.ndarray) -> dict[str, dict[str, float]]:
    """
    Score a search by cosine similarity.

    Args:
        queries, gallery (`np.ndarray` of shape `(excerpts, size)`): Vectors of the excerpts of the search, in order.

    Returns:
        Song → `{score: mean over its queries}`; see [`musicfm_hf.tasks.retrieval.score`].
    """
    return score(search.references, similarities(queries, gallery), search.groups)["groups"]


def average_searches(scores: SearchScores) -> dict[str, float]:
    """Average each score over songs."""
    return {name: float(np.mean([song[name] for song in scores.values()])) for name in SCORES}


def searches_with_intervals(scores: SearchScores) -> dict[str, dict[str, Any]]:
    """Return, for each score, its `mean`, the number of `songs` and a 95 % bootstrap `interval` over songs."""
    return {
        name: {
            "mean": mean,
            "songs": len(scores),
            "interval": bootstrap_interval([song[name] for song in scores.values()]),
        }
        for name, mean in average_searches(scores).items()
    }


def search_difference(first: Sequence[SearchScores], second: Sequence[SearchScores], metric: str) -> Difference:
    """
    Compare two systems on the same songs.

    Args:
        first, second: Runs of each system, for example with several seeds, which are averaged.
        metric (`str`): Score to compare.

    Returns:
        The second system minus the first, with the paired bootstrap over songs.
    """
    values = [[np.mean([run[song][metric] for run in runs]) for song in first[0]] for runs in (first, second)]
    differences = np.subtract(values[1], values[0])
    return Difference(float(differences.mean()), draw_means(differences), len(differences))


def whitening(vectors: np.ndarray, share: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the mean of vectors, and the matrix that gives them the covariance 1: `(vectors - mean) @ matrix`.

    Args:
        vectors (`np.ndarray` of shape `(vectors, size)`): Vectors of training songs.
        share (`float`): Share of the mean variance that is added to the variance in each direction, so that directions
            with little variance are not amplified; infinity leaves the covariance as it is, and only centers.
    """
    mean = vectors.mean(0, dtype=np.float64)
    if np.isinf(share):
        return mean, np.eye(len(mean))
    variances, directions = np.linalg.eigh(np.cov(vectors.T))
    variances = np.maximum(variances, 0) + max(share, 1e-9) * variances.mean()
    return mean, directions / np.sqrt(variances)


def _normalized(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1, float64; rows of zeros stay as they are."""
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
