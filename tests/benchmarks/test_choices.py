"""The benchmark chooses layers and methods on validation songs, and scores what it has chosen on test songs."""

from itertools import pairwise
from types import SimpleNamespace

import probe_curve
import pytest
import tasks
import tasks_table
from tasks import Cell
from tasks_table import FULLS, LOG_MEL, LORAS, PROBES

LAYERS = 3
BEST_ON_VALIDATION, BEST_ON_TEST = 1, 2


def scores(layer: int | str | None, seed: int = 1) -> dict[str, float]:
    """Scores on which the splits disagree about the best layer. Other seeds are better, on all splits."""
    better = 0.001 * seed
    return {
        "validation": 0.5 + better + 0.3 * (layer == BEST_ON_VALIDATION) + 0.2 * (layer == BEST_ON_TEST),
        "test": 0.4 + better + 0.1 * (layer == BEST_ON_VALIDATION) + 0.5 * (layer == BEST_ON_TEST),
    }


def run_of(layer: int | str | None, seed: int = 1, row: str = PROBES[1], **means) -> dict:
    """What the store has of a run."""
    return {
        "task": "chord",
        "row": row,
        "scores": {split: {"majmin": {"mean": mean}} for split, mean in (means or scores(layer, seed)).items()},
        "settings": {"weighted_layer_sum": layer == "weighted", "layer": None if layer == "weighted" else layer},
        "training": {"seed": seed},
        "command": f"layer {layer}, seed {seed}",
        "scores_of_songs": {"test": {f"song {number}": {"majmin": 0.5, "seconds": 1.0} for number in range(3)}},
        "data": {"songs": {"train": 9}},
        "trained_parameters": 1,
        "parameters": 2,
        "seconds": 3.0,
    }


@pytest.fixture
def study(monkeypatch, tmp_path):
    """A study of an encoder with three layers, whose runs are only noted."""
    places = {"model": "model", "data": "data", "cache": "cache", "store": tmp_path, "runs": tmp_path}
    asked = {"tasks": ["chord"], "rows": [], "songs": [None], "seeds": (1, 2, 3), "finetuning_flags": []}
    arguments = SimpleNamespace(**places, **asked)
    study, study_runs = tasks.Study(arguments), []
    monkeypatch.setattr(tasks.Study, "num_layers", LAYERS)

    def run_cell(cell, timeout=-1):
        reader = study.reader(cell)
        layer = next((int(flag[8:]) for flag in reader if flag.startswith("--layer=")), "weighted")
        study_runs.append((cell, layer, study.flags(cell, reader)))
        return run_of(layer, cell.seed)

    monkeypatch.setattr(study, "run_cell", run_cell)
    return study, study_runs


@pytest.mark.parametrize("row", [*PROBES, *LORAS, *FULLS])
def test_all_methods_read_the_layer_that_is_best_on_validation_songs(study, row):
    """Of probes from the same starting point, with the first seed and all songs."""
    study, study_runs = study
    study.arguments.rows, study.arguments.songs = [row], [4, None]
    study.run()
    search = [(cell.row, layer) for cell, layer, _ in study_runs if cell.reader is not None]
    is_random = "random" in row
    assert set(search) == {(PROBES[not is_random], layer) for layer in (0, 1, 2, 3, "weighted")}
    runs = {(cell.songs, cell.seed): (layer, flags) for cell, layer, flags in study_runs if cell.reader is None}
    whole = [(None, seed) for seed in ((2, 3) if row in PROBES else (1, 2, 3))]
    assert set(runs) == {*whole, (4, 1), (4, 2), (4, 3)}
    for (songs, seed), (layer, flags) in runs.items():
        assert layer == BEST_ON_VALIDATION
        assert ("--random_encoder=true" in flags) == is_random
        pairs = list(pairwise(flags))
        assert (("--max_train_songs", "4") in pairs) == (songs == 4)
        assert (("--songs_seed", str(seed)) in pairs) == (songs == 4)
        assert ("--seed", str(seed)) in pairs


