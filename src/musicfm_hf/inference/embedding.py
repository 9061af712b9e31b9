"""Embeddings of whole songs of any length."""

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from ..audio.waveform import to_waveform
from ..audio.windows import Window, plan_windows
from ..model.configuration_musicfm import MusicFMConfig
from ..model.feature_extraction_musicfm import mean_and_deviation, normalize_waveform
from ..model.modeling_musicfm import MusicFMForAudioClassification, MusicFMForAudioFrameClassification
from .exported import EncoderModel

HeadModel = MusicFMForAudioFrameClassification | MusicFMForAudioClassification

_LOCK = threading.Lock()
# Models in `eval_mode` → the number of its users, and the modes of their modules before.
_EVALUATED: dict[torch.nn.Module, tuple[int, list[tuple[torch.nn.Module, bool]]]] = {}


class FrameEmbeddings(NamedTuple):
    """Embeddings of a song."""

    frames: torch.Tensor  # (frames, hidden_size)
    times: np.ndarray  # (frames,) centers in seconds


class WindowSettings(NamedTuple):
    """Settings for encoding long audio in windows; see [`embed`]."""

    layer: int | None = None
    window_seconds: float | None = None  # `config.context_seconds` by default
    overlap_seconds: float | None = None
    batch_size: int = 1

    def seconds(self, config: MusicFMConfig) -> float:
        """Return the length of a window."""
        return config.context_seconds if self.window_seconds is None else self.window_seconds

    def frames(self, config: MusicFMConfig) -> tuple[int, int]:
        """
        Return the number of frames in a window and in an overlap.

        Raises:
            ValueError: if a setting is out of the range of the model.
        """
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        if self.layer is not None and not 0 <= self.layer <= config.num_hidden_layers:
            raise ValueError(f"`layer` must be between 0 and {config.num_hidden_layers}, got {self.layer}.")
        seconds = self.seconds(config)
        if not math.isfinite(seconds):
            raise ValueError(
                f"`window_seconds` must be a number of seconds, got {seconds}: longer windows need more memory."
            )
        window = round(seconds * config.frame_rate)
        least = 1 + -(-config.min_samples // config.samples_per_frame)  # the last window may end within a frame
        if window < least:
            raise ValueError(f"`window_seconds` must be at least {least / config.frame_rate:g}, got {seconds}.")
        if self.overlap_seconds is None:
            return window, window // 6
        overlap = round(self.overlap_seconds * config.frame_rate) if math.isfinite(self.overlap_seconds) else -1
        if not 0 <= overlap < window:
            raise ValueError(
                f"`overlap_seconds` must be at least 0 and less than `window_seconds` ({seconds}), "
                f"got {self.overlap_seconds}."
            )
        return window, overlap

    def plan(self, config: MusicFMConfig, num_samples: int, num_frames: int) -> list[Window]:
        """Cut audio of `num_samples` samples and `num_frames` frames into windows. For errors, see [`frames`]."""
        window, overlap = self.frames(config)
        return plan_windows(
            num_samples, num_frames, config.samples_per_frame, window, overlap, config.window_samples(window)
        )


def embed(
    model: EncoderModel,
    audio: Any,
    sampling_rate: int | None = None,
    layer: int | None = None,
    window_seconds: float | None = None,
    overlap_seconds: float | None = None,
    batch_size: int = 1,
) -> FrameEmbeddings:
    """
    Embed audio of any length in bounded memory. Overlapping windows are encoded in batches, and every frame is taken
    from the window in which it is farther from an edge.

    Args:
        model ([`MusicFMModel`] or [`ExportedEncoder`]): The encoder, in any dtype and on any device. It is used in
            eval mode, and its mode is restored.
        audio: A waveform `(samples,)` with its `sampling_rate`; or a path, `bytes`, or a row of a data set. See
            [`musicfm_hf.audio.waveform.to_waveform`].
        sampling_rate (`int`, *optional*): Rate of a waveform in Hz; resampled to that of the model if it differs.
        layer (`int`, *optional*): Hidden state to return, 0 to `model.config.num_hidden_layers` (the default). Later
            layers are not computed.
        window_seconds (`float`, *optional*): Length of a window; by default `config.context_seconds`, the length that
            the encoder was trained on: 30 s for most published models.
        overlap_seconds (`float`, *optional*): Overlap of neighboring windows; a sixth of the window by default.
        batch_size (`int`): Number of windows encoded at once.

    Returns:
        [`FrameEmbeddings`], float32 on the CPU.

    Raises:
        ValueError: if the audio has several channels, is too short or not finite, or a setting is out of range.
        TypeError: if the model is not an encoder, or the audio is not numeric.
    """
    check_encoder(model)
    settings = WindowSettings(layer, window_seconds, overlap_seconds, batch_size)
    waveform = to_waveform(audio, sampling_rate, model.config.sampling_rate)
    ((_, embeddings),) = embed_songs(model, [(None, waveform)], settings)
    return embeddings


def check_encoder(model: Any) -> None:
    """
    Raise a `TypeError` that specifies what to pass if a model is not an encoder. One that is compiled, or wrapped by
    PEFT, is an encoder.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"`model` must be a MusicFMModel, got {type(model).__name__}. Load one with "
            "`AutoModel.from_pretrained(folder)`."
        )
    if hasattr(model, "audio_tower"):
        raise TypeError(
            f"`model` must be a MusicFMModel, got {type(model).__name__}. Use its `get_audio_features`, or pass its "
            "encoder, `model.audio_model`."
        )
    if hasattr(model, "musicfm"):
        raise TypeError(
            f"`model` must be a MusicFMModel, got {type(model).__name__}. Pass its encoder, `model.musicfm`."
        )


def embed_songs(
    model: EncoderModel,
    songs: Iterable[tuple[Any, np.ndarray]],
    settings: WindowSettings,
    mix: torch.Tensor | None = None,
) -> Iterator[tuple[Any, FrameEmbeddings]]:
    """
    Embed a stream of `(key, waveform)` as [`embed`] does. Waveforms are float32 `(samples,)` at the rate of the model.
    Windows of similar length are batched across songs, and songs are yielded in the order in which they are finished.

    Args:
        mix (`torch.Tensor` of shape `(readers, layers + 1)`, *optional*): Weights of sums of the hidden states that
            replace a single layer, so that several heads share one pass. Frames are then `(frames, readers,
            hidden_size)`, and layers after the last one with a nonzero weight are not computed.

    Raises:
        ValueError: if a waveform is shorter than the model needs, or a setting is out of range.
    """
    check_encoder(model)
    config = model.config
    window_frames, _ = settings.frames(config)  # raises before any work
    pending = _PendingWindows(settings.batch_size, config.window_samples(window_frames))
    with eval_mode(model):
        for key, waveform in songs:
            if len(waveform) < config.min_samples:
                name = "The audio" if key is None else str(getattr(key, "id", key))
                raise ValueError(f"{name} has {len(waveform)} samples, but the model needs {config.min_samples}.")
            song = _Song(key, waveform, model.output_frames(len(waveform)))
            if config.do_normalize:
                song.scale = mean_and_deviation(waveform)
            windows = settings.plan(config, len(waveform), song.num_frames)
            song.missing = len(windows)
            pending.add(_PendingWindow(song, window) for window in windows)
            while pending.are_enough:
                yield from _encode_batch(model, pending.take(), settings, mix)
        while pending.windows:
            yield from _encode_batch(model, pending.take(), settings, mix)


class _Song:
    """A song that is being encoded."""

    def __init__(self, key: Any, waveform: np.ndarray, num_frames: int):
        self.key = key
        self.waveform = waveform
        self.scale: tuple[np.floating, np.floating] | None = None  # see `do_normalize`; applied to each window
        self.num_frames = num_frames
        self.missing = 0
        self.frames: torch.Tensor | None = None


class _PendingWindow(NamedTuple):
    """A window that has not been encoded yet."""

    song: _Song
    window: Window

    @property
    def length(self) -> int:
        return self.window.stop_sample - self.window.start_sample


class _PendingWindows:
    """
    Windows that wait for others of similar length: as much audio as four batches of whole windows, so that memory is
    bounded and batches need little padding.
    """

    def __init__(self, batch_size: int, window_samples: int):
        self.windows: list[_PendingWindow] = []
        self._batch_size = batch_size
        self._most_samples, self._most_windows = 4 * batch_size * window_samples, 16 * batch_size
        self._samples = 0

    @property
    def are_enough(self) -> bool:
        """True if a batch should be encoded now. A single window has nothing to wait for."""
        if self._batch_size == 1:
            return bool(self.windows)
        return self._samples >= self._most_samples or len(self.windows) >= self._most_windows

    def add(self, windows: Iterable[_PendingWindow]) -> None:
        """Add the windows of a song."""
        for window in windows:
            self.windows.append(window)
            self._samples += window.length

    def take(self) -> list[_PendingWindow]:
        """
        Remove the windows of the next batch, neighbors in length with the least share of padding, and return them,
        with the longest first. Windows of equal length are taken in order, and so are those of a song.
        """
        self.windows.sort(key=lambda window: -window.length)  # stable
        lengths = np.array([window.length for window in self.windows])
        size = min(self._batch_size, len(lengths))
        sums = np.convolve(lengths, np.ones(size, int), "valid")
        first = int(np.argmin(size * lengths[: len(sums)] / sums))
        batch = self.windows[first : first + size]
        del self.windows[first : first + size]
        self._samples -= int(sums[first])
        return batch


def _encode_batch(
    model: EncoderModel, chosen: list[_PendingWindow], settings: WindowSettings, mix: torch.Tensor | None
) -> Iterator[tuple[Any, FrameEmbeddings]]:
    """Encode a batch of windows, with the longest first, and yield the songs that become complete."""
    longest = chosen[0].length
    input_values = torch.zeros(len(chosen), longest, dtype=torch.float32)
    attention_mask = torch.zeros(len(chosen), longest, dtype=torch.bool)
    for row, (song, window) in enumerate(chosen):
        audio = song.waveform[window.start_sample : window.stop_sample]
        if song.scale is not None:
            audio = normalize_waveform(audio, song.scale)
        input_values[row, : len(audio)] = torch.from_numpy(audio)
        attention_mask[row, : len(audio)] = True
    # If weights are offloaded, accelerate moves the input to the right device.
    device = torch.device("cpu") if model.device.type == "meta" else model.device
    with torch.no_grad():
        inputs = (input_values.to(device), attention_mask.to(device))
        if mix is None:
            layer = int(settings.layer) if isinstance(settings.layer, np.integer) else settings.layer
            hidden_states = model(*inputs, layer=layer).last_hidden_state
        else:
            layers = mix.any(0).nonzero().flatten().tolist()
            states = model(*inputs, layer=layers[-1], output_hidden_states=layers).hidden_states
            weights = mix[:, layers].to(states[layers[0]])
            hidden_states = torch.einsum("lbth,nl->btnh", torch.stack([states[layer] for layer in layers]), weights)
    hidden_states = hidden_states.float().cpu()
    for (song, window), output in zip(chosen, hidden_states, strict=True):
        if song.frames is None:
            song.frames = torch.empty(song.num_frames, *output.shape[1:], dtype=torch.float32)
        count = window.stop_frame - window.start_frame
        song.frames[window.start_frame : window.stop_frame] = output[window.first_kept : window.first_kept + count]
        song.missing -= 1
        if song.missing == 0:
            yield song.key, FrameEmbeddings(song.frames, model.frame_times(song.num_frames).numpy())


def cast_to_module(values: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
    """Move values to the dtype and device of a module. If its weights are offloaded, accelerate does this instead."""
    parameter = next(module.parameters())
    return values if parameter.is_meta else values.to(parameter)


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """
    Put a model in eval mode inside a `with` block, and restore the mode of every module afterwards. If several threads
    use the model, it stays in eval mode until the last one leaves the block.
    """
    with _LOCK:
        users, modes = _EVALUATED.get(model, (0, []))
        if users == 0:
            modes = [(module, module.training) for module in model.modules()]
            model.eval()
        _EVALUATED[model] = (users + 1, modes)
    try:
        yield
    finally:
        with _LOCK:
            users, modes = _EVALUATED.pop(model)
            if users > 1:
                _EVALUATED[model] = (users - 1, modes)
            else:
                for module, mode in modes:
                    module.training = mode
