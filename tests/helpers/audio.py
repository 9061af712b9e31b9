"""Synthetic music, and padded batches of it."""

import io
from collections.abc import Sequence

import numpy as np
import soundfile
import torch


def music(seconds: float, sampling_rate: int = 24000, seed: int = 0) -> np.ndarray:
    """Chords with a beat and some noise, float32 `(samples,)`."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    audio = 0.01 * generator.standard_normal(len(time))
    for start in np.arange(0, seconds, 0.5):
        here = (time >= start) & (time < start + 0.5)
        for frequency in generator.choice([220.0, 261.6, 329.6, 392.0, 523.3], 3, replace=False):
            audio[here] += 0.2 * np.sin(2 * np.pi * frequency * time[here]) * np.exp(-3 * (time[here] - start))
    return audio.astype(np.float32)


def padded_batch(
    waveforms: Sequence[np.ndarray], left: bool = False, value: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms padded with `value` on the right or the left, and their mask, both `(batch, samples)`."""
    longest = max(map(len, waveforms))
    input_values, mask = torch.full((len(waveforms), longest), value), torch.zeros(len(waveforms), longest).long()
    for row, waveform in enumerate(waveforms):
        place = slice(longest - len(waveform), None) if left else slice(len(waveform))
        input_values[row, place], mask[row, place] = torch.from_numpy(waveform), 1
    return input_values, mask


def encode(audio: np.ndarray, rate: int, format: str, subtype: str | None = None, **settings: object) -> bytes:
    """Encode a waveform `(samples,)` or `(samples, channels)` with libsndfile."""
    buffer = io.BytesIO()
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    with soundfile.SoundFile(buffer, "w", rate, channels, format=format, subtype=subtype, **settings) as file:
        for start in range(0, len(audio), rate):  # libsndfile crashes if it gets a long Vorbis at once
            file.write(audio[start : start + rate])
    return buffer.getvalue()


def encode_with_ffmpeg(audio: np.ndarray, rate: int, container: str, codec: str, video: bool = False) -> bytes:
    """Encode a waveform `(samples,)` with FFmpeg, in mono, or in stereo if the codec needs it."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.layout = "stereo" if codec == "vorbis" else "mono"
        stream.bit_rate = 128000
        stream.codec_context.options = {"strict": "experimental"}
        pictures = file.add_stream("mpeg4", rate=5) if video else None
        if pictures is not None:
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
        frame = av.AudioFrame.from_ndarray(np.tile(audio, (stream.channels, 1)), "fltp", stream.layout)
        frame.sample_rate, frame.pts = rate, 0
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format.name, stream.layout, rate, size)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            file.mux(stream.encode(part))
        for number in range(len(audio) * 5 // rate if pictures is not None else 0):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8), "rgb24")
            picture.pts = number
            file.mux(pictures.encode(picture))
        if pictures is not None:
            file.mux(pictures.encode())
    return buffer.getvalue()
