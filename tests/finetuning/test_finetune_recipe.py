"""recipes/finetune.py and recipes/evaluate.py: what they leave behind, killed, misused, and in several processes."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import peft
import pytest
import torch
from datasets import load_from_disk
from helpers.finetuning import QUICK, SHORT
from helpers.paths import ROOT
from helpers.processes import on_ranks, run_script
from helpers.recipes import run_recipe
from helpers.runs import history, results
from matplotlib.image import imread
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoFeatureExtractor, AutoModelForAudioFrameClassification

from musicfm_hf import MusicFMForAudioFrameClassification, load_audio
from musicfm_hf.cli.evaluate import print_scores
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.evaluation import evaluate as evaluate_module
from musicfm_hf.evaluation.evaluate import evaluate_models
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.training.recipes import parse_recipe

METHODS = ("probe", "full", "lora")


def flags_of(task: str, method: str, output: Path, encoder: Path, labeled: Path, *flags) -> list[str]:
    places = ["--model", encoder, "--data", labeled, "--output_dir", output]
    places += ["--cache", output.parent / "features", "--results", output.parent / "results"]
    augmentation = [] if method == "probe" else QUICK
    return [str(part) for part in (f"{task}/{method}", *SHORT, *augmentation, *places, *flags)]


def run_here(monkeypatch, capsys, script: str, *arguments) -> str:
    """A script in this process; gives what it printed."""
    run_recipe(monkeypatch, script, *arguments)
    return capsys.readouterr().out


# The recipes


@pytest.mark.parametrize("task", ["beat", "chord", "structure", "key", "tagging"])
@pytest.mark.parametrize("method", METHODS)
def test_recipes_are_read(task, method, tmp_path):
    places = ["--model", "m", "--data", "d", "--output_dir", str(tmp_path), "--report_to", "none", "--use_cpu", "true"]
    settings, arguments = parse_recipe(
        (TaskArguments, FinetuningArguments), [f"{task}/{method}", *places], kind="finetune"
    )
    assert (settings.task, settings.method) == (task, method)
    assert arguments.save_steps % arguments.eval_steps == 0
    assert arguments.early_stopping_patience > 0
    if method == "full":
        assert (arguments.learning_rate, arguments.encoder_learning_rate) == (1e-4, 1e-5)
    rates = {"beat": (20, 6), "chord": (8, 12), "structure": (5, 24), "key": (0.5, 12), "tagging": (None, 29.1)}
    assert (settings.label_rate, settings.crop_seconds) == rates[task]


# A run from beginning to end


@pytest.fixture(scope="module")
def runs(encoder, labeled, tmp_path_factory) -> Path:
    """A folder with a probe, a fine-tuned model and an adapter for chords, trained in this process."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for method in ("probe", "full", "lora"):
            more = ["--report_to", "tensorboard"] if method == "probe" else []
            flags = flags_of("chord", method, root / method, encoder, labeled, *more)
            run_recipe(patch, "finetune.py", *flags)
    return root


@pytest.mark.parametrize("method", METHODS)
def test_results_are_copied_and_have_no_absolute_path(runs, method):
    text = (runs / method / "results.json").read_text()
    assert json.loads((runs / f"results/{method}.json").read_text()) == json.loads(text)
    assert not re.search(r'"/', text)
    assert str(runs) not in text


@pytest.mark.parametrize("method", METHODS)
def test_results_have_the_settings_of_the_run(runs, labeled, method):
    found = results(runs / method)
    assert (found["task"], found["method"]) == ("chord", method)
    assert found["data"]["songs"] == {"train": 4, "validation": 2, "test": 2}
    assert found["base"] == {"name": "tiny", "revision": None}
    assert (found["training"]["seed"], found["training"]["max_steps"]) == (42, 4)
    assert found["settings"]["rate"] == 8
    assert found["settings"]["data"] == labeled.name


