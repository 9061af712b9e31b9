"""Read audio files, or parts of them, as float32 mono at any sampling rate."""

import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from ..model.feature_extraction_musicfm import channels_cancel, explain_canceled
from .containers import ContainerFile, is_container, open_container
from .streams import stream_parts

_QUALITY = "HQ"  # of soxr: 20 bit, linear phase, passband to 0.91 of the lower Nyquist rate

_BLOCK_FRAMES = 1 << 16

_SMALL_BLOCK_FRAMES = 1 << 12

_MAX_FRAMES = 2**48  # libsndfile reports a larger number if it does not know the length

_MARGIN_SECONDS = 0.1  # also read around a crop, so that the resampler has settled where the crop starts


class _OpenStream(NamedTuple):
    """An open stream of a file: its samples, their number, and what is known about its end."""

    file: "soundfile.SoundFile | ContainerFile"
    frames: int  # samples per channel
    is_truncated: bool  # shorter than its header specifies
    slack: int  # samples that may be missing at the end of a complete stream


def load_audio(
    source: str | os.PathLike | bytes | BinaryIO | Mapping[str, Any],
    sampling_rate: int = 24000,
    start: float = 0.0,
    duration: float | None = None,
) -> np.ndarray:
    """
    Read audio as float32 mono of shape `(samples,)`.

    All formats of libsndfile are supported (wav, flac, ogg, opus, mp3, aiff and more) and, with PyAV (`pip install
    musicfm_hf[av]`), those of FFmpeg, such as AAC in m4a, wma, webm and the audio of videos. The format is recognized
    by content, not by file name. The stream is read to its end, whatever its header specifies, and files that were
    joined (mp3, chained Ogg) are read as one. soxr resamples at high quality. A crop has the same samples as the
    corresponding part of the whole file, but little more than the crop is decoded. For a truncated file, the audio up
    to the truncation is returned, with a `UserWarning`.

    Channels are averaged. If they cancel each other out (the average is 40 dB weaker than they are), the loudest
    channel is returned, with a `UserWarning`.

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
    sampling_rate = _check_crop(sampling_rate, start, duration)
    with _open_audio(source) as (streams, name):
        total = sum(stream.frames / stream.file.samplerate for stream in streams)
        if total == 0:
            raise ValueError(f"{name} has no samples.")
        if start >= total:
            raise ValueError(f"{name} ends at {total:.3f} s, before `start` ({start} s).")
        first = round(start * sampling_rate)
        last = None if duration is None else round((start + duration) * sampling_rate)
        audio, seconds, is_truncated, canceled = _read_streams(streams, sampling_rate, first, last)
    if len(audio) == 0:
        raise ValueError(f"{name} has no audio that can be decoded from {start} s on.")
    if is_truncated:
        warnings.warn(f"{name} is truncated: its header specifies more than the {seconds:.3f} s read.", stacklevel=2)
    if canceled is not None:
        warnings.warn(explain_canceled(name, canceled), stacklevel=2)
    if not np.isfinite(audio).all():
        raise ValueError(f"{name} has {int((~np.isfinite(audio)).sum())} NaN or infinite samples.")
    return audio


def audio_length(source: str | os.PathLike | bytes | BinaryIO | Mapping[str, Any]) -> tuple[int, int]:
    """
    Return the number of samples per channel and the sampling rate in Hz. Little is decoded: the number is that in the
    header if it can be relied on, and counted from the headers of MPEG frames, Ogg pages or packets otherwise. If a
    file consists of several streams, the rate is that of the first one. For a truncated file, the number is
    approximate.

    Args:
        source: As for [`load_audio`].

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the source is not audio.
        TypeError: `source` is of an unsupported type.
    """
    with _open_audio(source) as (streams, _):
        rate = streams[0].file.samplerate
        return sum(round(stream.frames * rate / stream.file.samplerate) for stream in streams), rate


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample a waveform `(samples,)` with soxr at high quality. Rates are in Hz."""
    return audio if from_rate == to_rate else soxr.resample(audio, from_rate, to_rate, _QUALITY)


def _check_crop(sampling_rate: int, start: float, duration: float | None) -> int:
    """Return the rate as an `int`, or raise a `ValueError` if an argument is out of range."""
    if not isinstance(sampling_rate, Integral) or isinstance(sampling_rate, bool) or sampling_rate <= 0:
        raise ValueError(f"`sampling_rate` must be a positive integer, got {sampling_rate!r}.")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"`start` must be 0 or more seconds, got {start}.")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"`duration` must be more than 0 seconds, got {duration}.")
    return int(sampling_rate)


