"""Audio effects on whole songs, to score models on changed sound."""

import numpy as np

from ..audio.effect_chain import EffectChain
from .labeled import LabeledSong
from .splits import hash_name


class SongEffects:
    """
    Changes the sound of songs with [`EffectChain`]. The effects of a song depend only on its id and the seed.

    Args:
        probability (`float`): Share of the songs that are changed.
        sampling_rate (`int`): Rate of the waveforms, in Hz.
        seed (`int`): Seed of the effects; 0 or more.

    Raises:
        ValueError: `probability` is not from 0 to 1, or `seed` is negative.
        ImportError: see [`EffectChain`].
    """

    def __init__(self, probability: float, sampling_rate: int, seed: int = 0):
        if seed < 0:
            raise ValueError(f"`effects_seed` must be at least 0, got {seed}.")
        self.chain, self.seed = EffectChain(probability, sampling_rate), seed

    def __call__(self, song: LabeledSong, waveform: np.ndarray) -> np.ndarray:
        """Return the changed waveform `(samples,)` of a song."""
        return self.chain(waveform, np.random.default_rng(hash_name(song.id, self.seed)))
