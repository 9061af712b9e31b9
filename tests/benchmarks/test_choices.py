"""The benchmark chooses layers and methods on validation songs, and scores what it has chosen on test songs."""

from itertools import pairwise
from types import SimpleNamespace

import probe_curve
import pytest
import tasks
import tasks_table
from tasks import Cell
from tasks_table import FULLS, LOG_MEL, LORAS, PROBES

from musicfm_hf.data.splits import SPLITS

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
def study(tmp_path):
    """Function that returns a study of some rows, on four and on all songs."""

    def build(*rows):
        places = {"model": "model", "data": "data", "cache": "cache", "store": tmp_path, "runs": tmp_path}
        asked = {"rows": rows, "songs": [4, None], "seeds": (1, 2, 3), "finetuning_flags": []}
        return tasks.Study(SimpleNamespace(**places, **asked))

    return build


def test_rows_differ_only_in_method_and_starting_point(study):
    """The flags of a run are those of its method; from random weights, the same and `--random_encoder`."""
    for methods in (PROBES, LORAS, FULLS):
        flags = {}
        for row in methods:
            for cell in study(row).cells():
                words = study(row).flags(cell)
                assert words[-2:] == ["--output_dir", str(study(row).arguments.runs / cell.name)]
                pairs = list(pairwise(words))
                assert ("--weighted_layer_sum", "true") in pairs
                assert ("--seed", str(cell.seed)) in pairs
                assert (("--max_train_songs", "4") in pairs) == (cell.songs == 4)
                assert (("--songs_seed", str(cell.seed)) in pairs) == (cell.songs == 4)
                flags[row, cell.songs, cell.seed] = words[:-2]
        assert len(flags) == 2 * 2 * 3
        for (row, *place), words in flags.items():
            if row == methods[0]:
                position = words.index("--random_encoder")
                assert words[position + 1] == "true"
                words = words[:position] + words[position + 2 :]
            assert words == flags[methods[1], *place]


def test_runs_have_distinct_names(study):
    cells = list(study(LOG_MEL, *PROBES, *LORAS, *FULLS).cells())
    assert len(cells) == 5 * 2 * 3 + 6 * 2 * 3  # the spectrogram has a run for each task
    assert len({cell.name for cell in cells}) == len(cells)
    names = [name for cell in cells for name in cell.records.values()]
    assert len(names) == len(set(names)) == 5 * 7 * 2 * 3
    assert Cell(FULLS[0], 4, 2).name == "joint_full-random_4-songs_2"
    assert Cell(FULLS[0], 4, 2).records["key"] == "key_full-random_4-songs_2"
    assert Cell(LOG_MEL, None, 1, "key").records == {"key": "key_probe-log-mel_1"}


def test_a_run_of_all_tasks_has_a_record_for_each():
    cell = Cell(PROBES[1])
    scores = {task: {"score": number} for number, task in enumerate(cell.records)}
    by_task = {key: {"test": scores} for key in ("scores", "scores_of_songs", "calibration")}
    songs = {f"{task}/{split}": number for number, task in enumerate(cell.records) for split in SPLITS}
    data = {"name": "a, b", "tasks": {task: {"name": f"data of {task}"} for task in cell.records}, "songs": songs}
    results = {"task": "joint", "history": [1], "seconds": 3, "data": data} | by_task
    records = tasks.records_of(cell, results, "musicfm …")
    assert list(records) == [f"{task}_probe-pretrained_1" for task in ("beat", "chord", "structure", "key", "tagging")]
    assert records["structure_probe-pretrained_1"] == {
        "row": PROBES[1],
        "command": "musicfm …",
        "task": "structure",
        "seconds": 3,
        "data": {"name": "data of structure", "songs": {"train": 2, "validation": 2, "test": 2}},
        "scores": {"test": {"score": 2}},
        "scores_of_songs": {"test": {"score": 2}},
        "calibration": {"test": {"score": 2}},
    }


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


def test_runs_of_the_earlier_study_are_apart():
    before = [run_of(None, row="full"), run_of(1, row="pretrained probe")]
    now = [run_of(1, seed, row=row) for row in PROBES for seed in (1, 2)]
    chosen = {"chord": {row: tasks_table.cell_runs([*before, *now], "chord", row) for row in (*PROBES, FULLS[1])}}
    assert list(tasks_table.all_differences(chosen, {}, {})["chord"]) == [
        "majmin: probe (pretrained) − probe (random)"
    ]
    assert [run["training"]["seed"] for run in chosen["chord"][PROBES[0]][1]] == [1, 2]
    assert [tasks_table.seeds_mark([0.5] * count) for count in (1, 2, 3, 4)] == ["\\*", "\\*\\*", "", ""]


