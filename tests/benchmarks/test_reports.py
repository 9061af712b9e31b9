"""Tables in benchmarks/results agree with the measurements beside them."""

import json
from functools import partial
from importlib import import_module

import architecture
import pytest
import tasks_table
import variants
from reporting import RESULTS
from run_store import RunStore
from tasks_table import ROWS

from musicfm_hf import MusicFMConfig
from musicfm_hf.evaluation import scoring
from musicfm_hf.evaluation.bootstrap import bootstrap_interval
from musicfm_hf.evaluation.layer_map import layer_table
from musicfm_hf.training.recipes import recipe_names


def measured(name: str):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(name: str) -> str:
    return (RESULTS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("embed_cpu", "embed"),
        ("embed_cpu_memory", "embed"),
        ("train_step_cpu", "train_step"),
        ("precision", "precision"),
        ("pretraining_variants", "pretraining"),
        ("variants", "variants"),
    ],
)
def test_tables_are_those_of_their_json(name, script):
    assert import_module(script).report(measured(name)) == table(name)


@pytest.mark.parametrize("name", ["annotate", "dbn"])
def test_tables_of_rows_are_those_of_their_json(name):
    assert import_module(name).report(measured(name)["rows"]) == table(name)


def test_table_of_layers_is_that_of_its_json():
    assert layer_table(measured("layers")) == table("layers")


def test_table_of_tasks_is_that_of_its_json():
    results = measured("tasks")
    scores = tasks_table.scores_table(results["table"], results["baselines"])
    assert scores + "\n" + tasks_table.differences_table(results["differences"]) == table("tasks")


def test_recipes_are_those_of_their_table():
    assert [variants.describe(name) for name in recipe_names("pretrain")] == measured("variants")


def test_shares_of_the_architecture_are_those_of_the_model():
    config = MusicFMConfig()
    shares = architecture.shares_of_multiplications(config) | {"lora": architecture.lora_weights(config, "chord")}
    assert shares == measured("architecture")


def test_scores_of_tasks_are_means_over_recorded_songs():
    runs = RunStore(RESULTS).read()
    assert len(runs) == 114
    for task, rows in measured("tasks")["table"].items():
        for row, cell in rows.items():
            same_reader = [
                run for run in runs.values()
                if (run["task"], run["row"]) == (task, row) and tasks_table.reader(run) == cell["layer"]
            ]  # fmt: skip
            assert len(same_reader) == (3 if cell.get("seeds") else 1)
            for run in same_reader:
                songs = run["scores_of_songs"]["test"]
                assert len(songs) == 50
                for name, score in run["scores"]["test"].items():
                    if all(name in scores for scores in songs.values()) and score["songs"] == 50:
                        assert sum(scores[name] for scores in songs.values()) / 50 == pytest.approx(score["mean"])


def test_claims_about_corrected_intervals(monkeypatch):
    """
    What docs/evaluation.md says of intervals that hold at once, for all scores of single songs (tags have none). Of
    tags, the plain intervals that include 0 are in the table.
    """
    count = sum(len(values) for values in measured("tasks")["differences"].values())
    assert count == 18
    corrected = partial(bootstrap_interval, share=1 - 0.05 / count, draws=40_000)
    monkeypatch.setattr(scoring, "bootstrap_interval", corrected)
    runs = RunStore(RESULTS).read()
    baselines = {name.removeprefix("baseline_"): run for name, run in runs.items() if "about" in run}
    trained = [run for run in runs.values() if "about" not in run]
    undecided = {}
    for task in ("beat", "chord", "structure", "key"):
        rows = {row: [run for run in trained if (run["task"], run["row"]) == (task, row)] for row in ROWS}
        chosen = {row: tasks_table.best_runs(task, of_row) for row, of_row in rows.items()}
        values = tasks_table.differences(task, chosen, baselines)
        undecided |= {
            name: value for name, value in values.items() if value["interval"][0] <= 0 <= value["interval"][1]
        }
    plain = {
        name for of_task in measured("tasks")["differences"].values() for name, value in of_task.items()
        if value["interval"][0] <= 0 <= value["interval"][1] and not name.startswith(("map", "roc_auc"))
    }  # fmt: skip
    assert undecided.keys() - plain == {"hr05_f: full − eight_bars"}
    assert plain <= undecided.keys()
    songs = [run["scores_of_songs"]["test"] for run in trained if (run["task"], run["row"]) == ("key", "full")]
    monkeypatch.undo()
    others = [baselines["key_profiles"], *(run for run in trained if run["task"] == "key" and run["row"] == "LoRA")]
    for other in others:
        low, high = scoring.paired_difference("key", [other["scores_of_songs"]["test"]], songs, "key_weighted")[
            "interval"
        ]
        assert low <= 0 <= high


def test_claims_about_more_pretraining():
    """Probes are best after the first or second checkpoint, and worse at the end."""
    for curve in measured("probe_curve")["curves"].values():
        for points in curve["layers"].values():
            minutes, values = zip(*points, strict=True)
            best = values.index(max(values))
            assert 0 < minutes[best] < 9.1
            assert values[0] < values[-1] < values[best]


@pytest.mark.slow
def test_tables_of_tasks_are_made_of_recorded_runs(tmp_path):
    for name in ("songs.parquet", "runs.json"):
        (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    tasks_table.write_table(tmp_path)
    for name in ("tasks.json", "tasks.md"):
        assert (tmp_path / name).read_bytes() == (RESULTS / name).read_bytes()
