"""One vector for a song or a text, from an encoder or from a model with an audio tower and a text tower."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoProcessor

from ..audio.waveform import to_waveform
from ..inference.embedding import WindowSettings, embed_songs, eval_mode
from ..model.feature_extraction_musicfm import MusicFMFeatureExtractor, normalize_waveform
from ..model.modeling_musicfm import MusicFMModel
from ..model.modeling_text_audio_musicfm import MusicFMTextAudioModel
from ..model.padding_musicfm import zero_padding

EmbeddingModel = MusicFMModel | MusicFMTextAudioModel

_WINDOWS_AT_ONCE = 8  # of the audio of a batch, however many songs it has


def load_with_processor(name: str, processor_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> tuple[Any, Any]:
    """
    Load an encoder with its feature extractor, or a model with two towers with its processor.

    Args:
        name (`str`): A folder, or a repository on the Hub.
        processor_kwargs (`dict`, *optional*): Arguments for the processor, such as `revision`.
        kwargs: Arguments for `AutoModel.from_pretrained`, such as `revision` and `dtype`.

    Raises:
        OSError: the model, or the tokenizer of its text tower, does not exist.
        TypeError: the model is of another kind.
    """
    model = AutoModel.from_pretrained(name, **kwargs).eval()
    if is_text_audio(model):
        return model, AutoProcessor.from_pretrained(name, **processor_kwargs or {})
    return model, MusicFMFeatureExtractor.from_model_config(model.config)


def is_text_audio(model: Any) -> bool:
    """
    Return whether a model has two towers.

    Raises:
        TypeError: it is neither such a model nor an encoder.
    """
    if not isinstance(model, EmbeddingModel):
        raise TypeError(
            f"`model` must be a MusicFMModel or a MusicFMTextAudioModel, got {type(model).__name__}. Pass a folder "
            "that `musicfm convert` or `musicfm pretrain` wrote; for a model with a head, pass `model.musicfm`."
        )
    return isinstance(model, MusicFMTextAudioModel)


def check_layer(model: EmbeddingModel, layer: int | None) -> None:
    """Raise a `ValueError` if the layer does not exist, or is given for a model whose towers fix it."""
    if isinstance(model, MusicFMTextAudioModel):
        if layer is not None:
            raise ValueError(f"`layer` is fixed by the audio tower of this model, so leave it out; got {layer}.")
    else:
        WindowSettings(layer).frames(model.config)


def vector_size(model: EmbeddingModel) -> int:
    """Return the number of values in a vector."""
    return model.config.projection_dim if isinstance(model, MusicFMTextAudioModel) else model.config.hidden_size


def read_audio(audio: Any, model: EmbeddingModel) -> np.ndarray:
    """
    Return a waveform `(samples,)`, float32 at the rate of the model and at least as long as it needs.

    Args:
        audio: Anything that [`musicfm_hf.audio.waveform.to_waveform`] accepts. Bare waveforms are at the rate of the
            model.
        model: The model.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError, TypeError: the audio is not as described there.
    """
    rate = model.config.sampling_rate
    is_bare = isinstance(audio, np.ndarray | torch.Tensor | list | tuple)
    waveform = to_waveform(audio, rate if is_bare else None, rate)
    encoder = model.config.audio_config if isinstance(model, MusicFMTextAudioModel) else model.config
    return np.pad(waveform, (0, max(0, encoder.min_samples - len(waveform))))


def pad_waveforms(waveforms: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return waveforms in a batch, float32 `(songs, samples)` with zeros on the right, and its mask of 1 and 0."""
    values = pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True)
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return values, (torch.arange(values.shape[1]) < lengths[:, None]).long()


def audio_vectors(
    model: EmbeddingModel, input_values: torch.Tensor, mask: torch.Tensor, layer: int | None = None
) -> torch.Tensor:
    """
    Embed songs: the mean over the frames of a hidden state of an encoder, or the embeddings of an audio tower.

    Without gradients, songs of any length are encoded in windows, as [`musicfm_hf.embed`] does. With gradients, which
    need all activations, each song is encoded in one piece.

    Args:
        model: The model. With gradients, it is used in its own mode, and otherwise in eval mode.
        input_values (`torch.Tensor` of shape `(songs, samples)`): Waveforms with padding on the right, float32.
        mask (`torch.Tensor` of shape `(songs, samples)`): 1 for audio, 0 for padding.
        layer (`int`, *optional*): Hidden state of an encoder, from 0 to `num_hidden_layers` (the default).

    Returns:
        `(songs, size)` in the dtype and on the device of the model.
    """
    if isinstance(model, MusicFMTextAudioModel):
        if model.config.audio_config.do_normalize:
            input_values = _normalized(input_values, mask)
        return model.get_audio_features(input_values, mask).pooler_output
    if not torch.is_grad_enabled():
        songs = (
            (row, values[:length].cpu().numpy())
            for row, (values, length) in enumerate(zip(input_values, mask.sum(1).tolist(), strict=True))
        )
        settings = WindowSettings(layer, batch_size=min(_WINDOWS_AT_ONCE, len(input_values)))
        means = {row: frames.mean(0) for row, (frames, _) in embed_songs(model, songs, settings)}
        return torch.stack([means[row] for row in range(len(means))]).to(input_values.device, model.dtype)
    if model.config.do_normalize:
        input_values = _normalized(input_values, mask)
    frames = model(input_values, mask, layer=layer).last_hidden_state
    frames_mask = model.frames_mask(mask)
    return zero_padding(frames, frames_mask[..., None]).sum(1) / frames_mask.sum(1, keepdim=True)


def _normalized(input_values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scale each waveform to mean 0 and variance 1, without its padding."""
    rows = [values[valid.bool()].cpu().numpy() for values, valid in zip(input_values, mask, strict=True)]
    return pad_waveforms([normalize_waveform(row) for row in rows])[0].to(input_values.device)


def embed_audio(model: EmbeddingModel, songs: Sequence[Any], layer: int | None = None) -> torch.Tensor:
    """Embed songs (see [`read_audio`]) in eval mode without gradients: float32 `(songs, size)` on the CPU."""
    input_values, mask = (
        tensor.to(model.device) for tensor in pad_waveforms([read_audio(song, model) for song in songs])
    )
    with torch.no_grad(), eval_mode(model):
        return audio_vectors(model, input_values, mask, layer).float().cpu()


def embed_texts(model: MusicFMTextAudioModel, processor: Any, texts: Sequence[str]) -> torch.Tensor:
    """Embed texts in eval mode without gradients: float32 `(texts, size)` on the CPU."""
    inputs = processor(text=list(texts)).to(model.device)
    with torch.no_grad(), eval_mode(model):
        return model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output.float().cpu()
