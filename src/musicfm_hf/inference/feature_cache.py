"""On-disk cache of the hidden states of frozen encoders, so that probes train in seconds."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.decoding import SongLoader
from ..data.identity import audio_place, audio_state, digest
from ..data.labeled import LabeledSong
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMModel
from ..model.spectrogram_musicfm import MusicFMLogMel
from ..training.files import write_safetensors
from .embedding import WindowSettings, embed_songs
from .encoder_digest import as_json, encoder_settings, weights_digest

logger = logging.get_logger(__name__)

FORMAT = 1  # incremented when the computed features change

_CONTEXT_SECONDS = 0.6


class Features(Protocol):
    """
    Object that computes features for [`FeatureCache`].

    Attributes:
        config ([`MusicFMConfig`]): Configuration that defines frames.
        key (`str`): Digest of everything that affects the features; see [`features_key`].
    """

    config: MusicFMConfig
    key: str

    @property
    def names(self) -> Mapping[str, Any]:
        """Names of the features, one file for each song."""
        ...

    @property
    def transform(self) -> Callable[[np.ndarray], Any] | None:
        """Function that decoding processes apply to the waveform of each song, or `None`."""
        ...

    def encode(
        self, songs: Iterable[tuple[Any, Any]], names: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        """
        Compute features: `(key, waveform or output of transform)` → `(key, {name: (frames, width)})`, in the order in
        which songs are finished.
        """
        ...


class EncoderFeatures:
    """
    Hidden states of an encoder for [`FeatureCache`].

    Args:
        model ([`MusicFMModel`]): The encoder, in any dtype and on any device.
        layers (`list[int]`): Hidden states to cache, 0 to `config.num_hidden_layers`.
        settings ([`WindowSettings`]): Windows and batch size; the layer is ignored.
    """

    transform = None

    def __init__(self, model: MusicFMModel, layers: Sequence[int], settings: WindowSettings):
        self.model, self.settings, self.config = model, settings, model.config
        self.names = {f"layer_{layer:02d}": layer for layer in layers}
        windows = settings.frames(model.config)
        self.key = features_key({"weights": weights_digest(model), "frames": windows, "dtype": str(model.dtype)})

    def encode(
        self, songs: Iterable[tuple[Any, np.ndarray]], names: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        """Encode songs as [`Features.encode`] describes."""
        mix = torch.eye(self.config.num_hidden_layers + 1)[[self.names[name] for name in names]]
        for key, (frames, _) in embed_songs(self.model, songs, self.settings, mix):
            yield key, {name: frames[:, index] for index, name in enumerate(names)}


class LogMelFeatures:
    """
    The log-mel spectrogram at the frame rate of the encoder, with context: the mean over each frame, and the means of
    every third frame up to 0.6 s away. These features are a baseline for embeddings.

    Args:
        config ([`MusicFMConfig`]): Configuration of the encoder.
    """

    transform = None

    def __init__(self, config: MusicFMConfig):
        self.config = config
        self.names = {"log_mel": None}
        reach = round(_CONTEXT_SECONDS * config.frame_rate)
        self.offsets = np.arange(-reach, reach + 1, 3)
        self.key = features_key({"log_mel": as_json(encoder_settings(config))})

    @property
    def width(self) -> int:
        """Number of values in a frame."""
        return self.config.num_mel_bins * len(self.offsets)

    def encode(
        self, songs: Iterable[tuple[Any, np.ndarray]], names: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        """Compute features as [`Features.encode`] describes."""
        log_mel = MusicFMLogMel(self.config)
        step = self.config.samples_per_frame // self.config.hop_length
        for key, waveform in songs:
            mel = log_mel(torch.from_numpy(waveform)[None], None)[0]  # (mel frames, bands)
            count = self.config.frame_counts(len(waveform))[-1]
            mel = torch.nn.functional.pad(mel, (0, 0, 0, count * step - len(mel)))
            yield key, {"log_mel": mel.view(count, step, -1).mean(1)}


class FeatureCache:
    """
    Features of songs in files, one for each song and layer. The folder name is a digest of everything that affects the
    features: weights, windows, the dtype of the encoder, and the version of this package. A file name is a digest of
    the path, size and modification time of the audio, or of its bytes. Files are complete or absent.

    Args:
        folder: Folder of the cache.
        features ([`Features`]): Object that computes the features, such as [`EncoderFeatures`].
        dtype (`torch.dtype`): Dtype in which the features are stored.
    """

    def __init__(self, folder: str | Path, features: Features, dtype: torch.dtype = torch.float16):
        self.folder = Path(folder) / features.key / str(dtype).removeprefix("torch.")
        self.features, self.dtype = features, dtype
        self._digests: dict[str, str] = {}  # song id → digest, of audio whose bytes are in the data set
        self.config = features.config

    def fill(self, songs: Sequence[LabeledSong], num_workers: int = 1, progress: bool = True) -> None:
        """
        Compute the missing features.

        Args:
            songs: Songs whose features will be read.
            num_workers (`int`): Number of decoding processes; 0 decodes in this process.
            progress (`bool`): Show a progress bar.

        Raises:
            ValueError: songs cannot be read, or are shorter than the model needs. The message names all such songs.
        """
        names = list(self.features.names)
        missing = {song.id: song for song in songs if any(not self._path(song, name).is_file() for name in names)}
        if not missing:
            return
        sources = [(song.id, song.audio) for song in missing.values()]
        rate, least = self.config.sampling_rate, self.config.min_samples
        loader = SongLoader(sources, rate, least, num_workers, self.features.transform)
        with tqdm(total=len(missing), unit="song", desc="features", disable=not progress) as bar:
            for song_id, tensors in self.features.encode(_waveforms(loader), names):
                for name, frames in tensors.items():
                    tensor = {"frames": frames.to(self.dtype).contiguous()}
                    write_safetensors(self._path(missing[song_id], name), tensor, {"song": song_id})
                bar.update()
        loader.raise_if_unusable()

    @torch.autocast("cpu", enabled=False)  # it would refuse to join tensors in float16
    def read(self, song: LabeledSong, start: int = 0, frames: int | None = None) -> torch.Tensor:
        """
        Read frames from `start` on, in the dtype of the cache: `(frames, width)`, or `(frames, layers, width)` for
        several layers.

        Raises:
            FileNotFoundError: the features of the song have not been computed.
        """
        parts = []
        for name in self.features.names:
            with safe_open(self._path(song, name), framework="pt") as file:
                content = file.get_slice("frames")
                whole = content.get_shape()[0]
                start = min(start, whole)
                stop = whole if frames is None else min(start + frames, whole)
                if isinstance(self.features, LogMelFeatures):
                    offsets = self.features.offsets
                    first, last = max(start + offsets[0], 0), min(stop + offsets[-1], whole)
                    parts.append(_with_context(content[first:last], offsets, start - first, stop - first))
                else:
                    parts.append(content[start:stop])
        return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1)

    def __call__(self, song: LabeledSong, start: int, frames: int, generator: np.random.Generator) -> dict[str, Any]:
        """
        Read a crop for [`TaskCrops`]: `hidden_states` in float32, with zeros beyond the end of truncated audio, and
        then `audio_frames`, the number of frames before it.
        """
        return padded_crop(self.read(song, start, frames).float(), frames)

    def _path(self, song: LabeledSong, name: str) -> Path:
        """Return the path of the file for a song and a layer."""
        return self.folder / name / f"{self._audio_digest(song)}.safetensors"

    def _audio_digest(self, song: LabeledSong) -> str:
        """Return the digest that names the files of a song."""
        if song.id in self._digests:
            return self._digests[song.id]
        state = audio_state(song.audio)
        if not isinstance(song.audio, Mapping):
            return digest(f"{audio_place(song.audio, song.id)} {state}".encode())
        if song.audio.get("bytes") is not None:  # takes time to digest, and does not change
            self._digests[song.id] = state
        return state


def padded_crop(hidden_states: torch.Tensor, frames: int) -> dict[str, Any]:
    """Return a crop of `frames` frames, with zeros beyond the end of truncated audio, as [`FeatureCache`] does."""
    audio_frames = len(hidden_states)
    padding = hidden_states.new_zeros(frames - audio_frames, *hidden_states.shape[1:])
    crop: dict[str, Any] = {"hidden_states": torch.cat([hidden_states, padding])}
    return crop if audio_frames == frames else crop | {"audio_frames": audio_frames}


def _waveforms(loader: SongLoader) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and waveforms of decoded songs, with a warning for damaged files."""
    for song in loader:
        if song.problem is not None:
            logger.warning(f"{song.name}: {song.problem}")
        yield song.name, song.content


def features_key(settings: dict[str, Any]) -> str:
    """Return a digest of settings that affect features, and of the version of this package."""
    return digest(json.dumps(settings | {"version": version("musicfm_hf"), "format": FORMAT}).encode())


def _with_context(frames: torch.Tensor, offsets: np.ndarray, start: int, stop: int) -> torch.Tensor:
    """
    Concatenate, for each of frames `start` to `stop` of `(frames, bands)`, the frames at `offsets` from it. The first
    and last frames are repeated beyond the ends.
    """
    index = np.arange(start, stop)[:, None] + offsets
    return frames[np.clip(index, 0, len(frames) - 1)].flatten(1)
