"""Pairs of a random crop of a song and one of its captions, and whole songs for evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..audio.reading import load_audio, open_recording, read_part
from ..data.captions import CaptionedSong
from ..data.catalog import fetch_audio
from ..data.crop_reader import AudioProblem

_ORDER, _CROP = range(2)  # purposes of random numbers; the second of the integers that seed a generator
_PLACEHOLDER_STD = 0.1


class CaptionCrops(Dataset):
    """
    Pairs of a crop at a random position of a song and one of its captions. In a pass, every song is used once, except
    for the rest that does not fill a batch; the order differs from pass to pass, so a batch never has a song twice. A
    pair depends only on the seed, the pass and the song, so a resumed run equals an uninterrupted one.

    An item has `input_values` (float32 `(samples,)`; the whole song if it is shorter than a crop), `caption`,
    `is_pair`, and `problem` ([`AudioProblem`] or `None`). If the song cannot be read or is too short, `is_pair` is
    false, and `input_values` are noise, which the loss leaves out.

    Args:
        songs: Songs with captions.
        crop_samples (`int`): Length of a crop.
        sampling_rate (`int`): Rate of the crops, in Hz.
        min_samples (`int`): Number of samples that the model needs.
        batch_size (`int`): Number of pairs in a batch, over all processes.
        batches (`int`): Number of batches.
        seed (`int`): Seed of order, positions and captions.

    Raises:
        ValueError: there are fewer songs than pairs in a batch, or a batch has fewer than two pairs.
    """

    def __init__(
        self,
        songs: Sequence[CaptionedSong],
        crop_samples: int,
        sampling_rate: int,
        min_samples: int,
        batch_size: int,
        batches: int,
        seed: int,
    ):
        if not 2 <= batch_size <= len(songs):
            raise ValueError(
                f"A batch must have between 2 and {len(songs)} pairs, the number of songs to train on, because the "
                f"texts of other songs are the negatives; got {batch_size} over all processes. Set "
                "`--per_device_train_batch_size`."
            )
        self.songs, self.seed = list(songs), seed
        self.crop_samples, self.sampling_rate, self.min_samples = crop_samples, sampling_rate, min_samples
        self.count = batches * batch_size
        self.pass_length = len(self.songs) // batch_size * batch_size
        self._pass, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Any]:
        turn, place = divmod(number, self.pass_length)
        if turn != self._pass:
            self._pass = turn
            self._order = np.random.default_rng([self.seed, _ORDER, turn]).permutation(len(self.songs))
        return self.pair(turn, int(self._order[place]))

    def pair(self, turn: int, index: int) -> dict[str, Any]:
        """Return the pair of a song in a pass."""
        song = self.songs[index]
        generator = np.random.default_rng([self.seed, _CROP, turn, index])
        caption = song.captions[generator.integers(len(song.captions))]
        try:
            waveform = self._read(song, generator)
            problem = None
        except (ValueError, TypeError, OSError) as error:
            noise = generator.standard_normal(self.min_samples, dtype=np.float32)
            waveform = noise * np.float32(_PLACEHOLDER_STD)
            problem = AudioProblem("train", song.name, "unreadable", str(error))
        return {"input_values": waveform, "caption": caption, "is_pair": problem is None, "problem": problem}

    def _read(self, song: CaptionedSong, generator: np.random.Generator) -> np.ndarray:
        """Return a random crop, or the whole song if it is shorter: float32 `(samples,)`."""
        with open_recording(fetch_audio(song.audio)) as recording:
            available = int(recording.seconds * self.sampling_rate)
            start = int(generator.integers(max(0, available - self.crop_samples) + 1))
            rate = self.sampling_rate
            waveform = read_part(recording, rate, start / rate, self.crop_samples / rate)
        require_length(waveform, self.min_samples, rate)
        return waveform


class WholeSongs(Dataset):
    """Whole songs for evaluation: pairs `(waveform float32 (samples,) or None, problem or None)`."""

    def __init__(self, songs: Sequence[CaptionedSong], split: str, sampling_rate: int, min_samples: int):
        self.songs, self.split = songs, split
        self.sampling_rate, self.min_samples = sampling_rate, min_samples

    def __len__(self) -> int:
        return len(self.songs)

    def __getitem__(self, index: int) -> tuple[np.ndarray | None, AudioProblem | None]:
        song = self.songs[index]
        try:
            waveform = load_audio(fetch_audio(song.audio), self.sampling_rate)
            require_length(waveform, self.min_samples, self.sampling_rate)
        except (ValueError, TypeError, OSError) as error:
            return None, AudioProblem(self.split, song.name, "unreadable", str(error))
        return waveform, None


def require_length(waveform: np.ndarray, min_samples: int, sampling_rate: int) -> None:
    """Raise a `ValueError` if a waveform is too short for the model."""
    if len(waveform) < min_samples:
        raise ValueError(
            f"It has {len(waveform) / sampling_rate:.3f} s, and the model needs {min_samples / sampling_rate:.3f} s."
        )


class CollatePairs:
    """
    Collates items of [`CaptionCrops`] into a batch: the values that the processor returns for their texts and audio,
    `is_pair` (bool `(pairs,)`), and `problems` (a list of [`AudioProblem`]).

    Args:
        processor ([`MusicFMTextAudioProcessor`]): Processor of the model.
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        extractor = self.processor.feature_extractor
        values = self.processor(
            text=[item["caption"] for item in items],
            audio=[item["input_values"] for item in items],
            sampling_rate=extractor.sampling_rate,
        )
        return {
            **values,
            "is_pair": torch.tensor([item["is_pair"] for item in items]),
            "problems": [item["problem"] for item in items if item["problem"] is not None],
        }
