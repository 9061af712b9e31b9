"""Click tracks: a click at each beat, higher at downbeats, over a song or alone."""

import os

import numpy as np
import soundfile

from ..tasks.annotations import Beats
from ..training.files import complete_file

_SECONDS = 0.04  # length of a click
_DECAY_SECONDS = 0.008  # in which a click falls to 1/e
_BEAT_HZ, _DOWNBEAT_HZ = 1000.0, 1600.0
_LEVEL = 0.6  # peak of a click; full scale is 1
_SONG_LEVEL = 0.5  # peak of the song under clicks


def click_track(beats: Beats | None, num_samples: int, sampling_rate: int) -> np.ndarray:
    """
    Synthesize clicks.

    Args:
        beats ([`Beats`], *optional*): Beats; without them, the result is silent.
        num_samples (`int`): Length of the result.
        sampling_rate (`int`): Rate of the result in Hz.

    Returns:
        float32 `(samples,)`. The peak of a click is at most 0.6. A click begins at the sample nearest to its beat.
    """
    clicks = np.zeros(num_samples, np.float32)
    if beats is None:
        return clicks
    seconds = np.arange(round(_SECONDS * sampling_rate)) / sampling_rate
    envelope = _LEVEL * np.exp(-seconds / _DECAY_SECONDS)
    beat, downbeat = ((envelope * np.sin(2 * np.pi * hertz * seconds)) for hertz in (_BEAT_HZ, _DOWNBEAT_HZ))
    for start, position in zip(np.round(beats.times * sampling_rate).astype(int), beats.positions, strict=True):
        part = clicks[start : start + len(seconds)]
        part[:] = (downbeat if position == 1 else beat)[: len(part)]  # instead of the end of an earlier click
    return clicks


def write_click_track(
    path: str | os.PathLike,
    beats: Beats | None,
    num_samples: int,
    sampling_rate: int,
    waveform: np.ndarray | None = None,
) -> None:
    """
    Write clicks as WAV (16 bits, mono), over a song whose level is reduced, or alone.

    Args:
        path: The file.
        beats, num_samples, sampling_rate: As for [`click_track`].
        waveform (`np.ndarray` of shape `(num_samples,)`, *optional*): The song.
    """
    audio = click_track(beats, num_samples, sampling_rate)
    if waveform is not None:
        peak = float(np.abs(waveform).max(initial=0.0))
        audio += waveform * np.float32(min(1.0, _SONG_LEVEL / peak) if peak else 1.0)
        audio = audio.clip(-1.0, 1.0)
    with complete_file(path) as temporary, temporary.open("wb") as file:  # its name may have bytes that are no text
        soundfile.write(file, audio, sampling_rate, subtype="PCM_16", format="WAV")
