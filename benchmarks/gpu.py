"""
Check on a GPU what only a GPU shows, and measure embedding and pretraining there.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts checks embedding --seconds 240

The parts are: `checks` (attention implementations, precision, compilation, checkpointing, FSDP, DeepSpeed), `rates` of
matrix products, `embedding` and `training`, at full size with random weights. They need PyTorch, Transformers and this
checkout, which does not have to be installed. Results are written after every measurement, and measurements that would
not fit into `--seconds` are left out, so an interrupted run keeps what it has. With `--size small`, all parts run in
seconds, also on a CPU.
"""

import argparse
import importlib.util
import math
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("musicfm_hf") is None:
    sys.path.insert(0, str(ROOT / "src"))

from gpu_checks import CHECKS, DTYPES, RATE, SMALL, SkippedError, noise  # noqa: E402
from machine import describe, matrix_rate, peak_mb, seconds_of, start_peak  # noqa: E402
from reporting import RESULTS, markdown_table, write_report  # noqa: E402

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining, MusicFMModel  # noqa: E402
from musicfm_hf.training.recipes import read_recipe  # noqa: E402
from musicfm_hf.training.trainer import selective_checkpointing  # noqa: E402


class Clock:
    """Time that is left for measurements, and the results so far, which are written after each one."""

    def __init__(self, seconds: float, path: Path, results: dict[str, Any]):
        self.end, self.path, self.results = time.perf_counter() + seconds, path, results

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.perf_counter()

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Add a row of a part and write all results."""
        self.results[part].append(row)
        write_report(self.path, self.results, report(self.results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--size", choices=["full", "small"], default="full")
    parser.add_argument("--seconds", type=float, default=400.0, help="time for all parts")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "gpu.json")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": describe(arguments.device), "size": arguments.size}
    results |= {part: [] for part in PARTS}
    clock = Clock(arguments.seconds, arguments.output_file, results)
    torch.manual_seed(0)
    for part in arguments.parts:
        PARTS[part](clock, arguments.device, arguments.size == "small")
        free(arguments.device)
    if any(row["outcome"] == "failed" for row in results["checks"]):
        raise SystemExit(1)


def free(device: str) -> None:
    """Return the memory of deleted tensors to the device."""
    if device != "cpu":
        torch.cuda.empty_cache()


def run_checks(clock: Clock, device: str, small: bool) -> None:
    """Run all checks, in float32 without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name, check in CHECKS.items():
        began = time.perf_counter()
        try:
            outcome, note = "passed", check(device)
        except SkippedError as error:
            outcome, note = "skipped", str(error)
        except Exception as error:  # a failure of one check must not lose the others
            traceback.print_exc()
            outcome, note = "failed", f"{type(error).__name__}: {error}"[:300]
        seconds = round(time.perf_counter() - began, 1)
        clock.add("checks", {"check": name, "outcome": outcome, "note": note, "seconds": seconds})


# Measurements


def measure_rates(clock: Clock, device: str, small: bool) -> None:
    """Measure the rates of matrix products."""
    for name in ("float32", "bfloat16", "float16") if device != "cpu" else ("float32",):
        clock.add("rates", {"dtype": name, "tflops": matrix_rate(device, DTYPES[name])})


def rate_of(results: dict[str, Any], dtype: str) -> float:
    """Return the measured rate of matrix products in 10¹² operations per second, or nan."""
    return next((row["tflops"] for row in results["rates"] if row["dtype"] == dtype), math.nan)


