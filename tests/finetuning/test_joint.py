"""Joint fine-tuning: one encoder and several heads, their data, losses, checkpoints and files."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from helpers.finetuning import InterruptAt, InterruptedRunError
from helpers.models import config_of
from helpers.paths import ROOT
from helpers.processes import on_ranks, run_script
from helpers.runs import without_clock
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector,
    pipeline,
)

from musicfm_hf import (
    MusicFMConfig,
    MusicFMFeatureExtractor,
    MusicFMForXVector,
    MusicFMModel,
    PassageSettings,
    WindowSettings,
    annotate,
    evaluate,
    load_annotators,
    load_audio,
    load_embedder,
)
from musicfm_hf.data.labeled import LabeledSong, Source
from musicfm_hf.data.labeled_dataset import build, load_songs, save
from musicfm_hf.evaluation.evaluate import evaluate_models
from musicfm_hf.finetuning import joint_data
from musicfm_hf.finetuning.arguments import FinetuningArguments
from musicfm_hf.finetuning.heads import constant_loss
from musicfm_hf.finetuning.joint import finetune_joint
from musicfm_hf.finetuning.joint_arguments import JointArguments
from musicfm_hf.finetuning.joint_data import describe_data, draw_joint_songs, read_joint_splits
from musicfm_hf.finetuning.joint_files import ENCODER, HEAD, save_joint_run
from musicfm_hf.finetuning.packing import pack_head, pack_joint
from musicfm_hf.finetuning.run import Finetuned
from musicfm_hf.hub.cards import write_card
from musicfm_hf.hub.files import published_files
from musicfm_hf.inference.annotators import group_by_encoder
from musicfm_hf.tasks import get_task, known_tasks
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.training.files import write_json
from musicfm_hf.training.recipes import parse_recipe

METHODS = ("probe", "full", "lora")
TASKS = ["chord", "key", "tagging"]
SHORT = ["--tasks", *TASKS, "--head_size", "16", "--learning_rate", "0.01", "--encoder_learning_rate", "0.001"]
SHORT += ["--per_device_train_batch_size", "2", "--max_steps", "4", "--logging_steps", "1", "--eval_steps", "2"]
SHORT += ["--save_steps", "2", "--save_total_limit", "9", "--report_to", "none", "--use_cpu", "true"]
SHORT += ["--disable_tqdm", "true", "--dataloader_num_workers", "0", "--lora_r", "4"]
SHORT += ["--crop_seconds", "4"]


@pytest.fixture(scope="session")
def joint_places(labeled, encoder, tmp_path_factory) -> list[str]:
    cache = tmp_path_factory.mktemp("features")
    return ["--model", str(encoder), "--data", str(labeled), "--cache", str(cache)]


def parse(places, output, method: str, *flags) -> tuple[JointArguments, FinetuningArguments]:
    words = [*SHORT, *places, "--method", method, "--output_dir", str(output), "--results", f"{output}-results"]
    return parse_recipe((JointArguments, FinetuningArguments), [*words, *flags])


def tune(places, output, method: str, *flags, callbacks=()) -> Finetuned:
    return finetune_joint(*parse(places, output, method, *flags), callbacks=callbacks)


@pytest.fixture(scope="session")
def finished(joint_places, tmp_path_factory):
    """Method → a run and its saved folder; each is trained when it is first asked for."""
    root, done = tmp_path_factory.mktemp("joint"), {}

    def get(method: str):
        if method not in done:
            output = root / method
            run = tune(joint_places, output, method)
            save_joint_run(run, *parse(joint_places, output, method))
            done[method] = run, output
        return done[method]

    return get


def state(run: Finetuned) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in run.trained.state_dict().items()}


def history(run: Finetuned) -> list[dict]:
    return without_clock(run.trainer.state.log_history)


# Settings


def arguments_of(**settings) -> JointArguments:
    return JointArguments(**{"tasks": ["beat", "chord"], "model": "model", "data": ["data"]} | settings)


def test_settings_of_tasks_are_those_of_their_recipes():
    arguments = arguments_of(
        tasks=["beat", "structure"], task_settings='{"beat": {"label_rate": 50}}', speed=3, method="full"
    )
    beat, structure = arguments.of_task("beat"), arguments.of_task("structure")
    assert (beat.label_rate, structure.label_rate) == (50, 5)
    assert structure.balance == 0.5
    assert beat.speed == 0  # changes crops, which belong to all tasks
    probe = replace(arguments, method="probe", **arguments.without_augmentation())
    assert probe.speed == 0
    assert probe.of_task("beat").label_rate == 50


def test_data_of_tasks():
    arguments = arguments_of(data=["songs", "chord=other", "more"])
    assert [arguments.data_of(task) for task in arguments.tasks] == [["songs", "more"], ["other"]]
    assert arguments_of(data=["chord=a", "beat=b", "beat=c"]).data_of("beat") == ["b", "c"]


def test_tasks_are_by_default_those_with_labels(labeled, tmp_path):
    annotated = [task for task in known_tasks() if get_task(task).is_annotated(load_songs(labeled, "train")[0])]
    assert arguments_of(tasks=[], data=[str(labeled)]).tasks == annotated
    songs = {"train": [replace(song, keys=None, tags=None, beats=None) for song in load_songs(labeled, "train")]}
    save(build(songs, Source("", "", "", "")), tmp_path)
    assert arguments_of(tasks=[], data=[str(tmp_path)]).tasks == ["chord", "structure"]
    assert arguments_of(tasks=[], data=[str(tmp_path), f"key={labeled}"]).tasks == ["chord", "structure", "key"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["beat", "beat"]}, "each task only once, got beat, beat"),
        ({"data": ["beat=a"]}, "has nothing for chord"),
        ({"data": ["a", "key=b"]}, "is for none of the tasks beat, chord"),
        ({"loss_weights": '{"beat": 0}'}, "must be positive numbers"),
        ({"loss_weights": '{"kye": 1}'}, "has kye, which is none of beat, chord"),
        ({"task_settings": '{"kye": {}}'}, "has kye, which is none of beat, chord"),
        ({"loss_weights": "beat"}, "must be JSON"),
        ({"task_settings": '{"beat": {"method": "full"}}'}, "cannot set method for beat"),
        ({"task_settings": '{"beat": {"crop_seconds": 6}}'}, "cannot set crop_seconds for beat"),
        ({"speed": 3}, "A probe reads features"),
        ({"data_repeats": '{"other": 2}'}, "has other, which is none of data"),
        ({"data_repeats": '{"data": 0.5}'}, "must be integers of at least 0"),
        ({"data_repeats": '{"data": -1}'}, "must be integers of at least 0"),
        ({"data_repeats": '{"data": 0}'}, "is 0 for all data of beat, chord"),
        ({"validation_songs": 0}, "must be at least 1"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        arguments_of(**settings)


def test_weights_of_losses_sum_to_one():
    arguments = arguments_of(tasks=["beat", "chord", "key"], loss_weights='{"chord": 2}')
    assert [arguments.weight_of(task) for task in arguments.tasks] == [0.25, 0.5, 0.25]


# Losses


def test_settings_of_tasks_that_are_not_trained_are_ignored():
    """One recipe fits data with any annotations."""
    settings = {"loss_weights": '{"beat": 2, "key": 5}', "task_settings": '{"key": {"label_rate": 1}}'}
    assert arguments_of(**settings).weight_of("beat") == pytest.approx(2 / 3)
    assert arguments_of(**settings).of_task("chord").label_rate == 8


def test_loss_of_constants():
    """C for 2 s and N for 6 s: the entropy of 1/4 and 3/4. Two tags: one of all songs, one of a quarter of them."""
    song = LabeledSong(
        "a", "a", "a", duration=9.0, chords=[Segment(0, 2, "C"), Segment(2, 8, "N"), Segment(8, 9, "X")]
    )
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert constant_loss(config_of("chord"), [song]) == pytest.approx(entropy)
    weighted = config_of("chord", class_weights=[3.0, *[1.0] * 24])  # as if both were equally frequent
    assert constant_loss(weighted, [song]) == pytest.approx(np.log(2))
    tags = [["a"], ["a"], ["a"], ["a", "b"]]
    songs = [LabeledSong(str(n), "a", "a", duration=8.0, tags=of_song) for n, of_song in enumerate(tags)]
    assert constant_loss(config_of("tagging", None, ["a", "b"]), songs) == pytest.approx(entropy / 2)


def test_loss_of_a_step_is_the_weighted_sum_of_single_losses(finished, joint_places, tmp_path):
    """Each by the task's own model on the same crops, one of which is shorter."""
    run, _ = finished("full")
    trainer = run.trainer
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    assert batch["input_values"].shape == (4, trainer.config.window_samples(100))
    assert "attention_mask" in batch
    labels = batch.pop("labels")
    run.trained.eval()
    with torch.no_grad():
        joint = run.trained(labels=labels, **batch)
        single = {task: float(run.trained.models[task](labels=labels[task], **batch).loss) for task in TASKS}
    songs = read_joint_splits(parse(joint_places, tmp_path, "full")[0])
    constants = {task: constant_loss(trainer.configs[task], songs[f"{task}/train"]) for task in TASKS}
    expected = sum(single[task] / constants[task] for task in TASKS) / 3
    assert float(joint["loss"]) == pytest.approx(expected, rel=1e-6)
    assert {task: float(loss) for task, loss in joint["losses"].items()} == pytest.approx(single)
    first = next(entry for entry in history(run) if "loss" in entry)
    logged = sum(first[f"loss_{task}"] / constants[task] for task in TASKS) / 3
    assert first["loss"] == pytest.approx(logged, rel=1e-3)


