"""One encoder with several heads, as a single module for the Trainer, and the training crops of all tasks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ..audio.reading import load_audio
from ..data.examples import TaskCrops, collate_examples
from ..data.labeled import LabeledSong
from ..inference.embedding import HeadModel, WindowSettings, embed_songs
from ..inference.feature_cache import FeatureCache
from ..inference.logits import head_logits, layer_mix, song_logits
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMForAudioClassification, MusicFMForAudioFrameClassification, MusicFMModel


class JointModel(nn.Module):
    """
    Models of several tasks that share an encoder, as one module: `musicfm`, the encoder, and `classifier`, the heads
    by task. With several processes, one call of this module computes all losses of a step.

    Args:
        models: Task → model; all with the same encoder.
        weights: Task → weight of its loss.
        has_encoder (`bool`): If false, the heads are trained alone, on stored hidden states.
    """

    def __init__(self, models: Mapping[str, HeadModel], weights: Mapping[str, float], has_encoder: bool = True):
        super().__init__()
        self.classifier = nn.ModuleDict({task: model.classifier for task, model in models.items()})
        if has_encoder:
            self.musicfm = next(iter(models.values())).musicfm
        self.models, self.weights, self.has_encoder = dict(models), dict(weights), has_encoder

    def forward(self, **batches: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """
        Compute the weighted sum of the losses of all tasks.

        Args:
            batches: Task → batch with `labels`, as the model of the task takes it, or its head if it is trained alone.

        Returns:
            `loss`, and `losses`, the loss of each task without its weight.
        """
        parts: Mapping[str, Any] = self.models if self.has_encoder else self.classifier  # type: ignore[assignment]
        losses = {task: parts[task](**batch).loss for task, batch in batches.items()}
        return {"loss": sum(self.weights[task] * loss for task, loss in losses.items()), "losses": losses}

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Enable gradient checkpointing in the encoder, as `PreTrainedModel.gradient_checkpointing_enable` does."""
        if self.has_encoder:
            self.musicfm.gradient_checkpointing_enable(**kwargs)

    def song_logits(
        self,
        songs: Sequence[tuple[LabeledSong, Sequence[str]]],
        settings: WindowSettings,
        caches: Mapping[str, FeatureCache] | None = None,
    ) -> Iterator[tuple[str, LabeledSong, np.ndarray]]:
        """
        Compute the logits of whole songs for several tasks, with one pass through the encoder for each song.

        Args:
            songs: Songs, each with the tasks to compute logits for.
            settings ([`WindowSettings`]): Windows and batch size.
            caches (*optional*): Task → cache with the input of its head.

        Yields:
            Task, song and logits; see [`head_logits`].
        """
        if caches is not None:
            for song, tasks in songs:
                for task in tasks:
                    for _, logits in song_logits(self.models[task], [song], settings, caches[task]):
                        yield task, song, logits
            return
        mixes = torch.stack([layer_mix(model) for model in self.models.values()])
        distinct, rows = torch.unique(mixes, dim=0, return_inverse=True)
        row_of = dict(zip(self.models, rows.tolist(), strict=True))
        rate = self.musicfm.config.sampling_rate
        waveforms = ((index, load_audio(song.audio, rate)) for index, (song, _) in enumerate(songs))
        for index, (frames, _) in embed_songs(self.musicfm, waveforms, settings, distinct):
            song, tasks = songs[index]
            for task in tasks:
                yield task, song, head_logits(self.models[task].classifier, frames[:, row_of[task]])


def attach_head(encoder: MusicFMModel, config: MusicFMConfig) -> HeadModel:
    """Return a model with an encoder, which it shares, and a new head."""
    classes = (MusicFMForAudioClassification, MusicFMForAudioFrameClassification)
    model_class = next(cls for cls in classes if cls.__name__ == config.head_class)
    with torch.device("meta"):  # without the weights of another encoder
        model: Any = model_class(config)
    model.musicfm = encoder
    model.classifier = model.head_class(config)
    model.classifier.apply(model._init_weights)
    return model


class JointCrops(Dataset):
    """
    Training crops of several tasks. Item i has crop i of each task, with the length, targets and augmentation of the
    task; it is the crop that training for this task alone would use.
    """

    def __init__(self, crops: Mapping[str, TaskCrops]):
        self.crops = dict(crops)

    def __len__(self) -> int:
        return min(len(crops) for crops in self.crops.values())

    def __getitem__(self, number: int) -> dict[str, dict[str, Any]]:
        return {task: crops[number] for task, crops in self.crops.items()}


def collate_tasks(items: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, torch.Tensor]]:
    """Collate items of [`JointCrops`] into a batch of each task; see [`collate_examples`]."""
    return {task: collate_examples([item[task] for item in items]) for task in items[0]}
