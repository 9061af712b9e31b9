"""
Approximate search with FAISS: an inverted file with product quantization (Jégou, Douze, Schmid: *Product Quantization
for Nearest Neighbor Search*, IEEE TPAMI 2011).

The inverted file assigns each passage to the nearest of some thousand centroids; a query is compared with the passages
of the nearest centroids alone, by codes of one byte for eight values. Both lose something, so the index of FAISS only
chooses candidates, and their similarities are computed from the vectors.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..training.files import complete_file
from .geometry import Geometry
from .shards import PassageStore

VALUES_IN_CODE = 8  # values of a vector that share a byte
LEAST_ROWS = 10_000  # 39 for each of the 256 values of a byte, the least that FAISS trains on without a warning
ROWS_FOR_LIST = 39
TRAINING_ROUNDS = 10
ROWS_AT_ONCE = 2048  # that are compared with all centroids
INSTALL = "Install it with `pip install 'musicfm_hf[search]'`, or pass `--index_type exact`."


def import_faiss() -> Any:
    """
    Import FAISS.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"An index of type ivfpq needs FAISS, which is not installed. {INSTALL}") from error
    return faiss


def number_of_lists(rows: int) -> int:
    """Return the number of centroids for an index: the power of two nearest to the root of its passages."""
    return 2 ** round(math.log2(math.sqrt(rows)))


def number_of_codes(size: int) -> int:
    """Return the bytes of a code: the largest divisor of the size of vectors that is at most an eighth of it."""
    return next(count for count in range(max(1, size // VALUES_IN_CODE), 0, -1) if size % count == 0)


def build_ivfpq(store: PassageStore, geometry: Geometry, path: str | os.PathLike) -> None:
    """
    Train an index on a sample of the passages, add all of them block by block, and write it to a file.

    Args:
        store ([`PassageStore`]): The passages.
        geometry ([`Geometry`]): Their geometry.
        path: File to write.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: there are too few passages to train on.
    """
    faiss = import_faiss()
    if len(store) < LEAST_ROWS:
        raise ValueError(
            f"An index of type ivfpq needs at least {LEAST_ROWS} passages to train on, got {len(store)}. Pass "
            "`--index_type exact`, which is fast for so few."
        )
    lists = number_of_lists(len(store))
    rows = store.sample_rows(max(LEAST_ROWS, ROWS_FOR_LIST * lists))
    sample = geometry.normalized(store.vectors(rows))
    quantizer = faiss.IndexFlatIP(store.size)
    quantizer.add(train_centroids(sample, lists).numpy())
    index = faiss.IndexIVFPQ(quantizer, store.size, lists, number_of_codes(store.size), 8, faiss.METRIC_INNER_PRODUCT)
    index.train(sample.numpy())  # the codes; the centroids are there
    del sample
    _add_blocks(index, store, geometry, 0, path)


def train_centroids(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """
    Find centroids by spherical k-means (Dhillon, Modha: *Concept Decompositions for Large Sparse Text Data Using
    Clustering*, Machine Learning 2001), from a random start that is always the same. On CPUs, matrix products of torch
    are several times as fast as those of FAISS.

    Args:
        vectors (`torch.Tensor` of shape `(rows, size)`): float32 of norm 1.
        count (`int`): Number of centroids, at most the number of rows.

    Returns:
        float32 `(count, size)` of norm 1.
    """
    generator = torch.Generator().manual_seed(0)
    centroids = vectors[torch.randperm(len(vectors), generator=generator)[:count]].clone()
    for _ in range(TRAINING_ROUNDS):
        assigned = nearest_centroids(vectors, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, assigned, vectors)
        empty = assigned.bincount(minlength=count) == 0
        sums[empty] = vectors[torch.randint(len(vectors), (int(empty.sum()),), generator=generator)]
        centroids = torch.nn.functional.normalize(sums, dim=1)
    return centroids


def nearest_centroids(vectors: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the centroid with the largest inner product for each vector, int64 `(rows,)`."""
    return torch.cat([(part @ centroids.T).argmax(1) for part in vectors.split(ROWS_AT_ONCE)])


def extend_ivfpq(
    earlier: str | os.PathLike, store: PassageStore, geometry: Geometry, first_shard: int, path: str | os.PathLike
) -> None:
    """
    Replace the passages from a shard on, without training again.

    Args:
        earlier: File of an index of passages whose first ones are the same.
        store ([`PassageStore`]), geometry ([`Geometry`]), path: As for [`build_ivfpq`].
        first_shard (`int`): First shard that differs.
    """
    faiss = import_faiss()
    index = faiss.read_index(str(earlier))
    first = store.rows_before(first_shard)
    if first < index.ntotal:
        index.remove_ids(faiss.IDSelectorRange(first, index.ntotal))
    _add_blocks(index, store, geometry, first_shard, path)


def _add_blocks(
    index: Any, store: PassageStore, geometry: Geometry, first_shard: int, path: str | os.PathLike
) -> None:
    """Add the passages from a shard on to an index, and write it to a file."""
    from faiss.contrib.ivf_tools import add_preassigned

    centroids = torch.from_numpy(index.quantizer.reconstruct_n(0, index.nlist))
    row = store.rows_before(first_shard)
    for block in geometry.normalized_blocks(store, first_shard):
        assigned = nearest_centroids(torch.from_numpy(block), centroids).numpy()
        ids = np.arange(row, row + len(block), dtype=np.int64)  # a name, because `add_preassigned` keeps no reference
        add_preassigned(index, block, assigned, ids)
        row += len(block)
    with complete_file(path) as temporary:
        import_faiss().write_index(index, str(temporary))


class FaissIndex:
    """
    An index that [`build_ivfpq`] wrote. Its codes stay in the file until they are used.

    Args:
        path: File of the index.

    Raises:
        ImportError: FAISS is not installed.
    """

    def __init__(self, path: str | os.PathLike):
        self._faiss = import_faiss()
        self.index = self._faiss.read_index(str(Path(path)), self._faiss.IO_FLAG_MMAP | self._faiss.IO_FLAG_READ_ONLY)

    def candidates(
        self, queries: torch.Tensor, count: int, probes: int, allowed: np.ndarray | None = None
    ) -> np.ndarray:
        """
        Return the rows of likely neighbors.

        Args:
            queries (`torch.Tensor` of shape `(queries, size)`): float32 of norm 1.
            count (`int`): Number of candidates for each query.
            probes (`int`): Number of inverted lists to look into.
            allowed (`np.ndarray` of shape `(passages,)`, *optional*): bool mask of the passages to consider.

        Returns:
            int64 `(queries, count)`, with -1 where the lists have fewer passages.
        """
        parameters = self._faiss.SearchParametersIVF(nprobe=min(probes, self.index.nlist))
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            parameters.sel = selector = self._faiss.IDSelectorBitmap(bits)
            parameters._selector = selector  # which FAISS does not own
        return self.index.search(queries.numpy(), min(count, self.index.ntotal), params=parameters)[1]
