"""
Audio files as the parts that they consist of, each with its true length.

Headers may specify less audio than a file holds, or nothing, and files may be joined end to end. libsndfile reads what
the header of the first file specifies, so it is given views of the file with correct headers. Audio that libsndfile
does not know is decoded by FFmpeg.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from itertools import groupby
from typing import BinaryIO, Protocol

import numpy as np
import soundfile

from .byte_view import read_at, stream_size, view
from .chunk_headers import open_chunks
from .ffmpeg import INSTALL, FFmpegPart, load_pyav
from .flac_frames import open_flac
from .mpeg_frames import after_tag, find_mpeg_parts, frame_format
from .ogg_pages import find_ogg_links, is_ogg_truncated

_BLOCK_FRAMES = 1 << 16
_SMALL_BLOCK_FRAMES = 1 << 12
_MAX_FRAMES = 2**48  # libsndfile reports a larger number if it does not know the length
_TOLERATED_FRAMES = 2  # of mp3, which may be missing at the end
_CHUNK_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"riff", b".snd")


class Part(Protocol):
    """
    A part of a file that is decoded by itself.

    Attributes:
        rate (`int`): Sampling rate in Hz.
        frames (`int`): Number of samples per channel.
        is_truncated (`bool`): Whether the header specifies more audio.
        tolerance (`int`): Number of samples that may be missing at the end.
    """

    rate: int
    frames: int
    is_truncated: bool
    tolerance: int

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield samples `start` to `stop` in blocks `(samples, channels)` float32, as far as they can be decoded."""
        ...

    def close(self) -> None:
        """Close the decoder; it is opened again on demand."""
        ...


