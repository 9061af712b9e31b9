"""
Baselines of retrieval that need no encoder.

- `mfcc`: mean and standard deviation of mel-frequency cepstral coefficients, which describe the sound, each divided by
  its deviation over the excerpts; cosine similarity.
- `chroma_fourier`: chroma of the excerpt, resampled to a fixed number of frames and compressed, and the magnitudes of
  its two-dimensional Fourier transform, which neither a transposition nor a shift in time changes (Bertin-Mahieux,
  Ellis, *Large-scale cover song recognition using the 2D Fourier transform magnitude*, ISMIR 2012; they resample to
  beats and take the median over patches); cosine similarity.
- `chroma_correlated`: the cross-correlation of the resampled chroma, at the best of the twelve transpositions and at
  the best lag (Ellis, Poliner, *Identifying "cover songs" with chroma features and dynamic programming beat tracking*,
  ICASSP 2007). It compares every pair of excerpts, and has no vector that an index could search.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.decoding import SongLoader
from ..data.labeled import LabeledSong
from ..data.labeled_dataset import load_songs
from ..data.pairs import limit_groups
from ..model.frames_musicfm import average_intervals
from ..tasks.retrieval import METRIC, Excerpt, Search, get_retrieval_task, score
from .classical import MIN_SECONDS, SAMPLING_RATE
from .retrieval import average_searches, searches_with_intervals, similarities

HOP_LENGTH = 2048  # samples

CHROMA_RATE = SAMPLING_RATE / HOP_LENGTH  # Hz

NUM_MFCC = 20


class SongFrames(NamedTuple):
    """Frames of a song, at `SAMPLING_RATE / HOP_LENGTH` Hz."""

    chroma: np.ndarray  # float32 (12, frames) from C, not normalized
    mfcc: np.ndarray  # float32 (NUM_MFCC, frames)


class RetrievalBaseline(NamedTuple):
    """
    A method that compares excerpts.

    Attributes:
        about (`str`): One-line description for tables.
        settings (`tuple[dict, …]`): Settings to choose from on validation songs.
        compare (`Callable`): `(queries, gallery, **settings)` → similarities `(queries, items)`, from the frames of
            excerpts.
    """

    about: str
    settings: tuple[dict[str, Any], ...]
    compare: Callable[..., np.ndarray]


def extract_frames(waveform: np.ndarray) -> SongFrames:
    """
    Compute the frames of a song, with librosa.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono, at 24000 Hz.

    Raises:
        ValueError: if the waveform is shorter than a second.
    """
    import librosa

    chroma = extract_chroma(waveform)
    mfcc = librosa.feature.mfcc(y=waveform, sr=SAMPLING_RATE, hop_length=HOP_LENGTH, n_mfcc=NUM_MFCC)
    return SongFrames(chroma, mfcc.astype(np.float32))


def extract_chroma(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """
    Compute the constant-Q chroma of a waveform `(samples,)`, with librosa: float32 `(12, frames)` from C, one frame
    for `HOP_LENGTH` samples, not normalized.

    Raises:
        ValueError: if the waveform is shorter than a second.
    """
    import librosa

    if len(waveform) < MIN_SECONDS * sampling_rate:
        raise ValueError(f"has {len(waveform) / sampling_rate:.2f} s, but chroma and MFCCs need {MIN_SECONDS:g} s")
    chroma = librosa.feature.chroma_cqt(y=waveform, sr=sampling_rate, hop_length=HOP_LENGTH, norm=None)
    return chroma.astype(np.float32)


def frames_of(excerpt: Excerpt, songs: Mapping[str, SongFrames]) -> SongFrames:
    """Return the frames of an excerpt, at least one. `songs` maps ids to the frames of songs."""
    frames = songs[excerpt.song.id]
    start = min(round(excerpt.start * CHROMA_RATE), frames.chroma.shape[1] - 1)
    stop = max(round(excerpt.end * CHROMA_RATE), start + 1)
    return SongFrames(frames.chroma[:, start:stop], frames.mfcc[:, start:stop])


def frames_of_songs(songs: Sequence[LabeledSong], num_workers: int = 0) -> dict[str, SongFrames]:
    """
    Compute the frames of songs in `num_workers` processes (0: in this process), by id.

    Raises:
        ValueError: if audio cannot be read or is too short. The message names all such songs.
    """
    loader = SongLoader([(song.id, song.audio) for song in songs], SAMPLING_RATE, 1, num_workers, extract_frames)
    frames = {song.name: song.content for song in tqdm(loader, total=len(songs), unit="song", desc="features")}
    loader.raise_if_unusable()
    return frames


def search_with(
    name: str, search: Search, songs: Mapping[str, SongFrames], settings: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """
    Score a search by one of `RETRIEVAL_BASELINES`.

    Args:
        songs: Song id → frames of the song.
        settings: One of the settings of the baseline.

    Returns:
        Song → `{score: mean over its queries}`; see [`musicfm_hf.tasks.retrieval.score`].
    """
    queries, gallery = ([frames_of(excerpt, songs) for excerpt in part] for part in (search.queries, search.gallery))
    found = RETRIEVAL_BASELINES[name].compare(queries, gallery, **settings)
    return score(search.references, found, search.groups)["groups"]


def choose_settings(
    name: str, search: Search, songs: Mapping[str, SongFrames]
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Return the settings of a baseline that score best on a search among validation songs, and their scores."""
    tried = [(settings, search_with(name, search, songs, settings)) for settings in RETRIEVAL_BASELINES[name].settings]
    return max(tried, key=lambda pair: average_searches(pair[1])[METRIC])


