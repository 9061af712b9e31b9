"""
Cosine similarity of standardized vectors.

Mean hidden states of an encoder lie in a narrow cone: most of a vector is the mean of all music, and a few dimensions
with large values decide what remains. Cosine similarities of such vectors are all close to 1. Subtracting the mean of
the catalog and dividing each dimension by its standard deviation removes both. Models with a text tower are trained
with plain cosine similarity, which is kept for them: the mean of the music would move words too.
"""

import os
from collections.abc import Iterator

import numpy as np
import torch

from ..training.files import write_safetensors
from .mapped_file import MappedFile
from .shards import BLOCK_ROWS, PassageStore

SAMPLE_ROWS = 200_000  # passages from which mean and deviation are measured
# Share of the mean variance that is added to each variance, so that dimensions that hardly vary, where differences may
# be rounding errors, are not amplified to unit variance.
SMALLEST_SHARE = 1e-2
SMALLEST_NORM = 1e-12


class Geometry:
    """
    Standardization of vectors, and their norms after it.

    Args:
        mean, deviation (`torch.Tensor` of shape `(size,)`): float32; zeros and ones for plain cosine similarity.
        norms (`torch.Tensor` of shape `(passages,)`): float32 norms of the standardized vectors of an index.
    """

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor, norms: torch.Tensor):
        self.mean, self.deviation, self.norms = mean, deviation, norms
        self._is_plain = not mean.any() and bool((deviation == 1).all())

    @classmethod
    def measure(cls, store: PassageStore, standardize: bool) -> "Geometry":
        """
        Measure mean and deviation on a sample of the passages, and the norms of all of them, block by block.

        Args:
            store ([`PassageStore`]): The passages.
            standardize (`bool`): Standardize; otherwise the mean is 0 and the deviation is 1.
        """
        mean, deviation = torch.zeros(store.size), torch.ones(store.size)
        if standardize:
            sample = torch.from_numpy(store.vectors(store.sample_rows(SAMPLE_ROWS)))
            variance, mean = torch.var_mean(sample, dim=0, correction=0)
            deviation = (variance + SMALLEST_SHARE * variance.mean()).clamp_min(SMALLEST_NORM).sqrt()
        return cls(mean, deviation, torch.empty(0)).extended(store, 0)

    def extended(self, store: PassageStore, first_shard: int) -> "Geometry":
        """Return the same mean and deviation, with the norms of the passages from a shard on measured again."""
        norms = [self.norms[: store.rows_before(first_shard)]]
        for _, block in store.blocks(True, first_shard):
            norms.append(torch.linalg.vector_norm(self.standardized(block), dim=1).clamp_min(SMALLEST_NORM))
        return Geometry(self.mean, self.deviation, torch.cat(norms))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Geometry":
        """Load the file that [`save`] wrote, memory-mapped."""
        arrays = MappedFile(path).arrays
        # Copied, because torch has no read-only tensors: 4 bytes for each passage.
        return cls(*(torch.from_numpy(arrays[name].copy()) for name in ("mean", "deviation", "norms")))

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file."""
        write_safetensors(path, {"mean": self.mean, "deviation": self.deviation, "norms": self.norms}, {})

    def standardized(self, vectors: np.ndarray) -> torch.Tensor:
        """Return vectors `(rows, size)` of any floating-point type without the mean, in float32."""
        rows = torch.from_numpy(np.asarray(vectors, np.float32))  # copies unless it is float32 already
        return rows if self._is_plain else (rows - self.mean) / self.deviation

    def normalized(self, vectors: np.ndarray) -> torch.Tensor:
        """Return vectors `(rows, size)` standardized and of norm 1, in float32."""
        rows = self.standardized(vectors)
        return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(SMALLEST_NORM)

    def normalized_blocks(self, store: PassageStore, first_shard: int = 0) -> Iterator[torch.Tensor]:
        """Yield the passages from a shard on, in order, as blocks of norm 1, float32 `(rows, size)`."""
        for first, block in store.blocks(True, first_shard):
            yield self.standardized(block) / self.norms[first : first + len(block), None]

    def scores(self, store: PassageStore, rows: np.ndarray, queries: torch.Tensor) -> torch.Tensor:
        """Return the cosine similarities of some passages to queries of norm 1, `(rows, queries)` float32."""
        parts = [
            (self.standardized(store.vectors(part)) @ queries.T) / self.norms[torch.from_numpy(part), None]
            for part in (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))
        ]
        return torch.cat(parts) if parts else queries.new_zeros(0, len(queries))
