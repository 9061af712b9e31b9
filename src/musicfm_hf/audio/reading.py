"""Read audio files, or parts of them, as float32 mono at any sampling rate."""

import io
import math
import operator
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soxr

from ..model.feature_extraction_musicfm import channels_cancel, choose_channel, explain_canceled
from .recording import Recording, Run

_QUALITY = "HQ"  # of soxr: 20 bit, linear phase, passband to 0.91 of the lower Nyquist rate

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
    content, not by file name. With the extra `av`, FFmpeg decodes formats that libsndfile does not know: AAC (m4a),
    wma, and the audio of videos. soxr resamples at high quality. A crop has the same samples as the corresponding part
    of the whole file, but little more than the crop is decoded, except in wma, AC-3 and Vorbis in videos.

    Audio is read to the end of the file, whatever its header specifies. Files that were joined, as chained Ogg is, are
    read one after another.

    A `UserWarning` is raised, and the audio that can be decoded is returned, if a file is truncated or damaged, or if
    more audio follows in a wav (and the like) than its header specifies.

    Channels are averaged. If they cancel each other out (the average is 40 dB weaker than they are), a single channel
    is returned, with a `UserWarning`. This is decided for the part that is read, so a crop may differ from the whole
    file if only a passage of it cancels.

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
    with open_recording(source) as recording:
        audio = read_part(recording, sampling_rate, start, duration)
    for remark in recording.remarks:
        warnings.warn(remark, stacklevel=2)
    return audio