def score_retrieval_baselines(
    data: str | os.PathLike,
    split: str,
    tasks: Sequence[str],
    num_workers: int = 0,
    limit: int | None = None,
) -> dict[str, dict[str, Any]]:
    """
    Score `RETRIEVAL_BASELINES` on a split, with the settings that are best on the validation songs.

    Args:
        tasks: Names of retrieval tasks.
        limit (`int`, *optional*): Maximum number of songs to score, each in all versions.

    Returns:
        `TASK_NAME` → `task`, `metric`, `about`, `chosen` (settings), `scores` (averages with intervals) and `songs`
        (song → scores).

    Raises:
        ValueError: if the data set lacks a split, or songs that the task can search for; or audio cannot be read.
        OSError: if the data set does not exist.
    """
    songs = {name: limit_groups(load_songs(data, name), limit) for name in {"validation", split}}
    searches = {(task, name): get_retrieval_task(task).search(songs[name]) for task in tasks for name in songs}
    frames = {name: frames_of_songs(part, num_workers) for name, part in songs.items()}
    results = {}
    for task in tasks:
        for name, baseline in RETRIEVAL_BASELINES.items():
            settings, _ = choose_settings(name, searches[task, "validation"], frames["validation"])
            scores = search_with(name, searches[task, split], frames[split], settings)
            about = {"task": task, "metric": METRIC, "about": baseline.about, "chosen": settings}
            results[f"{task}_{name}"] = about | {"scores": searches_with_intervals(scores), "songs": scores}
    return results


def compare_mfcc(
    queries: Sequence[SongFrames], gallery: Sequence[SongFrames], first: int = 0, deviations: bool = True
) -> np.ndarray:
    """Compare means and, with `deviations`, standard deviations of the coefficients from `first` on."""
    vectors = [
        np.array([_statistics(frames.mfcc[first:], deviations) for frames in part]) for part in (queries, gallery)
    ]
    together = np.concatenate(vectors)
    mean, scale = together.mean(0), np.maximum(together.std(0), 1e-9)
    return similarities(*((part - mean) / scale for part in vectors))


def compare_fourier(
    queries: Sequence[SongFrames], gallery: Sequence[SongFrames], count: int = 64, power: float = 0.5
) -> np.ndarray:
    """Compare Fourier magnitudes of chroma that is resampled to `count` frames and raised to `power`."""
    vectors = (np.array([_fourier(frames, count, power) for frames in part]) for part in (queries, gallery))
    return similarities(*vectors)


def compare_correlated(
    queries: Sequence[SongFrames], gallery: Sequence[SongFrames], count: int = 64, power: float = 0.5
) -> np.ndarray:
    """
    Compare chroma that is resampled to `count` frames and raised to `power`, by the highest cosine similarity over all
    transpositions and all rotations in time.
    """
    spectra = []
    for part in (queries, gallery):
        chroma = np.array([_compressed(frames, count, power) for frames in part])
        chroma /= np.maximum(np.linalg.norm(chroma, axis=(1, 2), keepdims=True), 1e-9)
        spectra.append(np.fft.rfft2(chroma))
    first, second = spectra
    return np.array(
        [np.fft.irfft2(query * second.conj(), s=(12, count)).reshape(len(second), -1).max(1) for query in first]
    )


def _statistics(frames: np.ndarray, deviations: bool) -> np.ndarray:
    """Return the mean and, on demand, the standard deviation over time of `(values, frames)`."""
    mean = frames.mean(1, dtype=np.float64)
    return np.concatenate([mean, frames.std(1, dtype=np.float64)]) if deviations else mean


def _compressed(frames: SongFrames, count: int, power: float) -> np.ndarray:
    """Return resampled and compressed chroma without its mean, `(12, count)`."""
    chroma = average_intervals(torch.from_numpy(frames.chroma.T)[None], count)[0].T.double().numpy()
    chroma = (chroma / max(chroma.max(), 1e-9)) ** power
    return chroma - chroma.mean()


def _fourier(frames: SongFrames, count: int, power: float) -> np.ndarray:
    """Return the magnitudes of the two-dimensional Fourier transform; half of them, because the others are equal."""
    return np.abs(np.fft.rfft2(_compressed(frames, count, power))).ravel()


_CHROMA_SETTINGS = tuple({"count": count, "power": power} for count in (32, 64, 128, 256) for power in (0.5, 1.0))

RETRIEVAL_BASELINES = {
    "mfcc": RetrievalBaseline(
        "mean and deviation of 20 MFCCs",
        tuple({"first": first, "deviations": deviations} for first in (0, 1) for deviations in (True, False)),
        compare_mfcc,
    ),
    "chroma_fourier": RetrievalBaseline(
        "2-D Fourier magnitudes of resampled chroma", _CHROMA_SETTINGS, compare_fourier
    ),
    "chroma_correlated": RetrievalBaseline(
        "cross-correlation of resampled chroma, in the best transposition and at the best lag",
        _CHROMA_SETTINGS,
        compare_correlated,
    ),
}
