"""Embeddings of a catalogue of files."""

import errno
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.decoding import DecodedSong, SongFiles, as_it_is
from ..model.configuration_musicfm import MusicFMConfig
from ..model.frames_musicfm import average_frames, average_times
from ..model.modeling_musicfm import MusicFMModel
from .embedding import FrameEmbeddings, WindowSettings, embed_songs


def embed_files(
    model: MusicFMModel,
    sources: list[tuple[str, Any]],
    output_dir: str | Path,
    settings: WindowSettings,
    pool: str | float = "none",
    metadata: dict[str, str] | None = None,
    num_workers: int = 1,
    progress: bool = True,
) -> list[tuple[str, str]]:
    """
    Embed a catalogue: for every `(name, source)` one file `output_dir/name.safetensors` with the tensors `embeddings`
    and, unless pooled to one vector, `times` (seconds), and what made them as metadata. Files are decoded in workers
    while the model runs, written under a temporary name and renamed. Those that are there and were made in the same
    way are left alone.

    Args:
        model ([`MusicFMModel`]): The encoder. Embeddings are saved in its dtype.
        sources: Names, which may contain `/`, and for each what [`load_audio`] reads, or a [`DatasetAudio`].
        output_dir: Where to write.
        settings ([`WindowSettings`]): Layer, windows and batch size.
        pool: `"none"` for every frame, `"mean"` for one vector `(hidden_size,)` a song, or a rate in Hz.
        metadata: What to note in every file besides; `model` and `revision`, say.
        num_workers (`int`): Decoding processes; 0 decodes in this one.
        progress (`bool`): Show a progress bar with seconds of audio per second.

    Returns:
        `(name, problem)` for each source that could not be read, or only in part.

    Raises:
        ValueError: before any work, if a setting is out of range, two sources have the same name, or a name leads out
            of `output_dir`.
    """
    window_frames, overlap_frames = settings.frames(model.config)
    if pool not in ("none", "mean") and not (isinstance(pool, (int, float)) and pool > 0):
        raise ValueError(f"`pool` must be 'none', 'mean' or a positive rate in Hz, got {pool!r}.")
    for name, count in Counter(name for name, _ in sources).items():
        if count > 1:
            raise ValueError(f"Two sources are named {name!r}; they would be written to the same file.")
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError(f"The name {name!r} leads out of the folder for the results.")
    note = {
        "layer": str(model.config.num_hidden_layers if settings.layer is None else settings.layer),
        "frame_rate": str({"none": model.config.frame_rate, "mean": 0.0}.get(pool, pool)),
        "pool": str(pool),
        "window_seconds": str(window_frames / model.config.frame_rate),
        "overlap_seconds": str(overlap_frames / model.config.frame_rate),
        "dtype": str(model.dtype).removeprefix("torch."),
    } | (metadata or {})
    output_dir = Path(output_dir)
    problems: list[tuple[str, str]] = []
    todo = []
    for name, source in sources:
        done = _metadata(output_dir / f"{name}.safetensors")
        if not note.items() <= done.items():
            todo.append((name, source))
        elif "problem" in done:
            problems.append((name, done["problem"]))
    files = SongFiles(todo, model.config.sampling_rate, model.config.min_samples)
    loader = DataLoader(files, batch_size=None, num_workers=num_workers, collate_fn=as_it_is)
    seconds, began = 0.0, time.perf_counter()

    def songs() -> Iterator[tuple[DecodedSong, np.ndarray]]:
        for decoded in loader:
            if decoded.problem is not None:
                problems.append((decoded.name, decoded.problem))
            if decoded.waveform is None:
                bar.update()
            else:
                yield decoded._replace(waveform=None), decoded.waveform

    with tqdm(total=len(sources), initial=len(sources) - len(todo), unit="song", disable=not progress) as bar:
        for song, embeddings in embed_songs(model, songs(), settings):
            tensors = _pooled(embeddings, pool, model.config, model.dtype)
            own_note = note | {"source": song.origin} | ({"problem": song.problem} if song.problem else {})
            try:
                write_atomically(output_dir / f"{song.name}.safetensors", tensors, own_note)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                problems.append((song.name, str(error)))
            seconds += len(embeddings.frames) / model.config.frame_rate
            bar.set_postfix_str(f"{seconds / (time.perf_counter() - began):.1f} audio s/s", refresh=False)
            bar.update()
    return problems


def _metadata(path: Path) -> dict[str, str]:
    """What is noted in a finished file; nothing if there is none, or only what a crash left of it."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return {}


def _pooled(
    embeddings: FrameEmbeddings, pool: str | float, config: MusicFMConfig, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    frames, times = embeddings
    if pool == "mean":
        return {"embeddings": frames.mean(0).to(dtype)}
    if pool != "none":
        rates = (config.frame_rate, float(pool), config.frame_offset)
        times = average_times(len(frames), *rates).numpy()
        frames = average_frames(frames[None].float(), *rates)[0]
    return {"embeddings": frames.to(dtype), "times": torch.from_numpy(times)}


def write_atomically(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp")
    # Names that are not UTF-8 cannot be in a header.
    readable = {key: os.fsencode(value).decode("utf-8", "replace") for key, value in metadata.items()}
    try:
        save_file(tensors, temporary, readable)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
