"""Losses of pretraining and of the heads."""

import torch
from torch import nn

from .configuration_musicfm import MusicFMConfig

IGNORED = -100  # label of frames and items without one, as in torch's cross-entropy


def frame_weight(config: MusicFMConfig, mask: torch.Tensor, has_target: torch.Tensor) -> torch.Tensor:
    """
    Sum the weights of frames in the pretraining loss: 1 for masked frames, and `config.unmasked_loss_weight` for the
    others.

    Args:
        mask, has_target (`torch.Tensor` of shape `(batch, frames)`): Masked frames, and frames with a target.

    Returns:
        float32 scalar, above 0 even if no frame has a weight.
    """
    weight = (mask & has_target).sum() + config.unmasked_loss_weight * (~mask & has_target).sum()
    return weight.float().clamp(min=1e-6)


def token_loss(
    config: MusicFMConfig, logits: torch.Tensor, tokens: torch.Tensor, count: torch.Tensor | float
) -> torch.Tensor:
    """
    Compute the cross-entropy of token prediction in nats, averaged over codebooks and `count` frames.

    Args:
        logits (`torch.Tensor` of shape `(frames, codebooks, codes)`): As the model returns them.
        tokens (`torch.Tensor` of shape `(frames, codebooks)`): Targets.
        count: Number of frames to average over, in this batch or in a whole optimizer step.
    """
    loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="sum")
    return loss / (count * config.num_codebooks)


def classification_loss(config: MusicFMConfig, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Compute the weighted sum of the losses of all outputs of a head, each averaged over the labels that are not
    ignored.

    Args:
        logits (`torch.Tensor` of shape `(…, num_labels)`): As the model returns them.
        labels (`torch.Tensor`): Probabilities of the classes of each output, with the same shape: numbers from 0 to
            1, or booleans. Or, for a head with one softmax, classes of shape `(…)`. -100 marks labels to ignore; a
            softmax is ignored if one of its labels is. Labels and logits must have the same number of frames.

    Raises:
        ValueError: if the shape or a value of the labels is wrong. Values are checked only outside of compilation, at
            the cost of one synchronization with the device.
    """
    outputs = config.classifier_slices
    kinds = [output["problem_type"] for output in outputs]
    if labels.shape == logits.shape[:-1] and not labels.is_floating_point():
        labels = _one_hot(labels, logits.shape[-1], kinds)
    elif labels.shape != logits.shape:
        raise ValueError(_explain_shape(logits, labels, kinds))
    else:
        _check_values(labels, 1, "probabilities from 0 to 1")
    logits, labels = logits.float(), labels.float()
    weights = logits.new_tensor(config.class_weights or [1.0] * logits.shape[-1])
    loss, start = logits.new_zeros(()), 0
    for output in outputs:
        part = slice(start, start + output["size"])
        start = part.stop
        target, weight = labels[..., part], weights[part]
        valid = target != IGNORED
        target, scores = target.clamp(min=0), logits[..., part]
        if output["problem_type"] == "single_label_classification":
            weighted = target * weight * valid.all(-1, keepdim=True)
            output_loss = -(weighted * scores.log_softmax(-1)).sum() / weighted.sum().clamp(min=1e-6)
        else:
            losses = nn.functional.binary_cross_entropy_with_logits(
                scores, target, pos_weight=weight, reduction="none"
            )
            output_loss = (losses * valid).sum() / valid.sum().clamp(min=1)
        loss = loss + output.get("loss_weight", 1.0) * output_loss
    return loss


def pitch_loss(config: MusicFMConfig, maps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Compute the share of the variance of pitch classes that maps do not explain, summed over the maps: 0 if they equal
    the labels, and 1 for a map that is constant at their mean.

    Args:
        maps (`torch.Tensor` of shape `(batch, frames, config.pitch_maps * 12)`): Output of the first part of a head.
        labels (`torch.Tensor`): Targets of the same shape. Frames with -100 are ignored.

    Raises:
        ValueError: if the labels have another shape.
    """
    if labels.shape != maps.shape:
        raise ValueError(
            f"`pitch_labels` must have shape {tuple(maps.shape)}: frames, and {config.pitch_maps} maps of 12 pitch "
            f"classes, got {tuple(labels.shape)}."
        )
    mask = (labels != IGNORED).all(-1).float()[..., None, None]  # (batch, frames, 1, 1)
    maps, labels = (values.float().unflatten(-1, (config.pitch_maps, -1)) for values in (maps, labels))
    mean = (labels * mask).sum((0, 1), keepdim=True) / mask.sum().clamp(min=1)  # (1, 1, maps, 12)
    variance = ((labels - mean).square() * mask).sum((0, 1, 3)) / mask.sum().clamp(min=1)
    errors = ((maps - labels).square() * mask).sum((0, 1, 3)) / mask.sum().clamp(min=1)
    return (errors / variance.clamp(min=1e-3)).sum()


def _one_hot(classes: torch.Tensor, num_labels: int, kinds: list[str]) -> torch.Tensor:
    """Convert classes `(…)` to probabilities `(…, num_labels)`."""
    if kinds != ["single_label_classification"]:
        raise ValueError(
            f"Classes as labels need a configuration with one single-label output, but this one has {kinds}. Pass the "
            f"probabilities of all {num_labels} labels, of shape {(*classes.shape, num_labels)}."
        )
    _check_values(classes, num_labels - 1, f"classes from 0 to {num_labels - 1}")
    probabilities = nn.functional.one_hot(classes.long().clamp(min=0), num_labels).float()
    return probabilities.masked_fill((classes == IGNORED)[..., None], IGNORED)


def _check_values(labels: torch.Tensor, highest: int, need: str) -> None:
    """Raise a `ValueError` for the first label that is neither in the range nor to be ignored."""
    if labels.dtype == torch.bool or torch.compiler.is_compiling():
        return
    highest_rounded = highest + 1e-4 if labels.is_floating_point() else highest
    valid = (labels == IGNORED) | ((labels >= 0) & (labels <= highest_rounded))  # false for nan
    if not valid.all():
        raise ValueError(f"`labels` must be {need}, or {IGNORED} to ignore, got {labels[~valid][0].item():g}.")


def _explain_shape(logits: torch.Tensor, labels: torch.Tensor, kinds: list[str]) -> str:
    """Return an error message about the shape of labels."""
    shapes = f"{tuple(logits.shape)}"
    if kinds == ["single_label_classification"]:
        shapes += f", or {tuple(logits.shape[:-1])} for classes"
    hint = ""
    if labels.shape == logits.shape[:-1]:
        hint = " Classes are integers."
    elif logits.ndim == 3 and labels.ndim in (2, 3) and labels.shape[1] != logits.shape[1]:
        hint = (
            f" They have {labels.shape[1]} label frames, and the audio has {logits.shape[1]}: `label_frames` of the "
            "model returns their number for a length of audio, and `musicfm_hf.collate_examples` pads both."
        )
    return f"`labels` must have shape {shapes}, got {labels.dtype} {tuple(labels.shape)}.{hint}"


__all__ = ["IGNORED", "classification_loss", "frame_weight", "pitch_loss", "token_loss"]
