"""Whole songs through a model: one waveform, or a catalogue of files."""

import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .audio import load_audio, resample
from .frames import Window, average_frames, plan_windows
from .model.feature_extraction_musicfm import MusicFMFeatureExtractor
from .model.modeling_musicfm import MusicFMModel

AUDIO_EXTENSIONS = frozenset(
    ".aac .aif .aifc .aiff .au .caf .flac .m4a .mp2 .mp3 .mp4 .oga .ogg .opus .rf64 .w64 .wav .wave .wma".split()
)


class FrameEmbeddings(NamedTuple):
    """Embeddings of a song: `frames` `(frames, hidden_size)`, and `times` `(frames,)`, their centres in seconds."""

    frames: torch.Tensor
    times: np.ndarray


class WindowSettings(NamedTuple):
    """How long audio is encoded: the hidden state that is kept, windows and overlap in seconds, windows at once."""

    layer: int | None = None
    window_seconds: float = 30.0
    overlap_seconds: float = 5.0
    batch_size: int = 1


def embed(
    model: MusicFMModel,
    audio: np.ndarray | torch.Tensor,
    sampling_rate: int,
    layer: int | None = None,
    window_seconds: float = 30.0,
    overlap_seconds: float = 5.0,
    batch_size: int = 1,
) -> FrameEmbeddings:
    """
    Embed audio of any length in bounded memory: overlapping windows are encoded in batches, and every frame is taken
    from the window in which it lies further from an edge.

    Args:
        model ([`MusicFMModel`]): In any dtype, on any device. It is used in eval mode and left as it was.
        audio (`np.ndarray` or `torch.Tensor` of shape `(samples,)`): A mono waveform.
        sampling_rate (`int`): Its rate in Hz; resampled to the model's if it differs.
        layer (`int`, *optional*): Hidden state to return, 0 to `model.config.num_hidden_layers` (the default). Layers
            after it are not computed.
        window_seconds (`float`): Length of a window; the published models were trained on 30 s.
        overlap_seconds (`float`): Overlap of neighbouring windows.
        batch_size (`int`): Windows encoded at once.

    Returns:
        [`FrameEmbeddings`], float32 on the processor.

    Raises:
        ValueError: if the audio has several channels, is too short or not finite, or a setting is out of range.
        TypeError: if the audio is not numeric.
    """
    settings = WindowSettings(layer, window_seconds, overlap_seconds, batch_size)
    extractor = MusicFMFeatureExtractor(sampling_rate=sampling_rate, min_samples=1)
    checked = extractor(audio, sampling_rate, padding=False, return_attention_mask=False)["input_values"]
    if len(checked) != 1:
        raise ValueError(f"`audio` must be one waveform of shape (samples,), got {len(checked)} of them.")
    waveform = resample(checked[0], sampling_rate, model.config.sampling_rate)
    ((_, embeddings),) = embed_songs(model, [(None, waveform)], settings)
    return embeddings


