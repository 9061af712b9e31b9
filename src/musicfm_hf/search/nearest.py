"""The passages of an index that are nearest to vectors: compared with all of them, or with candidates of FAISS."""

import numpy as np
import torch

from .faiss_index import FaissIndex
from .geometry import Geometry
from .shards import PassageStore

PROBES = 32  # inverted lists that a query looks into
RERANKED = 400  # candidates of FAISS whose similarities are computed from the vectors, for each query
# Passages after a filter, and their share of all passages, up to which they are read one by one.
FEW_ROWS, FEW_SHARE = 50_000, 0.05


class NearestPassages:
    """
    Finds passages by cosine similarity.

    Args:
        store ([`PassageStore`]): The passages.
        geometry ([`Geometry`]): Mean and deviation of their vectors, and norms.
        faiss ([`FaissIndex`], *optional*): Approximate index. Without it, vectors are compared with every passage.

    Attributes:
        probes (`int`): Inverted lists of the approximate index that a query looks into. More of them find more, and
            take longer.
        reranked (`int`): Candidates of the approximate index whose similarities are computed from the vectors.
    """

    def __init__(self, store: PassageStore, geometry: Geometry, faiss: FaissIndex | None = None):
        self.store, self.geometry, self.faiss = store, geometry, faiss
        self.probes, self.reranked = PROBES, RERANKED

    def top(
        self,
        vectors: np.ndarray,
        count: int,
        allowed: np.ndarray | None = None,
        without: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Find the passages that are most similar to vectors.

        Args:
            vectors (`np.ndarray` of shape `(queries, size)`): Vectors as the model computes them, not normalized.
            count (`int`): Number of passages for each of them.
            allowed (`np.ndarray` of shape `(passages,)`, *optional*): bool mask of the passages to consider.
            without (`np.ndarray` of shape `(rows,)`, *optional*): A few rows to leave out.

        Returns:
            Cosine similarities, descending, and rows, each `(queries, count)`. Where there are fewer passages, rows
            are -1 and similarities -inf.
        """
        if without is not None:
            scores, rows = self.top(vectors, count + len(without), allowed)
            scores[np.isin(rows, without)] = -np.inf
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
            return scores, np.where(np.isneginf(scores), -1, rows)
        queries = self.geometry.normalized(vectors)
        if allowed is not None and int(allowed.sum()) <= min(FEW_ROWS, FEW_SHARE * len(self.store)):
            return self._best_of(np.flatnonzero(allowed), queries, count)
        if self.faiss is None:
            return self._exact(queries, count, allowed)
        candidates = self.faiss.candidates(queries, max(self.reranked, 2 * count), self.probes, allowed)
        parts = [
            self._best_of(np.sort(rows[rows >= 0]), query[None], count)
            for query, rows in zip(queries, candidates, strict=True)
        ]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([rows for _, rows in parts])

    def _best_of(self, rows: np.ndarray, queries: torch.Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the best of some rows."""
        scores = self.geometry.scores(self.store, rows, queries).T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return _padded(np.take_along_axis(scores, order, 1), rows[order], count)

    def _exact(self, queries: torch.Tensor, count: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Compare queries with every passage, block by block."""
        weights = queries / self.geometry.deviation
        best = torch.full((len(queries), 0), -torch.inf)
        rows = torch.zeros(len(queries), 0, dtype=torch.int64)
        for first, block in self.geometry.centered_blocks(self.store):
            scores = (weights @ block.T) / self.geometry.norms[first : first + len(block)]  # (queries, rows of block)
            if allowed is not None:
                scores[:, ~torch.from_numpy(allowed[first : first + len(block)])] = -torch.inf
            scores, local = scores.topk(min(count, len(block)))
            scores, rows = torch.cat([best, scores], 1), torch.cat([rows, local + first], 1)
            best, order = scores.topk(min(count, scores.shape[1]))
            rows = rows.gather(1, order)
        return _padded(best.numpy(), rows.masked_fill(best == -torch.inf, -1).numpy(), count)


def _padded(scores: np.ndarray, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad scores and rows `(queries, found)` to `(queries, count)`, with -inf and -1."""
    padding = ((0, 0), (0, count - scores.shape[1]))
    return np.pad(scores, padding, constant_values=-np.inf), np.pad(rows, padding, constant_values=-1)
