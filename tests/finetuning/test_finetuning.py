"""Fine-tuning: settings, what is trained at which rate, what stays frozen, and runs that can be repeated."""

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from helpers.finetuning import InterruptAt, InterruptedRunError
from helpers.models import TINY, config_of, random_model
from helpers.runs import without_clock
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForAudioFrameClassification, TrainerControl, set_seed

from musicfm_hf import MusicFMConfig, MusicFMForAudioFrameClassification, annotate, load_annotators, load_audio
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.evaluation.evaluate import evaluate
from musicfm_hf.finetuning import run as module
from musicfm_hf.finetuning import trainer as finetuning_trainer
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.heads import add_lora, class_weights, head_config, save_finetuned
from musicfm_hf.finetuning.run import finetune, read_split
from musicfm_hf.finetuning.trainer import EarlyStopping, FinetuningTrainer, fill_cache
from musicfm_hf.tasks import get_task
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.chord_vocabularies import label_full
from musicfm_hf.training.recipes import parse_recipe

METHODS = ("probe", "full", "lora")
# Four steps of two crops of 2 s; an evaluation and a checkpoint after every second.
SHORT = ["--task", "chord", "--crop_seconds", "2", "--head_size", "16", "--head_dropout", "0.1"]
SHORT += ["--lora_dropout", "0.1", "--learning_rate", "0.01", "--encoder_learning_rate", "0.001"]
SHORT += ["--per_device_train_batch_size", "2", "--max_steps", "4", "--logging_steps", "1"]
SHORT += ["--eval_steps", "2", "--save_steps", "2", "--save_total_limit", "9"]
SHORT += ["--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true", "--dataloader_num_workers", "0"]


@pytest.fixture(scope="session")
def places(labeled, encoder, tmp_path_factory) -> list[str]:
    """Flags that say what to train on, with a cache that all runs share."""
    cache = tmp_path_factory.mktemp("features")
    return ["--model", str(encoder), "--data", str(labeled), "--cache", str(cache)]


@pytest.fixture
def songs(labeled) -> list[LabeledSong]:
    return load_songs(labeled, "train")


def tune(places, output, method: str, *flags, callbacks=()) -> module.Finetuned:
    argv = [*SHORT, *places, "--method", method, "--output_dir", str(output), *flags]
    task, arguments = parse_recipe((TaskArguments, FinetuningArguments), argv)
    set_seed(arguments.seed)
    splits = {name: read_split(task, name) for name in ("train", "validation", "test")}
    return finetune(task, arguments, splits, callbacks)


@pytest.fixture(scope="session")
def finished(places, tmp_path_factory):
    """Method → a run from beginning to end; each is trained when it is first asked for."""
    root, done = tmp_path_factory.mktemp("finished"), {}

    def get(method: str) -> module.Finetuned:
        if method not in done:
            done[method] = tune(places, root / method, method)
        return done[method]

    return get


def weights(run: module.Finetuned) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in run.trained.state_dict().items()}


def history(run: module.Finetuned) -> list[dict]:
    return without_clock(run.trainer.state.log_history)


def assert_same_run(run: module.Finetuned, other: module.Finetuned) -> None:
    """To the last bit."""
    assert history(run) == history(other)
    found, expected = weights(run), weights(other)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert run.scores == other.scores


# The configuration


def arguments_of(task: str = "chord", **settings) -> TaskArguments:
    return TaskArguments(task=task, model="model", data="data", **settings)


def test_configuration_of_the_head(songs):
    base = MusicFMConfig(**TINY)
    config = head_config(arguments_of("beat", layer=2, head_size=20, decoding='{"min_bpm": 60}'), base, songs)
    assert list(config.id2label.values()) == ["beat", "downbeat", "neither"]
    assert (config.label_rate, config.label_centered, config.classifier_layer) == (20.0, True, 2)
    assert (config.classifier_proj_size, config.task) == (20, "beat")
    # The meters are those of the training songs, unless the user specifies them.
    assert config.decoding == {"beats_per_bar": [3, 4], "meter_change": 0.0, "min_bpm": 60}
    fixed = head_config(arguments_of("beat", decoding='{"beats_per_bar": 4}'), base, songs)
    assert fixed.decoding == {"beats_per_bar": 4, "meter_change": 0.0}
    assert (config.hidden_size, config.num_hidden_layers) == (base.hidden_size, base.num_hidden_layers)
    assert config.classifier_layers == [2]
    structure = head_config(arguments_of("structure", label_rate=8.0, weighted_layer_sum=True), base, songs)
    assert [output["size"] for output in structure.classifier_outputs] == [7, 1]
    assert (structure.label_rate, structure.label_centered) == (8.0, False)
    assert structure.classifier_layers == [0, 1, 2, 3]
    tagging = head_config(arguments_of("tagging"), base, songs)
    assert list(tagging.id2label.values()) == ["even", "major", "minor"]
    assert tagging.label_rate is None
    assert tagging.classifier_outputs[0]["size"] == 3
    assert tagging.classifier_layers == [3]
    unfrozen = arguments_of(method="full", freeze_batch_norm=False)
    assert not head_config(unfrozen, base, songs).freeze_batch_norm
    assert head_config(arguments_of(method="lora", freeze_batch_norm=False), base, songs).freeze_batch_norm


