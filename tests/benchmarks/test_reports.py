"""Tables in benchmarks/results agree with the measurements beside them."""

import json
from importlib import import_module

import architecture
import pytest
import tasks_table
import variants
from reporting import RESULTS
from run_store import RunStore

from musicfm_hf import MusicFMConfig
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
    assert tasks_table.report(measured("tasks")) == table("tasks")


def test_recipes_are_those_of_their_table():
    assert [variants.describe(name) for name in recipe_names("pretrain")] == measured("variants")


def test_shares_of_the_architecture_are_those_of_the_model():
    config = MusicFMConfig()
    shares = architecture.shares_of_multiplications(config) | {"lora": architecture.lora_weights(config, "chord")}
    assert shares == measured("architecture")


def test_scores_of_tasks_are_means_over_recorded_songs():
    runs = RunStore(RESULTS).read()
    trained = [runs[name] for name in sorted(runs) if "about" not in runs[name]]
    for task, rows in measured("tasks")["table"].items():
        for row, cell in rows.items():
            _, chosen = tasks_table.cell_runs(trained, task, row)
            assert bool(chosen) == bool(cell)
            for index, run in enumerate(chosen):
                songs = run["scores_of_songs"]["test"]
                assert len(songs) == cell["songs"]["test"] == 50
                for name, score in run["scores"]["test"].items():
                    assert cell["seeds"][name][index] == score["mean"]
                    if all(name in scores for scores in songs.values()) and score["songs"] == 50:
                        assert sum(scores[name] for scores in songs.values()) / 50 == pytest.approx(score["mean"])


def test_differences_hold_if_their_corrected_interval_excludes_0():
    values = [value for of_task in measured("tasks")["differences"].values() for value in of_task.values()]
    assert len(values) > 20
    for value in values:
        low, high = value["corrected_interval"]
        assert value["holds"] == (not low <= 0 <= high)
        assert low <= value["interval"][0] <= value["mean"] <= value["interval"][1] <= high
    # No step of Holm's procedure is stricter than Bonferroni's.
    assert all(value["holds"] for value in values if value["p"] < 0.05 / len(values))


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
