"""Baselines for masked prediction: token frequencies, and copying the nearest frame."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch


def count_tokens(tokens: torch.Tensor, codes: int) -> torch.Tensor:
    """
    Count the occurrences of each code.

    Args:
        tokens (`torch.Tensor` of shape `(…, codebooks)`): Codes; negative ones are not counted.
        codes (`int`): Number of codes in the largest codebook.

    Returns:
        int64 `(codebooks, codes)`.
    """
    columns = tokens.flatten(0, -2).unbind(-1)
    return torch.stack([torch.bincount(column[column >= 0], minlength=codes) for column in columns])


def unigram_entropy(counts: torch.Tensor) -> torch.Tensor:
    """
    Compute the entropy in nats of the token frequencies of each codebook: `(codebooks, codes)` → `(codebooks,)`. Its
    exponential is the perplexity, the number of equally frequent codes with the same entropy.
    """
    share = counts.double() / counts.sum(-1, keepdim=True).clamp(min=1)
    return -torch.xlogy(share, share).sum(-1)


def unigram_cross_entropy(counts: torch.Tensor, tokens: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """
    Compute the mean negative log-likelihood in nats of `tokens` `(n, codebooks)` under the frequencies `counts`
    `(codebooks, codes)`. One is added to each count, so that unseen codes have a nonzero likelihood. `sizes` are the
    numbers of codes in each codebook.
    """
    losses = []
    for column, frequencies, size in zip(tokens.unbind(-1), counts, sizes, strict=True):
        log_share = torch.log((frequencies[:size] + 1).double() / (frequencies[:size].sum() + size))
        losses.append(-log_share[column])
    return torch.stack(losses).mean()


def copy_nearest(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Predict every masked token by copying the nearest frame that is not masked, and the earlier one in a tie.

    Args:
        tokens (`torch.Tensor` of shape `(batch, frames, codebooks)`): True tokens; negative in frames without one.
        mask (`torch.Tensor` of shape `(batch, frames)`): Masked frames.

    Returns:
        Predictions in the shape of `tokens`; -1 if an item has no frame to copy from.
    """
    frames = torch.arange(tokens.shape[1], device=tokens.device)
    known = ~mask & (tokens >= 0).all(-1)
    far = 4 * tokens.shape[1]
    before = torch.where(known, frames, -far).cummax(1).values
    after = torch.where(known, frames, far).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(frames - before <= after - frames, before, after)
    copied = tokens.gather(1, nearest.clamp(0, tokens.shape[1] - 1)[..., None].expand_as(tokens))
    return copied.masked_fill(~known.any(1)[:, None, None], -1)


class TokenStatistics:
    """
    Sums of scores over masked tokens, and counts of all tokens since the start of training, on one process.

    Args:
        sizes: Number of codes in each codebook.
        device: Device that stores the counts.
    """

    NAMES = ("loss", "correct", "copied", "most_frequent", "unigram", "masked")

    def __init__(self, sizes: list[int], device: torch.device):
        self.sizes = sizes
        self.counts = torch.zeros(len(sizes), max(sizes), dtype=torch.int64, device=device)
        self.sums: dict[str, Any] = dict.fromkeys(self.NAMES, 0.0)  # floats or tensors

    def add(self, outputs: Mapping[str, Any], counts: torch.Tensor | None = None) -> None:
        """
        Add the outputs of a forward pass. `counts` are the frequencies to compare with, by default those seen so far.
        """
        tokens, mask = outputs["tokens"], outputs["mask_time_indices"]
        targets = tokens[mask]
        if counts is None:
            self.counts += count_tokens(tokens, self.counts.shape[1])
        if len(targets) == 0:
            return
        frequencies = self.counts if counts is None else counts
        logits = outputs["logits"].detach().float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        sums = {
            "loss": loss * len(targets),
            "correct": (logits.argmax(-1) == targets).double().mean(-1).sum(),
            "copied": (copy_nearest(tokens, mask)[mask] == targets).double().mean(-1).sum(),
            "most_frequent": (frequencies.argmax(-1) == targets).double().mean(-1).sum(),
            "unigram": unigram_cross_entropy(frequencies, targets, self.sizes) * len(targets),
            "masked": len(targets),
        }
        for name, value in sums.items():
            self.sums[name] = self.sums[name] + value

    def take(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the averages over all processes since the last call. `reduce` sums a tensor over processes."""
        values = torch.tensor([float(self.sums[name]) for name in self.NAMES], dtype=torch.float64)
        sums = dict(zip(self.NAMES, reduce(values.to(self.counts.device)).tolist(), strict=True))
        self.sums = dict.fromkeys(self.NAMES, 0.0)
        masked = max(sums["masked"], 1.0)
        return {
            "cross_entropy": sums["loss"] / masked,
            "unigram_cross_entropy": sums["unigram"] / masked,
            "accuracy": sums["correct"] / masked,
            "accuracy_most_frequent": sums["most_frequent"] / masked,
            "accuracy_copy": sums["copied"] / masked,
        }

    def describe_codes(self, counts: torch.Tensor) -> dict[str, float]:
        """Return statistics of code use for each codebook, from `counts` `(codebooks, codes)` over all processes."""
        values = {}
        for index, (frequencies, size) in enumerate(zip(counts, self.sizes, strict=True)):
            suffix = f"_{index}" if len(counts) > 1 else ""
            entropy = unigram_entropy(frequencies[None, :size])[0].item()
            values[f"unigram_entropy{suffix}"] = entropy
            values[f"perplexity{suffix}"] = math.exp(entropy)
            values[f"codes_used{suffix}"] = (frequencies > 0).sum().item() / size
            values[f"top_token_share{suffix}"] = (frequencies.max() / frequencies.sum().clamp(min=1)).item()
        return values
