"""Logits of whole songs."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..audio.reading import load_audio
from ..data.labelled import LabelledSong
from ..tasks import tagging
from .embedding import HeadModel, WindowSettings, embed_songs, eval_mode, to_module
from .feature_cache import FeatureCache


def layer_mix(model: HeadModel) -> torch.Tensor:
    """What the head of a model reads, as weights `(layers + 1,)` of the encoder's hidden states."""
    config = model.config
    if config.use_weighted_layer_sum:
        if model.classifier.layer_weights.is_meta:
            raise ValueError("The head's sum of layers is offloaded: load the model with its head on a device.")
        return model.classifier.layer_weights.detach().float().softmax(0).cpu()
    layer = config.num_hidden_layers if config.classifier_layer is None else config.classifier_layer
    return torch.eye(config.num_hidden_layers + 1)[layer]


def head_logits(classifier: torch.nn.Module, frames: torch.Tensor) -> np.ndarray:
    """
    The head of a model over a whole song.

    Args:
        classifier: `model.classifier`. It is used in eval mode and left as it was.
        frames (`torch.Tensor` of shape `(frames, width)`): What it reads, of the song.

    Returns:
        float32 `(label frames, num_labels)`, or `(clips, num_labels)` from a head that labels clips: the song is cut
        in even parts of about the length that tagging is trained with.
    """
    parts = [frames]
    if classifier.config.label_rate is None:
        clips = round(len(frames) / classifier.config.frame_rate / tagging.CROP_SECONDS)
        parts = torch.tensor_split(frames, max(1, clips))
    with torch.no_grad(), eval_mode(classifier):
        logits = [classifier(to_module(part[None], classifier)).logits.float().cpu() for part in parts]
    return (logits[0][0] if classifier.config.label_rate is not None else torch.cat(logits)).numpy()


def song_logits(
    model: HeadModel,
    songs: Sequence[LabelledSong],
    settings: WindowSettings,
    cache: FeatureCache | None = None,
) -> Iterator[tuple[LabelledSong, np.ndarray]]:
    """
    Logits of whole songs, as [`head_logits`] gives them.

    Args:
        model: With a head; or the head alone, `model.classifier`, where there is a cache.
        cache ([`FeatureCache`], *optional*): Has what the head reads.
    """
    if cache is not None:
        classifier = getattr(model, "classifier", model)
        for song in songs:
            frames = cache.read(song).float()
            yield song, head_logits(classifier, frames if frames.ndim == 2 else classifier.mix(frames[None])[0])
        return
    rate = model.config.sampling_rate
    waveforms = ((song, load_audio(song.audio, rate)) for song in songs)
    for song, (frames, _) in embed_songs(model.musicfm, waveforms, settings, layer_mix(model)[None]):
        yield song, head_logits(model.classifier, frames[:, 0])
