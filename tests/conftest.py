"""What several tests need: recorded outputs of the public implementation, a tiny model, music."""

import json
import os
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_DISABLE_XET"] = "1"  # before the Hub's client is imported: our server knows LFS alone

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from musicfm_hf import (
    MusicFMConfig,
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    MusicFMModel,
    convert_checkpoint,
)
from musicfm_hf.data.labelled import LabelledSong, Source
from musicfm_hf.data.labelled_dataset import build, save
from musicfm_hf.data.synthetic import compose, synthesize
from musicfm_hf.tasks import beat, chord, key, structure
from musicfm_hf.tasks.annotations import Beats, Segment

FIXTURES = Path(__file__).parent / "fixtures"
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


def head(task: str, seed: int = 0, **changes):
    """A tiny model with random weights; encoders are equal where seeds are."""
    settings = HEADS[task] | changes
    config = MusicFMConfig(**TINY, task=task, id2label=dict(enumerate(settings.pop("labels"))), **settings)
    clips = config.label_rate is None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (MusicFMForAudioClassification if clips else MusicFMForAudioFrameClassification)(config)
    return model.eval()


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


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    """
    A data set as recipes/prepare.py writes it: eight synthetic songs, four of them to train on, two to validate on and
    two to test on. They are the first 10 s of songs, and one is shorter.
    """
    folder = tmp_path_factory.mktemp("labelled")
    splits = {"train": range(4), "validation": range(4, 6), "test": range(6, 8)}
    songs = {split: [_labelled_song(folder, number, split) for number in part] for split, part in splits.items()}
    save(build(songs, Source("Synthetic songs.", "", "", "")), folder)
    return folder


def _labelled_song(folder: Path, number: int, split: str) -> LabelledSong:
    seconds = 3.0 if number == 1 else 10.0
    whole = compose(10 + number)
    notes = [note for note in whole.notes if note[0] < seconds]
    audio = synthesize(replace(whole, notes=notes), 24000)[: round(seconds * 24000)].mean(1)
    soundfile.write(folder / f"{number}.wav", audio, 24000)
    beats = whole.beats[whole.beats[:, 0] < seconds]

    def part(segments: list) -> list[Segment]:
        return [Segment(start, min(end, seconds), label) for start, end, label in segments if start < seconds]

    return LabelledSong(
        f"song {number}",
        str(folder / f"{number}.wav"),
        f"song {number}",
        split,
        seconds,
        beats=Beats(beats[:, 0], beats[:, 1].astype(np.int64)),
        chords=part(whole.chords),
        sections=part(whole.sections),
        keys=[Segment(0.0, seconds, whole.key)],
        tags=["major" if "maj" in whole.key else "minor"] + ["even"] * (number % 2 == 0),
    )


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A saved tiny encoder with random weights, and batch statistics that are not the initial ones."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    random_model(MusicFMConfig(**TINY | {"num_hidden_layers": 2})).save_pretrained(folder)
    return folder