def test_every_labeled_crop_counts_the_same(finished, monkeypatch):
    """
    Crops with key labels are half of all crops. In a batch of four crops, one of which has them, its loss counts
    1/4 / 1/2; in the mean over this batch and one without any, half of that.
    """
    run, _ = finished("full")
    trainer, joint = run.trainer, run.trained.eval()
    monkeypatch.setattr(joint, "shares", {"chord": 1.0, "key": 0.5, "tagging": 1.0})
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    key = batch["labels"]["key"].clone()
    batch["labels"]["key"][1:] = -100
    with torch.no_grad():
        losses = joint(**batch)["losses"]
        expected = joint.models["key"](
            labels=key[:1], input_values=batch["input_values"][:1], attention_mask=batch["attention_mask"][:1]
        ).loss
    assert float(losses["key"]) == pytest.approx(float(expected) / 2, rel=1e-5)
    batch["labels"]["key"][:] = -100
    outputs = joint(**batch)
    assert outputs["losses"]["key"].item() == 0
    outputs["loss"].backward()
    assert all(parameter.grad is not None for parameter in joint.parameters() if parameter.requires_grad)
    joint.zero_grad()


def test_heads_may_read_other_layers(joint_places, finished, tmp_path):
    """The stored features of a probe give the losses of the whole models."""
    settings = json.dumps({"key": {"layer": 1}, "tagging": {"weighted_layer_sum": True}})
    for method in ("full", "probe"):
        run = tune(joint_places, tmp_path / method, method, "--task_settings", settings, "--max_steps", "2")
        trainer, joint = run.trainer, run.trained.eval()
        assert joint.layers == [0, 1, 2]
        batch = trainer.data_collator([trainer.train_dataset[index] for index in range(2)])
        labels = batch.pop("labels")
        with torch.no_grad():
            losses = joint(labels=labels, **batch)["losses"]
            for task in TASKS:
                model = joint.models[task].eval()
                if method == "full":
                    expected = model(labels=labels[task], **batch).loss
                else:
                    layers = joint.head_input(task, batch["hidden_states"])
                    assert layers.ndim == (4 if task == "tagging" else 3)
                    expected = model.classifier(layers, batch["counts"], labels[task]).loss
                torch.testing.assert_close(losses[task], expected)


