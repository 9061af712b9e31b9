"""Spectrograms for the picture of a song."""

from collections.abc import Sequence

import numpy as np

LOWEST, HIGHEST = 50.0, 8000.0  # Hz

BANDS = 150


def spectrograms(
    waveform: np.ndarray, sampling_rate: int, intervals: Sequence[tuple[float, float]]
) -> list[np.ndarray]:
    """
    Compute the spectrogram of each interval, in dB below the peak of the whole song, on a log frequency scale.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`), sampling_rate (`int`): Mono audio.
        intervals: Start and end in seconds.

    Returns:
        float64 `(bands, frames)` for each interval, with 40 frames per second.
    """
    images = [_log_spectrogram(waveform, sampling_rate, start, end) for start, end in intervals]
    peak = max((np.percentile(image, 99.7) for image in images), default=0.0)
    return [image - peak for image in images]


def _log_spectrogram(
    waveform: np.ndarray, sampling_rate: int, start: float, end: float, fps: float = 40.0
) -> np.ndarray:
    """Compute the mean power of bands `(bands, frames)` in dB, with a tilt of 3 dB per octave."""
    size = 2 ** round(np.log2(0.15 * sampling_rate))
    centers = np.round(np.arange(start, end, 1 / fps) * sampling_rate).astype(int)
    first, last = centers[0] - size // 2, centers[-1] + size // 2
    part = waveform[max(0, first) : last].astype(np.float32)
    part = np.pad(part, (max(0, -first), max(0, last - max(0, first) - len(part))))
    frames = np.lib.stride_tricks.sliding_window_view(part, size)[centers - centers[0]]
    power = np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1)) ** 2
    sums = np.pad(power.cumsum(axis=1), [(0, 0), (1, 0)])  # of all bins below an edge
    edges = np.geomspace(LOWEST, min(HIGHEST, 0.49 * sampling_rate), BANDS + 1)
    places = edges / sampling_rate * size + 0.5
    lower = places.astype(int)
    below = sums[:, lower] + (places - lower) * (sums[:, lower + 1] - sums[:, lower])
    means = np.diff(below, axis=1) / np.diff(places)
    return (10 * np.log10(means + 1e-9) + 3 * np.log2(edges[1:] / edges[0])).T
