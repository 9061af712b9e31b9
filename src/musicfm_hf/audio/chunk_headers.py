"""
Sizes of the audio in files that consist of chunks: wav, RF64, W64, aiff, caf and au.

The size in a header is 0 or the largest number if the file was written to a pipe, and is wrong if a recorder stopped
before it could complete the header. The audio then extends to the end of the file, unless other chunks or tags follow.
"""

from typing import BinaryIO, NamedTuple

from .byte_view import read_at, replace_bytes, stream_size, view


class _Layout(NamedTuple):
    """Layout of chunk headers: the name of the chunk with audio, the first chunk, the size, and where chunks begin."""

    audio: bytes
    first: int
    name_bytes: int = 4
    size_bytes: int = 4
    order: str = "little"
    alignment: int = 2
    size_includes_header: bool = False
    prefix: int = 0  # bytes of the chunk before its audio


_LAYOUTS = {
    b"RIFF": _Layout(b"data", 12),
    b"RIFX": _Layout(b"data", 12, order="big"),
    b"RF64": _Layout(b"data", 12),
    b"FORM": _Layout(b"SSND", 12, order="big", prefix=8),
    b"caff": _Layout(b"data", 8, size_bytes=8, order="big", alignment=1, prefix=4),
    b"riff": _Layout(b"data", 40, name_bytes=16, size_bytes=8, alignment=8, size_includes_header=True),
}
_FORMS = {b"RIFF": (b"WAVE",), b"RIFX": (b"WAVE",), b"RF64": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_MAX_CHUNKS = 1000
_TOLERANCE = 64  # bytes; some programs also count a header, or not
_BLOCK = 1 << 20


class _AudioChunk(NamedTuple):
    """Position and size of the audio of a file in bytes, and the field with its size."""

    start: int
    size: int
    field: int  # position
    field_bytes: int
    order: str
    added: int = 0  # difference between the value of the field and the size

    @property
    def is_unlimited(self) -> bool:
        """Return whether the size is about the largest of its field, which stands for an unknown one."""
        return self.size >= (1 << 8 * self.field_bytes - 1) - 256


class ChunkPart(NamedTuple):
    """
    A file in a file.

    Attributes:
        stream (`BinaryIO`): The part, with the true size of the audio in its header.
        is_truncated (`bool`): Whether the header of the file specifies more audio.
        unannounced (`int`): Bytes of audio beyond the size in the header, unless that stands for an unknown one.
    """

    stream: BinaryIO
    is_truncated: bool = False
    unannounced: int = 0


def open_chunks(stream: BinaryIO, start: int = 0) -> list[ChunkPart]:
    """
    Open the files that follow one another from byte `start` of a stream. A header that specifies the size of the audio
    wrongly is replaced. A stream without a chunk of audio is returned as it is.
    """
    size = stream_size(stream)
    chunk, magic = _find_audio(stream, start, size), read_at(stream, start, 4)
    if chunk is None:
        return [ChunkPart(stream)]
    available = size - chunk.start
    if chunk.size >= available:
        is_truncated = not chunk.is_unlimited and chunk.size > available + _TOLERANCE
        return [ChunkPart(_with_size(stream, start, size, chunk), is_truncated)]
    after = chunk.start + max(0, chunk.size)
    after += (after - start) % _LAYOUTS[magic].alignment if magic in _LAYOUTS and chunk.size > 0 else 0
    if magic in _LAYOUTS and read_at(stream, after, 4) == magic and _find_audio(stream, after, size):
        return [ChunkPart(view(stream, [(start, after)])), *open_chunks(stream, after)]
    if _is_no_audio(stream, after, size, _LAYOUTS.get(magic)):
        return [ChunkPart(stream if start == 0 else view(stream, [(start, size)]))]
    return [
        ChunkPart(_with_size(stream, start, size, chunk), unannounced=available - chunk.size if chunk.size > 0 else 0)
    ]


def _find_audio(stream: BinaryIO, start: int, size: int) -> _AudioChunk | None:
    """Return the chunk with audio of the file at a position, or `None` without one."""
    header = read_at(stream, start, 12)
    if header[:4] == b".snd" and len(header) == 12:
        offset, length = int.from_bytes(header[4:8], "big"), int.from_bytes(header[8:], "big")
        return _AudioChunk(start + offset, length, start + 8, 4, "big") if offset < size - start else None
    layout = _LAYOUTS.get(header[:4])
    if layout is None or header[8:] not in _FORMS.get(header[:4], (header[8:],)):
        return None
    position, large = start + layout.first, None
    for _ in range(_MAX_CHUNKS):
        name, length, body = _read_chunk(stream, position, layout)
        if len(name) < 4 or body > size:
            return None
        if name[:4] == b"ds64":
            large = body + 8  # after the size of the file
        if name[:4] == layout.audio:
            if large is not None and length == 0xFFFFFFFF:
                value = int.from_bytes(read_at(stream, large, 8), "little")
                return _AudioChunk(body, value, large, 8, "little")
            added = layout.prefix + (body - position if layout.size_includes_header else 0)
            field = position + layout.name_bytes
            return _AudioChunk(
                body + layout.prefix, length - layout.prefix, field, layout.size_bytes, layout.order, added
            )
        position = _end_of_chunk(body, length, start, layout)
    return None


def _read_chunk(stream: BinaryIO, position: int, layout: _Layout) -> tuple[bytes, int, int]:
    """Return the name of the chunk at a position, the size of its body, and the position of that."""
    data = read_at(stream, position, layout.name_bytes + layout.size_bytes)
    size = int.from_bytes(data[layout.name_bytes :], "big" if layout.order == "big" else "little")
    header = layout.name_bytes + layout.size_bytes
    return data[: layout.name_bytes], size - (header if layout.size_includes_header else 0), position + header


def _end_of_chunk(body: int, size: int, start: int, layout: _Layout) -> int:
    """Return the position of the next chunk, which is aligned."""
    stop = body + max(0, size)
    return stop + (start - stop) % layout.alignment


def _is_no_audio(stream: BinaryIO, position: int, size: int, layout: _Layout | None) -> bool:
    """Return whether the rest of a file consists of chunks, tags or zeros."""
    for shift in (0, -1):  # some programs do not align chunks
        chunk = position + shift
        for _ in range(_MAX_CHUNKS):
            head = read_at(stream, chunk, 12)
            if size - chunk < 16 or head.startswith(_TAGS):
                return True
            if layout is None:
                break
            name, length, body = _read_chunk(stream, chunk, layout)
            if not (name.isascii() and name[:4].decode("ascii").isprintable()) or body + length > size:
                break
            chunk = _end_of_chunk(body, length, position, layout)
    while block := read_at(stream, position, _BLOCK):
        if block.count(0) < len(block):
            return False
        position += len(block)
    return True


def _with_size(stream: BinaryIO, start: int, size: int, chunk: _AudioChunk) -> BinaryIO:
    """Return a view of a file whose header specifies that the audio extends to the end."""
    value = size - chunk.start + chunk.added
    if value == chunk.size + chunk.added or value >= 1 << 8 * chunk.field_bytes:
        return stream if start == 0 else view(stream, [(start, size)])
    field = value.to_bytes(chunk.field_bytes, "big" if chunk.order == "big" else "little")
    return replace_bytes(stream, size, {chunk.field: field}, start)
