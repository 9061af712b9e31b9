"""Graphs for export: an encoder, an encoder with heads, or a quantizer, from waveforms to outputs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from ..inference.exported import ExportedHead
from ..model.configuration_musicfm import MusicFMConfig
from ..model.heads_musicfm import MusicFMHead
from ..model.modeling_musicfm import MusicFMModel, MusicFMQuantizerModel

LEAST_TRACED_FRAMES = 32


class EncoderGraph(nn.Module):
    """
    Encoder up to a layer. Outputs: `last_hidden_state` `(batch, frames, hidden_size)`, float32, and `frames_mask`
    `(batch, frames)`, bool.
    """

    def __init__(self, encoder: MusicFMModel):
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.outputs = {"last_hidden_state": ("batch", "frames", width), "frames_mask": ("batch", "frames")}
        self.hidden_states = {encoder.config.num_hidden_layers: "last_hidden_state"}

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the outputs for waveforms `(batch, samples)` and their mask."""
        last = self.encoder(input_values, attention_mask).last_hidden_state
        return last.float(), self.encoder.frames_mask(attention_mask)


class HeadsGraph(nn.Module):
    """
    Encoder with one or more heads that share a pass through it. Outputs, all float32: the logits of each head (or, of
    a model for retrieval, the embeddings), and the hidden states that the heads read.

    Args:
        encoder ([`MusicFMModel`]): The encoder, up to the last layer that a head reads.
        heads: Models by name; their own encoders are not used.
    """

    def __init__(self, encoder: MusicFMModel, heads: Mapping[str, ExportedHead]):
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({name: model.classifier for name, model in heads.items()})
        self.layers = sorted({layer for model in heads.values() for layer in model.config.classifier_layers})
        self.hidden_states = {layer: f"hidden_state_{layer}" for layer in self.layers}
        self.outputs = {
            result_name(heads, name): _axes(model.config, "label_frames" if len(heads) == 1 else f"{name}_frames")
            for name, model in heads.items()
        }  # axes of different length need different names
        frames = ("batch", "frames", encoder.config.hidden_size)
        self.outputs |= dict.fromkeys(self.hidden_states.values(), frames)

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the outputs for waveforms `(batch, samples)` and their mask."""
        states = self.encoder(input_values, attention_mask, output_hidden_states=self.layers).hidden_states
        counts = self.encoder.config.frame_counts(attention_mask.sum(-1))[-1]
        results = []
        for module in self.heads.values():
            head = cast(MusicFMHead, module)
            layers = head.config.classifier_layers
            features = torch.stack([states[layer] for layer in layers], dim=2)
            output = head(features if len(layers) > 1 else features[:, :, 0], counts)
            results.append(head_result(output).float())
        return *results, *(states[layer].float() for layer in self.layers)


class QuantizerGraph(nn.Module):
    """Quantizer. Outputs: `tokens` `(batch, tokens, codebooks)`, int64, and `tokens_mask` `(batch, tokens)`, bool."""

    hidden_states: Mapping[int, str] = {}

    def __init__(self, model: MusicFMQuantizerModel):
        super().__init__()
        self.model = model
        codebooks = model.config.num_codebooks
        self.outputs = {"tokens": ("batch", "tokens", codebooks), "tokens_mask": ("batch", "tokens")}

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the outputs for waveforms `(batch, samples)` and their mask."""
        output = self.model(input_values, attention_mask)
        return output.tokens, output.tokens_mask


def head_result(output: Any) -> torch.Tensor:
    """Return the embeddings, or else the logits, in the output of a head."""
    return output.embeddings if "embeddings" in output else output.logits


def result_name(heads: Mapping[str, ExportedHead], name: str) -> str:
    """Return the name of the graph's output for a head."""
    result = "logits" if heads[name].config.contrastive_loss is None else "embeddings"
    return result if len(heads) == 1 else f"{result}_{name}"


def _axes(config: MusicFMConfig, frames: str) -> tuple[str | int, ...]:
    """Return the shape of the result of a head, with this name for its number of label frames."""
    if config.contrastive_loss is not None:
        return "batch", config.xvector_output_dim
    labels = sum(output["size"] for output in config.classifier_slices)
    return ("batch", labels) if config.label_rate is None else ("batch", frames, labels)


def truncate(encoder: MusicFMModel, layer: int) -> None:
    """Remove the layers of an encoder after `layer`, in place: its last hidden state is then that of `layer`."""
    config = encoder.config
    if layer < config.num_hidden_layers:
        encoder.layers = encoder.layers[:layer]
        encoder.layer_norm = nn.Identity()
        config.num_hidden_layers, config.use_final_layer_norm = layer, False
        if config.classifier_layer is not None and config.classifier_layer > layer:
            config.classifier_layer = None  # of a head that is left out


class Batch(NamedTuple):
    """Padded waveforms `(batch, samples)`, their mask, and the length of each item in samples."""

    input_values: torch.Tensor
    attention_mask: torch.Tensor
    lengths: Sequence[int]


def noisy_tones(lengths: Sequence[int], sampling_rate: int) -> Batch:
    """Return items of these lengths, the same in every run: chords of three tones that change, in noise."""
    generator = torch.Generator().manual_seed(0)
    input_values = torch.zeros(len(lengths), max(lengths))
    for item, length in zip(input_values, lengths, strict=True):
        item[:length] = 0.02 * torch.randn(length, generator=generator)
        time = torch.arange(length) / sampling_rate
        for start in range(0, length, sampling_rate // 2):
            pitches = 110.0 * 2 ** (torch.randint(0, 36, (3, 1), generator=generator) / 12)
            part = slice(start, min(start + sampling_rate // 2, length))
            item[part] += 0.1 * torch.sin(2 * torch.pi * pitches * time[part]).sum(0)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Batch(input_values, mask, lengths)


def lengths(config: MusicFMConfig, frames: Sequence[int]) -> list[int]:
    """Return lengths in samples that give at least these numbers of frames, and are no whole number of frames."""
    least = least_samples(config)
    return [least + count * config.samples_per_frame + 7 * index for index, count in enumerate(frames, 1)]


def least_samples(config: MusicFMConfig) -> int:
    """Return the length in samples of the shortest item that any part of a model takes."""
    return max(config.min_samples, config.n_fft // 2 + 1)  # the latter for a quantizer


def traced_frames(config: MusicFMConfig, label_rates: Sequence[float]) -> int:
    """
    Return the number of frames of the longer item that is traced: enough for three label frames, because a graph that
    is traced with a single one supports no other number.
    """
    return max([LEAST_TRACED_FRAMES, *(math.ceil(3 * config.frame_rate / rate) for rate in label_rates)])


def trace(
    graph: nn.Module, config: MusicFMConfig, frames: int, device: str | torch.device = "cpu"
) -> torch.export.ExportedProgram:
    """
    Trace a graph in eval mode with a dynamic batch size and a dynamic number of samples.

    Args:
        graph: Module with the arguments `input_values` and `attention_mask`.
        config ([`MusicFMConfig`]): Configuration of its encoder.
        frames (`int`): Output of [`traced_frames`].
    """
    batch = noisy_tones(lengths(config, (frames, frames * 2 // 3)), config.sampling_rate)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    inputs: Any = (batch.input_values.to(device), batch.attention_mask.to(device))
    return torch.export.export(
        graph.eval(), inputs, dynamic_shapes={"input_values": dynamic, "attention_mask": dynamic}, strict=False
    )
