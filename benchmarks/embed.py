"""
Measure speed and memory of embedding, side by side with a plain implementation, at full size with random weights.

    python benchmarks/embed.py --sections speed growth --plain_half_seconds 0.5
    python benchmarks/embed.py --sections memory --dtypes float32

The plain implementation is straightforward: it computes every layer, keeps all hidden states, predicts logits for all
frames, uses channels-first convolutions, and applies batch norm separately. Both are timed in turn in one process, and
medians are reported. Int8, of linear layers on a CPU, takes turns with float32. Memory and growth are measured in
separate processes. The share of the rate of matrix products counts the multiplications of direct convolutions; an
algorithm with fewer multiplications can exceed 100 %.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe, matrix_rate, peak_mb, seconds_of, start_peak
from processes import measure_separately
from reporting import RESULTS, markdown_table, write_report
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

import musicfm_hf

SECONDS = 30
LAYERS = (3, 7, 12)
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "subsampling_conv_channels": 8}
CODES = 4096  # of the published checkpoints


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
    parser.add_argument("--dtypes", nargs="+", default=["float32", "int8", "bfloat16"], help="int8 needs float32")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3, help="for float32; half precision is timed once on a CPU")
    parser.add_argument("--plain_half_seconds", type=float, help="clip for the plain way in half precision")
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
    if arguments.device != "cpu":
        arguments.dtypes = [dtype for dtype in arguments.dtypes if dtype != "int8"]
    if arguments.measure:
        print(json.dumps(measure(**json.loads(arguments.measure))))
        return
    torch.manual_seed(0)
    rates = {dtype: matrix_rate(arguments.device, getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}
    machine = describe(arguments.device) | {"tflops": rates}
    with tempfile.TemporaryDirectory() as folder:
        config = musicfm_hf.MusicFMConfig(**SMALL if arguments.small else {})
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
    for dtype in arguments.dtypes:
        for batch_size in arguments.batch_sizes:
            if "speed" in arguments.sections and dtype != "int8":
                results["speed"] += speed(folder, dtype, batch_size, tflops, arguments)
            if "memory" in arguments.sections and (dtype != "bfloat16" or arguments.device != "cpu"):
                plain_ways = [] if dtype == "int8" else [("plain", None)]
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


def speed(
    folder: str, dtype: str, batch_size: int, tflops: dict[str, float], arguments: argparse.Namespace
) -> list[dict]:
    """Time a batch in both ways, with the ratio of their speeds; float32 also in int8."""
    device = arguments.device
    model = load(folder, dtype, device)
    head = nn.Linear(model.config.hidden_size, CODES).to(device, model.dtype)
    audio = 0.1 * torch.randn(batch_size, SECONDS * model.config.sampling_rate, device=device)
    slow = device == "cpu" and dtype != "float32"
    plain_seconds = (arguments.plain_half_seconds if slow else None) or SECONDS
    clip = audio[:, : round(plain_seconds * model.config.sampling_rate)]
    ways: dict[tuple[str, str, int | None], tuple[Callable, float]] = {
        ("plain", dtype, None): (lambda: plain(model, head, clip), plain_seconds)
    }
    models = {dtype: model}
    if dtype == "float32" and "int8" in arguments.dtypes:
        models["int8"] = load(folder, "int8", device)
    for name, ours in models.items():
        for layer in LAYERS:
            ways["ours", name, layer] = ((lambda ours=ours, layer=layer: ours(audio, layer=layer)), SECONDS)
    times = {way: [] for way in ways}
    with torch.inference_mode():
        for repeat in range(1 if slow else arguments.repeats + 1):  # the first one is a warm-up
            for way, (function, _) in ways.items():
                elapsed = seconds_of(function, device)
                if slow or repeat > 0:
                    times[way].append(elapsed)
    with FlopCounterMode(display=False) as counter:  # counted without computing
        plain(model.to("meta"), head.to("meta"), audio[:1].to("meta"))
    rate_of_plain = None
    rows = []
    for (way, name, layer), elapsed in times.items():
        median, seconds = statistics.median(elapsed), ways[way, name, layer][1]
        rate = batch_size * seconds / median
        rate_of_plain = rate_of_plain or rate
        row = {"way": way, "layer": layer, "dtype": name, "batch_size": batch_size, "seconds": seconds}
        row |= {"time": median, "audio_seconds_per_second": rate, "ratio_to_plain": rate_of_plain / rate}
        if layer in (None, LAYERS[-1]) and name == dtype:  # the arithmetic of a whole forward pass
            row["share_of_matrix_rate"] = counter.get_total_flops() / SECONDS * rate / 1e12 / tflops[dtype]
        rows.append(row)
    return rows


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
    parts = [f"{machine['device']}; {versions}; matrix products: {rates}.\n"]
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
        clip = "" if row["seconds"] == SECONDS else f", {row['seconds']:g} s clip"
        share = f"{row['share_of_matrix_rate']:.0%}" if "share_of_matrix_rate" in row else ""
        speeds = [f"{row['audio_seconds_per_second']:.2f}", f"{row['ratio_to_plain']:.2f}", share]
        cells.append([f"{name(row)}, {row['dtype']}{clip}", f"{row['batch_size']}", *speeds])
    header = ["", "batch", "audio s per s", "time per audio second, plain = 1", "share of matrix rate"]
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