def test_class_weights_of_one_class():
    """C for 2 s, N for 6 s: of 8 s at 25 Hz, 1 / (25 · share); the 23 that do not occur weigh like a share of 1e-4."""
    config = config_of("chord")
    chords = [Segment(0, 2, "C"), Segment(2, 8, "N"), Segment(8, 9, "X")]  # X is ignored
    song = LabeledSong("a", "a", "a", duration=9.0, chords=chords)
    found = class_weights(config, [song], 1.0)
    assert found[0] == pytest.approx(1 / (25 * 0.25))
    assert found[24] == pytest.approx(1 / (25 * 0.75))
    assert found[1:24] == pytest.approx([400.0] * 23)
    assert class_weights(config, [song], 0.5)[0] == pytest.approx((1 / (25 * 0.25)) ** 0.5)
    twice = class_weights(config, [song, LabeledSong("b", "b", "b", duration=8.0, chords=[Segment(0, 8, "C")])], 1.0)
    assert twice[0] == pytest.approx(1 / (25 * 10 / 16))  # frames of all songs count the same


def test_class_weights_of_independent_classes():
    """Sections at 25 Hz, 8 s with a boundary at 2 s; and tags, of which songs have or have not each."""
    config = config_of("structure")
    song = LabeledSong("a", "a", "a", duration=8.0, sections=[Segment(0, 2, "verse"), Segment(2, 8, "chorus")])
    found = class_weights(config, [song], 1.0)
    share = 16 / 200  # middles within 0.3 s: of frames 42 to 57
    assert found[7] == pytest.approx((1 - share) / share)
    assert found[1] == pytest.approx(1 / (7 * 0.25))
    assert found[2] == pytest.approx(1 / (7 * 0.75))
    tags = [["a"], ["a", "b"], ["a"], []]
    songs = [LabeledSong(str(n), "a", "a", duration=8.0, tags=own) for n, own in enumerate(tags)]
    assert class_weights(config_of("tagging", None, ["a", "b"]), songs, 1.0) == pytest.approx([1 / 3, 3.0])


def test_balance_goes_into_the_configuration(songs):
    config = head_config(arguments_of("key", balance=0.5), MusicFMConfig(**TINY), songs)
    expected = class_weights(config, songs, 0.5)
    assert config.class_weights == expected
    assert len(expected) == 25
    assert head_config(arguments_of("key"), MusicFMConfig(**TINY), songs).class_weights is None


# What is trained, and how fast


def groups_of(model, tmp_path) -> dict[str, tuple[float, float]]:
    """Name of each parameter that is trained → its learning rate and weight decay."""
    settings = {"learning_rate": 0.5, "encoder_learning_rate": 0.25, "weight_decay": 0.125, "max_steps": 1}
    settings |= {"report_to": "none", "use_cpu": True, "eval_steps": 1, "save_steps": 1}
    arguments = FinetuningArguments(output_dir=str(tmp_path), **settings)
    config = config_of("chord")
    trainer = FinetuningTrainer(model, arguments, [], [], lambda songs: [], config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
    }


NORMS = re.compile(r"norm\d?\.(weight|bias)$|bias$|layer_weights$")


def expected_groups(names, rate_of) -> dict[str, tuple[float, float]]:
    return {name: (rate_of(name), 0.0 if NORMS.search(name) else 0.125) for name in names}


def test_learning_rates_of_the_whole_encoder(tmp_path):
    model = MusicFMForAudioFrameClassification(config_of("chord", use_weighted_layer_sum=True))
    found = groups_of(model, tmp_path)
    names = [name for name, _ in model.named_parameters()]
    assert found == expected_groups(names, lambda name: 0.5 if name.startswith("classifier.") else 0.25)
    assert found["classifier.layer_weights"] == (0.5, 0.0)
    assert found["classifier.output.weight"] == (0.5, 0.125)
    assert found["musicfm.subsampling.blocks.0.norm1.weight"] == (0.25, 0.0)
    assert found["musicfm.layers.0.conv_module.batch_norm.weight"] == (0.25, 0.0)
    assert found["musicfm.layers.0.self_attn.q_proj.weight"] == (0.25, 0.125)


def test_learning_rates_of_a_probe(tmp_path):
    model = MusicFMForAudioFrameClassification(config_of("chord"))
    model.freeze_base_model()
    found = groups_of(model.classifier, tmp_path)
    assert found == expected_groups([name for name, _ in model.classifier.named_parameters()], lambda name: 0.5)


