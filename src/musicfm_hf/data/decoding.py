"""Decode audio files in worker processes, and list the songs that cannot be read."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from ..audio.reading import load_audio
from .catalog import fetch_audio
from .identity import audio_state

_AHEAD = 2  # songs of each process that are decoded, or being decoded, while the caller works on earlier ones


class DecodedSong(NamedTuple):
    """
    A decoded song.

    Attributes:
        name (`str`): Name of the source.
        origin (`str`): Path of the audio if it has one, or the name otherwise.
        content: The waveform `(samples,)` float32, or the output of `transform` for it; `None` if the song is
            unusable.
        problem (`str`, *optional*): Reason why the song is unusable, or the damage of its file.
        state (`str`): Output of [`audio_state`] before the audio was read; empty if the song is unusable.
    """

    name: str
    origin: str
    content: Any
    problem: str | None
    state: str = ""


class SongLoader:
    """
    Decodes songs in worker processes while the caller works on earlier songs. Iteration yields each usable
    [`DecodedSong`]. Damaged files yield the audio that can be read. A song at which its process is killed, because a
    decoder crashes or memory is short, is tried once more, alone, and is unusable if that process is killed too.

    Args:
        sources: Names, and audio for [`musicfm_hf.load_audio`] or [`DatasetAudio`].
        sampling_rate (`int`): Rate of the waveforms, in Hz.
        min_samples (`int`): Minimum number of samples in a usable song.
        num_workers (`int`): Number of decoding processes; 0 decodes in this process, as does a single song.
        transform (`Callable`, *optional*): Function that is called with each waveform, in the worker, and returns its
            replacement. Songs for which it raises `ValueError` are unusable.
        in_order (`bool`): Yield songs in the order of `sources`. Otherwise they are yielded as soon as they are
            decoded, so that no worker waits for a long song of another one.

    Attributes:
        problems (`list[tuple[str, str]]`): Names and problems of the damaged or unusable songs so far.
        unusable (`list[tuple[str, str]]`): Names and problems of the unusable songs so far.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, Any]],
        sampling_rate: int,
        min_samples: int = 1,
        num_workers: int = 0,
        transform: Callable[[np.ndarray], Any] | None = None,
        in_order: bool = True,
    ):
        self.problems: list[tuple[str, str]] = []
        self.unusable: list[tuple[str, str]] = []
        self._songs = _Songs(sources, sampling_rate, min_samples, transform)
        self._num_workers = max(0, min(num_workers, len(sources) - 1))
        self._in_order = in_order

    def __iter__(self) -> Iterator[DecodedSong]:
        for song in self._in_processes() if self._num_workers else map(self._songs.decode, range(len(self._songs))):
            if song.problem is not None:
                self.problems.append((song.name, song.problem))
                if song.content is None:
                    self.unusable.append((song.name, song.problem))
            if song.content is not None:
                yield song

    def _in_processes(self) -> Iterator[DecodedSong]:
        """Decode songs in processes, of which each may be killed."""
        pool = self._pool(self._num_workers)
        most = _AHEAD * self._num_workers + 1  # with the one that the caller gets next
        indices = iter(range(len(self._songs)))
        pending: dict[Future, int] = {}
        try:
            while True:
                for index in islice(indices, most - len(pending)):
                    try:
                        future = pool.submit(_decode, index)
                    except BrokenProcessPool:
                        pool.shutdown(wait=False)
                        pool = self._pool(self._num_workers)
                        future = pool.submit(_decode, index)
                    pending[future] = index
                if not pending:
                    return
                done = pending if self._in_order else wait(pending, return_when=FIRST_COMPLETED).done
                future = next(iter(done))
                index = pending.pop(future)
                try:
                    song = future.result()
                except BrokenProcessPool:  # of which this song is the cause, or another one
                    song = self._alone(index)
                yield song
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _alone(self, index: int) -> DecodedSong:
        """Decode a song in a process of its own."""
        with self._pool(1) as pool:
            try:
                return pool.submit(_decode, index).result()
            except BrokenProcessPool:
                return self._songs.fatal(index)

    def _pool(self, num_workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(num_workers, initializer=_begin, initargs=(self._songs,))

    def raise_if_unusable(self) -> None:
        """Raise a `ValueError` that names the unusable songs so far, if any."""
        if self.unusable:
            reasons = "; ".join(f"{name}: {problem}" for name, problem in self.unusable)
            raise ValueError(f"Songs cannot be used: {reasons}")


class _Songs:
    """Decodes songs by index. Unreadable songs are returned with their problem."""

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

    def decode(self, index: int) -> DecodedSong:
        name, source = self.sources[index]
        origin = name
        try:
            source = fetch_audio(source)
            state = audio_state(source)
            origin = _origin(name, source)
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
        except MemoryError:
            return DecodedSong(name, origin, None, f"{origin} is too long to be decoded in the memory that is left.")
        damage = "; ".join(str(warning.message) for warning in caught) or None
        return DecodedSong(name, origin, content, damage, state)

    def fatal(self, index: int) -> DecodedSong:
        """Return a song at which its process was killed."""
        name, source = self.sources[index]
        origin = _origin(name, source)
        problem = "ended the process that decoded it: the file may be damaged, or memory may be short."
        return DecodedSong(name, origin, None, f"{origin} {problem}")


def _origin(name: str, source: Any) -> str:
    """Return the path of a source, or the name of one that is not a file."""
    path = source.get("path") if isinstance(source, dict) else source
    return str(path or name) if isinstance(path, str | os.PathLike) else name


_songs: _Songs  # of a process that decodes


def _begin(songs: _Songs) -> None:
    """Begin a process that decodes: it leaves interrupts to its parent, and ends with it, even if that is killed."""
    global _songs
    _songs = songs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _decode(index: int) -> DecodedSong:
    return _songs.decode(index)


def keyed_waveforms(loader: SongLoader) -> Iterator[tuple[DecodedSong, np.ndarray]]:
    """Yield each decoded song without its waveform (a key that uses little memory), together with the waveform."""
    for song in loader:
        yield song._replace(content=None), song.content
