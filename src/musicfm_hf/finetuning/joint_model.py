"""One encoder with several heads, as a single module for the Trainer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.labeled import LabeledSong
from ..inference.embedding import HeadModel, WindowSettings
from ..inference.feature_cache import FeatureCache
from ..inference.logits import head_logits, shared_logits
from ..model.configuration_musicfm import MusicFMConfig
from ..model.losses_musicfm import IGNORED
from ..model.modeling_musicfm import MusicFMForAudioClassification, MusicFMForAudioFrameClassification, MusicFMModel
from ..model.padding_musicfm import item_lengths


class JointModel(nn.Module):
    """
    Models of several tasks that share an encoder, as one module: `musicfm`, the encoder, and `classifier`, the heads
    by task. The encoder runs once for all heads.

    Args:
        models: Task → model; all with the same encoder.
        weights: Task → weight of its loss.
        shares: Task → expected share of crops with labels of the task; see [`forward`].
        has_encoder (`bool`): If false, the heads are trained alone, on stored hidden states.
    """

    def __init__(
        self,
        models: Mapping[str, HeadModel],
        weights: Mapping[str, float],
        shares: Mapping[str, float],
        has_encoder: bool = True,
    ):
        super().__init__()
        self.classifier = nn.ModuleDict({task: model.classifier for task, model in models.items()})
        if has_encoder:
            self.musicfm = next(iter(models.values())).musicfm
        self.models, self.weights, self.shares = dict(models), dict(weights), dict(shares)
        self.has_encoder = has_encoder
        self.layers = layers_read(models)

    def forward(self, labels: Mapping[str, torch.Tensor], **inputs: torch.Tensor) -> dict[str, Any]:
        """
        Compute the weighted sum of the losses of all tasks.

        The loss of a task is the mean over crops with labels of this task. It is multiplied by the share of such crops
        in the batch and divided by their expected share, so that every labeled crop counts the same, whatever else is
        in its batch. The mean over the batches of a step is then the loss of the step.

        Args:
            labels: Task → labels, as the model of the task takes them.
            inputs: `input_values` and, for padded batches, `attention_mask`; or, without an encoder, `hidden_states`
                `(batch, frames, width)`, or `(batch, frames, layers, width)` if heads read several layers, and
                `counts`.

        Returns:
            `loss`, and `losses`, the loss of each task without its weight.
        """
        hidden_states, counts = (
            self._encode(**inputs) if self.has_encoder else (inputs["hidden_states"], inputs["counts"])
        )
        losses = {}
        for task, head in self.classifier.items():
            loss = head(self.head_input(task, hidden_states), counts, labels[task]).loss
            labeled = (labels[task] != IGNORED).flatten(1).any(1).float().mean()
            losses[task] = loss * labeled / self.shares[task]
        return {"loss": sum(self.weights[task] * loss for task, loss in losses.items()), "losses": losses}

    def head_input(self, task: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """
        Select the hidden states that a head reads, from those of `layers`.

        Args:
            hidden_states: `(…, frames, width)` if there is one layer, else `(…, frames, layers, width)`.
        """
        read = self.models[task].config.classifier_layers
        if list(read) == self.layers:  # all of them, without a copy
            return hidden_states
        places = [self.layers.index(layer) for layer in read]
        return hidden_states[..., places[0], :] if len(places) == 1 else hidden_states[..., places, :]

    def _encode(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the hidden states of `layers`, and the number of frames of each item of a padded batch."""
        last, several = self.layers[-1], len(self.layers) > 1
        kept = {"output_hidden_states": self.layers} if several else {}
        outputs = self.musicfm(input_values, attention_mask, layer=last, return_dict=True, **kept)
        hidden_states = outputs.last_hidden_state
        if several:
            hidden_states = torch.stack([outputs.hidden_states[layer] for layer in self.layers], dim=2)
        if attention_mask is None:
            return hidden_states, None
        lengths = item_lengths(input_values, attention_mask.bool())
        return hidden_states, self.musicfm.config.frame_counts(lengths)[-1]

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Enable gradient checkpointing in the encoder, as `PreTrainedModel.gradient_checkpointing_enable` does."""
        if self.has_encoder:
            self.musicfm.gradient_checkpointing_enable(**kwargs)

    def song_logits(
        self,
        songs: Sequence[tuple[LabeledSong, Sequence[str]]],
        settings: WindowSettings,
        cache: FeatureCache | None = None,
    ) -> Iterator[tuple[LabeledSong, dict[str, np.ndarray]]]:
        """
        Compute the logits of whole songs for several tasks, with one pass through the encoder for each song.

        Args:
            songs: Songs, each with the tasks to compute logits for.
            settings ([`WindowSettings`]): Windows and batch size.
            cache ([`FeatureCache`], *optional*): Cache with the hidden states of `layers`.

        Yields:
            Song, and task → logits; see [`head_logits`].
        """
        if cache is None:
            yield from shared_logits(self.models, songs, settings)
            return
        for song, tasks in songs:
            hidden_states = cache.read(song).float()
            yield song, {task: self._logits_of(task, hidden_states) for task in tasks}

    def _logits_of(self, task: str, hidden_states: torch.Tensor) -> np.ndarray:
        """Return the logits of a whole song from the hidden states of `layers`."""
        head, frames = self.models[task].classifier, self.head_input(task, hidden_states)
        return head_logits(head, frames if frames.ndim == 2 else head.mix(frames[None])[0])


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


def layers_read(models: Mapping[str, HeadModel]) -> list[int]:
    """Return the hidden states that the heads of models read, in ascending order."""
    return sorted({layer for model in models.values() for layer in model.config.classifier_layers})
