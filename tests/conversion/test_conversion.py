import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.paths import FIXTURES
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, Wav2Vec2FeatureExtractor

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining, MusicFMModel, MusicFMQuantizerModel, convert_checkpoint
from musicfm_hf.model.masking_musicfm import sample_mask
from musicfm_hf.training.recipes import read_recipe

CHECKPOINT = FIXTURES / "musicfm/pretrained.pt"
FAMILIES = ["musicfm", "muq", "mert_base", "mert_large", "mert2"]


def state_dict():
    return torch.load(CHECKPOINT, weights_only=True)["state_dict"]


def save(folder, tensors, name="pretrained.pt"):
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": tensors}, folder / name)
    shutil.copy(FIXTURES / "musicfm/stats.json", folder)
    return folder / name


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The recorded checkpoint of each family, converted."""
    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        convert_checkpoint(CHECKPOINT if family == "musicfm" else FIXTURES / family, folder / family)
    return {family: folder / family for family in FAMILIES}


def changed(folder: Path, family: str, name: str = "config.json", **values) -> Path:
    """A copy of a recorded checkpoint, with other values in one of its JSON files; `None` takes one out."""
    shutil.copytree(FIXTURES / family, folder)
    content = json.loads((folder / name).read_text()) | values
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


def test_folder_is_complete(tmp_path):
    result = convert_checkpoint(CHECKPOINT, tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "README.md", "conversion.json", "config.json", "model.safetensors", "preprocessor_config.json",
        "adapters_musicfm.py", "configuration_musicfm.py", "contrastive_musicfm.py", "fast_inference_musicfm.py",
        "feature_extraction_musicfm.py", "frames_musicfm.py", "heads_musicfm.py", "int8_musicfm.py",
        "keywords_musicfm.py", "losses_musicfm.py",
        "masking_musicfm.py",
        "modeling_musicfm.py", "normalization_musicfm.py", "outputs_musicfm.py", "padding_musicfm.py",
        "pipeline_musicfm.py",
        "quantization_musicfm.py", "spectrogram_musicfm.py", "subsampling_musicfm.py",
    }  # fmt: skip
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 3, 4)
    assert (config.intermediate_size, config.subsampling_conv_channels, config.num_mel_bins) == (96, 16, 128)
    assert (config.num_codebooks, config.codebook_size, config.codebook_dim) == (1, 256, 16)
    assert (config.mel_mean, config.mel_std) == (6.768444971712967, 18.417922652295623)
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "model").min_samples == 1025
    assert result.variant is None
    assert result.num_parameters == sum(p.numel() for p in AutoModel.from_pretrained(tmp_path / "model").parameters())
    assert set(result.unused) == {
        "cls_token", "conformer.embed_positions.inv_freq", "conformer.pos_conv_embed.conv.bias",
        "conformer.pos_conv_embed.conv.weight_g", "conformer.pos_conv_embed.conv.weight_v",
        "preprocessor_melspec_2048.mel_stft.mel_scale.fb", "preprocessor_melspec_2048.mel_stft.spectrogram.window",
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_class_loads_its_part_without_a_word(folders, family):
    """The encoder alone, the quantizer alone, or the whole: nothing missing, nothing left over."""
    classes = {AutoModel: MusicFMModel}
    if family in ("musicfm", "muq"):
        classes |= {AutoModelForPreTraining: MusicFMForPreTraining, MusicFMQuantizerModel: MusicFMQuantizerModel}
    for auto_class, model_class in classes.items():
        model, info = auto_class.from_pretrained(folders[family], output_loading_info=True)
        assert type(model) is model_class
        assert not any(info.values()), info


def test_quantizer_and_head_are_the_published_ones(folders):
    published, model = state_dict(), AutoModelForPreTraining.from_pretrained(folders["musicfm"])
    assert model.quantizer.projection[0].equal(published["model.quantizer_melspec_2048_0.random_projection"])
    assert model.quantizer.codebook[0].equal(published["model.quantizer_melspec_2048_0.codebook"])
    assert model.head.weight.equal(published["model.linear.weight"])
    published = load_file(FIXTURES / "muq/model.safetensors")
    model = AutoModelForPreTraining.from_pretrained(folders["muq"])
    for stage in range(2):
        own = f"model.rvq.quantizers.{stage}."
        assert model.quantizer.codebook[stage].equal(published[f"{own}codebook.weight"])
        assert model.quantizer.in_magnitude[stage].equal(published[f"{own}in_proj.weight_g"].flatten())
        assert model.quantizer.out_direction[stage].equal(published[f"{own}out_proj.weight_v"][..., 0])


def test_without_quantizer_and_head_there_is_the_encoder_alone(tmp_path, folders):
    parts = ("model.quantizer_", "model.linear.")
    tensors = {key: value for key, value in state_dict().items() if not key.startswith(parts)}
    assert len(tensors) == len(state_dict()) - 4
    result = convert_checkpoint(save(tmp_path, tensors), tmp_path / "model")
    assert AutoConfig.from_pretrained(tmp_path / "model").architectures == ["MusicFMModel"]
    assert "quantizer and prediction head are not included" in (tmp_path / "model/README.md").read_text()
    model, info = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values()), info
    whole = AutoModel.from_pretrained(folders["musicfm"])
    assert result.num_parameters == whole.num_parameters()
    for (name, tensor), other in zip(model.state_dict().items(), whole.state_dict().values(), strict=True):
        assert tensor.equal(other), name


def test_a_head_without_its_quantizer_is_incomplete(tmp_path):
    tensors = {key: value for key, value in state_dict().items() if "quantizer" not in key}
    with pytest.raises(ValueError, match=r"missing: quantizer\.codebook\n +missing: quantizer\.projection"):
        convert_checkpoint(save(tmp_path, tensors), tmp_path / "model")


# MuQ and MERT


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_of_each_family_are_the_public_ones(folders, family, attention):
    """With gradients, and without, where batch norm is folded into the convolutions."""
    recorded = load_file(FIXTURES / family / "expected.safetensors")
    model = AutoModel.from_pretrained(folders[family], attn_implementation=attention).eval()
    for with_gradient in (True, False):
        with torch.set_grad_enabled(with_gradient):
            hidden_states = model(recorded["input_values"], output_hidden_states=True).hidden_states
        assert len(hidden_states) == 4
        for index, hidden_state in enumerate(hidden_states):
            torch.testing.assert_close(hidden_state, recorded[f"hidden_states.{index}"], rtol=0, atol=1e-4)


def test_configurations(folders, tmp_path):
    muq = MusicFMConfig.from_pretrained(folders["muq"])
    assert (muq.quantizer_type, muq.num_codebooks, muq.codebook_size) == ("residual_vq", 2, 1024)
    assert (muq.mask_prob, muq.mask_seconds, muq.frame_rate, muq.num_attention_heads) == (0.6, 0.4, 25.0, 4)
    for family, norm_first in (("mert_base", False), ("mert_large", True)):
        mert = MusicFMConfig.from_pretrained(folders[family])
        assert (mert.encoder_type, mert.front_end, mert.do_stable_layer_norm) == ("bert", "waveform", norm_first)
        assert (mert.frame_rate, mert.do_normalize, mert.hidden_act) == (75.0, True, "gelu")
        assert (mert.mask_type, mert.mask_prob, mert.mask_frames) == ("embedding", 0.8, 5)
        assert AutoFeatureExtractor.from_pretrained(folders[family]).min_samples == 400
    mert2 = MusicFMConfig.from_pretrained(folders["mert2"])
    assert (mert2.front_end, mert2.convnext_channels, mert2.convnext_depths) == ("convnext", [128, 32, 48], [1, 2, 1])
    assert (mert2.frame_rate, mert2.min_samples, mert2.do_normalize, mert2.hidden_act) == (25.0, 1025, False, "gelu")
    assert (mert2.context_seconds, mert2.hidden_dropout, mert2.attention_dropout) == (30.0, 0.0, 0.0)
    published = load_file(FIXTURES / "mert2/model.safetensors")
    assert mert2.mel_mean == published["feature_extractor.mel_mean"].tolist()
    assert mert2.mel_std == published["feature_extractor.mel_std"].tolist()
    full_song = changed(tmp_path / "published", "mert2", variant="FullSong", context_seconds=360.0)
    convert_checkpoint(full_song, tmp_path / "model")
    assert MusicFMConfig.from_pretrained(tmp_path / "model").context_seconds == 360.0


def test_mel_of_mert2_is_the_public_one(folders):
    recorded = load_file(FIXTURES / "mert2/expected.safetensors")
    mel = AutoModel.from_pretrained(folders["mert2"]).log_mel(recorded["input_values"], None)
    torch.testing.assert_close(mel.transpose(1, 2), recorded["log_mel"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding_side", [None, "right", "left"])
def test_mert2_in_a_padded_batch_as_the_public_one_alone(folders, attention, padding_side):
    """The public code runs items of different lengths one by one; statistics over time must not include padding."""
    recorded = load_file(FIXTURES / "mert2/expected.safetensors")
    audio, short = recorded["input_values"], recorded["short_input_values"][0]
    batch, mask = short[None], None
    if padding_side is not None:
        mask = torch.ones(2, audio.shape[1], dtype=torch.long)
        padding = slice(len(short), None) if padding_side == "right" else slice(0, audio.shape[1] - len(short))
        mask[1, padding] = 0
        batch = torch.stack([audio[0], torch.full_like(audio[0], 7.0)])
        batch[1, mask[1].bool()] = short
    model = AutoModel.from_pretrained(folders["mert2"], attn_implementation=attention).eval()
    hidden_states = model(batch, mask, output_hidden_states=True).hidden_states
    for index, hidden_state in enumerate(hidden_states):
        expected = recorded[f"short_hidden_states.{index}"][0]
        torch.testing.assert_close(hidden_state[-1, : len(expected)], expected, rtol=0, atol=1e-4)
    if mask is not None:
        assert model.frames_mask(mask).sum(-1).tolist() == [70, 45]


def test_feature_extractor_of_mert_is_that_of_transformers(folders):
    waveforms = [music(1.0) + 0.1, 3 * music(0.5, seed=1)]
    theirs = Wav2Vec2FeatureExtractor(sampling_rate=24000, do_normalize=True, return_attention_mask=True)
    expected = theirs(waveforms, sampling_rate=24000, padding=True, return_tensors="np")
    ours = AutoFeatureExtractor.from_pretrained(folders["mert_base"])
    found = ours(waveforms, sampling_rate=24000, return_tensors="np")
    np.testing.assert_allclose(found["input_values"], expected["input_values"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found["attention_mask"], expected["attention_mask"])


def test_masked_frames_of_mert(folders):
    """The learned vector is in the file; with it, masked pretraining can go on from these weights."""
    model = MusicFMForPreTraining.from_pretrained(folders["mert_base"])
    published = torch.load(FIXTURES / "mert_base/pytorch_model.bin", weights_only=True)
    assert model.musicfm.encoder_input.masked_spec_embed.equal(published["masked_spec_embed"])
    audio = torch.from_numpy(music(1.0))[None]
    mask = sample_mask(model.config, torch.tensor([24000]), 24000, torch.Generator().manual_seed(0))
    assert 3.0 < model.eval()(audio, mask_time_indices=mask).loss < 20.0


@pytest.mark.parametrize("names", [("weight_g", "weight_v"), ("original0", "original1")])
def test_weight_norm_of_mert_by_either_name(folders, tmp_path, names):
    tensors = torch.load(FIXTURES / "mert_base/pytorch_model.bin", weights_only=True)
    stem = "encoder.pos_conv_embed.conv."
    for old, new in zip(("weight_g", "weight_v"), names, strict=True):
        tensors[stem + ("parametrizations.weight." if new.startswith("o") else "") + new] = tensors.pop(stem + old)
    shutil.copytree(FIXTURES / "mert_base", tmp_path / "published", ignore=shutil.ignore_patterns("*.bin"))
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "published/model.safetensors")
    convert_checkpoint(tmp_path / "published", tmp_path / "model")
    expected = load_file(folders["mert_base"] / "model.safetensors")
    assert all(tensor.equal(expected[key]) for key, tensor in load_file(tmp_path / "model/model.safetensors").items())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feat_extract_norm", "layer"),
        ("conv_bias", True),
        ("feat_proj_layer_norm", False),
        ("conv_pos_batch_norm", True),
        ("feature_extractor_cqt", True),
        ("deepnorm", True),
    ],
)
def test_settings_of_mert_that_are_not_supported(tmp_path, name, value):
    source = changed(tmp_path / "published", "mert_base", **{name: value})
    with pytest.raises(ValueError, match=rf"The checkpoint has `{name}` {value!r}; supported:"):
        convert_checkpoint(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_mert2_needs_its_settings_and_statistics(tmp_path):
    with pytest.raises(ValueError, match="lacks the setting 'subsampling_depths'"):
        convert_checkpoint(changed(tmp_path / "cut", "mert2", subsampling_depths=None), tmp_path / "model")
    with pytest.raises(ValueError, match=r"has `win_length` 1024; supported: 2048"):
        convert_checkpoint(changed(tmp_path / "short", "mert2", win_length=1024), tmp_path / "model")
    source = changed(tmp_path / "bare", "mert2")
    tensors = load_file(source / "model.safetensors")
    del tensors["feature_extractor.mel_std"]
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tensor `feature_extractor\.mel_std`"):
        convert_checkpoint(source, tmp_path / "model")


@pytest.mark.parametrize(("name", "value"), [("label_rate", 50), ("features", ["encodec"]), ("use_rvq_target", False)])
def test_settings_of_muq_that_are_not_supported(tmp_path, name, value):
    source = changed(tmp_path / "published", "muq", **{name: value})
    with pytest.raises(ValueError, match=rf"The checkpoint has `{name}` .*; supported:"):
        convert_checkpoint(source, tmp_path / "model")


def test_folders_that_are_neither(tmp_path):
    other = changed(tmp_path / "other", "mert_base", model_type="hubert")
    with pytest.raises(
        ValueError, match=r"other/config\.json is not the configuration of MuQ, MERT, MERT-v2 or MuQ-MuLan"
    ):
        convert_checkpoint(other, tmp_path / "model")
    (other / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="is not the configuration of MuQ, MERT, MERT-v2 or MuQ-MuLan"):
        convert_checkpoint(other, tmp_path / "model")
    with pytest.raises(ValueError, match="lacks the setting 'hidden_size'"):
        convert_checkpoint(changed(tmp_path / "cut", "mert_base", hidden_size=None), tmp_path / "model")
    with pytest.raises(ValueError, match="lacks the setting 'w2v2_config'"):
        convert_checkpoint(changed(tmp_path / "cut muq", "muq", w2v2_config=None), tmp_path / "model")
    (tmp_path / "cut/pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json but neither model\.safetensors nor pytorch_model\.bin"):
        convert_checkpoint(tmp_path / "cut", tmp_path / "model")
    quiet = changed(tmp_path / "quiet", "mert_base")
    (quiet / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="it specifies whether waveforms are normalized"):
        convert_checkpoint(quiet, tmp_path / "model")
    unsaid = changed(tmp_path / "unsaid", "mert_base", "preprocessor_config.json", do_normalize=None)
    with pytest.raises(ValueError, match="lacks the setting 'do_normalize'"):
        convert_checkpoint(unsaid, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_codebooks_of_different_shape(tmp_path):
    source = changed(tmp_path / "published", "muq")
    tensors = load_file(source / "model.safetensors")
    tensors["model.rvq.quantizers.1.codebook.weight"] = torch.zeros(512, 16)
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"codebooks .* have different shapes: .*codebook\.weight"):
        convert_checkpoint(source, tmp_path / "model")


def test_full_size_layouts():
    """The published numbers of weights, of which some are never used, on no memory at all."""
    with torch.device("meta"):
        musicfm = MusicFMForPreTraining(MusicFMConfig())
        muq = MusicFMForPreTraining(MusicFMConfig(quantizer_type="residual_vq", num_codebooks=8, codebook_size=1024))
        mert = {"encoder_type": "bert", "front_end": "waveform", "mask_type": "embedding", "hop_length": 320}
        base = MusicFMConfig(**mert, hidden_size=768, num_attention_heads=12, intermediate_size=3072)
        mert2 = MusicFMModel(MusicFMConfig(**read_recipe("mert2", kind="pretrain")["config"]))
        base, large = (
            MusicFMModel(config)
            for config in (base, MusicFMConfig(**mert, num_hidden_layers=24, do_stable_layer_norm=True))
        )
    unused = 1024 + 1024 + 128 + 1024 * 64 * 128  # a token, and a positional convolution with weight norm
    assert musicfm.num_parameters() + unused == 328_932_480
    quantizer = sum(tensor.numel() for tensor in muq.quantizer.buffers())
    assert muq.num_parameters() + quantizer + unused == 333_401_472
    assert base.num_parameters() == pytest.approx(94.4e6, abs=0.05e6)
    assert large.num_parameters() == pytest.approx(315.4e6, abs=0.05e6)
    assert mert2.num_parameters() == 632_295_808


# The card


def test_card_tells_the_truth(folders):
    card = ModelCard.load(folders["musicfm"] / "README.md")
    assert "which is not one of the published files" in card.text
    assert "# MusicFM, for Transformers" in card.text
    assert "arxiv.org/abs/2311.03318" in card.text
    assert "| encoder | 3 conformer layers, 145,824 parameters |" in card.text
    assert "25 frames per second, 48 values each" in card.text
    assert "| mel statistics | mean 6.768444971712967, standard deviation 18.417922652295623 |" in card.text
    assert "quantizer and prediction head are included: 1 codebook of 256 codes" in card.text
    assert "license is not stated" in card.text  # anybody may have trained this file
    assert "CC-BY-NC" not in card.text
    assert card.data.license == "other"


def test_card_of_muq(folders):
    card = ModelCard.load(folders["muq"] / "README.md")
    assert "# MuQ, for Transformers" in card.text
    assert "arxiv.org/abs/2501.01108" in card.text
    assert "`model.safetensors` in the layout of [OpenMuQ/MuQ-large-msd-iter]" in card.text
    assert "3 conformer layers" in card.text
    assert "| mel statistics | mean 6.768444971712967" in card.text
    assert "quantizer and prediction head are included: 2 codebooks of 1024 codes" in card.text
    assert "published under CC-BY-NC-4.0" in card.text
    assert card.data.license == "cc-by-nc-4.0"
    for other in ("2311.03318", "2306.00107", "MIT License", "MERT"):
        assert other not in card.text


def test_card_of_mert2(folders):
    card = ModelCard.load(folders["mert2"] / "README.md")
    assert "# MERT-v2, for Transformers" in card.text
    assert "| encoder | 3 conformer layers, 294,384 parameters |" in card.text
    assert "25 frames per second, 48 values each" in card.text
    assert "trained on audio of up to\n30 s" in card.text
    assert "in a gated repository" in card.text
    assert card.data.license == "cc-by-nc-4.0"
    for other in ("2311.03318", "2306.00107", "MIT License", "MuQ"):
        assert other not in card.text


@pytest.mark.parametrize("family", ["mert_base", "mert_large"])
def test_card_of_mert(folders, family):
    card = ModelCard.load(folders[family] / "README.md")
    assert "# MERT, for Transformers" in card.text
    assert "arxiv.org/abs/2306.00107" in card.text
    assert "| encoder | 3 bert layers, 84,704 parameters |" in card.text
    assert "75 frames per second, 48 values each" in card.text
    assert "the feature extractor normalizes it to zero mean and unit variance" in card.text
    assert "quantizer and prediction head are not included" in card.text
    assert "published under CC-BY-NC-4.0" in card.text
    assert card.data.license == "cc-by-nc-4.0"
    for other in ("2311.03318", "2501.01108", "MIT License", "mel statistics", "codebook", "conformer"):
        assert other not in card.text


@pytest.mark.parametrize("family", FAMILIES)
def test_snippet_of_the_card_runs(folders, family, monkeypatch):
    text = (folders[family] / "README.md").read_text()
    snippet = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folders[family].parent)
    soundfile.write("song.wav", music(1.0), 24000, subtype="FLOAT")
    scope = {}
    exec(snippet, scope)
    assert scope["embeddings"].shape == (1, 74 if family.startswith("mert_") else 25, 48)
    assert scope["embeddings"].isfinite().all()


def test_missing_extra_and_misshaped_are_named(tmp_path):
    tensors = state_dict()
    del tensors["model.conformer.layers.1.ffn1.output_dense.bias"]
    tensors["model.conformer.layers.2.extra.weight"] = torch.zeros(3)
    tensors["model.conv.linear.bias"] = torch.zeros(5)
    source = save(tmp_path, tensors)
    with pytest.raises(ValueError, match="does not fit") as caught:
        convert_checkpoint(source, tmp_path / "model")
    message = str(caught.value)
    assert "missing: musicfm.layers.1.ffn1.output_dense.bias" in message
    assert "not known: conformer.layers.2.extra.weight" in message
    assert "shape: conv.linear.bias gives (5,) where (48,) is needed" in message
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
    with pytest.raises(ValueError, match="must contain a dictionary of tensors"):
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
    with pytest.raises(FileNotFoundError, match=r"msd_stats\.json or stats\.json was not found beside"):
        convert_checkpoint(source, tmp_path / "model")
    with pytest.raises(ValueError, match="must be JSON with the numbers"):
        convert_checkpoint(source, tmp_path / "model", stats=source)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        convert_checkpoint(tmp_path / "nothing.pt", tmp_path / "model")
    with pytest.raises(ValueError, match="choose `variant`"):
        convert_checkpoint("minzwon/MusicFM", tmp_path / "model")


def test_nothing_is_overwritten_unasked_and_nothing_half_written(tmp_path, monkeypatch):
    output = tmp_path / "model"
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="is not empty"):
        convert_checkpoint(CHECKPOINT, output)
    with pytest.raises(FileExistsError, match="does not hold just a converted model"):
        convert_checkpoint(CHECKPOINT, output, overwrite=True)
    (output / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="does not hold just a converted model"):  # a published one, or a run
        convert_checkpoint(CHECKPOINT, output, overwrite=True)
    (output / "config.json").rename(output / "conversion.json")

    def disk_full(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("musicfm_hf.conversion.convert.write_card", disk_full)
        with pytest.raises(OSError, match="No space left"):
            convert_checkpoint(CHECKPOINT, output, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["conversion.json", "mine.txt", "model"]
    convert_checkpoint(CHECKPOINT, output, overwrite=True)
    assert (output / "model.safetensors").is_file()
    assert not (output / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_source_is_never_replaced(tmp_path, monkeypatch):
    folder = tmp_path / "published"
    source = save(folder, state_dict())
    (folder / "conversion.json").write_text("{}")
    for output in (folder, folder / ".." / "published"):
        with pytest.raises(FileExistsError, match="it is not replaced"):
            convert_checkpoint(source, output, overwrite=True)
    monkeypatch.chdir(folder)
    with pytest.raises(FileExistsError, match="it is not replaced"):
        convert_checkpoint(source, ".", overwrite=True)
    assert source.is_file()


def test_published_files_are_recognized(tmp_path, monkeypatch):
    source = save(tmp_path, state_dict())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr("musicfm_hf.conversion.musicfm.PUBLISHED_SHA256", {digest[:8]: "msd"})
    result = convert_checkpoint(source, tmp_path / "msd", variant="msd")
    assert (result.sha256, result.variant) == (digest, "msd")
    assert "Million Song Dataset" in (tmp_path / "msd/README.md").read_text()
    with pytest.raises(ValueError, match="is the published msd checkpoint, not fma"):
        convert_checkpoint(source, tmp_path / "fma", variant="fma")
    (tmp_path / "stats.json").write_text('{"melspec_2048_mean": 1.0, "melspec_2048_std": 2.0}')
    with pytest.warns(UserWarning, match=r"has mean 1\.0 and standard deviation 2\.0"):
        convert_checkpoint(source, tmp_path / "other")
