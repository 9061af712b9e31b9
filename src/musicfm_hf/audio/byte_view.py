"""Read-only views of a binary stream, in which bytes are left out, inserted or replaced."""

import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, BinaryIO

_TAG_BYTES = 128  # of ID3v1
_MAX_BYTES = 1 << 62  # in a file


class ByteView(io.RawIOBase):
    """
    A read-only stream made of ranges of another stream and of inserted bytes.

    Decoders trust the header of a file. This lets them see a correct header, or one of several files that were joined,
    without a copy of the audio. The position of the other stream moves; the stream is not closed with the view.

    Args:
        stream (`BinaryIO`): The other stream.
        segments: In order, `(start, stop)` byte offsets in the stream, or `bytes` to insert.
        claimed_size (`int`, *optional*): Size that seeking to the end reports. Reading stops after the segments all
            the same, except that the last 128 bytes are zeros, where decoders of mp3 look for a tag.
    """

    def __init__(self, stream: BinaryIO, segments: Sequence[bytes | tuple[int, int]], claimed_size: int | None = None):
        sizes = [len(part) if isinstance(part, bytes) else part[1] - part[0] for part in segments]
        self._stream, self._segments = stream, segments
        self._ends = list(accumulate(sizes))
        self._size = sum(sizes) if claimed_size is None else claimed_size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        self._position = max(0, origin[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        index = bisect_right(self._ends, self._position)
        if index == len(self._ends):
            count = min(len(buffer), self._size - self._position) if self._size - self._position <= _TAG_BYTES else 0
            buffer[: max(0, count)] = bytes(max(0, count))
            self._position += max(0, count)
            return max(0, count)
        segment, remaining = self._segments[index], self._ends[index] - self._position
        count = min(len(buffer), remaining)
        if isinstance(segment, bytes):
            data = segment[len(segment) - remaining :][:count]
        else:
            self._stream.seek(segment[1] - remaining)
            data = self._stream.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def view(stream: BinaryIO, segments: Sequence[bytes | tuple[int, int]], claimed_size: int | None = None) -> BinaryIO:
    """Return a buffered [`ByteView`]."""
    return io.BufferedReader(ByteView(stream, segments, claimed_size), 1 << 16)


def replace_bytes(stream: BinaryIO, stop: int, changes: Mapping[int, bytes], start: int = 0) -> BinaryIO:
    """Return a view of `start` to `stop` of a stream, with the bytes at the offsets in `changes` replaced."""
    segments: list[bytes | tuple[int, int]] = []
    position = start
    for offset in sorted(changes):
        segments += [(position, offset), changes[offset]]
        position = offset + len(changes[offset])
    return view(stream, [*segments, (position, stop)])


def stream_size(stream: BinaryIO) -> int:
    """Return the number of bytes in a stream."""
    return stream.seek(0, io.SEEK_END)


def read_at(stream: BinaryIO, position: int, count: int) -> bytes:
    """Return up to `count` bytes of a stream from `position` on; none beyond its end, wherever a header points."""
    if not 0 <= position < _MAX_BYTES:
        return b""
    stream.seek(position)
    return stream.read(count)
