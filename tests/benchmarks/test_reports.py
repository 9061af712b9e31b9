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


@pytest.mark.slow
def test_tables_of_tasks_are_made_of_recorded_runs(tmp_path):
    for name in ("songs.parquet", "runs.json"):
        (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    tasks_table.write_table(tmp_path)
    for name in ("tasks.json", "tasks.md"):
        assert (tmp_path / name).read_bytes() == (RESULTS / name).read_bytes()
