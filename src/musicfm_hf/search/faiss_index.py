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
LEAST_ROWS = 10_000  # 39 for each of 256 centroids, the least that FAISS trains on without a warning
ROWS_FOR_LIST = 39
TRAINING_ROUNDS = 10
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
    """Return the number of centroids for an index: the power of two nearest to twice the root of its passages."""
    return 2 ** round(math.log2(2 * math.sqrt(rows)))


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
    quantizer = faiss.IndexFlatIP(store.size)
    index = faiss.IndexIVFPQ(quantizer, store.size, lists, number_of_codes(store.size), 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = TRAINING_ROUNDS
    index.cp.spherical = True  # centroids of norm 1, as inner products need
    index.train(geometry.normalized(store.vectors(store.sample_rows(ROWS_FOR_LIST * lists))).numpy())
    _add_blocks(index, store, geometry, 0, path)


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
    # Rows are numbered explicitly: FAISS would number them from the count after a removal of others.
    row = store.rows_before(first_shard)
    for block in geometry.normalized_blocks(store, first_shard):
        index.add_with_ids(block, np.arange(row, row + len(block), dtype=np.int64))
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
