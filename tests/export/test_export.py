"""`musicfm export`, and exported models in `embed` and `annotate`."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import music, padded_batch
from helpers.models import TINY, head, random_model
from safetensors import safe_open
from transformers import AutoModel

import musicfm_hf
from musicfm_hf import (
    MusicFMConfig,
    PassageSettings,
    WindowSettings,
    annotate,
    embed,
    export_model,
    load_annotators,
    load_embedder,
    load_exported,
)
from musicfm_hf.cli.main import main
from musicfm_hf.export import export
from musicfm_hf.export.check import Comparison, judge
from musicfm_hf.export.graph import QuantizerGraph, trace, traced_frames, truncate
from musicfm_hf.export.subjects import load_subject
from musicfm_hf.finetuning.joint_arguments import JointArguments
from musicfm_hf.finetuning.joint_files import save_joint
from musicfm_hf.finetuning.joint_model import JointModel
from musicfm_hf.inference.exported import ExportedEncoder

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

RATE = 24000


@pytest.fixture(scope="module")
def exported(encoder, tmp_path_factory) -> Path:
    """Layer 1 of the tiny encoder of two layers, in ONNX."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    main(["export", str(encoder), "--output_dir", str(folder), "--layer", "1"])
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[str]:
    """Two models with a head on equal encoders, which read layers 1 and 2."""
    folder = tmp_path_factory.mktemp("runs")
    for task, changes in {"chord": {"classifier_layer": 1}, "tagging": {"classifier_layer": 2}}.items():
        head(task, **changes).save_pretrained(folder / task)
    return [str(folder / "chord"), str(folder / "tagging")]


@pytest.fixture(scope="module")
def annotator(runs, tmp_path_factory) -> Path:
    """Both models in one ONNX graph."""
    folder = tmp_path_factory.mktemp("annotator") / "onnx"
    export_model(runs, folder)
    return folder


def test_the_graph(exported):
    model = onnx.load(exported / "model.onnx")
    inputs, outputs = (
        {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in values
        }
        for values in (model.graph.input, model.graph.output)
    )
    assert inputs == {"input_values": ["batch", "samples"], "attention_mask": ["batch", "samples"]}
    assert outputs == {"last_hidden_state": ["batch", "frames", 32], "frames_mask": ["batch", "frames"]}
    weights = {tensor.name for tensor in model.graph.initializer}
    assert any("layers.0." in name for name in weights)
    assert not any("layers.1." in name for name in weights)
    assert "STFT" not in {node.op_type for node in model.graph.node}


def test_the_description(exported, encoder):
    description = json.loads((exported / "export.json").read_text())
    assert description["models"] == [str(encoder)]
    assert description["hidden_states"] == {"1": "last_hidden_state"}
    check = description["check"]
    assert len(check["samples"]) == len(set(check["samples"])) == 4
    assert min(check["samples"]) == 1025
    assert 0 < check["largest_deviation"] < 2e-5
    assert check["largest_value"] > 1
    assert {path.name for path in exported.iterdir()} == {
        "model.onnx",
        "export.json",
        "config.json",
        "preprocessor_config.json",
    }


def test_padding_changes_nothing(exported, encoder):
    """Batches of other sizes and lengths than those that were traced or checked, down to the shortest audio."""
    model, original = load_exported(exported), AutoModel.from_pretrained(encoder).eval()
    for lengths in ((1025,), (30000, 1300, 70001)):
        values, mask = padded_batch([music(length / RATE) for length in lengths])
        output = model(values, mask).last_hidden_state
        for row, length in enumerate(lengths):
            expected = original(values[row : row + 1, :length], layer=1).last_hidden_state[0].detach()
            torch.testing.assert_close(output[row, : len(expected)], expected, rtol=0, atol=2e-5)


