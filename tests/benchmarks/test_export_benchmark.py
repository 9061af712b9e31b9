"""The benchmark of exports, at a small size."""

import json
import subprocess
import sys

import pytest
from helpers.paths import ROOT


@pytest.mark.slow
def test_rows_of_a_small_model(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    words = "--small --layers 1 --formats onnx --seconds 2 --repeats 1 --output_file".split()
    script = str(ROOT / "benchmarks/export.py")
    subprocess.run([sys.executable, script, *words, str(tmp_path / "export.json")], check=True)
    rows = json.loads((tmp_path / "export.json").read_text())["rows"]
    assert [(row["way"], row["precision"]) for row in rows] == [
        ("PyTorch", "float32"),
        ("PyTorch", "int8"),
        ("onnx", "float32"),
        ("onnx", "int8"),
    ]
    assert rows[0]["ratio_to_pytorch"] == 1
    assert all(row["time"] == pytest.approx(row["ratio_to_pytorch"] * rows[0]["time"]) for row in rows)
    assert rows[2]["check"]["largest_deviation"] < rows[3]["check"]["largest_deviation"]
    assert "| onnx, int8 | 1 |" in (tmp_path / "export.md").read_text()
