"""Identity of audio: where it is, and which content it has. Results are made again if either has changed."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .catalog import DatasetAudio, fetch_audio


def audio_place(source: Any, name: str) -> str:
    """
    Return where audio is: the absolute path of a file; the folder, column and row of a data set on disk; or `name` for
    audio in memory. Nothing is read.

    Args:
        source: Audio for [`musicfm_hf.load_audio`], or a [`DatasetAudio`].
        name (`str`): Name of the audio in its catalog.
    """
    if isinstance(source, DatasetAudio):
        files = source.dataset.cache_files
        folder = Path(files[0]["filename"]).parent.absolute() if files else Path(name).parent
        return _readable(folder / source.column / str(source.index))
    path = _path(source)
    return name if path is None else _readable(path)


def audio_state(source: Any) -> str:
    """
    Return text that changes with the content of audio: the size and the modification time of a file; a digest of them
    and the path, if a data set has the path; or a digest of bytes or samples. Return an empty text if the content
    cannot be known, because the file does not exist or the source is of another type.
    """
    source = fetch_audio(source)
    path = _path(source)
    if path is not None:
        if not path.is_file():
            return ""
        times = f"{path.stat().st_size} {path.stat().st_mtime_ns}"
        return digest(f"{_readable(path)} {times}".encode()) if isinstance(source, Mapping) else times
    content, rate = source, None
    if isinstance(source, Mapping):
        content, rate = source.get("bytes"), source.get("sampling_rate")
        content = source.get("array") if content is None else content
    if isinstance(content, bytes | bytearray | memoryview):
        return digest(bytes(content))
    if not hasattr(content, "__array__"):
        return ""
    samples = np.ascontiguousarray(content)
    return digest(f"{samples.dtype} {samples.shape} {rate} ".encode() + samples.tobytes())


def digest(content: bytes) -> str:
    """Return the BLAKE2b digest of bytes, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def free_name(name: str, is_free: Callable[[str], bool]) -> str:
    """Return the first of [`numbered_names`] that is free."""
    return next(filter(is_free, numbered_names(name)))


def numbered_names(name: str) -> Iterator[str]:
    """Yield `name`, `name-2`, `name-3` and so on."""
    return itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))


def _path(source: Any) -> Path | None:
    """Return the absolute path of audio that is read from a file, or `None`."""
    if isinstance(source, Mapping) and source.get("bytes") is None and source.get("array") is None:
        source = source.get("path")
    return Path(os.path.abspath(source)) if isinstance(source, str | os.PathLike) else None


def _readable(path: Path) -> str:
    """Return a path as text in UTF-8. Bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
