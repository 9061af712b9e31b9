"""
Models as an index uses them. All classes have the same attributes and methods, so that nothing else depends on the
kind of model:

- `sampling_rate` in Hz, `min_samples`, and `default_seconds`, the length of passages unless the user chooses another;
- `standardize`: whether the index standardizes vectors (see `geometry.py`);
- `describe()`: everything but audio and passages that the vectors depend on;
- `embed_songs(songs, settings)`: a stream of `(key, waveform)` → passages; `embed_text(text)` → a vector.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModel, AutoModelForAudioXVector, AutoProcessor

from ..inference.annotators import load_config
from ..inference.embedding import WindowSettings, embed_songs, eval_mode
from ..inference.encoder_digest import head_digest, weights_digest
from ..inference.excerpts import embed_frames, trained_seconds
from ..inference.exported import EncoderModel, check_exported_precision, encoder_of, is_exported, load_exported
from ..inference.logits import layer_mix
from ..inference.model_files import resolve_model
from ..inference.precision import quantization_of
from ..model.int8_musicfm import MusicFMInt8Config
from ..model.modeling_musicfm import MusicFMForXVector, MusicFMModel
from .passages import PassageSettings, cut_passages, frames_of_passages

DEFAULT_WINDOWS = WindowSettings()


class EmbeddedSong(NamedTuple):
    """A song with its key, duration in seconds, times of its passages `(passages,)` and vectors `(passages, size)`."""

    key: Any
    seconds: float
    starts: np.ndarray
    ends: np.ndarray
    vectors: np.ndarray


class EncoderEmbedder:
    """
    Embeds passages as the mean over the frames of a hidden state. The frames are those of [`musicfm_hf.embed`]: a
    passage that is shorter than a window is encoded in its context.

    Args:
        model ([`MusicFMModel`] or [`ExportedEncoder`]): The encoder.
        windows ([`WindowSettings`]): Layer, windows and batch size.

    Raises:
        ValueError: a setting is out of range.
    """

    standardize = True

    def __init__(self, model: EncoderModel, windows: WindowSettings = DEFAULT_WINDOWS):
        windows.frames(model.config)
        self.model, self.windows = model, windows
        self.sampling_rate, self.min_samples = model.config.sampling_rate, model.config.min_samples
        self.default_seconds = model.config.context_seconds
        self._mix: torch.Tensor | None = None  # of hidden states, instead of one layer; see `embed_songs`

    def describe(self) -> dict[str, Any]:
        """Return everything but audio and passages that the vectors depend on, as values for JSON."""
        config, layer = self.model.config, self.windows.layer
        window_frames, overlap_frames = self.windows.frames(config)
        return {
            "weights": weights_digest(self.model),
            "layer": config.num_hidden_layers if layer is None else layer,
            "pool": "mean",
            "window_seconds": window_frames / config.frame_rate,
            "overlap_seconds": overlap_frames / config.frame_rate,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        } | quantization_of(self.model)

    def embed_songs(
        self, songs: Iterable[tuple[Any, np.ndarray]], settings: PassageSettings
    ) -> Iterator[EmbeddedSong]:
        """
        Embed a stream of `(key, waveform)` with waveforms `(samples,)` at `sampling_rate`. Songs are yielded in the
        order in which they are finished.
        """
        rate = self.sampling_rate
        keyed = (((key, len(waveform)), waveform) for key, waveform in songs)
        for (key, num_samples), (frames, times) in embed_songs(self.model, keyed, self.windows, self._mix):
            starts, ends = (edges / rate for edges in cut_passages(num_samples, rate, settings))
            parts = [frames[first:stop] for first, stop in frames_of_passages(times, starts, ends)]
            vectors = torch.stack([self._embed_passage(part) for part in parts]).cpu().numpy()
            yield EmbeddedSong(key, num_samples / rate, starts, ends, vectors)

    def _embed_passage(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the vector `(size,)` of the frames of a passage `(frames, size)`, float32."""
        return frames.mean(0)

    def embed_text(self, text: str) -> np.ndarray:
        """
        Raises:
            ValueError: always, because an encoder has no text tower; the message names models that have one.
        """
        raise ValueError(
            f"The model of this index cannot search for words, because it has no text tower, and {text!r} is neither "
            "a file nor a song of the index. Models with a text tower are those that `musicfm convert` makes of "
            "MuQ-MuLan (OpenMuQ/MuQ-MuLan-large); make an index with one of them."
        )


