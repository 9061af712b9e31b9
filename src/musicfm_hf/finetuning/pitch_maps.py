"""
The pitch maps of an embedding head, fitted by least squares to chroma and, in songs with chords, to chord tones.

A head that learns everything from pairs of versions learns the training songs by heart: it recognizes which sounds
belong to which song, and finds nothing among other songs. Its first layer is therefore fitted beforehand, to targets
that a transposition rotates and another instrument hardly changes, and then stays as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data.labeled import LabeledSong
from ..evaluation.retrieval_baselines import CHROMA_RATE, SongFrames, frames_of_songs
from ..inference.feature_cache import FeatureCache, padded_crop
from ..model.heads_musicfm import PITCH_CLASSES, MusicFMEmbeddingHead
from ..tasks.annotations import Segment
from ..tasks.chord_syntax import chord_tones

MAX_SONGS = 100

RIDGE = 1e-3  # share of the mean variance of the inputs that is added to each


def count_pitch_maps(songs: Sequence[LabeledSong]) -> int:
    """
    Return the number of maps that can be fitted to songs: 2 if all have chords, else 1.

    Raises:
        ValueError: if a label is not a chord.
    """
    if not all(song.chords for song in songs):
        return 1
    for label in {chord.label for song in songs for chord in song.chords or []}:
        chord_tones(label)
    return 2


def fit_pitch_maps(
    head: MusicFMEmbeddingHead, cache: FeatureCache, songs: Sequence[LabeledSong], seed: int, num_workers: int = 0
) -> None:
    """
    Set the first layer of a head to the least-squares map from cached features to chroma and chord tones, on up to
    `MAX_SONGS` of the songs.

    Args:
        cache ([`FeatureCache`]): Cache that holds the features of the songs.
        songs: Training songs, in all versions.
        seed (`int`): Seed of the choice of songs.
        num_workers (`int`): Number of processes that compute chroma; 0 computes it in this process.

    Raises:
        ValueError: audio cannot be read or is too short. The message names all such songs.
    """
    order = np.random.default_rng(seed).permutation(len(songs))[:MAX_SONGS]
    chosen = [songs[index] for index in sorted(order)]
    chroma = frames_of_songs(chosen, num_workers)
    width = head.projector.in_features
    size = width + 1 + head.projector.out_features
    sums = torch.zeros(size, size, dtype=torch.float64)
    for song in chosen:
        with torch.no_grad():
            inputs = head.normalize(head.mix(cache.read(song).float()[None]))[0].double()
        times = (np.arange(len(inputs)) + cache.config.frame_offset) / cache.config.frame_rate
        targets = torch.from_numpy(pitch_targets(song, chroma, times, head.config.pitch_maps)).double()
        rows = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64), targets], dim=1)
        sums += rows.T @ rows
    moments = sums[: width + 1, : width + 1]
    ridge = RIDGE * moments.diagonal()[:width].mean() * torch.eye(width + 1, dtype=torch.float64)
    ridge[width, width] = 0  # the bias
    weights = torch.linalg.solve(moments + ridge, sums[: width + 1, width + 1 :])  # (width + 1, maps * 12)
    with torch.no_grad():
        head.projector.weight.copy_(weights[:width].T)
        head.projector.bias.copy_(weights[width])


class PitchMaps:
    """
    The pitch maps of songs, float16 and in memory (4 MB for an hour and two maps), so that the second part of a head
    trains without reading hidden states again. Use it like a [`FeatureCache`].

    Args:
        head ([`MusicFMEmbeddingHead`]): Head whose first part computes the maps.
        cache ([`FeatureCache`]): Cache that holds the features of the songs.
        songs: Songs whose maps will be read.
    """

    def __init__(self, head: MusicFMEmbeddingHead, cache: FeatureCache, songs: Sequence[LabeledSong]):
        self.config = cache.config
        with torch.no_grad():
            self._maps = {song.id: head.pitch_maps(cache.read(song).float()[None])[0].half() for song in songs}

    def read(self, song: LabeledSong) -> torch.Tensor:
        """Return the maps of a song, `(frames, maps * 12)`."""
        return self._maps[song.id]

    def __call__(self, song: LabeledSong, start: int, frames: int, generator: np.random.Generator) -> dict[str, Any]:
        """Read a crop as [`FeatureCache.__call__`] does."""
        return padded_crop(self.read(song)[start : start + frames].float(), frames)


def pitch_targets(song: LabeledSong, chroma: Mapping[str, SongFrames], times: np.ndarray, num_maps: int) -> np.ndarray:
    """
    Return the targets of pitch maps at `times`: the root of chroma, as a share of the highest value in the song, and
    with two maps also 1 for the tones of the chord. float64 `(times, num_maps * 12)`, from C.
    """
    frames = chroma[song.id].chroma
    place = np.clip(np.round(times * CHROMA_RATE).astype(int), 0, frames.shape[1] - 1)
    targets = [np.sqrt(np.clip(frames, 0, None) / max(frames.max(), 1e-9)).T[place]]
    if num_maps > 1:
        targets.append(tones_at(song.chords or [], times))
    return np.concatenate(targets, axis=1)


def tones_at(chords: Sequence[Segment], times: np.ndarray) -> np.ndarray:
    """Return 1 for the pitch classes of the chord at each time, and 0 for others, float64 `(times, 12)` from C."""
    tones = np.zeros((len(times), PITCH_CLASSES))
    for chord in chords:
        sounding = np.flatnonzero((times >= chord.start) & (times < chord.end))
        tones[sounding[:, None], list(chord_tones(chord.label))] = 1
    return tones