@pytest.mark.parametrize("method", METHODS)
def test_parameters_of_a_run(finished, method):
    """The encoder counts once; a probe trains the heads alone, LoRA the matrices and the heads."""
    run, _ = finished(method)
    heads = sum(parameter.numel() for parameter in run.trained.classifier.parameters())
    encoder = next(iter(run.model.models.values())).musicfm
    matrices = sum(p.numel() for name, p in encoder.named_parameters() if "lora_" in name)
    plain = sum(p.numel() for p in encoder.parameters()) - matrices
    assert run.results["parameters"] == plain + matrices + heads
    expected = {"probe": heads, "full": plain + heads, "lora": matrices + heads}[method]
    assert run.results["trained_parameters"] == expected
    assert (matrices > 0) == (method == "lora")


# Data


def test_songs_without_an_annotation_give_a_task_nothing(joint_places, labeled, tmp_path, monkeypatch):
    """Song 0 has no chords, song 1 no key; chords of song 2 are not segments, but an empty list."""

    def partly_annotated(path, split):
        songs = load_songs(path, split)
        if split == "train":
            songs[0] = replace(songs[0], chords=None)
            songs[1] = replace(songs[1], keys=None)
            songs[2] = replace(songs[2], chords=[])
        return songs

    monkeypatch.setattr(joint_data, "load_songs", partly_annotated)
    task, _ = parse(joint_places, tmp_path, "full")
    splits = read_joint_splits(task)
    ids = {name: [song.id for song in songs] for name, songs in splits.items()}
    assert ids["chord/train"] == ["song 1", "song 3"]
    assert ids["key/train"] == ["song 0", "song 2", "song 3"]
    assert ids["tagging/train"] == ["song 0", "song 1", "song 2", "song 3"]
    assert splits["key/train"][2] is splits["chord/train"][1]  # encoded once when scored
    run = tune(joint_places, tmp_path / "run", "full", "--max_steps", "2")
    crops = run.trainer.train_dataset
    assert [song.id for song in crops.songs] == ["song 1", "song 3", "song 0", "song 2"]
    assert crops.label_shares() == {"chord": 0.5, "key": 0.75, "tagging": 1.0}
    assert crops.label_shares(speed=3) == {"chord": 0.5, "key": 0.75, "tagging": pytest.approx(1 / 7)}
    batch = run.trainer.data_collator([crops[index] for index in range(4)])
    labeled_crops = {task: (labels >= 0).flatten(1).any(1).sum() for task, labels in batch["labels"].items()}
    assert labeled_crops == {"chord": 2, "key": 3, "tagging": 4}
    without_keys = [replace(song, keys=None) for song in load_songs(labeled, "train")]
    monkeypatch.setattr(joint_data, "load_songs", lambda path, split: without_keys)
    with pytest.raises(ValueError, match=r"has keys, which key needs. Pass other data for it \(`--data key=FOLDER`\)"):
        read_joint_splits(task)


