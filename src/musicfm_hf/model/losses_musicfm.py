"""Losses of pretraining and of the heads."""

import torch
from torch import nn

from .configuration_musicfm import MusicFMConfig


def token_loss(
    config: MusicFMConfig, logits: torch.Tensor, tokens: torch.Tensor, count: torch.Tensor | int
) -> torch.Tensor:
    """
    Compute the cross-entropy of masked token prediction in nats, averaged over codebooks and `count` frames.

    Args:
        logits (`torch.Tensor` of shape `(masked frames, codebooks, codes)`): As the model returns them.
        tokens (`torch.Tensor` of shape `(masked frames, codebooks)`): Targets.
        count: Number of masked frames to average over, in this batch or in a whole optimizer step.
    """
    loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="sum")
    return loss / (count * config.num_codebooks)


def classification_loss(config: MusicFMConfig, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Compute the weighted sum of the losses of all outputs of a head, each averaged over the labels that are not
    ignored.

    Args:
        logits (`torch.Tensor` of shape `(…, num_labels)`): As the model returns them.
        labels (`torch.Tensor`): Floating-point probabilities of the classes of each output, with the same shape, and
            -1 to ignore an output. For a head with one single-label output, integers of shape `(…)` also work, with
            -100 to ignore a frame. Labels and logits must have the same number of frames.

    Raises:
        ValueError: if the shape of the labels is wrong.
    """
    outputs = config.classifier_slices
    if not labels.is_floating_point() and labels.shape == logits.shape[:-1]:
        kinds = [output["problem_type"] for output in outputs]
        if kinds != ["single_label_classification"]:
            raise ValueError(
                f"Integer labels need a configuration with one single-label output, but this one has {kinds}. Pass "
                "the probabilities of the classes as floating-point labels."
            )
        ignored = (labels < 0)[..., None]
        labels = nn.functional.one_hot(labels.clamp(min=0), logits.shape[-1]).float().masked_fill(ignored, -1.0)
    if labels.shape != logits.shape:
        raise ValueError(f"`labels` must have shape {tuple(logits.shape)}, got {tuple(labels.shape)}.")
    logits, labels = logits.float(), labels.float()
    weights = logits.new_tensor(config.class_weights or [1.0] * logits.shape[-1])
    loss, start = logits.new_zeros(()), 0
    for output in outputs:
        part = slice(start, start + output["size"])
        start = part.stop
        target, weight = labels[..., part], weights[part]
        valid = (target >= 0).all(-1)
        target, scores = target.clamp(min=0), logits[..., part]
        if output["problem_type"] == "single_label_classification":
            weighted = target * weight * valid[..., None]
            output_loss = -(weighted * scores.log_softmax(-1)).sum() / weighted.sum().clamp(min=1e-6)
        else:
            losses = nn.functional.binary_cross_entropy_with_logits(
                scores, target, pos_weight=weight, reduction="none"
            )
            output_loss = (losses.mean(-1) * valid).sum() / valid.sum().clamp(min=1)
        loss = loss + output.get("loss_weight", 1.0) * output_loss
    return loss


__all__ = ["classification_loss", "token_loss"]
