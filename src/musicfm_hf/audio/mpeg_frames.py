"""
Frames of MPEG audio (mp3, mp2, mp1).

An mp3 has no header for the whole file. Its length is in a frame that encoders put in front (named Xing or Info), or
is estimated from the bit rate. That frame may be missing or wrong, or may belong to the first of several files that
were joined. Here all frame headers are read instead, and each of the joined files is decoded by itself.

The format of frame headers is that of ISO/IEC 11172-3 and 13818-3; that of the Xing frame is described by G. Bouvigne,
*Mp3 Info Tag revision 1*.
"""

import re
from functools import cache
from typing import BinaryIO, NamedTuple

from .byte_view import read_at, stream_size, view

_CHUNK = 1 << 20  # bytes that are read at once
_LOOKAHEAD = 64  # bytes of a frame that `_walk` examines
_LARGEST_RATIO = 64  # more than that of the largest and smallest frame of a format
_CHAIN = 4  # number of consecutive frames that distinguish a frame from other bytes

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version bits: 1, 2, 2.5
_BITRATES = {  # kbit/s for the indices 1 to 14, by (is MPEG 1, layer)
    (True, 1): range(32, 449, 32),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class FrameFormat(NamedTuple):
    """Properties that all frames of a stream share."""

    version: int  # bits of the header: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5
    layer: int
    rate: int
    is_mono: bool

    @property
    def samples(self) -> int:
        """Number of samples per channel in a frame."""
        return 384 if self.layer == 1 else 1152 if self.layer == 2 or self.version == 3 else 576

    @property
    def info_offset(self) -> int:
        """Offset of the letters Xing or Info in a frame: after the header and the side information."""
        if self.version == 3:
            return 21 if self.is_mono else 36
        return 13 if self.is_mono else 21


class MpegPart:
    """
    Frames of one format that belong together, as an encoder wrote them.

    Attributes:
        format ([`FrameFormat`]): Format of the frames.
        info (`bytes`): The Xing or Info frame in front of them; empty without one.
        ranges (`list[tuple[int, int]]`): Start and stop of the frames in bytes, without that frame. Several ranges are
            separated by bytes that are not audio.
        frames (`int`): Number of frames in the ranges.
    """

    def __init__(self, format: FrameFormat, info: bytes = b""):
        self.format, self.info = format, info
        self.ranges: list[tuple[int, int]] = []
        self.frames = 0

    def add(self, start: int, stop: int, frames: int) -> None:
        """Append `frames` frames from byte `start` to `stop`."""
        if self.ranges and self.ranges[-1][1] == start:
            start = self.ranges.pop()[0]
        self.ranges.append((start, stop))
        self.frames += frames

    @property
    def promised_frames(self) -> int | None:
        """Number of frames according to the Xing frame, or `None` if it does not specify it."""
        at = self._fields().get("frames")
        return None if at is None else int.from_bytes(self.info[at : at + 4], "big")

    @property
    def is_truncated(self) -> bool:
        """True if frames are missing. Some encoders also count the Xing frame, so a single one is not reported."""
        return (self.promised_frames or 0) > self.frames + 1

    @property
    def is_exact(self) -> bool:
        """True if a decoder that trusts the Xing frame reads all frames."""
        promised = self.promised_frames
        return promised is not None and promised - self.frames in (0, 1) and len(self.ranges) == 1

    def open(self, stream: BinaryIO) -> BinaryIO:
        """
        Return a view of the part that libsndfile reads to its end. The length in the Xing frame is the true one.
        Without such a frame, libsndfile estimates the length from the number of bytes, so the view claims to have
        enough of them for frames of any size.
        """
        if self.promised_frames is not None:
            return view(stream, [self._true_info(), *self.ranges])
        size = len(self.info) + sum(stop - start for start, stop in self.ranges)
        return view(stream, [self.info, *self.ranges], claimed_size=_LARGEST_RATIO * size)

    def _fields(self) -> dict[str, int]:
        """Return the offsets of the fields of the Xing frame: frames, bytes, table, quality and, after them, lame."""
        fields: dict[str, int] = {}
        if self.info:
            at = self.format.info_offset + 8
            for bit, (name, size) in enumerate({"frames": 4, "bytes": 4, "table": 100, "quality": 4}.items()):
                if self.info[self.format.info_offset + 7] >> bit & 1:
                    fields[name] = at
                    at += size
            fields["lame"] = at
        return fields

    def _true_info(self) -> bytes:
        """Return the Xing frame with the true number of frames and bytes."""
        fields, info = self._fields(), bytearray(self.info)
        size = len(info) + sum(stop - start for start, stop in self.ranges)
        for name, number in {"frames": self.frames, "bytes": size}.items():
            if name in fields:
                info[fields[name] : fields[name] + 4] = min(number, 0xFFFFFFFF).to_bytes(4, "big")
        padding = fields["lame"] + 22  # 12 bits of delay, then 12 bits of padding
        if self.is_truncated and padding + 2 <= len(info):  # the padding would be after the missing frames
            info[padding : padding + 2] = bytes([info[padding] & 0xF0, 0])
        return bytes(info)


@cache
def _sizes(format: FrameFormat) -> dict[bytes, int]:
    """Return the size in bytes of a frame by the first three bytes of its header, for all headers of a format."""
    rate = _RATES[format.version].index(format.rate)
    sizes = {}
    for index, bitrate in enumerate(_BITRATES[format.version == 3, format.layer], 1):
        for no_checksum in (0, 1):
            for padding in (0, 1):
                if format.layer == 1:
                    size = (12 * bitrate * 1000 // format.rate + padding) * 4
                else:
                    size = format.samples * bitrate * 125 // format.rate + padding
                first = 0xE0 | format.version << 3 | (4 - format.layer) << 1 | no_checksum
                second = index << 4 | rate << 2 | padding << 1
                sizes[bytes([0xFF, first, second])] = sizes[bytes([0xFF, first, second | 1])] = size
    return sizes


def find_mpeg_parts(stream: BinaryIO, start: int = 0) -> list[MpegPart]:
    """
    Read all frame headers of a stream from byte `start` on.

    Returns:
        The parts. A new one begins at every Xing frame, and where the sampling rate or the number of channels changes.
        The list is empty if the stream has no frames, or frames of a bit rate that headers do not specify (the free
        format).
    """
    size, position = stream_size(stream), start
    parts: list[MpegPart] = []
    while position < size:
        layout = frame_format(stream, position, size)
        if layout is None:
            following = after_tag(stream, position) or _find_frame(stream, position + 1, size)
            if following is None:
                break
            position = following
            continue
        if info := _read_info(stream, position, layout):
            parts.append(MpegPart(layout, info))
            position += len(info)
        elif not parts or parts[-1].format != layout:
            parts.append(MpegPart(layout))
        stop, frames = _walk(stream, position, size, layout)
        if frames:
            parts[-1].add(position, stop, frames)
        position = stop
    return [part for part in parts if part.frames]


def _walk(stream: BinaryIO, position: int, size: int, layout: FrameFormat) -> tuple[int, int]:
    """Return the end of the frames of one layout from `position` on, up to a Xing frame, and their number."""
    sizes, is_mono, frames = _sizes(layout), layout.is_mono, 0
    mark, marks = layout.info_offset, (b"Xing", b"Info") if layout.layer == 3 else ()
    while position < size:
        data = read_at(stream, position, _CHUNK)
        end = size - position
        limit = end if end <= len(data) else len(data) - _LOOKAHEAD
        offset = 0
        while offset < limit:
            step = sizes.get(data[offset : offset + 3])
            if (
                step is None
                or offset + step > end
                or (data[offset + 3] >= 0xC0) is not is_mono
                or data[offset + mark : offset + mark + 4] in marks
            ):
                return position + offset, frames
            frames += 1
            offset += step
        position += offset
    return position, frames


def frame_format(stream: BinaryIO, position: int, size: int) -> FrameFormat | None:
    """
    Return the format of the frame at byte `position` of a stream, or `None` unless it is followed by further frames,
    a tag, or the end.
    """
    header = read_at(stream, position, 4)
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer, rate = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3), header[2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 3 or header[2] >> 4 in (0, 15):
        return None
    layout = FrameFormat(version, layer, _RATES[version][rate], header[3] >= 0xC0)
    for number in range(_CHAIN):
        step = _sizes(layout).get(header[:3])
        if step is None or position + step > size:
            is_end = step is not None or len(header) < 4 or header[:3] in (b"TAG", b"ID3", b"APE", b"LYR")
            return layout if number and is_end else None
        position += step
        header = read_at(stream, position, 4)
    return layout


def _read_info(stream: BinaryIO, position: int, layout: FrameFormat) -> bytes:
    """Return the Xing frame at a position, or nothing if the frame there is another one."""
    header = read_at(stream, position, layout.info_offset + 8)
    if layout.layer != 3 or header[layout.info_offset : -4] not in (b"Xing", b"Info"):
        return b""
    return read_at(stream, position, _sizes(layout)[header[:3]])


def after_tag(stream: BinaryIO, position: int) -> int | None:
    """Return the end of an ID3v2 tag at a position, or `None` without one. Tags may contain pictures."""
    header = read_at(stream, position, 10)
    if len(header) < 10 or header[:3] != b"ID3" or max(header[6:]) > 127:
        return None
    size = header[6] << 21 | header[7] << 14 | header[8] << 7 | header[9]
    return position + 10 + size + (10 if header[5] & 0x10 else 0)


def _find_frame(stream: BinaryIO, position: int, size: int) -> int | None:
    """Return the position of the first frame from `position` on, or `None` without one."""
    while position < size:
        data = read_at(stream, position, _CHUNK)
        for match in re.finditer(rb"\xff[\xe2-\xff]", data):
            if frame_format(stream, position + match.start(), size) is not None:
                return position + match.start()
        position += max(1, len(data) - 1)
    return None
