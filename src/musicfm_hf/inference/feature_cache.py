"""What a frozen encoder says of songs, computed once and kept on disk, so that a probe trains in seconds."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.decoding import SongFiles, as_it_is
from ..data.labelled import LabelledSong
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMModel
from ..model.spectrogram_musicfm import MusicFMLogMel
from .catalogue import write_atomically
from .embedding import WindowSettings, embed_songs
from .fingerprint import as_json, digest, encoder_settings, weights_digest

logger = logging.get_logger(__name__)

_FORMAT = 1  # of the code here: raised when what is computed changes

_CONTEXT_SECONDS = 0.6


class EncoderFeatures:
    """
    Hidden states of an encoder for [`FeatureCache`].

    Args:
        model ([`MusicFMModel`]): The encoder, in any dtype, on any device.
        layers (`list[int]`): Which hidden states, 0 to `config.num_hidden_layers`.
        settings ([`WindowSettings`]): Windows; its layer is not looked at.
    """

    def __init__(self, model: MusicFMModel, layers: Sequence[int], settings: WindowSettings):
        self.model, self.settings, self.config = model, settings, model.config
        self.names = {f"layer_{layer:02d}": layer for layer in layers}
        note = {"weights": weights_digest(model), "frames": settings.frames(model.config), "dtype": str(model.dtype)}
        self.key = _key(note)

    def encode(
        self, songs: Iterable[tuple[Any, np.ndarray]], names: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        """`(key, waveform)` → `(key, {name: (frames, hidden_size)})`, as songs are finished."""
        mix = torch.eye(self.config.num_hidden_layers + 1)[[self.names[name] for name in names]]
        for key, (frames, _) in embed_songs(self.model, songs, self.settings, mix):
            yield key, {name: frames[:, index] for index, name in enumerate(names)}


class LogMelFeatures:
    """
    The log-mel spectrogram at the encoder's frame rate with its surroundings: the mean over each frame, and those of
    every third frame up to 0.6 s away. What any embedding has to be better than.
    """

    def __init__(self, config: MusicFMConfig):
        self.config = config
        self.names = {"log_mel": None}
        reach = round(_CONTEXT_SECONDS * config.frame_rate)
        self.offsets = np.arange(-reach, reach + 1, 3)
        self.key = _key({"log_mel": as_json(encoder_settings(config))})

    @property
    def width(self) -> int:
        """Numbers in a frame."""
        return self.config.num_mel_bins * len(self.offsets)

    def encode(
        self, songs: Iterable[tuple[Any, np.ndarray]], names: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        """As [`EncoderFeatures.encode`]."""
        log_mel = MusicFMLogMel(self.config)
        step = self.config.samples_per_frame // self.config.hop_length
        for key, waveform in songs:
            mel = log_mel(torch.from_numpy(waveform)[None], None)[0]  # (mel frames, bands)
            count = self.config.frame_counts(len(waveform))[-1]
            mel = torch.nn.functional.pad(mel, (0, 0, 0, count * step - len(mel)))
            yield key, {"log_mel": mel.view(count, step, -1).mean(1)}


class FeatureCache:
    """
    Features of songs in files, one for each song and name, below a folder whose name is a digest of what they depend
    on: weights, windows, dtype of the encoder and the version of this code. A file's name is a digest of the audio's
    path, size and time of change, or of its bytes. Files are complete or absent.

    Args:
        folder: Where to keep them.
        features ([`EncoderFeatures`] or [`LogMelFeatures`]): What computes them.
        dtype (`torch.dtype`): In which they are kept.
    """

    def __init__(self, folder: str | Path, features: EncoderFeatures | LogMelFeatures, dtype=torch.float16):
        self.folder = Path(folder) / features.key / str(dtype).removeprefix("torch.")
        self.features, self.dtype = features, dtype
        self._digests: dict[str, str] = {}  # of audio that is in the data set, by song
        self.config = features.config

    def fill(self, songs: Sequence[LabelledSong], num_workers: int = 1, progress: bool = True) -> None:
        """
        Compute what is not there.

        Raises:
            ValueError: if audio cannot be read, or is shorter than the model needs; names all such songs.
        """
        names = list(self.features.names)
        todo = {song.id: song for song in songs if any(not self._path(song, name).is_file() for name in names)}
        if not todo:
            return
        files = SongFiles(
            [(song.id, song.audio) for song in todo.values()], self.config.sampling_rate, self.config.min_samples
        )
        loader = DataLoader(files, batch_size=None, num_workers=num_workers, collate_fn=as_it_is)
        problems = []

        def waveforms() -> Iterator[tuple[str, np.ndarray]]:
            for decoded in loader:
                if decoded.waveform is None:
                    problems.append(f"{decoded.name}: {decoded.problem}")
                else:
                    if decoded.problem is not None:
                        logger.warning(f"{decoded.name}: {decoded.problem}")
                    yield decoded.name, decoded.waveform

        with tqdm(total=len(todo), unit="song", desc="features", disable=not progress) as bar:
            for name, tensors in self.features.encode(waveforms(), names):
                for feature, frames in tensors.items():
                    tensor = {"frames": frames.to(self.dtype).contiguous()}
                    write_atomically(self._path(todo[name], feature), tensor, {"song": name})
                bar.update()
        if problems:
            raise ValueError("Songs cannot be used: " + "; ".join(problems))

    def read(self, song: LabelledSong, start: int = 0, frames: int | None = None) -> torch.Tensor:
        """
        Frames from `start` on, in the cache's dtype: `(frames, width)`, or `(frames, names, width)` of several.

        Raises:
            FileNotFoundError: if the song was not computed.
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
                    parts.append(_surroundings(content[first:last], offsets, start - first, stop - first))
                else:
                    parts.append(content[start:stop])
        return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1)

    def __call__(self, song: LabelledSong, start: int, frames: int, generator: np.random.Generator) -> dict[str, Any]:
        """A crop for [`TaskCrops`]: `hidden_states` float32; zeros where audio is shorter than its header promised."""
        found = self.read(song, start, frames).float()
        missing = found.new_zeros(frames - len(found), *found.shape[1:])
        return {"hidden_states": torch.cat([found, missing])}

    def _path(self, song: LabelledSong, name: str) -> Path:
        return self.folder / name / f"{self._audio_digest(song)}.safetensors"

    def _audio_digest(self, song: LabelledSong) -> str:
        if song.id in self._digests:
            return self._digests[song.id]
        audio = song.audio if isinstance(song.audio, Mapping) else {"path": song.audio}
        content = audio.get("bytes")
        if content is None:
            return digest(_file_state(audio["path"]))
        self._digests[song.id] = digest(content)
        return self._digests[song.id]


def _key(note: dict[str, Any]) -> str:
    """A digest of what features depend on, and of the version of what computes them."""
    return digest(json.dumps(note | {"version": version("musicfm_hf"), "format": _FORMAT}).encode())


def _surroundings(frames: torch.Tensor, offsets: np.ndarray, start: int, stop: int) -> torch.Tensor:
    """`(frames, bands)` → frames `start` to `stop` beside those at `offsets`, the ends repeated."""
    index = np.arange(start, stop)[:, None] + offsets
    return frames[np.clip(index, 0, len(frames) - 1)].flatten(1)


def _file_state(path: str) -> bytes:
    state = Path(path).stat()
    return f"{Path(path).absolute()} {state.st_size} {state.st_mtime_ns}".encode()
