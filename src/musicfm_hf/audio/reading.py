"""Read audio files, or parts of them, as float32 mono at any sampling rate."""

import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

_QUALITY = "HQ"  # of soxr: 20 bit, linear phase, passband to 0.91 of the lower Nyquist rate

_BLOCK_FRAMES = 1 << 16

_SMALL_BLOCK_FRAMES = 1 << 12

_MAX_FRAMES = 2**48  # libsndfile reports a larger number if it does not know the length

_MARGIN_SECONDS = 0.1  # also read around a crop, so that the resampler has settled where the crop starts


def load_audio(
    source: str | os.PathLike | bytes | BinaryIO | Mapping[str, Any],
    sampling_rate: int = 24000,
    start: float = 0.0,
    duration: float | None = None,
) -> np.ndarray:
    """
    Read audio as float32 mono of shape `(samples,)`.

    All formats of libsndfile are supported (wav, flac, ogg, opus, mp3, aiff and more). The format is recognized by
    content, not by file name. Channels are averaged, and soxr resamples at high quality. A crop has the same samples
    as the corresponding part of the whole file, but little more than the crop is decoded. For a truncated file, the
    audio up to the truncation is returned, with a `UserWarning`.

    Args:
        source: A path, bytes, a binary file object, or a value of a column `Audio(decode=False)` of `datasets`: a
            mapping with `bytes` or `path`.
        sampling_rate (`int`): Rate of the result, in Hz.
        start (`float`): Start of the part to read, in seconds.
        duration (`float`, *optional*): Maximum duration to read, in seconds. Defaults to the rest of the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the source is not audio, is empty, ends before `start`, or has NaN or infinite samples.
        TypeError: `source` is of an unsupported type.
    """
    _check_crop(sampling_rate, start, duration)
    with _open_audio(source) as (file, stream, name):
        audio = _read(file, name, sampling_rate, start, duration, _breaks_off(file, stream))
    if not np.isfinite(audio).all():
        raise ValueError(f"{name} has {int((~np.isfinite(audio)).sum())} NaN or infinite samples.")
    return audio


