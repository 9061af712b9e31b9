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
import contextlib
import importlib.util
import math
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("musicfm_hf") is None:
    sys.path.insert(0, str(ROOT / "src"))

from machine import describe, matrix_rate, peak_mb, seconds_of, start_peak  # noqa: E402
from reporting import RESULTS, markdown_table, write_report  # noqa: E402

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining, MusicFMModel  # noqa: E402
from musicfm_hf.training.recipes import read_recipe  # noqa: E402
from musicfm_hf.training.trainer import selective_checkpointing  # noqa: E402

RATE = 24000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "subsampling_conv_channels": 16}


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


def noise(batch_size: int, seconds: float, device: str, scale: float = 0.1) -> torch.Tensor:
    """Return random waveforms `(batch, samples)`."""
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(batch_size, round(seconds * RATE), generator=generator).to(device)


# Checks, with small models


class SkippedError(Exception):
    """Raised by a check that cannot run on this machine."""


def small_model(device: str, model_class: Callable = MusicFMModel, **values: Any) -> Any:
    """Return a small model with random weights."""
    torch.manual_seed(0)
    model = model_class(MusicFMConfig(**SMALL | {"num_hidden_layers": 3} | values))
    return model.to(device).eval()


def padded(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three waveforms of different lengths in a batch, and their mask."""
    batch = noise(3, 4.0, device)
    lengths = torch.tensor([96000, 50123, 31000], device=device)
    mask = torch.arange(96000, device=device) < lengths[:, None]
    return torch.where(mask, batch, 3.0), mask.long()


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest absolute difference, in float32."""
    return (found.float().cpu() - expected.float().cpu()).abs().max().item()


def require(value: float, limit: float, name: str) -> str:
    """Return a description of a value, or raise an `AssertionError` if it is above the limit or not a number."""
    if not value <= limit:
        raise AssertionError(f"{name} is {value:.3g}, above {limit:g}")
    return f"{name} {value:.2g}, limit {limit:g}"


@torch.no_grad()
def check_cpu(device: str) -> str:
    """Outputs equal those of the CPU, in float32."""
    audio = noise(2, 3.0, "cpu")
    expected = small_model("cpu")(audio).last_hidden_state
    return require(largest_difference(small_model(device)(audio.to(device)).last_hidden_state, expected), 2e-3, "diff")


@torch.no_grad()
def check_padding(device: str, front_end: str) -> str:
    """Items of a padded batch equal the items alone."""
    values: dict[str, Any] = {}
    if front_end == "convnext":
        values = {"front_end": "convnext", "convnext_channels": [16, 64], "convnext_depths": [1, 1]}
        values |= {"subsampling_time_strides": [2, 2], "conformer_conv_norm": "layer_norm"}
    elif front_end == "waveform":
        values = {"front_end": "waveform", "encoder_type": "bert", "hop_length": 320, "conv_dim": [16] * 7}
    model = small_model(device, **values)
    batch, mask = padded(device)
    outputs, frames = model(batch, mask).last_hidden_state, model.frames_mask(mask)
    worst = 0.0
    for item in range(len(batch)):
        alone = model(batch[item : item + 1, : int(mask[item].sum())]).last_hidden_state[0]
        worst = max(worst, largest_difference(outputs[item][frames[item]], alone))
    return require(worst, 1e-3, "diff")


@torch.no_grad()
def check_attention(device: str, implementation: str) -> str:
    """An attention implementation equals eager attention in the valid frames of a padded batch."""
    if implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise SkippedError("flash_attn is not installed")
    if implementation != "sdpa" and device == "cpu":
        raise SkippedError("needs a GPU")
    batch, mask = padded(device)
    dtype = torch.float32 if implementation == "sdpa" else torch.bfloat16
    outputs = []
    for name in ("eager", implementation):
        model = small_model(device, attn_implementation=name).to(dtype)
        outputs.append(model(batch, mask).last_hidden_state[model.frames_mask(mask)])
    return require(largest_difference(*outputs), 1e-3 if dtype == torch.float32 else 0.1, "diff")


@torch.no_grad()
def check_precision(device: str, name: str) -> str:
    """Half precision is close to float32, for quiet music too, because the mel stays in float32."""
    worst = 0.0
    for scale in (0.1, 1e-4):
        audio = noise(2, 3.0, device, scale)
        expected = small_model(device)(audio).last_hidden_state
        half = small_model(device).to(DTYPES[name])
        worst = max(
            worst, 1 - torch.cosine_similarity(half(audio).last_hidden_state.float(), expected, -1).min().item()
        )
    return require(worst, 5e-3, "1 - cosine")


@torch.no_grad()
def check_compiled(device: str) -> str:
    """A compiled model equals the model, for two lengths."""
    if device == "cpu":
        raise SkippedError("tests/model compiles on a CPU")
    model = small_model(device)
    compiled = torch.compile(small_model(device), dynamic=True)
    pairs = [(compiled(audio), model(audio)) for audio in (noise(2, 3.0, device), noise(3, 4.4, device))]
    worst = max(largest_difference(found.last_hidden_state, expected.last_hidden_state) for found, expected in pairs)
    return require(worst, 2e-3, "diff")


def training_gradients(model: nn.Module, device: str) -> list[torch.Tensor]:
    """Return the gradients of one step of masked pretraining with fixed masks."""
    generator = torch.Generator(device).manual_seed(0)
    model.zero_grad()
    model(noise(2, 4.0, device), generator=generator).loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def check_checkpointing(device: str, selective: bool) -> str:
    """Gradients with activation checkpointing equal those without."""
    rates = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "conformer_conv_dropout"), 0.0)
    gradients = []
    for enabled in (False, True):
        model = small_model(device, MusicFMForPreTraining, codebook_size=64, **rates).train()
        if enabled:
            model.gradient_checkpointing_enable(selective_checkpointing() if selective else {"use_reentrant": False})
        gradients.append(training_gradients(model, device))
    worst = max(largest_difference(found, expected) for found, expected in zip(*gradients, strict=True))
    return require(worst, 1e-3, "diff of gradients")


