"""A server in place of the Hub, and the folder of a finished run to push to it."""

import json

import pytest
import torch
from helpers.finished_run import RESULTS
from helpers.hub_server import HubServer
from helpers.models import TINY
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from musicfm_hf import MusicFMConfig, MusicFMFeatureExtractor, MusicFMForAudioFrameClassification


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server in place of the Hub; the client of this process is logged in as alice."""
    close_session()
    with HubServer({"hf_alice": "alice", "hf_bob": "bob"}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
        yield hub
    close_session()


@pytest.fixture
def folder(tmp_path):
    """A model with a head for chords, as `musicfm finetune` leaves it."""
    torch.manual_seed(0)
    names = dict(enumerate(["C:maj", "A:min", "N"]))
    config = MusicFMConfig(**TINY, task="chord", label_rate=8.0, id2label=names)
    folder = tmp_path / "runs" / "chord"
    MusicFMForAudioFrameClassification(config).save_pretrained(folder)
    MusicFMFeatureExtractor().save_pretrained(folder)
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "checkpoint-4").mkdir()
    for name in ("optimizer.pt", "training_args.bin", "checkpoint-4/model.safetensors", "problems.tsv"):
        (folder / name).write_text(f"a file of {tmp_path}")
    return folder