class RetrievalEmbedder(EncoderEmbedder):
    """
    Embeds passages with the head of a model that `musicfm finetune retrieval/…` trained. Passages are encoded in the
    context of their song, as in training.

    Args:
        model ([`MusicFMForXVector`]): The model.
        windows ([`WindowSettings`]): Windows and batch size, without a layer.

    Raises:
        ValueError: a setting is out of range.
    """

    standardize = False

    def __init__(self, model: MusicFMForXVector, windows: WindowSettings = DEFAULT_WINDOWS):
        super().__init__(model.musicfm, windows)
        self.retrieval_model = model
        self.default_seconds = trained_seconds(model.config)
        self._mix = layer_mix(model)[None]

    def describe(self) -> dict[str, Any]:
        """As [`EncoderEmbedder.describe`]."""
        described = super().describe()
        described["weights"] = head_digest(self.retrieval_model, described["weights"])
        return described | {"layer": None, "pool": "head"}

    def _embed_passage(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the embedding of the frames of a passage `(frames, 1, size)`, of length 1."""
        return embed_frames(self.retrieval_model.classifier, frames[:, 0])


class TextAudioEmbedder:
    """
    Embeds passages and words in the space of a model with an audio tower and a text tower, whose methods are those of
    CLAP in Transformers: `get_audio_features` and `get_text_features`.

    Args:
        model: The model.
        processor: Its processor, with `feature_extractor` and `tokenizer`.
        batch_size (`int`): Number of passages encoded at once.
    """

    standardize = False

    def __init__(self, model: Any, processor: Any, batch_size: int = 1):
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.sampling_rate = model.config.audio_config.sampling_rate
        self.min_samples = getattr(model.config.audio_config, "min_samples", 1)
        self.default_seconds = model.config.clip_seconds

    def describe(self) -> dict[str, Any]:
        """Return everything but audio and passages that the vectors depend on, as values for JSON."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {"weights": weights_digest(self.model), "dtype": dtype} | quantization_of(self.model)

    def embed_songs(
        self, songs: Iterable[tuple[Any, np.ndarray]], settings: PassageSettings
    ) -> Iterator[EmbeddedSong]:
        """As [`EncoderEmbedder.embed_songs`]."""
        for key, waveform in songs:
            starts, ends = cut_passages(len(waveform), self.sampling_rate, settings)
            passages = [waveform[start:end] for start, end in zip(starts, ends, strict=True)]  # all of one length
            batches = [passages[first : first + self.batch_size] for first in range(0, len(passages), self.batch_size)]
            vectors = np.concatenate([self._embed_batch(batch) for batch in batches])
            seconds = len(waveform) / self.sampling_rate
            yield EmbeddedSong(key, seconds, starts / self.sampling_rate, ends / self.sampling_rate, vectors)

    def embed_text(self, text: str) -> np.ndarray:
        """Embed words, `(size,)` float32."""
        tokens = self.processor.tokenizer([text], return_tensors="pt", truncation=True).to(self.model.device)
        with torch.no_grad(), eval_mode(self.model):
            features = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
        return features.pooler_output[0].float().cpu().numpy()

    def _embed_batch(self, passages: list[np.ndarray]) -> np.ndarray:
        """Embed waveforms of one length, which need no padding."""
        extractor = self.processor.feature_extractor
        inputs = extractor(passages, sampling_rate=self.sampling_rate, return_tensors="pt")
        with torch.no_grad(), eval_mode(self.model):
            features = self.model.get_audio_features(input_values=inputs["input_values"].to(self.model.device))
        return features.pooler_output.float().cpu().numpy()


Embedder = EncoderEmbedder | RetrievalEmbedder | TextAudioEmbedder


def load_embedder(
    name: str,
    revision: str | None = None,
    windows: WindowSettings = DEFAULT_WINDOWS,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    quantization_config: MusicFMInt8Config | None = None,
) -> tuple[Embedder, str]:
    """
    Load a model for an index.

    Args:
        name (`str`): A folder, also one that `musicfm export` wrote, or a repository on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        windows ([`WindowSettings`]): Layer and windows for encoders, windows for models with an embedding head; batch
            size.
        dtype (`torch.dtype`): dtype of the weights.
        device (*optional*): Device of the model; the CPU by default.
        quantization_config ([`MusicFMInt8Config`], *optional*): Quantizes the model while it is loaded.

    Returns:
        The embedder, and the revision of the weights; see [`musicfm_hf.inference.model_files.resolve_model`].

    Raises:
        OSError: the model does not exist.
        ValueError: it is neither an encoder nor a model with an embedding head or a text tower, or a setting does not
            apply to it.
    """
    folder, commit = resolve_model(name, revision)
    model: Any
    if is_exported(folder):  # in its own precision, on the CPU
        check_exported_precision(folder, quantization_config)
        model = load_exported(folder)
        if not isinstance(model, MusicFMForXVector):
            return EncoderEmbedder(encoder_of(model, folder), windows), commit
    else:
        embeds_clips = getattr(load_config(folder), "head_class", None) == MusicFMForXVector.__name__
        auto_class = AutoModelForAudioXVector if embeds_clips else AutoModel
        model = auto_class.from_pretrained(folder, dtype=dtype, quantization_config=quantization_config)
        model = model.to(device or "cpu").eval()
    if isinstance(model, MusicFMForXVector):
        if windows.layer is not None:
            raise ValueError(f"{name} has an embedding head, which fixes the layer: leave out `--layer`.")
        return RetrievalEmbedder(model, windows), commit
    if isinstance(model, MusicFMModel):
        return EncoderEmbedder(model, windows), commit
    if not (hasattr(model, "get_audio_features") and hasattr(model, "get_text_features")):
        raise ValueError(
            f"{name} is a {type(model).__name__}; an index needs an encoder, a model for retrieval, or a model with "
            "an audio tower and a text tower."
        )
    if (windows.layer, windows.window_seconds, windows.overlap_seconds) != (None, None, None):
        raise ValueError(
            f"{name} has an audio tower and a text tower, which fix the layer and the windows: leave out `--layer`, "
            "`--window_seconds` and `--overlap_seconds`."
        )
    return TextAudioEmbedder(model, AutoProcessor.from_pretrained(folder), windows.batch_size), commit
