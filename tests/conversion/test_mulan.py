"""Conversion of MuQ-MuLan, against what its public code computed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.paths import FIXTURES
from helpers.text_audio import tokenizer
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from musicfm_hf import MusicFMTextAudioConfig, MusicFMTextAudioModel, convert_checkpoint

SOURCE = FIXTURES / "mulan"


@pytest.fixture(scope="module", autouse=True)
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return load_file(SOURCE / "expected.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The recorded checkpoint, converted without its tokenizer."""
    folder = tmp_path_factory.mktemp("mulan") / "model"
    with pytest.warns(UserWarning, match=r"The tokenizer of xlm-roberta-base cannot be loaded"):
        result = convert_checkpoint(SOURCE, folder)
    assert result.family == "mulan"
    assert set(result.unused.values()) >= {"never called", "only for masked pretraining"}
    assert "mulan.audio.aggregator.weight" in result.unused
    assert result.num_parameters == AutoModel.from_pretrained(folder).num_parameters()
    return folder


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_latents_are_the_public_ones(folder, recorded, attention):
    model = AutoModel.from_pretrained(folder, attn_implementation=attention).eval()
    assert type(model) is MusicFMTextAudioModel
    texts = [recorded["text_0"], recorded["text_1"]]
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=1)
    with torch.no_grad():
        clips = model.get_audio_features(recorded["clips"]).pooler_output
        song = model.get_audio_features(recorded["song"][None]).pooler_output[0]
        batch = model.get_text_features(padded, padded != 1).pooler_output
        alone = [model.get_text_features(text[None]).pooler_output[0] for text in texts]
    expected = torch.stack([recorded["text_latents_0"], recorded["text_latents_1"]])
    torch.testing.assert_close(clips, recorded["clip_latents"], rtol=0, atol=1e-6)
    torch.testing.assert_close(song, recorded["song_latents"], rtol=0, atol=1e-6)
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.stack(alone), expected, rtol=0, atol=1e-6)


def test_songs_and_clips_in_one_padded_batch(folder, recorded):
    model = AutoModel.from_pretrained(folder).eval()
    song, clip = recorded["song"], recorded["clips"][0]
    batch, mask = torch.zeros(2, len(song)), torch.zeros(2, len(song), dtype=torch.long)
    for row, waveform in enumerate((song, clip)):
        batch[row, : len(waveform)], mask[row, : len(waveform)] = waveform, 1
    with torch.no_grad():
        found = model.get_audio_features(batch, mask).pooler_output
    expected = torch.stack([recorded["song_latents"], recorded["clip_latents"][0]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_configuration(folder):
    config = MusicFMTextAudioConfig.from_pretrained(folder)
    assert (config.projection_dim, config.clip_seconds, config.audio_layer, config.use_decoupled_loss) == (
        24,
        3,
        2,
        True,
    )
    assert config.audio_transformer == config.text_transformer == {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8, "intermediate_size": 85,
        "attention_dropout": 0.0, "hidden_dropout": 0.0,
    }  # fmt: skip
    assert (config.audio_config.hidden_size, config.audio_config.num_hidden_layers) == (48, 3)
    assert (config.text_config.hidden_size, config.text_config.vocab_size) == (40, 300)
    scale = load_file(SOURCE / "model.safetensors")["mulan.contrast.temperatures"]
    assert AutoModel.from_pretrained(folder).logit_scale.item() == scale.item()


def test_tokenizer_beside_the_weights(tmp_path, recwarn):
    source = tmp_path / "published"
    shutil.copytree(SOURCE, source)
    tokenizer().save_pretrained(source)
    convert_checkpoint(source, tmp_path / "model")
    assert not [warning for warning in recwarn if "tokenizer" in str(warning.message).lower()]
    inputs = AutoProcessor.from_pretrained(tmp_path / "model")(text=["sad song", "piano"])
    assert inputs["input_ids"].tolist() == [tokenizer()("sad song")["input_ids"], [0, 4, 2, 1]]


def test_towers_as_in_the_published_configuration(tmp_path):
    """The audio tower has no layers, and the text tower has the width of its encoder."""
    source = tmp_path / "published"
    shutil.copytree(SOURCE, source)
    settings = json.loads((source / "config.json").read_text())
    settings["text_model"]["model_dim"] = None
    settings["audio_transformer"] |= {"tf_depth": 0, "attn_dropout": 0, "ff_dropout": 0}
    settings["text_transformer"]["dim"] = 40
    (source / "config.json").write_text(json.dumps(settings))
    shapes = {"learned_gamma": (40,), "to_q.weight": (32, 40), "to_kv.weight": (64, 40), "to_out.0.weight": (40, 32)}
    shapes |= {".1.1.weight": (212, 40), ".1.4.weight": (40, 106), "text_to_latents.weight": (24, 40)}
    tensors = {}
    for key, tensor in load_file(SOURCE / "model.safetensors").items():
        shape = next((shape for ending, shape in shapes.items() if key.endswith(ending)), None)
        if not key.startswith(("mulan.audio.transformer", "mulan.text.proj")):
            is_resized = key.startswith("mulan.text") and shape is not None
            tensors[key] = torch.randn(shape) if is_resized else tensor
    save_file(tensors, source / "model.safetensors")
    with pytest.warns(UserWarning, match="tokenizer"):
        convert_checkpoint(source, tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model").eval()
    assert len(model.audio_tower.layers) == 0
    assert isinstance(model.text_tower.input_projection, torch.nn.Identity)
    assert model.get_text_features(torch.tensor([[0, 7, 2]])).pooler_output.shape == (1, 24)
    assert model.get_audio_features(torch.randn(1, 24000)).pooler_output.shape == (1, 24)


def test_layers_counted_from_the_end(tmp_path):
    source = tmp_path / "published"
    shutil.copytree(SOURCE, source)
    settings = json.loads((source / "config.json").read_text())
    settings["audio_model"]["use_layer_idx"] = -1
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="tokenizer"):
        convert_checkpoint(source, tmp_path / "model")
    assert MusicFMTextAudioConfig.from_pretrained(tmp_path / "model").audio_layer == 3


def test_checkpoints_that_do_not_fit(tmp_path):
    source = tmp_path / "published"
    shutil.copytree(SOURCE, source)
    settings = json.loads((source / "config.json").read_text())
    for changes, message in (
        ({"sigmoid_contrastive_loss": True}, "`sigmoid_contrastive_loss` True; supported: False"),
        ({"sr": 16000}, "`sr` 16000; supported: 24000"),
        ({"dim_latent": None}, "`projection_dim` must be a positive integer"),
    ):
        (source / "config.json").write_text(json.dumps(settings | {"mulan": settings["mulan"] | changes}))
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(source, tmp_path / "model")
    (source / "config.json").write_text(json.dumps(settings))
    (source / "text_config.json").unlink()
    with pytest.raises(OSError, match=r"encoder xlm-roberta-base cannot be loaded .* Save it as .*text_config\.json"):
        convert_checkpoint(source, tmp_path / "model")
    shutil.copy(SOURCE / "text_config.json", source)
    tensors = load_file(SOURCE / "model.safetensors")
    tensors["mulan.extra"] = tensors.pop("mulan.text_to_latents.bias")
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"(?s)missing: text_tower\.projection\.bias.*not known: mulan\.extra"):
        convert_checkpoint(source, tmp_path / "model")


def test_card(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.pipeline_tag == "zero-shot-audio-classification"
    assert card.text.splitlines()[0] == "# MuQ-MuLan, for Transformers"
    assert "clips of 3 s" in card.text
