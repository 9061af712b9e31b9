"""Train the quantizers that compute target tokens: k-means clusters, and the residual VQ of the mel spectrogram."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.catalog import describe_source
from ..data.crops import CropLoader, collate_crops, fixed_crops
from ..data.sources import Song
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMQuantizerModel
from ..model.quantization_musicfm import MusicFMKMeansQuantizer, MusicFMResidualQuantizer
from ..training.files import complete_model, write_json
from ..training.records import environment, strip_absolute_paths
from .arguments import QuantizerArguments
from .data import open_music
from .model import values_with_statistics
from .token_statistics import count_tokens, unigram_entropy

COMMITMENT_WEIGHT = 0.25  # from MuQ, as are the other two weights, which are 1

STALE_AFTER = 100  # number of batches without use after which a code is replaced

REPORT_CROPS = 256


def train_quantizer(arguments: QuantizerArguments, recipe: str | None = None) -> dict[str, Any]:
    """
    Train the quantizer of a configuration whose `quantizer_type` is `"kmeans"` or `"residual_vq"`, and write it to a
    folder, with `report.json` beside it.

    Args:
        recipe: Name of the recipe that the settings come from, for the report.

    Returns:
        The contents of `report.json`: `validation`, the output of [`describe_quantizer`] on held-out songs;
        descriptions of the music; settings; and the training history.

    Raises:
        ValueError: A setting is invalid, nothing in a source can be used, or the quantizer of the configuration needs
            no training.
        OSError: A file cannot be read.
    """
    output = Path(arguments.output_dir)
    music = [describe_source(source) for source in arguments.train]
    sources, validation = open_music(arguments)
    config = MusicFMConfig(**values_with_statistics(arguments, sources, output, arguments.seed))
    if config.quantizer_type == "random_projection":
        raise ValueError("The `quantizer_type` random_projection needs no training: run `musicfm pretrain` directly.")
    loader = CropLoader(
        sources,
        arguments.weights,
        crop_seconds=arguments.crop_seconds,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        num_workers=arguments.num_workers,
        **_requirements(config),
    )
    loader.check()
    model = MusicFMQuantizerModel(config)
    model.to(arguments.device)  # type: ignore[arg-type]  # Transformers wraps `to` without its signature
    history = _train(model, loader, arguments)
    with complete_model(output) as temporary:
        model.save_pretrained(temporary)
    report = describe_quantizer(model, _validation_batches(validation, arguments, config)) if validation else {}
    contents = {
        "validation": report,
        "music": music,
        "settings": _recorded_settings(arguments, recipe),
        "history": history[:: max(1, len(history) // 200)],
        **environment(),
    }
    write_json(output / "report.json", contents)
    return contents


def fit_kmeans(model: MusicFMQuantizerModel, batches: Iterable[dict[str, Any]], seed: int = 0) -> None:
    """
    Fit the clusters of a `"kmeans"` quantizer with scikit-learn's mini-batch k-means (Sculley 2010), on features
    standardized in each dimension.

    Args:
        model ([`MusicFMQuantizerModel`]): Model whose centroids are set.
        batches: Batches of `input_values` and, optionally, `attention_mask`. Their features are all held in memory.
        seed (`int`): Seed of the clustering.

    Raises:
        ValueError: The quantizer is of another type, or the batches have fewer vectors than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    quantizer, config = model.quantizer, model.config
    if not isinstance(quantizer, MusicFMKMeansQuantizer):
        raise ValueError(f"`quantizer_type` must be 'kmeans', got {config.quantizer_type!r}.")
    collected = []
    for batch in tqdm(batches, desc="features", unit="batch"):
        with torch.inference_mode():  # not around the loader, whose threads change tensors
            collected.append(quantizer.split(feature_vectors(model, batch)))
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
    Train a `"residual_vq"` quantizer as in MuQ (arXiv 2501.01108), with commitment, codebook and L1 reconstruction
    losses. A code that was not used for 100 batches is moved to a vector of the current batch.

    Args:
        model ([`MusicFMQuantizerModel`]): Model whose quantizer is trained in place.
        batches: Batches of `input_values` and, optionally, `attention_mask`.
        steps (`int`): Number of batches to train on.
        learning_rate (`float`): Learning rate of Adam.
        seed (`int`): Seed of the vectors that replace stale codes.

    Returns:
        For each step, the losses and the number of codes that were replaced.

    Raises:
        ValueError: The quantizer is of another type.
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
            features = feature_vectors(model, batch)
        losses = quantizer.losses(features)
        optimizer.zero_grad()
        (COMMITMENT_WEIGHT * losses["commitment"] + losses["codebook"] + losses["reconstruction"]).backward()
        optimizer.step()
        unused += 1
        unused[count_tokens(losses["tokens"], unused.shape[1]) > 0] = 0
        replaced = replace_stale_codes(quantizer, unused, losses["projected"], generator)
        names = ("commitment", "codebook", "reconstruction")
        history.append({name: losses[name].item() for name in names} | {"replaced": replaced})
        bar.set_postfix(l1=f"{history[-1]['reconstruction']:.3f}", refresh=False)
    for tensor in tensors:
        tensor.requires_grad_(False).grad = None
    return history