def test_several_data_sets(joint_places, labeled, tmp_path):
    """Songs with equal ids stay apart, a data set without chords adds none, and that of one task replaces others."""
    songs = {split: load_songs(labeled, split) for split in ("train", "validation")}
    songs["train"] = [replace(song, chords=None) for song in songs["train"]]
    songs["validation"][0] = replace(songs["validation"][0], id="song 99")
    save(build(songs, Source("", "", "", "")), tmp_path / "more")
    flags = ["--data", str(labeled), str(tmp_path / "more"), f"tagging={labeled}", "--validation_songs", "1"]
    task, _ = parse(joint_places, tmp_path, "full", *flags)
    splits = read_joint_splits(task)
    names = [f"{folder}/song {number}" for folder in (labeled.name, "more") for number in range(4)]
    assert [song.id for song in splits["key/train"]] == names
    assert [song.id for song in splits["chord/train"]] == names[:4]
    assert [song.id for song in splits["tagging/train"]] == names[:4]
    assert [song.id for song in splits["key/validation"]][1:3] == [f"{labeled.name}/song 5", "song 99"]
    assert len(splits["key/test"]) == 2
    drawn = draw_joint_songs(task, splits)
    assert {name: len(songs) for name, songs in drawn.items() if name.startswith("key/")} == {
        "key/train": 8,
        "key/validation": 2,  # both versions of one song
        "key/test": 2,
    }
    assert describe_data(task)["key"] == {"name": f"{labeled.name}, more"}
    task, _ = parse(joint_places, tmp_path, "full", *flags, "--data_repeats", json.dumps({str(tmp_path / "more"): 0}))
    splits = read_joint_splits(task)
    assert [song.id for song in splits["key/train"]] == names[:4]
    assert len(splits["key/validation"]) == 4  # of both data sets
    repeats = json.dumps({str(tmp_path / "more"): 3})
    run = tune(joint_places, tmp_path / "run", "full", *flags, "--max_steps", "1", "--data_repeats", repeats)
    assert run.results["data"]["songs"]["key/train"] == 8
    crops = run.trainer.train_dataset
    assert Counter(song.id for song in crops.songs) == Counter(names) + Counter(names[4:]) + Counter(names[4:])
    assert crops.label_shares() == {"chord": 0.25, "key": 1.0, "tagging": 0.25}


def test_a_song_is_encoded_once_for_all_tasks(finished, labeled):
    joint, calls = finished("full")[0].model, []
    handle = joint.musicfm.layers[0].register_forward_hook(lambda *values: calls.append(values[0]))
    songs = load_songs(labeled, "test")
    settings = WindowSettings(batch_size=8)
    passes = []
    for tasks in (["key"], TASKS):
        calls.clear()
        found = list(joint.song_logits([(song, tasks) for song in songs], settings))
        assert sorted((song.id, list(logits)) for song, logits in found) == sorted((song.id, tasks) for song in songs)
        passes.append(len(calls))
    handle.remove()
    assert passes[0] == passes[1] > 0


def test_mean_score_selects_checkpoints(finished):
    for entry in history(finished("full")[0]):
        if "eval_mean" in entry:
            main = [entry[f"eval_{name}"] for name in ("chord_majmin", "key_key_weighted", "tagging_map")]
            assert entry["eval_mean"] == pytest.approx(np.nanmean(main))
    trainer = finished("full")[0].trainer
    assert trainer.args.metric_for_best_model == "eval_mean"
    names = trainer.score_names(trainer.config, trainer.eval_dataset)
    assert names[0] == "mean"
    logged = next(entry for entry in trainer.state.log_history if "eval_mean" in entry)
    assert {f"eval_{name}" for name in names} == {name for name in logged if name.startswith("eval_")}


