"""The benchmark chooses layers and methods on validation songs, and scores what it has chosen on test songs."""

from itertools import pairwise
from types import SimpleNamespace

import probe_curve
import pytest
import tasks
import tasks_table
from tasks_table import FULL, LORA, PROBE, RANDOM

LAYERS = 3
BEST_ON_VALIDATION, BEST_ON_TEST = 1, 2


def scores(layer: int | str | None, seed: int = 1) -> dict[str, float]:
    """Scores on which the splits disagree about the best layer. Other seeds are better, on all splits."""
    better = 0.001 * seed
    return {
        "validation": 0.5 + better + 0.3 * (layer == BEST_ON_VALIDATION) + 0.2 * (layer == BEST_ON_TEST),
        "test": 0.4 + better + 0.1 * (layer == BEST_ON_VALIDATION) + 0.5 * (layer == BEST_ON_TEST),
    }


def run_of(layer: int | str | None, seed: int = 1, row: str = PROBE, **means) -> dict:
    """What the store has of a run."""
    return {
        "task": "chord",
        "row": row,
        "scores": {split: {"majmin": {"mean": mean}} for split, mean in (means or scores(layer, seed)).items()},
        "settings": {"weighted_layer_sum": layer == "weighted", "layer": None if layer == "weighted" else layer},
        "training": {"seed": seed},
        "command": f"layer {layer}, seed {seed}",
        "scores_of_songs": {"test": {f"song {number}": {"majmin": 0.5, "seconds": 1.0} for number in range(3)}},
        "trained_parameters": 1,
        "parameters": 2,
        "seconds": 3.0,
    }


@pytest.fixture
def study(monkeypatch, tmp_path):
    """A study of an encoder with three layers, whose runs are only noted."""
    arguments = SimpleNamespace(model="model", data="data", cache="cache", store=tmp_path, finetuning_flags=[])
    monkeypatch.setattr(tasks.AutoConfig, "from_pretrained", lambda model: SimpleNamespace(num_hidden_layers=LAYERS))
    study, study_runs = tasks.Study("chord", arguments), []

    def run(row, flags, seed, reader=None):
        layer = next((int(flag[8:]) for flag in reader or [] if flag.startswith("--layer=")), "weighted")
        study_runs.append((layer, seed, flags))
        return run_of(layer, seed)

    monkeypatch.setattr(study, "run", run)
    return study, study_runs


@pytest.mark.parametrize("row", [PROBE, RANDOM])
def test_more_seeds_are_run_of_the_layer_that_is_best_on_validation_songs(study, row):
    study, study_runs = study
    study.run_row(row)
    first = [(layer, 1) for layer in (0, 1, 2, 3, "weighted")]
    assert [run[:2] for run in study_runs] == [*first, (BEST_ON_VALIDATION, 2), (BEST_ON_VALIDATION, 3)]
    for _, _, flags in study_runs:
        pairs = list(pairwise(flags))
        assert (("--random_encoder", "true") in pairs) == (row == RANDOM)


def test_the_table_has_the_layer_that_is_best_on_validation_songs():
    runs = [run_of(layer, 1) for layer in (0, 1, 2, 3, "weighted")]
    runs += [run_of(BEST_ON_VALIDATION, seed) for seed in (2, 3)]
    chosen = tasks_table.best_runs("chord", runs)
    assert [(run["settings"]["layer"], run["training"]["seed"]) for run in chosen] == [
        (BEST_ON_VALIDATION, seed) for seed in (1, 2, 3)
    ]
    cell = tasks_table.cell("chord", runs, chosen)
    test = [scores(BEST_ON_VALIDATION, seed)["test"] for seed in (1, 2, 3)]
    assert (cell["layer"], cell["command"]) == (BEST_ON_VALIDATION, "layer 1, seed 1")
    assert cell["test"]["majmin"] == pytest.approx(sum(test) / 3)
    assert cell["seeds"]["majmin"] == test
    assert cell["validation_score"] == scores(BEST_ON_VALIDATION)["validation"]
    assert cell["validation"]["2"] == scores(2)["validation"]


def test_the_layer_is_chosen_by_the_first_seed():
    """A layer that only later seeds were run of has more chances to be the best."""
    runs = [run_of(1, 1), run_of(2, 1), run_of(2, 2, validation=0.99, test=0.99)]
    assert {run["settings"]["layer"] for run in tasks_table.best_runs("chord", runs)} == {1}


def test_the_compared_method_is_chosen_on_validation_songs():
    chosen = {
        FULL: [run_of(None, row=FULL, validation=0.7, test=0.9)],
        LORA: [run_of(None, row=LORA, validation=0.8, test=0.6)],
    }
    songs = {f"song {number}": {"majmin": 0.25, "seconds": 1.0} for number in range(3)}
    baselines = {
        "templates_true_beats": {"task": "chord", "split": "test", "scores_of_songs": {"test": songs}},
    }
    assert list(tasks_table.differences("chord", chosen, baselines)) == ["majmin: LoRA − templates_true_beats"]


def test_the_curve_of_probes_is_of_validation_songs(monkeypatch, tmp_path):
    splits = []
    monkeypatch.setattr(probe_curve, "read_split", lambda settings, split: splits.append(split) or [])
    results = {"scores": {split: {"majmin": {"mean": mean}} for split, mean in (("validation", 0.5), ("test", 0.9))}}
    monkeypatch.setattr(probe_curve, "train_probe", lambda *arguments: SimpleNamespace(results=results))
    arguments = SimpleNamespace(data="data", limit=2, cache="cache", run=tmp_path)
    assert probe_curve.score("chord", tmp_path, ["--layer", "1"], arguments) == 0.5
    assert splits == ["train", "validation"]
