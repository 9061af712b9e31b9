"""Evaluation of several models: a song is encoded once for all models with equal encoders, with unchanged scores."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.models import head

from musicfm_hf import MusicFMModel, WindowSettings, export_model, load_annotators
from musicfm_hf.cli import evaluate as command
from musicfm_hf.data.labeled import Source
from musicfm_hf.data.labeled_dataset import build, load_songs, save
from musicfm_hf.evaluation.evaluate import evaluate, evaluate_models

TASKS = ["beat", "chord", "key", "tagging"]
SETTINGS = WindowSettings(window_seconds=4.0, batch_size=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Models that read different layers of equal encoders, and one with another encoder (`other`)."""
    root = tmp_path_factory.mktemp("models")
    models = {task: head(task) for task in TASKS[:-1]} | {"tagging": head("tagging", labels=("major", "even"))}
    for name, model in (models | {"other": head("chord", seed=1)}).items():
        model.save_pretrained(root / name)
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture
def windows(monkeypatch) -> list[int]:
    """Sizes of the batches that encoders get."""
    sizes, forward = [], MusicFMModel.forward

    def counting(self, input_values, *arguments, **options):
        sizes.append(len(input_values))
        return forward(self, input_values, *arguments, **options)

    monkeypatch.setattr(MusicFMModel, "forward", counting)
    return sizes


def count(windows: list[int], run, *arguments, **options):
    """The output of a function, and how many windows it encodes."""
    windows.clear()
    return run(*arguments, **options), sum(windows)


def assert_equal(found, expected):
    """Compare results up to the rounding of batches."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_equal(found[name], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, float | np.floating):
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
    else:
        assert found == expected


@pytest.mark.parametrize("effects", [0.0, 1.0])
def test_equal_encoders_share_one_pass(folders, labeled, windows, effects):
    """Another encoder runs on its own, and results are in the order of the models."""
    names = ["beat", "other", "chord", "key", "tagging"]
    options = {"settings": SETTINGS, "effects": effects}
    single, counts = {}, {}
    for name in names:
        single[name], counts[name] = count(windows, evaluate, folders[name], labeled, **options)
    report, total = count(windows, evaluate_models, [folders[name] for name in names], labeled, **options)
    assert total == 2 * counts["beat"] > 0
    assert list(report["models"]) == names
    for name in names:
        result = report["models"][name]
        result.pop("difference", None)
        assert_equal(result, single[name])


def test_songs_without_an_annotation_are_scored_for_the_other_tasks_only(folders, labeled, windows, tmp_path):
    """`limit` counts the annotated songs of each task. Songs that no task needs are not encoded."""
    songs = [song for split in ("train", "validation", "test") for song in load_songs(labeled, split)]
    songs[0] = replace(songs[0], chords=None, keys=None)
    songs[1] = replace(songs[1], chords=None)
    songs[2] = replace(songs[2], keys=[])
    save(build({"test": songs}, Source("", "", "", "")), tmp_path)
    models = [folders["chord"], folders["key"]]
    for limit, chord, key in ((None, [2, 3, 4, 5, 6, 7], [1, 3, 4, 5, 6, 7]), (2, [2, 3], [1, 3])):
        options = {"settings": SETTINGS, "limit": limit}
        report, total = count(windows, evaluate_models, models, tmp_path, **options)
        found = {name: list(result["songs"]) for name, result in report["models"].items()}
        assert found == {"chord": [f"song {n}" for n in chord], "key": [f"song {n}" for n in key]}
        for name in ("chord", "key"):
            assert_equal(report["models"][name]["songs"], evaluate(folders[name], tmp_path, **options)["songs"])
        _, every = count(windows, evaluate, folders["beat"], tmp_path, settings=SETTINGS)
        assert total == (every - 3 if limit is None else 1 + 3 + 3)  # song 1 is one window, the others are three


def test_calibration_shares_one_pass(folders, labeled, windows, tmp_path):
    def saved(place: str) -> dict[str, str]:
        models = {task: head(task) for task in ("chord", "key")}
        for task, model in models.items():
            model.save_pretrained(tmp_path / place / task)
        return {task: str(tmp_path / place / task) for task in models}

    options = {"split": "validation", "settings": SETTINGS, "calibrate": 0.5}
    single, together = saved("single"), saved("together")
    expected = {task: count(windows, evaluate, folder, labeled, **options) for task, folder in single.items()}
    report, total = count(windows, evaluate_models, list(together.values()), labeled, **options)
    assert total == expected["key"][1] > 0
    for task in single:
        assert_equal(report["models"][task]["calibration"], expected[task][0]["calibration"])
        found, alone = (json.loads(Path(place[task], "config.json").read_text()) for place in (together, single))
        assert_equal(found["calibration"], alone["calibration"])
        assert found["calibration"] is not None


@pytest.fixture(scope="module")
def exported(folders, tmp_path_factory) -> Path:
    """Folders `one`, an exported head for chords, and `several`, which has one for tags too."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    root = tmp_path_factory.mktemp("exported")
    export_model(folders["chord"], root / "one")
    export_model([folders["chord"], folders["tagging"]], root / "several")
    return root


