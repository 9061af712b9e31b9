"""Random crops of songs in endless batches that resume exactly, and a fixed set of crops for validation."""

import copy
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import count as count_up
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging

from .catalog import Song, digest_names
from .crop_reader import AudioProblem, Batch, CropReader, CropReference, ProblemLog, collate_crops
from .sources import ListedSource
from .splits import hash_name
from .streams import SongStream, StreamedSource

logger = logging.get_logger(__name__)

_CHUNK = 4096  # number of crops whose sources and seeds are drawn at once
_CHECKED_SONGS = 1000  # number of songs of a stream that `CropLoader.check` tries
_EARLIER_SETTINGS = {"effects": 0.0}  # of states that lack them
_DRAWS, _ORDER, _STREAM = range(3)  # purposes of random numbers; the second of the integers that seed a generator


class FixedCrops(Dataset):
    """
    A fixed set of crops, from [`fixed_crops`], decoded on access. An item has `input_values` `(samples,)` float32 and
    `seeds` (`int`); [`collate_crops`] makes batches of them.

    Attributes:
        names (`list[str]`): Names of the songs of the crops.
        problems ([`ProblemLog`]): Songs that were left out.
    """

    def __init__(self, reader: CropReader, references: list[CropReference], names: list[str], problems: ProblemLog):
        self.names = names
        self.problems = problems
        self._reader = reader
        self._references = references

    @property
    def identity(self) -> list:
        """Return values for JSON that are equal for the same crops of songs with the same names."""
        return ["crops", len(self), digest_names(self.names)]

    def __len__(self) -> int:
        return len(self._references)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._reader[self._references[index]]
        return {key: value for key, value in item.items() if key not in ("problem", "damage")}


def fixed_crops(
    songs: Sequence[Song],
    crop_seconds: float,
    count: int | None = None,
    seed: int = 0,
    sampling_rate: int = 24000,
    min_samples: int = 1025,
) -> FixedCrops:
    """
    Choose crops for validation: one per song, or `count` crops that cycle through the songs. The order and the
    positions depend only on the names and on `seed`. Every crop is read once, and songs that cannot be used are left
    out.

    Args:
        songs: Names and audio, as returned by [`list_sources`].
        crop_seconds (`float`): Length of a crop.
        count (`int`, *optional*): Number of crops; one for each song by default.
        seed (`int`): Seed of order and positions.
        sampling_rate (`int`): Rate of the crops, in Hz.
        min_samples (`int`): Number of samples of noise that replace a song that can no longer be read on access.

    Raises:
        ValueError: no song can be used, or an argument is out of range.
    """
    if count is not None and count < 1:
        raise ValueError(f"`count` must be at least 1, got {count}.")
    reader = CropReader([ListedSource(songs, "validation")], crop_seconds, sampling_rate, min_samples)
    remaining = sorted(range(len(songs)), key=lambda index: hash_name(songs[index][0], seed))
    references: list[CropReference] = []
    names: list[str] = []
    problems = ProblemLog()
    for turn in count_up():
        usable = []
        for index in remaining:
            if len(references) == count:
                break
            reference = CropReference(0, index, hash_name(songs[index][0], seed, turn))
            item = reader[reference]
            problem = item.get("problem")
            if "damage" in item:
                problems.add(item["damage"])
            if problem is None:
                references.append(reference)
                names.append(songs[index][0])
                usable.append(index)
            else:
                problems.add(problem)
        remaining = usable
        if count is None or len(references) == count or not remaining:
            break
    if not references:
        raise problems.refusal("the songs to validate on", crop_seconds)
    if problems.records:
        logger.warning(f"Songs are left out of validation, or damaged: {problems.summary()}")
    return FixedCrops(reader, references, names, problems)


class _Collate:
    """Collates items into a batch, and collects their problems; called in workers."""

    def __init__(self, collate: Callable[[Batch], Batch] | None):
        self.collate = collate

    def __call__(self, items: list[dict[str, Any]]) -> tuple[Batch, list[AudioProblem]]:
        problems = [item[key] for item in items for key in ("problem", "damage") if key in item]
        batch = collate_crops(items)
        return batch if self.collate is None else self.collate(batch), problems


