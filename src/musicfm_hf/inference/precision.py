"""Precision of a model: dtypes and int8, and which of them is fastest on a device."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from torch import nn

from ..model.int8_musicfm import MusicFMInt8Config, MusicFMInt8Linear, has_fast_int8, is_int8
from ..training.files import write_json
from ..training.records import cpu_flags, processor_name

LEAST_GAIN = 1.3  # of a precision that rounds more than the one chosen so far
ROWS = 256  # frames
ROUNDS = 20

# Names of instructions that multiply bfloat16, in `torch.cpu.get_capabilities` and in /proc/cpuinfo.
_BFLOAT16_INSTRUCTIONS = frozenset(["amx_bf16", "avx512_bf16", "bf16", "sve_bf16", "svebf16"])


def fastest_precision(config: Any, device: str | torch.device | None = None) -> dict[str, Any]:
    """
    Choose the precision in which the encoder of a model is fastest on a device, as arguments for `from_pretrained`.

    - On a GPU with CUDA: bfloat16 from compute capability 8 on (Ampere), float16 for 7 (Volta, Turing), or float32.
    - On a processor: bfloat16 if it has instructions for it (AMX, AVX512-BF16, or those of ARM), or int8 if it has
      those (VNNI, AMX), but only where products of matrices as in the feed-forward layers of the model are faster by
      a factor of 1.3: bfloat16 than float32, and int8 than whichever of these was chosen. They are measured once,
      which takes about a second. The result is kept in `musicfm_hf/precision.json` in the cache folder of Hugging
      Face (`HF_HOME`), by processor, version of PyTorch, number of threads and size of the layers. Never float16,
      which is slow on processors.
    - On other devices: float32.

    Args:
        config ([`MusicFMConfig`] or [`MusicFMTextAudioConfig`]): Configuration of the model.
        device (*optional*): Device of the model; by default the GPU if CUDA is available, or the processor.

    Returns:
        `{"dtype": …}`, and `"quantization_config"` for int8, in which other parts of the model are in float32.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return {"dtype": torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else torch.float32}
    names = ["float32"]
    if device.type == "cpu" and not is_int8(config):
        names += ["bfloat16"] * has_bfloat16() + ["int8"] * has_fast_int8()
    if len(names) == 1:
        return {"dtype": torch.float32}
    encoder = getattr(config, "audio_config", config)
    seconds = _recorded_seconds(names, encoder.hidden_size, encoder.intermediate_size)
    chosen = names[0]
    for name in names[1:]:
        if seconds[chosen] >= LEAST_GAIN * seconds[name]:
            chosen = name
    if chosen == "int8":
        return {"dtype": torch.float32, "quantization_config": MusicFMInt8Config()}
    return {"dtype": getattr(torch, chosen)}


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


def measure_products(names: Iterable[str], width: int, inner_width: int) -> dict[str, float]:
    """
    Measure the two products of a feed-forward layer on the CPU, with the present number of threads.

    Args:
        names: `"int8"`, and names of dtypes.
        width (`int`): Size of a frame.
        inner_width (`int`): Size between the two products.

    Returns:
        Seconds by name, the best of several rounds in which the precisions take turns.
    """
    generator = torch.Generator().manual_seed(0)
    frames, into, out = (
        torch.rand(shape, generator=generator) for shape in ((ROWS, width), (inner_width, width), (width, inner_width))
    )
    best: dict[str, float] = {}
    with torch.inference_mode():
        ways = {name: (frames.to(_dtype(name)), [_layer(name, weight) for weight in (into, out)]) for name in names}
        for _ in range(ROUNDS + 1):  # the first round also prepares the kernels, and is not the best one
            for name, (values, layers) in ways.items():
                began = time.perf_counter()
                for layer in layers:
                    values = layer(values)
                best[name] = min(best.get(name, float("inf")), time.perf_counter() - began)
    return best


def _dtype(name: str) -> torch.dtype:
    """Return the dtype of the frames for a precision."""
    return torch.float32 if name == "int8" else getattr(torch, name)


def _layer(name: str, weight: torch.Tensor) -> nn.Module:
    """Return a linear layer in a precision."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.to(_dtype(name)), requires_grad=False)
    return MusicFMInt8Linear.from_linear(layer) if name == "int8" else layer


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16; true if that is unknown, so that it is measured."""
    if hasattr(torch.cpu, "get_capabilities"):  # in recent versions of PyTorch
        return any(torch.cpu.get_capabilities().get(name) for name in _BFLOAT16_INSTRUCTIONS)
    flags = cpu_flags()
    return not flags or not _BFLOAT16_INSTRUCTIONS.isdisjoint(flags)


def _recorded_seconds(names: list[str], width: int, inner_width: int) -> dict[str, float]:
    """Return the seconds of products on this machine, from the file if it has them."""
    threads = f"{torch.get_num_threads()} threads"
    key = f"{processor_name()}, torch {torch.__version__}, {threads}, {width} to {inner_width}"
    records = _read_records()
    seconds: dict[str, float] = records.get(key, {})
    if not _is_valid(seconds, names):
        seconds = measure_products(names, width, inner_width)
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


def _is_valid(seconds: Any, names: list[str]) -> bool:
    """Return whether a record has a duration for each precision."""
    return isinstance(seconds, dict) and all(
        isinstance(seconds.get(name), int | float) and seconds[name] > 0 for name in names
    )
