"""Decoding of audio files in worker processes, with a list of the songs that cannot be read."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..audio.reading import load_audio
from .catalog import fetch_audio


class DecodedSong(NamedTuple):
    """
    A decoded song.

    Attributes:
        name (`str`): As its source was named.
        origin (`str`): The path of its audio, where it has one; its name otherwise.
        content: The waveform `(samples,)` float32, or what `transform` made of it; `None` if it cannot be used.
        problem (`str`, *optional*): Why it cannot be used, or how its file is damaged.
    """

    name: str
    origin: str
    content: Any
    problem: str | None


class SongLoader:
    """
    Decodes songs in worker processes. Iterating yields each [`DecodedSong`] that can be used, in the order of
    `sources`; damaged files yield the audio they have.

    Args:
        sources: Names, and audio as [`musicfm_hf.load_audio`] or [`DatasetAudio`] has it.
        sampling_rate (`int`): Rate of the waveforms, in Hz.
        min_samples (`int`): Songs with fewer samples cannot be used.
        num_workers (`int`): Decoding processes; 0 decodes in this one.
        transform (`Callable`, *optional*): Called with each waveform, in the worker, for what should replace it.
            Songs for which it raises `ValueError` cannot be used.

    Attributes:
        problems (`list[tuple[str, str]]`): Names and problems of songs met so far that are damaged or unusable.
        unusable (`list[tuple[str, str]]`): Those of them that cannot be used.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, Any]],
        sampling_rate: int,
        min_samples: int = 1,
        num_workers: int = 0,
        transform: Callable[[np.ndarray], Any] | None = None,
    ):
        self.problems: list[tuple[str, str]] = []
        self.unusable: list[tuple[str, str]] = []
        self._songs = _Songs(sources, sampling_rate, min_samples, transform)
        self._num_workers = num_workers

    def __iter__(self) -> Iterator[DecodedSong]:
        loader = DataLoader(self._songs, batch_size=None, num_workers=self._num_workers, collate_fn=no_collate)
        for song in loader:
            if song.problem is not None:
                self.problems.append((song.name, song.problem))
            if song.content is None:
                self.unusable.append((song.name, song.problem))
            else:
                yield song

    def raise_if_unusable(self) -> None:
        """Raise a `ValueError` that names the songs met so far that cannot be used, if there are any."""
        if self.unusable:
            reasons = "; ".join(f"{name}: {problem}" for name, problem in self.unusable)
            raise ValueError(f"Songs cannot be used: {reasons}")


class _Songs(Dataset):
    """Decoded songs by index; a song that cannot be read is returned with its problem."""

    def __init__(
        self,
        sources: Sequence[tuple[str, Any]],
        sampling_rate: int,
        min_samples: int,
        transform: Callable[[np.ndarray], Any] | None,
    ):
        self.sources, self.sampling_rate = sources, sampling_rate
        self.min_samples, self.transform = min_samples, transform

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> DecodedSong:
        name, source = self.sources[index]
        origin = name
        try:
            source = fetch_audio(source)
            origin = str(source.get("path") or name) if isinstance(source, dict) else str(source)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                content = load_audio(source, self.sampling_rate)
            if len(content) < self.min_samples:
                raise ValueError(
                    f"{origin} has {len(content)} samples, but the model needs at least {self.min_samples}."
                )
            if self.transform is not None:
                content = self.transform(content)
        except (ValueError, TypeError, OSError) as error:
            return DecodedSong(name, origin, None, str(error))
        return DecodedSong(name, origin, content, "; ".join(str(warning.message) for warning in caught) or None)


def no_collate(item: Any) -> Any:
    """Return an item unchanged: waveforms stay NumPy arrays, and go through pipes instead of shared memory."""
    return item
