"""Heads: from hidden states to logits, or to one embedding for each clip."""

import torch
from torch import nn
from transformers.modeling_outputs import XVectorOutput

from .configuration_musicfm import MusicFMConfig
from .contrastive_musicfm import contrastive_loss
from .frames_musicfm import average_frames, count_averages, label_settings
from .losses_musicfm import classification_loss
from .outputs_musicfm import MusicFMClassifierOutput
from .padding_musicfm import valid_frames, zero_padding


class MusicFMHead(nn.Module):
    """
    First part of a head: a layer norm and a linear layer of size `config.classifier_proj_size`. The head in the paper
    has no norm; this one does, because the scales of the layers differ by orders of magnitude. With
    `config.use_weighted_layer_sum`, the head first computes a learned weighted sum of all hidden states.

    A head can be trained alone on stored hidden states.

    Args:
        config ([`MusicFMConfig`]): Outputs, rates, sizes.
        input_size (`int`, *optional*): Width of the input; `config.hidden_size` by default.
    """

    def __init__(self, config: MusicFMConfig, input_size: int | None = None):
        super().__init__()
        self.config = config
        input_size = input_size or config.hidden_size
        if config.use_weighted_layer_sum:
            self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.layer_norm = nn.LayerNorm(input_size, eps=config.layer_norm_eps)
        self.projector = nn.Linear(input_size, config.classifier_proj_size)
        self.dropout = nn.Dropout(config.classifier_dropout)

    def mix(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute the weighted sum of layers: `(batch, frames, layers + 1, width)` → `(batch, frames, width)`."""
        if hidden_states.ndim == 3:
            return hidden_states
        return torch.einsum("btlh,l->bth", hidden_states, self.layer_mix().to(hidden_states.dtype))

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


class MusicFMXVectorHead(MusicFMHead):
    """
    Embedding head: frames averaged to `config.label_rate` (if set), a layer norm and one hidden layer for each frame,
    convolutions over time, the mean and the standard deviation of their outputs over time, and a linear layer. Snyder
    et al., *X-vectors: Robust DNN Embeddings for Speaker Recognition*, ICASSP 2018.

    The convolutions are padded with zeros, and set padding to zero before every one, so that an item in a padded batch
    gets the embedding that it gets alone. They see successions of notes and chords, which make up a song in any key.
    """

    def __init__(self, config: MusicFMConfig, input_size: int | None = None):
        super().__init__(config, input_size)
        widths = [config.classifier_proj_size, *config.tdnn_dim]
        self.tdnn = nn.ModuleList(
            nn.Conv1d(width, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)
            for width, channels, kernel, dilation in zip(
                widths, config.tdnn_dim, config.tdnn_kernel, config.tdnn_dilation, strict=False
            )
        )
        self.output = nn.Linear(2 * widths[-1], config.xvector_output_dim)

    def forward(
        self, hidden_states: torch.Tensor, counts: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> XVectorOutput:
        """
        Args:
            hidden_states, counts: As in [`MusicFMClassifier`].
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): As in [`MusicFMForXVector`].

        Returns:
            [`~transformers.modeling_outputs.XVectorOutput`] without hidden states.
        """
        frames = self.mix(hidden_states)
        if self.config.label_rate is not None:
            frames = self.pool(frames, counts)
            counts = None if counts is None else count_averages(counts, *label_settings(self.config))
        mask = None if counts is None else valid_frames(0, frames.shape[1], counts)[:, None]  # (batch, 1, frames)
        hidden = nn.functional.relu(self.projector(self.normalize(frames))).transpose(1, 2)
        for convolution in self.tdnn:
            hidden = nn.functional.relu(convolution(zero_padding(hidden, mask)))
        logits = self.output(self.dropout(_statistics(hidden, mask)))
        loss = None if labels is None else contrastive_loss(self.config, logits, labels)
        return XVectorOutput(loss=loss, logits=logits, embeddings=nn.functional.normalize(logits.float(), dim=-1))


def _statistics(frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return mean and deviation over time, without padding: `(batch, width, frames)` → `(batch, 2 * width)`."""
    values = frames.float()
    count = frames.shape[-1] if mask is None else mask.sum(-1).clamp(min=1)  # (batch, 1)
    mean = zero_padding(values, mask).sum(-1) / count
    variance = zero_padding((values - mean[..., None]).square(), mask).sum(-1) / count
    deviation = (variance + 1e-5).sqrt()  # the root has no gradient at 0
    return torch.cat([mean, deviation], dim=-1).to(frames.dtype)


__all__ = ["MusicFMClassifier", "MusicFMHead", "MusicFMXVectorHead"]
