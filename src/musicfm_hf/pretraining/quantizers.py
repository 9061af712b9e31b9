"""Fitting what target tokens come from: k-means clusters, and the mel residual VQ."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..model.modeling_musicfm import MusicFMQuantizerModel
from ..model.quantization_musicfm import MusicFMKMeansQuantizer, MusicFMResidualQuantizer
from .token_statistics import count_tokens, unigram_entropy

COMMITMENT_WEIGHT = 0.25  # of MuQ, as are the other two weights of 1

STALE_AFTER = 100  # batches without a use, after which a code is replaced


def fit_kmeans(model: MusicFMQuantizerModel, batches: Iterable[dict[str, Any]], seed: int = 0) -> None:
    """
    Fit the clusters of a `"kmeans"` quantizer with scikit-learn's mini-batch k-means (Sculley 2010), on features that
    are standardised dimension by dimension.

    Args:
        model ([`MusicFMQuantizerModel`]): Its centroids are set.
        batches: `input_values` and, perhaps, `attention_mask`. All their features are held in memory.
        seed (`int`): Of the clustering.

    Raises:
        ValueError: if the quantizer is of another type, or there are fewer vectors than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    quantizer, config = model.quantizer, model.config
    if not isinstance(quantizer, MusicFMKMeansQuantizer):
        raise ValueError(f"`quantizer_type` must be 'kmeans', got {config.quantizer_type!r}.")
    collected = []
    with torch.inference_mode():
        for batch in tqdm(batches, desc="features", unit="batch"):
            collected.append(quantizer.split(_features(model, batch)))
    for index, (name, size) in enumerate(zip(config.kmeans_features, config.codebook_sizes, strict=True)):
        vectors = torch.cat([parts[index] for parts in collected]).cpu().numpy()
        if len(vectors) < size:
            raise ValueError(f"{len(vectors)} vectors of {name} are too few for {size} clusters: use more audio.")
        mean, std = vectors.mean(0, dtype=np.float64), vectors.std(0, dtype=np.float64)
        std = np.maximum(std, 1e-3)
        kmeans = MiniBatchKMeans(size, batch_size=max(4096, 2 * size), n_init=3, random_state=seed)
        kmeans.fit(((vectors - mean) / std).astype(np.float32))
        fitted = {"feature_mean": mean, "feature_std": std, "centroids": kmeans.cluster_centers_}
        for field, values in fitted.items():
            getattr(quantizer, f"{field}_{index}").copy_(torch.as_tensor(values))


