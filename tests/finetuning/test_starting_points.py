"""Starting points of fine-tuning: random encoders, heads of probes, saved heads, and few songs."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.finetuning import SHORT, SHORT_RETRIEVAL, InterruptAt, InterruptedRunError
from helpers.models import TINY
from helpers.runs import without_clock
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForAudioFrameClassification

from musicfm_hf import MusicFMConfig, MusicFMModel
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.data.splits import draw_songs
from musicfm_hf.finetuning import batch_statistics
from musicfm_hf.finetuning import run as module
from musicfm_hf.finetuning import trainer as finetuning_trainer
from musicfm_hf.finetuning.arguments import FinetuningArguments, RetrievalArguments, TaskArguments
from musicfm_hf.finetuning.batch_statistics import measure_batch_statistics
from musicfm_hf.finetuning.run import finetune
from musicfm_hf.finetuning.starting_head import probe_settings
from musicfm_hf.training.recipes import parse_recipe

PROBE_FIRST = ["--probe_steps", "3", "--probe_batch_size", "2", "--probe_learning_rate", "0.01"]


@pytest.fixture(autouse=True)
def few_crops(monkeypatch):
    monkeypatch.setattr(batch_statistics, "NUM_CROPS", 16)


@pytest.fixture(scope="module")
def places(labeled, encoder, tmp_path_factory) -> list[str]:
    cache = tmp_path_factory.mktemp("features")
    return ["--model", str(encoder), "--data", str(labeled), "--cache", str(cache)]


def parse(places, output, method: str, *flags) -> tuple[TaskArguments, FinetuningArguments]:
    words = ["--task", "chord", *SHORT, *places, "--method", method, "--output_dir", str(output), *flags]
    return parse_recipe((TaskArguments, FinetuningArguments), words)


def tune(places, output, method: str, *flags, callbacks=()) -> module.Finetuned:
    return finetune(*parse(places, output, method, *flags), callbacks=callbacks)


def head(run: module.Finetuned) -> dict[str, torch.Tensor]:
    classifier = run.model.classifier
    return getattr(classifier, "modules_to_save", {"default": classifier})["default"].state_dict()


# Random encoders


def test_batch_statistics_are_those_of_the_songs(labeled):
    """The norm after the first convolution has the average over batches of the means and variances of its input."""
    songs = load_songs(labeled, "train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = MusicFMModel(MusicFMConfig(**TINY))
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.named_parameters()}
    means, variances = [], []

    def note(conv, inputs, output):
        values = output.transpose(0, 1).flatten(1)
        means.append(values.mean(1))
        variances.append(values.var(1))

    encoder.subsampling.blocks[0].conv1.register_forward_hook(note)
    norm = encoder.subsampling.blocks[0].norm1
    modes = [part.training for part in encoder.modules()]
    measure_batch_statistics(encoder, songs[:1], seed=3)  # one song, so that no crop is padded
    assert len(means) == 16 // 8
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0), atol=1e-5, rtol=1e-3)
    assert norm.momentum == nn.BatchNorm2d(1).momentum
    assert [part.training for part in encoder.modules()] == modes
    assert all(tensor.equal(before[name]) for name, tensor in encoder.named_parameters())
    first = norm.running_mean.clone()
    measure_batch_statistics(encoder, songs[:1], seed=3)
    assert norm.running_mean.equal(first)
    measure_batch_statistics(encoder, songs, seed=4)
    assert not norm.running_mean.equal(first)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_random_encoder_is_fine_tuned(places, encoder, tmp_path, method):
    """It is that of the probe with the same seed; its model is saved whole, with its random weights."""
    flags = ["--random_encoder", "true", "--encoder_learning_rate", "0", "--weight_decay", "0"]
    run = tune(places, tmp_path / "run", method, *flags)
    probe = tune(places, tmp_path / "probe", "probe", *flags)
    saved = load_file(encoder / "model.safetensors")
    module.save_run(run, *parse(places, tmp_path / "run", method, *flags, "--results", str(tmp_path / "results")))
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "run").eval()
    state, expected = loaded.musicfm.state_dict(), probe.model.musicfm.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor)
    assert not any(state[name].equal(saved[name]) for name in saved if saved[name].ndim > 1)
    assert not (tmp_path / "run/adapter_config.json").exists()
    assert run.results["inputs"]["batch_statistics"] == "measured"
    waveform = torch.randn(1, 48000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(waveform).logits, run.trained.eval()(waveform).logits, atol=1e-5, rtol=1e-4)


# Heads of probes


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("encoder_flags", [[], ["--random_encoder", "true"]], ids=["pretrained", "random"])
def test_fine_tuning_starts_with_the_head_of_a_probe(places, tmp_path, method, encoder_flags):
    """Of the probe that `musicfm finetune` trains with these settings, to the last bit."""
    flags = [*PROBE_FIRST, *encoder_flags, "--layer", "1", "--save_total_limit", "9"]
    task, arguments = parse(places, tmp_path / "run", method, *flags)
    probe = finetune(*probe_settings(task, arguments, tmp_path / "probe"))
    assert probe.trained is probe.model.classifier
    run = tune(places, tmp_path / "run", method, *flags)
    name = "model" if method == "full" else "adapter_model"
    state = load_file(tmp_path / f"run/checkpoint-0/{name}.safetensors")
    started = {name.rpartition("classifier.")[2]: tensor for name, tensor in state.items() if "classifier." in name}
    assert started.keys() == probe.trained.state_dict().keys()
    assert all(started[name].equal(tensor) for name, tensor in probe.trained.state_dict().items())
    steps = [entry["step"] for entry in run.trainer.state.log_history if "eval_majmin" in entry]
    assert steps == [0, 2, 4]
    assert not (tmp_path / "run/.probe").exists()


def scored(monkeypatch, *values: float) -> None:
    """Evaluations find these, one after the other."""
    left = list(values)
    monkeypatch.setattr(finetuning_trainer, "average_scores", lambda config, scores: {"majmin": left.pop(0)})


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_model_before_the_first_step_may_be_the_best(places, tmp_path, monkeypatch, method):
    """The probe is scored three times; then the model before the first step, and after two and four."""
    scored(monkeypatch, 0.1, 0.2, 0.3, 0.9, 0.8, 0.9, 0.1, 0.2, 0.3)
    run = tune(places, tmp_path / "run", method, *PROBE_FIRST, "--save_total_limit", "1")
    assert run.results["steps"] == {"run": 4, "best": 0}
    assert (tmp_path / "run/checkpoint-0").is_dir()
    task, arguments = parse(places, tmp_path / "run", method, *PROBE_FIRST)
    probe = finetune(*probe_settings(task, arguments, tmp_path / "probe"))
    assert all(head(run)[name].equal(tensor) for name, tensor in probe.trained.state_dict().items())
    matrices = [tensor for name, tensor in run.trained.named_parameters() if "lora_B" in name]
    assert not any(tensor.any() for tensor in matrices)


@pytest.mark.parametrize(("method", "step"), [("full", 1), ("full", 3), ("lora", 3)])
def test_a_resumed_run_is_the_run(places, tmp_path, monkeypatch, method, step):
    """Interrupted after checkpoint 0 or 2. The probe is not trained again."""
    whole = tune(places, tmp_path / "whole", method, *PROBE_FIRST)
    with pytest.raises(InterruptedRunError):
        tune(places, tmp_path / "run", method, *PROBE_FIRST, callbacks=[InterruptAt(step)])
    trained, train = [], finetuning_trainer.FinetuningTrainer.train

    def note(trainer, *args, **kwargs):
        trained.append(trainer.args.output_dir)
        return train(trainer, *args, **kwargs)

    monkeypatch.setattr(finetuning_trainer.FinetuningTrainer, "train", note)
    resumed = tune(places, tmp_path / "run", method, *PROBE_FIRST)
    assert trained == [str(tmp_path / "run")]
    ours, theirs = (without_clock(run.trainer.state.log_history) for run in (resumed, whole))
    assert ours == theirs
    assert resumed.results["steps"] == whole.results["steps"]
    assert resumed.scores == whole.scores
    with pytest.raises(ValueError, match="was made with probe_steps 3, not 4"):
        tune(places, tmp_path / "run", method, *PROBE_FIRST, "--probe_steps", "4")


# Saved heads


def test_a_saved_head_is_kept(places, tmp_path):
    """The run reads the layer that the head was trained on, and begins with the scores of the probe."""
    probe = tune(places, tmp_path / "probe", "probe", "--layer", "1")
    task, arguments = parse(places, tmp_path / "probe", "probe", "--layer", "1")
    task.results = str(tmp_path / "results")
    module.save_run(probe, task, arguments)
    flags = ["--model", str(tmp_path / "probe"), "--keep_head", "true", "--probe_steps", "5"]  # of no effect
    run = tune(places, tmp_path / "full", "full", *flags, "--save_total_limit", "9")
    assert run.model.config.classifier_layer == 1
    state = load_file(tmp_path / "full/checkpoint-0/model.safetensors")
    assert all(state[f"classifier.{name}"].equal(tensor) for name, tensor in probe.trained.state_dict().items())
    assert run.results["settings"]["keep_head"]
    assert "probe_steps" not in run.results["settings"]
    again = tune(places, tmp_path / "again", "probe", *flags[:-2], "--learning_rate", "0", "--weight_decay", "0")
    assert all(again.trained.state_dict()[name].equal(tensor) for name, tensor in probe.trained.state_dict().items())
    for wrong, message in [
        (["--layer", "2"], "classifier_layer 1, not 2"),
        (["--label_rate", "4"], "label_rate 8.0, not 4.0"),
        (["--head_size", "8"], "classifier_proj_size 16, not 8"),
        (["--task", "key"], "task 'chord', not 'key'"),
    ]:
        with pytest.raises(ValueError, match=f"The head of .*probe cannot be kept, because it has .*{message}"):
            tune(places, tmp_path / "wrong", "full", *flags, *wrong)


def test_retrieval_trains_its_probe_first(encoder, tmp_path, labeled):
    """The same setting, and the same message where neither it nor a saved head is given."""
    words = [*SHORT_RETRIEVAL, "--model", str(encoder), "--data", str(labeled), "--output_dir", str(tmp_path)]
    settings, _ = parse_recipe((RetrievalArguments, FinetuningArguments), ["retrieval/full", *words], kind="finetune")
    assert settings.trains_probe_first
    small = ["retrieval/full", "small/retrieval_full", *words]
    settings, _ = parse_recipe((RetrievalArguments, FinetuningArguments), small, kind="finetune")
    assert settings.keep_head
    assert not settings.trains_probe_first
    with pytest.raises(ValueError, match="set `--probe_steps`, or train one with retrieval/probe"):
        RetrievalArguments(task="same_song", model="m", data="d", method="full")


# Few songs


def songs_of(*groups: str) -> list[LabeledSong]:
    return [LabeledSong(f"{group}.{version}", "a", group) for group in groups for version in range(2)]


def test_songs_are_drawn_with_all_versions_and_nested():
    songs = songs_of(*"abcdefghij")
    draws = {count: draw_songs(songs, count, seed=1) for count in (1, 3, 7, 20, None)}
    assert [len(drawn) for drawn in draws.values()] == [2, 6, 14, 20, 20]
    assert draws[20] == draws[None] == songs
    smaller = [{song.id for song in drawn} for drawn in draws.values()]
    assert all(few <= many for few, many in pairwise(smaller))
    others = {tuple(song.id for song in draw_songs(songs, 3, seed)) for seed in range(6)}
    assert len(others) > 3
    kept = [song for song in songs if song.group != draws[1][0].group]
    assert {song.id for song in draw_songs(kept, 2, seed=1)} == smaller[1] - smaller[0]  # others do not matter


def test_a_run_on_few_songs(places, labeled, tmp_path, monkeypatch):
    """It reads only these. Tags that none of them has remain labels, so that runs on more songs can be compared."""
    read, call = set(), module.ReadWaveform.__call__

    def note(self, song, *args):
        read.add(song.id)
        return call(self, song, *args)

    monkeypatch.setattr(module.ReadWaveform, "__call__", note)
    songs = load_songs(labeled, "train")
    for seed in (0, 1):
        read.clear()
        flags = ["--max_train_songs", "2", "--songs_seed", str(seed), "--task", "tagging"]
        run = tune(places, tmp_path / f"run {seed}", "full", *flags, *PROBE_FIRST)
        assert read == {song.id for song in draw_songs(songs, 2, seed)}
        assert run.results["data"]["songs"] == {"train": 2, "validation": 2, "test": 2}
        assert list(run.model.config.id2label.values()) == ["even", "major", "minor"]
    with pytest.raises(ValueError, match="was made with songs_seed 1, not 5"):
        tune(places, tmp_path / "run 1", "full", *flags, *PROBE_FIRST, "--songs_seed", "5")
    assert json.loads(json.dumps(run.results["settings"]))["max_train_songs"] == 2
    assert np.isfinite([entry["loss"] for entry in run.trainer.state.log_history if "loss" in entry]).all()