class CropLoader:
    """
    Endless batches of random crops. They depend only on the arguments, not on the number of workers, on earlier
    interruptions, or on global generators.

    Crops are numbered over all ranks; rank r of R creates the crops whose number is r modulo R. Each crop has a
    source, drawn by weight, and its own seed, which determines its position in the song. Every song of a listed source
    is used once, on any rank, before a song is used again. Each rank reads its own shards of a streamed source.

    A song that cannot be read, is shorter than a crop, or is silent is replaced with `min_samples` samples of noise,
    and the rest of the crop is masked. The noise has at most two frames with targets.

    Iteration yields `input_values` `(batch, samples)` float32, `seeds` `(batch,)` int64 and, in batches with such a
    song, `attention_mask` `(batch, samples)` int64. It continues after the last batch that was yielded, or from a
    loaded state. A run that resumes from the state of a finished step equals an uninterrupted run.

    Args:
        sources ([`ListedSource`], [`StreamedSource`]): Sources from [`open_source`].
        weights: Relative frequencies of the sources; by default their numbers of songs, if all are listed.
        crop_seconds (`float`): Length of a crop.
        batch_size (`int`): Number of crops in a batch, on this rank.
        seed (`int`): Seed of sources, order and positions.
        rank, world_size (`int`): Index of this process, and number of processes.
        sampling_rate (`int`): Rate of the crops, in Hz.
        min_samples (`int`): Number of samples of noise that replace a song that cannot be used: the minimum of the
            model.
        num_workers (`int`): Number of decoding processes; 0 decodes in this process.
        prefetch (`int`): Number of batches that each worker prepares in advance.
        collate (`Callable`, *optional*): Function that is called with each batch, in the worker, and returns its
            replacement.
        effects (`float`): Share of the crops that get audio effects; see [`EffectChain`].

    Attributes:
        problems ([`ProblemLog`]): Songs that this rank has found unusable so far.

    Raises:
        ValueError: an argument is out of range, or a stream has fewer shards than ranks.
    """

    def __init__(
        self,
        sources: Sequence[ListedSource | StreamedSource],
        weights: Sequence[float] | None = None,
        *,
        crop_seconds: float,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sampling_rate: int = 24000,
        min_samples: int = 1025,
        num_workers: int = 0,
        prefetch: int = 2,
        collate: Callable[[Batch], Batch] | None = None,
        effects: float = 0.0,
    ):
        _check_at_least(("len(sources)", len(sources), 1), ("batch_size", batch_size, 1), ("seed", seed, 0))
        _check_at_least(("num_workers", num_workers, 0), ("prefetch", prefetch, 1))
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` must be at least 0 and less than `world_size` ({world_size}), got {rank}.")
        self.sources = list(sources)
        self.crop_seconds = crop_seconds
        self.rank = rank
        self.problems = ProblemLog()
        self._reader = CropReader(self.sources, crop_seconds, sampling_rate, min_samples, effects)
        for source in self.sources:
            if isinstance(source, StreamedSource):
                source.split(rank, world_size)
        self._settings: dict[str, Any] = {
            "world_size": world_size,
            "batch_size": batch_size,
            "crop_seconds": crop_seconds,
            "seed": seed,
            "sources": [source.identity for source in self.sources],
            "weights": _checked_weights(self.sources, weights),
            "effects": effects,
        }
        self._state: dict[str, Any] = {"position": 0, "drawn": [0] * len(sources), "streams": [None] * len(sources)}
        self._options: dict[str, Any] = {"num_workers": num_workers, "collate_fn": _Collate(collate)}
        if num_workers:
            self._options["prefetch_factor"] = prefetch

    def check(self) -> None:
        """
        Check that every source has a usable song, trying all songs of a listed source, and the first thousand songs of
        a streamed source.

        Raises:
            ValueError: a source has no usable song. The message counts the songs for each reason.
        """
        for number, source in enumerate(self.sources):
            songs: Iterable[Any]
            if isinstance(source, ListedSource):
                songs = range(len(source.songs))
            else:
                dataset = source.split(self.rank, self._settings["world_size"])
                songs = map(source.song, islice(dataset, _CHECKED_SONGS))
            problems = ProblemLog()
            for song in songs:
                problem = self._reader[CropReference(number, song, self._settings["seed"])].get("problem")
                if problem is None:
                    break
                problems.add(problem)
            else:
                raise problems.refusal(source.name, self.crop_seconds)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of this rank after the last batch that was yielded, as values for JSON."""
        return copy.deepcopy({"settings": self._settings, "rank": self.rank, **self._state})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Continue from a state in the next iteration.

        Raises:
            ValueError: the state has other sources, weights, seed, crop length, effects, batch size or number of
                ranks; or, with streams, belongs to another rank.
        """
        for name, expected in self._settings.items():
            recorded = (_EARLIER_SETTINGS | state["settings"]).get(name)
            if recorded != expected:
                raise ValueError(
                    f"The state is from a run with `{name}` {recorded}, but here it is {expected}; they must be equal."
                )
        if any(state["streams"]) and state["rank"] != self.rank:
            raise ValueError(
                f"The state is from rank {state['rank']}, but this is rank {self.rank}; with streamed songs, each "
                "rank resumes from its own state."
            )
        self._state = copy.deepcopy({name: state[name] for name in self._state})

    def __iter__(self) -> Iterator[Batch]:
        states: deque[dict] = deque()  # one for each batch that workers are processing; batches come back in order
        references = self._references(states)
        # Without its own generator, the loader would draw from the global one.
        loader = DataLoader(self._reader, batch_sampler=references, generator=torch.Generator(), **self._options)
        try:
            for batch, problems in loader:
                for problem in filter(self.problems.add, problems):
                    logger.warning(f"{problem.name} ({problem.source}) is {problem.reason}: {problem.detail}")
                self._state = states.popleft()
                yield batch
        finally:
            references.close()

    def _references(self, states: deque[dict]) -> Generator[list[CropReference], None, None]:
        """Yield batches of references, and append the state after each to `states`. Runs in the main process."""
        world_size, batch_size = self._settings["world_size"], self._settings["batch_size"]
        state = copy.deepcopy(self._state)
        walks = self._walks(state)
        drawn = state["drawn"]
        draws = self._draws(state["position"])
        try:
            for first in count_up(state["position"], world_size * batch_size):
                batch = []
                for position in range(first, first + world_size * batch_size):
                    number, crop_seed = next(draws)
                    drawn[number] += 1
                    is_mine = position % world_size == self.rank
                    walk = walks[number]
                    song: Any = None
                    if not isinstance(walk, SongStream):
                        song = next(walk)
                    elif is_mine:
                        song = walk.draw()
                    if is_mine:
                        batch.append(CropReference(number, song, crop_seed))
                streams = [walk.state_dict() if isinstance(walk, SongStream) else None for walk in walks]
                states.append({"position": position + 1, "drawn": list(drawn), "streams": streams})
                yield batch
        finally:
            for walk in walks:
                walk.close()

    def _walks(self, state: dict[str, Any]) -> list[Generator[int, None, None] | SongStream]:
        """Return, for each source, the sequence of its songs from a state on."""
        world_size, seed = self._settings["world_size"], self._settings["seed"]
        return [
            source.order([seed, _ORDER, number], drawn)
            if isinstance(source, ListedSource)
            else SongStream(source, [seed, _STREAM, number], self.rank, world_size, stream)
            for number, (source, drawn, stream) in enumerate(
                zip(self.sources, state["drawn"], state["streams"], strict=True)
            )
        ]

    def _draws(self, position: int) -> Iterator[tuple[int, int]]:
        """Yield the source and the seed of every crop from `position` on."""
        edges = np.cumsum(self._settings["weights"])
        for chunk in count_up(position // _CHUNK):
            generator = np.random.default_rng([self._settings["seed"], _DRAWS, chunk])
            numbers = np.searchsorted(edges / edges[-1], generator.random(_CHUNK), side="right")
            seeds = generator.integers(2**63 - 1, size=_CHUNK)
            skipped = max(0, position - chunk * _CHUNK)
            yield from zip(numbers[skipped:].tolist(), seeds[skipped:].tolist(), strict=True)


def _check_at_least(*arguments: tuple[str, int, int]) -> None:
    """Raise a `ValueError` for the first `(name, value, minimum)` whose value is too small."""
    for name, value, minimum in arguments:
        if value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def _checked_weights(sources: Sequence[Any], weights: Sequence[float] | None) -> list[float]:
    """Return one weight for each source, or raise a `ValueError` if the weights are invalid."""
    if weights is None:
        if len(sources) > 1 and not all(isinstance(source, ListedSource) for source in sources):
            raise ValueError("Pass `weights`: the number of songs in a stream is not known.")
        return [float(len(source.songs)) if len(sources) > 1 else 1.0 for source in sources]
    if len(weights) != len(sources):
        raise ValueError(f"`weights` must have one number for each source ({len(sources)}), got {len(weights)}.")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) == 0:
        raise ValueError(f"`weights` must be 0 or more and not all 0, got {list(weights)}.")
    return [float(weight) for weight in weights]
