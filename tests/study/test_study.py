"""`musicfm study`: the plan, cells that are interrupted, resumed, shared and refused, and its report."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import yaml
from filelock import FileLock
from helpers.paths import ROOT

import musicfm_hf.study.cells
from musicfm_hf.cli.main import main
from musicfm_hf.cli.study import leave_process_group
from musicfm_hf.finetuning.run import read_split
from musicfm_hf.finetuning.trainer import FinetuningTrainer
from musicfm_hf.pretraining.trainer import PretrainingTrainer
from musicfm_hf.study.cells import Places, pretraining_settings
from musicfm_hf.study.plan import divide_cells, plan_cells, read_study
from musicfm_hf.study.report import judge, summarize
from musicfm_hf.study.report_text import describe_difference, describe_finding, report_page
from musicfm_hf.tasks.annotations import Segment

# Four steps of pretraining and of each probe.
TINY = {
    "pretrain": ["tiny"],
    "settings": {
        "config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "codebook_size": 16},
        "crop_seconds": 1,
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "save_steps": 2,
        "eval_strategy": "no",
        "validation_fraction": 0,
        "use_cpu": True,
        "disable_tqdm": True,
    },
    "probe_settings": {
        "max_steps": 4,
        "eval_steps": 4,
        "save_steps": 4,
        "per_device_train_batch_size": 2,
        "head_size": 16,
        "whiten": False,
        "window_seconds": 10,
        "use_cpu": True,
        "disable_tqdm": True,
    },
    "quantizer": {"hours": 0.01, "batch_size": 2, "crop_seconds": 1, "validation_fraction": 0.5, "num_workers": 0},
    "tasks": ["key"],
    "seeds": [0],
    "factors": {
        "tokens": {
            "random": {},
            "k-means": {"config": {"quantizer_type": "kmeans", "kmeans_features": ["mel"], "codebook_size": [8]}},
        },
        "data": {"all": {}, "half": {"songs": 0.5}},
    },
}
# Two factors, one with three levels; findings about each.
SMALL = {
    "pretrain": ["tiny"],
    "tasks": ["chord", "key"],
    "factors": {
        "encoder": {"conformer": {}, "bert": {"config": {"encoder_type": "bert"}}},
        "Rate of frames": {
            "25 Hz": {},
            "50 Hz": {"config": {"subsampling_time_strides": [2, 1]}},
            "100 Hz": {"config": {"subsampling_time_strides": [1, 1]}},
        },
    },
    "findings": [
        {
            "factor": "encoder",
            "level": "bert",
            "claim": "The conformer is better.",
            "expected": "worse",
            "paper": ["A", "B"],
        },
        {"factor": "Rate of frames", "level": "50 Hz", "claim": "25 Hz loses nothing.", "expected": "not better"},
    ],
    "paper": {
        "A": {
            "settings": {"encoder": "Conformer"},
            "scores": {"chord": {"majmin": 0.7}, "key": {"key_weighted": 0.6}},
        },
        "B": {"settings": {"encoder": "BERT"}, "scores": {"chord": {"majmin": 0.65}}},
    },
}


def write(folder, study):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


@pytest.fixture
def small(tmp_path):
    return read_study(str(write(tmp_path, SMALL)))


# The plan


def test_one_factor_at_a_time(small):
    cells = plan_cells(replace(small, seeds=[0, 3]))
    variants = ["base", "encoder_bert", "rate_of_frames_50_hz", "rate_of_frames_100_hz"]
    assert [cell.name for cell in cells] == [f"{name}-seed{seed}" for seed in (0, 3) for name in variants]
    bert = cells[1]
    assert bert.levels == {"encoder": "bert", "Rate of frames": "25 Hz"}
    assert bert.changed(small.base) == {"encoder": "bert"}
    assert bert.settings["config"]["encoder_type"] == "bert"
    assert bert.settings["config"]["hidden_size"] == 64  # from the recipe
    assert [cell.settings["seed"] for cell in cells] == [0] * 4 + [3] * 4
    assert "encoder_type" not in cells[0].settings["config"]


def test_grid_has_the_cells_of_the_short_plan(small):
    grid = plan_cells(small, grid=True)
    assert len(grid) == 6
    assert grid[0].variant == "base"
    assert grid[-1].variant == "encoder_bert+rate_of_frames_100_hz"
    assert (
        grid[-1].settings["config"] | {"encoder_type": "bert", "subsampling_time_strides": [1, 1]}
        == (grid[-1].settings["config"])
    )
    by_name = {cell.name: cell for cell in grid}
    assert all(by_name[cell.name] == cell for cell in plan_cells(small))


def test_some_levels_only(small):
    cells = plan_cells(small, only={"Rate of frames": ["25 Hz", "100 Hz"]})
    assert [cell.variant for cell in cells] == ["base", "encoder_bert", "rate_of_frames_100_hz"]
    with pytest.raises(ValueError, match=r"--only: unknown factor 'rate'. Known: encoder, Rate of frames"):
        plan_cells(small, only={"rate": ["25 Hz"]})
    with pytest.raises(ValueError, match=r"unknown level of encoder 'brt'. Did you mean 'bert'\?"):
        plan_cells(small, only={"encoder": ["brt"]})
    with pytest.raises(ValueError, match=r"No cell of the plan has these levels.*`--grid` combines all levels"):
        plan_cells(small, only={"encoder": ["bert"], "Rate of frames": ["50 Hz"]})
    assert len(plan_cells(small, grid=True, only={"encoder": ["bert"], "Rate of frames": ["50 Hz"]})) == 1


def test_names_of_cells_differ(small, tmp_path):
    with pytest.raises(ValueError, match="Two cells are called encoder_bert-seed0"):
        plan_cells(replace(small, factors={"encoder": {"conformer": {}, "bert": {}, "BERT": {}}}))
    numbers = read_study(str(write(tmp_path, TINY | {"factors": {"size": {4: {}, 8: None}}})))
    assert [cell.name for cell in plan_cells(numbers)] == ["base-seed0", "size_8-seed0"]
    assert [cell.levels for cell in plan_cells(numbers, only={"size": ["8"]})] == [{"size": "8"}]


def test_cells_with_the_same_tokens_share_a_quantizer(tmp_path):
    tokens = {"random": {}, "k-means": {"config": {"quantizer_type": "kmeans", "kmeans_features": ["mel"]}}}
    study = read_study(str(write(tmp_path, SMALL | {"factors": SMALL["factors"] | {"tokens": tokens}})))
    names = {cell.variant: cell.quantizer for cell in plan_cells(replace(study, seeds=[0, 1]), grid=True)}
    assert names["base"] is names["encoder_bert"] is None
    assert names["tokens_k_means"] == names["encoder_bert+tokens_k_means"]
    assert names["tokens_k_means"].startswith("kmeans-")
    assert names["tokens_k_means"] != names["rate_of_frames_50_hz+tokens_k_means"]  # other frames


def test_studies_of_the_package():
    """One factor at a time: the published rows are in both, and the full size takes the recipe fm7."""
    small, full = read_study("study"), read_study("study_full")
    assert read_study(str(ROOT / "recipes/study.yaml")) == small
    variants = [cell.variant for cell in plan_cells(small)]
    changes = ["encoder_bert", "input_short", "tokens_k_means", "tokens_residual_vq", "loss_all_frames", "rate_50_hz"]
    assert variants == ["base", *changes, "size_large", "data_half_of_the_songs"]
    assert len(plan_cells(small, grid=True)) == 2 * 2 * 3 * 2 * 2 * 2 * 2
    assert [cell.variant for cell in plan_cells(full)[:9]] == variants
    assert len(plan_cells(full)) == 27
    base, short = (plan_cells(full)[index].settings for index in (0, 2))
    assert base["config"]["codebook_size"] == 8192
    assert base["learning_rate"] == 1e-4
    for study in (small, full):
        seconds = set()
        for cell in plan_cells(study):
            settings = cell.settings
            per_step = settings["crop_seconds"] * settings["per_device_train_batch_size"]
            seconds.add(per_step * settings.get("gradient_accumulation_steps", 1) * settings["max_steps"])
        assert len(seconds) == 1  # all cells hear as much music
    assert short["crop_seconds"] == 5
    assert len(small.findings) == 6
    assert small.paper["FM7"]["scores"]["key"] == {"key_weighted": 0.674}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["chords"]}, r"chords"),
        ({"factor": {}}, r"unknown entry 'factor'. Did you mean 'factors'\?"),
        ({"factors": {}}, "has no `factors`"),
        ({"factors": {"encoder": {"bert": "big"}}}, "level 'bert' of 'encoder' .* must be a mapping"),
        ({"factors": {"encoder": ["bert"]}}, "factor .encoder. .* must map levels to settings"),
        (
            {"findings": [{"factor": "coder", "level": "b", "claim": "", "expected": "worse"}]},
            "unknown factor 'coder'",
        ),
        ({"findings": [{"factor": "encoder"}]}, "needs `factor`, `level`, `claim` and `expected`"),
        ({"findings": [SMALL["findings"][0] | {"expected": "good"}]}, "unknown value of `expected` 'good'"),
        ({"findings": [SMALL["findings"][0] | {"paper": ["A", "C"]}]}, "unknown row of `paper` 'C'"),
        ({"findings": [SMALL["findings"][0] | {"paper": ["A"]}]}, "names two rows"),
    ],
)
def test_mistakes_in_the_file(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_study(str(write(tmp_path, SMALL | change)))


def test_unknown_study():
    with pytest.raises(ValueError, match=r"No study is called 'studie'. Studies: study, study_full"):
        read_study("studie")


def test_share_of_songs_is_checked(small):
    with pytest.raises(ValueError, match="greater than 0 and at most 1, got 2"):
        plan_cells(replace(small, factors={"data": {"all": {"songs": 2}}}))


def test_no_cell_is_run_twice_and_none_is_left_out(small):
    """13 jobs of 3 processes share 12 cells, and two share them evenly."""
    cells = plan_cells(replace(small, seeds=range(3)))
    for jobs, processes in ((13, 3), (2, 1), (1, 5), (2, 3)):
        parts = [
            divide_cells(cells, job + 1, jobs, process, processes)
            for job in range(jobs)
            for process in range(processes)
        ]
        assert sorted(cell.name for part in parts for cell in part) == sorted(cell.name for cell in cells)
    assert [len(divide_cells(cells, job, 2)) for job in (1, 2)] == [6, 6]


def test_processes_of_accelerate_train_alone(monkeypatch):
    launched = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_PORT": "29500"}
    for name, value in (launched | {"CUDA_VISIBLE_DEVICES": "4,6"}).items():
        monkeypatch.setenv(name, value)
    assert leave_process_group() == (5, 8)
    assert not set(launched) & set(os.environ)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert leave_process_group() == (0, 1)


# Cells


@pytest.fixture(scope="module")
def run(labeled, tmp_path_factory):
    """A function that runs the command on a study; gives how many steps were trained, as (pretraining, probes)."""
    root = tmp_path_factory.mktemp("study")
    (root / "songs.txt").write_text("".join(f"{path}\n" for path in sorted(labeled.glob("*.wav"))))

    def command(output, *flags, study=TINY):
        places = ["--train", str(root / "songs.txt"), "--data", str(labeled), "--output_dir", str(root / output)]
        steps = {PretrainingTrainer: 0, FinetuningTrainer: 0}
        with pytest.MonkeyPatch.context() as patch:
            for trainer in steps:

                def counting(self, *rest, _original=trainer.training_step, _trainer=trainer, **named):
                    steps[_trainer] += 1
                    return _original(self, *rest, **named)

                patch.setattr(trainer, "training_step", counting)
            main(["study", str(write(root, study)), *places, *flags])
        return root / output, tuple(steps.values())

    return command


class Interruption(BaseException):
    """Not an error that a command catches."""


def test_study_is_interrupted_and_resumed(run, monkeypatch, capsys):
    """Two cells. The first is stopped in its probes, the second in its pretraining, after the checkpoint of step 2."""
    only = ["--only", "data", "all"]
    with monkeypatch.context() as patch:
        patch.setattr(musicfm_hf.study.cells, "probe_layers", lambda *rest: (_ for _ in ()).throw(Interruption))
        with pytest.raises(Interruption):
            run("resumed", *only)
    folder, steps = run("resumed", *only, "--only", "tokens", "random")
    assert steps == (0, 12)  # no pretraining, and three probes: two hidden states and their sum
    assert "1 of 3 cells are finished" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in (folder / "results").iterdir()}
    original = PretrainingTrainer.training_step

    def stopping(self, *rest, **named):
        if self.state.global_step == 3:
            raise Interruption
        return original(self, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTrainer, "training_step", stopping)
        with pytest.raises(Interruption):
            run("resumed", *only)
    folder, steps = run("resumed", *only)
    assert steps == (2, 12)
    assert run("resumed", *only)[1] == (0, 0)
    results = folder / "results"
    assert sorted(path.name for path in results.iterdir()) == ["base-seed0.json", "tokens_k_means-seed0.json"]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list((folder / "quantizers").iterdir())) == 1
    summary = json.loads((folder / "study.json").read_text())
    assert summary["cells"] == {"planned": 3, "finished": 2}
    for variant in ("base", "tokens_k_means"):
        contents = json.loads((results / f"{variant}-seed0.json").read_text())
        layers = contents["tasks"]["key"]["layers"]
        assert len(layers["validation"]) == 2
        mean = summary["rows"][variant]["scores"]["key"]["key_weighted"]["mean"]
        assert mean == pytest.approx(layers["test"][layers["best"]])
        songs = contents["tasks"]["key"]["songs"].values()
        assert mean == pytest.approx(np.mean([song["key_weighted"] for song in songs]))
    cells = folder / "cells"
    assert not list(cells.glob("*/checkpoint-*"))
    assert not list(cells.glob("*/features"))
    assert "| tokens_k_means | k-means | all |" in (folder / "study.md").read_text()
    assert "## tokens_k_means" in (folder / "layers.md").read_text()
    assert min((folder / name).stat().st_size for name in ("study.png", "layers.png")) > 3000
    plan = run("resumed", *only, "--plan")
    assert plan[1] == (0, 0)
    assert "tokens_k_means-seed0" in (printed := capsys.readouterr().out)
    assert printed.count("  finished") == 2

    changed = TINY | {"settings": TINY["settings"] | {"max_steps": 5}}
    with pytest.raises(SystemExit, match=r"base-seed0.json was made with pretraining.max_steps 4, not 5\. Pass"):
        run("resumed", *only, study=changed)
    shorter = TINY | {"probe_settings": {**TINY["probe_settings"], "head_size": None}}
    with pytest.raises(SystemExit, match=r"probe.key.head_size 16, not None"):
        run("resumed", *only, study=shorter)
    with pytest.raises(SystemExit, match=r"resumed was made with validation \[\], not \[\['listed', 8"):
        run("resumed", *only, "--validation", str(folder.parent / "songs.txt"))

    def relabeled(*arguments):
        return [replace(song, keys=[Segment(0.0, song.duration, "C:maj")]) for song in read_split(*arguments)]

    monkeypatch.setattr(musicfm_hf.study.cells, "read_split", relabeled)
    with pytest.raises(SystemExit, match=r"resumed was made with key\.train '\w{16}', not '\w{16}'"):
        run("resumed", *only)


def test_half_of_the_songs(run):
    """The list that the cell reads, and the report on a base that has not been run."""
    folder, steps = run("half", "--only", "data", "half", "--only", "tokens", "random")
    assert steps == (4, 12)
    songs = (folder / "songs_0.5.txt").read_text().splitlines()
    assert 0 < len(songs) < 8
    assert json.loads((folder / "cells/data_half-seed0/results.json").read_text())["data"]["train"] == [
        "songs_0.5.txt"
    ]
    assert json.loads((folder / "study.json").read_text())["differences"] == []


def test_shards_run_different_cells(run):
    """Two jobs with the same command, and a cell that is locked by another process."""
    only = ["--only", "tokens", "random"]
    for shard in ("1/2", "2/2"):
        folder, steps = run("shared", *only, "--shard", shard)
        assert steps == (4, 12)
    assert run("shared", *only)[1] == (0, 0)
    assert json.loads((folder / "study.json").read_text())["cells"] == {"planned": 3, "finished": 2}


def test_a_cell_that_another_process_runs_is_left_to_it(run, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    output = next(folder.glob("study*")) / "locked"
    (output / "cells").mkdir(parents=True)
    with FileLock(output / "cells/.base-seed0.lock"):
        assert run("locked", "--only", "tokens", "random", "--only", "data", "all")[1] == (0, 0)


def test_missing_data(run, tmp_path):
    with pytest.raises(SystemExit, match="`--train` is required"):
        main(["study", str(write(tmp_path, TINY)), "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="nowhere"):
        run("missing", "--train", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="nothing"):
        run("missing", "--data", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match=r"No cell in .* is finished"):
        run("missing", "--report")
    with pytest.raises(SystemExit, match="nothing"):
        run("missing", "--data", f"key={tmp_path / 'nothing'}")
    with pytest.raises(SystemExit, match=r"`--data keys=x` is for none of the tasks key"):
        run("missing", "--data", "keys=x")
    with pytest.raises(SystemExit, match="takes one data set for all tasks, got x, y"):
        run("missing", "--data", "x", "y")
    wrong = TINY | {"settings": TINY["settings"] | {"learning_rates": 1}}
    with pytest.raises(SystemExit, match=r"Unknown setting --learning_rates. Did you mean --learning_rate\?"):
        run("missing", study=wrong)


def test_settings_of_a_cell(tmp_path):
    study = read_study(str(write(tmp_path, TINY)))
    base, kmeans, half = plan_cells(study)
    places = Places(["music"], ["valid"], "labels", tmp_path)
    settings = pretraining_settings(base, places)
    assert (settings["train"], settings["validation"]) == (["music"], ["valid"])
    assert settings["stats"] == str(tmp_path / "stats.json")
    assert "quantizer" not in settings
    longer = replace(base, settings=base.settings | {"config": base.settings["config"] | {"n_fft": 1024}})
    assert pretraining_settings(longer, places)["stats"] == str(tmp_path / "stats-n_fft_1024.json")
    assert pretraining_settings(kmeans, places)["quantizer"] == str(tmp_path / "quantizers" / kmeans.quantizer)
    assert pretraining_settings(half, places)["train"] == [str(tmp_path / "songs_0.5.txt")]


# The report


def result(variant, levels, shift, seed=0):
    """Results of a cell. Songs 0 to 19 score 0.4 + 0.01 · number, plus `shift` of each task."""
    tasks = {}
    for task, metric in (("chord", "majmin"), ("key", "key_weighted")):
        songs = {str(number): {metric: 0.4 + 0.01 * number + shift[task][number % 2]} for number in range(20)}
        layers = {"metric": metric, "validation": [0.1, 0.2], "test": [0.1, 0.2], "best": 1}
        tasks[task] = {"layers": layers, "scores": {}, "songs": songs}
    pretraining = {"seconds": 600, "parameters": 4_000_000}
    return {"variant": variant, "levels": levels, "seed": seed, "pretraining": pretraining, "tasks": tasks}


@pytest.fixture
def summary(small):
    """
    Chords: bert is worse by 0.2 for each song, and 50 Hz is better by 0.1. Keys: bert changes songs by +0.1 and -0.1
    in turn, so that the mean is 0, and 50 Hz is worse by 0.05.
    """
    base = {"encoder": "conformer", "Rate of frames": "25 Hz"}
    none = {"chord": (0, 0), "key": (0, 0)}
    bert = {"chord": (-0.2, -0.2), "key": (0.1, -0.1)}
    fast = {"chord": (0.1, 0.1), "key": (-0.05, -0.05)}
    results = {
        "base": {0: result("base", base, none)},
        "encoder_bert": {0: result("encoder_bert", base | {"encoder": "bert"}, bert)},
        "rate_of_frames_50_hz": {0: result("rate_of_frames_50_hz", base | {"Rate of frames": "50 Hz"}, fast)},
    }
    return summarize(small, plan_cells(small), results)


def test_differences(summary):
    assert summary["cells"] == {"planned": 4, "finished": 3}
    found = {(entry["level"], entry["task"]): entry for entry in summary["differences"]}
    means = {("bert", "chord"): -0.2, ("bert", "key"): 0, ("50 Hz", "chord"): 0.1, ("50 Hz", "key"): -0.05}
    assert {name: entry["mean"] for name, entry in found.items()} == pytest.approx(means, abs=1e-12)
    assert {name for name, entry in found.items() if not entry["holds"]} == {("bert", "key")}
    low, high = found["bert", "key"]["corrected_interval"]
    # Of the last of four comparisons: the mean of 20 songs, each ±0.1, has a standard deviation of 0.0224.
    assert (low, high) == pytest.approx((-1.96 * 0.0224, 1.96 * 0.0224), abs=0.006)
    assert summary["rows"]["encoder_bert"]["scores"]["chord"]["majmin"]["mean"] == pytest.approx(0.295)


def test_findings(summary):
    first, second = summary["findings"]
    assert (first["tasks"], first["verdict"]) == ({"chord": "agrees", "key": "undecided"}, "agrees")
    assert first["paper_differences"] == {"chord": pytest.approx(-0.05)}  # row B has no key
    assert (second["tasks"], second["verdict"]) == ({"chord": "disagrees", "key": "agrees"}, "mixed")


def test_verdicts(small):
    def verdict(**tasks):
        differences = [
            {"factor": "encoder", "level": "bert", "task": task, "mean": mean, "holds": holds}
            for task, (mean, holds) in tasks.items()
        ]
        return judge(small, 0, differences)["verdict"]

    assert verdict(chord=(-0.1, True), key=(0.2, False)) == "agrees"
    assert verdict(chord=(0.1, True), key=(-0.2, False)) == "disagrees"
    assert verdict(chord=(-0.1, False), key=(-0.2, False)) == "undecided"
    assert verdict(chord=(-0.1, True), key=(0.2, True)) == "mixed"
    assert verdict() == "not run"


def test_page(small, summary):
    page = report_page(small, summary)
    assert page.startswith(
        "# What each choice of pretraining changes\n\n3 of 4 cells are finished. The base is: encoder"
    )
    assert "the intervals cover the choice of songs" in page
    assert "|  | encoder | Rate of frames | weights | chord majmin | key key_weighted |" in page
    assert "| A (paper) | Conformer |  |  | 0.700 | 0.600 |\n| B (paper) | BERT |  |  | 0.650 |  |" in page
    assert "| encoder_bert | bert | 25 Hz | 4.0M | 0.295 [" in page
    assert "### Encoder\n\nbert instead of conformer: chord (majmin) −0.200 [−0.200, −0.200], worse; key" in page
    assert "100 Hz instead of 25 Hz: not run." in page
    assert (
        "The paper's finding: The conformer is better. (Its B minus A: chord −0.050.) This study agrees for chord and "
        "does not decide for key." in page
    )
    assert "This study agrees for key and disagrees for chord." in page
    assert "| 25 Hz loses nothing. | mixed |" in page


def test_cells_that_ran_before_a_factor_was_added(small):
    """Finished cells record the levels of their time; the table has those of the plan, below their factors."""
    none = {"chord": (0, 0), "key": (0, 0)}
    results = {"base": {0: result("base", {"Rate of frames": "25 Hz"}, none)}}
    page = report_page(small, summarize(small, plan_cells(small), results))
    assert "| base | conformer | 25 Hz | 4.0M |" in page


def test_nothing_is_claimed_without_an_interval_that_excludes_0():
    entry = {"task": "chord", "metric": "majmin", "mean": -0.1234, "corrected_interval": (-0.3, 0.1), "holds": False}
    assert describe_difference(entry) == "chord (majmin) −0.123 [−0.300, +0.100], undecided"
    better = entry | {"mean": 0.2, "corrected_interval": (0.1, 0.3), "holds": True}
    assert describe_difference(better).endswith(", better")
    finding = {"claim": "More is better.", "tasks": {}, "paper_differences": {}, "paper": ()}
    assert describe_finding(finding) == "The paper's finding: More is better. The variant has not been run."


def test_seeds_are_averaged(small):
    """Two seeds of bert, of which the base has one: only that one is compared."""
    base = {"encoder": "conformer", "Rate of frames": "25 Hz"}
    none, worse = {"chord": (0, 0), "key": (0, 0)}, {"chord": (-0.2, -0.2), "key": (-0.2, -0.2)}
    bert = base | {"encoder": "bert"}
    results = {
        "base": {0: result("base", base, none)},
        "encoder_bert": {0: result("encoder_bert", bert, worse), 1: result("encoder_bert", bert, none, seed=1)},
    }
    summary = summarize(small, plan_cells(replace(small, seeds=[0, 1])), results)
    assert summary["rows"]["encoder_bert"]["scores"]["key"]["key_weighted"]["mean"] == pytest.approx(0.395)
    assert [entry["mean"] for entry in summary["differences"]] == pytest.approx([-0.2, -0.2])
    assert [entry["seeds"] for entry in summary["differences"]] == [[0], [0]]
