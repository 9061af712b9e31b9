"""What several tests need: recorded outputs of the public implementation, a tiny model, music."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from musicfm_hf import MusicFMConfig, MusicFMModel, convert_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
    "conv_depthwise_kernel_size": 7,
}


@pytest.fixture(scope="session")
def recorded() -> dict[str, torch.Tensor]:
    """What the public MusicFM computed (see tests/fixtures/README.md)."""
    return load_file(FIXTURES / "musicfm/expected.safetensors")


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Path:
    """The recorded checkpoint, converted."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(FIXTURES / "musicfm/pretrained.pt", folder)
    return folder


@pytest.fixture
def tiny_model() -> MusicFMModel:
    """A tiny model with random weights and batch statistics that are not the initial ones."""
    return random_model(MusicFMConfig(**TINY))


def random_model(config: MusicFMConfig, seed: int = 0) -> MusicFMModel:
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


def music(seconds: float, sampling_rate: int = 24000, seed: int = 0) -> np.ndarray:
    """Chords with a beat and some noise, float32 `(samples,)`."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    audio = 0.01 * generator.standard_normal(len(time))
    for start in np.arange(0, seconds, 0.5):
        here = (time >= start) & (time < start + 0.5)
        for frequency in generator.choice([220.0, 261.6, 329.6, 392.0, 523.3], 3, replace=False):
            audio[here] += 0.2 * np.sin(2 * np.pi * frequency * time[here]) * np.exp(-3 * (time[here] - start))
    return audio.astype(np.float32)


def full_size_checkpoint(path: Path) -> Path:
    """A checkpoint in the layout of the published files, at full size, with random weights, and its statistics."""
    layout = json.loads((FIXTURES / "musicfm/checkpoint_layout_full.json").read_text())
    generator = torch.Generator().manual_seed(0)
    state_dict = {}
    for key, entry in layout.items():
        shape, dtype = entry["shape"], getattr(torch, entry["dtype"])
        tensor = torch.empty(shape, dtype=dtype)
        is_norm = "norm" in key or ".bn" in key
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif key.endswith("num_batches_tracked"):
            tensor.fill_(1000)
        elif is_norm and key.endswith("weight"):
            tensor.uniform_(0.8, 1.2, generator=generator)
        else:
            tensor.normal_(0.0, 0.02 if len(shape) > 1 else 0.1, generator=generator)
        state_dict[key] = tensor
    torch.save({"state_dict": state_dict}, path)
    (path.parent / "stats.json").write_text((FIXTURES / "musicfm/stats.json").read_text())
    return path
