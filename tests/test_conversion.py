import hashlib
import json
import shutil

import pytest
import torch
from conftest import FIXTURES
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from musicfm_hf import MusicFMConfig, convert_checkpoint

CHECKPOINT = FIXTURES / "musicfm/pretrained.pt"


def state_dict():
    return torch.load(CHECKPOINT, weights_only=True)["state_dict"]


def save(folder, tensors, name="pretrained.pt"):
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": tensors}, folder / name)
    shutil.copy(FIXTURES / "musicfm/stats.json", folder)
    return folder / name


def test_folder_is_complete(tmp_path):
    result = convert_checkpoint(CHECKPOINT, tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "configuration_musicfm.py",
        "convolution_musicfm.py", "feature_extraction_musicfm.py", "modeling_musicfm.py",
    }  # fmt: skip
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 3, 4)
    assert (config.intermediate_size, config.subsampling_conv_channels, config.num_mel_bins) == (96, 16, 128)
    assert (config.mel_mean, config.mel_std) == (6.768444971712967, 18.417922652295623)
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "model").min_samples == 1025
    assert result.variant is None
    assert result.num_parameters == sum(p.numel() for p in AutoModel.from_pretrained(tmp_path / "model").parameters())
    assert set(result.unused) == {
        "cls_token", "conformer.embed_positions.inv_freq", "conformer.pos_conv_embed.conv.bias",
        "conformer.pos_conv_embed.conv.weight_g", "conformer.pos_conv_embed.conv.weight_v", "linear.bias",
        "linear.weight", "preprocessor_melspec_2048.mel_stft.mel_scale.fb",
        "preprocessor_melspec_2048.mel_stft.spectrogram.window", "quantizer_melspec_2048_0.codebook",
        "quantizer_melspec_2048_0.random_projection",
    }  # fmt: skip


def test_card_tells_the_truth(converted):
    card = ModelCard.load(converted / "README.md")
    assert "which is not one of the\npublished files" in card.text
    assert "3 conformer layers" in card.text
    assert "25 frames a second, 48 values each" in card.text
    assert card.data.license == "mit"


def test_snippet_of_the_card_runs(converted, monkeypatch):
    text = (converted / "README.md").read_text()
    snippet = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(converted)
    scope = {"audio": torch.zeros(24000).numpy()}
    exec(snippet, scope)
    assert scope["embeddings"].shape == (1, 25, 48)


def test_missing_extra_and_misshaped_are_named(tmp_path):
    tensors = state_dict()
    del tensors["model.conformer.layers.1.ffn1.output_dense.bias"]
    tensors["model.conformer.layers.2.extra.weight"] = torch.zeros(3)
    tensors["model.conv.linear.bias"] = torch.zeros(5)
    source = save(tmp_path, tensors)
    with pytest.raises(ValueError, match="does not fit") as caught:
        convert_checkpoint(source, tmp_path / "model")
    message = str(caught.value)
    assert "missing: layers.1.ffn1.output_dense.bias" in message
    assert "not known: conformer.layers.2.extra.weight" in message
    assert "shape: conv.linear.bias is (5,), which gives (5,) where (48,) is needed" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pretrained.pt", "stats.json"]


def test_not_a_checkpoint(tmp_path):
    shutil.copy(FIXTURES / "musicfm/stats.json", tmp_path)
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pt is not a checkpoint that can be read safely"):
        convert_checkpoint(tmp_path / "text.pt", tmp_path / "model")
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="has no tensor"):
        convert_checkpoint(tmp_path / "other.pt", tmp_path / "model")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a dictionary of tensors"):
        convert_checkpoint(tmp_path / "list.pt", tmp_path / "model")


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the checkpoint was run')",))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    shutil.copy(FIXTURES / "musicfm/stats.json", tmp_path)
    torch.save({"state_dict": Harmful()}, tmp_path / "pretrained.pt")
    with pytest.raises(ValueError, match="can be read safely"):
        convert_checkpoint(tmp_path / "pretrained.pt", tmp_path / "model")


def test_files_are_found(tmp_path):
    source = save(tmp_path / "two", state_dict(), "pretrained_msd.pt")
    save(tmp_path / "two", state_dict(), "pretrained_fma.pt")
    stats = json.loads((FIXTURES / "musicfm/stats.json").read_text())
    (tmp_path / "two/fma_stats.json").write_text(json.dumps(stats | {"melspec_2048_mean": 1.5}))
    with pytest.raises(ValueError, match=r"one checkpoint.*pretrained_fma.pt, pretrained_msd.pt"):
        convert_checkpoint(tmp_path / "two", tmp_path / "model")
    convert_checkpoint(tmp_path / "two", tmp_path / "fma", variant="fma")
    assert MusicFMConfig.from_pretrained(tmp_path / "fma").mel_mean == 1.5
    (tmp_path / "two/stats.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no msd_stats\.json or stats\.json beside"):
        convert_checkpoint(source, tmp_path / "model")
    with pytest.raises(ValueError, match="must be JSON with the numbers"):
        convert_checkpoint(source, tmp_path / "model", stats=source)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        convert_checkpoint(tmp_path / "nothing.pt", tmp_path / "model")
    with pytest.raises(ValueError, match="choose `variant`"):
        convert_checkpoint("minzwon/MusicFM", tmp_path / "model")


def test_nothing_is_overwritten_unasked_and_nothing_half_written(tmp_path, monkeypatch):
    output = tmp_path / "model"
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="is not empty"):
        convert_checkpoint(CHECKPOINT, output)
    with pytest.raises(FileExistsError, match="other things than a converted model"):
        convert_checkpoint(CHECKPOINT, output, overwrite=True)
    (output / "config.json").write_text("{}")

    def disk_full(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("musicfm_hf.conversion.write_card", disk_full)
        with pytest.raises(OSError, match="No space left"):
            convert_checkpoint(CHECKPOINT, output, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "mine.txt", "model"]
    convert_checkpoint(CHECKPOINT, output, overwrite=True)
    assert (output / "model.safetensors").is_file()
    assert not (output / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_source_is_never_replaced(tmp_path, monkeypatch):
    folder = tmp_path / "published"
    source = save(folder, state_dict())
    (folder / "config.json").write_text("{}")
    for output in (folder, folder / ".." / "published"):
        with pytest.raises(FileExistsError, match="it is not replaced"):
            convert_checkpoint(source, output, overwrite=True)
    monkeypatch.chdir(folder)
    with pytest.raises(FileExistsError, match="it is not replaced"):
        convert_checkpoint(source, ".", overwrite=True)
    assert source.is_file()


def test_published_files_are_recognised(tmp_path, monkeypatch):
    source = save(tmp_path, state_dict())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr("musicfm_hf.conversion.PUBLISHED_SHA256", {digest[:8]: "msd"})
    result = convert_checkpoint(source, tmp_path / "msd", variant="msd")
    assert (result.sha256, result.variant) == (digest, "msd")
    assert "Million Song Dataset" in (tmp_path / "msd/README.md").read_text()
    with pytest.raises(ValueError, match="is the published msd checkpoint, not fma"):
        convert_checkpoint(source, tmp_path / "fma", variant="fma")
    (tmp_path / "stats.json").write_text('{"melspec_2048_mean": 1.0, "melspec_2048_std": 2.0}')
    with pytest.warns(UserWarning, match=r"says mean 1\.0, standard deviation 2\.0"):
        convert_checkpoint(source, tmp_path / "other")