def embed_songs(
    model: MusicFMModel, songs: Iterable[tuple[Any, np.ndarray]], settings: WindowSettings
) -> Iterator[tuple[Any, FrameEmbeddings]]:
    """
    [`embed`] for a stream of `(key, waveform)`, waveforms float32 `(samples,)` at the model's rate. Windows of like
    length are batched across songs, so that songs come back in the order in which they are finished.
    """
    config = model.config
    window_frames = round(settings.window_seconds * config.frame_rate)
    overlap_frames = round(settings.overlap_seconds * config.frame_rate)
    if settings.batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {settings.batch_size}.")
    least_frames = 1 + -(-config.min_samples // config.samples_per_frame)  # the last window may lack part of a frame
    if window_frames < least_frames:
        raise ValueError(
            f"`window_seconds` must be at least {least_frames / config.frame_rate:g}, got {settings.window_seconds}."
        )
    enough = 1 if settings.batch_size == 1 else 4 * settings.batch_size
    pending: list[_PendingWindow] = []
    with _inference(model):
        for key, waveform in songs:
            if len(waveform) < config.min_samples:
                raise ValueError(f"The audio has {len(waveform)} samples, the model needs {config.min_samples}.")
            song = _Song(key, waveform, model.output_frames(len(waveform)))
            windows = plan_windows(
                len(waveform), song.num_frames, config.samples_per_frame, window_frames, overlap_frames
            )
            song.missing = len(windows)
            pending += [_PendingWindow(song, window) for window in windows]
            while len(pending) >= enough:
                yield from _encode_batch(model, pending, settings)
        while pending:
            yield from _encode_batch(model, pending, settings)


class _Song:
    def __init__(self, key: Any, waveform: np.ndarray, num_frames: int):
        self.key = key
        self.waveform = waveform
        self.num_frames = num_frames
        self.missing = 0
        self.frames: torch.Tensor | None = None


class _PendingWindow(NamedTuple):
    song: _Song
    window: Window

    @property
    def length(self) -> int:
        return self.window.stop_sample - self.window.start_sample


def _encode_batch(
    model: MusicFMModel, pending: list[_PendingWindow], settings: WindowSettings
) -> Iterator[tuple[Any, FrameEmbeddings]]:
    """Encode the oldest window with those nearest to it in length; give the songs that this completes."""
    oldest = pending[0].length
    chosen = sorted(pending, key=lambda item: abs(item.length - oldest))[: settings.batch_size]
    for item in chosen:
        pending.remove(item)
    longest = max(item.length for item in chosen)
    input_values = torch.zeros(len(chosen), longest)
    attention_mask = torch.zeros(len(chosen), longest, dtype=torch.bool)
    for row, (song, window) in enumerate(chosen):
        audio = torch.from_numpy(song.waveform[window.start_sample : window.stop_sample])
        input_values[row, : len(audio)] = audio
        attention_mask[row, : len(audio)] = True
    mask = None if attention_mask.all() else attention_mask.to(model.device)
    hidden_states = model(input_values.to(model.device), mask, layer=settings.layer).last_hidden_state
    for (song, window), output in zip(chosen, hidden_states, strict=True):
        if song.frames is None:
            song.frames = torch.empty(song.num_frames, output.shape[-1])
        count = window.stop_frame - window.start_frame
        song.frames[window.start_frame : window.stop_frame] = output[window.first_kept : window.first_kept + count]
        song.missing -= 1
        if song.missing == 0:
            yield song.key, FrameEmbeddings(song.frames, model.frame_times(song.num_frames).numpy())


@contextmanager
def _inference(model: MusicFMModel) -> Iterator[None]:
    """Eval mode and no gradients, for a while."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


class DatasetAudio(NamedTuple):
    """Audio in a row of a `datasets` data set whose column is `Audio(decode=False)`; read when it is needed."""

    dataset: Any
    index: int
    column: str


def list_sources(source: str | Path, audio_column: str = "audio") -> list[tuple[str, Any]]:
    """
    The songs of a catalogue, as names and sources for [`embed_files`].

    Args:
        source: A folder of audio (searched below, by the extensions of `AUDIO_EXTENSIONS`), a `.txt` file with a path
            a line (relative ones count from its folder), or a folder saved by `datasets.Dataset.save_to_disk`.
        audio_column (`str`): The column of a data set that has the audio.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it has no audio.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"There is no {source}")
    if (source / "dataset_info.json").is_file() or (source / "dataset_dict.json").is_file():
        return _dataset_sources(source, audio_column)
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in AUDIO_EXTENSIONS)
        root = source
    else:
        lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
        paths = [source.parent.absolute() / line for line in lines if line]
        root = Path(os.path.commonpath([path.parent for path in paths])) if paths else source
    if not paths:
        raise ValueError(f"{source} has no audio ({', '.join(sorted(AUDIO_EXTENSIONS))}).")
    return [(path.relative_to(root).as_posix(), str(path)) for path in paths]


def _dataset_sources(source: Path, audio_column: str) -> list[tuple[str, Any]]:
    from datasets import Audio, DatasetDict, load_from_disk

    loaded = load_from_disk(str(source))
    splits = loaded if isinstance(loaded, DatasetDict) else {"": loaded}
    sources = []
    for split, dataset in splits.items():
        if audio_column not in dataset.column_names:
            raise ValueError(f"{source} has no column `{audio_column}`, only {', '.join(dataset.column_names)}.")
        dataset = dataset.cast_column(audio_column, Audio(decode=False))
        prefix = f"{split}/" if split else ""
        sources += [(f"{prefix}{row:07d}", DatasetAudio(dataset, row, audio_column)) for row in range(len(dataset))]
    if not sources:
        raise ValueError(f"{source} has no rows.")
    return sources


