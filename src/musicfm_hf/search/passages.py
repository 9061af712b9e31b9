"""Passages: the parts of songs that are embedded and found."""

import math
from typing import NamedTuple

import numpy as np

LEAST_HOP_SECONDS = 0.001


class PassageSettings(NamedTuple):
    """Length of passages, and the time from the start of one to the start of the next, in seconds."""

    seconds: float
    hop_seconds: float

    def check(self, least: float) -> None:
        """Raise a `ValueError` if passages are shorter than `least` seconds, or audio between them would be lost."""
        if not least <= self.seconds < math.inf:
            raise ValueError(
                f"`passage_seconds` must be at least {least:g} for this model, and finite, got {self.seconds:g}."
            )
        if not LEAST_HOP_SECONDS <= self.hop_seconds <= self.seconds:
            raise ValueError(
                f"`hop_seconds` must be at least {LEAST_HOP_SECONDS:g} and at most `passage_seconds` "
                f"({self.seconds:g}), got {self.hop_seconds:g}."
            )


def cut_passages(num_samples: int, sampling_rate: int, settings: PassageSettings) -> tuple[np.ndarray, np.ndarray]:
    """
    Cut a song into passages. The last one is moved back so that it ends with the song; a song that is shorter than a
    passage is one passage.

    Args:
        num_samples (`int`): Length of the song in samples.
        sampling_rate (`int`): Samples per second.
        settings ([`PassageSettings`]): Length of passages, and of the steps between them.

    Returns:
        First samples of the passages and the samples after their ends, int64 `(passages,)`.
    """
    size = round(settings.seconds * sampling_rate)
    last = max(0, num_samples - size)
    steps = round(settings.hop_seconds * sampling_rate)
    starts = np.append(np.arange(0, last, steps), last)
    return starts, np.minimum(starts + size, num_samples)


def frames_of_passages(times: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[tuple[int, int]]:
    """
    Return, for each passage, its first frame and the one after its last. A passage without the center of a frame gets
    the nearest frame.

    Args:
        times (`np.ndarray` of shape `(frames,)`): Centers of the frames of a song in seconds.
        starts, ends (`np.ndarray` of shape `(passages,)`): Seconds.
    """
    first = np.searchsorted(times, starts).clip(max=len(times) - 1)
    stop = np.maximum(np.searchsorted(times, ends), first + 1)
    return list(zip(first.tolist(), stop.tolist(), strict=True))
