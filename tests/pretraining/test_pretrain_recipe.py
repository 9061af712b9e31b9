"""recipes/pretrain.py and recipes/train_quantizer.py: what they leave behind, interrupted, and misused."""

import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.paths import ROOT
from helpers.pretraining import RATE, SHORT, SIZE, TINY, run_and_die, songs
from helpers.recipes import run_recipe
from helpers.runs import assert_same_run, history, losses, results
from matplotlib.image import imread
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, TrainingArguments

from musicfm_hf import MusicFMForPreTraining, MusicFMModel, MusicFMQuantizerModel, load_audio
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.crops import CropLoader, fixed_crops
from musicfm_hf.data.sources import ListedSource, open_source
from musicfm_hf.data.splits import split_by_name
from musicfm_hf.model.masking_musicfm import sample_mask
from musicfm_hf.pretraining.arguments import PretrainingArguments, QuantizerArguments
from musicfm_hf.pretraining.data import MaskCrops, hold_out_validation, noise_generators
from musicfm_hf.pretraining.model import values_with_statistics
from musicfm_hf.pretraining.trainer import PretrainingTrainer

SONGS = 7


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Seven songs as files, in three `.parquet` files and in three tar shards, and three others to validate on."""
    root = tmp_path_factory.mktemp("songs")
    for folder in ("files", "valid", "parquet", "tar"):
        (root / folder).mkdir()
    rows = []
    for number in range(SONGS + 3):
        path = root / ("files" if number < SONGS else "valid") / f"{number}.wav"
        soundfile.write(path, music(2.0 + 0.1 * number, seed=number), RATE)
        rows.append({"path": path.name, "bytes": path.read_bytes()})
    for shard, part in enumerate((rows[:1], rows[1:3], rows[3:SONGS])):
        pq.write_table(pa.table({"audio": part}), root / f"parquet/{shard}.parquet")
        with tarfile.open(root / f"tar/{shard}.tar", "w") as archive:
            for row in part:
                member = tarfile.TarInfo(row["path"])
                member.size = len(row["bytes"])
                archive.addfile(member, io.BytesIO(row["bytes"]))
    return root


def pretrain(server, output: Path, *flags, die_at: tuple[str, int] | None = None, script: str = "pretrain.py") -> str:
    """Run the recipe to its end, or to where it is killed; gives what it printed."""
    log = output.parent / f"{output.name}.log"
    environment = {} if die_at is None else {"DIE_IN": die_at[0], "DIE_AT": str(die_at[1])}
    arguments = [str(ROOT / "recipes" / script), *map(str, flags), "--output_dir", str(output)]
    code, text = server.run(run_and_die, arguments, log=log, environment=environment)
    assert code == (0 if die_at is None else -signal.SIGKILL), text
    return text


# A run from beginning to end


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run on files, from the command line."""
    output = tmp_path_factory.mktemp("finished") / "run"
    flags = [*TINY, *songs(data), "--gradient_accumulation_steps", "2", "--report_to", "tensorboard"]
    command = [sys.executable, "recipes/pretrain.py", *flags, "--output_dir", str(output)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def test_results_describe_the_model(finished):
    found = results(finished)
    model = AutoModelForPreTraining.from_pretrained(finished)
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert model.state_dict().keys() == load_file(finished / "model.safetensors").keys()
    assert json.loads(found["model"]["config"])["num_hidden_layers"] == 2
    assert "codebook_size=32" in found["model"]["set"]


def test_results_have_the_settings_of_the_run(finished):
    found = results(finished)
    assert found["data"]["train"] == ["files"]  # no absolute path
    assert found["data"]["crop_seconds"] == 1.0
    training = found["training"]
    assert (training["max_steps"], training["learning_rate"], training["world_size"]) == (12, 2e-3, 1)
    assert (training["per_device_train_batch_size"], training["gradient_accumulation_steps"]) == (2, 2)


def test_results_have_the_environment_of_the_run(finished):
    found = results(finished)
    assert found["versions"].keys() >= {"musicfm_hf", "transformers", "torch", "accelerate", "datasets"}
    assert found["machine"]
    assert found["problems"] == {}
    trained = next(entry["train_runtime"] for entry in found["history"] if "train_runtime" in entry)
    assert trained - 1 <= found["seconds"] < 300


def test_results_have_every_step_of_training(finished):
    entries = [entry for entry in results(finished)["history"] if "loss" in entry]
    assert [entry["step"] for entry in entries] == list(range(1, 13))
    assert abs(entries[0]["loss"] - math.log(32)) < 0.3
    for entry in entries:
        assert entry["loss"] == pytest.approx(entry["cross_entropy"], rel=1e-5)
        assert entry["audio_hours"] == pytest.approx(entry["step"] * 2 * 2 * 1.0 / 3600)
        assert entry["epoch"] == pytest.approx(entry["step"] / 12)
        assert entry["audio_hours_per_second"] > 0
        assert 0 < entry["perplexity"] <= 32


def test_results_have_every_evaluation(finished):
    found = results(finished)
    evaluated = [entry for entry in found["history"] if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [4, 8, 12, 12]
    assert found["scores"]["eval_loss"] == evaluated[-1]["eval_loss"] == evaluated[-2]["eval_loss"]
    names = {"eval_accuracy", "eval_unigram_cross_entropy", "eval_accuracy_copy", "eval_accuracy_most_frequent"}
    assert found["scores"].keys() >= names


def test_curves_and_events(finished):
    picture = imread(finished / "curves.png")
    assert picture.shape[1] > 2 * picture.shape[0]  # three panels
    assert picture[..., :3].std() > 0.05
    (folder,) = (finished / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 13))
    values = [event.value for event in events.Scalars("train/loss")]
    np.testing.assert_allclose(values, losses(finished), rtol=1e-6)
    assert [event.step for event in events.Scalars("eval/loss")][:3] == [4, 8, 12]


def test_the_folder_loads(finished, data):
    extractor = AutoFeatureExtractor.from_pretrained(finished)
    audio = load_audio(data / "valid/8.wav", RATE)
    inputs = extractor(audio, sampling_rate=RATE, return_tensors="pt")
    encoder = AutoModel.from_pretrained(finished).eval()
    assert type(encoder) is MusicFMModel
    model = AutoModelForPreTraining.from_pretrained(finished).eval()
    assert type(model) is MusicFMForPreTraining
    stats = json.loads((finished / "stats.json").read_text())
    assert model.config.target_mel_mean == stats["mel_mean"]
    assert (model.config.mel_mean, model.config.mel_std) == (stats["melspec_2048_mean"], stats["melspec_2048_std"])
    with torch.no_grad():
        hidden = encoder(**inputs).last_hidden_state
        assert hidden.shape == (1, len(audio) // 960, 32)
        torch.testing.assert_close(model.musicfm(**inputs).last_hidden_state, hidden)
    tokens = MusicFMQuantizerModel.from_pretrained(finished)(**inputs).tokens
    assert tokens.unique().numel() > 8


def test_once_more(server, data, finished, tmp_path):
    """A run that had come to its end, or was killed in the last evaluation, does not train a step more."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/results.json").unlink()
    (tmp_path / "run/model.safetensors").unlink()
    progress = tmp_path / "run/checkpoint-12/data_0.json"
    state = json.loads(progress.read_text())
    progress.write_text(json.dumps(state | {"seconds": state["seconds"] + 1000}))
    pretrain(server, tmp_path / "run", *TINY, *songs(data), "--gradient_accumulation_steps", "2")
    assert_same_run(tmp_path / "run", finished)
    assert 1000 <= results(tmp_path / "run")["seconds"] < 1300


def test_more_steps(data, finished, tmp_path, monkeypatch):
    """A run may be prolonged. What a checkpoint holds is read once."""
    shutil.copytree(finished, tmp_path / "run")
    load, loaded = PretrainingTrainer.load_progress, []
    monkeypatch.setattr(
        PretrainingTrainer, "load_progress", lambda self, folder: loaded.append(folder) or load(self, folder)
    )
    flags = [*TINY, *songs(data), "--gradient_accumulation_steps", "2", "--max_steps", "13"]
    with torch.random.fork_rng():
        run_recipe(monkeypatch, "pretrain.py", *flags, "--output_dir", tmp_path / "run")
    assert loaded == [tmp_path / "run/checkpoint-12"]
    assert [entry["step"] for entry in history(tmp_path / "run") if "loss" in entry] == list(range(1, 14))


def test_statistics_are_those_of_the_songs(data, finished, tmp_path, monkeypatch):
    """Measured again for other songs, and kept for the same ones, and without a record of the songs."""
    arguments = QuantizerArguments(["music"], "out")

    def measured(folder, seed=0):
        sources = [open_source(data / folder)]
        values = values_with_statistics(arguments, sources, tmp_path, seed)
        return values["mel_mean"], (tmp_path / "stats.json").stat().st_mtime_ns

    first = measured("files")
    assert measured("files") == first
    other = measured("valid")
    assert other[0] != first[0]
    assert measured("files", 0)[0] == first[0]
    plain = json.loads((tmp_path / "stats.json").read_text())
    del plain["measured_on"]
    (tmp_path / "stats.json").write_text(json.dumps(plain))
    assert measured("valid")[0] == first[0]


def test_seeds(server, data, tmp_path):
    flags = [*TINY, *songs(data), "--max_steps", "3"]
    for name, seed, workers in (("a", 1, 0), ("b", 1, 2), ("c", 2, 0)):
        pretrain(server, tmp_path / name, *flags, "--seed", seed, "--dataloader_num_workers", workers)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert losses(tmp_path / "c")[0] != losses(tmp_path / "a")[0]
    first, other = (load_file(tmp_path / name / "model.safetensors")["head.weight"] for name in ("a", "c"))
    assert (first - other).abs().max() > 0.01


# Interruptions


def test_killed_from_outside(server, data, finished, tmp_path):
    """Killed at any moment after the second checkpoint, and by the same command brought to the same end."""
    flags = [*TINY, *songs(data), "--gradient_accumulation_steps", "2"]
    arguments = [str(ROOT / "recipes/pretrain.py"), *flags, "--output_dir", str(tmp_path / "run")]
    process = server.start(run_and_die, arguments, log=tmp_path / "log")
    until = time.monotonic() + 200
    while not (tmp_path / "run/checkpoint-6").is_dir() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert server.end(process, tmp_path / "log")[0] == -signal.SIGKILL
    assert not (tmp_path / "run/results.json").exists()
    pretrain(server, tmp_path / "run", *flags)
    assert_same_run(tmp_path / "run", finished)


# Two micro-steps a step. The first kill comes before there is a checkpoint, the others in the second pass over seven
# songs (from micro-step 4 on) and in later ones, the last in the evaluation after training.
DEATHS = [("training_step", 5), ("training_step", 9), ("log", 5), ("training_step", 11), ("evaluate", 2)]


def check_interrupted(server, data, tmp_path, kind: str, workers: int) -> None:
    flags = [*TINY, "mixup_prob=0.5"]  # the mix-up of a batch resumes too
    flags += [*songs(data, kind), "--gradient_accumulation_steps", "2", "--seed", "7"]
    flags += ["--dataloader_num_workers", workers]
    for death in DEATHS:
        pretrain(server, tmp_path / "killed", *flags, die_at=death)
        assert not (tmp_path / "killed/results.json").exists()
    pretrain(server, tmp_path / "killed", *flags)
    pretrain(server, tmp_path / "whole", *flags)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(("kind", "workers"), [("files", 2), ("parquet", 2)])
def test_killed_again_and_again(server, data, tmp_path, kind, workers):
    check_interrupted(server, data, tmp_path, kind, workers)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "workers"), [("files", 0), ("parquet", 0), ("tar", 0), ("tar", 2)])
def test_killed_again_and_again_elsewhere(server, data, tmp_path, kind, workers):
    check_interrupted(server, data, tmp_path, kind, workers)


# Bad data and settings


@pytest.fixture(scope="session")
def bad(data, tmp_path_factory):
    """Five songs and one of each kind that is none; and two to validate on, with one that is none."""
    root = tmp_path_factory.mktemp("bad")
    shutil.copytree(data / "files", root / "files")
    for number in (5, 6):
        (root / f"files/{number}.wav").unlink()
    (root / "files/text.mp3").write_text("no music here")
    soundfile.write(root / "files/short.wav", music(0.5), RATE)
    soundfile.write(root / "files/silent.wav", np.zeros(2 * RATE), RATE)
    shutil.copytree(data / "valid", root / "valid")
    (root / "valid/9.wav").write_bytes(b"RIFF")
    (root / "broken").mkdir()
    shutil.copy(root / "files/text.mp3", root / "broken")
    (root / "empty").mkdir()
    return root


def test_bad_files_among_good_ones(server, bad, tmp_path):
    """They are skipped, counted and named, also if it was before an interruption."""
    flags = [*TINY, *songs(bad), "--max_steps", "10"]
    pretrain(server, tmp_path / "run", *flags, die_at=("training_step", 10))  # two crops of eight are left
    log = pretrain(server, tmp_path / "run", *flags)
    assert "Traceback" not in log
    found = results(tmp_path / "run")
    assert found["problems"] == {"unreadable": 2, "too short": 1, "silent": 1}
    lines = [line.split("\t") for line in (tmp_path / "run/problems.tsv").read_text().splitlines()]
    assert lines[0] == ["source", "name", "reason", "detail"]
    assert sorted(line[:3] for line in lines[1:]) == [
        [str(bad / "files"), "short.wav", "too short"],
        [str(bad / "files"), "silent.wav", "silent"],
        [str(bad / "files"), "text.mp3", "unreadable"],
        ["validation", "9.wav", "unreadable"],
    ]
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "run"))


def refused(
    monkeypatch, capsys, output: Path, *flags, script: str = "pretrain.py", option: str = "--output_dir"
) -> str:
    """Why the recipe does not train: one line, before anything was trained."""
    before = sorted(output.rglob("*")) if output.is_dir() else []
    with torch.random.fork_rng(), pytest.raises(SystemExit) as caught:
        run_recipe(monkeypatch, script, *flags, option, output)
    message = caught.value.code
    assert message.startswith("Not trained: ")
    assert "\n" not in message
    made = set(sorted(output.rglob("*")) if output.is_dir() else []) - set(before)
    assert {path.name for path in made} <= {"stats.json", "runs"}
    assert "Traceback" not in capsys.readouterr().err
    return message


BARE = ["--max_steps", "5", "--use_cpu", "true", "--statistics", "config", "--eval_strategy", "no"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train", "{bad}/empty"], "/empty has no audio"),
        (["--train", "{bad}/none"], "does not exist"),
        (["--train", "{bad}/broken"], r"None of 1 files could be read \(text.mp3: "),
        (["--train", "{bad}/broken", "--statistics", "config", "--validation_fraction", "0"], "no file is readable"),
        (["--crop_seconds", "60"], r"every file is shorter than the crop of 60.0 s \(longest 2.600 s\)"),
        (["--crop_seconds", "0.01"], "`crop_seconds` no shorter than that"),
        (["--validation", "{bad}/broken"], "In the songs to validate on, no file is readable"),
        (["--validation", "{bad}/none"], "does not exist"),
        (["--train", "{data}/parquet"], "Streams cannot be measured: pass `--stats`, or use `statistics: config`"),
        (["--set", "quantizer_type=residual_vq"], "'residual_vq' needs a trained quantizer: train one with"),
        (["--set", "quantizer_type=kmeans"], "'kmeans' needs a trained quantizer: train one with"),
        (["--quantizer", "{data}/none"], "/none"),
        (["--set", "hidden_size"], "`--set` takes name=value, got 'hidden_size'"),
        (["--set", "hidden_size=["], r"with a value in YAML, got 'hidden_size=\['"),
        (["--set", "hidden_size=wide"], "hidden_size"),
        (["--set", "hiden_size=32"], r"no argument `hiden_size`. Did you mean `hidden_size`\?"),
        (["--config", "{{hidden_size: 32}}"], "`config` must be JSON, got "),
        (["--config", "[32]"], "`config` must map names to values, got"),
        (["--model", "{data}", "--set", "mask_prob=0.5"], "`--set` applies to new models only"),
        (["--stats", "{data}/none.json"], "none.json does not exist"),
        (["--max_steps", "-1"], "`max_steps` is required"),
        (["--weights", "1", "2"], r"`weights` must have one number for each source \(1\), got 2"),
        (["--per_device_train_batch_size", "0"], "batch_size` must be at least 1, got 0"),
        (["--resume_from_checkpoint", "{data}"], "was not written by `musicfm pretrain` with 1 processes"),
        (["--average_tokens_across_devices", "false"], "`average_tokens_across_devices` must be true"),
    ],
)
def test_refusals(monkeypatch, capsys, data, bad, tmp_path, flags, message):
    flags = [flag.format(data=data, bad=bad) for flag in flags]
    words = refused(monkeypatch, capsys, tmp_path / "run", *TINY, *songs(data), *flags)
    assert re.search(message, words), words


def test_more_refusals(monkeypatch, capsys, data, finished, tmp_path):
    """Without a recipe; the folder; and checkpoints of other runs."""
    assert "pass `--train`" in refused(monkeypatch, capsys, tmp_path / "run", *BARE)
    words = refused(monkeypatch, capsys, tmp_path / "run", *BARE, *songs(data), "--model", data / "none")
    assert str(data / "none") in words
    (tmp_path / "file").write_text("mine")
    words = refused(monkeypatch, capsys, tmp_path / "file", *TINY, *songs(data))
    assert "`output_dir` must be a folder" in words
    assert (tmp_path / "file").read_text() == "mine"
    train = ["--train", data / "files", "--validation_fraction", "0"]
    words = refused(monkeypatch, capsys, tmp_path / "run", *TINY, *train)
    assert "no music to evaluate on: pass `--validation`, or `--eval_strategy no`" in words
    words = refused(monkeypatch, capsys, tmp_path / "run", *TINY, *train, "--validation_fraction", "0.01")
    assert "divides 7 songs into 7 to train on and 0 to validate on" in words

    shutil.copytree(finished, tmp_path / "done")
    words = refused(monkeypatch, capsys, tmp_path / "done", *TINY, *songs(data), "--per_device_train_batch_size", "4")
    assert "The state is from a run with `batch_size` 2, but here it is 4" in words
    words = refused(monkeypatch, capsys, tmp_path / "done", *TINY, *songs(data, "tar"))
    assert "The state is from a run with `sources` [['listed', 7, " in words
    words = refused(monkeypatch, capsys, tmp_path / "done", *TINY, "quantizer_seed=3", *songs(data))
    assert "checkpoint-12 was made with quantizer_seed 0, not 3. Pass another `--output_dir`, or remove it." in words
    for flags, message in [
        (["--learning_rate", "0.5"], "learning_rate 0.0"),
        (["--lr_scheduler_type", "constant"], "lr_scheduler_type '"),
        (["--warmup_steps", "5"], "warmup_steps 3"),
        (["--weight_decay", "0.5"], "weight_decay 0.0"),
        (["--max_grad_norm", "9"], "max_grad_norm "),
        (["--gradient_accumulation_steps", "1"], "gradient_accumulation_steps 2, not 1"),
        (["--optim", "sgd"], "optim 'adamw"),
        (["--adam_beta2", "0.5"], "adam_beta2 0.9"),
        (["--bf16", "true"], "bf16 False, not True"),
        (["--validation_crops", "2"], "validation crops ['crops', 3, "),
        (["--set", *SIZE, "codebook_size=32", "mask_prob=0.5"], "mask_prob 0.6"),
    ]:
        words = refused(
            monkeypatch, capsys, tmp_path / "done", *TINY, *songs(data), "--gradient_accumulation_steps", "2", *flags
        )
        assert "checkpoint-12 was made with " in words
        assert message in words, words
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    words = refused(monkeypatch, capsys, tmp_path / "run", *TINY, *songs(data))
    assert "Each of 2 GPUs needs a process: run `accelerate launch" in words


# The Trainer


@pytest.fixture
def trainer(finished, data, tmp_path):
    return make_trainer(finished, data, tmp_path / "run")


def make_trainer(finished, data, output: Path, **settings) -> PretrainingTrainer:
    """As the recipe makes it, of the model of a finished run."""
    model = MusicFMForPreTraining.from_pretrained(finished)
    settings = {"max_steps": 5, "use_cpu": True, "report_to": "none", "disable_tqdm": True} | settings
    arguments = PretrainingArguments(str(output), **settings)
    crops = fixed_crops(list_sources(data / "files"), 1.0, 5)
    sources = [open_source(data / "files")]
    loader = CropLoader(sources, crop_seconds=1.0, batch_size=2, collate=MaskCrops(model.config))
    return PretrainingTrainer(model, arguments, loader, crops)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_evaluation_depends_on_the_crops_alone(finished, data, tmp_path, size):
    trainer = make_trainer(finished, data, tmp_path, per_device_eval_batch_size=size)
    model, total, correct, count = trainer.model.eval(), 0.0, 0.0, 0
    for item in trainer.eval_dataset:
        waveform, seed = item["input_values"][None], item["seeds"]
        mask = sample_mask(model.config, torch.tensor([RATE]), RATE, [torch.Generator().manual_seed(seed)])
        with torch.no_grad():
            noise = noise_generators([seed], "cpu")
            outputs = model(waveform, mask_time_indices=mask, generator=noise)
        total += outputs.loss.item() * mask.sum().item()
        correct += outputs.accuracy.item() * mask.sum().item()
        count += mask.sum().item()
    torch.manual_seed(size)  # of no influence
    scores = trainer.evaluate()
    assert scores["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    assert scores["eval_accuracy"] == pytest.approx(correct / count, rel=1e-6)
    assert scores["eval_unigram_cross_entropy"] == pytest.approx(math.log(32))  # nothing has been seen
    assert trainer.evaluate()["eval_loss"] == scores["eval_loss"]


def test_evaluation_takes_no_training_time(finished, data, tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("musicfm_hf.pretraining.trainer.time.perf_counter", lambda: now)
    trainer = make_trainer(finished, data, tmp_path / "run")
    forward = trainer.model.forward

    def slow(*args, **kwargs):
        nonlocal now
        now += 100.0
        return forward(*args, **kwargs)

    monkeypatch.setattr(trainer.model, "forward", slow)
    trainer.audio_seconds, now = 7200.0, 10.0
    trainer.log({"loss": 1.0})
    assert trainer.state.log_history[-1]["audio_hours_per_second"] == pytest.approx(0.2)
    trainer.evaluate()
    assert now == 110.0
    now += 10.0
    trainer.audio_seconds += 3600.0
    trainer.log({"loss": 1.0})
    assert trainer.state.log_history[-1]["audio_hours_per_second"] == pytest.approx(0.1)
    assert trainer.state.log_history[-1]["audio_hours"] == pytest.approx(3.0)


def test_the_waveform_stays_float32(trainer, monkeypatch):
    """Also under DeepSpeed, where the Trainer casts what is floating point."""
    plugin = type("Plugin", (), {"hf_ds_config": type("Config", (), {"dtype": lambda self: torch.bfloat16})()})()
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    monkeypatch.setitem(trainer.accelerator.state.__dict__, "deepspeed_plugin", plugin)
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", plugin, raising=False)
    batch = next(iter(trainer.loader))
    inputs = trainer._prepare_inputs(batch)
    assert inputs["input_values"].dtype == torch.float32
    assert inputs["input_values"].equal(batch["input_values"])
    expected = [noise.initial_seed() for noise in noise_generators(batch["seeds"].tolist(), "cpu")]
    assert [generator.initial_seed() for generator in inputs["generator"]] == expected
    assert "seeds" not in inputs


# Variants


def test_checkpointing_and_bf16(server, data, tmp_path):
    flags = [*TINY, *songs(data), "--max_steps", "3", "--eval_strategy", "no", "--save_strategy", "no"]
    variants = {"plain": [], "gradient": ["--gradient_checkpointing", "true"], "bf16": ["--bf16", "true"]}
    variants["selective"] = ["--selective_checkpointing", "true"]
    if "activation_checkpointing" in {field.name for field in dataclasses.fields(TrainingArguments)}:
        variants["activation"] = ["--activation_checkpointing", "true"]
    for name, changes in variants.items():
        pretrain(server, tmp_path / name, *flags, *changes)
    plain = losses(tmp_path / "plain")
    assert len(plain) == 3
    for name in variants.keys() - {"plain", "bf16"}:
        np.testing.assert_allclose(losses(tmp_path / name), plain, rtol=1e-5)
        weights, expected = (load_file(tmp_path / folder / "model.safetensors") for folder in (name, "plain"))
        for key in weights:  # and batch statistics are counted once
            torch.testing.assert_close(weights[key], expected[key], rtol=1e-4, atol=1e-5)
    bf16 = losses(tmp_path / "bf16")
    np.testing.assert_allclose(bf16, plain, rtol=0.02)
    assert bf16 != plain


@pytest.mark.slow
def test_compile(server, data, tmp_path):
    flags = [*TINY, *songs(data), "--max_steps", "3", "--eval_steps", "2"]
    flags[flags.index("--set") + 1 : flags.index("--set") + 1] = [
        f"{name}_dropout=0" for name in ("hidden", "activation", "attention", "conformer_conv")
    ]
    pretrain(server, tmp_path / "plain", *flags)
    pretrain(server, tmp_path / "compiled", *flags, "--torch_compile", "true")
    np.testing.assert_allclose(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), rtol=1e-4)
    names = [load_file(tmp_path / name / "model.safetensors").keys() for name in ("plain", "compiled")]
    assert names[0] == names[1]


KMEANS = ["quantizer_type=kmeans", "kmeans_features=[mel, chroma]", "num_codebooks=2", "codebook_size=[16, 8]"]


@pytest.mark.parametrize(
    ("recipe", "settings", "rate"),
    [
        ("tiny", KMEANS, 25),
        ("tiny", ["quantizer_type=residual_vq", "num_codebooks=2", "codebook_size=16"], 25),
        ("fm1", ["codebook_size=[16, 8]", f"conv_dim={[8] * 7}", "num_conv_pos_embeddings=16"], 75),
        ("tiny", ["subsampling_time_strides=[2, 1]", "codebook_size=32"], 50),
    ],
    ids=["kmeans", "residual_vq", "bert", "50 Hz"],
)
def test_variants(server, data, bad, tmp_path, recipe, settings, rate):
    """Those whose tokens are trained begin with `train_quantizer.py`."""
    recipe = f"recipes/pretrain/{recipe}.yaml"
    flags = [recipe, *SHORT, *songs(data), "--max_steps", "3", "--save_steps", "2", "--set", *SIZE, *settings]
    if rate != 50:
        quantizer = tmp_path / "quantizer"
        arguments = [recipe, "--train", bad / "files", "--validation", data / "valid", "--output", quantizer]
        arguments += ["--steps", "4", "--batch-size", "4", "--crop-seconds", "1", "--hours", "0.005"]
        arguments += ["--num-workers", "0", "--set", *SIZE, *settings]
        code, log = server.run_script("train_quantizer.py", *arguments, log=tmp_path / "log")
        assert code == 0, log
        report = json.loads((quantizer / "report.json").read_text())
        assert report["validation"]["vectors"] == 256 * rate  # crops of 1 s
        assert len(report["validation"]["perplexity"]) == 2
        assert len(report["history"]) == (4 if "quantizer_type=residual_vq" in settings else 0)
        flags += ["--quantizer", quantizer]
    pretrain(server, tmp_path / "run", *flags)
    found = results(tmp_path / "run")
    model = MusicFMForPreTraining.from_pretrained(tmp_path / "run")
    assert model.config.frame_rate == rate
    entries = [entry for entry in found["history"] if "loss" in entry]
    assert len(entries) == 3
    sizes = model.config.codebook_sizes
    assert abs(entries[0]["cross_entropy"] - sum(map(math.log, sizes)) / len(sizes)) < 0.5
    assert ("perplexity_1" in entries[0]) == (len(sizes) == 2)
    assert (entries[0]["loss"] > entries[0]["cross_entropy"] + 0.01) == (model.cqt_head is not None)
    if rate != 50:
        trained = load_file(quantizer / "model.safetensors")
        weights = load_file(tmp_path / "run/model.safetensors")
        assert trained
        assert all(weights[name].equal(tensor) for name, tensor in trained.items())
        waveform = torch.from_numpy(load_audio(data / "valid/8.wav", RATE))[None]
        tokens = MusicFMQuantizerModel.from_pretrained(quantizer)(waveform).tokens
        assert model.quantizer(waveform).equal(tokens)


def test_streams_without_validation_songs(server, data, tmp_path):
    """A quantizer and a model learn from shards alone; the model has a card, and no scores."""
    where = ["--train", data / "tar", data / "parquet", "--weights", "1", "2", "--set", *SIZE, *KMEANS]
    arguments = ["recipes/pretrain/tiny.yaml", *where, "--output", tmp_path / "quantizer", "--statistics", "config"]
    arguments += ["--validation_fraction", "0", "--crop-seconds", "1", "--hours", "0.005", "--num-workers", "0"]
    code, log = server.run_script("train_quantizer.py", *arguments, "--batch-size", "2", log=tmp_path / "log")
    assert code == 0, log
    report = json.loads((tmp_path / "quantizer/report.json").read_text())
    assert report["settings"]["train"] == "['tar', 'parquet']"  # no absolute paths
    assert report["validation"] == {}
    flags = [TINY[0], *SHORT, *where, "--eval_strategy", "no", "--max_steps", "1", "--statistics", "config"]
    pretrain(server, tmp_path / "run", *flags, "--quantizer", tmp_path / "quantizer")
    assert results(tmp_path / "run")["scores"] == {}
    assert "tar" in (tmp_path / "run/README.md").read_text()


def test_quantizers_that_do_not_fit(monkeypatch, capsys, server, data, tmp_path):
    settings = [*SIZE, *KMEANS]
    arguments = [TINY[0], "--train", data / "files", "--validation", data / "valid"]
    arguments += ["--crop-seconds", "1", "--hours", "0.005", "--num-workers", "0", "--batch-size", "2"]
    quantizer = tmp_path / "quantizer"
    code, log = server.run_script(
        "train_quantizer.py", *arguments, "--output", quantizer, "--set", *settings, log=tmp_path / "log"
    )
    assert code == 0, log
    flags = [TINY[0], *SHORT, *songs(data), "--quantizer", quantizer, "--set", *settings]
    other = MusicFMQuantizerModel.from_pretrained(quantizer)  # trained again, for example
    other.quantizer.centroids_0 += 1
    other.save_pretrained(tmp_path / "other")
    once = [TINY[0], *SHORT, "--max_steps", "1", "--save_steps", "1", *songs(data), "--set", *settings]
    once += ["--statistics", "config"]
    pretrain(server, tmp_path / "once", *once, "--quantizer", quantizer)
    words = refused(
        monkeypatch, capsys, tmp_path / "once", *once, "--max_steps", "2", "--quantizer", tmp_path / "other"
    )
    assert "checkpoint-1 was made with quantizer " in words
    words = refused(monkeypatch, capsys, tmp_path / "run", *flags, "codebook_size=[16, 9]", "hop_length=120")
    assert "does not match the model: `codebook_size` is [16, 8] there and [16, 9] here" in words
    assert "`hop_length` is 240 there and 120 here" in words
    assert "num_mel_bins" not in words

    again = {"script": "train_quantizer.py", "option": "--output"}
    for changes, message in [
        (
            ["--set", "quantizer_type=random_projection"],
            "random_projection needs no training: run `musicfm pretrain`",
        ),
        (["--set", *settings, "hidden_size"], "`--set` takes name=value, got 'hidden_size'"),
        (["--set", *settings, "codebook_size=[16, 4000]"], "vectors of chroma are too few for 4000 clusters"),
        (["--set", *settings, "--train", data / "none"], "does not exist"),
        (["--set", *settings, "--crop-seconds", "60"], "every file is shorter than the crop of 60.0 s"),
    ]:
        words = refused(monkeypatch, capsys, tmp_path / "again", *arguments, *changes, **again)
        assert message in words


def test_songs_kept_for_validation(data):
    """Of every listed source a share; streams stay whole, and where they are."""
    listed = [ListedSource([(f"{name}{number}", number) for number in range(500)], name) for name in "ab"]
    stream = open_source(data / "tar")
    left, kept = hold_out_validation([listed[0], stream, listed[1]], 0.02)
    assert [source.name for source in left] == ["a", str(data / "tar"), "b"]
    assert left[1] is stream
    assert sorted(left[0].songs + left[2].songs + kept) == sorted(listed[0].songs + listed[1].songs)
    assert 10 <= len(kept) <= 35
    assert kept == split_by_name(listed[0].songs, 0.02)[1] + split_by_name(listed[1].songs, 0.02)[1]
