"""A run of pretraining that version 0.1.0 began (tests/fixtures/version_0_1) goes on."""

import shutil

import pytest
import torch
from helpers.paths import FIXTURES
from helpers.recipes import run_recipe
from helpers.runs import history, results, without_clock
from safetensors.torch import load_file

ENCODER = FIXTURES / "version_0_1/encoder"
SIZE = ["hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=32"]
SIZE += ["subsampling_conv_channels=4", "codebook_size=32", "conv_depthwise_kernel_size=5"]
FLAGS = [
    "--validation_crops",
    "2",
    "--max_steps",
    "6",
    "--eval_steps",
    "3",
    "--save_steps",
    "3",
    "--use_cpu",
    "true",
    "--disable_tqdm",
    "true",
]
FLAGS += ["--report_to", "none", "--set", *SIZE]


def test_a_run_goes_on(tmp_path, monkeypatch):
    """It has taken its last step already: evaluation, weights and history are those that version 0.1.0 found."""
    monkeypatch.chdir(tmp_path)
    run_recipe(monkeypatch, "prepare.py", "synthetic", "--songs", "16", "--seconds", "12", "--output_dir", "data")
    run = tmp_path / "encoder"
    run.mkdir()
    shutil.copytree(ENCODER / "checkpoint-6", run / "checkpoint-6")
    shutil.copy(ENCODER / "stats.json", run)
    music = ["--train", "data/train.txt", "--validation", "data/valid.txt"]
    run_recipe(monkeypatch, "pretrain.py", "tiny", *music, *FLAGS, "--output_dir", "encoder")
    expected = results(ENCODER)
    found = results(run)
    for name in ("eval_loss", "eval_accuracy", "eval_accuracy_copy", "eval_unigram_cross_entropy"):
        assert found["scores"][name] == pytest.approx(expected["scores"][name], abs=1e-5)
    expected["data"]["effects"] = 0.0
    for group in ("model", "data", "training", "music", "parameters", "problems"):
        assert found[group] == expected[group]
    assert [entry["step"] for entry in history(run)] == [entry["step"] for entry in without_clock(expected["history"])]
    weights = load_file(ENCODER / "model.safetensors")
    for name, tensor in load_file(run / "model.safetensors").items():
        torch.testing.assert_close(tensor, weights[name])
    with pytest.raises(SystemExit, match="was made with hidden_act 'swish', not 'gelu'"):
        run_recipe(monkeypatch, "pretrain.py", "tiny", *music, *FLAGS, "hidden_act=gelu", "--output_dir", "encoder")
