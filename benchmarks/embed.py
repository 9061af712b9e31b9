"""
Speed and memory of embedding, side by side with the plain way, at full size with random weights.

    python benchmarks/embed.py --output benchmarks/results/embed_cpu.json

The plain way is what one writes first: every layer, all hidden states kept, logits for all frames, channels-first
convolutions, batch norm on its own. Both ways are timed in turn in one process; medians are reported. Memory and
growth are measured in processes of their own. The share of the matrix-product rate counts the multiplications of the
direct convolutions; an algorithm with fewer of them may pass 100 %.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

import musicfm_hf

SECONDS = 30
LAYERS = (3, 7, 12)
CODES = 4096  # of the published checkpoints


def plain(model: musicfm_hf.MusicFMModel, head: nn.Linear, input_values: torch.Tensor) -> torch.Tensor:
    """The forward pass without any of this package's care for speed."""
    hidden = model.log_mel(input_values, None)[:, None].to(model.dtype)
    for block in model.subsampling.blocks:
        residual = block.shortcut_norm(block.shortcut_conv(hidden))
        hidden = torch.relu(block.norm1(block.conv1(hidden)))
        hidden = torch.relu(block.norm2(block.conv2(hidden)) + residual)
    hidden = model.subsampling.projection(hidden.transpose(1, 2).flatten(2))
    positions = model._rotary_embedding(hidden)
    kept = [hidden]
    for layer in model.layers:
        hidden = hidden + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden))
        hidden = hidden + layer.self_attn(layer.self_attn_layer_norm(hidden), positions)[0]
        conv = layer.conv_module
        gated = nn.functional.glu(conv.pointwise_conv1(conv.layer_norm(hidden)), dim=-1)
        filtered = conv.activation(conv.batch_norm(conv.depthwise_conv(gated.transpose(1, 2))))
        hidden = hidden + conv.pointwise_conv2(filtered.transpose(1, 2))
        hidden = layer.final_layer_norm(hidden + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden)))
        kept.append(hidden)
    return head(model.layer_norm(hidden))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON; a Markdown table is written beside it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4])
    parser.add_argument(
        "--repeats", type=int, default=3, help="for float32; half precision is timed once on a processor"
    )
    parser.add_argument("--plain-half-seconds", type=float, help="clip for the plain way in half precision")
    parser.add_argument("--growth-seconds", nargs="*", type=float, default=[30.0, 300.0, 3600.0])
    parser.add_argument("--sections", nargs="+", default=["speed", "memory", "growth"])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(**json.loads(arguments.measure))))
        return
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        musicfm_hf.MusicFMModel(musicfm_hf.MusicFMConfig()).save_pretrained(folder)
        results = {"machine": machine(arguments.device), "speed": [], "memory": [], "growth": []}
        common = {"folder": folder, "device": arguments.device}
        for dtype in arguments.dtypes:
            for batch_size in arguments.batch_sizes:
                if "speed" in arguments.sections:
                    results["speed"] += speed(folder, dtype, batch_size, results["machine"]["tflops"], arguments)
                if "memory" in arguments.sections and (dtype == "float32" or arguments.device != "cpu"):
                    for way, layer in [("plain", None), *(("ours", layer) for layer in LAYERS)]:
                        case = {"way": way, "layer": layer, "dtype": dtype, "batch_size": batch_size}
                        results["memory"].append(separately(**common, **case))
        long = {"way": "embed", "dtype": "float32", "batch_size": 1}
        if "memory" in arguments.sections:
            results["memory"].append(separately(**common, **long, layer=1, seconds=max(arguments.growth_seconds)))
        if "growth" in arguments.sections:
            for seconds in arguments.growth_seconds:
                results["growth"].append(separately(**common, **long, layer=3, seconds=seconds))
    table = to_table(results)
    print(table)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
        arguments.output.with_suffix(".md").write_text(table)


