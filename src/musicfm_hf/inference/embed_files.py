"""Embeddings of a catalog of audio files, one file of embeddings for each song."""

import errno
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Real
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from ..data.decoding import SongLoader, keyed_waveforms
from ..data.identity import audio_place, audio_state, free_name
from ..data.shares import WHOLE, Share
from ..model.configuration_musicfm import MusicFMConfig
from ..model.frames_musicfm import average_frames, average_times
from ..training.files import write_safetensors
from .embedding import FrameEmbeddings, WindowSettings, check_encoder, embed_songs
from .encoder_digest import weights_digest
from .exported import EncoderModel
from .precision import quantization_of

MOST_POOLED = 1000  # Hz
FORMAT = 1  # incremented when the embeddings of a model change


def embed_files(
    model: EncoderModel,
    sources: list[tuple[str, Any]],
    output_dir: str | Path,
    settings: WindowSettings,
    pool: str | float = "none",
    metadata: dict[str, str] | None = None,
    num_workers: int = 1,
    progress: bool = True,
    share: Share = WHOLE,
) -> list[tuple[str, str]]:
    """
    Embed a catalog: each `(name, source)` gives a file `output_dir/name.safetensors` with the tensors `embeddings`
    and, unless pooled to one vector, `times` (seconds); its metadata record how it was made. Songs are decoded in
    workers, and files written in a thread, while the model runs. Files have a temporary name until they are complete.

    An existing file is kept if it was made with the same weights and settings from the same audio: the same path, size
    and modification time, or the same row of a data set with the same content. A file that was made from other audio
    of this name, such as that of another folder, is kept too, and this audio becomes `name-2.safetensors`. All other
    files are made again, including those of version 0.1, which do not record the weights.

    Args:
        model ([`MusicFMModel`] or [`ExportedEncoder`]): The encoder. Embeddings are saved in its dtype.
        sources: Pairs of a name, which may contain `/`, and a source for [`load_audio`] or a [`DatasetAudio`].
        output_dir: The folder to write to.
        settings ([`WindowSettings`]): Layer, windows and batch size.
        pool: `"none"` for every frame, `"mean"` for one vector `(hidden_size,)` per song, or a rate in Hz, up to 1000.
        metadata: Further metadata of every file, such as `model` and `revision`. Files with other ones are kept.
        num_workers (`int`): Number of decoding processes; 0 decodes in this process.
        progress (`bool`): Show a progress bar with seconds of audio per second.
        share ([`Share`]): Part of `sources` to embed, if several processes embed them, by default all. All of them
            pass the whole catalog, so that they agree on the names of the files.

    Returns:
        `(name, problem)` for each source of the share that could not be read, or could be read only in part.

    Raises:
        ValueError: before any work, if a setting is out of range, two sources have the same name, or a name leads out
            of `output_dir`.
    """
    check_encoder(model)
    recorded = _settings_metadata(model, settings, pool)
    _check_names([name for name, _ in sources])
    recorded |= {"weights": weights_digest(model), "format": str(FORMAT)}
    names = {name for name, _ in sources}
    sources = [sources[position] for position in share.select(sources)]
    planned = {name: _plan(name, audio_place(source, name), Path(output_dir), names) for name, source in sources}
    remaining, problems = _remaining_sources(sources, planned, recorded)
    config = model.config
    loader = SongLoader(remaining, config.sampling_rate, config.min_samples, num_workers, in_order=False)
    seconds, began = 0.0, time.perf_counter()
    finished = len(sources) - len(remaining)
    with (
        tqdm(total=len(sources), initial=finished, unit="song", disable=not progress) as bar,
        _FileWriter(problems) as writer,
    ):
        for song, embeddings in embed_songs(model, keyed_waveforms(loader), settings):
            path, place, _ = planned[song.name]
            made_from = {"source": song.origin, "source_place": place, "source_state": song.state}
            notes = recorded | (metadata or {}) | made_from
            notes |= {"problem": song.problem} if song.problem else {}
            writer.write(song.name, path, _pooled(embeddings, pool, config, model.dtype), notes)
            finished += 1
            seconds += len(embeddings.frames) / config.frame_rate
            bar.set_postfix_str(f"{seconds / (time.perf_counter() - began):.1f} audio s/s", refresh=False)
            bar.update(finished + len(loader.unusable) - bar.n)
        bar.update(len(sources) - bar.n)
    return problems + loader.problems


