"""Lookup of songs by name and by place on disk, so that a search need not read the records of a million songs."""

import hashlib
import os

import numpy as np
import torch

from ..training.files import write_safetensors
from .mapped_file import MappedFile
from .shards import PassageStore


class SongLookup:
    """
    Songs of an index by hashes of their names and places.

    Args:
        hashes (`np.ndarray` of shape `(entries,)`): int64, ascending.
        songs (`np.ndarray` of shape `(entries,)`): The song of each hash.
    """

    def __init__(self, hashes: np.ndarray, songs: np.ndarray):
        self.hashes, self.songs = hashes, songs

    @classmethod
    def build(cls, store: PassageStore) -> "SongLookup":
        """Hash the names and places of all songs."""
        pairs = [(_hash(text), song) for song, record in enumerate(store.records()) for text in record.key[:2]]
        table = np.array(sorted(pairs), dtype=np.int64)
        return cls(table[:, 0].copy(), table[:, 1].copy())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SongLookup":
        """Load the file that [`save`] wrote, memory-mapped."""
        arrays = MappedFile(path).arrays
        return cls(arrays["hashes"], arrays["songs"])

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file."""
        write_safetensors(path, {"hashes": torch.from_numpy(self.hashes), "songs": torch.from_numpy(self.songs)}, {})

    def find(self, text: str, store: PassageStore) -> int | None:
        """Return the song with a name or a place, or `None`. A name goes before a place."""
        value = _hash(text)
        first, stop = np.searchsorted(self.hashes, [value, value + 1])
        songs = self.songs[first:stop].tolist()
        by_name = (song for song in songs if store.record(song).name == text)
        by_place = (song for song in songs if store.record(song).place == text)
        return next(by_name, next(by_place, None))


def _hash(text: str) -> int:
    """Return a hash of 63 bits."""
    digest = hashlib.blake2b(os.fsencode(text), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