# Runs that are repeated and interrupted


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_run(joint_places, finished, tmp_path, method):
    """Interrupted in step 3, after the checkpoint of step 2."""
    with pytest.raises(InterruptedRunError):
        tune(joint_places, tmp_path / "run", method, callbacks=[InterruptAt(3)])
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed, whole = tune(joint_places, tmp_path / "run", method), finished(method)[0]
    assert history(resumed) == history(whole)
    found, expected = state(resumed), state(whole)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert resumed.scores == whole.scores
    settings = json.dumps({"chord": {"label_rate": 16}})
    with pytest.raises(ValueError, match=r"was made with chord.label_rate 8, not 16"):
        tune(joint_places, tmp_path / "run", method, "--task_settings", settings)


def test_a_probe_of_all_tasks_comes_first(joint_places, tmp_path):
    """Without a learning rate, training leaves its heads as they are; the first evaluation is of these."""
    flags = ["--probe_steps", "3", "--probe_batch_size", "2", "--learning_rate", "0", "--encoder_learning_rate", "0"]
    run = tune(joint_places, tmp_path / "run", "full", *flags, "--max_steps", "2")
    probe = tune(joint_places, tmp_path / "probe", "probe", "--max_steps", "3", "--learning_rate", "1e-3",
        "--eval_steps", "1", "--save_steps", "1", "--logging_steps", "1")  # fmt: skip
    found, expected = run.trained.classifier.state_dict(), probe.trained.classifier.state_dict()
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert not (tmp_path / "run/.probe").exists()
    assert history(run)[0]["step"] == 0


def test_accumulated_batches_and_bfloat16(joint_places, tmp_path):
    """Two batches of one crop are as good as one of two, if no label is ignored; bfloat16 changes little."""

    def losses(name, *flags):
        return [e["loss"] for e in history(tune(joint_places, tmp_path / name, "full", *flags)) if "loss" in e]

    one = losses("one", "--max_steps", "1")
    two = losses("two", "--max_steps", "1", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2")
    half = losses("half", "--max_steps", "1", "--bf16", "true")
    assert two == pytest.approx(one, rel=1e-4)
    assert half == pytest.approx(one, rel=0.05)


def test_early_stopping(joint_places, tmp_path):
    """Nothing is learned, so the second evaluation is not better than the first."""
    still = ["--learning_rate", "0", "--encoder_learning_rate", "0", "--early_stopping_patience", "1"]
    still += ["--eval_steps", "1", "--save_steps", "1"]
    run = tune(joint_places, tmp_path / "run", "full", *still)
    assert run.results["steps"] == {"run": 2, "best": 1}


def test_a_random_encoder(joint_places, tmp_path):
    """Without a first probe; its adapter is merged, because its weights are saved nowhere else."""
    run = tune(joint_places, tmp_path / "run", "lora", "--random_encoder", "true", "--max_steps", "1")
    save_joint_run(run, *parse(joint_places, tmp_path / "run", "lora", "--random_encoder", "true"))
    assert len(group_by_encoder(list(load_annotators([tmp_path / "run"]).values()))) == 1


def test_the_command_in_two_processes(server, joint_places, tmp_path):
    """Two processes with batches of one crop do what one process does with batches of two."""

    def flags(name: str, batch: str) -> list[str]:
        words = ["joint/full", *SHORT, *joint_places, "--max_steps", "1", "--probe_steps", "2", "--warmup_steps", "0"]
        words += ["--per_device_train_batch_size", batch, "--probe_batch_size", batch]
        return [*words, "--output_dir", str(tmp_path / name), "--results", str(tmp_path / "results")]

    script = str(ROOT / "recipes/finetune.py")
    done = on_ranks(server, run_script, [script, *flags("two", "1")], log=tmp_path / "log")
    assert [code for code, _ in done] == [0, 0], "\n".join(text for _, text in done)
    code, text = server.run_script("finetune.py", *flags("one", "2"), log=tmp_path / "log")
    assert code == 0, text
    assert re.search(r"^test tagging: map \d", text, re.MULTILINE)
    assert (tmp_path / "one/curves.png").is_file()
    found, expected = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("two", "one"))
    assert (found["training"]["world_size"], expected["training"]["world_size"]) == (2, 1)
    assert [entry["step"] for entry in found["history"] if "eval_mean" in entry] == [0, 1]
    losses = [next(e["loss"] for e in results["history"] if "loss" in e) for results in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for split in ("validation", "test"):
        for task, rows in expected["scores_of_songs"][split].items():
            assert list(found["scores_of_songs"][split][task]) == list(rows)


# Files


@pytest.mark.parametrize("method", METHODS)
def test_each_head_alone_is_that_of_the_joint_model(finished, method, labeled):
    run, folder = finished(method)
    audio = torch.from_numpy(load_audio(load_songs(labeled, "test")[0].audio, 24000))[None]
    for task in TASKS:
        auto = AutoModelForAudioClassification if task == "tagging" else AutoModelForAudioFrameClassification
        joint = run.model.models[task].eval()
        joint.musicfm.eval()
        joint.classifier.eval()
        with torch.no_grad():
            expected = joint(audio).logits
            for place, options in ((folder, {"subfolder": task}), (folder / task, {})):
                loaded = auto.from_pretrained(place, **options).eval()
                torch.testing.assert_close(loaded(audio).logits, expected, rtol=1e-5, atol=1e-5)
        assert loaded.config.task == task
    config = AutoConfig.from_pretrained(folder)
    assert (config.task, config.task_folders) == (None, TASKS)


@pytest.mark.parametrize("method", ["probe", "full"])
def test_one_file_of_the_encoder(finished, method):
    run, folder = finished(method)
    files = [folder / "model.safetensors", *(folder / task / "model-00001-of-00002.safetensors" for task in TASKS)]
    assert len({file.stat().st_ino for file in files}) == 1
    encoder = AutoModel.from_pretrained(folder)
    expected = run.model.models["chord"].musicfm.state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in encoder.state_dict().items())


