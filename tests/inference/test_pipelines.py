"""Transformers' pipelines, by name, as a user or the page of a repository calls them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.models import TINY, head, random_model
from helpers.remote_code import run_without_the_package
from safetensors.torch import load_file
from transformers import (
    AudioClassificationPipeline,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from musicfm_hf import MusicFMConfig, MusicFMFeatureExtractor, annotate, load_audio

RATE = 24000


@pytest.fixture(scope="module")
def song(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("song") / "song.flac"
    soundfile.write(path, music(3.0, 44100), 44100)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """An encoder, and models with heads, saved as they are pushed."""
    folder = tmp_path_factory.mktemp("models")
    models = {task: head(task) for task in ("beat", "chord", "tagging")}
    models["encoder"] = random_model(MusicFMConfig(**TINY))
    for name, model in models.items():
        model.save_pretrained(folder / name)
        MusicFMFeatureExtractor().save_pretrained(folder / name)
    return {name: str(folder / name) for name in models}


def kinds_of_audio(song: Path) -> list:
    audio, _ = soundfile.read(song, dtype="float32")
    return [
        str(song), song.read_bytes(), {"path": str(song)}, {"bytes": song.read_bytes(), "path": None},
        {"array": audio, "sampling_rate": 44100}, {"raw": audio, "sampling_rate": 44100},
        load_audio(song), torch.from_numpy(load_audio(song)),
    ]  # fmt: skip


def test_embeddings(folders, song):
    """The generated snippet of the page: `pipeline("feature-extraction", model=…, trust_remote_code=True)`."""
    extract = pipeline("feature-extraction", model=folders["encoder"], trust_remote_code=True, device="cpu")
    model = random_model(MusicFMConfig(**TINY))
    waveform = torch.from_numpy(load_audio(song))[None]
    expected = model(waveform).last_hidden_state
    for audio in kinds_of_audio(song):
        torch.testing.assert_close(extract(audio, return_tensors=True), expected, rtol=0, atol=1e-4)
    assert np.shape(extract(str(song))) == (1, 75, 32)
    layer = extract(str(song), layer=1, return_tensors=True)
    torch.testing.assert_close(layer, model(waveform, layer=1).last_hidden_state, rtol=0, atol=1e-4)
    short, long = extract([music(1.0), music(2.0)], batch_size=2, return_tensors=True)
    assert (short.shape, long.shape) == ((1, 25, 32), (1, 50, 32))
    alone = extract(music(1.0), return_tensors=True)
    torch.testing.assert_close(short, alone, rtol=0, atol=2e-5)
    with pytest.raises(TypeError, match="layers"):
        extract(str(song), layers=1)


def test_code_of_a_repository_has_to_be_trusted(folders):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        pipeline("feature-extraction", model=folders["encoder"])


@pytest.mark.parametrize("trust_remote_code", [None, True])
def test_classification(folders, song, trust_remote_code):
    """Without ffmpeg and torchaudio."""
    classify = pipeline(
        "audio-classification", model=folders["tagging"], trust_remote_code=trust_remote_code, device="cpu"
    )
    probabilities = head("tagging")(torch.from_numpy(load_audio(song))[None]).logits[0].softmax(-1).tolist()
    for audio in kinds_of_audio(song):
        scores = {entry["label"]: entry["score"] for entry in classify(audio)}
        assert scores == pytest.approx(dict(zip(("loud", "slow"), probabilities, strict=True)), abs=1e-4)
    assert len(classify([str(song), music(1.0)])) == 2


def test_classification_of_other_models_is_that_of_transformers(tmp_path, monkeypatch):
    """The pipeline is registered for all models, and must not change theirs."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Wav2Vec2Config(**sizes, conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    audio = music(1.0, 16000)
    ours = pipeline("audio-classification", model=str(tmp_path), device="cpu")
    assert type(ours) is PIPELINE_REGISTRY.supported_tasks["audio-classification"]["impl"]
    settings = {"model": str(tmp_path), "device": "cpu", "pipeline_class": AudioClassificationPipeline}
    theirs = pipeline("audio-classification", **settings)
    assert ours(audio) == theirs(audio)
    read = []
    monkeypatch.setattr("musicfm_hf.inference.pipelines._read", lambda *arguments: read.append(arguments))
    ours(audio)
    assert not read


def test_annotation(folders, song):
    expected = annotate([head("chord"), head("beat"), head("tagging")], song).to_dict()
    by_name = pipeline(
        "music-annotation", model=folders["chord"], heads=[folders["beat"], folders["tagging"]], device="cpu"
    )
    by_model = pipeline("music-annotation", model=head("chord"), heads=[head("beat"), head("tagging")], device="cpu")
    assert expected.keys() == {"duration", "beats", "chords", "tags"}
    assert by_name(str(song)) == expected
    assert by_model([song.read_bytes(), load_audio(song)]) == [expected, expected]
    tags = pipeline("music-annotation", model=folders["tagging"], device="cpu")(str(song))
    assert tags == {"duration": expected["duration"], "tags": expected["tags"]}
    with pytest.raises(TypeError, match="windowseconds"):
        by_name(str(song), windowseconds=3)
    with pytest.raises(ValueError, match="`window_seconds` must be at least"):
        by_name(str(song), window_seconds=0.01)
    with pytest.raises(ValueError, match="are both for the task chord"):
        pipeline("music-annotation", model=folders["chord"], heads=[head("chord")], device="cpu")(str(song))


WITHOUT_PACKAGE = """
import torch
from transformers import AutoFeatureExtractor, AutoModel, pipeline

encoder, tags, song, output = sys.argv[1:]
pipe = pipeline("feature-extraction", model=encoder, trust_remote_code=True, device="cpu")
found = {"frames": pipe(song, return_tensors=True).contiguous()}
model = AutoModel.from_pretrained(encoder, trust_remote_code=True, dtype="auto")
AutoFeatureExtractor.from_pretrained(encoder, trust_remote_code=True)
pipe = pipeline("audio-classification", model=tags, trust_remote_code=True, device="cpu")
with open(song, "rb") as file:
    answers = [pipe(song), pipe(file.read())]
assert answers[0] == answers[1]
found["scores"] = torch.tensor([entry["score"] for entry in sorted(answers[0], key=lambda entry: entry["label"])])
save_file(found, output)
"""


def test_snippets_of_the_page_run_without_the_package(folders, song, tmp_path):
    """As the page of a repository generates them for models with code."""
    output = tmp_path / "out.safetensors"
    run_without_the_package(tmp_path, WITHOUT_PACKAGE, folders["encoder"], folders["tagging"], song, output)
    found, waveform = load_file(output), torch.from_numpy(load_audio(song))[None]
    expected = random_model(MusicFMConfig(**TINY))(waveform).last_hidden_state
    torch.testing.assert_close(found["frames"], expected, rtol=0, atol=1e-4)
    scores = head("tagging")(waveform).logits[0].softmax(-1)
    torch.testing.assert_close(found["scores"], scores, rtol=0, atol=1e-4)
