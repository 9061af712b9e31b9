"""Mean and standard deviation of the log-mel spectrogram of a catalog, for normalizing the input of a model."""

import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..audio.reading import open_recording, read_part
from ..model.configuration_musicfm import MusicFMConfig
from ..model.spectrogram_musicfm import MusicFMLogMel
from .catalog import fetch_audio


class MelStatistics(NamedTuple):
    """
    Statistics of the log-mel spectrogram, in dB.

    Attributes:
        mel_mean (`np.ndarray` of shape `(bands,)`): Mean of each mel band, float64.
        mel_std (`np.ndarray` of shape `(bands,)`): Standard deviation of each mel band; 0 for an empty band.
        mean (`float`): Mean over all bands.
        std (`float`): Standard deviation over all bands.
        hours (`float`): Hours of measured audio.
        files (`int`): Number of files with measured audio.
        skipped (`int`): Number of files that were tried and had no usable audio.
        problems (`list[tuple[str, str]]`): Names and reasons of files that could not be read, or were read only in
            part.
    """

    mel_mean: np.ndarray
    mel_std: np.ndarray
    mean: float
    std: float
    hours: float
    files: int
    skipped: int
    problems: list[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON. The global values are named as in the files of the published checkpoints."""
        return {
            "mel_mean": self.mel_mean.tolist(),
            "mel_std": self.mel_std.tolist(),
            "melspec_2048_mean": self.mean,
            "melspec_2048_std": self.std,
            "hours": self.hours,
            "files": self.files,
            "skipped": self.skipped,
        }


def mel_statistics(
    sources: Sequence[tuple[str, Any]],
    max_hours: float | None = None,
    seed: int = 0,
    crop_seconds: float = 10.0,
    progress: bool = True,
    config: MusicFMConfig | None = None,
) -> MelStatistics:
    """
    Measure a catalog on crops that are spread over its files.

    Each file is cut into crops, starting at a random offset. In a random order, one crop of every file is measured,
    then a second crop of every file that has more, and so on, up to `max_hours` or until only the remainders at the
    ends of files are left. A file shorter than a crop is measured as a whole. The spectrogram is that of the model
    before normalization.

    Args:
        sources: Names and audio, as returned by [`musicfm_hf.data.catalog.list_sources`].
        max_hours (`float`, *optional*): Maximum hours of audio to measure; all by default.
        seed (`int`): Seed of order and crops.
        crop_seconds (`float`): Length of a crop.
        progress (`bool`): Show a progress bar.
        config ([`MusicFMConfig`], *optional*): Settings of the spectrogram; by default those of the published models.

    Raises:
        ValueError: no file could be read, all are silent, or a setting is out of range.
    """
    config = MusicFMConfig() if config is None else copy(config)
    config.mel_mean, config.mel_std = 0.0, 1.0
    min_samples = config.n_fft // 2 + 1
    if not crop_seconds * config.sampling_rate >= min_samples:
        raise ValueError(f"`crop_seconds` must be at least {min_samples} samples, got {crop_seconds}.")
    if max_hours is not None and not max_hours * 3600 >= crop_seconds:
        raise ValueError(f"`max_hours` must be at least one crop of {crop_seconds} s, got {max_hours}.")
    compute_mel = MusicFMLogMel(config)
    frames, sums, squares = 0, np.zeros(config.num_mel_bins), np.zeros(config.num_mel_bins)
    seconds, measured, problems = 0.0, set(), []
    with tqdm(desc="measured", unit="s", disable=not progress) as bar:
        for index, crop in _crops(sources, seed, crop_seconds, config.sampling_rate):
            if not isinstance(crop, str) and len(crop) < min_samples:
                crop = f"has {len(crop)} samples, but the model needs at least {min_samples}"
            if isinstance(crop, str):
                problems.append((index, crop))
                continue
            with torch.inference_mode():
                mel = compute_mel(torch.from_numpy(crop)[None], None)[0].double().numpy()  # (frames, bands)
            frames += len(mel)
            sums += mel.sum(axis=0)
            squares += np.square(mel).sum(axis=0)
            seconds += len(crop) / config.sampling_rate
            measured.add(index)
            bar.update(round(len(crop) / config.sampling_rate))
            if max_hours is not None and seconds + crop_seconds > max_hours * 3600 + 1e-6:
                break
    named_problems = [(sources[index][0], problem) for index, problem in problems]
    if not measured:
        reasons = "; ".join(f"{name}: {problem}" for name, problem in named_problems[:3])
        raise ValueError(f"None of {len(sources)} files could be read ({reasons}).")
    skipped = len({index for index, _ in problems} - measured)
    mel_mean, mel_std, mean, std = _moments(frames, sums, squares)
    return MelStatistics(mel_mean, mel_std, mean, std, seconds / 3600, len(measured), skipped, named_problems)


def _moments(frames: int, sums: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return mean and standard deviation of each band `(bands,)`, and of all bands together."""
    means = sums / frames
    variances = np.maximum(squares / frames - means**2, 0.0)
    variances[variances < 1e-9] = 0.0  # rounding errors of a constant
    if not variances.any():
        raise ValueError("The audio is silent.")
    if empty := np.flatnonzero(variances == 0).tolist():
        warnings.warn(f"Mel bands {empty} are constant: a model cannot divide by their `mel_std` of 0.", stacklevel=3)
    mean = float(means.mean())
    return means, np.sqrt(variances), mean, float(np.sqrt(variances.mean() + np.square(means - mean).mean()))


def _crops(
    sources: Sequence[tuple[str, Any]], seed: int, crop_seconds: float, sampling_rate: int
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Yield the index of a source and a crop `(samples,)` of it, or its problem, in rounds over the sources."""
    remaining = np.random.default_rng(seed).permutation(len(sources)).tolist()
    starts: dict[int, list[float]] = {}
    while remaining:
        for index in remaining:
            try:
                source = fetch_audio(sources[index][1])
                with open_recording(source) as recording:
                    if index not in starts:
                        generator = np.random.default_rng([seed, index])
                        starts[index] = _starts(float(recording.seconds), crop_seconds, generator)
                    crop = read_part(recording, sampling_rate, starts[index].pop(), crop_seconds)
            except (ValueError, TypeError, OSError) as error:
                starts[index] = []
                yield index, str(error)
            else:
                for remark in recording.remarks:
                    yield index, remark
                yield index, crop
        remaining = [index for index in remaining if starts[index]]


def _starts(duration: float, crop_seconds: float, generator: np.random.Generator) -> list[float]:
    """Return the starts of the crops of a file, in seconds, in random order."""
    count = max(1, int(duration // crop_seconds))
    offset = generator.uniform(0.0, max(0.0, duration - count * crop_seconds))
    return (offset + crop_seconds * generator.permutation(count)).tolist()