def test_learning_rates_of_lora(tmp_path):
    model = add_lora(MusicFMForAudioFrameClassification(config_of("chord")), arguments_of(method="lora"))
    found = groups_of(model, tmp_path)
    rates = {name: values[0] for name, values in found.items()}
    assert {name for name, rate in rates.items() if rate == 0.25} == {name for name in rates if "lora_" in name}
    head = [name for name, rate in rates.items() if rate == 0.5]
    assert all("classifier.modules_to_save.default." in name for name in head)
    assert len(head) == 6
    assert len(rates) == 6 + 2 * 8 * TINY["num_hidden_layers"]  # q, k, v, out; two feed-forward modules of two layers
    assert {values[1] for name, values in found.items() if "lora_" in name} == {0.125}


def test_share_of_lora_at_full_size():
    """Twelve layers of 1024, with the default rank and layers: far below 3 % are trained."""
    with torch.device("meta"):
        model = MusicFMForAudioFrameClassification(
            MusicFMConfig(num_labels=25, label_rate=8.0, classifier_proj_size=512)
        )
        total = sum(parameter.numel() for parameter in model.parameters())
        adapted = add_lora(model, arguments_of(method="lora"))
    assert model.config.hidden_size == 1024
    assert model.config.num_hidden_layers == 12
    trained = {name: p.numel() for name, p in adapted.named_parameters() if p.requires_grad}
    # Rank 8: 8 · (rows + columns) for four layers of 1024 × 1024 and four of 1024 × 4096.
    lora = 12 * 8 * (4 * (1024 + 1024) + 4 * (1024 + 4096))
    head = 2 * 1024 + 1024 * 512 + 512 + 512 * 25 + 25
    assert sum(trained.values()) == lora + head
    assert (lora + head) / (total + lora) < 0.03


def test_layers_that_do_not_exist():
    model = MusicFMForAudioFrameClassification(config_of("chord"))
    with pytest.raises(ValueError, match=r"no layers linear_q, query; it has .*k_proj.*q_proj"):
        add_lora(model, arguments_of(method="lora", lora_target_modules=["q_proj", "query", "linear_q"]))


# What a run changes


def original(encoder) -> dict[str, torch.Tensor]:
    return load_file(encoder / "model.safetensors")


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_a_probe_leaves_the_encoder_as_it_was(finished, encoder):
    run = finished("probe")
    state = run.model.musicfm.state_dict()
    expected = original(encoder)
    assert state.keys() == expected.keys()
    assert any(map(is_statistic, state))
    assert all(state[name].equal(expected[name]) for name in expected)
    assert not any(parameter.requires_grad for parameter in run.model.musicfm.parameters())
    assert run.trained is run.model.classifier
    run.model.train()
    assert not any(part.training for part in run.model.musicfm.modules())
    assert run.model.classifier.training
    assert run.results["trained_parameters"] == sum(p.numel() for p in run.model.classifier.parameters())


def test_full_fine_tuning_keeps_batch_statistics(finished, encoder):
    state, expected = finished("full").model.musicfm.state_dict(), original(encoder)
    kept = {name for name in expected if state[name].equal(expected[name])}
    assert {name for name in expected if is_statistic(name)} <= kept
    moved = {name for name in expected if name not in kept}
    assert len(moved) > 0.9 * sum(not is_statistic(name) for name in expected)


def test_full_fine_tuning_with_batch_statistics(places, encoder, tmp_path):
    flags = ["--freeze_batch_norm", "false", "--max_steps", "2"]
    state = tune(places, tmp_path / "run", "full", *flags).model.musicfm.state_dict()
    expected = original(encoder)
    statistics = [name for name in expected if is_statistic(name)]
    assert not any(state[name].equal(expected[name]) for name in statistics)
    assert {int(state[name] - expected[name]) for name in statistics if "num_batches" in name} == {2}


def test_lora_trains_its_matrices_and_the_head(finished, encoder):
    run = finished("lora")
    expected = original(encoder)
    state = run.model.musicfm.state_dict()
    for name, tensor in expected.items():
        parent, _, leaf = name.rpartition(".")
        assert state[name if name in state else f"{parent}.base_layer.{leaf}"].equal(tensor), name
    matrices = [tensor for name, tensor in state.items() if "lora_B" in name]
    assert len(matrices) == 2 * 8  # two layers
    assert all(tensor.any() for tensor in matrices)  # they begin as zeros
    results = run.results
    assert results["trained_parameters"] == sum(
        p.numel() for n, p in run.trained.named_parameters() if "lora_" in n or "modules_to_save" in n
    )
    head = sum(p.numel() for p in run.model.classifier.modules_to_save["default"].parameters())
    base = sum(tensor.numel() for name, tensor in expected.items() if not is_statistic(name))
    lora = sum(tensor.numel() for name, tensor in state.items() if "lora_" in name)
    assert results["trained_parameters"] == head + lora
    assert results["parameters"] == base + head + lora


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(places, tmp_path, method):
    """One song, taken whole: it is learned by heart."""
    flags = ["--limit", "1", "--max_steps", "10", "--save_steps", "10", "--eval_steps", "10", "--crop_seconds", "10"]
    flags += ["--head_dropout", "0", "--lora_dropout", "0", "--lr_scheduler_type", "constant"]
    flags += ["--per_device_train_batch_size", "1"]
    losses = [entry["loss"] for entry in history(tune(places, tmp_path / "run", method, *flags)) if "loss" in entry]
    assert losses[0] == pytest.approx(3.2, abs=0.5)  # log 25
    assert losses[-1] < 0.8 * losses[0]


