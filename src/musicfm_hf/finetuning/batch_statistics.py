"""
Batch statistics of an encoder with random weights.

A new batch norm assumes inputs of mean 0 and variance 1, which no layer of a random encoder has. Without statistics of
real music, its features would say little about the encoder, and a control with random weights would be too weak.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from ..data.examples import ReadWaveform, collate_examples
from ..data.labeled import LabeledSong
from ..model.modeling_musicfm import MusicFMModel

NUM_CROPS = 64
CROP_SECONDS = 10.0
_BATCH_SIZE = 8
_CROP = 5  # purpose of random numbers; `data/examples.py` and `data/pairs.py` have 0 to 4


@torch.no_grad()
def measure_batch_statistics(encoder: MusicFMModel, songs: Sequence[LabeledSong], seed: int) -> None:
    """
    Replace the running mean and variance of all batch norms with their averages over 64 crops of 10 s of songs. The
    mode of the encoder and its weights stay as they are.

    Args:
        encoder ([`MusicFMModel`]): The encoder, on any device.
        songs: Training songs.
        seed (`int`): Seed of the choice of crops.

    Raises:
        ValueError: no crop can be decoded.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    modes = {module: module.training for module in encoder.modules()}
    momenta = [norm.momentum for norm in norms]
    encoder.eval()  # no dropout
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    count = 0
    for count, batch in enumerate(_batches(encoder, songs, seed), start=1):
        for norm in norms:
            norm.momentum = 1 / count  # the average over all batches so far
        encoder(**{name: values.to(encoder.device) for name, values in batch.items()})
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    if not count:
        raise ValueError(f"None of the {len(songs)} training songs can be decoded, so no batch statistics are known.")


def _batches(encoder: MusicFMModel, songs: Sequence[LabeledSong], seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of crops at random positions; every song is used once before a song is used again."""
    config = encoder.config
    read, generator = ReadWaveform(config), np.random.default_rng([seed, _CROP])
    order = np.concatenate([generator.permutation(len(songs)) for _ in range(-(-NUM_CROPS // len(songs)))])
    items = []
    for index in order[:NUM_CROPS]:
        whole = config.frame_counts(round(songs[index].duration * config.sampling_rate))[-1]
        frames = min(round(CROP_SECONDS * config.frame_rate), whole)
        item = read(songs[index], int(generator.integers(whole - frames + 1)), frames, generator)
        if item.get("audio_frames", frames) == frames:  # otherwise the file is truncated
            items.append({"input_values": item["input_values"]})
        if len(items) == _BATCH_SIZE:
            yield collate_examples(items)
            items = []
    if items:
        yield collate_examples(items)
