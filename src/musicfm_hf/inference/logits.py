"""Logits of whole songs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

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


def layer_mixes(models: Iterable[HeadModel]) -> tuple[torch.Tensor, list[int]]:
    """Return the distinct [`layer_mix`] of several models `(mixes, layers + 1)`, and the row of each model."""
    mixes, rows = torch.unique(torch.stack([layer_mix(model) for model in models]), dim=0, return_inverse=True)
    return mixes, rows.tolist()


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


def shared_logits(
    models: Mapping[str, HeadModel],
    songs: Sequence[tuple[LabeledSong, Sequence[str]]],
    settings: WindowSettings,
    change: Callable[[LabeledSong, np.ndarray], np.ndarray] | None = None,
) -> Iterator[tuple[LabeledSong, dict[str, np.ndarray]]]:
    """
    Compute the logits of whole songs with several heads on one encoder, which encodes each song once.

    Args:
        models: Name → model. The models have equal encoders; the encoder of the first one is run.
        songs: Songs with distinct ids, each with the names of the models to compute logits of.
        settings ([`WindowSettings`]): Windows and batch size; the layer is not used.
        change (`Callable`, *optional*): Function that maps a song and its waveform `(samples,)` to the waveform to
            encode, such as [`musicfm_hf.data.song_effects.SongEffects`].

    Yields:
        Song, and name → logits (see [`head_logits`]), in the order in which songs are finished.
    """
    encoder = next(iter(models.values())).musicfm
    rate = encoder.config.sampling_rate
    mixes, rows = layer_mixes(models.values())
    row_of = dict(zip(models, rows, strict=True))
    names_of = {song.id: names for song, names in songs}
    waveforms = ((song, load_audio(song.audio, rate)) for song, _ in songs)
    if change is not None:
        waveforms = ((song, change(song, waveform)) for song, waveform in waveforms)
    for song, (frames, _) in embed_songs(encoder, waveforms, settings, mixes):
        yield song, {name: head_logits(models[name].classifier, frames[:, row_of[name]]) for name in names_of[song.id]}


def song_logits(
    model: HeadModel | MusicFMClassifier,
    songs: Sequence[LabeledSong],
    settings: WindowSettings,
    cache: FeatureCache | None = None,
) -> Iterator[tuple[LabeledSong, np.ndarray]]:
    """
    Compute the logits of whole songs; see [`head_logits`].

    Args:
        model: A model with a head or, with a `cache`, the head alone (`model.classifier`).
        songs: Songs with distinct ids.
        settings ([`WindowSettings`]): Windows and batch size; the layer is not used.
        cache ([`FeatureCache`], *optional*): Cache with the input of the head.

    Raises:
        ValueError: if a head is given alone and without a cache.
    """
    if cache is not None:
        classifier = model if isinstance(model, MusicFMClassifier) else model.classifier
        for song in songs:
            frames = cache.read(song).float()
            yield song, head_logits(classifier, frames if frames.ndim == 2 else classifier.mix(frames[None])[0])
        return
    if isinstance(model, MusicFMClassifier):
        raise ValueError("A head alone has no encoder: give the whole model, or a cache of features.")
    for song, logits in shared_logits({"": model}, [(song, [""]) for song in songs], settings):
        yield song, logits[""]
