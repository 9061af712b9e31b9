"""The benchmark of precisions, at a small size."""

import json
import subprocess
import sys

import pytest
from helpers.models import head
from helpers.paths import ROOT


def test_rows_of_small_models(labeled, tmp_path):
    for task in ("chord", "key"):
        head(task).save_pretrained(tmp_path / task)
    words = ["--small", "--layers", "1", "2", "--excerpts", "1", "--seconds", "2", "--limit", "1", "--data", labeled]
    words += ["--heads", tmp_path / "chord", tmp_path / "key", "--output_file", tmp_path / "precision.json"]
    script = str(ROOT / "benchmarks/precision.py")
    subprocess.run([sys.executable, script, *map(str, words)], check=True)
    results = json.loads((tmp_path / "precision.json").read_text())
    assert {(row["task"], row["score"], row["songs"]) for row in results["scores"]} == {
        ("chord", "majmin", 1),
        ("key", "key_weighted", 1),
    }
    for row in results["scores"]:
        assert row["int8_difference"]["mean"] == pytest.approx(row["int8"] - row["float32"])
    assert [(row["precision"], row["layer"], row["frames"]) for row in results["cosines"]] == [
        ("bfloat16", 1, 50),
        ("bfloat16", 2, 50),
        ("int8", 1, 50),
        ("int8", 2, 50),
    ]
    assert all(0.99 < row["least"] < row["mean"] < 1 for row in results["cosines"])
    assert "| chord | `majmin` | 1 |" in (tmp_path / "precision.md").read_text()
