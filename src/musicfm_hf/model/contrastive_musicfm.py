"""Losses that move the embeddings of clips of the same music together, and those of other music apart."""

import torch
from torch import nn

from .configuration_musicfm import MusicFMConfig


def contrastive_loss(config: MusicFMConfig, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Compute the loss that `config.contrastive_loss` names, over the pairs of clips of one batch; `info_nce` if it names
    none.

    Args:
        embeddings (`torch.Tensor` of shape `(batch, size)`): Embeddings before their normalization.
        labels (`torch.Tensor` of shape `(batch,)`): Integers; clips with the same number are positives of each other.

    Raises:
        ValueError: if labels have another shape or are not integers, or no two clips have the same number. Values are
            checked only outside of compilation.
    """
    if labels.shape != embeddings.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"`labels` must be integers of shape {tuple(embeddings.shape[:1])}, one for each clip, got {labels.dtype} "
            f"of shape {tuple(labels.shape)}."
        )
    positives = labels[:, None] == labels
    positives.fill_diagonal_(False)
    if not torch.compiler.is_compiling() and not positives.any():
        raise ValueError(
            f"No two of the {len(labels)} clips of the batch have the same label: a contrastive loss needs pairs."
        )
    embeddings = embeddings.float()
    if config.contrastive_loss == "vicreg":
        weights = (config.vicreg_invariance_weight, config.vicreg_variance_weight, config.vicreg_covariance_weight)
        return vicreg(embeddings, positives, *weights)
    return info_nce(embeddings, positives, config.contrastive_temperature)


def info_nce(embeddings: torch.Tensor, positives: torch.Tensor, temperature: float) -> torch.Tensor:
    """
    Compute the cross-entropy of finding the positives of each clip among all other clips of the batch, by cosine
    similarity (van den Oord et al., arXiv 1807.03748; for pairs, the loss of SimCLR, arXiv 2002.05709; with several
    positives, their mean, as in arXiv 2004.11362). Clips without positives are only negatives of others.

    Args:
        embeddings (`torch.Tensor` of shape `(batch, size)`): float32.
        positives (`torch.Tensor` of shape `(batch, batch)`): True for pairs of the same music, except on the diagonal.
        temperature (`float`): Number by which similarities are divided.
    """
    normalized = nn.functional.normalize(embeddings, dim=-1)
    itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    scores = (normalized @ normalized.T / temperature).masked_fill(itself, -torch.inf)
    surprise = -scores.log_softmax(-1)
    counts = positives.sum(-1)
    losses = surprise.masked_fill(~positives, 0.0).sum(-1) / counts.clamp(min=1)
    return losses.sum() / (counts > 0).sum()


def vicreg(
    embeddings: torch.Tensor, positives: torch.Tensor, invariance: float, variance: float, covariance: float
) -> torch.Tensor:
    """
    Compute VICReg's weighted sum of three terms (Bardes, Ponce, LeCun, arXiv 2105.04906): the mean squared distance of
    positives, in each dimension; how far the standard deviation of each dimension falls short of 1; and the squared
    covariances between dimensions. The last two are computed over all clips of the batch; the paper computes them for
    each of its two views.

    Args:
        embeddings (`torch.Tensor` of shape `(batch, size)`): float32, not normalized.
        positives (`torch.Tensor` of shape `(batch, batch)`): True for pairs of the same music, except on the diagonal.
        invariance, variance, covariance (`float`): Weights of the terms.
    """
    count, size = embeddings.shape
    first, second = positives.nonzero().T
    distance = (embeddings[first] - embeddings[second]).square().mean()
    deviations = (embeddings.var(0) + 1e-4).sqrt()
    shortfall = nn.functional.relu(1 - deviations).mean()
    centered = embeddings - embeddings.mean(0)
    covariances = centered.T @ centered / (count - 1)
    correlation = covariances.square().sum() - covariances.diagonal().square().sum()
    return invariance * distance + variance * shortfall + covariance * correlation / size


__all__ = ["contrastive_loss", "info_nce", "vicreg"]
