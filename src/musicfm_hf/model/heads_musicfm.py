"""Heads: from hidden states to logits, or to one embedding for each clip."""

import torch
from torch import nn
from transformers.modeling_outputs import XVectorOutput

from .configuration_musicfm import MusicFMConfig
from .contrastive_musicfm import contrastive_loss
from .frames_musicfm import average_frames, average_intervals, label_settings
from .losses_musicfm import classification_loss, pitch_loss
from .outputs_musicfm import MusicFMClassifierOutput
from .padding_musicfm import valid_frames
from .spectrogram_musicfm import fourier_matrices, is_exporting

PITCH_CLASSES = 12


class MusicFMHead(nn.Module):
    """
    First part of a head: a layer norm and a linear layer of size `config.classifier_proj_size`. The head in the paper
    has no norm; this one does, because the scales of the layers differ by orders of magnitude. With
    `config.use_weighted_layer_sum`, the head first computes a learned weighted sum of all hidden states.

    A head can be trained alone on stored hidden states.

    Args:
        config ([`MusicFMConfig`]): Outputs, rates, sizes.
        input_size (`int`, *optional*): Width of the input; `config.hidden_size` by default.
        hidden_size (`int`, *optional*): Width of the output; `config.classifier_proj_size` by default.
    """

    def __init__(self, config: MusicFMConfig, input_size: int | None = None, hidden_size: int | None = None):
        super().__init__()
        self.config = config
        input_size = input_size or config.hidden_size
        if config.use_weighted_layer_sum:
            self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.layer_norm = nn.LayerNorm(input_size, eps=config.layer_norm_eps)
        self.projector = nn.Linear(input_size, hidden_size or config.classifier_proj_size)
        self.dropout = nn.Dropout(config.classifier_dropout)

    def mix(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute the weighted sum of layers: `(batch, frames, layers + 1, width)` → `(batch, frames, width)`."""
        if hidden_states.ndim == 3:
            return hidden_states
        return self.layer_mix().to(hidden_states.dtype) @ hidden_states

    def layer_mix(self) -> torch.Tensor:
        """Return the weights `(layers + 1,)` of the hidden states in the learned sum, float32."""
        return self.layer_weights.float().softmax(0)

    def pool(self, hidden_states: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """Average over time: `(batch, frames, width)` → `(batch, label frames, width)` or `(batch, width)`."""
        if self.config.label_rate is not None:
            return average_frames(hidden_states, *label_settings(self.config), counts)
        if counts is None:
            return hidden_states.mean(1)
        mask = valid_frames(0, hidden_states.shape[1], counts)[..., None]
        total = hidden_states.masked_fill(~mask, 0.0).sum(1, dtype=torch.float32)
        return (total / counts[:, None]).to(hidden_states.dtype)

    def normalize(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the input of the linear layer: `(…, width)`, in the dtype of the weights."""
        return self.layer_norm(pooled.to(self.projector.weight.dtype))


class MusicFMClassifier(MusicFMHead):
    """Classification head: an average over time, a layer norm, one hidden layer, and one logit for each label."""

    def __init__(self, config: MusicFMConfig, input_size: int | None = None):
        super().__init__(config, input_size)
        self.output = nn.Linear(
            config.classifier_proj_size, sum(output["size"] for output in config.classifier_slices)
        )

    def forward(
        self, hidden_states: torch.Tensor, counts: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> MusicFMClassifierOutput:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch, frames, width)`): Hidden states at the frame rate of the
                encoder. For a learned weighted sum, `(batch, frames, layers + 1, width)`, or the sum itself.
            counts (`torch.Tensor` of shape `(batch,)`, *optional*): Number of frames in each item that are not
                padding.
            labels (*optional*): As in [`MusicFMForAudioFrameClassification`] and [`MusicFMForAudioClassification`].

        Returns:
            [`MusicFMClassifierOutput`] for each label frame if `config.label_rate` is set, else for each item.
        """
        logits = self.score(self.pool(self.mix(hidden_states), counts))
        loss = None if labels is None else classification_loss(self.config, logits, labels)
        return MusicFMClassifierOutput(loss=loss, logits=logits)

    def score(self, pooled: torch.Tensor) -> torch.Tensor:
        """Compute the logits: `(…, width)` → `(…, num_labels)`."""
        hidden = nn.functional.relu(self.projector(self.normalize(pooled)))
        return self.output(self.dropout(hidden))


class MusicFMEmbeddingHead(MusicFMHead):
    """
    Embedding head whose output does not depend on the key, to the extent that its first part finds pitch classes: a
    layer norm and a linear layer, which map each frame to `config.pitch_maps` maps of the twelve pitch classes. The
    second part is a [`MusicFMPitchEmbedding`].
    """

    def __init__(self, config: MusicFMConfig, input_size: int | None = None):
        super().__init__(config, input_size, PITCH_CLASSES * config.pitch_maps)
        self.embedding = MusicFMPitchEmbedding(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        counts: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pitch_labels: torch.Tensor | None = None,
    ) -> XVectorOutput:
        """
        Args:
            hidden_states, counts: As in [`MusicFMClassifier`].
            labels, pitch_labels (*optional*): As in [`MusicFMForXVector`].

        Returns:
            `XVectorOutput` of Transformers without hidden states.
        """
        maps = self.pitch_maps(hidden_states)
        if pitch_labels is None:
            return self.embedding(maps, counts, labels)
        result = self.embedding(maps.detach(), counts, labels)
        loss = pitch_loss(self.config, maps, pitch_labels)
        result.loss = loss if result.loss is None else result.loss + loss
        return result

    def pitch_maps(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute the maps of each frame: `(batch, frames, …)` as in [`forward`] → `(batch, frames, maps * 12)`."""
        return self.projector(self.normalize(self.mix(hidden_states)))


class MusicFMPitchEmbedding(nn.Module):
    """
    Second part of an embedding head, from maps of pitch classes to one vector: their averages over
    `config.pitch_frames` intervals of the clip, a convolution that is circular over the pitch classes, the magnitudes
    of the two-dimensional Fourier transform of all maps, and a linear layer.

    A rotation of the pitch classes or a shift in time changes only the phases of the transform. Bertin-Mahieux and
    Ellis, *Large-scale cover song recognition using the 2D Fourier transform magnitude*, ISMIR 2012, apply it to
    chroma.
    """

    def __init__(self, config: MusicFMConfig):
        super().__init__()
        self.config = config
        maps, kernel = config.pitch_maps, config.pitch_kernel
        self.convolution = nn.Conv2d(maps, config.pitch_channels, (PITCH_CLASSES, kernel), padding=(0, kernel // 2))
        self.dropout = nn.Dropout(config.classifier_dropout)
        magnitudes = PITCH_CLASSES * (config.pitch_frames // 2 + 1)
        self.output = nn.Linear((maps + config.pitch_channels) * magnitudes, config.xvector_output_dim, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, counts: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> XVectorOutput:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch, frames, maps * 12)`): Maps of each frame.
            counts, labels: As in [`MusicFMEmbeddingHead`].

        Returns:
            `XVectorOutput` of Transformers without hidden states.
        """
        averages = average_intervals(hidden_states, self.config.pitch_frames, counts)
        maps = averages.transpose(1, 2).unflatten(1, (-1, PITCH_CLASSES))  # (batch, maps, 12, pitch_frames)
        wrapped = torch.cat([maps, maps[:, :, : PITCH_CLASSES - 1]], dim=2)
        maps = torch.cat([maps, nn.functional.relu(self.convolution(wrapped))], dim=1)
        logits = self.output(self.dropout(_magnitudes(maps).flatten(1).to(self.output.weight.dtype)))
        loss = None if labels is None else contrastive_loss(self.config, logits, labels)
        return XVectorOutput(loss=loss, logits=logits, embeddings=nn.functional.normalize(logits.float(), dim=-1))


def _magnitudes(maps: torch.Tensor) -> torch.Tensor:
    """
    Return the magnitudes of the two-dimensional Fourier transform of maps `(…, pitch classes, frames)` without their
    means, float32 `(…, pitch classes, frames // 2 + 1)`. Each map is scaled to the same loudness.
    """
    maps = maps.float()
    # 1e-6: The root has no gradient at 0.
    magnitudes = (_power(maps - maps.mean((-2, -1), keepdim=True)) + 1e-6).sqrt()
    return magnitudes / magnitudes.square().mean((-2, -1), keepdim=True).sqrt()


def _power(maps: torch.Tensor) -> torch.Tensor:
    """Return the squared magnitudes of the two-dimensional Fourier transform, for frequencies in time from 0 on."""
    if not is_exporting():
        spectrum = torch.fft.rfft2(maps)
        return spectrum.real.square() + spectrum.imag.square()
    # Few runtimes of exported models have Fourier transforms.
    classes, frames = maps.shape[-2:]
    class_cosines, class_sines = fourier_matrices(classes, classes, maps.device)
    cosines, sines = fourier_matrices(frames, frames // 2 + 1, maps.device)
    real, imaginary = maps @ cosines, maps @ sines
    power = (class_cosines @ real - class_sines @ imaginary).square()
    return power + (class_cosines @ imaginary + class_sines @ real).square()


__all__ = ["MusicFMClassifier", "MusicFMEmbeddingHead", "MusicFMHead", "MusicFMPitchEmbedding"]
