"""Audio in containers that libsndfile does not read, such as m4a, webm, wma and videos, with PyAV (FFmpeg)."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, BinaryIO, Self

import numpy as np

_GAP_SECONDS = 0.05  # smaller differences between the times of frames are rounding
_PREROLL_SECONDS = 0.5  # decoded before a crop: codecs such as AAC and Opus need some packets to settle


def is_container(stream: BinaryIO) -> bool:
    """Return whether a file is in a container of FFmpeg, by its first bytes."""
    stream.seek(0)
    start = stream.read(16)
    stream.seek(0)
    return (
        start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")  # MP4, M4A, QuickTime
        or start[:4] in (b"\x1aE\xdf\xa3", b"0&\xb2u", b"FLV\x01", b"ADIF")  # Matroska and WebM, ASF (wma), Flash, AAC
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
        or (len(start) > 1 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0)  # AAC in ADTS
        or start[:4] in (b"\0\0\1\xba", b"\0\0\1\xb3")  # MPEG program stream
    )


@contextmanager
def open_container(stream: BinaryIO, name: str) -> Iterator["ContainerFile"]:
    """
    Open the first audio stream of a container.

    Raises:
        ValueError: PyAV is not installed, or the file has no audio that FFmpeg can decode.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} is in a format of FFmpeg, such as m4a, mp4, webm or wma: to read it, run `pip install "
            "'musicfm_hf[av]'`."
        ) from error
    try:
        with ContainerFile(av, stream, name) as file:
            yield file
    except av.FFmpegError as error:
        raise ValueError(f"{name} is not audio that can be read ({error.strerror or error})") from error


class ContainerFile:
    """
    An audio stream of a container, with the methods of [`soundfile.SoundFile`] that reading needs. Positions are
    exact: decoding starts before them, and samples are selected by the times of frames. In a crop, noise that a codec
    synthesizes (as AAC may) differs from that in the whole file.

    Attributes:
        samplerate (`int`): Rate in Hz.
        channels (`int`): Number of channels.
        frames (`int`): Samples per channel, counted from the times of all packets; the last packet may have a few
            less.
    """

    def __init__(self, av: ModuleType, source: BinaryIO, name: str):
        self._av, self._source = av, source
        self._container: Any = None
        self._position = 0
        self._decoded: Iterator[np.ndarray] = iter(())
        if not self._open().streams.audio:
            raise ValueError(f"{name} has no audio stream.")
        context = self._stream.codec_context
        self.samplerate, self.channels = context.sample_rate, context.layout.nb_channels
        self._rest = np.zeros((0, self.channels), dtype=np.float32)
        first = next(self._samples(), None)
        self._origin = 0 if first is None else first[0]  # of the first sample, counted from time 0
        self.frames = 0 if first is None else self._end() - self._origin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def tell(self) -> int:
        """Return the position in samples."""
        return self._position

    def seek(self, position: int) -> None:
        """Set the position in samples."""
        self._position = position
        self._decoded = self._from(position + self._origin)
        self._rest = self._rest[:0]

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Read the next samples, float32 `(samples, channels)`; fewer at the end."""
        blocks, count = [self._rest], len(self._rest)
        while count < frames and (block := next(self._decoded, None)) is not None:
            blocks.append(block)
            count += len(block)
        samples = np.concatenate(blocks)
        self._rest = samples[frames:]
        self._position += min(frames, len(samples))
        return samples[:frames]

    @property
    def _stream(self) -> Any:
        return self._container.streams.audio[0]

    def _open(self) -> Any:
        """Open the container again, so that decoding starts with the first packet, and return it."""
        if self._container is not None:
            self._container.close()
        self._source.seek(0)
        self._container = self._av.open(self._source)
        return self._container

    def _end(self) -> int:
        """Return the end of the last packet, in samples from time 0."""
        self._open()
        unit = self._stream.time_base * self.samplerate
        packets = self._container.demux(self._stream)
        return max(round((p.pts + (p.duration or 0)) * unit) for p in packets if p.pts is not None)

    def _from(self, wanted: int) -> Iterator[np.ndarray]:
        """Yield the samples from `wanted` on, counted from time 0. Gaps between frames become silence."""
        following: int | None = None  # the place after the last frame, more exact than the times of some containers
        for time, samples in self._samples(wanted - self._origin):
            is_continuous = following is not None and abs(time - following) < _GAP_SECONDS * self.samplerate
            place = following if is_continuous and following is not None else time
            following = place + len(samples)
            if place > wanted:
                yield np.zeros((place - wanted, self.channels), dtype=np.float32)
                wanted = place
            if following > wanted:
                yield samples[wanted - place :]
                wanted = following

    def _samples(self, position: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Yield decoded frames, from before `position` on: first sample from time 0, float32 `(samples, channels)`."""
        self._open()
        before = position / self.samplerate - _PREROLL_SECONDS
        unit = self._stream.time_base * self.samplerate
        if before > 0 and unit <= 1:  # in Matroska and WebM, times are not exact enough to start elsewhere
            start = (self._stream.start_time or 0) + round(before / self._stream.time_base)
            self._container.seek(start, stream=self._stream)
        resampler = self._av.AudioResampler(format="fltp")
        for frame in self._container.decode(self._stream):
            if frame.pts is not None:
                place = round(frame.pts * unit)
                for converted in resampler.resample(frame):
                    yield place, converted.to_ndarray().T