# Runs that are repeated and interrupted


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_run(places, finished, tmp_path, method):
    torch.rand(3)
    again = tune(places, tmp_path / "run", method)
    assert_same_run(again, finished(method))
    losses = [entry["loss"] for entry in history(again) if "loss" in entry]
    assert len(set(losses)) == 4
    assert history(again)[0]["learning_rate"] == 0.01  # that of the head


def test_another_seed_gives_another_run(places, finished, tmp_path):
    other = tune(places, tmp_path / "run", "probe", "--seed", "7")
    assert history(other)[0]["loss"] != history(finished("probe"))[0]["loss"]


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_run(places, finished, tmp_path, method):
    """Interrupted in step 3, after the checkpoint of step 2; and started once more after the end."""
    with pytest.raises(InterruptedRunError):
        tune(places, tmp_path / "run", method, callbacks=[InterruptAt(3)])
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = tune(places, tmp_path / "run", method)
    assert_same_run(resumed, finished(method))
    assert resumed.results["steps"] == finished(method).results["steps"]
    again = tune(places, tmp_path / "run", method)
    assert_same_run(again, finished(method))
    assert (
        again.results["seconds"] > json.loads((tmp_path / "run/checkpoint-4/finetuning.json").read_text())["seconds"]
    )


def test_a_run_of_other_settings_does_not_go_on(places, tmp_path):
    tune(places, tmp_path / "run", "probe")
    message = r"checkpoint-4 was made with layer None, not 1; whiten True, not False. Pass another `--output_dir`"
    with pytest.raises(ValueError, match=message):
        tune(places, tmp_path / "run", "probe", "--layer", "1", "--whiten", "false")
    with pytest.raises(ValueError, match="was made with seed 42, not 7"):
        tune(places, tmp_path / "run", "probe", "--seed", "7")
    with pytest.raises(ValueError, match="checkpoint-4 has already taken more than 3 steps"):
        tune(places, tmp_path / "run", "probe", "--max_steps", "3")
    path = tmp_path / "run/checkpoint-4/finetuning.json"
    progress = json.loads(path.read_text())
    del progress["settings"]["speed"]  # of a version that had no such setting
    path.write_text(json.dumps(progress | {"seconds": 1000.0}))
    longer = tune(places, tmp_path / "run", "probe", "--max_steps", "6")
    assert longer.results["steps"]["run"] == 6
    assert 1000 < longer.results["seconds"] < 2000
    (tmp_path / "run/checkpoint-6/finetuning.json").unlink()
    with pytest.raises(ValueError, match="checkpoint-6 was not written by `musicfm finetune`"):
        tune(places, tmp_path / "run", "probe")


def test_a_run_on_another_encoder_or_other_songs_does_not_go_on(places, tmp_path, encoder, labeled, monkeypatch):
    """Under the same name: what was trained before is not taken for what is asked for now."""
    shutil.copytree(encoder, tmp_path / "encoder")
    own = ["--model", str(tmp_path / "encoder")]
    tune(places, tmp_path / "run", "probe", *own)
    other = random_model(MusicFMConfig.from_pretrained(encoder), seed=9)
    other.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"checkpoint-4 was made with encoder_digest '\w{16}', not '\w{16}'"):
        tune(places, tmp_path / "run", "probe", *own)
    shutil.copytree(encoder, tmp_path / "encoder", dirs_exist_ok=True)
    tune(places, tmp_path / "run", "probe", *own)  # it is what it was

    def relabeled(path, split):
        songs = load_songs(path, split)
        return [replace(song, chords=[Segment(0.0, song.duration, "C")]) for song in songs]

    monkeypatch.setattr(module, "load_songs", relabeled)
    with pytest.raises(ValueError, match=r"checkpoint-4 was made with songs_digest '\w{16}', not '\w{16}'"):
        tune(places, tmp_path / "run", "probe", *own)


# The best checkpoint


def scored(monkeypatch, *values: float) -> None:
    """Evaluations find these, one after the other."""
    left = list(values)
    monkeypatch.setattr(finetuning_trainer, "average_scores", lambda config, scores: {"majmin": left.pop(0)})


