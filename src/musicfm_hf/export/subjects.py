"""Saved models as the exporter sees them: a graph to trace, and the outputs that it must have."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel

from ..inference.annotators import group_by_encoder, joint_places, load_annotators, load_config
from ..inference.exported import HEAD_CLASSES, ExportedHead
from ..model.adapters_musicfm import merge_adapters
from ..model.configuration_musicfm import MusicFMConfig
from ..model.int8_musicfm import check_float
from ..model.modeling_musicfm import MusicFMForAudioFrameClassification, MusicFMModel, MusicFMQuantizerModel
from .check import Counts, Reference
from .graph import EncoderGraph, HeadsGraph, QuantizerGraph, head_result, result_name, truncate

PARTS = ("model", "encoder", "quantizer")


class Subject(NamedTuple):
    """
    Model to export.

    Attributes:
        part (`str`): `"encoder"`, `"heads"` or `"quantizer"`.
        config ([`MusicFMConfig`]): Configuration of the encoder; it changes when the graph is built.
        expected: Function that returns the outputs of the model in PyTorch for `input_values` and `attention_mask`, by
            name. Outputs that the check does not compare are left out. It must be called before the graph is built.
        counts: For each of these outputs the function that returns its number of frames for a number of samples.
        build: Function that returns the graph.
        heads: Models with a head by the name of the head, with their configurations as built.
    """

    part: str
    config: MusicFMConfig
    expected: Reference
    counts: Mapping[str, Counts]
    build: Callable[[], Any]
    heads: Mapping[str, ExportedHead]


def load_subject(folders: Sequence[str], part: str, layer: int | None) -> Subject:
    """
    Load models in float32; the arguments are those of [`export_model`]. A folder of models that were trained jointly
    stands for all of them, unless the encoder is asked for.

    Raises:
        ValueError: if the arguments do not fit the models.
    """
    if part == "model" and layer is None:
        folders = [place for folder in folders for place in joint_places(folder)]
    configs = {folder: load_config(folder) for folder in folders}
    for folder, config in configs.items():
        if not isinstance(config, MusicFMConfig):
            raise ValueError(
                f"{folder} holds a model of the type {config.model_type}; only encoders, models with a head "
                "and quantizers can be exported."
            )
        check_float(config, folder, "exported")
    kinds = {folder: _kind(config) if part == "model" else part for folder, config in configs.items()}
    if len(folders) > 1 and set(kinds.values()) != {"heads"}:
        raise ValueError(f"Several models in one export must all have a head; {', '.join(folders)} have not.")
    kind = kinds[folders[0]]
    if layer is not None and kind != "encoder":
        exported = "a quantizer" if kind == "quantizer" else "a model with a head, which determines the layer"
        raise ValueError(f"`layer` is for encoders; this would be {exported}. Pass `--part encoder` for the encoder.")
    if kind == "quantizer":
        return _quantizer(folders[0])
    if kind == "encoder":
        return _encoder(folders[0], layer)
    return _heads(folders, configs)


def _kind(config: MusicFMConfig) -> str:
    """Return the part of a saved model that is exported by default."""
    saved = set(config.architectures or [])
    if saved & HEAD_CLASSES.keys():
        return "heads"
    return "quantizer" if MusicFMQuantizerModel.__name__ in saved else "encoder"


def _encoder(folder: str, layer: int | None) -> Subject:
    """Load an encoder."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    config = model.config
    config.task_folders = None
    last = config.num_hidden_layers if layer is None else layer
    if not 1 <= last <= config.num_hidden_layers:
        raise ValueError(f"`layer` must be between 1 and {config.num_hidden_layers}, got {layer}.")

    def expected(input_values: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"last_hidden_state": model(input_values, attention_mask, layer=last).last_hidden_state}

    def build() -> nn.Module:
        merge_adapters(model)
        truncate(model, last)
        return EncoderGraph(model)

    return Subject("encoder", config, expected, {"last_hidden_state": model.output_frames}, build, {})


def _heads(folders: Sequence[str], configs: Mapping[str, MusicFMConfig]) -> Subject:
    """Load models with a head that share an encoder."""
    if len(folders) == 1:
        (name,) = HEAD_CLASSES.keys() & set(configs[folders[0]].architectures or [])
        models = [HEAD_CLASSES[name].from_pretrained(folders[0], dtype=torch.float32).eval()]
    else:
        models = list(load_annotators(folders, dtype=torch.float32).values())
        if len(group_by_encoder(models)) > 1:
            raise ValueError(
                f"The encoders of {', '.join(folders)} differ, so they cannot share a pass: export each model to a "
                "folder of its own."
            )
    heads = {model.config.task or "head": model for model in models}
    encoder = models[0].musicfm
    layers = sorted({layer for model in models for layer in model.config.classifier_layers})
    counts: dict[str, Counts] = {f"hidden_state_{layer}": encoder.output_frames for layer in layers}
    for name, model in heads.items():
        counts[result_name(heads, name)] = _label_frames(model)

    def expected(input_values: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        results = {
            result_name(heads, name): head_result(model(input_values, attention_mask)) for name, model in heads.items()
        }
        for layer in layers:
            states = encoder(input_values, attention_mask, layer=layer)
            results[f"hidden_state_{layer}"] = states.last_hidden_state
        return results

    return Subject("heads", encoder.config, expected, counts, partial(_build_heads, encoder, heads), heads)


def _build_heads(encoder: MusicFMModel, heads: Mapping[str, ExportedHead]) -> nn.Module:
    """Return the graph of an encoder with heads, up to the last layer that they read."""
    for model in heads.values():
        merge_adapters(model)
    truncate(encoder, max(layer for model in heads.values() for layer in model.config.classifier_layers))
    for model in heads.values():
        for setting in ("num_hidden_layers", "use_final_layer_norm"):
            setattr(model.config, setting, getattr(encoder.config, setting))
    return HeadsGraph(encoder, heads)


def _label_frames(model: ExportedHead) -> Counts:
    """Return the function that counts the label frames of a model; it returns `None` if it has none."""
    if isinstance(model, MusicFMForAudioFrameClassification):
        return model.label_frames
    return lambda samples: None


def _quantizer(folder: str) -> Subject:
    """Load a quantizer."""
    model = MusicFMQuantizerModel.from_pretrained(folder).eval()
    config = model.config

    def expected(input_values: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"tokens": model(input_values, attention_mask).tokens}

    counts = {"tokens": lambda samples: samples // config.samples_per_frame}
    return Subject("quantizer", config, expected, counts, partial(QuantizerGraph, model), {})
