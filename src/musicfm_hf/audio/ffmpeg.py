"""Audio that libsndfile does not know (AAC, wma, video files), decoded by FFmpeg through PyAV (the extra `av`)."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

INSTALL = "pip install 'musicfm_hf[av]'"

# No playlists or scripts, which could name other files.
_FORMATS = (
    "3gp,aac,ac3,aiff,amr,ape,asf,avi,caf,dts,dtshd,eac3,flac,flv,loas,m4a,matroska,mov,mp3,mp4,mpc,mpc8,mpeg,mpegts,"
    "ogg,rm,tak,tta,wav,webm,wv"
)
_FIXED_FRAMES = ("aac", "alac", "flac", "mp2", "mp3", "opus", "pcm")  # codecs whose frames have the same length
_RELIABLE_DURATIONS = ("mov", "matroska", "asf")  # of others, FFmpeg estimates it from the bit rate
_PREROLL_SECONDS = 1.0  # decoded before a crop, so that the decoder has settled
_TOLERANCE_SECONDS = 0.5  # of durations
_END = 1 << 62  # a position after all samples


def load_pyav() -> ModuleType | None:
    """Import PyAV, or return `None` if it is not installed."""
    try:
        import av
    except ImportError:
        return None
    return av


class FFmpegPart:
    """
    The first audio stream of a file, decoded by FFmpeg. Sample 0 is the first one that is heard: the delay of the
    encoder is cut off.

    Args:
        stream (`BinaryIO`): The file.

    Attributes:
        rate (`int`): Sampling rate in Hz.
        frames (`int`): Number of samples per channel. If the file does not specify it, it is found by decoding.
        is_truncated (`bool`): Whether the file specifies more audio.
        tolerance (`int`): Number of samples that may be missing at the end.

    Raises:
        ValueError: FFmpeg cannot decode the file, or the file has no audio.
        ImportError: PyAV is not installed.
    """

    tolerance = 0

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.rate = 0
        # Samples of the first frame, samples of the others, and the time of the second frame.
        self._grid: tuple[int, int, int] | None = None
        with _Container(stream) as container:
            self._find_grid(container)
            promised = container.promised_samples(self.rate)
            exact = container.exact_samples(self.rate)
        decoded = self._last_sample()
        self.frames = decoded if exact is None else min(decoded, exact)
        self.is_truncated = promised is not None and decoded < promised - _TOLERANCE_SECONDS * self.rate

    def close(self) -> None:
        """Do nothing: the file is open only while it is decoded."""

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield samples `start` to `stop` in blocks `(samples, channels)` float32, as far as they can be decoded."""
        for position, block in self._decode(start):
            first, last = max(0, start - position), min(len(block), stop - position)
            if last > first:
                yield block[first:last]
            if position + len(block) >= stop:
                return

    def _find_grid(self, container: "_Container") -> None:
        """Set the rate, and the positions of frames if they follow from their times."""
        heads = []
        for frame in container.decode():
            heads.append(frame)
            if len(heads) == 4:
                break
        if not heads:
            raise ValueError("its audio cannot be decoded")
        self.rate = heads[0].sample_rate
        if (
            len(heads) < 4
            or not container.codec.startswith(_FIXED_FRAMES)
            or any(frame.pts is None for frame in heads)
        ):
            return
        first, second, third, _ = heads
        step = container.samples(third.pts - second.pts, self.rate)
        if second.samples == third.samples and abs(step - second.samples) <= container.samples(1, self.rate) + 1:
            self._grid = (first.samples, second.samples, second.pts)

    def _last_sample(self) -> int:
        """Return the number of samples that can be decoded."""
        end = 0
        for position, block in self._decode(_END):
            end = position + len(block)
        return end

    def _decode(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks and their positions: from shortly before `start` if that can be found exactly, or from 0."""
        if self._grid is not None and start > 2 * _PREROLL_SECONDS * self.rate:
            is_found = False
            for position, block in self._decode_from(start / self.rate - _PREROLL_SECONDS, self._grid):
                if not is_found and position > start:
                    break
                is_found = True
                yield position, block
            if is_found:
                return
        with _Container(self._stream) as container:
            position = 0
            for frame in container.decode():
                yield position, _samples(frame)
                position += frame.samples

    def _decode_from(self, seconds: float, grid: tuple[int, int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks and their positions from a frame before a time on; none if FFmpeg cannot go there."""
        first, size, time = grid
        with _Container(self._stream) as container:
            frames = container.decode() if container.seek(seconds) else iter(())
            next(frames, None)  # the decoder of Opus cuts off a part of the frame after a seek
            position = None
            for frame in frames:
                if position is None and frame.pts is not None:
                    position = first + size * round(container.samples(frame.pts - time, self.rate) / size)
                if position is not None:
                    yield position, _samples(frame)
                    position += frame.samples


class _Container:
    """An open file: its first audio stream, and its times in samples."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def __enter__(self) -> "_Container":
        av = load_pyav()
        if av is None:
            raise ImportError(f"PyAV is not installed: {INSTALL}")
        self._stream.seek(0)
        self._errors = (av.FFmpegError, UnicodeDecodeError)
        try:
            self._file = av.open(self._stream, options={"format_whitelist": _FORMATS})
        except self._errors as error:
            raise ValueError(f"FFmpeg cannot read it either: {error}") from error
        self._audio: Any = next(iter(self._file.streams.audio), None)
        if self._audio is None or self._audio.codec_context is None:
            self._file.close()
            raise ValueError("it has no audio" if self._audio is None else "the codec of its audio is unknown")
        self.codec = self._audio.codec_context.codec.canonical_name
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def samples(self, ticks: int, rate: int) -> float:
        """Return a time in samples."""
        return float(ticks * self._audio.time_base * rate)

    def exact_samples(self, rate: int) -> int | None:
        """Return the number of samples that an edit list specifies; `None` if times are too coarse for that."""
        if self._audio.duration is None or self._audio.time_base * rate != 1 or "mov" not in self._file.format.name:
            return None
        return int(self._audio.duration)

    def promised_samples(self, rate: int) -> int | None:
        """Return the length that the file specifies, about, or `None` if it does not."""
        if not any(name in self._file.format.name for name in _RELIABLE_DURATIONS):
            return None
        if self._audio.duration is not None:
            return round(self.samples(self._audio.duration, rate))
        others = len(self._file.streams) > 1  # a video may be longer than its audio
        return None if self._file.duration is None or others else round(self._file.duration * rate / 1_000_000)

    def seek(self, seconds: float) -> bool:
        """Go to a frame at or before a time, if possible."""
        limit = self._file.duration
        if limit is not None:
            seconds = min(seconds, max(0.0, limit / 1_000_000 - 2 * _PREROLL_SECONDS))
        time = int(seconds / self._audio.time_base) + (self._audio.start_time or 0)
        try:
            self._file.seek(time, stream=self._audio, backward=True)
        except self._errors:
            return False
        return True

    def decode(self) -> Iterator[Any]:
        """Yield frames until the end, or until decoding fails."""
        frames = self._file.decode(self._audio)
        while True:
            try:
                frame = next(frames, None)
            except self._errors:
                return
            if frame is None:
                return
            if frame.samples:
                yield frame


def _samples(frame: Any) -> np.ndarray:
    """Return the samples of a frame `(samples, channels)` float32; integers are divided by their full scale."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128.0) / 128.0
    if values.dtype.kind == "i":
        return (values / 2.0 ** (8 * values.dtype.itemsize - 1)).astype(np.float32)
    return values.astype(np.float32, copy=False)
