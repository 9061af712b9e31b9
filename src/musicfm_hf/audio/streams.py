"""
The streams in a file, each in a form that libsndfile reads to its end.

libsndfile reads as many samples as a header promises, or as it estimates, and only one of several streams that were
joined. The functions here follow the stream itself, from header to header, without decoding it. If a header is wrong,
libsndfile gets a view of the file with a right one. A header that promises more than the file has stays as it is: the
file is truncated.
"""

import io
import mmap
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple


class StreamPart(NamedTuple):
    """
    One stream of a file.

    Attributes:
        stream (`BinaryIO`): File for libsndfile.
        frames (`int`, *optional*): Number of samples per channel, if the header promises more.
        is_truncated (`bool`): Whether the stream is shorter than its header promises.
        slack (`int`): Number of samples by which the header may exceed a complete stream.
    """

    stream: BinaryIO
    frames: int | None = None
    is_truncated: bool = False
    slack: int = 0


def stream_parts(stream: BinaryIO) -> list[StreamPart]:
    """Return the streams in a file, in order. A file of an unknown format is one stream."""
    stream.seek(0)
    start = stream.read(12)
    stream.seek(0)
    if start[:4] == b"OggS":
        return _ogg_parts(_content(stream), stream)
    if start[:4] == b"fLaC":
        return [_flac_part(_content(stream), stream)]
    if start[:4] in (b"RIFF", b"FORM"):
        return [_chunk_part(_content(stream), stream)]
    if start[:3] == b"ID3" or _mpeg_length(start) is not None:
        return _mpeg_parts(_content(stream), stream)
    return [StreamPart(stream)]


class _View(io.RawIOBase):
    """Read-only file that consists of ranges of bytes."""

    def __init__(self, *ranges: bytes | memoryview):
        self._ranges = ranges
        self._size = sum(map(len, ranges))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        target, done, start = memoryview(buffer).cast("B"), 0, 0
        for content in self._ranges:
            begin = self._position + done - start
            if 0 <= begin < len(content) and done < len(target):
                chunk = content[begin : begin + len(target) - done]
                target[done : done + len(chunk)] = chunk
                done += len(chunk)
            start += len(content)
        self._position += done
        return done


def _content(stream: BinaryIO) -> "bytes | mmap.mmap":
    """Return the bytes of a file, mapped into memory if it is on disk."""
    try:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, AttributeError, ValueError):
        content = stream.read()
        stream.seek(0)
        return content


# MPEG audio, layer III (ISO/IEC 11172-3 and 13818-3)