class SoundFilePart:
    """
    A part that libsndfile decodes; see [`Part`].

    Args:
        stream (`BinaryIO`): The part.
        is_truncated (`bool`): Whether the header of the file specifies more audio.
        frames (`int`, *optional*): Number of samples per channel, if it is not the one that libsndfile reports.
        tolerance (`int`): Number of samples that may be missing at the end.

    Raises:
        soundfile.LibsndfileError, TypeError: libsndfile does not know the format, or the file is damaged.
    """

    def __init__(self, stream: BinaryIO, is_truncated: bool = False, frames: int | None = None, tolerance: int = 0):
        self._stream = stream
        self._file: soundfile.SoundFile | None = None
        file = self._open()
        self.rate, self.is_truncated, self.tolerance = file.samplerate, is_truncated, tolerance
        self.frames = file.frames if frames is None else frames
        if self.frames > _MAX_FRAMES:
            self.frames = sum(len(block) for block in self.blocks(0, _MAX_FRAMES))

    def _open(self) -> soundfile.SoundFile:
        if self._file is None:
            self._stream.seek(0)
            self._file = soundfile.SoundFile(self._stream)
        return self._file

    def close(self) -> None:
        """Close the decoder; it is opened again on demand."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield samples `start` to `stop` in blocks `(samples, channels)` float32, as far as they can be decoded."""
        file, size = self._open(), _BLOCK_FRAMES
        is_there = file.tell() == start
        while start < stop:
            try:
                if not is_there:
                    file.seek(start)
                    is_there = True
                block = file.read(min(size, stop - start), dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                if size == _SMALL_BLOCK_FRAMES:
                    return
                size, is_there = _SMALL_BLOCK_FRAMES, False  # keeps as much audio before the damage as possible
                continue
            if len(block) == 0:
                return
            start += len(block)
            yield block


class Run:
    """
    Consecutive parts of one sampling rate, which are resampled together.

    Attributes:
        rate (`int`): Sampling rate in Hz.
        frames (`int`): Number of samples per channel.
        missing_from (`int`, *optional*): First sample that could not be decoded, of those that were asked for.
    """

    def __init__(self, rate: int, parts: list[Part]):
        self.rate, self.parts = rate, parts
        self.frames = sum(part.frames for part in parts)
        self.missing_from: int | None = None

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """
        Yield samples `start` to `stop` in blocks `(samples, channels)`, as far as they can be decoded. Zeros replace
        what is missing before another part.
        """
        offset = 0
        for part in self.parts:
            first, last = max(0, start - offset), min(part.frames, stop - offset)
            if first < last:
                for block in part.blocks(first, last):
                    first += len(block)
                    yield block
                if first < last - part.tolerance and self.missing_from is None:
                    self.missing_from = offset + first
                if first < last and part is not self.parts[-1]:
                    yield np.zeros((last - first, 1), dtype=np.float32)
                if len(self.parts) > 1:
                    part.close()
            offset += part.frames


class Recording:
    """
    All audio of a file.

    Args:
        stream (`BinaryIO`): The file.
        name (`str`): Name of the file in messages.

    Attributes:
        runs (`list[Run]`): The parts, grouped by sampling rate.
        is_truncated (`bool`): Whether the header specifies more audio.
        remarks (`list[str]`): Sentences about the file, if its audio may differ from what was recorded.

    Raises:
        ValueError: the file cannot be decoded.
    """

    def __init__(self, stream: BinaryIO, name: str):
        self.name = name
        self.remarks: list[str] = []
        parts = self._open_parts(stream)
        parts = [part for part in parts if part.frames] or parts[:1]
        self.runs = [Run(rate, list(group)) for rate, group in groupby(parts, key=lambda part: part.rate)]
        self.is_truncated = parts[-1].is_truncated
        if self.is_truncated:
            end = float(self.seconds)
            self.remark(f"is truncated: its header specifies more than the {end:.3f} s that it has")

    @property
    def seconds(self) -> Fraction:
        """Duration."""
        return sum((Fraction(run.frames, run.rate) for run in self.runs), Fraction(0))

    def start_of(self, run: Run) -> Fraction:
        """Return the start of a run in seconds."""
        earlier = self.runs[: self.runs.index(run)]
        return sum((Fraction(other.frames, other.rate) for other in earlier), Fraction(0))

    def remark(self, text: str) -> None:
        """Add a remark: the end of a sentence that begins with the name of the file."""
        self.add_remark(f"{self.name} {text}.")

    def add_remark(self, sentence: str) -> None:
        """Add a sentence about the file, unless it is known."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def close(self) -> None:
        """Close all decoders."""
        for run in self.runs:
            for part in run.parts:
                part.close()

    def _open_parts(self, stream: BinaryIO) -> list[Part]:
        """Open the parts of a file with libsndfile, or else the file with FFmpeg."""
        parts: list[Part] = []
        try:
            for make_part in self._find_parts(stream):
                parts.append(make_part())
                if len(parts) > 1:
                    parts[-2].close()
        except (soundfile.LibsndfileError, TypeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(". ")
            if parts:
                end = float(sum(Fraction(part.frames, part.rate) for part in parts))
                self.remark(f"can only be read up to {end:.3f} s ({reason})")
                return parts
            if load_pyav() is None:
                raise ValueError(f"{reason}; AAC, wma and video need an extra: {INSTALL}") from error
            try:
                return [FFmpegPart(stream)]
            except ValueError as other:
                raise ValueError(f"{reason}; {other}") from error
        return parts

    def _find_parts(self, stream: BinaryIO) -> list[Callable[[], Part]]:
        """Return functions that open the parts of a file."""
        start = 0
        while (after := after_tag(stream, start)) is not None:
            start = after
        magic, size = read_at(stream, start, 4), stream_size(stream)
        if magic == b"OggS":
            links = find_ogg_links(stream)
            views = [stream] if len(links) == 1 else [view(stream, [link]) for link in links]
            is_truncated = is_ogg_truncated(stream, size)
            return [partial(SoundFilePart, part, is_truncated and part is views[-1]) for part in views]
        if magic == b"fLaC":
            return [partial(SoundFilePart, *part) for part in open_flac(stream, start)]
        if magic in _CHUNK_MAGIC and start == 0:
            files = open_chunks(stream)
            if any(file.unannounced for file in files):
                self.remark("has more audio than its header specifies; all of it is read")
            return [partial(SoundFilePart, file.stream, file.is_truncated) for file in files]
        if start or frame_format(stream, start, size) is not None:
            return _mpeg_parts(stream, start) or [partial(SoundFilePart, stream)]
        return [partial(SoundFilePart, stream)]


def _mpeg_parts(stream: BinaryIO, start: int) -> list[Callable[[], Part]]:
    """Return functions that open the parts of an mp3."""
    parts = find_mpeg_parts(stream, start)
    if len(parts) == 1 and parts[0].is_exact:
        return [partial(SoundFilePart, stream, tolerance=_TOLERATED_FRAMES * parts[0].format.samples)]
    return [
        partial(
            SoundFilePart,
            part.open(stream),
            part.is_truncated,
            part.frames * part.format.samples if part.promised_frames is None else None,
            _TOLERATED_FRAMES * part.format.samples,
        )
        for part in parts
    ]
