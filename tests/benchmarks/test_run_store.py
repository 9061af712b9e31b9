"""The store of recorded runs returns what was written, and survives interruptions."""

import math
import multiprocessing

import pyarrow.parquet as pq
import pytest
from run_store import RunStore

CHORD = {
    "row": "full",
    "task": "chord",
    "training": {"seed": 2, "learning_rate": 1e-05},
    "scores": {"test": {"majmin": {"mean": 0.1 + 0.2}}},
    "history": [{"loss": 0.5, "step": 1}],
    "scores_of_songs": {
        "validation": {"b": {"majmin": 0.1 + 0.2, "seconds": 221.30999999999997}},
        "test": {"c": {"majmin": 1 / 3, "seconds": 5e-324}, "a": {"majmin": None, "seconds": -0.0}},
    },
}
TAGGING = {
    "row": "LoRA",
    "task": "tagging",
    "training": {"seed": 1},
    "scores_of_songs": {
        "test": {
            "a": {"probabilities": {"piano": 0.25, "fast": 1e-9, "minor": 0.5}, "tags": ["minor", "piano"]},
            "b": {"probabilities": {"piano": 0.75, "fast": 1.0, "minor": 0.0}, "tags": []},
        }
    },
}


def test_runs_come_back_as_they_were_written(tmp_path):
    store = RunStore(tmp_path)
    store.write({"z": CHORD})
    store.write({"a": TAGGING})
    runs = RunStore(tmp_path).read()
    assert runs == {"z": CHORD, "a": TAGGING}
    assert list(runs) == ["z", "a"]
    assert list(runs["z"]["scores_of_songs"]["test"]) == ["c", "a"]
    assert math.copysign(1, runs["z"]["scores_of_songs"]["test"]["a"]["seconds"]) == -1
    assert store.read_run("a") == TAGGING
    assert store.read_run("b") is None


def test_an_empty_store_has_no_runs(tmp_path):
    assert RunStore(tmp_path).read() == {}
    assert RunStore(tmp_path).read_run("a") is None


def test_a_run_is_replaced_and_values_that_are_not_finite_become_null(tmp_path):
    store = RunStore(tmp_path)
    store.write({"a": CHORD, "b": TAGGING})
    better = CHORD | {"scores_of_songs": {"test": {"d": {"majmin": float("nan"), "seconds": 1.0}}}}
    store.write({"a": better})
    runs = store.read()
    assert runs["a"]["scores_of_songs"] == {"test": {"d": {"majmin": None, "seconds": 1.0}}}
    assert runs["b"] == TAGGING


def test_the_table_has_a_row_for_each_score(tmp_path):
    RunStore(tmp_path).write({"x": CHORD, "y": TAGGING})
    rows = pq.read_table(tmp_path / "songs.parquet").to_pylist()
    assert len(rows) == 6 + 6
    common = {"run": "x", "task": "chord", "method": "full", "seed": 2, "label": None, "tag_position": None}
    assert rows[0] == common | {"split": "validation", "song": "b", "metric": "majmin", "value": 0.1 + 0.2}
    tags = [(row["song"], row["label"], row["value"], row["tag_position"]) for row in rows if row["run"] == "y"]
    assert tags[:3] == [("a", "piano", 0.25, 1), ("a", "fast", 1e-9, None), ("a", "minor", 0.5, 0)]


def test_an_interrupted_replacement_leaves_no_mixture(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    store.write({"a": CHORD, "b": TAGGING})
    real = store._write_runs

    def break_off_at_the_end(runs):
        if "a" in runs:
            raise KeyboardInterrupt
        real(runs)

    monkeypatch.setattr(store, "_write_runs", break_off_at_the_end)
    changed = CHORD | {"scores_of_songs": {"test": {"a": {"majmin": 0.0, "seconds": 1.0}}}}
    with pytest.raises(KeyboardInterrupt):
        store.write({"a": changed})
    assert RunStore(tmp_path).read() == {"b": TAGGING}
    RunStore(tmp_path).write({"a": changed})
    assert RunStore(tmp_path).read() == {"b": TAGGING, "a": changed}


def test_a_tag_that_the_model_does_not_have_is_an_error(tmp_path):
    songs = {"test": {"a": {"probabilities": {"piano": 0.5}, "tags": ["organ"]}}}
    with pytest.raises(ValueError, match="no tag organ"):
        RunStore(tmp_path).write({"a": TAGGING | {"scores_of_songs": songs}})
    assert RunStore(tmp_path).read() == {}


def _write(folder, index):
    RunStore(folder).write({f"{index}": CHORD})


def test_several_processes_write_to_one_store(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(tmp_path, index)) for index in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(RunStore(tmp_path).read()) == ["0", "1", "2", "3"]
