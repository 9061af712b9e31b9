"""Logits of whole songs."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ..audio.reading import load_audio
from ..data.labeled import LabeledSong
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMClassifier, MusicFMForXVector
from ..tasks import task_of
from .embedding import HeadModel, WindowSettings, cast_to_module, embed_songs, eval_mode
from .feature_cache import FeatureCache


def layer_mix(model: HeadModel | MusicFMForXVector) -> torch.Tensor:
    """Return the weights `(layers + 1,)` of the encoder's hidden states in the input of a model's head."""
    config = model.config
    if config.use_weighted_layer_sum:
        if model.classifier.layer_weights.is_meta:
            raise ValueError("The head's sum of layers is offloaded: load the model with its head on a device.")
        return model.classifier.layer_mix().detach().cpu()
    return torch.eye(config.num_hidden_layers + 1)[config.classifier_layers[0]]


def clip_sizes(config: MusicFMConfig, num_frames: int) -> list[int]:
    """Return the sizes of clips of equal length, about that of the training crops of the task."""
    count = round(num_frames / config.frame_rate / task_of(config).crop_seconds)
    return [len(clip) for clip in torch.arange(num_frames).tensor_split(max(1, count))]


def head_logits(classifier: MusicFMClassifier, frames: torch.Tensor) -> np.ndarray:
    """
    Run the head of a model over a whole song.

    Args:
        classifier: The head, `model.classifier`. It is used in eval mode, and its mode is restored.
        frames (`torch.Tensor` of shape `(frames, width)`): Input of the head for the whole song.

    Returns:
        float32 `(label frames, num_labels)`, or `(clips, num_labels)` if the head labels clips; see [`clip_sizes`].
    """
    config = classifier.config
    parts = [frames] if config.label_rate is not None else frames.split(clip_sizes(config, len(frames)))
    with torch.no_grad(), eval_mode(classifier):
        logits = [classifier(cast_to_module(part[None], classifier)).logits.float().cpu() for part in parts]
    return (logits[0][0] if config.label_rate is not None else torch.cat(logits)).numpy()


def song_logits(
    model: HeadModel | MusicFMClassifier,
    songs: Sequence[LabeledSong],
    settings: WindowSettings,
    cache: FeatureCache | None = None,
    change: Callable[[LabeledSong, np.ndarray], np.ndarray] | None = None,
) -> Iterator[tuple[LabeledSong, np.ndarray]]:
    """
    Compute the logits of whole songs; see [`head_logits`].

    Args:
        model: A model with a head or, with a `cache`, the head alone (`model.classifier`).
        cache ([`FeatureCache`], *optional*): Cache with the input of the head.
        change (`Callable`, *optional*): Function that maps a song and its waveform `(samples,)` to the waveform to
            encode, such as [`musicfm_hf.data.song_effects.SongEffects`].

    Raises:
        ValueError: if a head is given alone and without a cache, or with a cache and `change`.
    """
    if cache is not None and change is not None:
        raise ValueError("A cache has the features of the songs as they are: pass the model without it.")
    if cache is not None:
        classifier = model if isinstance(model, MusicFMClassifier) else model.classifier
        for song in songs:
            frames = cache.read(song).float()
            yield song, head_logits(classifier, frames if frames.ndim == 2 else classifier.mix(frames[None])[0])
        return
    if isinstance(model, MusicFMClassifier):
        raise ValueError("A head alone has no encoder: give the whole model, or a cache of features.")
    rate = model.config.sampling_rate
    waveforms = ((song, load_audio(song.audio, rate)) for song in songs)
    if change is not None:
        waveforms = ((song, change(song, waveform)) for song, waveform in waveforms)
    for song, (frames, _) in embed_songs(model.musicfm, waveforms, settings, layer_mix(model)[None]):
        yield song, head_logits(model.classifier, frames[:, 0])