def test_an_adapter_loads_with_peft(finished, encoder, labeled):
    run, folder = finished("lora")
    audio = torch.from_numpy(load_audio(load_songs(labeled, "test")[0].audio, 24000))[None]
    config = AutoConfig.from_pretrained(folder / "key")
    base = AutoModelForAudioFrameClassification.from_pretrained(encoder, config=config)
    adapted = peft.PeftModel.from_pretrained(base, folder / "key").eval()
    model = run.model.models["key"].eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(audio).logits, model(audio).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_annotating_runs_the_encoder_once(finished, method, labeled):
    _, folder = finished(method)
    models = load_annotators([folder])
    assert list(models) == [f"{folder}/{task}" for task in TASKS]
    assert len(group_by_encoder(list(models.values()))) == 1
    song = load_songs(labeled, "test")[0].audio
    single = load_annotators([folder / "chord"])
    assert annotate(models, song).chords == annotate(single, song).chords


def test_results(finished):
    _, folder = finished("full")
    results = json.loads((folder / "results.json").read_text())
    assert (results["task"], results["method"]) == ("joint", "full")
    assert list(results["scores"]["test"]) == TASKS
    assert results["settings"]["chord.label_rate"] == 8
    chord = json.loads((folder / "chord/results.json").read_text())
    assert chord["task"] == "chord"
    assert chord["scores"]["test"] == results["scores"]["test"]["chord"]
    assert chord["data"]["songs"] == {"train": 4, "validation": 2, "test": 2}
    assert chord["scores_of_songs"]["test"] == results["scores_of_songs"]["test"]["chord"]


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_runs_the_encoder_once(finished, method, labeled, monkeypatch):
    _, folder = finished(method)
    calls, forward = [], MusicFMModel.forward
    monkeypatch.setattr(MusicFMModel, "forward", lambda self, *a, **k: calls.append(self) or forward(self, *a, **k))
    evaluate(folder, labeled, task="key")
    passes = len(calls)
    report = evaluate_models([folder], labeled)
    assert list(report["models"]) == [f"{folder.name}/{task}" for task in TASKS]
    assert len(calls) == 2 * passes > 0


def test_evaluation_of_all_tasks(finished, labeled):
    """As in training, up to the batches of windows; a data set without an annotation of a task is fine."""
    _, folder = finished("full")
    results = json.loads((folder / "results.json").read_text())
    report = evaluate_models([folder], labeled, "test")
    assert list(report["models"]) == [f"{folder.name}/{task}" for task in TASKS]
    for task in TASKS:
        found = report["models"][f"{folder.name}/{task}"]
        assert found["task"] == task
        assert found["scores"][found["metric"]]["mean"] == pytest.approx(
            results["scores"]["test"][task][found["metric"]]["mean"], abs=1e-6
        )