def train_residual_vq(
    model: MusicFMQuantizerModel,
    batches: Iterable[dict[str, Any]],
    steps: int,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> list[dict[str, float]]:
    """
    Train a `"residual_vq"` quantizer as MuQ's (arXiv 2501.01108): commitment, codebook and L1 reconstruction losses;
    codes that were not used for 100 batches are put where something is.

    Args:
        model ([`MusicFMQuantizerModel`]): Its quantizer is trained in place.
        batches: `input_values` and, perhaps, `attention_mask`.
        steps (`int`): Batches to train on.
        learning_rate (`float`): Of Adam.
        seed (`int`): Of what replaces stale codes.

    Returns:
        The losses of every step, and how many codes were replaced.

    Raises:
        ValueError: if the quantizer is of another type.
    """
    quantizer = model.quantizer
    if not isinstance(quantizer, MusicFMResidualQuantizer):
        raise ValueError(f"`quantizer_type` must be 'residual_vq', got {model.config.quantizer_type!r}.")
    generator = torch.Generator().manual_seed(seed)
    tensors = list(quantizer.buffers())
    for tensor in tensors:
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(tensors, learning_rate)
    unused = torch.zeros(quantizer.codebook.shape[:2], dtype=torch.int64, device=quantizer.codebook.device)
    history = []
    bar = tqdm(zip(range(steps), batches, strict=False), total=steps, desc="quantizer", unit="step")
    for _, batch in bar:
        with torch.no_grad():
            features = _features(model, batch)
        losses = quantizer.losses(features)
        loss = COMMITMENT_WEIGHT * losses["commitment"] + losses["codebook"] + losses["reconstruction"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        unused += 1
        unused[count_tokens(losses["tokens"], unused.shape[1]) > 0] = 0
        replaced = _replace_stale(quantizer, unused, losses["projected"], generator)
        names = ("commitment", "codebook", "reconstruction")
        history.append({name: losses[name].item() for name in names} | {"replaced": replaced})
        bar.set_postfix(l1=f"{history[-1]['reconstruction']:.3f}", refresh=False)
    for tensor in tensors:
        tensor.requires_grad_(False).grad = None
    return history


def _replace_stale(
    quantizer: MusicFMResidualQuantizer, unused: torch.Tensor, projected: torch.Tensor, generator: torch.Generator
) -> int:
    """Codes `(codebooks, codes)` not used for long become vectors `(n, codebooks, dim)` of this batch."""
    count = 0
    for stage, size in enumerate(quantizer.config.codebook_sizes):
        stale = (unused[stage, :size] >= STALE_AFTER).nonzero()[:, 0]
        if len(stale):
            chosen = torch.randint(len(projected), (len(stale),), generator=generator).to(projected.device)
            with torch.no_grad():
                quantizer.codebook[stage, stale] = projected[chosen, stage]
            unused[stage, stale] = 0
            count += len(stale)
    return count


def describe_quantizer(model: MusicFMQuantizerModel, batches: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """
    How well the codes stand for the features, and how they are used, on audio that was not trained on.

    Returns:
        For each codebook `perplexity`, `codes_used` (a share) and `top_token_share`; `vectors`; and for k-means and
        residual VQ `unexplained_variance`: the mean squared error over the variance of the features, of k-means for
        each codebook, of residual VQ after each stage.
    """
    config, quantizer = model.config, model.quantizer
    with torch.inference_mode():
        features = torch.cat([_features(model, batch) for batch in batches])
        tokens = quantizer.tokens(features[None])[0]
    counts = count_tokens(tokens, max(config.codebook_sizes))
    total = counts.sum(-1)
    result: dict[str, Any] = {
        "vectors": len(tokens),
        "perplexity": unigram_entropy(counts).exp().tolist(),
        "codes_used": [(own > 0).sum().item() / size for own, size in zip(counts, config.codebook_sizes, strict=True)],
        "top_token_share": (counts.amax(-1) / total).tolist(),
    }
    with torch.inference_mode():
        if isinstance(quantizer, MusicFMKMeansQuantizer):
            shares = []
            for index, part in enumerate(quantizer.split(features)):
                mean, std = getattr(quantizer, f"feature_mean_{index}"), getattr(quantizer, f"feature_std_{index}")
                centers = getattr(quantizer, f"centroids_{index}")[tokens[:, index]]
                shares.append(_unexplained((part - mean) / std, centers))
            result["unexplained_variance"] = shares
        elif isinstance(quantizer, MusicFMResidualQuantizer):
            stages = quantizer.decode(tokens)
            result["unexplained_variance"] = [_unexplained(features, part) for part in stages.cumsum(0)]
    return result


def _unexplained(values: torch.Tensor, estimates: torch.Tensor) -> float:
    error = (values - estimates).square().mean()
    return (error / (values - values.mean(0)).square().mean()).item()


def _features(model: MusicFMQuantizerModel, batch: dict[str, Any]) -> torch.Tensor:
    """The feature vectors `(n, dim)` of a batch, without those of padding."""
    mask = batch.get("attention_mask")
    waveform = batch["input_values"].to(model.device)
    features = model.quantizer.features(waveform, None if mask is None else mask.to(model.device))
    if mask is None:
        return features.flatten(0, 1)
    counts = mask.sum(-1) // model.config.samples_per_frame
    return torch.cat([own[:count] for own, count in zip(features, counts.tolist(), strict=True)])
