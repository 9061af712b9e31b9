"""Precision of a model: the dtype in which it runs fastest on a device, and int8."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from torch import nn

from ..model.int8_musicfm import MusicFMInt8Config, is_int8
from ..training.files import write_json
from ..training.records import cpu_flags, processor_name

LEAST_GAIN = 1.3  # below it, bfloat16 is not worth its rounding
WIDTH, INNER_WIDTH, ROWS = 1024, 4096, 256  # of the feed-forward layers of published models; frames
ROUNDS = 5

# Names of instructions that multiply bfloat16, in `torch.cpu.get_capabilities` and in /proc/cpuinfo.
_BFLOAT16_INSTRUCTIONS = frozenset(["amx_bf16", "avx512_bf16", "bf16", "sve_bf16", "svebf16"])


def fastest_dtype(device: str | torch.device | None = None) -> torch.dtype:
    """
    Choose the dtype in which the linear layers of a model are fastest, for `from_pretrained(…, dtype=…)`.

    - On a GPU with CUDA: bfloat16 from compute capability 8 on (Ampere), float16 for 7 (Volta, Turing), or float32.
    - On a processor: bfloat16 if it has instructions for it (AMX, AVX512-BF16, or those of ARM), and products of
      matrices are at least 1.3 times as fast as in float32. They are measured once, which takes a fraction of a
      second, and the result is kept in `musicfm_hf/precision.json` in the cache folder of Hugging Face (`HF_HOME`),
      by processor, version of PyTorch and number of threads. Never float16, which is slow on processors.
    - On other devices: float32.

    Args:
        device (*optional*): Device of the model; by default the GPU if CUDA is available, or the processor.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else torch.float32
    if device.type != "cpu" or not _has_bfloat16():
        return torch.float32
    seconds = _recorded_seconds()
    return torch.bfloat16 if seconds["float32"] >= LEAST_GAIN * seconds["bfloat16"] else torch.float32


def quantization_config(name: str | None, device: str | torch.device) -> MusicFMInt8Config | None:
    """
    Return the `quantization_config` for `from_pretrained` that `--quantize` names.

    Args:
        name (`str`, *optional*): `"int8"`, or `None` for no quantization.
        device: Device for the model.

    Raises:
        ValueError: if the device is not a processor.
    """
    if name is None:
        return None
    if name != "int8":
        raise ValueError(f"Models can be quantized to int8, not to {name!r}.")
    if torch.device(device).type != "cpu":
        raise ValueError(
            f"`--quantize int8` is for CPUs, not for {device}. Pass `--device cpu`, or leave out `--quantize` "
            "and pass `--dtype auto`."
        )
    return MusicFMInt8Config()


def quantization_of(model: Any) -> dict[str, str]:
    """Return `{"quantization": "int8"}` for an int8 model, for records of how outputs were made, or `{}`."""
    return {"quantization": "int8"} if is_int8(model.config) else {}


def record_path() -> Path:
    """Return the file with the measurements of this machine, and of others with the same cache folder."""
    return Path(constants.HF_HOME) / "musicfm_hf" / "precision.json"


def measure_products(dtypes: Iterable[torch.dtype]) -> dict[str, float]:
    """
    Measure the products of a feed-forward layer of the size of published models, on the CPU, with the present number
    of threads.

    Returns:
        Seconds by name of dtype, the best of several rounds in which the dtypes take turns.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = {"frames": (ROWS, WIDTH), "into": (INNER_WIDTH, WIDTH), "out": (WIDTH, INNER_WIDTH)}
    values = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    cast = {dtype: {name: value.to(dtype) for name, value in values.items()} for dtype in dtypes}
    best = {dtype: float("inf") for dtype in cast}
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):  # the first round also prepares the kernels, and is not the best one
            for dtype, tensors in cast.items():
                began = time.perf_counter()
                nn.functional.linear(nn.functional.linear(tensors["frames"], tensors["into"]), tensors["out"])
                best[dtype] = min(best[dtype], time.perf_counter() - began)
    return {str(dtype).removeprefix("torch."): seconds for dtype, seconds in best.items()}


def _has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16; true if that is unknown, so that it is measured."""
    if hasattr(torch.cpu, "get_capabilities"):  # in recent versions of PyTorch
        return any(torch.cpu.get_capabilities().get(name) for name in _BFLOAT16_INSTRUCTIONS)
    flags = cpu_flags()
    return not flags or not _BFLOAT16_INSTRUCTIONS.isdisjoint(flags)


def _recorded_seconds() -> dict[str, float]:
    """Return the seconds of products on this machine, from the file if it has them."""
    key = f"{processor_name()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    records = _read_records()
    seconds: dict[str, float] = records.get(key, {})
    if not _is_valid(seconds):
        seconds = measure_products([torch.float32, torch.bfloat16])
        with suppress(OSError):  # without a file, the next process measures again
            write_json(record_path(), records | {key: seconds})
    return seconds


def _read_records() -> dict[str, Any]:
    """Return the content of the file; empty if it does not exist or is damaged."""
    try:
        records = json.loads(record_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return records if isinstance(records, dict) else {}


def _is_valid(seconds: Any) -> bool:
    """Return whether a record has a duration for both dtypes."""
    names = ("float32", "bfloat16")
    return isinstance(seconds, dict) and all(
        isinstance(seconds.get(name), int | float) and seconds[name] > 0 for name in names
    )