def test_runs_on_few_songs_are_apart():
    few = [run_of(1, seed) for seed in (1, 2)]
    for run in few:
        run["settings"]["max_train_songs"] = 8
    runs = [*few, run_of(1, 1)]
    assert len(tasks_table.cell_runs(runs, "chord", PROBES[1])[0]) == 1
    cells = tasks_table.few_cells(tasks_table.few_songs(runs))
    assert cells["chord"][PROBES[1]]["8"]["seeds"] == [scores(1, seed)["test"] for seed in (1, 2)]
    assert cells["key"] == {}


def test_minutes_are_estimated_from_runs_of_the_same_method(study, monkeypatch):
    recorded = {
        "beat_probe-pretrained_1": run_of("weighted") | {"task": "beat", "seconds": 60.0},
        "beat_probe-random_1": run_of("weighted", row=PROBES[0]) | {"task": "beat", "seconds": 180.0},
        "beat_full": run_of("weighted", row="full") | {"task": "beat", "seconds": 600.0},  # of the earlier study
        "chord_probe-log-mel_1": run_of(None, row=LOG_MEL) | {"seconds": 30.0},
    }
    assert tasks.expected_minutes(Cell(PROBES[1], None, 2), recorded) == 2.0
    assert tasks.expected_minutes(Cell(FULLS[1]), recorded) is None
    assert tasks.expected_minutes(Cell(LOG_MEL, task="chord"), recorded) == 0.5
    assert tasks.expected_minutes(Cell(LOG_MEL, task="key"), recorded) is None
    probes = study(PROBES[1])
    monkeypatch.setattr(probes.store, "read", lambda: recorded)
    lines = probes.plan().splitlines()
    assert [line.split()[0] for line in lines[:6]] == [cell.name for cell in probes.cells()]
    assert lines[3].endswith("recorded (1.0 min)")
    assert lines[-1] == "0.2 hours in one process"  # five runs of two minutes


def test_the_curve_of_probes_is_of_validation_songs(monkeypatch, tmp_path):
    splits = []
    monkeypatch.setattr(probe_curve, "read_split", lambda settings, split: splits.append(split) or [])
    results = {"scores": {split: {"majmin": {"mean": mean}} for split, mean in (("validation", 0.5), ("test", 0.9))}}
    results["scores_of_songs"] = {split: {"song": {"majmin": 0.5}} for split in ("validation", "test")}
    monkeypatch.setattr(probe_curve, "train_probe", lambda *arguments: SimpleNamespace(results=results))
    (tmp_path / "results.json").write_text('{"seconds": 120, "training": {"max_steps": 8}}')
    arguments = SimpleNamespace(data="data", limit=2, cache="cache", run=tmp_path, layers=[1])
    curve, songs = probe_curve.curve("chord", [4, 8], arguments)
    assert curve == {
        "score": "majmin",
        "layers": {1: [(0.0, 0.5), (1.0, 0.5), (2.0, 0.5)]},
        "log_mel_with_context": 0.5,
    }
    assert songs == {1: [{"song": {"majmin": 0.5}}] * 3}
    assert splits == ["train", "validation"] * 4


def test_falls_are_differences_between_the_last_and_the_first_checkpoint():
    """The first layer falls by 0.2 in every song; of the second one, there is a single checkpoint."""

    def songs(*means: float) -> list[dict]:
        return [{str(index): {"majmin": mean + index / 100} for index in range(8)} for mean in means]

    of_layers = {1: songs(0.9, 0.8, 0.85, 0.6), 2: songs(0.5, 0.6)}
    falls = probe_curve.falls({"chord": {"score": "majmin"}}, {"chord": of_layers})["chord"]
    assert list(falls) == [1]
    assert falls[1]["mean"] == pytest.approx(-0.2)
    assert falls[1]["interval"] == pytest.approx((-0.2, -0.2))
    assert falls[1]["holds"]
    assert falls[1]["corrected_interval"] == pytest.approx((-0.2, -0.2))
