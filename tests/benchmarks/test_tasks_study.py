"""A tiny study of tasks from the first probe to the tables."""

import shlex
import sys

import pytest
import tasks
import tasks_table
from helpers.finetuning import QUICK, SHORT
from run_store import RunStore

from musicfm_hf.cli.main import main
from musicfm_hf.finetuning import batch_statistics
from musicfm_hf.finetuning import run as finetuning_run


@pytest.fixture
def tiny(monkeypatch, labeled, encoder, tmp_path):
    """Function that runs the study of chords with a few steps, in this process, and returns the trained runs."""
    study = {"chord": tasks_table.STUDY["chord"] | {"flags": shlex.join(SHORT), "finetuning": shlex.join(QUICK)}}
    trained = []

    def musicfm(*words):
        trained.append(words[words.index("--output_dir") + 1])
        main(list(words))

    train_probe = tasks.train_probe

    def note(settings, training, splits):
        trained.append(training.output_dir)
        return train_probe(settings, training, splits)

    monkeypatch.setattr(tasks, "musicfm", musicfm)
    monkeypatch.setattr(tasks, "train_probe", note)
    for module in (tasks, tasks_table):
        monkeypatch.setattr(module, "STUDY", study)
    monkeypatch.setattr(finetuning_run, "WHITENING_CROPS", 8)
    monkeypatch.setattr(batch_statistics, "NUM_CROPS", 8)
    places = ["--model", encoder, "--data", labeled, "--runs", tmp_path / "runs", "--store", tmp_path / "store"]
    places += ["--cache", tmp_path / "features", "--tasks", "chord"]

    def run(*flags):
        trained.clear()
        monkeypatch.setattr(sys, "argv", ["tasks.py", *map(str, places), *map(str, flags)])
        tasks.main()
        return [path.rpartition("/")[2] for path in trained]

    return run


def test_the_study_from_probes_to_tables(tiny, tmp_path, capsys):
    rows = [tasks_table.LOG_MEL, *tasks_table.PROBES, *tasks_table.FULLS]
    flags = ["--rows", *rows, "--seeds", 1, 2, "--songs", 2, "all"]
    assert tiny(*flags, "--plan") == []
    planned = capsys.readouterr().out.splitlines()
    trained = tiny(*flags)
    # Four readers (three hidden states and their sum) from two starting points; three more probes of each; and four
    # runs of each other row.
    assert len(trained) == len(set(trained)) == 2 * (4 + 3) + 3 * 4
    assert [line.split()[0] for line in planned[: len(trained)]] == trained
    runs = RunStore(tmp_path / "store").read()
    assert set(runs) == set(trained)
    assert not list((tmp_path / "runs").rglob("checkpoint-*"))
    chosen = {}
    for row in tasks_table.PROBES:
        best = tasks_table.best_runs("chord", tasks_table.select(list(runs.values()), "chord", row))
        chosen["random" in row] = tasks_table.reader(best[0])
        assert [run["training"]["seed"] for run in best] == [1, 2]
    for run in runs.values():
        assert run["settings"]["random_encoder"] == ("random" in run["row"])
        if run["method"] != "probe":
            assert tasks_table.reader(run) == chosen[run["settings"]["random_encoder"]]
            assert run["history"][0]["step"] == 0  # the probe that it starts from
            assert run["command"].startswith("musicfm finetune chord/")
    results = tasks_table.write_table(tmp_path / "store")
    assert {row for row, cell in results["table"]["chord"].items() if cell} == set(rows)
    assert set(results["few"]["chord"]) == set(rows)
    names = list(results["differences"]["chord"])
    assert "majmin, 2 songs: full (pretrained) − full (random)" in names
    assert "majmin: full (pretrained) − probe (log-mel)" in names
    assert (tmp_path / "store/few_labels.png").stat().st_size > 10_000
    assert tiny(*flags) == []
    capsys.readouterr()
    tiny(*flags, "--plan")
    assert capsys.readouterr().out.count("recorded") == len(trained)
    tasks_table.STUDY["chord"]["flags"] += " --head_size 8"
    with pytest.raises(ValueError, match=r"was made with head_size 16, not 8. Pass another `--store`"):
        tiny(*flags)