def saved(folder, method: str) -> dict[str, torch.Tensor]:
    state = load_file(folder / ("adapter_model.safetensors" if method == "lora" else "model.safetensors"))
    if "projector.matrix" in state:  # a checkpoint of a probe; the layer that comes of it is a plain one
        weight = state["projector.weight"].double() @ state.pop("projector.matrix").double().T
        bias = state["projector.bias"].double() - weight @ state.pop("projector.mean").double()
        state |= {"projector.weight": weight.float(), "projector.bias": bias.float()}
    return state


def trained_state(run: module.Finetuned, method: str) -> dict[str, torch.Tensor]:
    return peft.get_peft_model_state_dict(run.trained) if method == "lora" else run.trained.state_dict()


@pytest.mark.parametrize("method", METHODS)
def test_the_best_is_kept_and_training_stops(places, tmp_path, monkeypatch, method):
    """Best after step 2; two evaluations without gain end the run at step 4, and it stays ended."""
    flags = ["--max_steps", "20", "--early_stopping_patience", "2", "--save_total_limit", "2"]
    flags += ["--eval_steps", "1", "--save_steps", "1"]
    scored(monkeypatch, 0.3, 0.5, 0.5, float("nan"), 0.9, 0.9)
    run = tune(places, tmp_path / "run", method, *flags)
    assert run.results["steps"] == {"run": 4, "best": 2}
    best, last = (saved(tmp_path / f"run/checkpoint-{step}", method) for step in (2, 4))
    found = trained_state(run, method)
    assert found.keys() == best.keys()
    assert all(found[name].equal(best[name]) for name in best)
    assert not all(best[name].equal(last[name]) for name in best)
    again = tune(places, tmp_path / "run", method, *flags)
    assert again.results["steps"] == {"run": 5, "best": 2}  # a step that is of no effect
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 2
    assert again.scores == run.scores
    found = trained_state(again, method)
    assert all(found[name].equal(best[name]) for name in best)
    if method != "probe":
        folder = tmp_path / "saved"
        save_finetuned(run.model, run.trained, folder)
        kept = saved(folder, method)
        assert all(kept[name].equal(best[name]) for name in best)


def test_early_stopping():
    """By the history alone: nan is no gain, and neither is the same again."""

    def stops(*values, patience=2) -> bool:
        control, stopping = TrainerControl(), EarlyStopping(patience)
        state = SimpleNamespace(log_history=[{"loss": 1.0}, *({"eval_x": value} for value in values)])
        stopping.on_evaluate(SimpleNamespace(metric_for_best_model="eval_x"), state, control)
        return control.should_training_stop

    assert not stops()
    assert not stops(np.nan, np.nan, np.nan, np.nan)  # the validation songs do not have this score
    assert not stops(0.1)
    assert not stops(0.1, 0.2, 0.2)
    assert stops(0.1, 0.2, 0.2, 0.2)
    assert stops(0.5, 0.2, 0.4)
    assert not stops(0.5, 0.2, 0.6)
    assert not stops(0.5, 0.2, 0.4, patience=3)
    assert not stops(float("nan"), 0.2)
    assert stops(0.2, float("nan"), float("nan"))


def test_validation_songs_are_not_scored_twice(places, tmp_path, monkeypatch, labeled):
    scored, score_songs = [], FinetuningTrainer.score_songs

    def noting(trainer, songs):
        scored.append([song.id for song in songs])
        return score_songs(trainer, songs)

    monkeypatch.setattr(FinetuningTrainer, "score_songs", noting)
    run = tune(places, tmp_path / "run", "full")
    validation, test = ([song.id for song in load_songs(labeled, split)] for split in ("validation", "test"))
    assert scored == [validation, validation, test]
    best = run.results["steps"]["best"]
    (entry,) = [entry for entry in run.trainer.state.log_history if entry["step"] == best and "eval_majmin" in entry]
    assert run.results["scores"]["validation"]["majmin"]["mean"] == entry["eval_majmin"]
    assert run.scores["validation"] == score_songs(run.trainer, run.trainer.eval_dataset)


@pytest.mark.parametrize("bf16", [False, True])
def test_songs_are_scored_in_the_precision_of_training(places, tmp_path, monkeypatch, bf16):
    same, song_logits = {False: [], True: []}, module.song_logits

    def noting(model, songs, **kwargs):
        expected = {}
        for half in same:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                expected[half] = {song.id: logits for song, logits in song_logits(model, songs, **kwargs)}
        for song, logits in song_logits(model, songs, **kwargs):
            for half, own in expected.items():
                same[half].append((logits == own[song.id]).all())
            yield song, logits

    monkeypatch.setattr(module, "song_logits", noting)
    run = tune(places, tmp_path / "run", "full", "--bf16", str(bf16))
    assert len(same[bf16]) == 2 * len(run.scores["validation"]) + len(run.scores["test"])
    assert all(same[bf16])
    assert not any(same[not bf16])