def machine(device: str) -> dict:
    if device == "cpu":
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
        name = f"{torch.get_num_threads()} cores of {names[0] if names else platform.processor()}"
        name += f", {torch.backends.cpu.get_cpu_capability()}"
    else:
        name = torch.cuda.get_device_name(device)
    return {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tflops": {dtype: matrix_rate(device, getattr(torch, dtype)) for dtype in ("float32", "bfloat16")},
    }


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Best of twenty products of square matrices, as linear layers make them, in 10¹² operations a second."""
    size = (2048 if dtype == torch.float32 else 512) if device == "cpu" else 8192
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = [timed(lambda: nn.functional.linear(one, other), device) for _ in range(21)][1:]
    return 2 * size**3 / min(times) / 1e12


def timed(function, device: str) -> float:
    began = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def speed(
    folder: str, dtype: str, batch_size: int, tflops: dict[str, float], arguments: argparse.Namespace
) -> list[dict]:
    device = arguments.device
    model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)
    head = nn.Linear(model.config.hidden_size, CODES).to(device, model.dtype)
    audio = 0.1 * torch.randn(batch_size, SECONDS * model.config.sampling_rate, device=device)
    slow = device == "cpu" and dtype != "float32"
    plain_seconds = (arguments.plain_half_seconds if slow else None) or SECONDS
    clip = audio[:, : round(plain_seconds * model.config.sampling_rate)]
    ways = {("plain", None): (lambda: plain(model, head, clip), plain_seconds)}
    for layer in LAYERS:
        ways["ours", layer] = ((lambda layer=layer: model(audio, layer=layer)), SECONDS)
    times = {way: [] for way in ways}
    with torch.inference_mode():
        for repeat in range(1 if slow else arguments.repeats + 1):  # the first one warms up
            for way, (function, _) in ways.items():
                elapsed = timed(function, device)
                if slow or repeat > 0:
                    times[way].append(elapsed)
    with FlopCounterMode(display=False) as counter:  # counted without computing
        plain(model.to("meta"), head.to("meta"), audio[:1].to("meta"))
    operations = counter.get_total_flops()
    rows = []
    for (way, layer), elapsed in times.items():
        median, seconds = statistics.median(elapsed), ways[way, layer][1]
        row = {"way": way, "layer": layer, "dtype": dtype, "batch_size": batch_size, "seconds": seconds}
        rows.append(row | {"time": median, "audio_seconds_per_second": batch_size * seconds / median})
    for row in rows:
        row["ratio_to_plain"] = rows[0]["audio_seconds_per_second"] / row["audio_seconds_per_second"]
        if row["layer"] in (None, LAYERS[-1]):  # the arithmetic of a whole forward pass
            rate = operations / SECONDS * row["audio_seconds_per_second"] / 1e12
            row["share_of_matrix_rate"] = rate / tflops[dtype]
    return rows


def separately(**case) -> dict:
    command = [sys.executable, __file__, "--measure", json.dumps(case)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return {key: value for key, value in case.items() if key != "folder"} | result


def measure(
    folder: str, device: str, dtype: str, batch_size: int, way: str, layer: int | None, seconds: float = SECONDS
) -> dict:
    """Load time of the model, then time and memory of one way, beyond model and audio, in MB."""
    began = time.perf_counter()
    model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)
    load = time.perf_counter() - began
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
    return {"load_seconds": load, "time": elapsed, "peak_mb": peak(device) - before, "output_mb": output_mb}


def start_peak(device: str) -> float:
    """Forget earlier peaks; what is in use now, in MB."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again from here
        return resident("VmRSS")
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device) / 1e6


def peak(device: str) -> float:
    return resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated(device) / 1e6


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


def to_table(results: dict) -> str:
    spec = results["machine"]
    rates = ", ".join(f"{dtype} {rate:.3g} TFLOP/s" for dtype, rate in spec["tflops"].items())
    lines = [
        f"{spec['device']}; torch {spec['torch']}, transformers {spec['transformers']}; matrix products: {rates}."
    ]
    if results["speed"]:
        lines += [
            "",
            "| | batch | audio s per s | time per audio second, plain = 1 | share of matrix rate |",
            "| --- | --- | --- | --- | --- |",
        ]
    for row in results["speed"]:
        clip = "" if row["seconds"] == SECONDS else f", {row['seconds']:g} s clip"
        share = f"{row['share_of_matrix_rate']:.0%}" if "share_of_matrix_rate" in row else ""
        lines.append(
            f"| {name(row)}, {row['dtype']}{clip} | {row['batch_size']} | {row['audio_seconds_per_second']:.2f} "
            f"| {row['ratio_to_plain']:.2f} | {share} |"
        )
    if results["memory"]:
        load = statistics.median(row["load_seconds"] for row in results["memory"])
        lines += [
            "",
            f"Loading the model takes {load:.1f} s (weights are mapped, and read when they are first used).",
            "",
            "| | batch | audio | peak memory beyond model, audio and result |",
            "| --- | --- | --- | --- |",
        ]
    for row in results["memory"]:
        seconds = row.get("seconds", SECONDS)
        lines.append(
            f"| {name(row)}, {row['dtype']} | {row['batch_size']} | {seconds:g} s "
            f"| {row['peak_mb'] - row['output_mb']:.0f} MB |"
        )
    if results["growth"]:
        lines += ["", "| | audio | time | audio s per s |", "| --- | --- | --- | --- |"]
    for row in results["growth"]:
        rate = row["seconds"] / row["time"]
        lines.append(f"| {name(row)} | {row['seconds']:g} s | {row['time']:.1f} s | {rate:.2f} |")
    return "\n".join(lines) + "\n"


def name(row: dict) -> str:
    kinds = {"plain": "plain", "ours": f"`layer={row['layer']}`", "embed": f"`embed`, `layer={row['layer']}`"}
    return kinds[row["way"]]


if __name__ == "__main__":
    main()
