"""A tiny study of tasks from the first probe to the tables."""

import json
import shlex
import sys

import pytest
import rates
import tasks
import tasks_table
from helpers.finetuning import QUICK, SHORT
from run_store import RunStore

from musicfm_hf.cli.main import main
from musicfm_hf.finetuning import batch_statistics
from musicfm_hf.tasks import get_task


@pytest.fixture
def short(monkeypatch):
    """The settings of the study, for two tasks and with a few steps."""
    study = {task: tasks_table.STUDY[task] for task in ("chord", "key")}
    flags = {"all": shlex.join(SHORT), "joint": tasks_table.FLAGS["joint"], "finetuning": shlex.join(QUICK[4:])}
    for module in (tasks, tasks_table):
        monkeypatch.setattr(module, "STUDY", study)
        monkeypatch.setattr(module, "FLAGS", flags)
    monkeypatch.setattr(batch_statistics, "NUM_CROPS", 8)


@pytest.fixture
def tiny(monkeypatch, short, labeled, encoder, tmp_path):
    """Function that runs the study in this process, and returns the trained runs."""
    trained = []

    def musicfm(*words):
        trained.append(words[words.index("--output_dir") + 1])
        main(list(words))

    def noted(train):
        def train_noted(settings, training, splits):
            trained.append(training.output_dir)
            return train(settings, training, splits)

        return train_noted

    monkeypatch.setattr(tasks, "musicfm", musicfm)
    for name in ("train_probe", "finetune_joint"):
        monkeypatch.setattr(tasks, name, noted(getattr(tasks, name)))
    places = ["--model", encoder, "--data", labeled, "--runs", tmp_path / "runs", "--store", tmp_path / "store"]
    places += ["--cache", tmp_path / "features"]

    def run(*flags):
        trained.clear()
        monkeypatch.setattr(sys, "argv", ["tasks.py", *map(str, places), *map(str, flags)])
        tasks.main()
        return [path.rpartition("/")[2] for path in trained]

    return run


def test_the_study_from_probes_to_tables(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tasks, "RATES", {"full (random)": 0.002})
    rows = [tasks_table.LOG_MEL, *tasks_table.PROBES, *tasks_table.FULLS]
    flags = ["--rows", *rows, "--seeds", 1, "--songs", 2, "all"]
    assert tiny(*flags, "--plan") == []
    planned = capsys.readouterr().out.splitlines()
    trained = tiny(*flags)
    assert len(trained) == len(set(trained)) == 2 * (2 + 4)  # the spectrogram has a probe for each task
    assert [line.split()[0] for line in planned[: len(trained)]] == trained
    runs = RunStore(tmp_path / "store").read()
    assert len(runs) == 2 * 2 * 5  # tasks, numbers of songs, rows
    assert not list((tmp_path / "runs").rglob("checkpoint-*"))
    for name, run in runs.items():
        assert name.startswith(run["task"])
        assert run["settings"].get("random_encoder") == ("random" in run["row"])
        method = "full" if run["row"] in tasks_table.FULLS else "probe"
        assert run["method"] == method
        if method == "full":
            rates_of_run = (run["training"]["learning_rate"], run["training"]["encoder_learning_rate"])
            assert rates_of_run == ((0.002, 0.002) if "random" in run["row"] else (0.01, 0.001))
        is_joint = run["row"] != tasks_table.LOG_MEL
        assert run["settings"]["weighted_layer_sum"] == is_joint
        assert run["command"].startswith(f"musicfm finetune {'joint' if is_joint else run['task']}/{method} ")
        assert all(get_task(run["task"]).metric in scores for scores in run["scores"].values())
    results = tasks_table.write_table(tmp_path / "store")
    assert {row for row, cell in results["table"]["key"].items() if cell} == set(rows)
    assert set(results["few"]["chord"]) == set(rows)
    names = list(results["differences"]["chord"])
    assert "majmin, 2 songs: full (pretrained) − full (random)" in names
    assert "majmin: full (pretrained) − probe (log-mel)" in names
    assert (tmp_path / "store/few_labels.png").stat().st_size > 10_000
    assert tiny(*flags) == []
    capsys.readouterr()
    tiny(*flags, "--plan")
    assert capsys.readouterr().out.count("recorded") == len(trained)
    tasks_table.FLAGS["all"] += " --head_size 8"
    with pytest.raises(ValueError, match=r"was made with head_size 16, not 8. Pass another `--store`"):
        tiny(*flags)


def test_rates_are_chosen_on_validation_songs(short, labeled, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "STUDY", tasks.STUDY)
    monkeypatch.setattr(rates, "CANDIDATES", {"full": (0.001, 0.1)})
    trained = []

    def musicfm(*words):
        trained.append(words)
        main(list(words))

    monkeypatch.setattr(rates, "musicfm", musicfm)
    row = "full (pretrained)"
    places = ["--model", encoder, "--data", labeled, "--runs", tmp_path / "runs", "--store", tmp_path]
    places += ["--cache", tmp_path / "features", "--rows", row]
    monkeypatch.setattr(sys, "argv", ["rates.py", *map(str, places)])
    rates.main()
    assert len(trained) == 2
    values = json.loads((tmp_path / "rates.json").read_text())[row]
    assert set(values) == {"0.001", "0.1"}
    for rate, found in values.items():
        run = json.loads((tmp_path / f"runs/joint_full-pretrained_1_{rate}/results.json").read_text())
        assert (run["training"]["learning_rate"], run["training"]["encoder_learning_rate"]) == (float(rate),) * 2
        scores = [run["scores"]["validation"][task][get_task(task).metric]["mean"] for task in ("chord", "key")]
        assert list(found["scores"].values()) == scores
        assert found["mean"] == pytest.approx(sum(scores) / 2)
    assert f"**{rates.chosen(values)}**" in (tmp_path / "rates.md").read_text()
    assert rates.chosen({"0.1": {"mean": 0.5}, "0.2": {"mean": 0.7}, "0.3": {"mean": 0.6}}) == "0.2"
