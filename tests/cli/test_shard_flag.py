"""`--shard`, `--dtype auto` and `--quantize int8` of `musicfm embed`, `annotate` and `index`."""

import argparse
import json
import shutil

import pytest
import soundfile
import torch
from accelerate import PartialState
from helpers.audio import music
from helpers.models import TINY, head
from safetensors import safe_open

from musicfm_hf import MusicFMConfig, MusicFMInt8Config, SearchIndex
from musicfm_hf.cli.flags import model_precision
from musicfm_hf.cli.main import main
from musicfm_hf.data.shares import WHOLE, Share
from musicfm_hf.inference import exported, precision

NAMES = [f"{number}.wav" for number in range(6)] + ["broken.mp3"]
SECOND_OF_TWO = [NAMES[position] for position in Share(2, 2).select([(name, None) for name in NAMES])]


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    """Songs, one of them broken, and a model with a head."""
    root = tmp_path_factory.mktemp("shards")
    (root / "songs").mkdir()
    for number in range(6):
        soundfile.write(root / f"songs/{number}.wav", music(1.0, seed=number), 24000)
    (root / "songs/broken.mp3").write_text("no music")
    head("chord").save_pretrained(root / "chord")
    (root / "model").symlink_to(encoder)
    return root


COMMANDS = {
    "embed": "--model model --num_workers 0 --device cpu",
    "annotate": "--models chord --num_workers 0 --device cpu --no_picture --format json --existing skip",
    "index": "--model model --num_workers 0 --device cpu --passage_seconds 1",
}


@pytest.fixture(params=COMMANDS)
def run(request, folder, monkeypatch, tmp_path, capsys):
    """A function that runs one of the commands with further flags; what it printed."""
    monkeypatch.chdir(folder)

    def command(*flags: str) -> str:
        capsys.readouterr()
        words = [request.param, "songs", "--output_dir", str(tmp_path), *COMMANDS[request.param].split(), *flags]
        try:
            main(words)
        except SystemExit as end:
            if end.code not in (0, 1):
                raise
        return capsys.readouterr().out

    command.name = request.param
    return command


def test_jobs_share_a_folder_and_a_later_run_finds_all_done(run, tmp_path):
    total = {job: len(Share(job, 2).select([(name, None) for name in NAMES])) for job in (1, 2)}
    for job in (2, 1):
        printed = run("--shard", f"{job}/2")
        broken = ("broken.mp3" in SECOND_OF_TWO) == (job == 2)
        assert f"{total[job]} songs, {int(broken)} with problems" in printed
        if run.name == "index":
            assert f"{total[job] - broken} songs of shard {job}/2 have passages" in printed
            assert not (tmp_path / "index.json").exists()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "problems" not in path.name}
    printed = run()
    if run.name == "index":
        assert "6 songs (0 embedded now)" in printed
        assert json.loads((tmp_path / "index.json").read_text())["songs"] == 6
    else:
        assert {path: path.stat().st_mtime_ns for path in files} == files
        endings = {"embed": "*.safetensors", "annotate": "[!.]*.json"}
        assert len(list(tmp_path.glob(endings[run.name]))) == 6
    if run.name == "annotate":
        assert "7 songs, 6 skipped, 1 with problems" in printed
    else:
        assert (tmp_path / "problems.tsv").read_text().startswith("broken.mp3\t")
        problems = {path.name: path.read_text()[:10] for path in tmp_path.glob("problems-*")}
        (first, second) = ("", "broken.mp3") if "broken.mp3" in SECOND_OF_TWO else ("broken.mp3", "")
        assert problems == {"problems-1-of-2.tsv": first, "problems-2-of-2.tsv": second}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "3/2"], "the number of jobs, such as 3/64"),
        (
            ["--shard", "1/2", "--dtype", "auto"],
            "With `--shard`, pass `--dtype float32`, `--dtype bfloat16` or `--quantize int8`",
        ),
    ],
)
def test_mistakes_are_explained(run, flags, message, capsys):
    with pytest.raises(SystemExit) as end:
        run(*flags)
    assert message in str(end.value.code) + capsys.readouterr().err