def test_the_last_is_kept_if_asked(places, tmp_path, monkeypatch):
    scored(monkeypatch, 0.5, 0.3)
    run = tune(places, tmp_path / "run", "probe", "--load_best_model_at_end", "false")
    last = saved(tmp_path / "run/checkpoint-4", "probe")
    assert all(tensor.equal(last[name]) for name, tensor in run.trained.state_dict().items())


# Other kinds of runs


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("beat", ["--label_rate", "10", "--weighted_layer_sum", "true"]),
        ("structure", ["--balance", "0.5", "--layer", "1"]),
        ("key", ["--label_rate", "2", "--random_encoder", "true"]),
        ("tagging", ["--log_mel", "true"]),
        ("tagging", ["--crop_seconds", "30"]),  # longer than all songs, which differ in length
    ],
)
def test_probes(places, tmp_path, task, flags):
    run = tune(places, tmp_path / "run", "probe", "--task", task, "--max_steps", "2", *flags)
    assert (run.model is None) == ("--log_mel" in flags)
    assert all(0 < entry["loss"] < 20 for entry in history(run) if "loss" in entry)
    assert run.results["scores"]["test"].keys() >= {get_task(task).metric}
    assert all(tensor.isfinite().all() for tensor in run.trained.state_dict().values())


@pytest.mark.parametrize(
    ("method", "task", "flags"),
    [
        ("full", "beat", ["--tempo", "0.2"]),
        ("full", "structure", ["--speed", "3"]),
        ("lora", "key", ["--transpose", "true", "--weighted_layer_sum", "true"]),
        ("lora", "structure", ["--layer", "1", "--crop_seconds", "6"]),  # layers after it get no gradients
        ("full", "tagging", ["--crop_seconds", "6", "--gradient_accumulation_steps", "2"]),
    ],
)
def test_fine_tuning(places, tmp_path, method, task, flags):
    run = tune(places, tmp_path / "run", method, "--task", task, "--max_steps", "2", *flags)
    assert all(0 < entry["loss"] < 20 for entry in history(run) if "loss" in entry)
    save_finetuned(run.model, run.trained, tmp_path / "saved")
    loaded = AutoConfig.from_pretrained(tmp_path / "saved")
    assert loaded.task == task


def test_another_score_chooses_the_best_model(places, tmp_path):
    run = tune(places, tmp_path / "run", "probe", "--task", "beat", "--metric_for_best_model", "downbeat_f")
    args, entries = run.trainer.args, [entry for entry in history(run) if "eval_downbeat_f" in entry]
    assert args.metric_for_best_model == "eval_downbeat_f"
    assert args.greater_is_better
    assert run.trainer.state.best_metric == max(entry["eval_downbeat_f"] for entry in entries)
    with pytest.raises(ValueError, match=r"must be one of beat_f, .*downbeat_f, .*got 'wrong'"):
        tune(places, tmp_path / "other", "probe", "--task", "beat", "--metric_for_best_model", "wrong")
    assert not list((tmp_path / "other").glob("checkpoint-*"))
    with pytest.raises(ValueError, match=r"was made with metric_for_best_model 'downbeat_f', not None"):
        tune(places, tmp_path / "run", "probe", "--task", "beat")


def test_a_vocabulary_stays_with_the_model(places, labeled, tmp_path):
    """From the flag to the targets, the decoder with what it learned, scores and annotations of the saved model."""
    run = tune(places, tmp_path / "run", "full", "--vocabulary", "full", "--balance", "0.3", "--speed", "2")
    assert run.trainer.args.metric_for_best_model == "eval_tetrads_inv"
    assert run.results["settings"]["vocabulary"] == "full"
    save_finetuned(run.model, run.trained, tmp_path / "saved")
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.vocabulary == "full"
    assert [output["name"] for output in config.classifier_outputs] == "root quality bass chord tones".split()
    assert len(config.class_weights) == config.num_labels == 224
    songs = [song.chords for song in load_songs(labeled, "train")]
    assert config.decoding == get_task("chord", "full").learn_decoding(songs)
    found = evaluate(tmp_path / "saved", labeled)
    assert found["metric"] == "tetrads_inv"
    assert {"majmin", "sevenths_inv", "mirex"} <= found["scores"].keys()
    models = load_annotators([tmp_path / "saved"])
    song = load_songs(labeled, "test")[0]
    annotation = annotate(models, song.audio)
    assert all(label_full(chord.label) == chord.label for chord in annotation.chords)
    assert len(annotation.probabilities["chords"]) == len(annotation.chords) > 0


