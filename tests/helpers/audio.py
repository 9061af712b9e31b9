"""Synthetic music, and padded batches of it."""

from collections.abc import Sequence

import numpy as np
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