def operations(model: nn.Module, samples: int, **arguments: Any) -> int:
    """Count the floating-point operations of a forward pass of one waveform, without computing it."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to("meta")(torch.empty(1, samples, device="meta"), **arguments)
    return counter.get_total_flops()


def measure_embedding(clock: Clock, device: str, small: bool) -> None:
    """Measure embedding for layers, window lengths and batch sizes, in half precision and float32."""
    values = SMALL | {"num_hidden_layers": 12} if small else {}
    dtypes = ("bfloat16", "float16", "float32") if device != "cpu" else ("float32",)
    batch_sizes = (1, 2) if small else (1, 4, 16, 64)
    for dtype in dtypes:
        model = MusicFMModel(MusicFMConfig(**values)).to(device, DTYPES[dtype]).eval()
        for seconds in (0.5, 1.0) if small else (10.0, 30.0):
            for layer in (3, 7, 12):
                count = operations(MusicFMModel(MusicFMConfig(**values)), round(seconds * RATE), layer=layer)
                for batch_size in batch_sizes:
                    if clock.left < 5:
                        return
                    row = {"dtype": dtype, "seconds": seconds, "layer": layer, "batch_size": batch_size}
                    timed = time_embedding(model, noise(batch_size, seconds, device), layer, device)
                    share = count * batch_size / timed["time"] / 1e12 / rate_of(clock.results, dtype)
                    row |= timed | {"audio_seconds_per_second": batch_size * seconds / timed["time"]}
                    clock.add("embedding", row | {"share_of_matrix_rate": share})
        del model
        free(device)


def time_embedding(model: nn.Module, audio: torch.Tensor, layer: int, device: str) -> dict[str, float]:
    """Return the median time of a forward pass in seconds, and its peak memory in MB beyond model and audio."""
    with torch.inference_mode():
        model(audio, layer=layer)
        before = start_peak(device)
        times = [seconds_of(lambda: model(audio, layer=layer), device) for _ in range(3)]
    return {"time": statistics.median(times), "peak_mb": peak_mb(device) - before}


def measure_training(clock: Clock, device: str, small: bool) -> None:
    """Measure steps of masked pretraining, with batches that double until the memory is full."""
    for recipe in ("fm7", "mert2"):
        values = read_recipe(str(ROOT / f"recipes/pretrain/{recipe}.yaml"))["config"]
        if small:
            values |= SMALL | {"num_hidden_layers": 2}
            values |= {"convnext_channels": [128, 32, 64], "convnext_depths": [1, 1, 1]} if recipe == "mert2" else {}
        seconds = 1.2 if small else 30.0
        count = operations(MusicFMModel(MusicFMConfig(**values)).train(), round(seconds * RATE))
        for way in ("plain", "selective checkpointing"):
            for batch_size in (1, 2) if small else (4, 8, 16, 32, 64):
                if clock.left < 20:
                    return
                row: dict[str, Any] = {"recipe": recipe, "way": way, "batch_size": batch_size, "seconds": seconds}
                try:
                    timed = time_step(values, batch_size, seconds, way != "plain", device)
                except torch.OutOfMemoryError:
                    clock.add("training", row | {"note": "out of memory"})
                    free(device)
                    break
                dtype = "float32" if device == "cpu" else "bfloat16"
                share = 3 * count * batch_size / timed["time"] / 1e12 / rate_of(clock.results, dtype)
                row |= timed | {"audio_seconds_per_second": batch_size * seconds / timed["time"]}
                clock.add("training", row | {"share_of_matrix_rate": share})
                free(device)


def time_step(
    values: dict[str, Any], batch_size: int, seconds: float, selective: bool, device: str
) -> dict[str, float]:
    """Return the median time of a step in seconds, and the peak memory in MB, in bfloat16 autocast on a GPU."""
    model = MusicFMForPreTraining(MusicFMConfig(**values)).to(device).train()
    if selective:
        model.gradient_checkpointing_enable(selective_checkpointing())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=device != "cpu")
    audio = noise(batch_size, seconds, device)

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
            loss = model(audio).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    start_peak(device)
    times = [seconds_of(step, device) for _ in range(3)]
    return {"time": statistics.median(times), "peak_mb": peak_mb(device)}


PARTS = {
    "checks": run_checks,
    "rates": measure_rates,
    "embedding": measure_embedding,
    "training": measure_training,
}


def report(results: dict[str, Any]) -> str:
    """Return the machine and a table for each part that has rows."""
    machine = results["machine"]
    rates = ", ".join(f"{row['dtype']} {row['tflops']:.3g} TFLOP/s" for row in results["rates"])
    text = f"{machine['device']}; torch {machine['torch']}, transformers {machine['transformers']}"
    parts = [text + (f"; matrix products: {rates}.\n" if rates else ".\n")]
    if results["checks"]:
        rows = [[row["check"], row["outcome"], row["note"].replace("|", "/")] for row in results["checks"]]
        parts.append(markdown_table(["check", "outcome", ""], rows))
    if results["embedding"]:
        header = ["embedding", "window", "batch", "audio s per s", "peak memory", "share of matrix rate"]
        rows = [
            [f"`layer={row['layer']}`, {row['dtype']}", f"{row['seconds']:g} s", str(row["batch_size"]), *figures(row)]
            for row in results["embedding"]
        ]
        parts.append(markdown_table(header, rows))
    if results["training"]:
        header = ["training step", "crop", "batch", "audio s per s", "peak memory", "share of matrix rate"]
        rows = [
            [f"`{row['recipe']}`, {row['way']}", f"{row['seconds']:g} s", str(row["batch_size"]), *figures(row)]
            for row in results["training"]
        ]
        parts.append(markdown_table(header, rows))
    return "\n".join(parts)


def figures(row: dict[str, Any]) -> list[str]:
    """Return the measured cells of a row."""
    if "note" in row:
        return [row["note"], "", ""]
    share = row["share_of_matrix_rate"]
    memory = f"{row['peak_mb'] / 1000:.1f} GB"
    return [f"{row['audio_seconds_per_second']:.0f}", memory, "" if math.isnan(share) else f"{share:.0%}"]


if __name__ == "__main__":
    main()