def test_accumulated_steps_are_those_of_a_larger_batch(places, tmp_path):
    """Two crops at once, and two after another; no frame of them is ignored."""
    flags = ["--task", "tagging", "--head_dropout", "0", "--lr_scheduler_type", "constant"]
    one = tune(places, tmp_path / "one", "probe", *flags)
    two = tune(
        places, tmp_path / "two", "probe", *flags, "--per_device_train_batch_size=1", "--gradient_accumulation_steps=2"
    )
    ours, theirs = ([entry["loss"] for entry in history(run) if "loss" in entry] for run in (one, two))
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("kind", ["conformer", "bert"])
def test_an_adapter_equals_the_model_it_was_saved_from(places, tmp_path, songs, kind):
    """Loaded on its own, by peft, and merged."""
    flags = ["--encoder_learning_rate", "0.05"]
    if kind == "bert":  # as MERT
        values = TINY | {"num_hidden_layers": 2, "encoder_type": "bert", "front_end": "waveform"}
        values |= {"hop_length": 320, "conv_dim": [16] * 7}
        values |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
        random_model(MusicFMConfig(**values)).save_pretrained(tmp_path / "encoder")
        flags += ["--model", str(tmp_path / "encoder"), "--weighted_layer_sum", "true"]
    run = tune(places, tmp_path / "run", "lora", *flags)
    folder = tmp_path / "adapter"
    save_finetuned(run.model, run.trained, folder)
    assert not (folder / "model.safetensors").exists()
    waveform = torch.from_numpy(load_audio(songs[0].audio, 24000, 1.0, 2.0))
    with torch.no_grad():
        expected = run.trained.eval()(waveform[None]).logits
        alone = AutoModelForAudioFrameClassification.from_pretrained(folder).eval()
        assert alone(waveform[None]).logits.equal(expected)
        base = MusicFMForAudioFrameClassification.from_pretrained(run.model.name_or_path, config=alone.config)
        by_peft = peft.PeftModel.from_pretrained(base, folder).eval()
        assert by_peft(waveform[None]).logits.equal(expected)
        merged = by_peft.merge_and_unload()
        torch.testing.assert_close(merged(waveform[None]).logits, expected, rtol=0, atol=1e-5)
        assert type(merged) is MusicFMForAudioFrameClassification
    without = MusicFMForAudioFrameClassification.from_pretrained(run.model.name_or_path, config=alone.config)
    without.classifier.load_state_dict(run.model.classifier.modules_to_save["default"].state_dict())
    assert not torch.allclose(without.eval()(waveform[None]).logits, expected, atol=0.01)  # the matrices matter


# Songs that cannot be trained on or scored


def run_on(places, output, splits, *flags):
    argv = [*SHORT, *places, "--output_dir", str(output), *flags]
    return finetune(*parse_recipe((TaskArguments, FinetuningArguments), argv), splits)


def test_songs_without_a_label_that_can_be_learned(places, songs, tmp_path):
    """Such as chords that the vocabulary lacks. One label is enough."""
    unknown = [replace(song, chords=[Segment(0.0, song.duration, "X")]) for song in songs]
    splits = {"train": unknown, "validation": songs[:1]}
    with pytest.raises(ValueError, match=rf"None of the {len(songs)} training songs has chords that .* can learn"):
        run_on(places, tmp_path / "none", splits, "--method", "probe")
    splits["train"] = [*unknown[:-1], replace(songs[0], chords=[Segment(0.0, 0.5, "X"), Segment(0.5, 1.0, "C:maj")])]
    assert run_on(places, tmp_path / "one", splits, "--method", "probe").trainer.state.global_step == 4


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_short_songs_are_named_before_training(places, songs, tmp_path, method, split):
    """A probe names them when it computes features."""
    splits = {name: list(songs) for name in ("train", "validation", "test")}
    splits[split][1] = replace(songs[1], id="brief", duration=0.02)
    message = rf"1 of {len(songs)} {split} songs are shorter than the 0.043 s that .* such as brief \(0.020 s\)"
    with pytest.raises(ValueError, match=message):
        run_on(places, tmp_path / "run", splits, "--method", method)


def test_a_score_that_the_validation_songs_lack(places, songs, tmp_path, caplog):
    """One song has no mean average precision of tags: each tag has only positive or only negative examples."""
    splits = {"train": songs, "validation": songs[:1]}
    flags = ["--method", "probe", "--task", "tagging", "--early_stopping_patience", "1"]
    run = run_on(places, tmp_path / "run", splits, *flags)
    assert run.trainer.state.global_step == 4
    assert np.isnan(run.results["scores"]["validation"]["map"]["mean"])
    assert "No map can be computed for the validation songs" in caplog.text