def audio_length(source: str | os.PathLike | bytes | BinaryIO | Mapping[str, Any]) -> tuple[int, int]:
    """
    Return the number of samples per channel and the sampling rate in Hz, reading only the header.

    Args:
        source: As for [`load_audio`].

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the source is not audio, or its header does not specify the length.
        TypeError: `source` is of an unsupported type.
    """
    with _open_audio(source) as (file, _, name):
        frames, rate = file.frames, file.samplerate
    if frames > _MAX_FRAMES:
        raise ValueError(f"The header of {name} does not specify its length.")
    return frames, rate


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample a waveform `(samples,)` with soxr at high quality. Rates are in Hz."""
    return audio if from_rate == to_rate else soxr.resample(audio, from_rate, to_rate, _QUALITY)


def _check_crop(sampling_rate: int, start: float, duration: float | None) -> None:
    """Raise a `ValueError` if an argument is out of range."""
    if not isinstance(sampling_rate, int) or sampling_rate <= 0:
        raise ValueError(f"`sampling_rate` must be a positive integer, got {sampling_rate!r}.")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"`start` must be 0 or more seconds, got {start}.")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"`duration` must be more than 0 seconds, got {duration}.")


@contextmanager
def _open_audio(source: Any) -> Iterator[tuple[soundfile.SoundFile, BinaryIO, str]]:
    """Yield the opened file, its stream, and a name for messages. Raise a `ValueError` if it cannot be decoded."""
    stream, name = _open_source(source)
    try:
        with soundfile.SoundFile(stream) as file:
            yield file, stream, name
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        raise ValueError(f"{name} is not audio that can be read ({reason})") from error
    finally:
        if stream is not source:
            stream.close()


def _open_source(source: Any) -> tuple[BinaryIO, str]:
    """Return a stream for soundfile, and a name for messages."""
    if isinstance(source, Mapping):
        path, content = source.get("path"), source.get("bytes")
        if content is not None:
            return _open_source(content)[0], str(path or "audio")
        source = path
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) == 0:
            raise ValueError("The audio has no bytes.")
        return io.BytesIO(source), f"audio of {len(source)} bytes"
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"The file {path} does not exist")
        if not path.is_file():
            raise ValueError(f"{path} is not a file.")
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty.")
        # Opened by descriptor, so that soundfile recognizes the content and ignores the extension.
        return open(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), "rb"), str(path)
    if hasattr(source, "read") and hasattr(source, "seek"):
        return source, str(getattr(source, "name", "audio"))
    raise TypeError(f"`source` must be a path, bytes, a binary file or a mapping with them, got {type(source)}.")


def _breaks_off(file: soundfile.SoundFile, stream: BinaryIO) -> bool:
    """Return whether a file is shorter than its header specifies. `_read` detects damage inside a file."""
    # libsndfile reports a wav or aiff that is too short in this form. Headers of streams give the largest length.
    promised = re.search(r"^ *(?:data|SSND) *: *(\d+) *\(should be \d+\)", file.extra_info, re.MULTILINE)
    if promised and int(promised[1]) < 0x7FFFFF00:
        return True
    if file.format != "OGG":
        return False
    position = stream.tell()
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - (1 << 16)))  # an Ogg page is shorter than that
    tail = stream.read()
    stream.seek(position)
    _, last_page, header = tail.rpartition(b"OggS")
    return not last_page or len(header) < 2 or not header[1] & 4  # the flag of the last page (RFC 3533)


def _read(
    file: soundfile.SoundFile, name: str, sampling_rate: int, start: float, duration: float | None, is_truncated: bool
) -> np.ndarray:
    """
    Read a part of an open file as [`load_audio`] does. `is_truncated` states that the file is shorter than its header
    specifies.
    """
    if file.frames == 0:
        raise ValueError(f"{name} has no samples.")
    rate = file.samplerate
    if start * rate >= file.frames:
        raise ValueError(f"{name} ends at {file.frames / rate:.3f} s, before `start` ({start} s).")
    # The samples of the result, and the part of the file to read, in steps at which samples of both rates coincide.
    first = round(start * sampling_rate)
    last = math.ceil(file.frames * sampling_rate / rate)
    if duration is not None:
        last = min(last, round((start + duration) * sampling_rate))
    common = math.gcd(rate, sampling_rate)
    step_in, step_out = rate // common, sampling_rate // common
    margin = math.ceil(_MARGIN_SECONDS * common)
    begin = max(0, first // step_out - margin)
    end = min(file.frames, (-(-last // step_out) + margin) * step_in)

    if begin:
        file.seek(begin * step_in)
    blocks = []
    count = 0
    resampler = soxr.ResampleStream(rate, sampling_rate, 1, "float32", _QUALITY) if rate != sampling_rate else None
    for block in _mono_blocks(file, end - begin * step_in):
        count += len(block)
        blocks.append(block if resampler is None else resampler.resample_chunk(block))
    if resampler is not None:
        blocks.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    is_truncated = is_truncated or count < end - begin * step_in
    blocks.append(np.zeros(0, dtype=np.float32))  # `concatenate` needs at least one
    audio = np.concatenate(blocks)[first - begin * step_out : last - begin * step_out]
    if len(audio) == 0:
        raise ValueError(f"{name} has no audio that can be decoded from {start} s on.")
    if is_truncated:
        seconds = (begin * step_in + count) / rate
        warnings.warn(f"{name} is truncated: its header specifies more than the {seconds:.3f} s read.", stacklevel=3)
    return audio


def _mono_blocks(file: soundfile.SoundFile, frames: int) -> Iterator[np.ndarray]:
    """Yield the next `frames` frames in blocks, with channels averaged, until decoding fails."""
    size = _BLOCK_FRAMES
    while frames > 0:
        position = file.tell()
        try:
            block = file.read(min(size, frames), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            if size == _SMALL_BLOCK_FRAMES:
                return
            size = _SMALL_BLOCK_FRAMES  # keeps as much audio before the damage as possible
            file.seek(position)
            continue
        if len(block) == 0:
            return
        frames -= len(block)
        yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
