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

SAMPLE_ROWS = 100_000  # passages from which mean and deviation are measured
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
        for _, block in self.centered_blocks(store, first_shard, release=True):
            norms.append(torch.linalg.vector_norm(block.div_(self.deviation), dim=1).clamp_min(SMALLEST_NORM))
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

    def normalized(self, vectors: np.ndarray) -> torch.Tensor:
        """Return vectors `(rows, size)` of any floating-point type, standardized and of norm 1, in float32."""
        rows = torch.from_numpy(np.array(vectors, np.float32)).sub_(self.mean).div_(self.deviation)
        return rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(SMALLEST_NORM))

    def centered_blocks(
        self, store: PassageStore, first_shard: int = 0, release: bool = False
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """
        Yield the passages from a shard on, in order, without the mean: the first row of a block, and float32
        `(rows, size)`, which may be changed and is valid until the next block. For `release`, see
        [`PassageStore.blocks`].
        """
        buffer = np.empty((BLOCK_ROWS, store.size), np.float32)  # new memory for each block would take longer to get
        for first, block in store.blocks(release, first_shard):
            rows = buffer[: len(block)]
            np.copyto(rows, block)
            yield first, torch.from_numpy(rows).sub_(self.mean)

    def normalized_blocks(self, store: PassageStore, first_shard: int = 0) -> Iterator[np.ndarray]:
        """Yield the passages from a shard on, in order, as blocks of norm 1, float32 `(rows, size)`."""
        for first, block in self.centered_blocks(store, first_shard, release=True):
            yield block.div_(self.deviation).div_(self.norms[first : first + len(block), None]).numpy()

    def scores(self, store: PassageStore, rows: np.ndarray, queries: torch.Tensor) -> np.ndarray:
        """Return the cosine similarities of some passages to queries of norm 1, `(rows, queries)` float32."""
        # NumPy, because threads of torch cost more than they save for some hundred rows.
        weights, mean, norms = (values.numpy() for values in ((queries / self.deviation).T, self.mean, self.norms))
        scores = np.empty((len(rows), len(queries)), np.float32)
        for start in range(0, len(rows), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            scores[part] = (store.vectors(rows[part]) - mean) @ weights / norms[rows[part], None]
        return scores