# Misuse


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "drums"], "`task` must be one of beat, chord, structure, key, tagging, presence, got 'drums'"),
        (["--model", ""], "`--model` is required"),
        (["--data="], "`--data` is required"),
        (["--method", "lora", "--log_mel"], "is a baseline of probes: use `--method probe`"),
        (["--keep_head", "--random_encoder"], "it cannot be used with `random_encoder`"),
        (
            ["--keep_head"],
            r"cannot be kept, because it has task None, not 'chord'; id2label of 2 labels with 'LABEL_0', 'LABEL_1', "
            r"not of 25 labels with 'C:maj', 'C#:maj', 'D:maj', …; ",
        ),
        (["--probe_steps", "5"], "the steps of a probe are `--max_steps`"),
        (["--method", "full", "--probe_steps", "-1"], "`probe_steps` must be at least 0, got -1"),
        (["--max_train_songs", "0"], "`max_train_songs` must be at least 1, got 0"),
        (["--transpose"], "A probe reads features that were computed once"),
        (["--tempo", "0.2"], "A probe reads features that were computed once"),
        (["--speed", "3"], "A probe reads features that were computed once"),
        (["--effects", "0.5"], "A probe reads features that were computed once: leave `effects` at 0"),
        (["--method", "full", "--effects", "2"], "`effects` must be a probability from 0 to 1, got 2.0"),
        (
            ["--method", "full", "--task", "tagging", "--speed", "3"],
            "`speed` is not an augmentation for the task tagging",
        ),
        (
            ["--method", "full", "--task", "beat", "--transpose"],
            "`transpose` is not an augmentation for the task beat",
        ),
        (["--method", "full", "--tempo", "0.2"], "`tempo` is not an augmentation for the task chord"),
        (["--max_steps", "0"], "`max_steps` is required"),
        (["--train_sampling_strategy", "random"], "`train_sampling_strategy` must be sequential"),
        (["--layer", "3"], "classifier_layer.* between 0 and 2"),
        (["--layer", "-1"], "classifier_layer.* between 0 and 2"),
        (["--crop_seconds", "0.01"], "`crop_seconds` must be at least 0.04, got 0.01"),
        (["--window_seconds", "0.01"], "`window_seconds` must be at least"),
        (["--method", "lora", "--lora_target_modules", "query"], "The encoder has no layers query; it has"),
        (["--method", "full", "--task", "beat", "--tempo", "1.5"], "`tempo` must be at least 0 and less than 1"),
        (
            ["--decoding", '{"min_second": 1}'],
            "`decoding` has a setting that does not exist or is invalid: .*min_second",
        ),
        (["--decoding", '{"min_seconds": -1}'], "min_seconds >= 0, got 8.0 Hz, -1 s"),
        (["--decoding", "[1]"], "`decoding` must be a mapping"),
        (["--decoding", "{"], "`decoding` must be a mapping"),
        (["--label_rate", "-1"], "`label_rate` must be greater than 0, got -1.0"),
        (["--label_rate", "0"], "`label_rate` must be greater than 0, got 0.0"),
        (["--crop_seconds", "0"], "`crop_seconds` must be greater than 0, got 0.0"),
        (["--limit", "0"], "`limit` must be at least 1, got 0"),
        (["--limit", "-1"], "`limit` must be at least 1, got -1"),
        (["--balance", "-3"], "`balance` must be at least 0, got -3.0"),
        (["--label_smoothing_factor", "0.1"], "`label_smoothing_factor` has no effect on the losses"),
        (["--vocabulary", "jazz"], "does not have the vocabulary 'jazz': it must be one of majmin, triads"),
        (["--task", "key", "--vocabulary", "full"], "leave it out, because the task has only one"),
    ],
)
def test_wrong_settings(places, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        tune(places, tmp_path / "run", "probe", *flags)
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_missing_things(places, tmp_path):
    with pytest.raises(OSError, match="none"):
        tune(places, tmp_path / "run", "probe", "--model", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="labeled data set"):
        tune(places, tmp_path / "run", "probe", "--data", str(tmp_path))


def test_no_labels_for_the_task(places, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "load_songs", lambda path, split: [replace(song, chords=None) for song in load_songs(path, split)]
    )
    with pytest.raises(ValueError, match=r"None of the 4 songs of .* \(train\) has chords, which chord needs"):
        tune(places, tmp_path / "run", "probe")


def test_settings_in_results(finished):
    results = json.loads(json.dumps(finished("lora").results))
    assert results["settings"]["model"] == "tiny"
    assert results["settings"]["lora_rank"] == 8
    assert results["training"]["max_steps"] == 4
    assert results["training"]["world_size"] == 1


def test_processes_divide_the_songs_whose_features_are_computed():
    """Each computes a share, and then what is missing where it runs."""
    filled = []
    cache = SimpleNamespace(fill=lambda songs, workers, progress=True: filled.append((songs, workers, progress)))
    arguments = SimpleNamespace(process_index=1, world_size=3, dataloader_num_workers=2)
    arguments.main_process_first = lambda desc: nullcontext()
    fill_cache(cache, list("abcde"), arguments)
    assert filled == [(["b", "e"], 2, False), (list("abcde"), 2, True)]
    filled.clear()
    arguments.process_index, arguments.world_size = 0, 1
    fill_cache(cache, list("abcde"), arguments)
    assert filled == [(list("abcde"), 2, True)]