def describe_quantizer(model: MusicFMQuantizerModel, batches: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """
    Measure how well the codes represent features, and how evenly they are used, on held-out audio.

    Returns:
        For each codebook, `perplexity`, `codes_used` (a share) and `top_token_share`; `vectors`, the number of
        vectors; and for k-means and residual VQ, `unexplained_variance`: the mean squared error divided by the
        variance of the features, for each codebook of k-means and after each stage of residual VQ.
    """
    config, quantizer = model.config, model.quantizer
    with torch.inference_mode():
        features = torch.cat([feature_vectors(model, batch) for batch in batches])
        tokens = quantizer.tokens(features[None])[0]
    counts = count_tokens(tokens, max(config.codebook_sizes))
    used = (counts > 0).sum(-1).tolist()
    result: dict[str, Any] = {
        "vectors": len(tokens),
        "perplexity": unigram_entropy(counts).exp().tolist(),
        "codes_used": [count / size for count, size in zip(used, config.codebook_sizes, strict=True)],
        "top_token_share": (counts.amax(-1) / counts.sum(-1)).tolist(),
    }
    with torch.inference_mode():
        if isinstance(quantizer, MusicFMKMeansQuantizer):
            result["unexplained_variance"] = _unexplained_by_kmeans(quantizer, features, tokens)
        elif isinstance(quantizer, MusicFMResidualQuantizer):
            estimates = quantizer.decode(tokens).cumsum(0)  # (stages, n, dim)
            result["unexplained_variance"] = [_unexplained(features, estimate) for estimate in estimates]
    return result


def _train(model: MusicFMQuantizerModel, loader: CropLoader, arguments: QuantizerArguments) -> list[dict[str, float]]:
    """Train a quantizer of either type, and return the history of a residual VQ."""
    if model.config.quantizer_type != "kmeans":
        return train_residual_vq(model, loader, arguments.steps, arguments.learning_rate, arguments.seed)
    batches = round(arguments.hours * 3600 / (arguments.crop_seconds * arguments.batch_size))
    fit_kmeans(model, islice(loader, max(1, batches)), arguments.seed)
    return []


def _requirements(config: MusicFMConfig) -> dict[str, Any]:
    """Return the requirements that crops must meet for the quantizer."""
    return {"sampling_rate": config.sampling_rate, "min_samples": config.n_fft // 2 + 1}


def _validation_batches(
    songs: list[Song], arguments: QuantizerArguments, config: MusicFMConfig
) -> Iterator[dict[str, Any]]:
    """Yield the crops to report on, one by one."""
    crops = fixed_crops(songs, arguments.crop_seconds, REPORT_CROPS, arguments.seed, **_requirements(config))
    for index in range(len(crops)):
        yield collate_crops([crops[index]])


def _recorded_settings(arguments: QuantizerArguments, recipe: str | None) -> dict[str, str]:
    """Return the settings as text, under the names that `report.json` has used since version 0.1."""
    settings = asdict(arguments)
    for name in ("config", "statistics"):  # those of the recipe
        del settings[name]
    settings = {"recipe": recipe, "output": settings.pop("output_dir"), **settings}
    return {name: str(value) for name, value in strip_absolute_paths(settings).items()}


def replace_stale_codes(
    quantizer: MusicFMResidualQuantizer, unused: torch.Tensor, projected: torch.Tensor, generator: torch.Generator
) -> int:
    """
    Move stale codes to random vectors of a batch.

    Args:
        quantizer: Quantizer whose codebook is changed.
        unused (`torch.Tensor` of shape `(codebooks, codes)`): Number of batches since the last use; set to 0 for moved
            codes.
        projected (`torch.Tensor` of shape `(n, codebooks, dim)`): Vectors of the batch.

    Returns:
        The number of codes that were moved.
    """
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


def _unexplained_by_kmeans(
    quantizer: MusicFMKMeansQuantizer, features: torch.Tensor, tokens: torch.Tensor
) -> list[float]:
    """Return the share of the variance that the centroids of each codebook do not explain."""
    shares = []
    for index, part in enumerate(quantizer.split(features)):
        mean, std = getattr(quantizer, f"feature_mean_{index}"), getattr(quantizer, f"feature_std_{index}")
        centers = getattr(quantizer, f"centroids_{index}")[tokens[:, index]]
        shares.append(_unexplained((part - mean) / std, centers))
    return shares


def _unexplained(values: torch.Tensor, estimates: torch.Tensor) -> float:
    """Return the share of the variance of values that the estimates do not explain."""
    error = (values - estimates).square().mean()
    return (error / (values - values.mean(0)).square().mean()).item()


def feature_vectors(model: MusicFMQuantizerModel, batch: dict[str, Any]) -> torch.Tensor:
    """Compute the feature vectors `(n, dim)` of a batch, without padding and without the noise of unusable songs."""
    mask = batch.get("attention_mask")
    waveform = batch["input_values"].to(model.device)
    features = model.quantizer.features(waveform, None if mask is None else mask.to(model.device))
    if mask is None:
        return features.flatten(0, 1)
    samples = mask.sum(-1)
    counts = (samples // model.config.samples_per_frame) * (samples > model.config.min_samples)
    return torch.cat([item[:count] for item, count in zip(features, counts.tolist(), strict=True)])
