"""Training examples of retrieval: pairs of crops that are the same music, from labeled songs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..model.configuration_musicfm import MusicFMConfig
from ..model.losses_musicfm import IGNORED
from ..tasks.retrieval import Excerpt, RetrievalTask
from .labeled import LabeledSong

_ORDER, _CLASSES, _PAIR = range(2, 5)  # purposes of random numbers; `examples.py` has 0 and 1


def limit_groups(songs: Sequence[LabeledSong], limit: int | None) -> list[LabeledSong]:
    """Return all versions of the first `limit` songs; of all songs by default."""
    groups: dict[str, list[LabeledSong]] = {}
    for song in songs:
        groups.setdefault(song.group, []).append(song)
    return [song for members in list(groups.values())[:limit] for song in members]


class PairCrops(Dataset):
    """
    `count` crops in which every two neighbors, 0 and 1, 2 and 3, …, are the same music: crops of two regions of one
    class, one half of the pairs at the same relative position, the other half anywhere. The regions are from different
    versions of the song, because sound and key would give away those of one version. Every song is used once before a
    song is used again, with up to `classes_per_song` of its classes in a row, which are hard negatives of each other
    in a batch. A crop depends only on its index and the seed, so a resumed run equals an uninterrupted one. Batches
    need an even size, in order.

    Items have `labels`, the number of the class, and the values that `read` returns.

    Args:
        config ([`MusicFMConfig`]): Configuration of the model with its head.
        task ([`RetrievalTask`]): Task that defines the classes.
        songs: Training songs.
        read (`Callable`): `(song, first frame, frames, generator)` → a mapping for the model; as for [`TaskCrops`].
        count (`int`): Number of crops.
        crop_seconds (`float`): Length of a crop; shorter regions are used as a whole.
        seed (`int`): Seed of the order of songs, of the pairs and of the positions of crops.
        classes_per_song (`int`): Number of pairs of a song in a row.
        pitch_labels (`Callable`, *optional*): `(song, first frame, frames, tempo, semitones)` → `pitch_labels` of the
            item, from the song as it is, with the changes that `read` made.

    Raises:
        ValueError: if a crop is shorter than a frame, or no song has two regions that are the same music.
    """

    def __init__(
        self,
        config: MusicFMConfig,
        task: RetrievalTask,
        songs: Sequence[LabeledSong],
        read: Callable[[LabeledSong, int, int, np.random.Generator], Mapping[str, Any]],
        count: int,
        crop_seconds: float,
        seed: int,
        classes_per_song: int = 2,
        pitch_labels: Callable[[LabeledSong, int, int, float, int], torch.Tensor] | None = None,
    ):
        self.config, self.read, self.count, self.seed = config, read, count, seed
        self.pitch_labels = pitch_labels
        self.crop_frames = round(crop_seconds * config.frame_rate)
        if self.crop_frames < 1:
            raise ValueError(f"`crop_seconds` must be at least {1 / config.frame_rate:g}, got {crop_seconds}.")
        self.classes = task.classes(songs)
        self.classes_per_song = min(classes_per_song, max(map(len, self.classes)))
        self._first_labels = np.cumsum([0, *map(len, self.classes)])
        self._pass, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Any]:
        pair, side = divmod(number, 2)
        turn, place = divmod(pair, len(self.classes) * self.classes_per_song)
        if turn != self._pass:
            self._pass = turn
            self._order = np.random.default_rng([self.seed, _ORDER, turn]).permutation(len(self.classes))
        song, slot = self._order[place // self.classes_per_song], place % self.classes_per_song
        classes = self.classes[song]
        order = np.random.default_rng([self.seed, _CLASSES, turn, int(song)]).permutation(len(classes))
        chosen = int(order[slot % len(classes)])
        generator = np.random.default_rng([self.seed, _PAIR, pair])
        members = _two_members(classes[chosen], generator)
        is_aligned, position = generator.random() < 0.5, float(generator.random())
        if side:
            generator = np.random.default_rng([self.seed, _PAIR, pair, side])  # another position, another augmentation
            position = position if is_aligned else float(generator.random())
        item = self._crop(members[side], position, generator)
        return item | {"labels": torch.tensor(int(self._first_labels[song]) + chosen)}

    def _crop(self, region: Excerpt, position: float, generator: np.random.Generator) -> dict[str, Any]:
        """Read the crop of a region at a relative position from 0 to 1."""
        config = self.config
        whole = config.frame_counts(round(region.song.duration * config.sampling_rate))[-1]
        first = min(round(region.start * config.frame_rate), whole - 1)
        frames = min(max(round(region.end * config.frame_rate) - first, 1), whole - first)
        count = min(self.crop_frames, frames)
        start = first + round(position * (frames - count))
        item = dict(self.read(region.song, start, count, generator))
        tempo, semitones = item.pop("tempo", 1.0), item.pop("semitones", 0)
        audio_frames = item.pop("audio_frames", count)
        if self.pitch_labels is not None:
            item["pitch_labels"] = self.pitch_labels(region.song, start, count, tempo, semitones)
            item["pitch_labels"][audio_frames:] = IGNORED
        return item


def _two_members(members: Sequence[Excerpt], generator: np.random.Generator) -> tuple[Excerpt, Excerpt]:
    """Draw two regions of a class, from different versions if it has several."""
    order = generator.permutation(len(members))
    first = members[order[0]]
    others = [members[index] for index in order[1:]]
    return first, next((other for other in others if other.song.id != first.song.id), others[0])
