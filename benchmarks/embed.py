"""
Measure speed and memory of embedding, side by side with a plain implementation, at full size with random weights.

    python benchmarks/embed.py --sections speed growth
    python benchmarks/embed.py --sections memory --dtypes float32

The plain implementation is straightforward: it computes every layer, keeps all hidden states, predicts logits for all
frames, uses channels-first convolutions, and applies batch norm separately. It runs in the first of `--dtypes`, and
this package in each of them. All take turns in one process, and medians are reported. Memory and growth are measured
in separate processes. The share of the rate of matrix products counts the multiplications of direct convolutions; an
algorithm with fewer multiplications can exceed 100 %. The limit is the time of the multiplications that remain, at the
rate of matrix products, without any other work.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from architecture import CODES, SECONDS, shares_of_multiplications
from machine import describe, matrix_rate, peak_mb, seconds_of, start_peak
from processes import measure_separately
from reporting import RESULTS, markdown_table, write_report
from torch import nn
from transformers import AutoModel

import musicfm_hf
from musicfm_hf import MusicFMConfig
from musicfm_hf.model.int8_musicfm import MusicFMInt8Linear

LAYERS = (3, 7, 12)
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "subsampling_conv_channels": 8}


def plain(model: musicfm_hf.MusicFMModel, head: nn.Linear, input_values: torch.Tensor) -> torch.Tensor:
    """Run the plain forward pass, and return the logits of all frames."""
    hidden = model.log_mel(input_values, None)[:, None].to(model.dtype)
    for block in model.subsampling.blocks:
        residual = block.shortcut_norm(block.shortcut_conv(hidden))
        hidden = torch.relu(block.norm1(block.conv1(hidden)))
        hidden = torch.relu(block.norm2(block.conv2(hidden)) + residual)
    hidden = model.subsampling.projection(hidden.transpose(1, 2).flatten(2))
    positions = model._rotary_embedding(hidden)
    hidden_states = [hidden]
    for layer in model.layers:
        hidden = hidden + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden))
        hidden = hidden + layer.self_attn(layer.self_attn_layer_norm(hidden), positions)[0]
        conv = layer.conv_module
        gated = nn.functional.glu(conv.pointwise_conv1(conv.layer_norm(hidden)), dim=-1)
        filtered = conv.activation(conv.batch_norm(conv.depthwise_conv(gated.transpose(1, 2))))
        hidden = hidden + conv.pointwise_conv2(filtered.transpose(1, 2))
        hidden = layer.final_layer_norm(hidden + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden)))
        hidden_states.append(hidden)
    return head(model.layer_norm(hidden))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=["float32", "bfloat16", "int8"],
        help="the first one is also that of the plain way; int8 on a CPU only; bfloat16 is slow on many CPUs",
    )
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the first one, which is not counted")
    parser.add_argument("--growth_seconds", nargs="*", type=float, default=[30.0, 300.0, 3600.0])
    parser.add_argument("--sections", nargs="+", default=["speed", "memory", "growth"])
    parser.add_argument(
        "--output_file",
        type=Path,
        help="benchmarks/results/embed_DEVICE.json by default; without speed, the name also lists the sections",
    )
    parser.add_argument("--small", action="store_true", help="a narrow model, for a trial")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(**json.loads(arguments.measure))))
        return
    if arguments.device != "cpu":
        arguments.dtypes = [dtype for dtype in arguments.dtypes if dtype != "int8"]
        if not arguments.dtypes:
            parser.error("int8 is for CPUs: pass another of --dtypes")
    torch.manual_seed(0)
    rates = {
        name: int8_matrix_rate() if name == "int8" else matrix_rate(arguments.device, getattr(torch, name))
        for name in (arguments.dtypes if "speed" in arguments.sections else [])
    }
    machine = describe(arguments.device) | {"tflops": rates}
    with tempfile.TemporaryDirectory() as folder:
        config = MusicFMConfig(**SMALL if arguments.small else {})
        musicfm_hf.MusicFMModel(config).save_pretrained(folder)
        results = {"machine": machine} | measure_sections(folder, rates, arguments)
    sections = [] if "speed" in arguments.sections else arguments.sections
    name = "_".join(["embed", arguments.device.split(":")[0], *sections])
    path = arguments.output_file or RESULTS / f"{name}.json"
    write_report(path, results, report(results))


def measure_sections(folder: str, tflops: dict[str, float], arguments: argparse.Namespace) -> dict[str, list[dict]]:
    """Return the rows of each requested section."""
    results: dict[str, list[dict]] = {"speed": [], "memory": [], "growth": []}
    common = {"folder": folder, "device": arguments.device}
    if "speed" in arguments.sections:
        for batch_size in arguments.batch_sizes:
            results["speed"] += speed(folder, batch_size, tflops, arguments)
    if "memory" in arguments.sections:
        for dtype, batch_size in product(arguments.dtypes, arguments.batch_sizes):
            plain_ways = [("plain", None)] if dtype == arguments.dtypes[0] else []
            for way, layer in [*plain_ways, *(("ours", layer) for layer in LAYERS)]:
                case = {"way": way, "layer": layer, "dtype": dtype, "batch_size": batch_size}
                results["memory"].append(separately(**common, **case))
    long = {"way": "embed", "dtype": "float32", "batch_size": 1}
    if "memory" in arguments.sections:
        results["memory"].append(separately(**common, **long, layer=1, seconds=max(arguments.growth_seconds)))
    if "growth" in arguments.sections:
        for seconds in arguments.growth_seconds:
            results["growth"].append(separately(**common, **long, layer=3, seconds=seconds))
    return results


def speed(folder: str, batch_size: int, tflops: dict[str, float], arguments: argparse.Namespace) -> list[dict]:
    """Time a batch in the plain way and in each dtype, with the ratios of their times to that of the plain way."""
    device, first = arguments.device, arguments.dtypes[0]
    models = {dtype: load(folder, dtype, device) for dtype in arguments.dtypes}
    head = nn.Linear(models[first].config.hidden_size, CODES).to(device, models[first].dtype)
    audio = 0.1 * torch.randn(batch_size, SECONDS * models[first].config.sampling_rate, device=device)
    ways: dict[tuple[str, str, int | None], Callable] = {
        ("plain", first, None): lambda: plain(models[first], head, audio)
    }
    for dtype, model in models.items():
        for layer in LAYERS:
            ways["ours", dtype, layer] = partial(model, audio, layer=layer)
    times: dict[tuple[str, str, int | None], list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for repeat in range(arguments.repeats + 1):
            for way, function in ways.items():
                elapsed = seconds_of(function, device)
                if repeat > 0:  # the first round is a warm-up
                    times[way].append(elapsed)
    time_of_plain = statistics.median(times["plain", first, None])
    rows = []
    for (way, dtype, layer), elapsed in times.items():
        median = statistics.median(elapsed)
        row = {"way": way, "layer": layer, "dtype": dtype, "batch_size": batch_size, "seconds": SECONDS}
        row |= {"time": median, "audio_seconds_per_second": batch_size * SECONDS / median}
        row["ratio_to_plain"] = median / time_of_plain
        config = MusicFMConfig(**models[first].config.to_diff_dict() | {"num_hidden_layers": layer or LAYERS[-1]})
        counts = shares_of_multiplications(config)
        operations = 2 * batch_size * counts["multiplications"]
        if layer is None:
            operations += 2 * batch_size * counts["logits"]["multiplications"]
        row["share_of_matrix_rate"] = operations / median / 1e12 / tflops[dtype]
        if way == "ours":
            row["limit"] = batch_size * least_seconds(counts, tflops, dtype, device) / time_of_plain
        rows.append(row)
    return rows


def least_seconds(counts: dict[str, Any], tflops: dict[str, float], dtype: str, device: str) -> float:
    """
    Return the seconds of the multiplications at the rates of matrix products. On a CPU, but not in int8, those of the
    3×3 convolutions are the remaining ones of Winograd's algorithms, F(4×4, 3×3) and F(4, 2), in float32.
    """
    total = counts["multiplications"]
    if device != "cpu" or dtype == "int8":
        return 2 * total / 1e12 / tflops[dtype]
    stride_1, stride_2 = (counts[f"convolutions_with_stride_{stride}"]["multiplications"] for stride in (1, 2))
    convolutions = 36 / 144 * stride_1 + 81 / 144 * stride_2
    return (
        2
        * (convolutions / tflops.get("float32", tflops[dtype]) + (total - stride_1 - stride_2) / tflops[dtype])
        / 1e12
    )


def int8_matrix_rate() -> float:
    """Return the best rate of twenty products of square matrices in int8, with the rounding of the frames."""
    layer = MusicFMInt8Linear.from_linear(nn.Linear(2048, 2048))
    frames = torch.randn(2048, 2048)
    with torch.inference_mode():
        times = [seconds_of(lambda: layer(frames)) for _ in range(21)][1:]
    return 2 * 2048**3 / min(times) / 1e12


def load(folder: str, dtype: str, device: str) -> Any:
    """Load the model in a dtype, or in float32 with the linear layers in int8."""
    if dtype == "int8":
        return AutoModel.from_pretrained(folder, quantization_config=musicfm_hf.MusicFMInt8Config()).eval()
    return AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)


def separately(**case: Any) -> dict[str, Any]:
    """Measure a case in a separate process, and return it with its time and memory."""
    result = measure_separately(__file__, ["--measure", json.dumps(case)])
    return {key: value for key, value in case.items() if key != "folder"} | result


def measure(
    folder: str, device: str, dtype: str, batch_size: int, way: str, layer: int | None, seconds: float = SECONDS
) -> dict:
    """Measure the load time of the model, and the time and peak memory (MB beyond model and audio) of one method."""
    began = time.perf_counter()
    model = load(folder, dtype, device)
    load_seconds = time.perf_counter() - began
    head = nn.Linear(model.config.hidden_size, CODES).to(device, model.dtype)
    audio = 0.1 * torch.randn(batch_size, round(seconds * model.config.sampling_rate))
    with torch.inference_mode():
        model(audio[:1, :24000].to(device))  # weights are read from the file when they are first used
    before = start_peak(device)
    with torch.inference_mode():
        began = time.perf_counter()
        if way == "embed":
            output = musicfm_hf.embed(model, audio[0], model.config.sampling_rate, layer=layer).frames
        elif way == "plain":
            output = plain(model, head, audio.to(device))
        else:
            output = model(audio.to(device), layer=layer).last_hidden_state
        elapsed = time.perf_counter() - began
    output_mb = output.nbytes / 1e6
    return {"load_seconds": load_seconds, "time": elapsed, "peak_mb": peak_mb(device) - before, "output_mb": output_mb}


def report(results: dict[str, Any]) -> str:
    """Return the machine and a table for each section."""
    machine = results["machine"]
    rates = ", ".join(f"{dtype} {rate:.3g} TFLOP/s" for dtype, rate in machine["tflops"].items())
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}"
    parts = [f"{machine['device']}; {versions}" + (f"; matrix products: {rates}.\n" if rates else ".\n")]
    if results["speed"]:
        parts.append(speed_table(results["speed"]))
    if results["memory"]:
        load = statistics.median(row["load_seconds"] for row in results["memory"])
        note = "weights are mapped, and read when they are first used"
        parts.append(f"Loading the model takes {load:.1f} s ({note}).\n")
        parts.append(memory_table(results["memory"]))
    if results["growth"]:
        parts.append(growth_table(results["growth"]))
    return "\n".join(parts)


def speed_table(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        limit = f"{row['limit']:.2f}" if "limit" in row else ""
        speeds = [f"{row['audio_seconds_per_second']:.2f}", f"{row['ratio_to_plain']:.2f}", limit]
        speeds.append(f"{row['share_of_matrix_rate']:.0%}")
        cells.append([f"{name(row)}, {row['dtype']}", f"{row['batch_size']}", *speeds])
    header = ["", "batch", "audio s per s", "time, plain = 1", "limit", "share of matrix rate"]
    return markdown_table(header, cells)


def memory_table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            f"{name(row)}, {row['dtype']}",
            f"{row['batch_size']}",
            f"{row.get('seconds', SECONDS):g} s",
            f"{row['peak_mb'] - row['output_mb']:.0f} MB",
        ]
        for row in rows
    ]
    return markdown_table(["", "batch", "audio", "peak memory beyond model, audio and result"], cells)


def growth_table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [name(row), f"{row['seconds']:g} s", f"{row['time']:.1f} s", f"{row['seconds'] / row['time']:.2f}"]
        for row in rows
    ]
    return markdown_table(["", "audio", "time", "audio s per s"], cells)


def name(row: dict[str, Any]) -> str:
    """Return the first column of a row."""
    kinds = {"plain": "plain", "ours": f"`layer={row['layer']}`", "embed": f"`embed`, `layer={row['layer']}`"}
    return kinds[row["way"]]


if __name__ == "__main__":
    main()