@pytest.mark.parametrize(
    "chosen",
    [{"dtype": torch.bfloat16}, {"dtype": torch.float32, "quantization_config": MusicFMInt8Config()}],
    ids=["bfloat16", "int8"],
)
def test_the_precision_is_chosen(run, tmp_path, monkeypatch, chosen):
    """It is recorded like one that was named."""
    calls = []

    def choose(config, device):
        calls.append((config.hidden_size, str(device)))
        return chosen

    monkeypatch.setattr(precision, "fastest_precision", choose)
    run("--dtype", "auto")
    assert calls == [(32, "cpu")]
    expected = {"dtype": "bfloat16"} if len(chosen) == 1 else {"dtype": "float32", "quantization": "int8"}
    if run.name == "embed":
        with safe_open(tmp_path / "0.wav.safetensors", "pt") as file:
            made = file.metadata()
    elif run.name == "annotate":
        path = tmp_path / ".0.made_from.json"
        record = json.loads(path.read_text())
        run("--dtype", made_dtype := record["dtypes"]["chord"].removeprefix("torch."))
        rounds = json.loads(path.read_text())["models"] != record["models"]  # the digest of the weights
        made = {"dtype": made_dtype, "quantization": "int8" if rounds else None}
    else:
        made = json.loads((tmp_path / "index.json").read_text())["made"]
    assert {name: made.get(name) for name in ("dtype", "quantization")} == {"quantization": None} | expected


@pytest.fixture
def choose(tmp_path, monkeypatch):
    """A function that returns the precision for models, whose names are their widths, and the width that it is for."""
    for width in (32, 64):
        MusicFMConfig(**TINY | {"hidden_size": width}).save_pretrained(tmp_path / str(width))
    saved = MusicFMConfig(**TINY | {"hidden_size": 96})
    saved.quantization_config = MusicFMInt8Config().to_dict()
    saved.save_pretrained(tmp_path / "int8")
    measured = []

    def fastest(config, device):
        measured.append(config.hidden_size)
        return {"dtype": torch.float32, "quantization_config": MusicFMInt8Config()}

    monkeypatch.setattr(precision, "fastest_precision", fastest)
    monkeypatch.setattr(exported, "is_exported", lambda name: "exported" in str(name))

    def choose(*names, quantize=None):
        measured.clear()
        arguments = argparse.Namespace(dtype="auto", quantize=quantize, shard=WHOLE)
        found = model_precision(arguments, lambda: [str(tmp_path / name) for name in names], "cpu", PartialState())
        assert found["dtype"] is torch.float32
        return found["quantization_config"] is not None, list(measured)

    return choose


def test_the_precision_is_that_of_the_widest_model(choose):
    assert choose("32", "64") == (True, [64])
    assert choose("64", "int8") == choose("int8", "64") == (True, [64])  # which has its precision
    assert choose("int8") == (False, [])
    assert choose("64", "exported") == choose("exported") == (False, [])  # they cannot be quantized
    assert choose("64", quantize="int8") == (True, [])


def test_int8(run, tmp_path, folder):
    """It is recorded, and songs that were embedded or annotated in float32 are not taken for its results."""
    run("--quantize", "int8")
    if run.name == "embed":
        with safe_open(tmp_path / "0.wav.safetensors", "pt") as file:
            assert file.metadata()["quantization"] == "int8"
            rounded = file.get_tensor("embeddings")
        run()
        with safe_open(tmp_path / "0.wav.safetensors", "pt") as file:
            assert "quantization" not in file.metadata()
            exact = file.get_tensor("embeddings")
        assert 1e-5 < (exact - rounded).abs().max() < 0.05
    elif run.name == "annotate":
        before = (tmp_path / ".0.made_from.json").read_text()
        run()
        assert (tmp_path / ".0.made_from.json").read_text() != before
    else:
        made = json.loads((tmp_path / "index.json").read_text())["made"]
        assert made["quantization"] == "int8"
        index = SearchIndex.load(tmp_path)
        shutil.copy(folder / "songs/3.wav", tmp_path / "copy.wav")
        (first, *_) = index.search(tmp_path / "copy.wav")
        assert first.song == "3.wav"
        with pytest.raises(SystemExit, match="--quantize: it was made with int8, now none"):
            run()


def test_int8_needs_a_cpu(run, monkeypatch):
    monkeypatch.setattr("musicfm_hf.cli.flags._device", str)  # as on a machine with a GPU
    with pytest.raises(SystemExit, match="is for CPUs, not for cuda"):
        run("--quantize", "int8", "--device", "cuda")
