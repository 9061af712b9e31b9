"""Which songs fine-tuning learns from, chooses by, and is scored on."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.finetuning import QUICK, SHORT
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, set_seed

from musicfm_hf.data.examples import ReadWaveform
from musicfm_hf.data.labeled import Source
from musicfm_hf.data.labeled_dataset import build, load_songs, save
from musicfm_hf.evaluation import baselines
from musicfm_hf.evaluation.baselines import score_data_set
from musicfm_hf.evaluation.evaluate import evaluate
from musicfm_hf.finetuning import run as module
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.heads import build_model, class_weights, head_config
from musicfm_hf.finetuning.run import finetune, read_splits
from musicfm_hf.finetuning.run_fingerprint import run_fingerprint
from musicfm_hf.inference.feature_cache import FeatureCache
from musicfm_hf.tasks.annotations import Beats, Segment
from musicfm_hf.training.recipes import parse_recipe

SPLITS = ("train", "validation", "test")
ONE_STEP = ["--max_steps", 1, "--eval_steps", 1, "--save_steps", 1]
ONE_EVALUATION = ["--eval_steps", 4, "--save_steps", 4]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def settings(encoder, labeled, cache, tmp_path):
    """Function that parses the settings of a short run."""

    def parse(recipe: str, *flags):
        places = ["--model", encoder, "--data", labeled, "--cache", cache, "--output_dir", tmp_path / "run"]
        augmentation = [] if recipe.endswith("probe") else QUICK
        argv = [recipe, *SHORT, *augmentation, *places, "--whiten", "true", *flags]
        return parse_recipe((TaskArguments, FinetuningArguments), list(map(str, argv)), kind="finetune")

    return parse


@pytest.fixture
def songs(labeled):
    return {split: load_songs(labeled, split) for split in SPLITS}


def spied(monkeypatch, owner: type, name: str) -> set[str]:
    """Ids of the songs that a method is called with."""
    ids, method = set(), getattr(owner, name)

    def spy(self, song, *args):
        ids.add(song.id)
        return method(self, song, *args)

    monkeypatch.setattr(owner, name, spy)
    return ids


@pytest.mark.parametrize(
    ("method", "reader"), [("probe", FeatureCache), ("full", ReadWaveform), ("lora", ReadWaveform)]
)
def test_training_and_whitening_read_training_songs_alone(monkeypatch, settings, songs, method, reader):
    ids = spied(monkeypatch, reader, "__call__")
    finetune(
        *settings(f"chord/{method}", *ONE_EVALUATION), {"train": songs["train"], "validation": songs["validation"][:1]}
    )
    assert ids == {song.id for song in songs["train"]}


def test_labels_and_class_weights_are_of_training_songs(settings, songs):
    """Tags that only validation or test songs have are no labels; class weights ignore their annotations."""
    tagged = {
        split: [replace(song, tags=[f"tag of {split}", "of all"]) for song in part] for split, part in songs.items()
    }
    task, arguments = settings("tagging/probe", *ONE_STEP)
    config = finetune(task, arguments, tagged).model.config
    assert list(config.id2label.values()) == ["of all", "tag of train"]
    others = {
        split: [replace(song, chords=[Segment(0.0, song.duration, f"{root}:maj")]) for song in songs[split]]
        for split, root in zip(SPLITS, "CDE", strict=True)
    }
    flags = ["--balance", 1, *ONE_STEP, "--output_dir", f"{arguments.output_dir}2"]
    config = finetune(*settings("chord/probe", *flags), others).model.config
    assert config.class_weights == class_weights(config, others["train"], 1.0)
    common = [config.id2label[index] for index in torch.tensor(config.class_weights).argsort()[:1].tolist()]
    assert common == ["C:maj"]


def test_the_best_step_is_chosen_on_validation_songs(settings, songs, monkeypatch):
    """Evaluations between training steps score validation songs; test songs are scored once, at the end."""
    scored = []
    score = module.FinetuningTrainer.score_songs

    def spy(self, part):
        scored.append((self.state.global_step, [song.id for song in part]))
        return score(self, part)

    monkeypatch.setattr(module.FinetuningTrainer, "score_songs", spy)
    run = finetune(*settings("chord/probe"), songs)
    ids = {split: [song.id for song in part] for split, part in songs.items()}
    assert [part for _, part in scored] == [ids["validation"]] * 3 + [ids["test"]]
    assert {split: list(rows) for split, rows in run.scores.items()} == {
        split: ids[split] for split in ("validation", "test")
    }
    assert run.trainer.args.greater_is_better


def test_splits_are_those_of_the_data_set(settings, songs):
    splits = read_splits(settings("chord/probe")[0])
    assert {split: [song.id for song in part] for split, part in splits.items()} == {
        split: [song.id for song in part] for split, part in songs.items()
    }
    limited = read_splits(settings("chord/probe", "--limit", 1)[0])
    assert [len(part) for part in limited.values()] == [1, 1, 1]


def test_test_songs_without_the_annotation_are_not_scored(songs, encoder, tmp_path):
    splits = songs | {"test": [replace(song, keys=None) for song in songs["test"]]}
    save(build(splits, Source("", "", "", "")), tmp_path / "data")
    task = TaskArguments(task="key", model=str(encoder), data=str(tmp_path / "data"))
    assert list(read_splits(task)) == ["train", "validation"]
    assert list(read_splits(replace(task, task="chord"))) == list(SPLITS)


def test_every_beat_of_a_long_song_is_in_the_fingerprint(settings, songs):
    def digest(moved: int | None = None) -> str:
        times = np.arange(3000) / 2
        if moved is not None:
            times[moved] += 0.01
        beats = Beats(times, np.arange(3000) % 4 + 1)
        song = replace(songs["train"][0], beats=beats)
        return run_fingerprint(*settings("beat/probe"), {"train": [song]})["inputs"]["songs_digest"]

    assert digest() == digest()
    assert len({digest(), digest(0), digest(1500), digest(2999)}) == 4


@pytest.mark.parametrize("split", SPLITS)
def test_missing_and_unreadable_audio_is_found_before_training(settings, songs, split, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "starting_head", lambda *_: pytest.fail("training began"))
    first, *others = songs[split]
    absent = {"path": str(tmp_path / "absent.wav"), "bytes": None}
    with pytest.raises(
        FileNotFoundError, match=rf"The audio of 1 of \d {split} songs does not exist, such as .*absent.wav"
    ):
        finetune(*settings("chord/full"), songs | {split: [replace(first, audio=absent), *others]})
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    broken = songs | {split: [replace(first, audio=str(tmp_path / "broken.wav")), *others]}
    message = "training began" if split == "train" else f"{split} song {first.id}: .*broken.wav"
    with pytest.raises((ValueError, pytest.fail.Exception), match=message):
        finetune(*settings("chord/full"), broken)


@pytest.mark.parametrize("method", ["probe", "full"])
def test_weights_are_trained_in_full_precision(settings, encoder, songs, tmp_path, method):
    """Updates are often too small for the precision in which an encoder may have been saved."""
    saved = AutoModel.from_pretrained(encoder, dtype=torch.bfloat16)
    saved.save_pretrained(tmp_path / "half")
    task = replace(settings(f"chord/{method}")[0], model=str(tmp_path / "half"))
    model = build_model(task, head_config(task, AutoConfig.from_pretrained(tmp_path / "half"), songs["train"]))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(model.musicfm.state_dict()[name].equal(value.float()) for name, value in saved.named_parameters())


def test_a_random_encoder_has_no_pretrained_weight(settings, encoder, songs):
    saved = load_file(encoder / "model.safetensors")
    matrices = [name for name, tensor in saved.items() if tensor.ndim > 1]

    def weights(*flags) -> dict[str, torch.Tensor]:
        task, _ = settings("chord/probe", *flags)
        config = head_config(task, AutoConfig.from_pretrained(encoder), songs["train"])
        state = build_model(task, config).musicfm.state_dict()
        assert state.keys() == saved.keys()
        return state

    pretrained, random = weights(), weights("--random_encoder", "true")
    assert all(pretrained[name].equal(saved[name]) for name in saved)
    assert len(matrices) > 20
    assert not [name for name in matrices if random[name].equal(saved[name])]
    moved = [name for name in saved if name.endswith(("running_mean", "running_var"))]
    assert not [name for name in moved if random[name].equal(saved[name])]


def test_a_random_encoder_does_not_depend_on_the_weights_of_the_saved_one(settings, encoder, songs, tmp_path):
    """So that results of another encoder with the same configuration are those of the same run."""
    shutil.copytree(encoder, tmp_path / "other")
    tensors = load_file(encoder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "other/model.safetensors")

    def digests(*flags) -> set[str]:
        task, arguments = settings("chord/probe", *flags)
        tasks = [replace(task, model=str(folder)) for folder in (encoder, tmp_path / "other")]
        return {run_fingerprint(task, arguments, songs)["inputs"]["encoder_digest"] for task in tasks}

    assert len(digests()) == 2
    assert len(digests("--random_encoder", "true")) == 1


def test_a_run_uses_the_random_encoder(settings, encoder, songs):
    task, arguments = settings("chord/probe", "--random_encoder", "true", *ONE_STEP)
    few = {split: songs[split][1:2] or songs[split][:1] for split in ("train", "validation")}  # song 1 is short
    name = "layers.0.ffn1.output_dense.weight"
    used = finetune(task, arguments, few).model.musicfm.state_dict()[name]
    assert not used.equal(load_file(encoder / "model.safetensors")[name])
    config = head_config(task, AutoConfig.from_pretrained(encoder), songs["train"])
    seeded = []
    for seed in (arguments.seed, 7):
        set_seed(seed)
        seeded.append(build_model(task, config).musicfm.state_dict()[name])
    assert used.equal(seeded[0])
    assert not used.equal(seeded[1])


def test_baselines_learn_from_training_songs(monkeypatch, labeled, songs):
    def fit_priors(part):
        found.extend(song.id for song in part)
        return baselines.Priors("verse", {"even": 0.5})

    found: list[str] = []
    monkeypatch.setattr(baselines, "fit_priors", fit_priors)
    score_data_set(labeled, "test", ["tagging"], num_workers=0)
    assert found == [song.id for song in songs["train"]]


def test_evaluation_scores_the_split_it_is_asked_for(settings, labeled, songs, tmp_path):
    task, arguments = settings("chord/probe", *ONE_STEP)
    run = finetune(task, arguments, songs)
    module.save_run(run, replace(task, results=str(tmp_path / "results")), arguments)
    for split in ("validation", "test"):
        assert list(evaluate(arguments.output_dir, labeled, split)["songs"]) == [song.id for song in songs[split]]