@pytest.mark.parametrize("method", ["full", "lora"])
def test_card_and_published_files(finished, method):
    _, folder = finished(method)
    card = write_card(folder, "someone/joint").read_text()
    assert 'from_pretrained("someone/joint", subfolder="chord", trust_remote_code=True)' in card
    assert "| key | " in card
    names = {path.relative_to(folder).as_posix() for path in published_files(folder)}
    weights = {"adapter_model.safetensors"} if method == "lora" else {ENCODER, HEAD, "model.safetensors.index.json"}
    for task in TASKS:
        assert {f"{task}/{name}" for name in (*weights, "config.json", "results.json")} <= names
    assert ("model.safetensors" in names) == (method == "full")
    assert "modeling_musicfm.py" in names
    assert not any("checkpoint" in name for name in names)


@pytest.mark.parametrize("method", ["probe", "full"])
def test_a_packed_copy_is_the_rounded_model(finished, labeled, tmp_path, method):
    """Packed twice, so that a copy replaces an earlier one."""
    _, folder = finished(method)
    for _ in range(2):
        size = pack_joint(folder, tmp_path / "packed")
    files = [path for path in (tmp_path / "packed").rglob("*") if path.is_file()]
    assert size == sum(path.stat().st_size for path in files)
    weights = {path.relative_to(tmp_path / "packed").as_posix() for path in files if path.suffix == ".safetensors"}
    assert weights == {"model.safetensors", *(f"{task}/classifier.safetensors" for task in TASKS)}
    expected, packed = load_annotators([folder]), load_annotators([tmp_path / "packed"])
    assert len(group_by_encoder(list(packed.values()))) == 1
    for model, copy in zip(expected.values(), packed.values(), strict=True):
        tensors = copy.state_dict()
        assert copy.dtype == torch.float32
        for name, tensor in model.state_dict().items():
            assert tensors[name].equal(tensor if tensor.ndim < 2 else tensor.bfloat16().float()), name
    encoder = AutoModel.from_pretrained(tmp_path / "packed").state_dict()
    assert all(tensor.equal(encoder[name]) for name, tensor in copy.musicfm.state_dict().items())
    results = json.loads((tmp_path / "packed/results.json").read_text())
    assert list(results["scores"]) == list(results["calibration"]) == ["validation"]
    assert "scores_of_songs" not in results
    song = load_songs(labeled, "test")[0].audio
    assert annotate(packed, song).chords


def test_data_sets_with_the_same_citation_cite_it_once(finished, tmp_path):
    pack_joint(finished("full")[1], tmp_path / "packed")
    path = tmp_path / "packed/results.json"
    results = json.loads(path.read_text())
    for number, source in enumerate(results["data"]["tasks"].values()):
        source |= {"name": f"songs {number}", "citation": "@misc{songs}"}
    write_json(path, results)
    card = write_card(tmp_path / "packed").read_text()
    assert "- songs 0: " in card
    assert "- songs 1: " in card
    assert card.count("@misc{songs}") == 1


def test_a_packed_copy_is_the_mean_of_two_models(finished, tmp_path):
    """The other model has three times the weights, so the mean has twice the weights. Counters are not averaged."""
    _, folder = finished("full")
    shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("checkpoint-*"))
    files = {path.relative_to(tmp_path): load_file(path) for path in (tmp_path / "other").rglob("*.safetensors")}
    for path, tensors in files.items():
        tripled = {name: 3 * tensor for name, tensor in tensors.items()}
        save_file(tripled, tmp_path / path, {"format": "pt"})
    pack_joint(folder, tmp_path / "packed", average_with=tmp_path / "other")
    expected, packed = load_annotators([folder]), load_annotators([tmp_path / "packed"])
    for model, copy in zip(expected.values(), packed.values(), strict=True):
        tensors = copy.state_dict()
        assert any("num_batches_tracked" in name for name in tensors)
        for name, tensor in model.state_dict().items():
            doubled = 2 * tensor if tensor.is_floating_point() else tensor
            rounded = doubled if tensor.ndim < 2 else doubled.bfloat16().float()
            torch.testing.assert_close(tensors[name], rounded, rtol=2**-8, atol=0)
    results = json.loads((tmp_path / "packed/results.json").read_text())
    assert "data" in results
    assert not results.keys() & {"scores", "calibration"}
    assert "Each weight is the mean of its values before and after" in write_card(tmp_path / "packed").read_text()
    assert "Each weight is the mean" not in write_card(folder).read_text()
    save_file({"weight": torch.zeros(1)}, tmp_path / "other/model.safetensors")
    with pytest.raises(ValueError, match=r"other cannot be averaged with a model whose weights have other names"):
        pack_joint(folder, tmp_path / "packed", average_with=tmp_path / "other")