@pytest.mark.parametrize("method", METHODS)
def test_results_have_the_environment_of_the_run(runs, method):
    found = results(runs / method)
    assert found["versions"].keys() >= {"musicfm_hf", "transformers", "torch", "accelerate", "datasets", "peft"}
    assert found["machine"]
    assert 0 < found["seconds"] < 600


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_results_have_the_scores_of_every_song(runs, labeled, method, split):
    found = results(runs / method)
    rows = found["scores_of_songs"][split]
    assert list(rows) == [song.id for song in load_songs(labeled, split)]
    for name in ("majmin", "root"):
        summary = found["scores"][split][name]
        assert summary["mean"] == pytest.approx(sum(row[name] for row in rows.values()) / 2)
        assert summary["songs"] == 2
        assert summary["interval"][0] <= summary["mean"] <= summary["interval"][1]


@pytest.mark.parametrize("method", METHODS)
def test_results_are_those_of_the_best_checkpoint(runs, method):
    found = results(runs / method)
    evaluated = {entry["step"]: entry["eval_majmin"] for entry in found["history"] if "eval_majmin" in entry}
    assert list(evaluated) == ([2, 4] if method == "probe" else [0, 2, 4])  # from the head of a probe
    best = found["steps"]["best"]
    assert evaluated[best] == max(evaluated.values())
    assert found["scores"]["validation"]["majmin"]["mean"] == pytest.approx(evaluated[best], abs=1e-9)


def test_curves_and_events(runs):
    picture = imread(runs / "probe/curves.png")
    assert picture.shape[1] > picture.shape[0]  # two panels
    assert picture[..., :3].std() > 0.05
    (folder,) = (runs / "probe/runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("eval/majmin")] == [2, 4]


@pytest.mark.parametrize("method", METHODS)
def test_saved_models(runs, encoder, method):
    """They load on their own; only an adapter is without the encoder."""
    folder = runs / method
    model = AutoModelForAudioFrameClassification.from_pretrained(folder)
    assert (model.config.task, model.config.label_rate, model.config.num_labels) == ("chord", 8, 25)
    assert (folder / "model.safetensors").is_file() == (method != "lora")
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert extractor.sampling_rate == 24000
    if method == "probe":
        state, expected = model.musicfm.state_dict(), load_file(encoder / "model.safetensors")
        assert all(state[name].equal(expected[name]) for name in expected)


def test_evaluation_of_saved_models(runs, labeled, tmp_path, monkeypatch, capsys):
    """The scores are those that training found; a probe's but for the half precision of its cache."""
    folders = [runs / method for method in METHODS]
    output = tmp_path / "scores.json"
    text = run_here(
        monkeypatch, capsys, "evaluate.py", *folders, "--data", labeled, "--output", output, "--device", "cpu"
    )
    found = json.loads(output.read_text())
    assert (found["data"], found["split"]) == (labeled.name, "test")
    assert not re.search(r'"/', output.read_text())
    for method in METHODS:
        own, trained = found["models"][method], results(runs / method)
        for song, row in own["songs"].items():
            expected = trained["scores_of_songs"]["test"][song]
            assert row == pytest.approx(expected, abs=0.05 if method == "probe" else 1e-6)
        assert own["scores"]["majmin"]["mean"] == pytest.approx(
            sum(row["majmin"] for row in own["songs"].values()) / 2
        )
    first, other = found["models"]["probe"]["songs"], found["models"]["lora"]
    differences = [other["songs"][song]["majmin"] - first[song]["majmin"] for song in first]
    assert other["difference"]["mean"] == pytest.approx(sum(differences) / 2)
    assert other["difference"]["interval"] == [None, None]  # of two songs
    assert "majmin minus that of the first model" in text
    assert "(too few songs for an interval)" in text
    assert "song 7" in text


def test_the_difference_is_that_of_the_score_of_the_first_model(capsys):
    """Models of other vocabularies have other main scores."""
    rows = [{"majmin": 1.0, "tetrads_inv": 0.5}, {"majmin": 0.5, "tetrads_inv": 1.0}]
    results = {
        metric: {"task": "chord", "metric": metric, "songs": {"a": row}, "scores": {metric: {"mean": row[metric]}}}
        for metric, row in zip(("majmin", "tetrads_inv"), rows, strict=True)
    }
    evaluate_module._compare_with_first(results)
    difference = results["tetrads_inv"]["difference"]
    assert (difference["metric"], difference["mean"]) == ("majmin", -0.5)
    print_scores("other", results["tetrads_inv"])
    assert "  majmin minus that of the first model: -0.500" in capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS)