_BITRATES = (  # kbit/s for the indices 1 to 14, of MPEG-2 and 2.5, and of MPEG-1
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_RATES = {0: (11025, 12000, 8000), 2: (22050, 24000, 16000), 3: (44100, 48000, 32000)}  # Hz, by the version bits
_DECODER_DELAY = 529  # samples that decoders remove in addition to the delay in an information frame
_MPEG_SLACK = 4  # frames: encoders count their information frame and the last, partial frame differently


class _MpegRun(NamedTuple):
    """Consecutive frames of one encoder."""

    start: int  # of the first frame, in bytes
    stop: int
    frames: int  # of audio
    samples: int  # in a frame
    promised: int | None  # frames of audio in the header
    promise: int  # position of this number in bytes


def _mpeg_length(header: bytes) -> int | None:
    """Return the length of a frame in bytes, or `None` if this is not the header of one."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    kbits = _BITRATES[version == 3][bitrate - 1]
    return (144_000 if version == 3 else 72_000) * kbits // _RATES[version][rate] + (header[2] >> 1 & 1)


def _mpeg_parts(content: "bytes | mmap.mmap", stream: BinaryIO) -> list[StreamPart]:
    """Return a part for each run of frames, with an information frame that has the right number of frames."""
    view, parts = memoryview(content), []
    runs = list(_mpeg_runs(content))
    for run in runs:
        samples, slack = run.frames * run.samples, _MPEG_SLACK * run.samples
        whole = view[run.start : run.stop]
        part: BinaryIO = stream if len(runs) == 1 else _View(whole)  # type: ignore[assignment]
        if run.promised is None:
            part = _View(_information_frames(bytes(whole[:4]), run.frames, len(whole)), whole)  # type: ignore[assignment]
        elif run.promised < run.frames:
            number, place = struct.pack(">I", run.frames), run.promise - run.start
            part = _View(whole[:place], number, whole[place + 4 :])  # type: ignore[assignment]
        if run.promised is not None and run.promised > run.frames + _MPEG_SLACK:
            parts.append(StreamPart(part, samples, is_truncated=True, slack=slack))
        else:
            parts.append(StreamPart(part, slack=slack))
    return parts or [StreamPart(stream)]


def _mpeg_runs(content: "bytes | mmap.mmap") -> Iterator[_MpegRun]:
    """Yield the runs of frames. A run ends before an information frame, and where rate or channels change."""
    position = 0
    while (position := _find_mpeg(content, position)) >= 0:
        start, header = position, content[position : position + 4]
        side = _side_length(header)
        promise = _promise(content, position, side)
        lengths = [_mpeg_length(bytes((0xFF, header[1], byte, 0))) or 0 for byte in range(256)]
        second, mono, end = header[1], header[3] >> 6 == 3, len(content)
        marker = _next_marker(content, position + 5)
        count = 0
        while position + 4 <= end and content[position] == 0xFF and content[position + 1] == second:
            length = lengths[content[position + 2]]
            if not length or position + length > end or (content[position + 3] >> 6 == 3) != mono:
                break
            if position + side >= marker:
                if position + side == marker and count:
                    break
                marker = _next_marker(content, position + side + 1)
            position += length
            count += 1
        count -= promise is not None
        position = max(position, start + 1)
        if count > 0:
            samples = 1152 if header[1] >> 3 & 3 == 3 else 576
            promised = None if not promise else struct.unpack(">I", content[promise : promise + 4])[0]
            yield _MpegRun(start, position, count, samples, promised, promise or 0)


def _find_mpeg(content: "bytes | mmap.mmap", position: int) -> int:
    """Return the position of the next frame that another frame or the end follows, or -1. ID3v2 tags are skipped."""
    while True:
        if content[position : position + 3] == b"ID3" and len(content) >= position + 10:
            size = content[position + 6 : position + 10]
            position += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
        length = _mpeg_length(content[position : position + 4])
        if length is not None:
            after = content[position + length : position + length + 2]
            if len(after) < 2 or (after[0] == 0xFF and after[1] == content[position + 1]):
                return position
        sync = content.find(b"\xff", position + 1)
        tag = content.find(b"ID3", position + 1, sync if sync >= 0 else len(content))
        position = tag if tag >= 0 else sync
        if position < 0:
            return -1


def _side_length(header: bytes) -> int:
    """Return the distance from the header of a frame to its data, where an encoder puts its information."""
    is_mono, is_first_version = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    side = (17 if is_mono else 32) if is_first_version else (9 if is_mono else 17)
    return 4 + side + (0 if header[1] & 1 else 2)


def _next_marker(content: "bytes | mmap.mmap", position: int) -> int:
    """Return the position of the next marker of an information frame, or the end."""
    places = [content.find(marker, position) for marker in (b"Xing", b"Info")]
    return min((place for place in places if place >= 0), default=len(content))


def _promise(content: "bytes | mmap.mmap", position: int, side: int) -> int | None:
    """
    Return the position of the number of frames in an information frame: 0 if it has none, and `None` if this is a
    frame of audio.
    """
    place = position + side
    if content[place : place + 4] not in (b"Xing", b"Info"):
        return None
    return place + 8 if content[place + 7 : place + 8] and content[place + 7] & 1 else 0


def _information_frames(header: bytes, count: int, size: int) -> bytes:
    """
    Return frames that go before a stream without an information frame: one with the number of frames and bytes, and
    one of silence. Decoders skip the silence, because the first frame declares it as delay, so the stream is decoded
    exactly as without these frames.
    """
    header = bytes((0xFF, header[1] | 1, 9 << 4 | header[2] & 0x0C, header[3]))
    length = _mpeg_length(header) or 0
    samples = 1152 if header[1] >> 3 & 3 == 3 else 576
    delay = (samples - _DECODER_DELAY) << 12  # 12 bits of delay, 12 bits of padding
    encoder = b"LAME3.100".ljust(21, b"\0") + delay.to_bytes(3, "big")
    numbers = struct.pack(">III", 3, count + 1, size + 2 * length)
    information = header.ljust(_side_length(header), b"\0") + b"Xing" + numbers + encoder
    return information.ljust(length, b"\0") + header.ljust(length, b"\0")


# Ogg (RFC 3533)


def _ogg_parts(content: "bytes | mmap.mmap", stream: BinaryIO) -> list[StreamPart]:
    """Return the links of a chain. A link begins with pages of the flag `beginning of stream`."""
    starts: list[int] = []
    position, was_first, is_complete = 0, False, False
    while content[position : position + 4] == b"OggS" and len(content) >= position + 27:
        flags, segments = content[position + 5], content[position + 26]
        is_first = bool(flags & 2)
        if is_first and not was_first:
            starts.append(position)
        was_first = is_first
        position += 27 + segments + sum(content[position + 27 : position + 27 + segments])
        is_complete = bool(flags & 4) and position <= len(content)  # the last page has the flag `end of stream`
        if content[position : position + 4] != b"OggS":  # damage, or the end
            position = max(content.find(b"OggS", position), 0) or len(content)
    if len(starts) < 2:
        return [StreamPart(stream, is_truncated=not is_complete)]
    view = memoryview(content)
    bounds = [*starts, len(content)]
    return [
        StreamPart(_View(view[start:stop]), is_truncated=stop == len(content) and not is_complete)  # type: ignore[arg-type]
        for start, stop in pairwise(bounds)
    ]


# FLAC (RFC 9639)


def _flac_part(content: "bytes | mmap.mmap", stream: BinaryIO) -> StreamPart:
    """Compare the number of samples in the header with the number of the last frame."""
    if len(content) < 42 or content[4] & 0x7F != 0:
        return StreamPart(stream)
    block_size = struct.unpack(">H", content[8:10])[0]
    promised = (content[21] & 0x0F) << 32 | struct.unpack(">I", content[22:26])[0]
    end = _last_flac_sample(content, block_size)
    if end is None or promised == end:
        return StreamPart(stream)
    if promised > end:
        return StreamPart(stream, end, is_truncated=True)
    view = memoryview(content)
    number = bytes((content[21] & 0xF0 | end >> 32 & 0x0F,)) + struct.pack(">I", end & 0xFFFFFFFF)
    return StreamPart(_View(view[:21], number, view[26:]))  # type: ignore[arg-type]


def _last_flac_sample(content: "bytes | mmap.mmap", block_size: int) -> int | None:
    """Return the number of samples up to the end of the last frame, or `None` if no frame is found."""
    position = len(content)
    while (position := content.rfind(b"\xff", 42, position)) >= 0:
        header = content[position : position + 16]
        if len(header) >= 6 and header[1] & 0xFE == 0xF8 and (end := _flac_frame_end(header, block_size)) is not None:
            return end
    return None


def _flac_frame_end(header: bytes, block_size: int) -> int | None:
    """Return the number of samples up to the end of a frame, or `None` if this is not the header of one."""
    first = header[4]
    extra = (
        0
        if first < 0x80
        else next((n for n, top in enumerate((0xE0, 0xF0, 0xF8, 0xFC, 0xFE, 0xFF), 1) if first < top), 9)
    )
    code, rate = header[2] >> 4, header[2] & 0x0F
    size_bytes = {6: 1, 7: 2}.get(code, 0)
    end = 5 + extra + size_bytes + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if extra > 6 or len(header) <= end or _crc8(header[:end]) != header[end]:
        return None
    number = first if not extra else first & (0x3F >> extra)
    for byte in header[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    place = 5 + extra
    if size_bytes:
        size = int.from_bytes(header[place : place + size_bytes], "big") + 1
    else:
        size = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)
    return number + size if header[1] & 1 else number * block_size + size


def _crc8(data: bytes) -> int:
    """Return the CRC-8 of FLAC, whose polynomial is x⁸ + x² + x + 1."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1) ^ (0x107 if value & 0x80 else 0)
    return value & 0xFF


# RIFF (wav) and IFF (aiff)


def _chunk_part(content: "bytes | mmap.mmap", stream: BinaryIO) -> StreamPart:
    """Give the chunk with the audio the rest of the file, if it is said to be shorter and no other chunk follows."""
    order, name = ("<", b"data") if content[:4] == b"RIFF" else (">", b"SSND")
    position = 12
    while len(content) >= position + 8:
        size = struct.unpack(f"{order}I", content[position + 4 : position + 8])[0]
        start = position + 8
        if content[position : position + 4] == name:
            break
        position = start + size + size % 2
    else:
        return StreamPart(stream)
    rest = len(content) - start
    after = content[start + size + size % 2 : start + size + size % 2 + 4]
    if size >= rest - 1 or (size and len(after) == 4 and all(32 <= byte < 127 for byte in after)):
        return StreamPart(stream)
    view = memoryview(content)
    number = struct.pack(f"{order}I", min(rest, 0xFFFFFFFE))
    return StreamPart(_View(view[: position + 4], number, view[start:]))  # type: ignore[arg-type]
