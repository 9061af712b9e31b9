"""Tiny models and configurations, and a checkpoint of full size."""

import json
from pathlib import Path

import torch

import musicfm_hf
from musicfm_hf import MusicFMConfig, MusicFMModel
from musicfm_hf.tasks import beat, chord, get_task, key, structure

from .paths import FIXTURES

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
    "conv_depthwise_kernel_size": 7,
}
HEADS = {
    "beat": {"labels": beat.LABELS, "label_rate": 20.0, "label_centered": True, "classifier_layer": 2},
    "chord": {"labels": chord.LABELS, "label_rate": 8.0, "classifier_layer": 2},
    "structure": {"labels": structure.LABELS, "label_rate": 5.0},
    "key": {"labels": key.LABELS, "label_rate": 0.5, "use_weighted_layer_sum": True},
    "tagging": {"labels": ("loud", "slow"), "label_rate": None},
}


def random_model(config: MusicFMConfig, seed: int = 0) -> MusicFMModel:
    """An encoder with random weights and batch statistics that differ from the initial ones, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MusicFMModel(config).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def head(task: str, seed: int = 0, **changes):
    """A tiny model with a head for the task and random weights; equal seeds give equal encoders."""
    settings = HEADS.get(task, {}) | changes
    config = MusicFMConfig(**TINY, task=task, id2label=dict(enumerate(settings.pop("labels"))), **settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(musicfm_hf, config.head_class)(config)
    return model.eval()


def config_of(task: str, label_rate: float | None = 25.0, labels=None, **settings) -> MusicFMConfig:
    """The configuration of a tiny model for the task, with the classifier outputs that the task needs."""
    spec = get_task(task, settings.get("vocabulary"))
    labels = labels or spec.labels
    return MusicFMConfig(
        **TINY | settings,
        task=task,
        label_rate=label_rate,
        label_centered=spec.centered,
        id2label=dict(enumerate(labels)),
        classifier_outputs=spec.classifier_outputs(len(labels)),
    )


def full_size_checkpoint(path: Path) -> Path:
    """Write a full-size checkpoint of random weights in the layout of the published files, and its statistics."""
    layout = json.loads((FIXTURES / "musicfm/checkpoint_layout_full.json").read_text())
    generator = torch.Generator().manual_seed(0)
    state_dict = {}
    for name, entry in layout.items():
        shape, dtype = entry["shape"], getattr(torch, entry["dtype"])
        tensor = torch.empty(shape, dtype=dtype)
        is_norm = "norm" in name or ".bn" in name
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(1000)
        elif is_norm and name.endswith("weight"):
            tensor.uniform_(0.8, 1.2, generator=generator)
        else:
            tensor.normal_(0.0, 0.02 if len(shape) > 1 else 0.1, generator=generator)
        state_dict[name] = tensor
    torch.save({"state_dict": state_dict}, path)
    (path.parent / "stats.json").write_text((FIXTURES / "musicfm/stats.json").read_text())
    return path
