"""Exports of every family, part and precision, AOTInductor, and the program of docs/export.md. Each takes seconds."""

import json
import shutil
import subprocess

import pytest
import soundfile
import torch
from helpers.audio import music, padded_batch
from helpers.documents import blocks
from helpers.models import TINY, head, random_model
from transformers import AutoModel

from musicfm_hf import (
    MusicFMConfig,
    MusicFMForAudioFrameClassification,
    MusicFMForPreTraining,
    MusicFMForXVector,
    MusicFMQuantizerModel,
    annotate,
    embed,
    export_model,
    load_annotators,
    load_exported,
)
from musicfm_hf.finetuning.arguments import TaskArguments
from musicfm_hf.finetuning.heads import add_lora, save_finetuned

pytest.importorskip("onnxscript", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("openvino", reason="needs the extra openvino")

RATE = 24000
SMALL = TINY | {"num_hidden_layers": 1}
HUBERT = {
    "encoder_type": "bert",
    "front_end": "waveform",
    "conv_dim": [16] * 7,
    "hop_length": 320,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "do_normalize": True,
}
FAMILIES = {
    "muq": {"mel_mean": [6.0] * 128, "mel_std": [18.0] * 128},
    "mert-95m": HUBERT,
    "mert-330m": HUBERT | {"do_stable_layer_norm": True},
    "mert2": {
        "front_end": "convnext",
        "convnext_channels": [16, 24, 32],
        "convnext_depths": [1, 2, 1],
        "subsampling_time_strides": [1, 2, 2],
        "num_mel_bins": 16,
        "conformer_conv_norm": "layer_norm",
        "rotary_after_projection": True,
        "use_final_layer_norm": False,
    },
}
QUANTIZERS = {
    "random projection": {"num_codebooks": 2},
    "residual": {"quantizer_type": "residual_vq", "num_codebooks": 2},
    "k-means": {
        "quantizer_type": "kmeans",
        "kmeans_features": ["mel", "chroma"],
        "num_codebooks": 2,
        "codebook_size": 64,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, kind, tmp_path):
    random_model(MusicFMConfig(**SMALL | FAMILIES[family])).save_pretrained(tmp_path / "model")
    check = export_model(tmp_path / "model", tmp_path / "out", kind).check
    assert 0 < check["largest_deviation"] < 5e-5
    audio = music(3.0)
    frames, times = embed(load_exported(tmp_path / "out"), audio, RATE, window_seconds=2.0)
    expected = embed(AutoModel.from_pretrained(tmp_path / "model"), audio, RATE, window_seconds=2.0)
    torch.testing.assert_close(frames, expected.frames, rtol=0, atol=5e-5)
    assert list(times) == list(expected.times)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_quantizers(quantizer, kind, tmp_path):
    torch.manual_seed(0)
    model = MusicFMForPreTraining(MusicFMConfig(**SMALL | QUANTIZERS[quantizer])).eval()
    model.save_pretrained(tmp_path / "model")
    check = export_model(tmp_path / "model", tmp_path / "out", kind, part="quantizer").check
    assert check["tokens_that_differ"] <= 0.01
    values, mask = padded_batch([music(3.0), music(2.0, seed=1)])
    output = load_exported(tmp_path / "out")(values, mask)
    expected = MusicFMQuantizerModel.from_pretrained(tmp_path / "model")(values, mask)
    assert output.tokens_mask.equal(expected.tokens_mask)
    assert (output.tokens != expected.tokens)[expected.tokens_mask].double().mean() < 0.01
    assert output.tokens.unique().numel() > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_embedding_head(kind, tmp_path):
    settings = {"contrastive_loss": "info_nce", "pitch_frames": 5, "xvector_output_dim": 8}
    torch.manual_seed(0)
    MusicFMForXVector(MusicFMConfig(**SMALL | settings)).eval().save_pretrained(tmp_path / "model")
    result = export_model(tmp_path / "model", tmp_path / "out", kind)
    assert result.outputs == {"embeddings": ["batch", 8], "hidden_state_1": ["batch", "frames", 32]}
    values, mask = padded_batch([music(3.0), music(2.0, seed=1)])
    expected = MusicFMForXVector.from_pretrained(tmp_path / "model").eval()(values, mask).embeddings
    torch.testing.assert_close(load_exported(tmp_path / "out")(values, mask).embeddings, expected, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_all_tasks_in_one_graph(kind, tmp_path):
    """Heads at several rates and layers, one of them with a sum of layers, and one for clips."""
    folders = []
    for task in ("beat", "chord", "structure", "key", "tagging"):
        folders.append(str(tmp_path / task))
        head(task).save_pretrained(folders[-1])
    export_model(folders, tmp_path / "out", kind)
    audio = music(12.0)
    annotation, expected = (
        annotate(models, audio, RATE, window_seconds=5.0)
        for models in (load_annotators([tmp_path / "out"]), load_annotators(folders))
    )
    assert annotation.beats.times.tolist() == expected.beats.times.tolist()
    for name in ("chords", "sections", "keys"):
        assert getattr(annotation, name) == getattr(expected, name)
    assert annotation.tags == pytest.approx(expected.tags, abs=1e-5)


@pytest.mark.slow
def test_adapter(tmp_path):
    """The exported graph has the sum of the weights."""
    head("chord").save_pretrained(tmp_path / "base")
    model = MusicFMForAudioFrameClassification.from_pretrained(tmp_path / "base").eval()
    adapted = add_lora(model, TaskArguments(task="chord", model=str(tmp_path / "base"), data="none"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    save_finetuned(model, adapted, tmp_path / "adapter")
    values, mask = padded_batch([music(3.0), music(2.0, seed=1)])
    (original,) = load_annotators([tmp_path / "adapter"]).values()
    expected = original(values, mask).logits
    assert (expected - head("chord")(values, mask).logits).abs().max() > 0.01
    export_model(tmp_path / "adapter", tmp_path / "out")
    torch.testing.assert_close(load_exported(tmp_path / "out")(values, mask).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings", "ratio"),
    [
        ("onnx", {"quantize": "int8"}, 0.6),
        ("openvino", {"quantize": "int8"}, 0.6),
        ("onnx", {"dtype": "float16"}, 0.7),
        ("openvino", {"dtype": "float16"}, 0.6),
    ],
)
def test_lower_precision(kind, settings, ratio, tmp_path):
    """Linear layers dominate the size; the mel spectrogram is as in float32."""
    pytest.importorskip("nncf", reason="needs the extra openvino")
    config = TINY | {"hidden_size": 256, "intermediate_size": 2048, "num_mel_bins": 16, "n_fft": 256}
    random_model(MusicFMConfig(**config)).save_pretrained(tmp_path / "model")
    sizes = {}
    for name, values in {"plain": {}, "low": settings}.items():
        check = export_model(tmp_path / "model", tmp_path / name, kind, **values).check
        sizes[name] = sum(path.stat().st_size for path in (tmp_path / name).glob("model.*"))
    assert 0.99 < check["smallest_cosine"] < 1 - 1e-9
    assert sizes["low"] < ratio * sizes["plain"]


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")
def test_aoti(tmp_path):
    random_model(MusicFMConfig(**SMALL)).save_pretrained(tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "out", "aoti")
    audio = music(3.0)
    frames = embed(load_exported(tmp_path / "out"), audio, RATE, window_seconds=2.0).frames
    expected = embed(AutoModel.from_pretrained(tmp_path / "model"), audio, RATE, window_seconds=2.0).frames
    torch.testing.assert_close(frames, expected, rtol=0, atol=2e-5)


def test_aoti_needs_a_compiler(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="AOTInductor needs a C"):
        export_model(encoder, tmp_path / "out", "aoti")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm")
def test_program_of_the_guide(tmp_path):
    """The vector that the JavaScript prints is the mean of the frames in PyTorch."""
    installed = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "onnxruntime-web@1.30.0"], cwd=tmp_path, capture_output=True
    )
    if installed.returncode:
        pytest.skip("onnxruntime-web cannot be installed from the npm registry")
    random_model(MusicFMConfig(**SMALL)).save_pretrained(tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "exported")
    soundfile.write(tmp_path / "song.wav", music(2.0), RATE, subtype="PCM_16")
    (block,) = blocks("js")
    (tmp_path / "embed.mjs").write_text(block.code)
    done = subprocess.run(
        ["node", "embed.mjs", "exported", "song.wav"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    audio, _ = soundfile.read(tmp_path / "song.wav", dtype="float32")
    expected = AutoModel.from_pretrained(tmp_path / "model").eval()(torch.from_numpy(audio)[None]).last_hidden_state
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected[0].mean(0).detach(), rtol=0, atol=1e-5)
