"""
A step of masked pretraining, side by side with the plain way, at full size with random weights.

    python benchmarks/train_step.py --output benchmarks/results/train_step_cpu.json

The plain way is what one writes first: attention that keeps its scores, logits of all frames, and a softmax over all
of them of which the masked ones count. All are timed in turn, in processes of their own; the peak memory of each is
what it adds to the model, its gradients and the optimizer. The share of the machine's rate counts the multiplications
of the model, forward and backward (three times the forward pass), once.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining
from musicfm_hf.training.trainer import selective_checkpointing

WAYS = ["plain", "ours", "ours, selective checkpointing", "ours, checkpointing"]
RECIPE = Path(__file__).parents[1] / "recipes/pretrain/fm7.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=3, help="timed ones, after one that is not")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--rounds", type=int, default=2, help="how often the ways take turns")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON; a Markdown table is written beside it")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]), arguments)))
        return
    ways = arguments.ways
    results = {"machine": machine(arguments), "settings": settings(arguments), "steps": []}
    for batch_size in arguments.batch_sizes:
        runs: dict[str, list[dict]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way in ways:
                runs[way].append(separately(way, batch_size))
        for way in ways:
            best = {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]}
            results["steps"].append({"way": way, "batch_size": batch_size, **best})
    table = to_table(results, arguments.seconds)
    print(table)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
        arguments.output.with_suffix(".md").write_text(table + "\n")


def settings(arguments) -> dict:
    return {name: str(value) for name, value in vars(arguments).items() if name not in ("one", "output", "recipe")}


def separately(way: str, batch_size: int) -> dict:
    command = [sys.executable, __file__, *sys.argv[1:], "--one", way, str(batch_size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, batch_size: int, arguments) -> dict:
    """Median seconds of a step, and the peak memory in bytes that it needs besides weights and optimizer."""
    device = torch.device(arguments.device)
    values = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8"))["config"]
    torch.manual_seed(0)
    attention = "eager" if way == "plain" else "sdpa"
    model = MusicFMForPreTraining(MusicFMConfig(**values, attn_implementation=attention)).to(device).train()
    if way == "ours, checkpointing":
        model.gradient_checkpointing_enable()
    elif way == "ours, selective checkpointing":
        model.gradient_checkpointing_enable(selective_checkpointing())
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    waveform = 0.1 * torch.randn(batch_size, round(arguments.seconds * model.config.sampling_rate), device=device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its state
    base = memory(device)
    times = []
    for _ in range(arguments.steps + 1):
        synchronize(device)
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            loss = plain_loss(model, waveform) if way == "plain" else model(waveform).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        synchronize(device)
        times.append(time.perf_counter() - began)
    result = {"seconds": statistics.median(times[1:]), "memory": memory(device) - base}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.musicfm(waveform[:1])  # in training mode: direct convolutions
    return result | {"flops": 3 * batch_size * counter.get_total_flops()}


def plain_loss(model: MusicFMForPreTraining, waveform: torch.Tensor) -> torch.Tensor:
    """Every frame predicted, every probability kept."""
    mask = torch.rand(waveform.shape[0], waveform.shape[1] // 9600, device=waveform.device) < 0.6
    tokens = model.quantizer(waveform)[..., 0]
    noisy = torch.where(mask.repeat_interleave(9600, 1), 0.1 * torch.randn_like(waveform), waveform)
    logits = model.head(model.musicfm(noisy, output_hidden_states=True).last_hidden_state).float()
    losses = -nn.functional.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]
    frames = mask.repeat_interleave(model.config.mask_frames, 1)
    return (losses * frames).sum() / frames.sum()


def memory(device: torch.device) -> int:
    """Peak bytes so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(arguments) -> dict:
    """What it runs on, and how fast that multiplies matrices."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    left, right = (torch.randn(4096, 4096, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(5):
        synchronize(device)
        began = time.perf_counter()
        left @ right
        synchronize(device)
        times.append(time.perf_counter() - began)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = f"{torch.get_num_threads()} cores of {models[0] if models else platform.processor()}"
    return {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tflops": 2 * 4096**3 / min(times) / 1e12,
    }


def to_table(results: dict, seconds: float) -> str:
    info = results["machine"]
    lines = [
        f"{info['device']}; torch {info['torch']}, transformers {info['transformers']}; matrix products: "
        f"{results['settings']['dtype']} {info['tflops']:.3g} TFLOP/s; crops of {seconds:g} s.",
        "",
        "| | batch | time of a step | plain = 1 | memory of a step | plain = 1 | share of matrix rate |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    plain = {step["batch_size"]: step for step in results["steps"] if step["way"] == "plain"}
    for step in results["steps"]:
        base = plain[step["batch_size"]]
        share = step["flops"] / step["seconds"] / 1e12 / info["tflops"]
        cells = [
            step["way"],
            str(step["batch_size"]),
            f"{step['seconds']:.2f} s",
            f"{step['seconds'] / base['seconds']:.2f}",
            f"{step['memory'] / 1e9:.2f} GB",
            f"{step['memory'] / base['memory']:.2f}",
            f"{share:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
