"""Embeddings of parts of songs, with a trained embedding head or as means over frames, for retrieval."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from ..audio.reading import load_audio
from ..data.labeled import LabeledSong
from ..model.configuration_musicfm import MusicFMConfig
from ..model.heads_musicfm import MusicFMEmbeddingHead, MusicFMPitchEmbedding
from ..model.modeling_musicfm import MusicFMForXVector
from ..tasks.retrieval import Excerpt
from .embedding import WindowSettings, cast_to_module, embed_songs, eval_mode
from .feature_cache import FeatureCache
from .logits import layer_mix

PASSAGE_SECONDS = 20.0  # length of the passages of longer excerpts, unless the model has another one


class SongFeatures(Protocol):
    """Frames of songs, such as a [`FeatureCache`]."""

    def read(self, song: LabeledSong) -> torch.Tensor:
        """Return `(frames, …)` at the frame rate of the encoder."""


def embed_excerpts(
    model: MusicFMForXVector | MusicFMEmbeddingHead | MusicFMPitchEmbedding,
    excerpts: Sequence[Excerpt],
    settings: WindowSettings,
    cache: SongFeatures | None = None,
) -> np.ndarray:
    """
    Embed parts of songs. Songs are encoded whole. An excerpt that is longer than the passages of the model's task
    (`config.decoding["passage_seconds"]`, 20 s if it is not set) is cut into passages of about that length, and its
    embedding is the normalized mean of theirs.

    Args:
        model: A model with an embedding head or, with a `cache`, the head or its second part alone. It is used in eval
            mode, and its mode is restored.
        cache ([`SongFeatures`], *optional*): Input of that head or part.

    Returns:
        float32 `(excerpts, config.xvector_output_dim)`, rows of length 1.

    Raises:
        ValueError: if a head is given alone and without a cache.
    """
    head = model.classifier if isinstance(model, MusicFMForXVector) else model
    config = head.config
    seconds = trained_seconds(config)
    frames: Iterable[tuple[LabeledSong, torch.Tensor]]
    if cache is not None:
        frames = ((song, _mixed(head, cache.read(song).float())) for song in _songs(excerpts))
    elif not isinstance(model, MusicFMForXVector):
        raise ValueError("A head alone has no encoder: give the whole model, or a cache of features.")
    else:
        frames = _encoded(model, _songs(excerpts), settings)

    def embed(part: torch.Tensor) -> torch.Tensor:
        passages = max(1, round(len(part) / config.frame_rate / seconds))
        vectors = [embed_frames(head, passage) for passage in part.tensor_split(passages)]
        return torch.nn.functional.normalize(torch.stack(vectors).mean(0), dim=-1).cpu()

    return _collect(excerpts, frames, config, embed)


def embed_frames(head: MusicFMEmbeddingHead | MusicFMPitchEmbedding, frames: torch.Tensor) -> torch.Tensor:
    """Embed the frames `(frames, width)` of a passage: `(config.xvector_output_dim,)`, of length 1."""
    with torch.no_grad(), eval_mode(head):
        return head(cast_to_module(frames[None], head)).embeddings[0]


def trained_seconds(config: MusicFMConfig) -> float:
    """Return the length of the passages that an embedding head was trained on, in seconds."""
    return (config.decoding or {}).get("passage_seconds", PASSAGE_SECONDS)


def mean_excerpts(excerpts: Sequence[Excerpt], cache: FeatureCache) -> np.ndarray:
    """Return the mean over the frames of each excerpt, float32 `(excerpts, width)`, of the one layer in a cache."""
    frames = ((song, cache.read(song).float()) for song in _songs(excerpts))
    return _collect(excerpts, frames, cache.config, lambda part: part.mean(0))


def _songs(excerpts: Iterable[Excerpt]) -> list[LabeledSong]:
    """Return the songs of excerpts, each once."""
    return list({excerpt.song.id: excerpt.song for excerpt in excerpts}.values())


def _mixed(head: MusicFMEmbeddingHead | MusicFMPitchEmbedding, frames: torch.Tensor) -> torch.Tensor:
    """Return frames `(frames, width)` of a cache that may hold several layers."""
    with torch.no_grad():
        return head.mix(frames[None])[0] if isinstance(head, MusicFMEmbeddingHead) else frames


def _encoded(
    model: MusicFMForXVector, songs: Sequence[LabeledSong], settings: WindowSettings
) -> Iterator[tuple[LabeledSong, torch.Tensor]]:
    """Encode songs, in the order in which they are finished."""
    waveforms = ((song, load_audio(song.audio, model.config.sampling_rate)) for song in songs)
    for song, (frames, _) in embed_songs(model.musicfm, waveforms, settings, layer_mix(model)[None]):
        yield song, frames[:, 0]


def _collect(
    excerpts: Sequence[Excerpt],
    songs: Iterable[tuple[LabeledSong, torch.Tensor]],
    config: MusicFMConfig,
    embed: Callable[[torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """Embed the frames of each excerpt, and return the vectors in the order of the excerpts."""
    places: dict[str, list[int]] = {}
    for index, excerpt in enumerate(excerpts):
        places.setdefault(excerpt.song.id, []).append(index)
    vectors: list[torch.Tensor] = [torch.empty(0)] * len(excerpts)
    for song, frames in songs:
        for index in places[song.id]:
            start, end = (round(seconds * config.frame_rate) for seconds in excerpts[index][1:3])
            start = min(start, len(frames) - 1)
            vectors[index] = embed(frames[start : max(end, start + 1)])
    return torch.stack(vectors).float().numpy()
