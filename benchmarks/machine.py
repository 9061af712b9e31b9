"""The machine of a benchmark, its clock and its memory."""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn


def describe(device: str) -> dict[str, Any]:
    """Return the name of the device, including the cores and instructions of a CPU, and the versions."""
    if device == "cpu":
        cpu_info = Path("/proc/cpuinfo")
        lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = f"{torch.get_num_threads()} cores of {names[0] if names else platform.processor()}"
        name += f", {torch.backends.cpu.get_cpu_capability()}"
    else:
        name = torch.cuda.get_device_name(device)
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """
    Return the best rate of twenty products of square matrices, as in linear layers, in 10¹² operations per second.
    """
    size = (2048 if dtype == torch.float32 else 1024) if device == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = [seconds_of(lambda: nn.functional.linear(left, right), device) for _ in range(21)][1:]
    return 2 * size**3 / min(times) / 1e12


def seconds_of(function: Callable[[], Any], device: str = "cpu") -> float:
    """Return the duration of a call in seconds, until the device has finished."""
    synchronize(device)
    began = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    """Wait for an accelerator."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def resident_mb(field: str) -> float:
    """Return the memory of this process in MB: `VmRSS` is the current value, `VmHWM` the peak so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


def start_peak(device: str) -> float:
    """Reset the peak of memory, and return the memory in use, in MB."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again from here
        return resident_mb("VmRSS")
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device) / 1e6


def peak_mb(device: str) -> float:
    """Return the peak memory since [`start_peak`], in MB."""
    return resident_mb("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated(device) / 1e6