def test_models_are_calibrated_on_validation_songs(runs, labeled, method, tmp_path, monkeypatch, capsys):
    """By training, and again by an evaluation of a copy; the probabilities of test songs then have the same error."""
    saved = json.loads((runs / method / "config.json").read_text())["calibration"]
    assert saved["chords"].keys() == {"slope", "offset", "uncertain_below"}
    trained = results(runs / method)["calibration"]
    assert trained["validation"]["chords"]["ece"] != trained["validation"]["chords"]["ece_before"]
    shutil.copytree(runs / method, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*"))
    config = tmp_path / "model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"calibration": None}))
    places = ["--data", labeled, "--output_file", tmp_path / "scores.json", "--device", "cpu"]

    def evaluated(*flags) -> dict:
        text = run_here(monkeypatch, capsys, "evaluate.py", tmp_path / "model", *places, *flags)
        assert "chords:" in text
        (found,) = json.loads((tmp_path / "scores.json").read_text())["models"].values()
        return found["calibration"]["chords"]

    tolerance = {"abs": 0.02 if method == "probe" else 1e-4}  # the features of a probe are cached in half precision
    before = evaluated("--split", "test")
    assert before["ece"]["mean"] == pytest.approx(trained["test"]["chords"]["ece_before"]["mean"], **tolerance)
    assert "uncertain" not in before
    again = evaluated("--calibrate")
    assert again["ece_before"]["mean"] == pytest.approx(
        trained["validation"]["chords"]["ece_before"]["mean"], **tolerance
    )
    assert json.loads(config.read_text())["calibration"]["chords"] == pytest.approx(saved["chords"], abs=0.1)
    after = evaluated("--split", "test")
    assert after["ece"]["mean"] == pytest.approx(trained["test"]["chords"]["ece"]["mean"], **tolerance)
    assert after["uncertain"]["share"] == pytest.approx(trained["test"]["chords"]["uncertain"]["share"], **tolerance)


def test_scores_with_effects(runs, labeled, tmp_path, monkeypatch, capsys):
    """They depend on the seed, and on the songs alone: the first of two has the same scores without the second."""
    scores = {}
    for name, flags in {
        "plain": [],
        "changed": ["--effects", "1.0"],
        "one": ["--effects", "1.0", "--limit", "1"],
        "seed": ["--effects", "1.0", "--effects_seed", "5"],
    }.items():
        output = tmp_path / f"{name}.json"
        arguments = [runs / "full", "--data", labeled, "--output_file", output, "--device", "cpu", *flags]
        run_here(monkeypatch, capsys, "evaluate.py", *arguments)
        scores[name] = json.loads(output.read_text())
    songs = {name: report["models"]["full"]["songs"] for name, report in scores.items()}
    assert (scores["changed"]["effects"], scores["changed"]["effects_seed"]) == (1.0, 0)
    assert "effects" not in scores["plain"]
    first = next(iter(songs["plain"]))
    assert songs["one"] == {first: songs["changed"][first]}
    assert songs["changed"] != songs["plain"]
    assert songs["seed"] != songs["changed"]
    with pytest.raises(SystemExit, match=r"`effects` must be a probability from 0 to 1, got 3\.0"):
        run_here(monkeypatch, capsys, "evaluate.py", *arguments[:-4], "--effects", "3")


def test_systems_that_cannot_be_compared(labeled, monkeypatch):
    """They are scored all the same."""

    def predict(places, request):
        songs = {name: {"a": {"probabilities": {name: 0.5}, "tags": []}} for name in places}
        return {name: {"task": "tagging", "metric": "map", "songs": of_model} for name, of_model in songs.items()}

    monkeypatch.setattr("musicfm_hf.evaluation.evaluate._evaluate_places", predict)
    monkeypatch.setattr("musicfm_hf.evaluation.evaluate.load_config", lambda model: None)
    second = evaluate_models(["slow", "loud"], labeled)["models"]["loud"]
    assert second["not_compared"].startswith("The systems predict different labels")
    assert "difference" not in second


def test_runs_of_one_name_are_kept_apart(runs, encoder, labeled, monkeypatch, capsys, tmp_path):
    """Neither results of another task nor a model of the same name are written over."""
    flags = flags_of("key", "probe", runs / "more/probe", encoder, labeled, "--results", runs / "results")
    with pytest.raises(SystemExit, match=r"probe.json was made with task 'chord', not 'key'; .* another `--results`"):
        run_here(monkeypatch, capsys, "finetune.py", *flags)
    flags = flags_of("chord", "probe", runs / "more/probe", encoder, labeled, "--results", runs / "results")
    with pytest.raises(SystemExit, match=r"probe.json was made with seed 42, not 7. Pass another `--results`"):
        run_here(monkeypatch, capsys, "finetune.py", *flags, "--seed", "7")
    shutil.copytree(runs / "probe", tmp_path / "probe")
    arguments = [runs / "probe", tmp_path / "probe", "--data", labeled, "--device", "cpu"]
    with pytest.raises(SystemExit, match="Two models have the same name in probe, probe"):
        run_here(monkeypatch, capsys, "evaluate.py", *arguments)


def test_an_adapter_knows_its_base_from_anywhere(encoder, labeled, tmp_path, monkeypatch, capsys):
    """The base model was given by a path from another folder."""
    monkeypatch.chdir(encoder.parent)
    flags = flags_of("chord", "lora", tmp_path / "adapter", encoder.name, labeled)
    run_here(monkeypatch, capsys, "finetune.py", *flags)
    monkeypatch.chdir(tmp_path)
    model = AutoModelForAudioFrameClassification.from_pretrained("adapter")
    assert model.config.task == "chord"
    assert results(tmp_path / "adapter")["settings"]["model"] == encoder.name
    assert str(encoder.parent) not in (tmp_path / "adapter/README.md").read_text()


def test_tags_from_training_to_evaluation(encoder, labeled, tmp_path, monkeypatch, capsys):
    """An adapter for whole clips, whose labels are those of the data."""
    flags = flags_of("tagging", "lora", tmp_path / "tags", encoder, labeled, "--weighted_layer_sum", "true")
    trained = run_here(monkeypatch, capsys, "finetune.py", *flags)
    assert re.search(r"validation: map \d\.\d{3}, roc_auc \d\.\d{3}\ntest: map", trained)
    output = tmp_path / "scores.json"
    arguments = [tmp_path / "tags", "--data", labeled, "--output", output, "--device", "cpu"]
    text = run_here(monkeypatch, capsys, "evaluate.py", *arguments)
    found, expected = json.loads(output.read_text())["models"]["tags"], results(tmp_path / "tags")
    assert found["scores"] == expected["scores"]["test"]
    assert "tagging, 2 songs" in text
    for song, row in found["songs"].items():
        probabilities = expected["scores_of_songs"]["test"][song]["probabilities"]
        assert row["probabilities"] == pytest.approx(probabilities, abs=1e-6)
        assert list(probabilities) == ["even", "major", "minor"]


def test_without_test_songs(encoder, labeled, tmp_path, monkeypatch, capsys):
    """They may be in another data set; scores and card are then those that there are."""
    two = load_from_disk(labeled)
    del two["test"]
    two.save_to_disk(tmp_path / "two")
    flags = flags_of("key", "probe", tmp_path / "run", encoder, tmp_path / "two")
    text = run_here(monkeypatch, capsys, "finetune.py", *flags)
    assert "validation: key_weighted" in text
    assert "test:" not in text
    found = results(tmp_path / "run")
    assert found["data"]["songs"] == {"train": 4, "validation": 2}
    assert found["scores"].keys() == found["scores_of_songs"].keys() == {"validation"}
    assert "model-index" not in (tmp_path / "run/README.md").read_text()
    arguments = [tmp_path / "run", "--data", labeled, "--device", "cpu", "--output", tmp_path / "scores.json"]
    assert "key, 2 songs" in run_here(monkeypatch, capsys, "evaluate.py", *arguments)


def load_and_compare(folder: str, audio: str, expected: str) -> None:
    """In another process: the adapter as the Auto class loads it, as peft does, and merged."""
    waveform = torch.from_numpy(load_audio(audio))[None]
    expected = torch.load(expected)
    model = AutoModelForAudioFrameClassification.from_pretrained(folder).eval()
    named = json.loads((Path(folder) / "adapter_config.json").read_text())
    base = MusicFMForAudioFrameClassification.from_pretrained(named["base_model_name_or_path"], config=model.config)
    adapted = peft.PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(waveform).logits, expected, rtol=0, atol=1e-6)
        assert model(waveform).logits.equal(adapted(waveform).logits)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(waveform).logits, expected, rtol=0, atol=1e-5)