@contextmanager
def _open_audio(source: Any) -> Iterator[tuple[list[_OpenStream], str]]:
    """Yield the open streams of a file, and a name for messages. Raise a `ValueError` if it cannot be decoded."""
    stream, name = _open_source(source)
    try:
        with ExitStack() as stack:
            if is_container(stream):
                file = stack.enter_context(open_container(stream, name))
                yield [_OpenStream(file, file.frames, False, file.samplerate // 10)], name
                return
            streams = []
            for part in stream_parts(stream):
                sound = stack.enter_context(soundfile.SoundFile(part.stream))
                frames = sound.frames if part.frames is None else part.frames
                is_truncated = part.is_truncated or _breaks_off(sound)
                if frames > _MAX_FRAMES:
                    frames = _count_frames(sound)
                streams.append(_OpenStream(sound, frames, is_truncated, part.slack))
            yield streams, name
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
        if path is None:
            raise ValueError(f"The audio is null: a mapping needs `bytes` or `path`, got keys {[*source]}.")
        source = path
    if source is None:
        raise ValueError("The audio is null (`None`): leave this row out, or pass a path, bytes or a waveform.")
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


def _breaks_off(file: soundfile.SoundFile) -> bool:
    """
    Return whether a wav or aiff is shorter than its header specifies, which libsndfile reports. `_read` detects damage
    inside a file.
    """
    promised = re.search(r"^ *(?:data|SSND) *: *(\d+) *\(should be \d+\)", file.extra_info, re.MULTILINE)
    return promised is not None and int(promised[1]) < 0x7FFFFF00  # headers of streams give the largest length


def _count_frames(file: soundfile.SoundFile) -> int:
    """Count the samples per channel of a file whose header does not give their number, by decoding it."""
    count = sum(len(block) for block in _blocks(file, _MAX_FRAMES))
    file.seek(0)
    return count


def _read_streams(
    streams: list[_OpenStream], sampling_rate: int, first: int, last: int | None
) -> tuple[np.ndarray, float, bool, int | None]:
    """
    Read samples `first` to `last` of streams that follow each other, counted at `sampling_rate`.

    Returns:
        The samples, the end of the last one in seconds, whether a stream ended too soon, and the channel that was used
        if channels cancel each other out.
    """
    parts, offset, seconds, is_truncated, channel = [], 0, 0.0, False, None
    for stream in streams:
        length = math.ceil(stream.frames * sampling_rate / stream.file.samplerate)
        begin, end = max(first - offset, 0), length if last is None else min(last - offset, length)
        if begin < end:
            audio, end_seconds, is_short, canceled = _read(stream, sampling_rate, begin, end)
            parts.append(audio)
            seconds = offset / sampling_rate + end_seconds
            is_truncated |= is_short
            channel = canceled if channel is None else channel
        offset += length
    audio = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.float32), *parts])
    return audio, seconds, is_truncated, channel


def _read(
    stream: _OpenStream, sampling_rate: int, first: int, last: int
) -> tuple[np.ndarray, float, bool, int | None]:
    """Read a part of one stream; see [`_read_streams`]."""
    rate = stream.file.samplerate
    # The part of the file to read, in steps at which samples of both rates coincide.
    common = math.gcd(rate, sampling_rate)
    step_in, step_out = rate // common, sampling_rate // common
    margin = math.ceil(_MARGIN_SECONDS * common)
    begin = max(0, first // step_out - margin)
    end = min(stream.frames, (-(-last // step_out) + margin) * step_in)

    channel = None
    audio, mixture = _read_mixed(stream.file, sampling_rate, begin * step_in, end - begin * step_in)
    if channels_cancel(mixture.energy, mixture.energies):
        channel = int(mixture.energies.argmax())
        audio, _ = _read_mixed(stream.file, sampling_rate, begin * step_in, end - begin * step_in, channel)
    is_short = (stream.is_truncated and end == stream.frames) or mixture.count + stream.slack < end - begin * step_in
    audio = audio[first - begin * step_out : last - begin * step_out]
    return audio, (begin * step_in + mixture.count) / rate, is_short, channel


class _Mixture:
    """Number and energies of the samples that were read so far: of the average, and of each channel."""

    def __init__(self, channels: int):
        self.count, self.energy, self.energies = 0, 0.0, np.zeros(channels)

    def add(self, block: np.ndarray, average: np.ndarray) -> None:
        """Count a block `(samples, channels)` and its average `(samples,)`."""
        self.count += len(block)
        if block.shape[1] > 1:
            self.energy += float(np.dot(average, average))
            self.energies += np.einsum("ij,ij->j", block, block)


def _read_mixed(
    file: "soundfile.SoundFile | ContainerFile",
    sampling_rate: int,
    start: int,
    frames: int,
    channel: int | None = None,
) -> tuple[np.ndarray, _Mixture]:
    """Read `frames` samples from `start` on, average the channels or select one, and resample the result."""
    rate, mixture, parts = file.samplerate, _Mixture(file.channels), []
    resampler = soxr.ResampleStream(rate, sampling_rate, 1, "float32", _QUALITY) if rate != sampling_rate else None
    file.seek(start)
    for block in _blocks(file, frames):
        mono = block[:, channel or 0] if channel is not None or file.channels == 1 else block.mean(axis=1)
        mixture.add(block, mono)
        mono = np.ascontiguousarray(mono)
        parts.append(mono if resampler is None else resampler.resample_chunk(mono))
    if resampler is not None:
        parts.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    return np.concatenate([*parts, np.zeros(0, dtype=np.float32)]), mixture  # `concatenate` needs at least one


def _blocks(file: "soundfile.SoundFile | ContainerFile", frames: int) -> Iterator[np.ndarray]:
    """Yield the next `frames` samples in blocks `(samples, channels)`, until decoding fails."""
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
        yield block
