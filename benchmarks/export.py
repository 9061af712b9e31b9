"""
Measure exported encoders beside the encoder in PyTorch, at full size with random weights.

    python benchmarks/export.py
    python benchmarks/export.py --small --layers 1 2 --seconds 2 --output_file trial.json

Each layer is exported to each format, in float32 and in int8, and compared with PyTorch in both precisions. The
runtimes are then timed in turn in one process, with the same number of threads and the same audio, and medians are
reported.
"""

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from machine import describe, seconds_of
from reporting import RESULTS, markdown_table, write_report
from transformers import AutoModel

import musicfm_hf
from musicfm_hf.inference.runtimes import model_files

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
    "conv_depthwise_kernel_size": 7,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", type=int, default=[7, 12])
    parser.add_argument("--formats", nargs="+", default=list(RUNTIMES), choices=list(RUNTIMES))
    parser.add_argument("--quantize", nargs="+", default=["none", "int8"], choices=["none", "int8"])
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the audio")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a model of two narrow layers, for a trial")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "export.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results: dict[str, Any] = {"machine": describe("cpu"), "seconds": arguments.seconds, "rows": []}
    results["versions"] = {name: version(RUNTIMES[name]) for name in arguments.formats}
    with tempfile.TemporaryDirectory() as folder:
        config = musicfm_hf.MusicFMConfig(**SMALL if arguments.small else {})
        musicfm_hf.MusicFMModel(config).save_pretrained(Path(folder) / "model")
        for layer in arguments.layers:
            results["rows"] += measure(Path(folder), layer, arguments)
    write_report(arguments.output_file, results, report(results))


def measure(folder: Path, layer: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for PyTorch in each precision, and one for each export of a layer."""
    rows: list[dict[str, Any]] = [{"way": "PyTorch", "precision": "float32", "layer": layer}]
    if "int8" in arguments.quantize:
        rows.append({"way": "PyTorch", "precision": "int8", "layer": layer})
    count = len(rows)
    targets = []
    for kind in arguments.formats:
        for quantize in arguments.quantize:
            precision = "float32" if quantize == "none" else quantize
            targets.append(folder / f"{kind}-{precision}-{layer}")
            began = time.perf_counter()
            result = musicfm_hf.export_model(
                folder / "model", targets[-1], kind, layer=layer, quantize=None if quantize == "none" else quantize
            )
            rows.append(
                {
                    "way": kind,
                    "precision": precision,
                    "layer": layer,
                    "export_seconds": time.perf_counter() - began,
                    "megabytes": sum(path.stat().st_size for path in model_files(targets[-1])) / 1e6,
                    "check": result.check,
                }
            )
    gc.collect()  # the exporters leave copies of the model behind
    configs = [None, musicfm_hf.MusicFMInt8Config()][:count]
    models: list[Any] = [
        AutoModel.from_pretrained(folder / "model", dtype=torch.float32, quantization_config=config).eval()
        for config in configs
    ]
    for row, target in zip(rows[count:], targets, strict=True):
        began = time.perf_counter()
        models.append(musicfm_hf.load_exported(target))
        row["load_seconds"] = time.perf_counter() - began
    audio = 0.1 * torch.randn(1, round(arguments.seconds * models[0].config.sampling_rate))
    times: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for repeat in range(arguments.repeats + 1):  # the first one is a warm-up
            for model, elapsed in zip(models, times, strict=True):
                seconds = seconds_of(lambda model=model: model(audio, layer=layer))
                if repeat > 0:
                    elapsed.append(seconds)
    for row, elapsed in zip(rows, times, strict=True):
        row["time"] = statistics.median(elapsed)
        row["ratio_to_pytorch"] = row["time"] / statistics.median(times[0])
    for target in targets:
        shutil.rmtree(target)
    return rows


def report(results: dict[str, Any]) -> str:
    """Return the machine and a table."""
    machine = results["machine"]
    versions = {"torch": machine["torch"], "transformers": machine["transformers"]} | results["versions"]
    text = f"{machine['device']}; {', '.join(f'{name} {value}' for name, value in versions.items())}; "
    cells = []
    for row in results["rows"]:
        check = row.get("check", {})
        cells.append(
            [
                f"{row['way']}, {row['precision']}",
                f"{row['layer']}",
                f"{row['time']:.2f} s",
                f"{row['ratio_to_pytorch']:.2f}",
                f"{row['megabytes']:.0f} MB" if check else "",
                f"{row['export_seconds']:.0f} s" if check else "",
                f"{check['largest_deviation']:.1g} of {check['largest_value']:.2g}" if check else "",
                f"{check['smallest_cosine']:.5f}" if check else "",
            ]
        )
    header = ["", "layer", "time", "PyTorch = 1", "size", "export and check", "largest deviation", "smallest cosine"]
    return f"{text}{results['seconds']:g} s of audio.\n\n{markdown_table(header, cells)}"


if __name__ == "__main__":
    main()
