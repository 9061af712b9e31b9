"""
Baselines of retrieval that need no encoder.

- `mfcc`: mean and standard deviation of mel-frequency cepstral coefficients, which describe the sound, each divided by
  its deviation over the excerpts; cosine similarity.
- `chroma_fourier`: chroma of the excerpt, resampled to a fixed number of frames and compressed, and the magnitudes of
  its two-dimensional Fourier transform, which neither a transposition nor a shift in time changes (Bertin-Mahieux,
  Ellis, *Large-scale cover song recognition using the 2D Fourier transform magnitude*, ISMIR 2012; they resample to
  beats and take the median over patches); cosine similarity.
- `chroma_aligned`: the resampled chroma itself; the highest cosine similarity over the twelve transpositions (an
  optimal transposition index as in Serrà, Gómez, Herrera, *Transposing chroma representations to a common key*, 2008).
  It compares two sequences frame by frame, so it needs excerpts with the same start and end, and has no vector that an
  index could search.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..tasks.retrieval import Excerpt
from .classical import MIN_SECONDS, SAMPLING_RATE
from .retrieval import similarities

HOP_LENGTH = 2048  # samples

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

    if len(waveform) < MIN_SECONDS * SAMPLING_RATE:
        raise ValueError(f"has {len(waveform) / SAMPLING_RATE:.2f} s, but baselines need {MIN_SECONDS:g} s")
    settings: dict[str, Any] = {"y": waveform, "sr": SAMPLING_RATE, "hop_length": HOP_LENGTH}
    chroma = librosa.feature.chroma_cqt(**settings, norm=None)
    mfcc = librosa.feature.mfcc(**settings, n_mfcc=NUM_MFCC)
    return SongFrames(chroma.astype(np.float32), mfcc.astype(np.float32))


def frames_of(excerpt: Excerpt, songs: Mapping[str, SongFrames]) -> SongFrames:
    """Return the frames of an excerpt, at least one. `songs` maps ids to the frames of songs."""
    frames = songs[excerpt.song.id]
    rate = SAMPLING_RATE / HOP_LENGTH
    start = min(round(excerpt.start * rate), frames.chroma.shape[1] - 1)
    stop = max(round(excerpt.end * rate), start + 1)
    return SongFrames(frames.chroma[:, start:stop], frames.mfcc[:, start:stop])


def resample_frames(frames: np.ndarray, count: int) -> np.ndarray:
    """
    Average frames `(values, frames)` over `count` intervals of equal length, each frame weighted by the part of it
    that lies in the interval: `(values, count)`.
    """
    edges = np.linspace(0, frames.shape[1], count + 1)
    sums = np.pad(np.cumsum(frames, axis=1, dtype=np.float64), [(0, 0), (1, 0)])
    places = np.arange(frames.shape[1] + 1)
    totals = np.stack([np.interp(edges, places, row) for row in sums])
    return np.diff(totals, axis=1) / np.diff(edges)


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
    chroma = resample_frames(frames.chroma, count)
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
