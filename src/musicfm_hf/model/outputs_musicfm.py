"""Outputs of the models."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class MusicFMQuantizerOutput(ModelOutput):
    """
    Output of [`MusicFMQuantizerModel`].

    Attributes:
        tokens (`torch.Tensor` of shape `(batch, tokens, codebooks)`): int64.
        tokens_mask (`torch.Tensor` of shape `(batch, tokens)`): False for padding.
    """

    tokens: torch.Tensor | None = None
    tokens_mask: torch.Tensor | None = None


@dataclass
class MusicFMForPreTrainingOutput(ModelOutput):
    """
    Output of [`MusicFMForPreTraining`].

    Attributes:
        loss (`torch.Tensor` of shape `()`): Cross-entropy in nats, averaged over masked frames and codebooks, plus the
            weighted constant-Q loss if the model has one.
        logits (`torch.Tensor` of shape `(masked frames, codebooks, codes)`): Logits of the masked frames, in the order
            of `mask_time_indices`; minus infinity for codes that a smaller codebook does not have.
        accuracy (`torch.Tensor` of shape `()`): Share of the tokens of masked frames that are predicted correctly.
        tokens (`torch.Tensor` of shape `(batch, frames, codebooks)`): Targets; -100 for frames without one.
        mask_time_indices (`torch.Tensor` of shape `(batch, frames)`): Frames in the loss: masked, and with a target.
        cqt_loss (`torch.Tensor` of shape `()`): Mean squared error of the constant-Q reconstruction.
        hidden_states, attentions (`tuple`): As in the encoder, if requested.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    mask_time_indices: torch.Tensor | None = None
    cqt_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MusicFMClassifierOutput(ModelOutput):
    """
    Output of the classification head and of the models with it.

    Attributes:
        loss (`torch.Tensor` of shape `()`): Loss, if labels were given; see [`classification_loss`].
        logits (`torch.Tensor` of shape `(batch, label frames, num_labels)` or `(batch, num_labels)`): Scores before
            softmax or sigmoid.
        hidden_states, attentions (`tuple`): As in the encoder, if requested.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


__all__ = ["MusicFMClassifierOutput", "MusicFMForPreTrainingOutput", "MusicFMQuantizerOutput"]
