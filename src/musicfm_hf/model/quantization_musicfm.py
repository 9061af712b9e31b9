"""Quantizers that compute the target tokens of masked pretraining: random projection, k-means, mel residual VQ."""

from collections.abc import Callable
from typing import Self

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast

from .configuration_musicfm import MusicFMConfig
from .spectrogram_musicfm import MusicFMLogMel, chroma, is_exporting, power_spectrum, window_statistics


class MusicFMQuantizer(nn.Module):
    """
    Base class of the three quantizers. It computes features of the clean waveform, one vector for each token. Its
    tensors stay in float32 regardless of the dtype of the model. They are saved with the model as buffers, so that
    code that shards or casts parameters does not change them.
    """

    def __init__(self, config: MusicFMConfig):
        super().__init__()
        self.config = config
        self.mel_frames_per_token = config.samples_per_frame // config.hop_length
        self.log_mel = MusicFMLogMel(config, config.target_mel_mean, config.target_mel_std)

    def features(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Compute the features to quantize: `(batch, samples)` → float32 `(batch, tokens, mel frames per token · bands)`.
        A partial last token is dropped.
        """
        return self._stack(self.log_mel(input_values, attention_mask))

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Quantize waveforms `(batch, samples)` to tokens `(batch, tokens, codebooks)`, int64, at the frame rate."""
        with torch.no_grad(), maybe_autocast(input_values.device.type, enabled=False):
            return self.tokens(self.features(input_values, attention_mask))

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Quantize the output of [`features`] to tokens `(batch, tokens, codebooks)`, int64."""
        raise TypeError("MusicFMQuantizer is only a base class; build a quantizer with `build_quantizer(config)`.")

    def reset_parameters(self) -> None:
        """Fill the tensors with random values that depend only on `config.quantizer_seed`."""
        for name, values in self.initial_values().items():
            init.copy_(getattr(self, name), values)  # skips tensors that were loaded from a checkpoint

    def initial_values(self) -> dict[str, torch.Tensor]:
        """Return initial values by name, on the CPU, drawn from a generator of their own."""
        return {}

    def _stack(self, frames: torch.Tensor) -> torch.Tensor:
        """Concatenate the mel frames `(batch, frames, dim)` of each token into one vector."""
        count = frames.shape[1] // self.mel_frames_per_token
        return frames[:, : count * self.mel_frames_per_token].reshape(frames.shape[0], count, -1)

    def _generator(self) -> torch.Generator:
        """Return a generator seeded by the configuration."""
        return torch.Generator("cpu").manual_seed(self.config.quantizer_seed)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move to the device of the model, but keep float32."""
        before = {name: tensor.data for name, tensor in self.named_buffers(recurse=False)}
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            moved = getattr(self, name)
            if moved.dtype != tensor.dtype:
                moved.data = tensor.to(moved.device)
        return self


class MusicFMRandomProjectionQuantizer(MusicFMQuantizer):
    """
    Random projection quantizer (BEST-RQ, Chiu et al. 2022) as in MusicFM: features → random projection → nearest
    random code by cosine similarity. Each codebook has its own projection and codes.
    """

    projection: torch.Tensor
    codebook: torch.Tensor

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        size = max(config.codebook_sizes)
        width = self.mel_frames_per_token * config.num_mel_bins
        shape = (config.num_codebooks, width, config.codebook_dim)
        self.register_buffer("projection", torch.empty(shape, dtype=torch.float32))
        self.register_buffer(
            "codebook", torch.empty(config.num_codebooks, size, config.codebook_dim, dtype=torch.float32)
        )
        self.reset_parameters()

    def initial_values(self) -> dict[str, torch.Tensor]:
        """Return random values, as described in [`MusicFMQuantizer`]."""
        generator = self._generator()
        std = (2.0 / sum(self.projection.shape[1:])) ** 0.5  # Xavier
        projection = torch.empty(self.projection.shape, device="cpu").normal_(0.0, std, generator=generator)
        codebook = torch.empty(self.codebook.shape, device="cpu").normal_(generator=generator)
        return {"projection": projection, "codebook": codebook}

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Quantize features, as described in [`MusicFMQuantizer`]."""
        tokens = []
        for index, size in enumerate(self.config.codebook_sizes):
            projected = _exact(features) @ _exact(self.projection[index])
            tokens.append(_nearest_by_cosine(projected, self.codebook[index, :size]))
        return torch.stack(tokens, dim=-1)


class MusicFMKMeansQuantizer(MusicFMQuantizer):
    """
    K-means clusters of several kinds of features, with one codebook for each: log-mel and chroma (MERT's first
    targets), and statistics of both in a window around the frame, called texture and harmony. `musicfm
    train-quantizer` fits the clusters; untrained clusters are random.
    """

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        self.wide_mel = MusicFMLogMel(config, 0.0, 1.0, config.kmeans_mel_bins)
        widths = {
            "mel": config.kmeans_mel_bins * self.mel_frames_per_token,
            "chroma": config.kmeans_chroma_bins * self.mel_frames_per_token,
            "texture": 2 * config.kmeans_mel_bins,
            "harmony": config.kmeans_chroma_bins,
        }
        for index, (name, size) in enumerate(zip(config.kmeans_features, config.codebook_sizes, strict=True)):
            width = widths[name]
            self.register_buffer(f"feature_mean_{index}", torch.zeros(width, dtype=torch.float32))
            self.register_buffer(f"feature_std_{index}", torch.ones(width, dtype=torch.float32))
            self.register_buffer(f"centroids_{index}", torch.empty(size, width, dtype=torch.float32))
        self.reset_parameters()

    def initial_values(self) -> dict[str, torch.Tensor]:
        """Return random values, as described in [`MusicFMQuantizer`]."""
        generator = self._generator()
        values = {}
        for index in range(self.config.num_codebooks):
            centroids = getattr(self, f"centroids_{index}")
            values[f"feature_mean_{index}"] = torch.zeros(centroids.shape[1], device="cpu")
            values[f"feature_std_{index}"] = torch.ones(centroids.shape[1], device="cpu")
            values[f"centroids_{index}"] = torch.empty(centroids.shape, device="cpu").normal_(generator=generator)
        return values

    def features(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Concatenate the features of all codebooks: `(batch, samples)` → float32 `(batch, tokens, dim)`."""
        with maybe_autocast(input_values.device.type, enabled=False):
            power = power_spectrum(input_values, attention_mask, self.config)
        names = self.config.kmeans_features
        # Only what a codebook needs is computed; otherwise, the name stands for something that is not used.
        classes = chroma(power, self.config) if {"chroma", "harmony"} & set(names) else power
        mel = self.wide_mel.from_power(power, attention_mask) if {"mel", "texture"} & set(names) else power
        compute = {
            "chroma": lambda: self._stack(classes),
            "harmony": lambda: window_statistics(classes, attention_mask, self.config)[0],
            "mel": lambda: self._stack(mel),
            "texture": lambda: torch.cat(window_statistics(mel, attention_mask, self.config), dim=-1),
        }
        return torch.cat([compute[name]() for name in names], dim=-1)

    def split(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Split the output of [`features`] into the features of each codebook."""
        widths = [getattr(self, f"centroids_{index}").shape[1] for index in range(self.config.num_codebooks)]
        return list(features.split(widths, dim=-1))

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Quantize features, as described in [`MusicFMQuantizer`]."""
        tokens = []
        for index, part in enumerate(self.split(features)):
            mean, std = getattr(self, f"feature_mean_{index}"), getattr(self, f"feature_std_{index}")
            centroids = _exact(getattr(self, f"centroids_{index}"))
            scores = _exact((part - mean) / std) @ centroids.T - 0.5 * centroids.square().sum(-1)
            tokens.append(scores.argmax(-1))
        return torch.stack(tokens, dim=-1)


class MusicFMResidualQuantizer(MusicFMQuantizer):
    """
    Mel residual VQ of MuQ (Zhu et al. 2025, arXiv 2501.01108). At each stage, the residual is projected to a small
    width and replaced with the nearest code by cosine similarity; the code is projected back and subtracted. Both
    projections are weight-normed, with magnitude and direction in separate tensors. `musicfm train-quantizer` trains
    the quantizer.
    """

    codebook: torch.Tensor

    def __init__(self, config: MusicFMConfig):
        super().__init__(config)
        stages, size, dim = config.num_codebooks, max(config.codebook_sizes), config.codebook_dim
        width = self.mel_frames_per_token * config.num_mel_bins
        shapes = {
            "in_direction": (stages, dim, width),
            "in_magnitude": (stages, dim),
            "in_bias": (stages, dim),
            "codebook": (stages, size, dim),
            "out_direction": (stages, width, dim),
            "out_magnitude": (stages, width),
            "out_bias": (stages, width),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.empty(shape, dtype=torch.float32))
        self.reset_parameters()

    def initial_values(self) -> dict[str, torch.Tensor]:
        """Return random values, as described in [`MusicFMQuantizer`]."""
        generator = self._generator()
        values = {name: torch.zeros(tensor.shape, device="cpu") for name, tensor in self.named_buffers()}
        for side in ("in", "out"):
            bound = values[f"{side}_direction"].shape[-1] ** -0.5
            values[f"{side}_direction"].uniform_(-bound, bound, generator=generator)
            values[f"{side}_magnitude"] = values[f"{side}_direction"].norm(dim=-1)
        values["codebook"].normal_(generator=generator)
        return values

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Quantize features, as described in [`MusicFMQuantizer`]."""
        residual, tokens = _exact(features), []
        for stage, size in enumerate(self.config.codebook_sizes):
            weights = {name: _exact(tensor[stage]) for name, tensor in self.named_buffers()}
            stage_tokens = _nearest_by_cosine(_project(residual, weights, "in"), weights["codebook"][:size])
            residual = residual - _project(weights["codebook"][stage_tokens], weights, "out")
            tokens.append(stage_tokens)
        return torch.stack(tokens, dim=-1)

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Decode tokens `(…, codebooks)` to the contributions of all stages, `(codebooks, …, width)`."""
        outputs = []
        for stage, stage_tokens in enumerate(tokens.unbind(-1)):
            weights = {name: tensor[stage] for name, tensor in self.named_buffers()}
            outputs.append(_project(weights["codebook"][stage_tokens], weights, "out"))
        return torch.stack(outputs)

    def losses(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Compute the training losses.

        Args:
            features (`torch.Tensor` of shape `(n, width)`): Output of [`features`], float32.

        Returns:
            `commitment` and `codebook`: mean squared distances between projected residuals and codes, summed over the
            stages, with gradients to the residuals and to the codes; `reconstruction`: the mean absolute error;
            `tokens` `(n, codebooks)`; `projected` `(n, codebooks, codebook_dim)`: the values that were quantized.
        """
        residual, quantized = features, torch.zeros_like(features)
        tokens, projections = [], []
        commitment = codebook = features.new_zeros(())
        for stage, size in enumerate(self.config.codebook_sizes):
            weights = {name: tensor[stage] for name, tensor in self.named_buffers()}
            projected = _project(residual, weights, "in")
            stage_tokens = _nearest_by_cosine(projected.detach(), weights["codebook"][:size].detach())
            codes = weights["codebook"][stage_tokens]
            commitment = commitment + (projected - codes.detach()).square().mean()
            codebook = codebook + (codes - projected.detach()).square().mean()
            output = _project(projected + (codes - projected).detach(), weights, "out")
            residual, quantized = residual - output, quantized + output
            tokens.append(stage_tokens)
            projections.append(projected.detach())
        return {
            "commitment": commitment,
            "codebook": codebook,
            "reconstruction": (quantized - features).abs().mean(),
            "tokens": torch.stack(tokens, dim=-1),
            "projected": torch.stack(projections, dim=1),
        }


def build_quantizer(config: MusicFMConfig) -> MusicFMQuantizer:
    """Build the quantizer that `config.quantizer_type` names."""
    kinds = {
        "random_projection": MusicFMRandomProjectionQuantizer,
        "kmeans": MusicFMKMeansQuantizer,
        "residual_vq": MusicFMResidualQuantizer,
    }
    return kinds[config.quantizer_type](config)


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    """Cast to float64 if the device supports it, so that the nearest code does not depend on rounding."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def _nearest_by_cosine(values: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the index of the nearest code by cosine similarity: `(…, dim)` and `(codes, dim)` → int64 `(…)`."""
    codes = nn.functional.normalize(_exact(codes), dim=-1)
    flat = _exact(values).flatten(0, -2)
    # Pieces limit the memory of the scores. A graph for any length cannot have a number of pieces that may change.
    pieces = [flat] if is_exporting() else flat.split(4096)
    return torch.cat([(piece @ codes.T).argmax(-1) for piece in pieces]).view(values.shape[:-1])


def _project(values: torch.Tensor, weights: dict[str, torch.Tensor], side: str) -> torch.Tensor:
    """Apply the weight-normed linear layer of one side, `"in"` or `"out"`."""
    weight = nn.functional.normalize(weights[f"{side}_direction"], dim=-1) * weights[f"{side}_magnitude"][:, None]
    return nn.functional.linear(values, weight, weights[f"{side}_bias"])


__all__ = [
    "MusicFMKMeansQuantizer",
    "MusicFMQuantizer",
    "MusicFMRandomProjectionQuantizer",
    "MusicFMResidualQuantizer",
    "build_quantizer",
]