def test_embedding_of_a_song(exported, encoder):
    model, original = load_exported(exported), AutoModel.from_pretrained(encoder)
    assert isinstance(model, ExportedEncoder)
    audio = music(7.3)
    frames, times = embed(model, audio, RATE, window_seconds=2.0, batch_size=3)
    expected, expected_times = embed(original, audio, RATE, layer=1, window_seconds=2.0, batch_size=3)
    torch.testing.assert_close(frames, expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(times, expected_times)
    torch.testing.assert_close(
        embed(model, audio, RATE, layer=1, window_seconds=2.0).frames, frames, rtol=0, atol=2e-5
    )
    embedder, _ = load_embedder(str(exported))
    (song,) = embedder.embed_songs([("song", audio)], PassageSettings(2.0, 2.0))
    reference, _ = load_embedder(str(encoder), windows=WindowSettings(layer=1))
    (expected_song,) = reference.embed_songs([("song", audio)], PassageSettings(2.0, 2.0))
    np.testing.assert_allclose(song.vectors, expected_song.vectors, atol=2e-5)
    with pytest.raises(ValueError, match=r"with the hidden states 1, without 0: use `musicfm export MODEL --layer 0`"):
        model(torch.zeros(1, 24000), layer=0)
    with pytest.raises(ValueError, match="`layer` must be between 0 and 1, got 2"):
        embed(model, audio, RATE, layer=2)
    with pytest.raises(ValueError, match="has holes"):
        model(torch.zeros(1, 3000), torch.tensor([[1, 0, 1] * 1000]))
    with pytest.raises(TypeError, match="does not use the argument `layers`"):
        model(torch.zeros(1, 24000), layers=1)


def test_command_embed(exported, encoder, tmp_path, capsys):
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "music/song.wav", music(2.0), RATE)
    words = ["embed", str(tmp_path / "music"), "--model", str(exported), "--output_dir", str(tmp_path / "out")]
    main([*words, "--num_workers", "0"])
    with safe_open(tmp_path / "out/song.wav.safetensors", framework="pt") as file:
        metadata, frames = file.metadata(), file.get_tensor("embeddings")
    assert (metadata["layer"], metadata["dtype"]) == ("1", "float32")
    expected = embed(AutoModel.from_pretrained(encoder), tmp_path / "music/song.wav", layer=1).frames
    torch.testing.assert_close(frames, expected, rtol=0, atol=2e-5)
    before = (tmp_path / "out/song.wav.safetensors").stat().st_mtime_ns
    main([*words, "--num_workers", "0"])
    assert (tmp_path / "out/song.wav.safetensors").stat().st_mtime_ns == before
    assert "1 song, 0 with problems" in capsys.readouterr().out