def audio_length(source: str | os.PathLike | bytes | BinaryIO | Mapping[str, Any]) -> tuple[int, int]:
    """
    Return the number of samples per channel that a file holds, and its sampling rate in Hz.

    Only headers and the end of the file are read where they are enough. All frame headers are read in an mp3 and in
    joined Ogg files, and audio is decoded if nothing specifies its length, as in wma. If parts of a file have
    different rates, this is the number at the rate of the first one.

    Args:
        source: As for [`load_audio`].

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the source is not audio.
        TypeError: `source` is of an unsupported type.
    """
    with open_recording(source) as recording:
        rate = recording.runs[0].rate
        return math.floor(recording.seconds * rate), rate


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample a waveform `(samples,)` with soxr at high quality. Rates are in Hz."""
    return audio if from_rate == to_rate else soxr.resample(audio, from_rate, to_rate, _QUALITY)


def checked_rate(value: Any, meaning: str = "a positive integer, in Hz") -> int:
    """
    Return a sampling rate as `int`; `meaning` is for the error message.

    Raises:
        ValueError: the value is not a positive whole number, of Python, NumPy or torch.
    """
    try:
        rate = operator.index(value)
    except TypeError:
        is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
        rate = int(value) if is_whole else 0
    if rate <= 0 or isinstance(value, bool | np.bool_):
        raise ValueError(f"`sampling_rate` must be {meaning}, got {value!r}.")
    return rate


def _check_crop(start: float, duration: float | None) -> None:
    """Raise a `ValueError` if an argument is out of range, or a `TypeError` if it is no number."""
    for name, value in (("start", start), ("duration", 0.0 if duration is None else duration)):
        if not isinstance(value, Real):
            raise TypeError(f"`{name}` must be a number of seconds, got {value!r}.")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"`start` must be 0 or more seconds, got {start}.")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"`duration` must be more than 0 seconds, got {duration}.")


@contextmanager
def open_recording(source: Any) -> Iterator[Recording]:
    """
    Open audio for [`read_part`]. For arguments and errors, see [`load_audio`]; instead of a warning, the recording has
    `remarks`.
    """
    stream, name = _open_source(source)
    try:
        try:
            recording = Recording(stream, name)
        except ValueError as error:
            raise ValueError(f"{name} is not audio that can be read ({error})") from error
        try:
            yield recording
        finally:
            recording.close()
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


def read_part(
    recording: Recording, sampling_rate: int = 24000, start: float = 0.0, duration: float | None = None
) -> np.ndarray:
    """
    Read a part of an open recording. For arguments and errors, see [`load_audio`]. What cannot be decoded is added to
    the remarks of the recording.
    """
    sampling_rate = checked_rate(sampling_rate)
    _check_crop(start, duration)
    seconds = recording.seconds
    if seconds == 0:
        raise ValueError(f"{recording.name} has no samples.")
    if start >= seconds:
        raise ValueError(f"{recording.name} ends at {float(seconds):.3f} s, before `start` ({start} s).")
    first = round(start * sampling_rate)
    stop = None if duration is None else round((start + duration) * sampling_rate)
    pieces = []
    elapsed = Fraction(0)
    for run in recording.runs:
        # The samples of the result that belong to this run, and those of them that are to be read.
        begin = round(elapsed * sampling_rate)
        elapsed += Fraction(run.frames, run.rate)
        is_last = run is recording.runs[-1]
        end = begin + math.ceil(run.frames * sampling_rate / run.rate) if is_last else round(elapsed * sampling_rate)
        low, high = max(first, begin), end if stop is None else min(stop, end)
        if low < high:
            pieces.append(_read_run(recording, run, sampling_rate, low - begin, high - begin))
            if not is_last:
                pieces.append(np.zeros(high - low - len(pieces[-1]), dtype=np.float32))
    audio = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if len(audio) == 0:
        raise ValueError(f"{recording.name} has no audio that can be decoded from {start} s on.")
    if not np.isfinite(audio).all():
        raise ValueError(f"{recording.name} has {int((~np.isfinite(audio)).sum())} NaN or infinite samples.")
    return audio


def _read_run(recording: Recording, run: Run, sampling_rate: int, first: int, last: int) -> np.ndarray:
    """Return samples `first` to `last` of a run at `sampling_rate`, with channels averaged."""
    # The part of the run to read, in steps at which samples of both rates coincide.
    common = math.gcd(run.rate, sampling_rate)
    step_in, step_out = run.rate // common, sampling_rate // common
    margin = math.ceil(_MARGIN_SECONDS * common)
    begin = max(0, first // step_out - margin)
    end = min(run.frames, (-(-last // step_out) + margin) * step_in)

    mixer = _Mixer()
    audio = _resample_blocks(map(mixer.mean, run.blocks(begin * step_in, end)), run.rate, sampling_rate)
    if channels_cancel(mixer.mean_energy, mixer.energies):
        channel = choose_channel(mixer.energies)
        recording.add_remark(explain_canceled(recording.name, channel))
        blocks = (block[:, min(channel, block.shape[1] - 1)] for block in run.blocks(begin * step_in, end))
        audio = _resample_blocks(blocks, run.rate, sampling_rate)
    if run.missing_from is not None and not recording.is_truncated:
        seconds = float(recording.start_of(run) + Fraction(run.missing_from, run.rate))
        recording.remark(f"is damaged: it cannot be decoded from {seconds:.3f} s on")
    return audio[first - begin * step_out : last - begin * step_out]


class _Mixer:
    """Averages channels block by block, and adds up the energies of the mean and of the channels."""

    def __init__(self) -> None:
        self.mean_energy = 0.0
        self.energies = np.zeros(0)

    def mean(self, block: np.ndarray) -> np.ndarray:
        """Return the mean `(samples,)` of a block `(samples, channels)`."""
        if block.shape[1] == 1:
            return block[:, 0]
        mean = block.mean(axis=1)
        self.mean_energy += float(np.dot(mean, mean))
        energies = np.array([np.dot(values, values) for values in block.T], dtype=np.float64)
        if len(energies) > len(self.energies):
            energies, self.energies = self.energies, energies
        self.energies[: len(energies)] += energies
        return mean


def _resample_blocks(blocks: Iterable[np.ndarray], from_rate: int, to_rate: int) -> np.ndarray:
    """Resample the waveform that blocks `(samples,)` make up."""
    if from_rate == to_rate:
        return np.concatenate([*blocks, np.zeros(0, dtype=np.float32)])  # needs at least one
    resampler = soxr.ResampleStream(from_rate, to_rate, 1, "float32", _QUALITY)
    resampled = [resampler.resample_chunk(np.ascontiguousarray(block)) for block in blocks]
    return np.concatenate([*resampled, resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)])
