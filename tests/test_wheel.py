"""The wheel, installed where there is no checkout: every step of a user's way through the command."""

import csv
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicfm_hf.data.synthetic import write_song

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "tests/fixtures/musicfm/pretrained.pt"
QUICK = "--max_steps 2 --eval_steps 2 --save_steps 2 --warmup_steps 0 --per_device_train_batch_size 2"
QUICK += " --dataloader_num_workers 0 --transpose false --use_cpu true --report_to none --head_size 8 --probe_steps 2"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs words in a folder without a checkout, with the wheel first on the path; gives what was printed."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels", ROOT]
    subprocess.run([*pip, *map(str, build)], check=True)
    (wheel,) = (folder / "wheels").glob("*.whl")
    install = ["install", "--no-deps", "--no-index", "--target", folder / "site", wheel]
    subprocess.run([*pip, *map(str, install)], check=True)
    libraries = sysconfig.get_path("purelib")
    # -S: no `.pth` files, by which an editable install would be found.
    start = f"import sys; sys.path[:0] = [{str(folder / 'site')!r}]; sys.path.append({libraries!r})"
    music = folder / "music"
    music.mkdir()

    def run(*words: str) -> str:
        code = f"{start}; sys.argv[0] = 'musicfm'; from musicfm_hf.cli.main import main; main()"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-S", "-c", code, *map(str, words)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def songs(installed) -> Path:
    """Three short songs of one's own, with chords and beats beside them."""
    folder = installed.folder / "mine"
    folder.mkdir()
    for number in range(3):
        song = write_song(number, installed.folder / "composed", 8.0)
        audio, rate = soundfile.read(song.audio)
        soundfile.write(folder / f"song {number}.wav", audio, rate)
        with open(folder / f"song {number}.chords.lab", "w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows(song.chords)
    return folder


@pytest.fixture(scope="module")
def encoder(installed) -> Path:
    installed("convert", CHECKPOINT, "--output_dir", "encoder")
    return installed.folder / "encoder"


@pytest.fixture(scope="module")
def data(installed, songs) -> Path:
    installed("prepare", "folder", "--source", songs, "--output_dir", "data", "--fractions", "0.34", "0.33", "0.33",
              "--seed", "5")  # fmt: skip
    return installed.folder / "data"


@pytest.fixture(scope="module")
def adapter(installed, encoder, data) -> Path:
    words = f"finetune chord/lora --model {encoder} --data {data} --output_dir adapter --results results {QUICK}"
    installed(*words.split())
    return installed.folder / "adapter"


def test_the_package_comes_from_the_wheel(installed):
    assert "Usage: musicfm COMMAND" in installed("--help")
    files = {path.relative_to(installed.folder / "site/musicfm_hf").as_posix() for path in
             (installed.folder / "site/musicfm_hf").rglob("*")}  # fmt: skip
    assert {"py.typed", "recipes/pretrain/small.yaml", "hub_cards/finetuned.md", "hub_cards/space/app.py"} <= files
    assert "data/pop909_songs.tsv" in files


def test_the_small_model_annotates(installed, songs):
    installed("annotate", songs / "song 0.wav", "--no_picture", "--device", "cpu")
    annotation = json.loads((installed.folder / "annotations/song 0.json").read_text())
    assert {"beats", "chords", "sections", "keys", "tags", "tempo", "time_signatures"} <= annotation.keys()


def test_push_describes_itself(installed):
    assert "--base_model" in installed("push", "--help")


def test_converting_and_embedding(installed, encoder, songs):
    assert (encoder / "model.safetensors").is_file()
    printed = installed("embed", songs, "--model", encoder, "--output_dir", "embeddings", "--num_workers", "0")
    assert "3 songs, 0 with problems" in printed
    assert len(list((installed.folder / "embeddings").glob("*.safetensors"))) == 3


def test_indexing_and_searching(installed, encoder, songs):
    words = ["--model", encoder, "--output_dir", "index", "--num_workers", "0", "--device", "cpu"]
    assert "3 songs (3 embedded now), 3 passages, index type exact" in installed("index", songs, *words)
    printed = installed("search", "index", songs / "song 0.wav", "--device", "cpu")
    assert sorted(line.split("  ")[-1] for line in printed.splitlines()) == ["song 1.wav", "song 2.wav"]


def test_preparing_a_folder(data):
    info = json.loads((data / "info.json").read_text())
    assert info["counts"] == {"train": 1, "valid": 1, "test": 1, "left out": 0}


def test_fine_tuning_evaluating_and_annotating(installed, adapter, data, songs):
    result = json.loads((installed.folder / "results/adapter.json").read_text())
    installed("evaluate", adapter, "--data", data, "--output_file", "scores.json", "--device", "cpu")
    scores = json.loads((installed.folder / "scores.json").read_text())["models"]["adapter"]["scores"]
    np.testing.assert_allclose(scores["majmin"]["mean"], result["scores"]["test"]["majmin"]["mean"], atol=1e-6)
    installed("annotate", songs / "song 0.wav", "--models", adapter, "--output_dir", "chords", "--device", "cpu")
    names = {path.name for path in (installed.folder / "chords").iterdir() if not path.name.startswith(".")}
    assert names == {"song 0.json", "song 0.chords.lab", "song 0.png"}
