"""
Length of FLAC streams (RFC 9639), from the header of the last frame.

The length in the header of a file is 0 if the file was written to a pipe, and wrong if it was cut or joined.
libsndfile reads no further, and fails to read to the end of a stream that is shorter.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import BinaryIO, NamedTuple

from .byte_view import read_at, replace_bytes, stream_size

_TAILS = (1 << 15, 1 << 18, 1 << 21)  # bytes at the end that are searched, until a complete frame is among them
_CHUNK = 1 << 22
_PROBES = 8  # places in a long file at which the positions of frames are compared
_INFO_OFFSET = 18  # of the 8 bytes with rate, channels, bits and length
_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
_SAMPLE_BITS = (0, 8, 12, -1, 16, 20, 24, 32)


class _StreamInfo(NamedTuple):
    """Values of the header with which frames agree; `block_size` is that of all frames but the last."""

    block_size: int
    rate: int
    channels: int
    bits: int
    length: int


def open_flac(stream: BinaryIO, start: int = 0) -> list[tuple[BinaryIO, bool]]:
    """
    Open the FLAC streams that follow one another in a file, from byte `start` on.

    Returns:
        For each of them a stream whose header has the true length, and whether the length in the file is larger. The
        file itself is returned if its header is right, or if the true length cannot be found.
    """
    size = stream_size(stream)
    info = _read_info(stream, start)
    if info is None:
        return [(stream, False)]
    if info.length in _ends_of_last_frames(stream, start, size, info) and _is_single(stream, start, size, info):
        return [(stream, False)]
    starts = [start, *_find_headers(stream, start + 1, size)]
    parts = []
    for begin, stop in zip(starts, [*starts[1:], size], strict=True):
        info = _read_info(stream, begin)
        length = None if info is None else _true_length(stream, begin, stop, info)
        if info is None or length is None:
            return [(stream, False)]
        packed = read_at(stream, begin + _INFO_OFFSET, 8)
        value = int.from_bytes(packed, "big") >> 36 << 36 | length
        view = replace_bytes(stream, stop, {begin + _INFO_OFFSET: value.to_bytes(8, "big")}, begin)
        parts.append((view, info.length > length))
    return parts


def _read_info(stream: BinaryIO, start: int) -> _StreamInfo | None:
    """Return the values in the header at a position, or `None` if there is no header."""
    data = read_at(stream, start, 26)
    if len(data) < 26 or data[:4] != b"fLaC" or data[4] & 0x7F:
        return None
    packed = int.from_bytes(data[_INFO_OFFSET:], "big")
    block_size = int.from_bytes(data[10:12], "big")
    return _StreamInfo(
        block_size, packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & ((1 << 36) - 1)
    )


def _find_headers(stream: BinaryIO, start: int, size: int) -> Iterator[int]:
    """Yield the positions of further headers of FLAC streams."""
    pattern = re.compile(rb"fLaC[\0\x80]\0\0\x22", re.DOTALL)
    while start < size - 8:
        data = read_at(stream, start, _CHUNK)
        for match in pattern.finditer(data):
            yield start + match.start()
        start += max(1, len(data) - 7)


def _ends_of_last_frames(stream: BinaryIO, start: int, stop: int, info: _StreamInfo) -> Sequence[int]:
    """Return the position in samples at which the last frame ends. Other bytes may look like it, so it is a list."""
    tail = read_at(stream, max(start, stop - _TAILS[0]), min(_TAILS[0], stop - start))
    return [end for _, end in _frames(tail, info)][-2:]


def _is_single(stream: BinaryIO, start: int, size: int, info: _StreamInfo) -> bool:
    """
    Return whether no other stream follows in the file. A short file is searched for headers. In a long one, the
    positions of frames at a few places must ascend: those of a second stream begin at 0 again.
    """
    if size - start <= _CHUNK:
        return not any(_find_headers(stream, start + 1, size))
    positions: list[int] = []
    for offset in range(start, size, (size - start) // _PROBES):
        positions += [end for _, end in _frames(read_at(stream, offset, _TAILS[0]), info)]
    return positions == sorted(positions)


def _true_length(stream: BinaryIO, start: int, stop: int, info: _StreamInfo) -> int | None:
    """Return the position in samples at which the last frame with a valid checksum ends, or `None` without one."""
    if read_at(stream, stop - 128, 3) == b"TAG":  # ID3v1
        stop -= 128
    for tail_bytes in _TAILS:
        tail = read_at(stream, max(start, stop - tail_bytes), min(tail_bytes, stop - start))
        frames = [*_frames(tail, info), (len(tail), 0)]
        for index in range(len(frames) - 2, -1, -1):
            if _checksum(tail[frames[index][0] : frames[index + 1][0]]) == 0:
                return frames[index][1]
    return None


def _frames(data: bytes, info: _StreamInfo) -> Iterator[tuple[int, int]]:
    """Yield, for each frame that begins in the data, its offset in bytes and the position in samples of its end."""
    for match in re.finditer(rb"\xff[\xf8\xf9]", data):
        header = data[match.start() : match.start() + 16]  # the whole frame may be shorter
        end = _frame_end(header.ljust(16, b"\0"), info)
        if end is not None:
            yield match.start(), end


def _frame_end(header: bytes, info: _StreamInfo) -> int | None:
    """Return the position in samples at which a frame ends, or `None` if its header is not one of this stream."""
    if header[3] & 1:
        return None
    size_code, rate_code, channels, bits = header[2] >> 4, header[2] & 15, header[3] >> 4, header[3] >> 1 & 7
    if size_code == 0 or rate_code == 15 or _SAMPLE_BITS[bits] not in (0, info.bits):
        return None
    if channels > 10 or (channels + 1 if channels < 8 else 2) != info.channels:
        return None
    if rate_code < 12 and _RATES[rate_code] not in (0, info.rate):
        return None
    ones = 8 - (~header[4] & 0xFF).bit_length()  # the number is coded as in UTF-8
    if ones in (1, 8):
        return None
    at = 4 + max(1, ones)
    number = header[4] & (0x7F >> ones)
    for byte in header[5:at]:
        number = number << 6 | byte & 0x3F
    extra = {6: 1, 7: 2}.get(size_code, 0)
    if extra:
        samples = int.from_bytes(header[at : at + extra], "big") + 1
    else:
        samples = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    at += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if _header_checksum(header[: at + 1]):
        return None
    return (number if header[1] & 1 else number * info.block_size) + samples


def _header_checksum(data: bytes) -> int:
    """Return the CRC-8 of a frame header (polynomial 0x07); 0 if it includes its checksum."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value


@cache
def _checksum_table() -> list[int]:
    """Return the table of the CRC-16 of frames (polynomial 0x8005)."""
    table = []
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1 ^ (0x8005 if value & 0x8000 else 0)) & 0xFFFF
        table.append(value)
    return table


def _checksum(data: bytes) -> int:
    """Return the CRC-16 of a frame; 0 if it includes its checksum."""
    table, value = _checksum_table(), 0
    for byte in data:
        value = (value << 8 & 0xFF00) ^ table[value >> 8 ^ byte]
    return value
