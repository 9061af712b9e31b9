"""A random chain of audio effects, for training on more varied sound than that of the recordings, and for tests."""

from typing import Any

import numpy as np
import soundfile

_SILENCE_RMS = 1e-6


class EffectChain:
    """
    A chain of effects in the order of a recording: equalizer, compression, reverberation, noise, the band of a device,
    clipping, lossy coding, level. Each is used at random, with random settings; see [`musicfm_hf.audio.effects`].

    Args:
        probability (`float`): Share of the waveforms that are changed.
        sampling_rate (`int`): Rate of the waveforms, in Hz.

    Raises:
        ValueError: `probability` is not from 0 to 1.
        ImportError: scipy is not installed, or libsndfile cannot encode MP3 and Ogg.
    """

    def __init__(self, probability: float, sampling_rate: int):
        if not 0 <= probability <= 1:
            raise ValueError(f"`effects` must be a probability from 0 to 1, got {probability}.")
        self.probability, self.sampling_rate = probability, sampling_rate
        self._effects: tuple[Any, ...] = _load_effects() if probability else ()

    def __call__(self, waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """
        Apply effects to a waveform.

        Args:
            waveform (`np.ndarray` of shape `(samples,)`): Mono audio; it is not modified.
            generator: Generator of all random numbers. With the same state, it gives the same effects.

        Returns:
            float32 `(samples,)`; silence, and waveforms that are not drawn, are returned as given.
        """
        if not self._effects or generator.random() >= self.probability:
            return waveform
        if np.dot(waveform, waveform) < len(waveform) * _SILENCE_RMS**2:
            return waveform
        for effect, share in self._effects:
            if generator.random() < share:
                waveform = effect(waveform, self.sampling_rate, generator)
        return np.ascontiguousarray(waveform, dtype=np.float32)


def _load_effects() -> tuple[Any, ...]:
    """Return the effects, or raise an `ImportError` that states what is missing."""
    if not {"MP3", "OGG"} <= soundfile.available_formats().keys():
        raise ImportError(
            f"libsndfile {soundfile.__libsndfile_version__} cannot encode MP3 and Ogg, which `effects` needs: "
            "`pip install -U soundfile` installs a version that can."
        )
    try:
        from .effects import CHAIN
    except ImportError as error:
        raise ImportError(f"`effects` needs scipy: pip install 'musicfm_hf[effects]' ({error})") from error
    return CHAIN