def test_runs_have_distinct_names(study):
    study, _ = study
    study.arguments.rows, study.arguments.songs = [LOG_MEL, *PROBES, *LORAS, *FULLS], [4, 8, None]
    cells = set(study.cells())
    assert len(cells) == 3 * 3 + 2 * (5 + 3 * 3 - 1) + 4 * 3 * 3
    assert len({cell.name for cell in cells}) == len(cells)
    assert Cell("chord", FULLS[0], 4, 2).name == "chord_full-random_4-songs_2"
    assert Cell("key", PROBES[1], None, 1, ("--layer=2",)).name == "key_probe-pretrained_layer-2_1"


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


def test_cells_of_the_earlier_study_are_compared_only_with_each_other():
    """A cell shows runs of the earlier study until it has its own."""
    before = [run_of(None, row="full"), run_of(1, row="pretrained probe"), run_of(1, row="random encoder")]
    now = [run_of(1, seed, row=PROBES[0]) for seed in (1, 2)]

    def compared(runs):
        chosen = {"chord": {row: tasks_table.cell_runs(runs, "chord", row) for row in (*PROBES, FULLS[1])}}
        return list(tasks_table.all_differences(chosen, {}, {})["chord"])

    assert compared(before) == [
        "majmin: probe (pretrained) − probe (random)",
        "majmin: full (pretrained) − probe (pretrained)",
    ]
    assert compared([*before, *now]) == ["majmin: full (pretrained) − probe (pretrained)"]
    runs, best = tasks_table.cell_runs([*before, *now], "chord", PROBES[0])
    assert [run["training"]["seed"] for run in best] == [1, 2]
    cell = tasks_table.cell("chord", runs, best)
    assert tasks_table.mark(cell) == ""
    assert tasks_table.mark(tasks_table.cell("chord", *tasks_table.cell_runs(before, "chord", PROBES[0]))) == "\\*†"


def test_runs_on_few_songs_are_apart():
    few = [run_of(1, seed) for seed in (1, 2)]
    for run in few:
        run["settings"]["max_train_songs"] = 8
    runs = [*few, run_of(1, 1)]
    assert len(tasks_table.cell_runs(runs, "chord", PROBES[1])[0]) == 1
    cells = tasks_table.few_cells(tasks_table.few_songs(runs))
    assert cells["chord"][PROBES[1]]["8"]["seeds"] == [scores(1, seed)["test"] for seed in (1, 2)]
    assert cells["key"] == {}


def test_minutes_are_estimated_by_the_audio_of_the_steps(study, monkeypatch):
    """600 steps of 16 crops of 12 s, and half as many in the recorded run; full fine-tuning has no recorded run."""
    study, _ = study
    recorded = run_of(1) | {"method": "probe", "seconds": 60.0}
    recorded["settings"] |= {"crop_seconds": 12.0, "task": "chord", "log_mel": False}
    recorded["training"] |= {"max_steps": 300, "per_device_train_batch_size": 16}
    cell = Cell("chord", PROBES[1], None, 2)
    assert study.expected_minutes(cell, {"a": recorded}) == pytest.approx(2.0)
    assert study.expected_minutes(Cell("chord", FULLS[1]), {"a": recorded}) is None
    assert study.expected_minutes(Cell("chord", LOG_MEL), {"a": recorded}) is None
    study.arguments.rows = [PROBES[1]]
    monkeypatch.setattr(study.store, "read", lambda: {"a": recorded, "chord_probe-pretrained_2": recorded})
    lines = study.plan().splitlines()
    assert [line.split()[0] for line in lines[:7]] == [tasks_cell.name for tasks_cell in study.cells()]
    assert lines[5].endswith("recorded (1.0 min)")
    assert lines[-1] == "0.2 hours in one process"  # six runs of two minutes


def test_the_curve_of_probes_is_of_validation_songs(monkeypatch, tmp_path):
    splits = []
    monkeypatch.setattr(probe_curve, "read_split", lambda settings, split: splits.append(split) or [])
    results = {"scores": {split: {"majmin": {"mean": mean}} for split, mean in (("validation", 0.5), ("test", 0.9))}}
    monkeypatch.setattr(probe_curve, "train_probe", lambda *arguments: SimpleNamespace(results=results))
    arguments = SimpleNamespace(data="data", limit=2, cache="cache", run=tmp_path)
    assert probe_curve.score("chord", tmp_path, ["--layer", "1"], arguments) == 0.5
    assert splits == ["train", "validation"]
