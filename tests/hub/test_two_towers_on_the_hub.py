"""Models with an audio tower and a text tower on the Hub."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.audio import music
from helpers.text_audio import processor, save_adapter, text_audio_model
from huggingface_hub import HfApi
from transformers import AutoModel, AutoProcessor, pipeline

from musicfm_hf import MusicFMTextAudioModel, ZeroShotTagger
from musicfm_hf.hub import push

NAME = "alice/two-towers"
TAGS = ["piano", "drums"]


@pytest.fixture
def repository(server, tmp_path) -> str:
    text_audio_model().save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    upload(NAME, tmp_path / "model")
    return NAME


def upload(name: str, folder: Path) -> None:
    HfApi().create_repo(name)
    HfApi().upload_folder(repo_id=name, folder_path=folder)


def test_loading(server, repository):
    assert {"config.json", "model.safetensors", "tokenizer.json", "modeling_text_audio_musicfm.py"} <= set(
        server.files(NAME)
    )
    model, loaded = AutoModel.from_pretrained(repository), AutoProcessor.from_pretrained(repository)
    assert type(model) is MusicFMTextAudioModel
    inputs = loaded(text=TAGS, audio=music(2.3), sampling_rate=24000)
    with torch.no_grad():
        logits = model(**inputs).logits_per_audio
        torch.testing.assert_close(logits, text_audio_model()(**inputs).logits_per_audio)
    classify = pipeline("zero-shot-audio-classification", model=repository, device="cpu")
    scores = {
        entry["label"]: entry["score"]
        for entry in classify(music(2.3), candidate_labels=TAGS, hypothesis_template="{}")
    }
    assert [scores[tag] for tag in TAGS] == pytest.approx(logits[0].softmax(0).tolist(), abs=1e-5)
    similarities = ZeroShotTagger.from_pretrained(repository, TAGS)(music(2.3), 24000)
    assert [similarities[tag] for tag in TAGS] == pytest.approx((logits[0] / 10).tolist(), abs=1e-5)


def test_the_base_of_an_adapter(server, repository, tmp_path):
    """A push records the repository of the base and its commit, if the adapter fits."""
    adapter = tmp_path / "adapter"
    save_adapter(tmp_path / "model", adapter)
    push._pin_base_model(adapter, HfApi(), repository)
    recorded = json.loads((adapter / "adapter_config.json").read_text())
    assert (recorded["base_model_name_or_path"], recorded["revision"]) == (NAME, HfApi().model_info(NAME).sha)
    config = text_audio_model().config
    config.audio_config.hidden_act = "gelu"
    config.save_pretrained(adapter)
    with pytest.raises(ValueError, match=r"with alice/two-towers: it was trained for audio_config\.hidden_act gelu"):
        push._pin_base_model(adapter, HfApi(), repository)


def test_sentence_transformers(server, repository, tmp_path):
    """From the repository of a model, and to one of its own and back."""
    library = pytest.importorskip("sentence_transformers", reason="pip install '.[sentence-transformers]'")
    from musicfm_hf.integrations.sentence_transformers import MusicFMTransformer

    model = library.SentenceTransformer(modules=[MusicFMTransformer.from_pretrained(repository)], device="cpu")
    expected = model.encode([music(2.3)])
    model.save_pretrained(str(tmp_path / "saved"))
    upload("alice/sentences", tmp_path / "saved")
    loaded = library.SentenceTransformer("alice/sentences", trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(loaded.encode([music(2.3)]), expected, rtol=0, atol=1e-5)


def test_mteb(server, repository):
    """Results are kept under the commit."""
    pytest.importorskip("mteb", reason="pip install '.[mteb]'")
    from musicfm_hf.integrations.mteb import MusicFMEncoder

    meta = MusicFMEncoder.from_pretrained(repository).mteb_model_meta
    assert (meta.name, meta.modalities) == (NAME, ["audio", "text"])
    assert len(meta.revision) == 40
