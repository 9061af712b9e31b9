"""
Measure a step of masked pretraining, side by side with a plain implementation, at full size with random weights.

    python benchmarks/train_step.py --batch_sizes 1 2

The plain implementation is straightforward: attention that keeps its scores, logits of all frames, and a softmax over
all frames, from which the loss selects the masked ones. All variants are timed in turn, in separate processes. The
peak memory excludes the model, its gradients and the optimizer. The share of the matrix-product rate of the machine
counts three times the multiplications of a forward pass: one for the forward and two for the backward pass.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from machine import describe, matrix_rate, peak_mb, seconds_of
from processes import measure_separately
from reporting import RESULTS, markdown_table, write_report
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining
from musicfm_hf.training.recipes import read_recipe
from musicfm_hf.training.trainer import selective_checkpointing

WAYS = ["plain", "ours", "ours, selective checkpointing", "ours, checkpointing"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fm7", help="name of a pretraining recipe, or path to its YAML")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=30.0, help="length of crops; a multiple of 0.4")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not timed")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--rounds", type=int, default=2, help="number of measurements of each variant")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="dtype of autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output_file", type=Path, help="benchmarks/results/train_step_DEVICE.json by default")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]), arguments)))
        return
    machine = describe(arguments.device)
    machine["tflops"] = matrix_rate(arguments.device, getattr(torch, arguments.dtype))
    steps = [row for batch_size in arguments.batch_sizes for row in take_turns(batch_size, arguments)]
    results = {"machine": machine, "settings": settings(arguments), "steps": steps}
    path = arguments.output_file or RESULTS / f"train_step_{arguments.device.split(':')[0]}.json"
    write_report(path, results, report(results))


def settings(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the flags that a measurement depends on."""
    places = ("one", "output_file", "recipe")
    return {name: str(value) for name, value in vars(arguments).items() if name not in places}


def take_turns(batch_size: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all variants in turn, and return the medians of each."""
    runs: dict[str, list[dict]] = {way: [] for way in arguments.ways}
    for _ in range(arguments.rounds):
        for way in arguments.ways:
            runs[way].append(measure_separately(__file__, [*sys.argv[1:], "--one", way, str(batch_size)]))
    return [
        {"way": way, "batch_size": batch_size}
        | {key: statistics.median(run[key] for run in of_way) for key in of_way[0]}
        for way, of_way in runs.items()
    ]


def measure(way: str, batch_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the median time of a step in seconds, and its peak memory in bytes beyond the weights and optimizer."""
    device = torch.device(arguments.device)
    values = read_recipe(arguments.recipe, kind="pretrain")["config"]
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
    optimizer.step()  # creates its state
    base = peak_mb(arguments.device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            loss = plain_loss(model, waveform) if way == "plain" else model(waveform).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    times = [seconds_of(step, arguments.device) for _ in range(arguments.steps + 1)]
    result = {"seconds": statistics.median(times[1:]), "memory": round((peak_mb(arguments.device) - base) * 1e6)}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.musicfm(waveform[:1])  # in training mode: direct convolutions
    return result | {"flops": 3 * batch_size * counter.get_total_flops()}


def plain_loss(model: MusicFMForPreTraining, waveform: torch.Tensor) -> torch.Tensor:
    """Compute the loss from predictions for every frame, keeping all of their probabilities."""
    mask = torch.rand(waveform.shape[0], waveform.shape[1] // 9600, device=waveform.device) < 0.6
    tokens = model.quantizer(waveform)[..., 0]
    noisy = torch.where(mask.repeat_interleave(9600, 1), 0.1 * torch.randn_like(waveform), waveform)
    logits = model.head(model.musicfm(noisy, output_hidden_states=True).last_hidden_state).float()
    losses = -nn.functional.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]
    frames = mask.repeat_interleave(model.config.mask_frames, 1)
    return (losses * frames).sum() / frames.sum()


def report(results: dict[str, Any]) -> str:
    """Return the machine and a table with a row for each variant and batch size."""
    machine, settings = results["machine"], results["settings"]
    plain = {step["batch_size"]: step for step in results["steps"] if step["way"] == "plain"}
    rows = []
    for step in results["steps"]:
        base = plain[step["batch_size"]]
        share = step["flops"] / step["seconds"] / 1e12 / machine["tflops"]
        time = [f"{step['seconds']:.2f} s", f"{step['seconds'] / base['seconds']:.2f}"]
        memory = [f"{step['memory'] / 1e9:.2f} GB", f"{step['memory'] / base['memory']:.2f}"]
        rows.append([step["way"], str(step["batch_size"]), *time, *memory, f"{share:.0%}"])
    header = ["", "batch", "time of a step", "plain = 1", "memory of a step", "plain = 1", "share of matrix rate"]
    return (
        f"{machine['device']}; torch {machine['torch']}, transformers {machine['transformers']}; matrix products: "
        f"{settings['dtype']} {machine['tflops']:.3g} TFLOP/s; crops of {float(settings['seconds']):g} s.\n\n"
        + markdown_table(header, rows)
    )


if __name__ == "__main__":
    main()