def test_an_adapter_in_another_process(runs, server, labeled, tmp_path):
    audio = load_songs(labeled, "test")[0].audio
    config = json.loads((runs / "lora/config.json").read_text())
    assert config["architectures"] == ["MusicFMForAudioFrameClassification"]  # not those of the base model
    model = AutoModelForAudioFrameClassification.from_pretrained(runs / "lora").eval()
    with torch.no_grad():
        torch.save(model(torch.from_numpy(load_audio(audio))[None]).logits, tmp_path / "logits.pt")
    code, text = server.run(
        load_and_compare, str(runs / "lora"), audio, str(tmp_path / "logits.pt"), log=tmp_path / "log"
    )
    assert code == 0, text


# Killed


def run_and_die(arguments: list[str]) -> None:
    """The recipe, killed in the call of a function of a module, half of which it has done."""
    from musicfm_hf.finetuning import trainer as finetuning_trainer
    from musicfm_hf.training import files

    if os.environ["DIE_IN"] == "save_file":
        save_file, calls = files.save_file, []

        def dying(tensors, path, metadata):
            save_file(tensors, path, metadata)
            calls.append(path)
            if len(calls) == 3:
                os.truncate(path, 100)
                os.killpg(0, signal.SIGKILL)

        files.save_file = dying
    else:
        save, calls = finetuning_trainer.FinetuningTrainer._save_optimizer_and_scheduler, []

        def dying(self, folder):
            save(self, folder)
            if ".probe" not in folder and not folder.endswith("checkpoint-0"):
                calls.append(folder)
            if len(calls) == 2:
                os.killpg(0, signal.SIGKILL)

        finetuning_trainer.FinetuningTrainer._save_optimizer_and_scheduler = dying
    run_script(arguments)