def test_annotator_of_two_heads(annotator, runs, tmp_path):
    description = json.loads((annotator / "export.json").read_text())
    assert description["outputs"] == {
        "logits_chord": ["batch", "chord_frames", 25],
        "logits_tagging": ["batch", 2],
        "hidden_state_1": ["batch", "frames", 32],
        "hidden_state_2": ["batch", "frames", 32],
    }
    models, originals = load_exported(annotator), load_annotators(runs)
    assert models["chord"].musicfm is models["tagging"].musicfm
    audio = music(11.0)
    annotation, expected = (annotate(value, audio, RATE, window_seconds=3.0) for value in (models, originals))
    assert annotation.chords == expected.chords
    np.testing.assert_allclose(annotation.probabilities["chords"], expected.probabilities["chords"], atol=1e-5)
    assert annotation.tags == pytest.approx(expected.tags, abs=1e-5)
    values, mask = padded_batch([music(2.0), music(1.2)])
    logits = models["chord"](values, mask).logits
    torch.testing.assert_close(logits, originals[runs[0]](values, mask).logits, rtol=0, atol=1e-5)

    with pytest.raises(ValueError, match="are both for the task chord"):
        load_annotators([runs[0], annotator])

    soundfile.write(tmp_path / "song.wav", audio, RATE)
    words = ["annotate", str(tmp_path / "song.wav"), "--models", str(annotator), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--no_picture", "--window_seconds", "3"])
    assert stopped.value.code == 0
    lines = (tmp_path / "out/song.chords.lab").read_text().splitlines()
    assert [line.split()[2] for line in lines] == [chord.label for chord in expected.chords]


def test_heads_on_short_audio(tmp_path):
    """A label frame of the head for keys averages more frames than the items have."""
    folders = [str(tmp_path / task) for task in ("beat", "chord", "key")]
    for folder in folders:
        head(Path(folder).name).save_pretrained(folder)
    check = export_model(folders, tmp_path / "out").check
    assert min(check["samples"]) == 1025
    names = ["logits_beat", "logits_chord", "logits_key"]
    session = runtime.InferenceSession(tmp_path / "out/model.onnx")
    models = [load_annotators([folder])[folder] for folder in folders]
    for samples in (1025, 1920, 2880):
        audio = torch.from_numpy(music(samples / RATE))[None]
        inputs = {"input_values": audio.numpy(), "attention_mask": np.ones(audio.shape, bool)}
        for model, logits in zip(models, session.run(names, inputs), strict=True):
            torch.testing.assert_close(torch.from_numpy(logits), model(audio).logits, rtol=0, atol=2e-5)


def test_deviations_are_relative_to_the_largest_value_of_the_output():
    """Embeddings of norm 1 have small values; an item with small ones is judged by those of the others."""
    vector = torch.tensor([[0.06, 0.08], [0.0, 0.08]])
    small = Comparison("embeddings", 5, vector * 0.01 + 1e-6, vector * 0.01)
    assert judge([Comparison("embeddings", 7, vector, vector), small], "float32")["limit"] == pytest.approx(8e-6)
    with pytest.raises(ValueError, match=r"embeddings deviates by 5e-05 from PyTorch's, which reaches 0.08; at most"):
        judge([Comparison("embeddings", 5, vector + 5e-5, vector)], "float32")
    with pytest.raises(ValueError, match=r"logits deviates by 1e-07 .* which reaches 0; at most 1e-10 is allowed"):
        judge([Comparison("logits", 5, vector * 0 + 1e-7, vector * 0)], "float32")
    for precision in ("float32", "float16", "bfloat16", "int8"):
        assert judge([Comparison("logits", 5, vector * 0, vector * 0)], precision)["largest_deviation"] == 0


def test_single_values_in_low_precision():
    """Their cosine is 1 or -1, which says nothing about an output with one label."""
    value = torch.tensor([[4.0], [-0.01]])
    outcome = judge([Comparison("logits", 5, torch.tensor([[4.1], [0.05]]), value)], "int8")
    assert outcome["limit"] == pytest.approx(0.8)
    with pytest.raises(ValueError, match=r"deviates by 4 .*; at most 0.8 is allowed in int8: export in float32"):
        judge([Comparison("logits", 5, value * 2, value)], "int8")
    wide = torch.tensor([[3.0, 4.0]])
    with pytest.raises(ValueError, match=r"deviates by 2 .*; at most 0.4 is allowed in bfloat16"):
        judge([Comparison("logits", 5, wide * 1.5, wide)], "bfloat16")


def test_failures_of_a_runtime_are_reported(encoder, tmp_path, monkeypatch, capsys):
    """The written graph lacks an output, or is no graph."""

    def write(graph, config, frames, folder, *settings):
        graph.outputs = graph.outputs | {"missing": ("batch",)}
        shutil.copy(tmp_path / "graph.onnx", folder / "model.onnx")

    export_model(encoder, tmp_path / "first", layer=1)
    monkeypatch.setattr(export, "write_model", write)
    graph = onnx.load(tmp_path / "first/model.onnx")
    graph.graph.output.pop(0)
    onnx.save(graph, tmp_path / "graph.onnx")
    with pytest.raises(SystemExit, match=r"Not exported: The exported model fails for inputs of the shape \(2, \d+\)"):
        main(["export", str(encoder), "--output_dir", str(tmp_path / "out"), "--layer", "1"])
    (tmp_path / "graph.onnx").write_bytes(b"none")
    with pytest.raises(SystemExit, match=r"Not exported: The exported model cannot be loaded by onnx"):
        main(["export", str(encoder), "--output_dir", str(tmp_path / "out"), "--layer", "1"])
    assert not (tmp_path / "out").exists()


def test_a_model_that_deviates_leaves_no_folder(exported, encoder, tmp_path, monkeypatch):
    """The written graph has the weights of another model."""
    random_model(MusicFMConfig(**TINY | {"num_hidden_layers": 2}), seed=1).save_pretrained(tmp_path / "other")

    def write(graph, config, frames, folder, *settings):
        shutil.copy(exported / "model.onnx", folder)

    monkeypatch.setattr(export, "write_model", write)
    with pytest.raises(ValueError, match=r"last_hidden_state deviates by .* from PyTorch's"):
        export_model(tmp_path / "other", tmp_path / "out", layer=1)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    export_model(encoder, tmp_path / "out", layer=1)
    with pytest.raises(ValueError, match="deviates"):
        export_model(tmp_path / "other", tmp_path / "out", layer=1, overwrite=True)
    assert load_exported(tmp_path / "out").config.num_hidden_layers == 1


def test_judging():
    vector = torch.tensor([[3.0, 4.0], [0.0, 8.0]])
    turned = torch.tensor([[4.0, 3.0], [0.0, 8.0]])
    same = [Comparison("logits", 5, vector + 0.0005, vector)]
    assert judge(same, "float32") == {
        "samples": [5],
        "largest_deviation": pytest.approx(0.0005, rel=1e-3),
        "largest_value": 8.0,
        "smallest_cosine": pytest.approx(1.0),
        "limit": pytest.approx(0.0008),
    }
    with pytest.raises(ValueError, match=r"logits deviates by 1 from PyTorch's, which reaches 8; at most 0.0008 is"):
        judge([*same, Comparison("logits", 7, turned, vector)], "float32")
    with pytest.raises(
        ValueError, match=r"is 0.9600, and must be at least 0.98 in int8: export in float32"
    ):  # 24 / 25
        judge([Comparison("logits", 7, turned, vector)], "int8")
    with pytest.raises(ValueError, match="not finite"):
        judge([Comparison("logits", 7, vector / 0, vector)], "int8")
    tokens = torch.arange(200)[:, None]
    changed = tokens.clone()
    changed[:2] += 1
    assert judge([Comparison("tokens", 7, changed, tokens)], "float32")["tokens_that_differ"] == 0.01
    changed[:3] += 1
    with pytest.raises(ValueError, match=r"1.5% of the tokens differ"):
        judge([Comparison("tokens", 7, changed, tokens)], "float32")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "tflite"}, "must be one of onnx, openvino, aoti, got 'tflite'"),
        ({"dtype": "bfloat16"}, "The format onnx supports float32 and float16, not bfloat16"),
        ({"quantize": "int4"}, "`quantize` must be 'int8' or None, got 'int4'"),
        ({"quantize": "int8", "dtype": "float16"}, "int8 needs the format onnx or openvino and the dtype float32"),
        ({"device": "cuda"}, "`device` is only for the format aoti"),
        ({"part": "decoder"}, "`part` must be one of model, encoder, quantizer, got 'decoder'"),
        ({"layer": 0}, "`layer` must be between 1 and 2, got 0"),
        ({"layer": 3}, "`layer` must be between 1 and 2, got 3"),
        (
            {"part": "quantizer", "layer": 1},
            "`layer` is for encoders; this would be a quantizer. Pass `--part encoder`",
        ),
        ({"part": "quantizer", "dtype": "float16"}, "A quantizer is exported in float32 only"),
    ],
)
def test_settings_that_do_not_go_together(encoder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        export_model(encoder, tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_go_together(encoder, runs, tmp_path):
    with pytest.raises(ValueError, match="must all have a head"):
        export_model([encoder, runs[0]], tmp_path / "out")
    head("beat", seed=1).save_pretrained(tmp_path / "beat")
    with pytest.raises(
        ValueError, match="differ, so they cannot share a pass: export each model to a folder of its own"
    ):
        export_model([runs[0], tmp_path / "beat"], tmp_path / "out")
    with pytest.raises(ValueError, match="a model with a head, which determines the layer"):
        export_model(runs[0], tmp_path / "out", layer=1)


def test_models_that_were_trained_jointly(runs, tmp_path):
    """All heads are exported, unless the encoder is asked for."""
    folder, tasks = str(tmp_path / "joint"), ["chord", "tagging"]
    arguments = JointArguments(tasks=tasks, model=folder, data=["none"])
    models = dict(zip(tasks, load_annotators(runs).values(), strict=True))
    save_joint(JointModel(models, dict.fromkeys(tasks, 1.0), dict.fromkeys(tasks, 1.0)), arguments, folder)
    joint, separate = (load_subject(folders, "model", None) for folders in ([folder], runs))
    assert (joint.part, list(joint.heads)) == ("heads", tasks)
    values, mask = padded_batch([music(1.0)])
    torch.testing.assert_close(joint.expected(values, mask), separate.expected(values, mask), rtol=0, atol=1e-5)
    for part, layer in (("encoder", None), ("encoder", 1), ("model", 1)):
        encoder = load_subject([folder], part, layer)
        assert (encoder.part, encoder.config.task_folders) == ("encoder", None)
    with pytest.raises(ValueError, match=r"joint/chord and .*chord are both for the task chord"):
        load_subject([folder, runs[0]], "model", None)


def test_encoder_of_a_model_with_a_head(runs):
    """The configuration of the shorter encoder is valid, and its last hidden state is that of the layer."""
    encoder, original = (AutoModel.from_pretrained(runs[1]).eval() for _ in range(2))
    assert encoder.config.classifier_layer == 2
    truncate(encoder, 1)
    config = MusicFMConfig.from_dict(encoder.config.to_dict())
    assert (config.num_hidden_layers, config.classifier_layer, config.use_final_layer_norm) == (1, None, False)
    audio = torch.from_numpy(music(1.0))[None]
    expected = original(audio, layer=1).last_hidden_state
    torch.testing.assert_close(encoder(audio).last_hidden_state, expected, rtol=0, atol=0)
    truncate(original, 3)
    assert original.config.use_final_layer_norm


def test_only_exported_models_are_replaced(exported, encoder, tmp_path):
    with pytest.raises(FileExistsError, match=r"holds an exported model\. Choose another folder, or pass `overwrite`"):
        export_model(encoder, exported)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an exported model"):
        export_model(encoder, tmp_path, overwrite=True)


@pytest.mark.parametrize(("module", "extra"), [("onnxscript", "onnx"), ("openvino", "openvino"), ("nncf", "openvino")])
def test_a_missing_library_is_named(encoder, tmp_path, monkeypatch, module, extra):
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module} is not installed: pip install 'musicfm_hf\[{extra}\]'"):
        export_model(encoder, tmp_path / "out", extra, quantize="int8")


def test_a_missing_runtime_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'musicfm_hf\[onnx\]'"):
        load_exported(exported)


def test_folders_that_do_not_fit(exported, encoder):
    with pytest.raises(FileNotFoundError, match="holds no exported model: `musicfm export` writes one"):
        load_exported(encoder)
    with pytest.raises(ValueError, match="holds an exported encoder"):
        load_annotators([exported])
    with pytest.raises(ValueError, match="cannot use the device mps"):
        load_exported(exported, device="mps")


def test_quantizer_of_any_length():
    """More tokens than are compared with the codes at once."""
    config = MusicFMConfig(**TINY | {"n_fft": 256, "num_mel_bins": 16, "codebook_size": 32})
    model = musicfm_hf.MusicFMQuantizerModel(config).eval()
    program = trace(QuantizerGraph(model), config, traced_frames(config, []))
    audio = 0.1 * torch.randn(1, 4200 * config.samples_per_frame + 300, generator=torch.Generator().manual_seed(0))
    tokens, mask = program.module()(audio, torch.ones_like(audio, dtype=torch.bool))
    assert tokens.shape == (1, 4200, 1)
    assert mask.all()
    assert (tokens != model(audio).tokens).double().mean() < 0.01


def test_openvino(encoder, tmp_path):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    result = export_model(encoder, tmp_path / "out", "openvino", layer=1)
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".xml", ".bin", ".json"}
    assert 0 < result.check["largest_deviation"] < 2e-5
    audio = music(3.0)
    frames = embed(load_exported(tmp_path / "out"), audio, RATE, window_seconds=2.0).frames
    expected = embed(AutoModel.from_pretrained(encoder), audio, RATE, layer=1, window_seconds=2.0).frames
    torch.testing.assert_close(frames, expected, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="OpenVINO cannot use the device tpu, only"):
        load_exported(tmp_path / "out", device="tpu")
