"""Read random crops of songs. Noise replaces songs that cannot be used."""

import math
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ..audio.effect_chain import EffectChain
from ..audio.reading import open_recording, read_part
from ..training.files import write_table
from .catalog import Song, StreamedSong, fetch_audio
from .sources import ListedSource
from .streams import StreamedSource

_TRIES = 3  # number of silent crops after which a song counts as silent
_SILENCE_RMS = 1e-4
_PLACEHOLDER_STD = 0.1
_MAX_RECORDS = 10_000
_POSITION, _PLACEHOLDER, _EFFECTS = range(
    3
)  # purposes of random numbers: the second of the integers that seed a generator

Batch = dict[str, torch.Tensor]


class AudioProblem(NamedTuple):
    """
    A song that cannot be used, or only in part. `reason` is "unreadable", "too short" or "silent", or "damaged" for a
    song that is used all the same; `seconds` is the length of a song that is too short.
    """

    source: str
    name: str
    reason: str
    detail: str
    seconds: float | None = None


class ProblemLog:
    """
    Songs that cannot be used or are damaged, without duplicates: `counts` by reason, and the first ten thousand in
    `records`.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.records: list[AudioProblem] = []
        self._seen: set[tuple[str, str]] = set()

    def add(self, problem: AudioProblem) -> bool:
        """Count a problem, and return whether a record was added for it."""
        if problem[:2] in self._seen:
            return False
        self._seen.add(problem[:2])
        self.counts[problem.reason] += 1
        if len(self.records) < _MAX_RECORDS:
            self.records.append(problem)
            return True
        return False

    def write(self, path: str | os.PathLike) -> None:
        """Write the records as tab-separated values: source, name, reason, detail."""
        write_table(path, [AudioProblem._fields[:4], *(problem[:4] for problem in self.records)])

    def summary(self) -> str:
        """Return the number of problems for each reason, with an example."""
        examples = {problem.reason: problem for problem in reversed(self.records)}
        return "; ".join(
            f"{number} {reason}, such as {examples[reason].name}: {examples[reason].detail}"
            for reason, number in self.counts.items()
        )

    def refusal(self, source: str, crop_seconds: float) -> ValueError:
        """Return the error for a source without usable songs."""
        if self.counts.keys() == {"unreadable"}:
            text = "no file is readable"
        elif self.counts.keys() == {"too short"}:
            longest = max(problem.seconds or 0.0 for problem in self.records)
            text = f"every file is shorter than the crop of {crop_seconds} s (longest {longest:.3f} s)"
        else:
            text = f"no file has a usable crop of {crop_seconds} s"
        return ValueError(f"In {source}, {text}. {self.summary()}")


class _UnusableError(Exception):
    """
    Raised if a song has no usable crop. The arguments are the reason, the detail and, if the song is too short, its
    length in seconds.
    """


class CropReference(NamedTuple):
    """A crop to read: the index of its source, the index of the song there (or a streamed song itself), and a seed."""

    source: int
    song: int | StreamedSong
    seed: int


class CropReader(Dataset):
    """
    Maps a [`CropReference`] to an item with `input_values` `(samples,)` float32, from a position drawn with its seed,
    and `seeds`.

    If a song cannot be read, is shorter than a crop, or is silent in three crops, the item instead holds `min_samples`
    samples of noise, with `attention_mask` `(samples,)` int64 and `problem` ([`AudioProblem`]). Crops of a truncated
    song are taken from the audio that it has, and the item has `damage` ([`AudioProblem`]).

    Args:
        sources ([`ListedSource`], [`StreamedSource`]): Sources of the references.
        crop_seconds (`float`): Length of a crop.
        sampling_rate (`int`): Rate of the crops, in Hz.
        min_samples (`int`): Length of the noise.
        effects (`float`): Share of the crops that get audio effects, drawn with their seed; see [`EffectChain`].

    Raises:
        ValueError: a crop is shorter than `min_samples`, `min_samples` is less than 1, or `effects` not in [0, 1].
        ImportError: see [`EffectChain`].
        TypeError: a source is neither listed nor streamed.
    """

    def __init__(
        self,
        sources: Sequence[ListedSource | StreamedSource],
        crop_seconds: float,
        sampling_rate: int,
        min_samples: int,
        effects: float = 0.0,
    ):
        for source in sources:
            if not isinstance(source, (ListedSource, StreamedSource)):
                raise TypeError(f"Sources must come from `open_source`, got {type(source)}.")
        # Streams are kept only in the process that reads them.
        self.catalogs: list[Sequence[Song]] = [
            source.songs if isinstance(source, ListedSource) else () for source in sources
        ]
        self.names = [source.name for source in sources]
        self.sampling_rate = sampling_rate
        self.samples = round(crop_seconds * sampling_rate) if math.isfinite(crop_seconds) else 0
        self.min_samples = min_samples
        self.effects = EffectChain(effects, sampling_rate)
        if not 1 <= min_samples <= self.samples:
            raise ValueError(
                f"`min_samples` must be at least 1, and `crop_seconds` no shorter than that, got {min_samples} and "
                f"{crop_seconds} s, which is {self.samples} samples at {sampling_rate} Hz."
            )

    def __getitem__(self, reference: CropReference) -> dict[str, Any]:
        source, song, seed = reference
        name, audio = self.catalogs[source][song] if isinstance(song, int) else song
        try:
            audio = fetch_audio(audio)
            crop, remarks = self._read(audio, seed)
        except _UnusableError as error:
            problem = error.args
        except (ValueError, TypeError, OSError) as error:
            problem = ("unreadable", str(error))
        else:
            crop = self.effects(crop, np.random.default_rng([seed, _EFFECTS]))
            item = {"input_values": torch.from_numpy(crop), "seeds": seed}
            if remarks:
                name = _name_of(name, audio)
                item["damage"] = AudioProblem(self.names[source], name, "damaged", " ".join(remarks))
            return item
        return self._placeholder(seed) | {"problem": AudioProblem(self.names[source], _name_of(name, audio), *problem)}

    def _read(self, audio: Any, seed: int) -> tuple[np.ndarray, list[str]]:
        """Return the first of three random crops `(samples,)` that is not silent, and remarks about the file."""
        with open_recording(audio) as recording:
            available = math.floor(recording.seconds * self.sampling_rate)
            if available < self.samples:
                seconds = available / self.sampling_rate
                raise _UnusableError("too short", f"has {seconds:.3f} s", seconds)
            starts = np.random.default_rng([seed, _POSITION]).integers(available - self.samples + 1, size=_TRIES)
            for start in dict.fromkeys(starts.tolist()):
                crop = read_part(
                    recording, self.sampling_rate, start / self.sampling_rate, self.samples / self.sampling_rate
                )
                if len(crop) < self.samples:
                    raise _UnusableError("unreadable", " ".join(recording.remarks))
                if float(np.dot(crop, crop)) >= self.samples * _SILENCE_RMS**2:
                    return crop, recording.remarks
        raise _UnusableError("silent", f"{_TRIES} crops of it have an RMS below {_SILENCE_RMS}")

    def _placeholder(self, seed: int) -> dict[str, Any]:
        """
        Return an item of noise. Substituting another song would make the order depend on which files are readable.
        """
        noise = np.random.default_rng([seed, _PLACEHOLDER]).standard_normal(self.min_samples, dtype=np.float32)
        input_values = torch.zeros(self.samples)
        input_values[: self.min_samples] = torch.from_numpy(noise) * _PLACEHOLDER_STD
        attention_mask = (torch.arange(self.samples) < self.min_samples).long()
        return {"input_values": input_values, "seeds": seed, "attention_mask": attention_mask}


def _name_of(name: str | None, audio: Any) -> str:
    """Return the name of a song; rows without a name are named after their content."""
    if name is not None:
        return name
    content = (audio or {}).get("bytes") or b""
    return f"{len(content)} bytes, CRC-32 {zlib.crc32(content):08x}"


def collate_crops(items: Sequence[dict[str, Any]]) -> Batch:
    """
    Collate items of [`FixedCrops`] into a batch: `input_values` `(batch, samples)` float32, `seeds` `(batch,)` int64
    and, if an item has one, `attention_mask` `(batch, samples)` int64.
    """
    batch = {
        "input_values": torch.stack([item["input_values"] for item in items]),
        "seeds": torch.tensor([item["seeds"] for item in items], dtype=torch.int64),
    }
    if any("attention_mask" in item for item in items):
        whole = torch.ones(batch["input_values"].shape[1], dtype=torch.int64)
        batch["attention_mask"] = torch.stack([item.get("attention_mask", whole) for item in items])
    return batch
