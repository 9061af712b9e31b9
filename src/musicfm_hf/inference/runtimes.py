"""Runtimes that execute exported models: ONNX Runtime, OpenVINO and AOTInductor."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..training.files import matching_files

# Name of the format → the file of the model; the names of files beside it begin with `model.` too.
MODEL_FILES = {"onnx": "model.onnx", "openvino": "model.xml", "aoti": "model.pt2"}

# (input_values, attention_mask, names of outputs) → the outputs in that order.
Run = Callable[[torch.Tensor, torch.Tensor, Sequence[str]], list[torch.Tensor]]


def open_runtime(folder: str | Path, kind: str, outputs: Sequence[str], device: str = "cpu") -> Run:
    """
    Open an exported model.

    Args:
        folder: Folder of the model.
        kind (`str`): Format of the model, a key of [`MODEL_FILES`].
        outputs: Names of all outputs of the model in order.
        device (`str`): As for [`load_exported`].

    Returns:
        A function of `input_values` `(batch, samples)`, float32, `attention_mask` of the same shape, bool, and names
        of outputs, which returns these outputs on the CPU. It uses `torch.get_num_threads()` threads.

    Raises:
        ImportError: if the runtime is not installed.
        ValueError: if the runtime does not support the device.
    """
    openers: dict[str, Callable[[Path, Sequence[str], str], Run]] = {
        "onnx": _open_onnx,
        "openvino": _open_openvino,
        "aoti": _open_aoti,
    }
    return openers[kind](Path(folder) / MODEL_FILES[kind], outputs, device)


def model_files(folder: str | Path) -> list[Path]:
    """List the files of an exported model that hold its graph and its weights, sorted."""
    return matching_files(folder, "model.*")


def import_extra(module: str, extra: str) -> ModuleType:
    """
    Import a module of an optional library.

    Raises:
        ImportError: if it is not installed. The message contains the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.split('.')[0]} is not installed: pip install 'musicfm_hf[{extra}]'. ({error})"
        ) from error


def _open_onnx(path: Path, outputs: Sequence[str], device: str) -> Run:
    """Open a model with ONNX Runtime."""
    runtime = import_extra("onnxruntime", "onnx")
    kind = torch.device(device).type
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(kind)
    if provider not in runtime.get_available_providers():
        raise ValueError(
            f"ONNX Runtime cannot use the device {device}, only {', '.join(runtime.get_available_providers())}. For "
            "CUDA, install onnxruntime-gpu instead of onnxruntime."
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(path, options, providers=[provider])

    def run(input_values: torch.Tensor, attention_mask: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        inputs = {"input_values": input_values.cpu().numpy(), "attention_mask": attention_mask.cpu().numpy()}
        return [torch.from_numpy(output) for output in session.run(list(names), inputs)]

    return run


def _open_openvino(path: Path, outputs: Sequence[str], device: str) -> Run:
    """Open a model with OpenVINO."""
    openvino = import_extra("openvino", "openvino")
    core = openvino.Core()
    name = device.upper()
    if name.partition(".")[0] not in core.available_devices:
        raise ValueError(f"OpenVINO cannot use the device {device}, only {', '.join(core.available_devices).lower()}.")
    # In bfloat16, which OpenVINO would choose on many processors, the mel spectrogram would be wrong.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if name == "CPU":
        settings["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    model = core.compile_model(path, name, settings)

    def run(input_values: torch.Tensor, attention_mask: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        results: Any = model([input_values.cpu().numpy(), attention_mask.cpu().numpy()])
        return [torch.from_numpy(results[output].copy()) for output in names]

    return run


def _open_aoti(path: Path, outputs: Sequence[str], device: str) -> Run:
    """Open a package of AOTInductor, which runs on the device that it was compiled for."""
    from torch._inductor import aoti_load_package

    model = aoti_load_package(str(path))

    def run(input_values: torch.Tensor, attention_mask: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        with torch.no_grad():
            results = dict(zip(outputs, model(input_values.to(device), attention_mask.to(device)), strict=True))
        return [results[output].cpu() for output in names]

    return run
