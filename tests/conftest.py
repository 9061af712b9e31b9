"""Fixtures of several test modules: recorded outputs, saved models, a data set, a server of processes."""

import gc
import os
from pathlib import Path

os.environ["HF_HUB_DISABLE_XET"] = "1"  # before the Hub's client is imported: our server knows LFS alone

import pytest
import torch
from helpers.models import TINY, random_model
from helpers.paths import FIXTURES
from helpers.processes import Server, start_server
from helpers.songs import write_labeled_song
from safetensors.torch import load_file

from musicfm_hf import MusicFMConfig, MusicFMModel, convert_checkpoint
from musicfm_hf.data.labeled import Source
from musicfm_hf.data.labeled_dataset import build, save


def pytest_collection_finish() -> None:
    """Spare the garbage collector, which accelerate calls after every training, all that was imported."""
    gc.freeze()


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


@pytest.fixture(scope="session")
def labeled(tmp_path_factory) -> Path:
    """
    A data set as recipes/prepare.py writes it: eight synthetic songs, four of them to train on, two to validate on and
    two to test on. They are the first 10 s of songs, and one is shorter.
    """
    folder = tmp_path_factory.mktemp("labeled")
    splits = {"train": range(4), "validation": range(4, 6), "test": range(6, 8)}
    songs = {split: [write_labeled_song(folder, number, split) for number in part] for split, part in splits.items()}
    save(build(songs, Source("Synthetic songs.", "", "", "")), folder)
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A saved tiny encoder with random weights, and batch statistics that are not the initial ones."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    random_model(MusicFMConfig(**TINY | {"num_hidden_layers": 2})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def server() -> Server:
    """A server that starts processes; see `helpers.processes`."""
    return start_server()
