"""The benchmark for GPUs, at a small size on the CPU, without the libraries that a bare machine lacks."""

import json
import subprocess
import sys

import gpu
import gpu_checks
import pytest
from helpers.paths import ROOT

WITHOUT_LIBRARIES = """
import runpy, sys

for name in ("datasets", "evaluate", "librosa", "mir_eval", "soundfile", "soxr", "sklearn", "peft"):
    sys.modules[name] = None  # as if it were not installed
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_all_parts_on_a_bare_machine(tmp_path):
    path = tmp_path / "gpu.json"
    words = [str(ROOT / "benchmarks/gpu.py"), "--size", "small", "--device", "cpu", "--output_file", str(path)]
    done = subprocess.run([sys.executable, "-c", WITHOUT_LIBRARIES, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    assert [row["check"] for row in results["checks"]] == list(gpu.CHECKS)
    skipped = {row["check"] for row in results["checks"] if row["outcome"] == "skipped"}
    assert {row["outcome"] for row in results["checks"]} == {"passed", "skipped"}
    assert skipped >= {"FSDP, one process", "compiled, two lengths"}
    assert len(results["checks"]) - len(skipped) >= 9
    assert len(results["embedding"]) == 12
    for row in results["embedding"]:
        assert row["audio_seconds_per_second"] == pytest.approx(row["batch_size"] * row["seconds"] / row["time"])
    assert [(row["recipe"], row["way"], row["batch_size"]) for row in results["training"]] == [
        (recipe, way, size)
        for recipe in ("fm7", "mert2")
        for way in ("plain", "selective checkpointing")
        for size in (1, 2)
    ]
    text = path.with_suffix(".md").read_text()
    assert text == gpu.report(results)
    assert text.count("\n| `layer=") == 12


def test_a_failed_check_is_reported_and_the_others_run(tmp_path, monkeypatch):
    def fail(device):
        return gpu_checks.require(float("nan"), 1e-3, "diff")

    monkeypatch.setattr(gpu, "CHECKS", {"one": fail, "two": lambda device: "fine"})
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--parts", "checks", "--device", "cpu", "--output_file", str(tmp_path / "gpu.json")]
    )
    with pytest.raises(SystemExit, match="1"):
        gpu.main()
    rows = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert [(row["outcome"], row["note"]) for row in rows] == [
        ("failed", "AssertionError: diff is nan, above 0.001"),
        ("passed", "fine"),
    ]


def test_measurements_that_do_not_fit_are_left_out(tmp_path, monkeypatch):
    words = ["gpu.py", "--parts", "embedding", "training", "--size", "small", "--device", "cpu", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", [*words, "--output_file", str(tmp_path / "gpu.json")])
    gpu.main()
    assert not (tmp_path / "gpu.json").exists()