def test_a_head_for_retrieval_is_added_to_a_packed_copy(finished, tmp_path):
    """It shares the encoder's file, and the folder annotates as before."""
    pack_joint(finished("full")[1], tmp_path / "packed")
    before = list(load_annotators([tmp_path / "packed"]))
    config = AutoConfig.from_pretrained(tmp_path / "packed").to_dict()
    config |= {"task": "same_song", "contrastive_loss": "info_nce", "pitch_frames": 5, "xvector_output_dim": 8}
    model = MusicFMForXVector.from_encoder(tmp_path / "packed", MusicFMConfig.from_dict(config))
    model.save_pretrained(tmp_path / "probe")
    MusicFMFeatureExtractor.from_model_config(model.config).save_pretrained(tmp_path / "probe")
    found = {"map": {"mean": 0.5, "songs": 8, "interval": [0.4, 0.6]}}
    results = {"task": "same_song", "data": {"name": "versions"}, "scores": {"test": found}, "scores_of_songs": {}}
    write_json(tmp_path / "probe/results.json", results)
    size = pack_head(tmp_path / "probe", tmp_path / "packed")
    assert size == sum(path.stat().st_size for path in (tmp_path / "packed").rglob("*") if path.is_file())
    assert not (tmp_path / "packed/same_song/model.safetensors").exists()
    assert list(load_annotators([tmp_path / "packed"])) == before
    assert "same_song" not in write_card(tmp_path / "packed").read_text().split("## Scores")[1]  # of other weights
    report = {"music": {"name": "versions"}, "split": "test", "models": {"packed/same_song": {"scores": found}}}
    write_json(tmp_path / "packed/same_song/evaluations/versions.json", report)
    card = write_card(tmp_path / "packed").read_text()
    assert "| `same_song` | `AutoModelForAudioXVector` | embedding | whole clip | Retrieval: " in card
    assert "- versions: license not stated" in card
    assert "| same_song | versions | test | mean average precision | 0.500 | 0.400 to 0.600 | 8 |" in card
    clip = torch.randn(1, 24000, generator=torch.Generator().manual_seed(0)) * 0.1
    loaded = AutoModelForAudioXVector.from_pretrained(tmp_path / "packed", subfolder="same_song").eval()
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].equal(tensor if tensor.ndim < 2 else tensor.bfloat16().float()), name
    embedder, _ = load_embedder(str(tmp_path / "packed/same_song"))
    (song,) = embedder.embed_songs([("clip", clip[0].numpy())], PassageSettings(1.0, 1.0))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(song.vectors), loaded(clip).embeddings)
    next(loaded.musicfm.parameters()).data += 1
    loaded.save_pretrained(tmp_path / "probe")
    with pytest.raises(ValueError, match=r"encoder of .*probe is not that of .*packed: musicfm\..* differs"):
        pack_head(tmp_path / "probe", tmp_path / "packed")


def test_packing_needs_whole_models_of_several_tasks(finished, encoder, tmp_path):
    with pytest.raises(ValueError, match="does not hold models that were trained jointly"):
        pack_joint(encoder, tmp_path / "packed")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors: adapters cannot be copied"):
        pack_joint(finished("lora")[1], tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_scores_of_a_packed_copy_are_on_its_card(finished, labeled, tmp_path):
    """Scores with audio effects are told apart from those without, and music of pretraining is listed."""
    music = {"name": "my music", "licence": "CC-BY-4.0"}
    write_json(tmp_path / "encoder/results.json", {"music": [music]})
    pack_joint(finished("full")[1], tmp_path / "packed", tmp_path / "encoder")
    for name, effects in (("plain", 0.0), ("effects", 1.0)):
        report = evaluate_models([tmp_path / "packed"], labeled, "test", effects=effects)
        write_json(tmp_path / f"packed/evaluations/{name}.json", report)
    card = write_card(tmp_path / "packed").read_text()
    assert "- my music: CC-BY-4.0\n" in card
    assert "auto_map" not in (tmp_path / "packed/key/config.json").read_text()
    assert "trust_remote_code" not in card
    assert "import musicfm_hf\nfrom transformers import AutoModelForAudioFrameClassification\n" in card
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| key |")]
    assert [row[2] for row in rows] == ["test, with audio effects"] * 2 + ["test"] * 2
    assert [row[3].split(" (")[0] for row in rows] == ["key", "calibration error of keys"] * 2


def test_pipeline_with_all_tasks(finished, labeled):
    _, folder = finished("full")
    song = load_songs(labeled, "test")[0].audio
    found = pipeline("music-annotation", model=str(folder))(song)
    assert found == annotate(load_annotators([folder]), song).to_dict()