def test_heads_of_an_export_are_scored_like_the_models(exported, folders, labeled, tmp_path):
    names = {"one": "chord", "several/chord": "chord", "several/tagging": "tagging"}
    expected = {name: evaluate(folders[task], labeled, settings=SETTINGS) for name, task in names.items()}
    found = evaluate_models([exported / "one", exported / "several"], labeled, settings=SETTINGS)["models"]
    assert list(found) == list(names)
    for name, result in found.items():
        result.pop("difference", None)
        assert_equal(result, expected[name])
    assert_equal(evaluate(exported / "one", labeled, settings=SETTINGS), expected["one"])
    tags = evaluate(exported / "several", labeled, settings=SETTINGS, task="tagging")
    assert_equal(tags, expected["several/tagging"])
    with pytest.raises(ValueError, match=r"several has models for chord, tagging: pass `task`"):
        evaluate(exported / "several", labeled)
    with pytest.raises(ValueError, match=r"several has models for chord, tagging, and none for beat"):
        evaluate(exported / "several", labeled, task="beat")
    songs = [replace(song, chords=None) for song in load_songs(labeled, "test")]
    save(build({"test": songs}, Source("", "", "", "")), tmp_path)
    found = evaluate_models([exported / "several"], tmp_path, settings=SETTINGS)["models"]
    assert list(found) == ["several/tagging"]


@pytest.mark.parametrize("name", ["one", "several"])
def test_calibration_of_an_export_is_saved_with_the_head(name, exported, folders, labeled, tmp_path):
    options = {"split": "validation", "settings": SETTINGS, "calibrate": 0.5}
    shutil.copytree(exported / name, tmp_path / name)
    shutil.copytree(folders["chord"], tmp_path / "original")
    found = evaluate_models([tmp_path / name], labeled, **options)["models"]
    expected = evaluate(tmp_path / "original", labeled, **options)
    assert_equal(found["one" if name == "one" else "several/chord"]["calibration"], expected["calibration"])
    (original,) = load_annotators([tmp_path / "original"]).values()
    models = {model.config.task: model for model in load_annotators([tmp_path / name]).values()}
    assert_equal(models["chord"].config.calibration, original.config.calibration)
    assert all(model.config.calibration for model in models.values())


def test_songs_of_several_data_sets_are_scored_together(folders, labeled, tmp_path):
    first, second = load_songs(labeled, "test")
    for name, songs in {"old": [first, second], "new": [replace(first, chords=second.chords)]}.items():
        save(build({"test": songs}, Source("", "", "", "MIT" if name == "old" else "CC0-1.0")), tmp_path / name)
    data = [tmp_path / "old", tmp_path / "new"]
    expected = [evaluate(folders["chord"], path, settings=SETTINGS)["songs"] for path in data]
    report = evaluate_models([folders["chord"]], data, settings=SETTINGS)
    assert report["data"] == ["old", "new"]  # folders without their places, as for one
    assert report["music"]["name"] == "old, new"
    found = report["models"]["chord"]["songs"]
    assert list(found) == [f"old/{first.id}", second.id, f"new/{first.id}"]
    assert_equal(list(found.values()), [*expected[0].values(), *expected[1].values()])
    mean = np.mean([scores["majmin"] for scores in found.values()])
    assert report["models"]["chord"]["scores"]["majmin"]["mean"] == pytest.approx(mean)


def test_a_missing_annotation_is_reported_before_any_song_is_encoded(folders, labeled, windows, tmp_path):
    songs = [replace(song, keys=None) for song in load_songs(labeled, "test")]
    save(build({"test": songs}, Source("", "", "", "")), tmp_path)
    with pytest.raises(ValueError, match=r"None of the 2 songs of .* has keys, which key needs"):
        evaluate_models([folders["chord"], folders["key"]], tmp_path)
    assert not windows


def test_a_folder_is_refused_before_anything_is_scored(tmp_path):
    with pytest.raises(SystemExit, match=r"Not evaluated: `--output_file` must name a file, and .* is a folder"):
        command.main(["no_model", "--data", "no_data", "--output_file", str(tmp_path)])


def test_scores_are_saved_before_they_are_printed(tmp_path, monkeypatch):
    """A terminal that cannot show the name of a song does not cost the scores."""

    def fail(*arguments):
        raise UnicodeEncodeError("ascii", "é", 0, 1, "not in this encoding")

    report = {"models": {"chord": {"task": "chord"}}}
    monkeypatch.setattr(command, "evaluate_models", lambda *arguments: report)
    monkeypatch.setattr(command, "print_scores", fail)
    with pytest.raises(UnicodeEncodeError):
        command.main(["chord", "--data", "data", "--output_file", str(tmp_path / "scores.json")])
    assert json.loads((tmp_path / "scores.json").read_text()) == report