@contextlib.contextmanager
def one_process(device: str) -> Iterator[None]:
    """Run a process group of one process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "RANK": "0", "WORLD_SIZE": "1"}
    torch.distributed.init_process_group("gloo" if device == "cpu" else "nccl", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def check_fsdp(device: str) -> str:
    """A sharded model with one process has the loss of the model."""
    if device == "cpu":
        raise SkippedError("tests/pretraining shards on a CPU")
    from torch.distributed.fsdp import fully_shard

    audio = noise(2, 4.0, device)
    model = small_model(device, MusicFMForPreTraining, codebook_size=64)
    expected = model(audio, generator=torch.Generator(device).manual_seed(0)).loss.item()
    with one_process(device):
        for layer in model.musicfm.layers:
            fully_shard(layer)
        fully_shard(model)
        loss = model(audio, generator=torch.Generator(device).manual_seed(0)).loss
        loss.backward()
    return require(abs(loss.item() - expected), 1e-3, "diff of the loss")


def check_deepspeed(device: str) -> str:
    """A step with DeepSpeed's ZeRO stage 2 has the loss of the model."""
    if importlib.util.find_spec("deepspeed") is None:
        raise SkippedError("deepspeed is not installed")
    if device == "cpu":
        raise SkippedError("needs a GPU")
    import deepspeed

    audio = noise(2, 4.0, device)
    model = small_model(device, MusicFMForPreTraining, codebook_size=64)
    expected = model(audio, generator=torch.Generator(device).manual_seed(0)).loss.item()
    with one_process(device):
        settings = {"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 2}}
        settings["optimizer"] = {"type": "Adam", "params": {"lr": 1e-4}}
        engine, *_ = deepspeed.initialize(model=model, config=settings)
        loss = engine(audio, generator=torch.Generator(device).manual_seed(0)).loss
        engine.backward(loss)
        engine.step()
    return require(abs(loss.item() - expected), 1e-3, "diff of the loss")


CHECKS: dict[str, Callable[[str], str]] = {
    "equal to the CPU, float32": check_cpu,
    **{f"padding, {name}": partial(check_padding, front_end=name) for name in ("mel", "convnext", "waveform")},
    **{
        f"attention, {name}": partial(check_attention, implementation=name)
        for name in ("sdpa", "flex_attention", "flash_attention_2")
    },
    **{f"precision, {name}": partial(check_precision, name=name) for name in ("bfloat16", "float16")},
    "compiled, two lengths": check_compiled,
    "checkpointing": partial(check_checkpointing, selective=False),
    "selective checkpointing": partial(check_checkpointing, selective=True),
    "FSDP, one process": check_fsdp,
    "DeepSpeed, one process": check_deepspeed,
}


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
        for seconds in (2.0, 4.0) if small else (10.0, 30.0):
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
        seconds = 2.0 if small else 30.0
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