class _FileWriter:
    """
    Writes files in a thread, one after another, while the caller goes on. Only one file waits to be written, so memory
    is bounded. Songs whose names are too long become problems; other errors are raised at the next file or at the end.
    """

    def __init__(self, problems: list[tuple[str, str]]):
        self._problems = problems
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future | None = None

    def __enter__(self) -> "_FileWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._finish()

    def write(self, name: str, path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        """Begin to write the file of a song, as soon as the file before it is written."""
        self._finish()
        self._pending = self._thread.submit(self._write, name, path, tensors, metadata)

    def _finish(self) -> None:
        """Wait for the last file, and raise its error."""
        if self._pending is not None:
            self._pending.result()

    def _write(self, name: str, path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        try:
            write_safetensors(path, tensors, metadata)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            self._problems.append((name, str(error)))


def _settings_metadata(model: EncoderModel, settings: WindowSettings, pool: str | float) -> dict[str, str]:
    """Return the metadata of all files, or raise a `ValueError` if a setting is out of range."""
    window_frames, overlap_frames = settings.frames(model.config)
    if pool not in ("none", "mean") and not (isinstance(pool, Real) and 0 < pool <= MOST_POOLED):
        raise ValueError(f"`pool` must be 'none', 'mean', or a rate above 0 and up to {MOST_POOLED} Hz, got {pool!r}.")
    return {
        "layer": str(model.config.num_hidden_layers if settings.layer is None else settings.layer),
        "frame_rate": str(model.config.frame_rate if pool == "none" else 0.0 if pool == "mean" else pool),
        "pool": str(pool),
        "window_seconds": str(window_frames / model.config.frame_rate),
        "overlap_seconds": str(overlap_frames / model.config.frame_rate),
        "dtype": str(model.dtype).removeprefix("torch."),
    } | quantization_of(model)


def _check_names(names: list[str]) -> None:
    """Raise a `ValueError` if two songs have the same name, or a name leads out of the output folder."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"Two sources are named {name!r}; they would be written to the same file.")
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError(f"The name {name!r} leads out of the folder to write to.")


class _Planned(NamedTuple):
    """The file for a source, the place of the source, and the metadata of the file if it exists."""

    path: Path
    place: str
    existing: dict[str, str]


def _plan(name: str, place: str, output_dir: Path, names: Collection[str]) -> _Planned:
    """Choose the file for a source: the first one that is not for another source and was not made from other audio."""

    def is_free(candidate: str) -> bool:
        if candidate in names and candidate != name:
            return False
        return _read_metadata(output_dir / f"{candidate}.safetensors").get("source_place", place) == place

    path = output_dir / f"{free_name(name, is_free)}.safetensors"
    return _Planned(path, place, _read_metadata(path))


def _remaining_sources(
    sources: list[tuple[str, Any]], planned: dict[str, _Planned], expected: dict[str, str]
) -> tuple[list[tuple[str, Any]], list[tuple[str, str]]]:
    """Return the sources without a file with the expected metadata, and the problems recorded in the other files."""
    remaining, problems = [], []
    for name, source in sources:
        existing = planned[name].existing
        is_same = expected.items() <= existing.items() and existing.get("source_state")
        if not is_same or existing["source_state"] != audio_state(source):
            remaining.append((name, source))
        elif "problem" in existing:
            problems.append((name, existing["problem"]))
    return remaining, problems


def _read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, or an empty dictionary if the file does not exist or is incomplete."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return {}


def _pooled(
    embeddings: FrameEmbeddings, pool: str | float, config: MusicFMConfig, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return the tensors of a file."""
    frames, times = embeddings
    if pool == "mean":
        return {"embeddings": frames.mean(0).to(dtype)}
    if pool != "none":
        rates = (config.frame_rate, float(pool), config.frame_offset)
        times = average_times(len(frames), *rates).numpy()
        frames = average_frames(frames[None].float(), *rates)[0]
    return {"embeddings": frames.to(dtype), "times": torch.from_numpy(times)}
