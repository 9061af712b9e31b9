"""
Audio effects with random settings; see [`musicfm_hf.audio.effect_chain`].

An effect maps a mono waveform, float32 `(samples,)`, its sampling rate in Hz and a generator to a changed waveform of
the same shape. Effects do not move events: filters are causal and short, and codecs are decoded without their delay.
All random numbers come from the generator, unlike those of audiomentations, which come from global generators.
"""

import io
from collections.abc import Callable

import numpy as np
import soundfile
from scipy import signal

Effect = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

_SILENCE_RMS = 1e-6
_LEVEL_SECONDS = 0.005  # between two gains of the compressor
_BLOCK_SAMPLES = 1 << 16  # libsndfile overflows its stack if it encodes minutes of Vorbis at once

# Bands of devices in Hz: telephone, AM radio, small loudspeaker, vinyl, low-rate stream.
_BANDS = ((300, 3400), (80, 5000), (200, 10000), (45, 11000), (20, 7500))


def equalize(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Change bass, one band and treble by up to 9 dB (filters of R. Bristow-Johnson, *Audio EQ Cookbook*)."""
    gains = generator.uniform(-9, 9, size=3)
    sections = [
        _filter_section("low", _log_uniform(generator, 60, 300), gains[0], 0.7, rate),
        _filter_section("peak", _log_uniform(generator, 200, 5000), gains[1], generator.uniform(0.5, 2), rate),
        _filter_section("high", _log_uniform(generator, 2000, 8000), gains[2], 0.7, rate),
    ]
    return _with_rms_of(waveform, signal.sosfilt(np.array(sections, dtype=np.float32), waveform))


def compress(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Reduce the dynamics by a ratio of 2 to 8 above a threshold of -15 to 0 dB, relative to the mean level."""
    size = max(1, round(_LEVEL_SECONDS * rate))
    blocks = np.pad(waveform, (0, -len(waveform) % size)).reshape(-1, size)
    levels = 10 * np.log10(np.square(blocks).mean(axis=1) + 1e-12) - 20 * np.log10(_rms(waveform))
    excess = np.maximum(levels - generator.uniform(-15, 0), 0)
    reduction = -excess * (1 - 1 / generator.uniform(2, 8))
    decay = np.exp(-_LEVEL_SECONDS / _log_uniform(generator, 0.005, 0.1))
    smoothed = signal.lfilter([1 - decay], [1, -decay], reduction)
    gains = (10 ** (np.concatenate([smoothed[:1], smoothed]) / 20)).astype(np.float32)
    ramp = np.arange(size, dtype=np.float32) / size
    blocks = blocks * (gains[:-1, None] + np.diff(gains)[:, None] * ramp)
    return _with_rms_of(waveform, blocks.reshape(-1)[: len(waveform)])


def reverberate(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Add a room: filtered noise that decays by 60 dB within 0.2 to 1.2 s, 3 to 20 dB below the direct sound."""
    seconds = _log_uniform(generator, 0.2, 1.2)
    times = np.arange(round(seconds * rate)) / rate
    room = generator.standard_normal(len(times)) * 10 ** (-3 * times / seconds)
    room = _smooth(room, generator.uniform(0.2, 0.9))
    room[: round(generator.uniform(0.002, 0.03) * rate)] = 0
    room *= 10 ** (generator.uniform(-20, -3) / 20) / np.sqrt(np.square(room).sum())
    room[0] = 1
    wet = signal.oaconvolve(waveform, room.astype(np.float32))[: len(waveform)]
    return _with_rms_of(waveform, wet)


def add_noise(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Add white, pink or brown noise, hum of the mains, or crackle, 15 to 40 dB below the mean level."""
    kind = int(generator.integers(5))
    if kind == 3:
        harmonics = np.arange(1, 6) * generator.choice([50, 60])
        second = np.sin(2 * np.pi * np.outer(harmonics, np.arange(rate) / rate))
        noise = np.resize(
            (generator.uniform(0, 1, size=5) / np.arange(1, 6) @ second).astype(np.float32), len(waveform)
        )
    elif kind == 4:
        noise = np.zeros(len(waveform), dtype=np.float32)
        count = int(generator.poisson(_log_uniform(generator, 1, 30) * len(waveform) / rate)) + 1
        noise[generator.integers(len(noise), size=count)] = generator.laplace(size=count)
        noise = _smooth(noise, 0.7)
    else:
        noise = generator.standard_normal(len(waveform), dtype=np.float32)
        noise = _smooth(noise, (0.0, 0.9, 0.99)[kind])
    gain = _rms(waveform) * 10 ** (generator.uniform(-40, -15) / 20) / (_rms(noise) + 1e-12)
    return waveform + np.float32(gain) * noise


def limit_band(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Keep the band of a telephone, an AM radio, a small loudspeaker, vinyl, or a stream of low rate."""
    low, high = _BANDS[generator.integers(len(_BANDS))] * generator.uniform(0.85, 1.15, size=2)
    sections = signal.butter(2, [low, min(high, 0.45 * rate)], "bandpass", fs=rate, output="sos")
    return signal.sosfilt(sections.astype(np.float32), waveform)


def clip(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Clip, hard or softly, 1 to 9 dB below the peak."""
    limit = np.float32(np.abs(waveform).max() * 10 ** (generator.uniform(-9, -1) / 20))
    if generator.random() < 0.5:
        return np.clip(waveform, -limit, limit)
    return limit * np.tanh(waveform / limit)


def code(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Encode at a low bit rate and decode: MP3 at a standard rate, or Vorbis."""
    is_mp3 = generator.random() < 0.5 and rate in (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
    kind = ("MP3", "MPEG_LAYER_III") if is_mp3 else ("OGG", "VORBIS")
    peak = max(float(np.abs(waveform).max()), 1e-6)
    buffer = io.BytesIO()
    level = generator.uniform(0.7, 0.99)
    with soundfile.SoundFile(buffer, "w", rate, 1, kind[1], format=kind[0], compression_level=level) as file:
        for start in range(0, len(waveform), _BLOCK_SAMPLES):
            file.write(waveform[start : start + _BLOCK_SAMPLES] / (1.05 * peak))
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, len(waveform), dtype="float32")
    return np.pad(decoded * (1.05 * peak), (0, len(waveform) - len(decoded)))


def change_level(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Change the level by -15 to 6 dB, without exceeding a peak of 1."""
    gain = 10 ** (generator.uniform(-15, 6) / 20)
    return waveform * np.float32(min(gain, 1 / max(float(np.abs(waveform).max()), 1e-6)))


# Effects in order, and the share of the changed waveforms that get them. The slow ones are rare.
CHAIN: tuple[tuple[Effect, float], ...] = (
    (equalize, 0.6),
    (compress, 0.3),
    (reverberate, 0.3),
    (add_noise, 0.4),
    (limit_band, 0.2),
    (clip, 0.15),
    (code, 0.1),
    (change_level, 0.8),
)


def _smooth(values: np.ndarray, feedback: float) -> np.ndarray:
    """Filter values with a low-pass of one pole, in their own precision."""
    one = np.ones(1, dtype=values.dtype)
    return signal.lfilter(one, np.array([1, -feedback], dtype=values.dtype), values)


def _rms(waveform: np.ndarray) -> float:
    """Return the root mean square of a waveform."""
    return float(np.sqrt(np.dot(waveform, waveform) / max(len(waveform), 1)))


def _with_rms_of(original: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Scale a waveform to the level of another one."""
    return changed * np.float32(_rms(original) / max(_rms(changed), _SILENCE_RMS))


def _log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


def _filter_section(shape: str, frequency: float, decibels: float, q: float, rate: int) -> np.ndarray:
    """Return the coefficients `(6,)` of a low shelf, high shelf or peak, as `scipy.signal.sosfilt` takes them."""
    amplitude, angle = 10 ** (decibels / 40), 2 * np.pi * min(frequency, 0.45 * rate) / rate
    cosine, alpha = np.cos(angle), np.sin(angle) / (2 * q)
    if shape == "peak":
        b = [1 + alpha * amplitude, -2 * cosine, 1 - alpha * amplitude]
        a = [1 + alpha / amplitude, -2 * cosine, 1 - alpha / amplitude]
    else:
        sign = 1 if shape == "low" else -1
        plus, minus, root = amplitude + 1, amplitude - 1, 2 * np.sqrt(amplitude) * alpha
        b = [
            amplitude * (plus - sign * minus * cosine + root),
            2 * sign * amplitude * (minus - sign * plus * cosine),
            amplitude * (plus - sign * minus * cosine - root),
        ]
        a = [
            plus + sign * minus * cosine + root,
            -2 * sign * (minus + sign * plus * cosine),
            plus + sign * minus * cosine - root,
        ]
    return np.array([*b, *a]) / a[0]
