"""
Memory-mapped files of arrays.

Files are in the safetensors format. Unlike `safetensors.safe_open`, which copies, this reader gives views, and tells
the operating system which pages it will need or no longer needs.
"""

import json
import mmap
import os
from pathlib import Path

import numpy as np

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
}


class MappedFile:
    """
    The arrays of a safetensors file as read-only views of the file. Nothing is read until it is used. The views stay
    valid if the file is replaced or removed.

    Args:
        path: A file that [`musicfm_hf.training.files.write_safetensors`] wrote.

    Attributes:
        arrays (`dict[str, np.ndarray]`): The arrays by name.
        metadata (`dict[str, str]`): Metadata of the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not in this format, or is not complete.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        with self.path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length < 8:
                raise ValueError(f"{path} is not a safetensors file: it has {length} bytes.")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = int.from_bytes(self._map[:8], "little")
        try:
            if 8 + size > length:
                raise ValueError(f"its header ends at byte {8 + size} of {length}")
            header = json.loads(self._map[8 : 8 + size])
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self.arrays = {name: self._view(8 + size, **entry) for name, entry in header.items()}
        except (KeyError, TypeError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"{path} is not a complete safetensors file ({error}).") from error
        self._buffer = np.frombuffer(self._map, dtype=np.uint8)

    def _view(self, first: int, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
        """Return the view of an array, whose offsets count from byte `first` of the file."""
        start, stop = data_offsets
        kind = np.dtype(_DTYPES[dtype])
        view = np.frombuffer(self._map, dtype=kind, count=(stop - start) // kind.itemsize, offset=first + start)
        return view.reshape(shape)

    def will_read_rows(self, name: str, rows: np.ndarray) -> None:
        """
        Start to read scattered rows of an array, all at once, so that a disk can serve them in parallel.

        Args:
            name (`str`): Name of an array with at least one dimension.
            rows (`np.ndarray` of shape `(rows,)`): Indices of the rows.
        """
        if not hasattr(self._map, "madvise"):  # Windows
            return
        array = self.arrays[name]
        begin, size = self._offset(array), array[:1].nbytes
        for row in rows.tolist():
            first = begin + row * size
            page = first - first % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, first + size - page)

    def read_scattered(self) -> None:
        """Tell the system that rows are read in random order, so that it does not read the pages around them."""
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_RANDOM)

    def release(self, name: str, first: int, stop: int) -> None:
        """Give back the memory of rows `first` to `stop` of an array. They are read again when they are used."""
        if not hasattr(self._map, "madvise"):
            return
        array = self.arrays[name]
        begin, size = self._offset(array), array[:1].nbytes
        start = begin + first * size
        start += -start % mmap.PAGESIZE
        end = (begin + stop * size) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)

    def _offset(self, array: np.ndarray) -> int:
        """Return the byte of the file at which an array begins."""
        return array.ctypes.data - self._buffer.ctypes.data
