"""The scripts, run as a user runs them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.paths import FIXTURES, ROOT
from safetensors import safe_open

from musicfm_hf.cli.main import main


def run(*arguments, launcher=(sys.executable,)):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [*launcher, *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_convert(tmp_path):
    done = run("recipes/convert.py", "--source", FIXTURES / "musicfm/pretrained.pt", "--output", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert "(not one of the published files)" in done.stdout
    assert "left out    3 tensors: never called, because positions are rotary" in done.stdout
    with pytest.raises(SystemExit, match=r"Not converted: .* is not empty"):
        main(["convert", str(FIXTURES / "musicfm/pretrained.pt"), "--output_dir", str(tmp_path / "model")])


@pytest.fixture
def songs(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", music(1.0 + number, seed=number), 24000)
    (folder / "broken.mp3").write_text("no music")
    return folder


def test_embed(converted, songs, tmp_path):
    arguments = ["recipes/embed.py", songs, "--model", converted, "--output", tmp_path / "out"]
    arguments += ["--layer", "2", "--pool", "mean", "--dtype", "bfloat16", "--device", "cpu"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "5 songs, 1 with problems:" in done.stdout
    assert "audio s/s" in done.stderr
    assert (tmp_path / "out/problems.tsv").read_text().startswith("broken.mp3\t")
    with safe_open(tmp_path / "out/3.wav.safetensors", "pt") as file:
        assert file.get_tensor("embeddings").shape == (48,)
        assert file.get_tensor("embeddings").dtype == torch.bfloat16
        metadata = file.metadata()
    assert (metadata["layer"], metadata["model"]) == ("2", str(converted))
    assert len(metadata["revision"]) == 64


def test_embed_shared_between_processes(converted, songs, tmp_path):
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    done = run("recipes/embed.py", songs, "--model", converted, "--output", tmp_path / "out", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("5 songs, 1 with problems:") == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == [
        f"{number}.wav.safetensors" for number in range(4)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--layer", "9"], "`layer` must be between 0 and 3"),
        (["--overlap-seconds", "30"], "overlap"),
        (["--pool", "-1"], "or a rate above 0 and up to 1000 Hz"),
        (["--batch-size", "0"], "must be at least 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:--.* is now --:FutureWarning")
def test_embed_explains_wrong_settings(converted, songs, tmp_path, capsys, changes, message):
    words = ["embed", str(songs), "--model", str(converted), "--output", str(tmp_path / "out"), *changes]
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code not in (None, 0)
    assert message in str(error.value) + capsys.readouterr().err


def test_commands_of_the_demo_are_those_that_a_user_gives(monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda words: commands.append(words) or SimpleNamespace(returncode=0))
    runpy.run_path(str(ROOT / "recipes/demo.py"))["musicfm"]("pretrain", "tiny", "--train", Path("a b"))
    assert commands == [[sys.executable, "-m", "musicfm_hf", "pretrain", "tiny", "--train", "a b"]]
    assert capsys.readouterr().out == "\n$ musicfm pretrain tiny --train 'a b'\n"


@pytest.mark.slow
def test_demo(tmp_path):
    done = run("recipes/demo.py", "--output_dir", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    score = json.loads((tmp_path / "demo/results/chords.json").read_text())["scores"]["test"]["majmin"]["mean"]
    assert score > 0.8
    assert f"chords of 5 test songs: {score:.3f}" in done.stdout
    assert (tmp_path / "demo/43.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "demo/43.chords.lab").read_text().startswith("0.000000\t")
