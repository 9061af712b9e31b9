"""
Sounds that are not music, generated from seeds: noises, crowds, and applause in rooms.

Every function takes a generator, a number of samples and a sampling rate in Hz, and returns float64 `(samples,)` with
a root mean square of 1. Each split has kinds of its own, so that a model is tested with noises that it has not heard.
Applause is in all splits: of small groups in small rooms in the training set, and of large ones in halls in the
others.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Noise = Callable[[np.random.Generator, int, int], np.ndarray]


class Applause(NamedTuple):
    """Numbers of people, and reverberation times of rooms in seconds, from which applause is drawn."""

    people: tuple[int, int]
    reverberation: tuple[float, float]


APPLAUSE = {
    "train": Applause((3, 60), (0.2, 0.8)),
    "validation": Applause((60, 120), (0.8, 1.2)),
    "test": Applause((100, 400), (1.2, 2.5)),
}


def colored(exponent: float) -> Noise:
    """Return a noise whose power falls with frequency to the `exponent`: 0 is white, 1 pink, 2 brown, −1 blue."""

    def noise(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
        frequencies = np.fft.rfftfreq(samples, 1 / rate).clip(20)
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        return _normalized(np.fft.irfft(spectrum * frequencies ** (-exponent / 2), samples))

    return noise


def hum(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """Hum of the mains at 50 or 60 Hz with harmonics, over a little noise."""
    times = np.arange(samples) / rate
    base = float(rng.choice([50.0, 60.0]))
    harmonics = np.arange(1, int(rng.integers(3, 16)))
    strengths = rng.random(len(harmonics)) / harmonics ** rng.uniform(0.3, 1.5)
    phases = rng.uniform(0, 2 * np.pi, len(harmonics))
    tones = [
        strength * np.sin(2 * np.pi * base * number * times + phase)
        for number, strength, phase in zip(harmonics, strengths, phases, strict=True)
    ]
    return _normalized(_normalized(np.sum(tones, axis=0)) + rng.uniform(0.02, 0.3) * colored(1)(rng, samples, rate))


def crowd(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """Murmur of a crowd: noises in bands of the voice, each with syllables of its own, three to six a second."""
    voices = np.zeros(samples)
    for _ in range(int(rng.integers(6, 20))):
        low = rng.uniform(150, 1200)
        band = _band(rng.standard_normal(samples), low, low * rng.uniform(1.5, 3), rate)
        voices += band * _slow(rng, samples, rate, rng.uniform(3, 6)) ** 2
    return _normalized(voices)


def rain(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """Rain: many drops over a hiss."""
    drops = _impulses(rng, samples, rate, rng.uniform(50, 400))
    burst = np.exp(-np.arange(round(0.004 * rate)) / (0.001 * rate)) * rng.standard_normal(round(0.004 * rate))
    hiss = colored(rng.uniform(-0.5, 0.5))(rng, samples, rate)
    return _normalized(_normalized(_convolved(drops, burst)) + rng.uniform(0.2, 1.0) * hiss)


def crackle(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """Crackle of an empty groove: clicks, and a low rumble."""
    clicks = _impulses(rng, samples, rate, rng.uniform(5, 60)) * rng.standard_normal(samples)
    return _normalized(_normalized(clicks) + rng.uniform(0.1, 0.6) * colored(2)(rng, samples, rate))


def wind(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """Gusts of wind: low noise that swells, with more high frequencies when it is loud."""
    gusts = _slow(rng, samples, rate, rng.uniform(0.2, 0.8))
    return _normalized(gusts * colored(2)(rng, samples, rate) + gusts**3 * colored(1)(rng, samples, rate))


def surf(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """Waves on a beach."""
    waves = _slow(rng, samples, rate, rng.uniform(0.1, 0.25))
    return _normalized((0.1 + waves**2) * colored(0.7)(rng, samples, rate))


def engine(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """An engine: pulses at 20 to 60 Hz whose rate drifts, and noise in step with them."""
    speed = rng.uniform(20, 60) * (1 + 0.2 * (_slow(rng, samples, rate, 0.2) - 0.5))
    pulses = 1 - np.mod(np.cumsum(speed) / rate, 1.0)
    return _normalized(pulses - pulses.mean() + rng.uniform(0.3, 1.0) * pulses * colored(1)(rng, samples, rate))


NOISES: Mapping[str, Mapping[str, Noise]] = {
    "train": {"white": colored(0), "pink": colored(1), "hum": hum, "crowd": crowd, "rain": rain},
    "validation": {"brown": colored(2), "crackle": crackle},
    "test": {"blue": colored(-1), "wind": wind, "surf": surf, "engine": engine},
}


def applause(rng: np.random.Generator, samples: int, rate: int, setting: Applause) -> np.ndarray:
    """
    Applause: people who clap two to five times a second, each with a sound of their own kind, in a room.

    Args:
        setting ([`Applause`]): Ranges from which the number of people and the reverberation are drawn.
    """
    times = np.arange(samples) / rate
    people = int(rng.integers(*setting.people, endpoint=True))
    seconds = rng.uniform(*setting.reverberation)
    decay = np.exp(-6.9 * np.arange(round(seconds * rate)) / seconds / rate)  # 60 dB in `seconds`
    room = decay * rng.standard_normal(len(decay))
    room *= rng.uniform(0.3, 1.5) / np.sqrt(np.sum(room**2))  # relative to the direct sound
    room[0] += 1.0
    kinds = np.zeros((6, samples))
    for _ in range(people):
        claps = np.cumsum(rng.normal(1 / rng.uniform(2, 5), 0.02, int(6 * times[-1]) + 8).clip(0.08)) - rng.random()
        places = (claps[(claps >= 0) & (claps < times[-1])] * rate).astype(int)
        np.add.at(kinds[rng.integers(len(kinds))], places, rng.uniform(0.2, 1.0))
    length = np.arange(round(0.03 * rate))
    sound = np.zeros(samples)
    for claps in kinds:
        burst = rng.standard_normal(len(length)) * np.exp(-length / (rng.uniform(0.002, 0.008) * rate))
        low = rng.uniform(500, 1500)
        sound += _convolved(claps, _band(burst, low, low * rng.uniform(1.5, 4), rate))
    return _normalized(_convolved(sound, room))


def _impulses(rng: np.random.Generator, samples: int, rate: int, per_second: float) -> np.ndarray:
    """Return impulses of random strength at random times."""
    return (rng.random(samples) < per_second / rate) * rng.random(samples) ** 2


def _slow(rng: np.random.Generator, samples: int, rate: int, frequency: float) -> np.ndarray:
    """Return a random curve between 0 and 1 that changes about `frequency` times a second."""
    points = rng.random(int(samples / rate * 2 * frequency) + 4)
    return np.interp(np.arange(samples) / rate * 2 * frequency, np.arange(len(points)), points)


def _band(signal: np.ndarray, low: float, high: float, rate: int) -> np.ndarray:
    """Keep the frequencies between two limits in Hz, with soft edges."""
    frequencies = np.fft.rfftfreq(len(signal), 1 / rate).clip(1)
    center, width = np.log(low * high) / 2, np.log(high / low) / 2
    gains = np.exp(-(((np.log(frequencies) - center) / width) ** 4))
    return np.fft.irfft(np.fft.rfft(signal) * gains, len(signal))


def _convolved(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return a signal with an impulse response, as long as the signal."""
    length = len(signal) + len(response) - 1
    return np.fft.irfft(np.fft.rfft(signal, length) * np.fft.rfft(response, length), length)[: len(signal)]


def _normalized(signal: np.ndarray) -> np.ndarray:
    """Return a signal with a root mean square of 1; silence stays silent."""
    return signal / max(float(np.sqrt(np.mean(signal**2))), 1e-9)
