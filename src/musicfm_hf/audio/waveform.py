"""Convert every kind of audio that [`musicfm_hf.embed`] and [`musicfm_hf.annotate`] accept to a waveform."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..model.feature_extraction_musicfm import MusicFMFeatureExtractor, decoded_row
from .reading import checked_rate, load_audio, resample


def to_waveform(audio: Any, sampling_rate: int | None, target_rate: int) -> np.ndarray:
    """
    Convert audio to a mono waveform at the target rate.

    Args:
        audio: One of
            - a waveform: `np.ndarray`, `torch.Tensor` or list of shape `(samples,)`, floating point in [-1, 1] or
              integer PCM, which needs `sampling_rate`;
            - a path, `bytes`, or a binary file object, in any format that [`load_audio`] reads;
            - a row of a data set: a mapping with `array` (or `raw`, as in Transformers' pipelines) and
              `sampling_rate`, or with `bytes` or `path`; or a decoder of `datasets` (torchcodec's `AudioDecoder`).
        sampling_rate (`int`, *optional*): Rate of a waveform in Hz. Omit it for files and rows, which have their own.
        target_rate (`int`): Rate of the result in Hz.

    Returns:
        float32 `(samples,)`; without a copy if `audio` is that already, so do not write into it.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if `sampling_rate` is missing for a waveform, or given for a file or row; or if the audio has
            several channels, is empty, has values that are not finite, or cannot be read.
        TypeError: if the audio is not numeric, or is of an unsupported type.
    """
    if hasattr(audio, "get_all_samples"):
        audio = decoded_row(audio)
    name = next((key for key in ("array", "raw") if isinstance(audio, Mapping) and audio.get(key) is not None), None)
    if name is not None:
        _refuse_rate(sampling_rate, "A row of a data set")
        if audio.get("sampling_rate") is None:
            raise ValueError(f"A row with `{name}` needs its `sampling_rate`.")
        audio, sampling_rate = audio[name], audio["sampling_rate"]
    elif audio is None:
        raise ValueError("The audio is null (`None`): leave this row out, or pass a path, bytes or a waveform.")
    elif isinstance(audio, Mapping | str | os.PathLike | bytes | bytearray | memoryview) or hasattr(audio, "read"):
        _refuse_rate(sampling_rate, "A row of a data set" if isinstance(audio, Mapping) else "A file")
        return load_audio(audio, target_rate)
    return _resample_array(audio, sampling_rate, target_rate)


def _refuse_rate(sampling_rate: int | None, kind: str) -> None:
    """Raise a `ValueError` if a rate was given for audio that has its own."""
    if sampling_rate is not None:
        raise ValueError(f"{kind} has its own sampling rate: omit `sampling_rate`, got {sampling_rate!r}.")


def _resample_array(audio: Any, sampling_rate: int | None, target_rate: int) -> np.ndarray:
    """Check a waveform and resample it to `target_rate`."""
    shape = tuple(getattr(audio, "shape", ()))
    if len(shape) > 1 and shape[0] != 1:
        raise ValueError(
            f"`audio` must be one waveform of shape (samples,), got {shape}. Average its channels, or call this for "
            "each waveform."
        )
    if isinstance(audio, torch.nn.Module):
        raise TypeError(f"`audio` must be audio, got a model, {type(audio).__name__}: the model comes first.")
    rate = checked_rate(sampling_rate, "the rate of the waveform in Hz")
    extractor = MusicFMFeatureExtractor(sampling_rate=rate, min_samples=1)
    waveforms = extractor.waveforms(audio, rate)
    if len(waveforms) != 1:
        raise ValueError(f"`audio` must be one waveform of shape (samples,), got {len(waveforms)} of them.")
    waveform = np.require(resample(waveforms[0], rate, target_rate), requirements=["C", "W"])  # as PyTorch needs it
    if not len(waveform):
        raise ValueError(f"`audio` is empty at {target_rate} Hz: it has {len(waveforms[0])} samples.")
    return waveform
