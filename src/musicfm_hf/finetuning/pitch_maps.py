"""
The pitch maps of an embedding head: their targets, from chroma and, in songs with chords, from chord tones, and their
fit by least squares.

A head that learns everything from pairs of versions learns the training songs by heart: it recognizes which sounds
belong to which song, and finds nothing among other songs. Its first part, and the encoder, therefore learn targets
that a transposition rotates and another instrument hardly changes.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ..data.labeled import LabeledSong
from ..evaluation.retrieval_baselines import HOP_LENGTH, extract_chroma
from ..inference.feature_cache import FeatureCache, features_key, padded_crop
from ..model.configuration_musicfm import MusicFMConfig
from ..model.heads_musicfm import PITCH_CLASSES, MusicFMEmbeddingHead
from ..model.losses_musicfm import IGNORED
from ..tasks.annotations import Segment
from ..tasks.chord_syntax import chord_tones

MAX_SONGS = 100

RIDGE = 1e-3  # share of the mean variance of the inputs that is added to each


def count_pitch_maps(songs: Sequence[LabeledSong]) -> int:
    """
    Return the number of maps that have targets in songs: 2 if all songs have chords, else 1.

    Raises:
        ValueError: if a label is not a chord.
    """
    if not all(song.chords for song in songs):
        return 1
    for label in {chord.label for song in songs for chord in song.chords or []}:
        chord_tones(label)
    return 2


class ChromaFeatures:
    """
    The root of chroma for [`FeatureCache`], as a share of the highest value in the song: `(frames, 12)` from C, at the
    centers of the frames of an encoder.

    Args:
        config ([`MusicFMConfig`]): Configuration of the encoder.
    """

    def __init__(self, config: MusicFMConfig):
        self.config = config
        self.names = {"chroma": None}
        self.transform = partial(extract_chroma, sampling_rate=config.sampling_rate)
        frames = [config.sampling_rate, config.samples_per_frame, config.frame_offset]
        self.key = features_key({"chroma": HOP_LENGTH, "frames": frames})

    def encode(
        self, songs: Iterable[tuple[Any, np.ndarray]], names: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        """Compute features from the output of [`extract_chroma`], as [`Features.encode`] describes."""
        rate = self.config.sampling_rate / HOP_LENGTH
        for key, chroma in songs:
            count = int(chroma.shape[1] / rate * self.config.frame_rate) + 1
            times = (np.arange(count) + self.config.frame_offset) / self.config.frame_rate
            place = np.round(times * rate).astype(int)
            shares = np.sqrt(np.clip(chroma, 0, None) / max(chroma.max(), 1e-9))
            yield key, {"chroma": torch.from_numpy(shares.T[place.clip(0, chroma.shape[1] - 1)])}


class PitchTargets:
    """
    Targets of pitch maps: the values of [`ChromaFeatures`] and, for two maps, 1 for the tones of the chord and 0 for
    others.

    Args:
        cache ([`FeatureCache`]): Cache of [`ChromaFeatures`] that holds the songs.
        num_maps (`int`): 1 or 2.
    """

    def __init__(self, cache: FeatureCache, num_maps: int):
        self.cache, self.config, self.num_maps = cache, cache.config, num_maps

    def __call__(
        self, song: LabeledSong, start: int, frames: int, tempo: float = 1.0, semitones: int = 0
    ) -> torch.Tensor:
        """
        Return the targets of a crop of a song, float32 `(frames, num_maps * 12)`; -100 after the end of the audio.

        Args:
            start (`int`): First frame, in the song at its own tempo.
            tempo (`float`): Tempo of the crop, relative to that of the song.
            semitones (`int`): Transposition of the crop.
        """
        offset = self.config.frame_offset
        place = start + (np.arange(frames) + offset) * tempo - offset  # frames of the song
        rows = self.cache.read(song, start, int(np.ceil(frames * tempo)) + 1).float().numpy()
        index = np.clip(np.round(place).astype(int) - start, 0, None)
        count = int((index < len(rows)).sum())  # the others are after the end of the audio
        targets = [rows[index[:count]]]
        if self.num_maps > 1:
            targets.append(tones_at(song.chords or [], (place[:count] + offset) / self.config.frame_rate))
        output = np.full((frames, self.num_maps * PITCH_CLASSES), IGNORED, dtype=np.float32)
        output[:count] = np.concatenate([np.roll(values, semitones, axis=1) for values in targets], axis=1)
        return torch.from_numpy(output)


def fit_pitch_maps(
    head: MusicFMEmbeddingHead, cache: FeatureCache, targets: PitchTargets, songs: Sequence[LabeledSong]
) -> None:
    """
    Set the first part of a head to the least-squares map from cached features to targets.

    Args:
        cache ([`FeatureCache`]): Cache that holds the features of the songs.
        targets ([`PitchTargets`]): Targets of the songs.
        songs: Training songs, such as those of [`songs_to_fit`].
    """
    width = head.projector.in_features
    size = width + 1 + head.projector.out_features
    sums = torch.zeros(size, size, dtype=torch.float64)
    for song in songs:
        with torch.no_grad():
            inputs = head.normalize(head.mix(cache.read(song).float()[None]))[0].double()
        ones = torch.ones(len(inputs), 1, dtype=torch.float64)
        rows = torch.cat([inputs, ones, targets(song, 0, len(inputs)).double()], dim=1)
        rows = rows[rows[:, -1] != IGNORED]
        sums += rows.T @ rows
    moments = sums[: width + 1, : width + 1]
    ridge = RIDGE * moments.diagonal()[:width].mean() * torch.eye(width + 1, dtype=torch.float64)
    ridge[width, width] = 0  # the bias
    weights = torch.linalg.solve(moments + ridge, sums[: width + 1, width + 1 :])  # (width + 1, maps * 12)
    with torch.no_grad():
        head.projector.weight.copy_(weights[:width].T)
        head.projector.bias.copy_(weights[width])


def songs_to_fit(songs: Sequence[LabeledSong], seed: int) -> list[LabeledSong]:
    """Draw up to `MAX_SONGS` songs, in their order, for [`fit_pitch_maps`]."""
    order = np.random.default_rng(seed).permutation(len(songs))[:MAX_SONGS]
    return [songs[index] for index in sorted(order)]


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


def tones_at(chords: Sequence[Segment], times: np.ndarray) -> np.ndarray:
    """Return 1 for the pitch classes of the chord at each time, and 0 for others, float32 `(times, 12)` from C."""
    tones = np.zeros((len(times), PITCH_CLASSES), dtype=np.float32)
    for chord in chords:
        sounding = np.flatnonzero((times >= chord.start) & (times < chord.end))
        tones[sounding[:, None], list(chord_tones(chord.label))] = 1
    return tones
