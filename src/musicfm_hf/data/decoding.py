"""Audio files decoded in worker processes."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from ..audio.reading import load_audio
from .catalogue import DatasetAudio


class DecodedSong(NamedTuple):
    name: str
    origin: str
    waveform: np.ndarray | None
    problem: str | None


class SongFiles(Dataset):
    """Decodes `(name, source)` pairs, in workers; what cannot be read comes back as a problem, not as an exception."""

    def __init__(self, sources: list[tuple[str, Any]], sampling_rate: int, min_samples: int):
        self.sources = sources
        self.sampling_rate = sampling_rate
        self.min_samples = min_samples

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> DecodedSong:
        name, source = self.sources[index]
        origin = name
        try:
            if isinstance(source, DatasetAudio):
                source = source.dataset[source.index][source.column]
            origin = str(source.get("path") or name) if isinstance(source, dict) else str(source)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                waveform = load_audio(source, self.sampling_rate)
        except (ValueError, TypeError, OSError) as error:
            return DecodedSong(name, origin, None, str(error))
        if len(waveform) < self.min_samples:
            problem = f"{origin} has {len(waveform)} samples, the model needs at least {self.min_samples}."
            return DecodedSong(name, origin, None, problem)
        return DecodedSong(name, origin, waveform, "; ".join(str(warning.message) for warning in caught) or None)


def as_it_is(item: Any) -> Any:
    """Collate nothing: waveforms stay NumPy arrays and go through pipes, not through shared memory."""
    return item
