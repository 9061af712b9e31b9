"""Runs that version 0.1.0 began (tests/fixtures/version_0_1) go on, and its results are recognized."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.paths import FIXTURES
from helpers.recipes import run_recipe

from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.run import read_splits
from musicfm_hf.finetuning.run_fingerprint import load_matching_results
from musicfm_hf.training.recipes import parse_recipe

VERSION_0_1 = FIXTURES / "version_0_1"
COMMON = ["--model", "out/encoder", "--data", "data", "--results", "out/results", "--head_size", "16"]
COMMON += ["--max_steps", "6", "--eval_steps", "3", "--save_steps", "3", "--warmup_steps", "0"]
COMMON += ["--early_stopping_patience", "0", "--dataloader_num_workers", "0"]
COMMON += ["--use_cpu", "true", "--disable_tqdm", "true", "--report_to", "none"]
RUNS = {
    "chord_lora": ["chord/lora", *COMMON, "--lora_r", "2", "--transpose", "false", "--probe_steps", "0"],
    "beat_probe": ["beat/probe", *COMMON, "--per_device_train_batch_size", "4", "--cache", "features"],
    "key_probe": ["key/probe", *COMMON, "--per_device_train_batch_size", "4", "--cache", "features"],
    "structure_probe": ["structure/probe", *COMMON, "--per_device_train_batch_size", "4", "--cache", "features"],
    "tagging_probe": ["tagging/probe", *COMMON, "--per_device_train_batch_size", "4", "--cache", "features"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The folder that version 0.1.0 worked in, after it was interrupted."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run_recipe(patch, "prepare.py", "synthetic", "--songs", "16", "--seconds", "12", "--output_dir", "data")
    shutil.copytree(VERSION_0_1 / "encoder", place / "out/encoder")
    shutil.copytree(VERSION_0_1 / "results", place / "out/results")
    for name in ("chord_lora", "beat_probe"):
        shutil.copytree(VERSION_0_1 / name / "checkpoint-3", place / "out" / name / "checkpoint-3")
    return place


def recorded(name: str) -> dict:
    return json.loads((VERSION_0_1 / f"results/{name}.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_results_are_recognized(place, name, monkeypatch):
    monkeypatch.chdir(place)
    argv = [*RUNS[name], "--output_dir", f"out/{name}"]
    task, arguments = parse_recipe((TaskArguments, FinetuningArguments), argv, kind="finetune")
    path = VERSION_0_1 / f"results/{name}.json"
    splits = read_splits(task)
    assert load_matching_results(path, task, arguments, splits, "--results") == recorded(name)
    task.label_rate = 3.0
    with pytest.raises(ValueError, match=r"was made with label_rate .*, not 3.0. Pass another `--results`"):
        load_matching_results(path, task, arguments, splits, "--results")


@pytest.mark.parametrize("name", ["chord_lora", "beat_probe"])
def test_runs_go_on(place, name, monkeypatch):
    """
    From the checkpoint of step 3 to the scores that version 0.1.0 reached in one go. The recipe now begins with a
    probe, but a run that began without one goes on without it.
    """
    monkeypatch.chdir(place)
    flags = ["--probe_steps", "5"] if name == "chord_lora" else []
    run_recipe(monkeypatch, "finetune.py", *RUNS[name], *flags, "--output_dir", f"out/{name}")
    found, expected = json.loads((place / f"out/results/{name}.json").read_text()), recorded(name)
    assert found["seconds"] > json.loads((VERSION_0_1 / name / "checkpoint-3/finetuning.json").read_text())["seconds"]
    assert found["steps"] == expected["steps"]
    assert [entry["step"] for entry in found["history"]] == [entry["step"] for entry in expected["history"]]
    for split, songs in expected["scores_of_songs"].items():
        assert found["scores_of_songs"][split].keys() == songs.keys()
        for song, scores in songs.items():
            values = found["scores_of_songs"][split][song]  # with scores that version 0.1 did not have
            assert {name: values[name] for name in scores} == pytest.approx(scores, abs=1e-5)
    assert found["training"] == expected["training"] | {"metric_for_best_model": None}
    assert found["inputs"] == expected["inputs"]
    new = {"task_file": None, "keep_head": False, "max_train_songs": None, "songs_seed": 0, "vocabulary": None}
    new["effects"] = 0.0
    assert found["settings"] == expected["settings"] | new
