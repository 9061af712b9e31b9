"""Queries as a user writes them: a song, a part of one, or words."""

import os
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import NamedTuple

from ..data.catalog import AUDIO_EXTENSIONS

_TIME = r"(?:\d+:)?(?:\d+:)?\d+(?:\.\d+)?"
_PART = re.compile(rf"(.+)@({_TIME})-({_TIME})?", re.DOTALL)


class Query(NamedTuple):
    """
    A parsed query: words, or a song of the index or audio in a file.

    Attributes:
        words (`str`, *optional*): Words to search for.
        song (`int`, *optional*): Song of the index.
        path (`str`, *optional*): Audio file.
        start (`float`): Start of the part of the song, in seconds.
        end (`float`, *optional*): End of the part; the end of the song by default.
    """

    words: str | None = None
    song: int | None = None
    path: str | None = None
    start: float = 0.0
    end: float | None = None

    @property
    def is_part(self) -> bool:
        """True if the query is a part of a song."""
        return self.start > 0 or self.end is not None


def parse_query(text: str, find_song: Callable[[str], int | None]) -> Query:
    """
    Parse a query: a file or the name of a song in the index, either with or without a part such as `@1:10-1:30`,
    `@70-90` or `@70-`; or words.

    Args:
        text (`str`): The query.
        find_song (`Callable`): Name or path → song of the index, or `None`.

    Raises:
        FileNotFoundError: the query looks like a file and neither exists nor is in the index.
        ValueError: it is empty, a part ends before it starts, or what follows the `@` after a song is not a part.
    """
    if not text.strip():
        raise ValueError("The query is empty. Pass a song, a part of one such as song.mp3@1:10-1:30, or words.")
    name, start, end = text, 0.0, None
    song = find_song(name)
    match = _PART.fullmatch(text)
    if song is None and match is not None and not os.path.isfile(text):
        name, start = match[1], _seconds(match[2])
        end = None if match[3] is None else _seconds(match[3])
        if end is not None and end <= start:
            raise ValueError(f"The part {match[2]}-{match[3]} of {name} ends before it starts.")
        song = find_song(name)
    if os.path.isfile(name) or song is not None:
        return Query(song=song, path=name if os.path.isfile(name) else None, start=start, end=end)
    before, at, part = text.rpartition("@")
    is_song = os.path.isfile(before) or PurePath(before).suffix.lower() in AUDIO_EXTENSIONS
    if at and match is None and is_song and "/" not in part:
        raise ValueError(
            f"{part!r} is not a part of {before}: write its start and end in seconds or minutes, such as "
            f"{before}@1:10-1:30 or {before}@70-."
        )
    if _looks_like_path(name):
        raise FileNotFoundError(
            f"{name} does not exist, and the index has no song of this name. If these are words, add `--words`."
        )
    return Query(words=text)


def _looks_like_path(text: str) -> bool:
    """Return whether a text was probably meant as a file."""
    path = PurePath(text)
    return (
        path.suffix.lower() in AUDIO_EXTENSIONS
        or text.startswith(("/", "./", "../", "~"))
        or (len(path.parts) > 1 and " " not in text)
    )


def _seconds(text: str) -> float:
    """Convert hours, minutes and seconds to seconds: `1:10` to 70."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