class _Decoded(NamedTuple):
    name: str
    origin: str
    waveform: np.ndarray | None
    problem: str | None


class _SongFiles(Dataset):
    """Decodes `(name, source)` pairs, in workers; what cannot be read comes back as a problem, not as an exception."""

    def __init__(self, sources: list[tuple[str, Any]], sampling_rate: int, min_samples: int):
        self.sources = sources
        self.sampling_rate = sampling_rate
        self.min_samples = min_samples

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> _Decoded:
        name, source = self.sources[index]
        if isinstance(source, DatasetAudio):
            source = source.dataset[source.index][source.column]
        origin = str(source.get("path") or name) if isinstance(source, dict) else str(source)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                waveform = load_audio(source, self.sampling_rate)
        except (ValueError, TypeError, OSError) as error:
            return _Decoded(name, origin, None, str(error))
        if len(waveform) < self.min_samples:
            problem = f"{origin} has {len(waveform)} samples, the model needs at least {self.min_samples}."
            return _Decoded(name, origin, None, problem)
        return _Decoded(name, origin, waveform, "; ".join(str(warning.message) for warning in caught) or None)


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
    and `times` (seconds), and what made it as metadata. Files are decoded in workers while the model runs, written
    under a temporary name and renamed. Files that are there and were made in the same way are left alone.

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
        ValueError: if two sources have the same name, or a setting is out of range.
    """
    names = [name for name, _ in sources]
    if len(set(names)) < len(names):
        double = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"Two sources are named {double!r}; they would be written to the same file.")
    note = {
        "layer": str(model.config.num_hidden_layers if settings.layer is None else settings.layer),
        "frame_rate": str({"none": model.config.frame_rate, "mean": 0.0}.get(pool, pool)),
        "pool": str(pool),
        "window_seconds": str(settings.window_seconds),
        "overlap_seconds": str(settings.overlap_seconds),
        "dtype": str(model.dtype).removeprefix("torch."),
    } | (metadata or {})
    output_dir = Path(output_dir)
    todo = [item for item in sources if not _is_done(output_dir / f"{item[0]}.safetensors", note)]
    files = _SongFiles(todo, model.config.sampling_rate, model.config.min_samples)
    loader = DataLoader(files, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)
    problems: list[tuple[str, str]] = []
    seconds, began = 0.0, time.perf_counter()

    def songs() -> Iterator[tuple[tuple[str, str, float], np.ndarray]]:
        for name, origin, waveform, problem in loader:
            if problem is not None:
                problems.append((name, problem))
            if waveform is None:
                bar.update()
            else:
                yield (name, origin, len(waveform) / model.config.sampling_rate), waveform

    with tqdm(total=len(names), initial=len(names) - len(todo), unit="song", disable=not progress) as bar:
        for (name, origin, duration), embeddings in embed_songs(model, songs(), settings):
            tensors = _pooled(embeddings, pool, model.config.frame_rate, model.dtype)
            _write_atomically(output_dir / f"{name}.safetensors", tensors, note | {"source": origin})
            seconds += duration
            elapsed = time.perf_counter() - began
            bar.set_postfix_str(f"{seconds / elapsed:.1f} audio s/s", refresh=False)
            bar.update()
    return problems


def _as_it_is(item: Any) -> Any:
    """Collate nothing: waveforms stay NumPy arrays and go through pipes, not through shared memory."""
    return item


def _is_done(path: Path, note: dict[str, str]) -> bool:
    if not path.exists():
        return False
    with safe_open(path, framework="pt") as file:
        found = file.metadata() or {}
    return all(found.get(key) == value for key, value in note.items())


def _pooled(
    embeddings: FrameEmbeddings, pool: str | float, frame_rate: float, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    frames, times = embeddings
    if pool == "mean":
        return {"embeddings": frames.mean(0).to(dtype)}
    if pool != "none":
        frames, times = average_frames(frames, frame_rate, float(pool))
    return {"embeddings": frames.to(dtype), "times": torch.from_numpy(times)}


def _write_atomically(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
