"""
Pages of Ogg streams (RFC 3533).

An Ogg file can be a chain: complete streams that follow one another, as radio stations send them for each song and
`cat` joins them. libsndfile reads the first of them only.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from .byte_view import read_at, stream_size

_CHUNK = 1 << 16  # bytes that are read at once
_EDGE = 1 << 14  # bytes at the beginning and the end in which `_is_single` examines all pages
_PROBE = 1 << 12  # bytes between them that it reads at once, until it finds a page
_MAX_PAGE = 27 + 255 + 255 * 255  # bytes
_SPACING = 1.5  # ratio of the distances at which `_is_single` examines pages
_FIRST, _LAST = 2, 4  # flags of the first and last page of a stream


class Page(NamedTuple):
    """Position and size of a page in bytes; and its flags, the serial number of its stream, and its own number."""

    position: int
    size: int
    flags: int
    serial: int
    number: int


def find_ogg_links(stream: BinaryIO) -> list[tuple[int, int]]:
    """
    Return start and stop, in bytes, of the links of a chain; a single one if the file is not a chain.

    Pages from the beginning, the end and between are enough to tell that a file is not a chain, so that a crop does
    not read a whole file. Otherwise all page headers are read.
    """
    size = stream_size(stream)
    if _is_single(stream, size):
        return [(0, size)]
    starts, is_beginning = [0], True
    for page in _pages(stream, 0, size):
        # A stream that is multiplexed begins with the first pages of all its streams.
        if page.flags & _FIRST and not is_beginning:
            starts.append(page.position)
        is_beginning = bool(page.flags & _FIRST)
    return list(zip(starts, [*starts[1:], size], strict=True))


def is_ogg_truncated(stream: BinaryIO, stop: int) -> bool:
    """Return whether the last page before byte `stop` is incomplete, or is not the last page of its stream."""
    last = _last_page(stream, stop)
    return last is None or not last.flags & _LAST or last.position + last.size > stop


def _is_single(stream: BinaryIO, size: int) -> bool:
    """
    Return whether all pages seem to belong to one link: their streams begin at the beginning of the file, and the
    numbers of their pages increase.

    Pages are examined at distances from the beginning that grow by less than the golden ratio. If the same stream
    began a second time, with pages of similar size, the first page that is examined after it would have a lower
    number than the last one before it.
    """
    numbers: dict[int, int] = {}  # of the latest page of each stream
    for page in _pages(stream, 0, min(size, _EDGE), _EDGE):
        is_known = page.serial in numbers
        if bool(page.flags & _FIRST) is is_known or (is_known and page.number <= numbers[page.serial]):
            return False
        numbers[page.serial] = page.number
    position = float(_EDGE)
    while position < size - _EDGE:
        following = next(_pages(stream, int(position), size, _PROBE), None)
        if following is None or following.number < numbers.get(following.serial, following.number + 1):
            return False
        numbers[following.serial] = following.number
        position *= _SPACING
    for page in _pages(stream, max(_EDGE, size - _EDGE), size, _EDGE):
        if page.flags & _FIRST or page.number < numbers.get(page.serial, page.number + 1):
            return False
        numbers[page.serial] = page.number
    return bool(numbers)


def _pages(stream: BinaryIO, position: int, stop: int, chunk: int = _CHUNK) -> Iterator[Page]:
    """Yield the pages that begin between two bytes, reading `chunk` bytes at once."""
    while position < stop:
        data = read_at(stream, position, chunk)
        offset = data.find(b"OggS")
        if offset < 0:
            position += max(1, len(data) - 3)
            continue
        while offset + 27 <= len(data) and position + offset < stop:
            header = data[offset : offset + 27]
            table = data[offset + 27 : offset + 27 + header[26]]
            if header[:5] != b"OggS\0" or len(table) < header[26]:  # not a page, or continued in the next chunk
                break
            serial, number = (int.from_bytes(header[at : at + 4], "little") for at in (14, 18))
            page = Page(position + offset, 27 + len(table) + sum(table), header[5], serial, number)
            yield page
            offset += page.size
        position += max(offset, 1)


def _last_page(stream: BinaryIO, stop: int) -> Page | None:
    """Return the last page that begins before byte `stop`, or `None` without one."""
    for tail in (_EDGE, _MAX_PAGE):
        pages = list(_pages(stream, max(0, stop - tail), stop, tail))
        if pages:
            return pages[-1]
    return None