def test_killed_while_features_are_computed(server, encoder, labeled, tmp_path):
    """What is there is complete, and is not computed again."""
    flags = flags_of("chord", "probe", tmp_path / "run", encoder, labeled)
    script = str(ROOT / "recipes/finetune.py")
    code, text = server.run(run_and_die, [script, *flags], log=tmp_path / "log", environment={"DIE_IN": "save_file"})
    assert code == -signal.SIGKILL, text
    features = sorted((tmp_path / "features").rglob("*.safetensors"))
    assert len(features) == 2
    times = {path: path.stat().st_mtime_ns for path in features}
    for path in features:
        with safe_open(path, "pt") as file:
            assert file.get_slice("frames").get_shape() in ([250, 32], [75, 32])
    code, text = server.run_script("finetune.py", *flags, log=tmp_path / "log")
    assert code == 0, text
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == 8
    assert {path: path.stat().st_mtime_ns for path in features} == times


@pytest.mark.parametrize("method", METHODS)
def test_killed_while_a_checkpoint_is_written(server, encoder, labeled, tmp_path, method):
    """The second checkpoint is not there, and the run goes on from the first as if nothing had been."""
    flags = flags_of("chord", method, tmp_path / "run", encoder, labeled)
    whole = flags_of("chord", method, tmp_path / "whole", encoder, labeled)
    code, text = server.run_script("finetune.py", *whole, log=tmp_path / "log")
    assert code == 0, text
    script = str(ROOT / "recipes/finetune.py")
    code, text = server.run(run_and_die, [script, *flags], log=tmp_path / "log", environment={"DIE_IN": "checkpoint"})
    assert code == -signal.SIGKILL, text
    before = set() if method == "probe" else {"checkpoint-0"}  # the probe that the others start from
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == before | {"checkpoint-2"}
    code, text = server.run_script("finetune.py", *flags, log=tmp_path / "log")
    assert code == 0, text
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    found, expected = results(tmp_path / "run"), results(tmp_path / "whole")
    assert found["scores_of_songs"] == expected["scores_of_songs"]
    assert found["steps"] == expected["steps"]
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    ours, theirs = (load_file(tmp_path / run / name) for run in ("run", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in ours)


# Several processes


@pytest.mark.parametrize("method", ["probe", "lora"])
def test_two_processes_score_as_one(server, encoder, labeled, tmp_path, method):
    """With a learning rate of 0 the model is the same: songs are shared, and come together again in their order."""
    still = ["--learning_rate", "0", "--encoder_learning_rate", "0", "--max_steps", "2", "--limit", "3"]
    still += ["--probe_steps", "0"]
    script = str(ROOT / "recipes/finetune.py")
    two = flags_of("chord", method, tmp_path / "two", encoder, labeled, *still)
    done = on_ranks(server, run_script, [script, *two], log=tmp_path / "log")
    assert [code for code, _ in done] == [0, 0], "\n".join(text for _, text in done)
    one = flags_of("chord", method, tmp_path / "one", encoder, labeled, *still)
    code, text = server.run_script("finetune.py", *one, log=tmp_path / "log")
    assert code == 0, text
    found, expected = results(tmp_path / "two"), results(tmp_path / "one")
    assert found["training"]["world_size"] == 2
    assert expected["training"]["world_size"] == 1
    for split in ("validation", "test"):
        assert list(found["scores_of_songs"][split]) == list(expected["scores_of_songs"][split])
        for song, row in expected["scores_of_songs"][split].items():
            assert found["scores_of_songs"][split][song] == pytest.approx(row, abs=1e-6)
    (one,), (two,) = (
        [entry["eval_majmin"] for entry in history(tmp_path / run) if "eval_majmin" in entry] for run in ("one", "two")
    )
    assert one == pytest.approx(two, abs=1e-6)


def test_two_processes_train_a_probe_first(server, encoder, labeled, tmp_path):
    """With a random encoder, whose batch statistics are the same on both."""
    script, random = str(ROOT / "recipes/finetune.py"), ["--random_encoder", "true", "--max_steps", "2"]
    flags = flags_of("chord", "full", tmp_path / "two", encoder, labeled, *random)
    done = on_ranks(server, run_script, [script, *flags], log=tmp_path / "log")
    assert [code for code, _ in done] == [0, 0], "\n".join(text for _, text in done)
    assert [entry["step"] for entry in history(tmp_path / "two") if "eval_majmin" in entry] == [0, 2]
    assert not (tmp_path / "two/.probe").exists()


# Misuse


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "drums"], "Not trained: `task` must be one of beat, chord"),
        (["--model", "/no/model"], "Not trained: .*/no/model"),
        (["--data", "/no/data"], "Not trained: .*/no/data"),
        (["--layer", "9"], "Not trained: .*classifier_layer.* between 0 and 2"),
        (
            ["--transpose", "true", "--method", "full", "--task", "beat"],
            "Not trained: `transpose` is not an augmentation for the task beat",
        ),
        (["--method", "lora", "--lora_target_modules", "query"], "Not trained: The encoder has no layers query"),
    ],
)
def test_messages(encoder, labeled, tmp_path, monkeypatch, capsys, flags, message):
    argv = flags_of("chord", "probe", tmp_path / "run", encoder, labeled, *flags)
    with pytest.raises(SystemExit, match=message):
        run_here(monkeypatch, capsys, "finetune.py", *argv)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_messages_of_evaluation(runs, encoder, labeled, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"Not evaluated: .* does not specify the task of its head"):
        run_here(monkeypatch, capsys, "evaluate.py", encoder, "--data", labeled)
    with pytest.raises(SystemExit, match=r"Not evaluated: .*no split 'valid', only train, validation, test"):
        run_here(monkeypatch, capsys, "evaluate.py", runs / "probe", "--data", labeled, "--split", "valid")
    with pytest.raises(SystemExit, match=r"Not evaluated: .*missing"):
        run_here(monkeypatch, capsys, "evaluate.py", tmp_path / "missing", "--data", labeled)
