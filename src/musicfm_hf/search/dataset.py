"""An index as a data set of `datasets`."""

from typing import TYPE_CHECKING

import numpy as np

from ..training.files import readable_name
from .shards import PassageStore, Shard

if TYPE_CHECKING:
    from datasets import Dataset


def to_dataset(store: PassageStore) -> "Dataset":
    """
    Return the passages as a data set with the columns `song`, `path`, `start`, `end` (seconds) and `embedding`
    (float16). Embeddings are views of the shards, so nothing is read until it is used.

    Args:
        store ([`PassageStore`]): The passages.

    Raises:
        ImportError: `datasets` is not installed.
    """
    try:
        import pyarrow as pa
        from datasets import Dataset
    except ImportError as error:
        raise ImportError("This needs `datasets`. Install it with `pip install 'musicfm_hf[search]'`.") from error

    def table(shard: Shard) -> pa.Table:
        records = [shard.record(song) for song in range(shard.num_songs)]
        songs = np.repeat(np.arange(shard.num_songs), np.diff(shard.song_rows))
        values = pa.Array.from_buffers(pa.float16(), shard.vectors.size, [None, pa.py_buffer(shard.vectors)])
        columns = {
            "song": pa.array([readable_name(record.name) for record in records]).take(pa.array(songs)),
            "path": pa.array([record.place for record in records]).take(pa.array(songs)),
            "start": pa.array(shard.starts),
            "end": pa.array(shard.ends),
            "embedding": pa.FixedSizeListArray.from_arrays(values, store.size),
        }
        return pa.table(columns)

    return Dataset(pa.concat_tables(table(shard) for shard in store.shards))
