"""Writers of exported models, one for each format."""

import io
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from ..inference.runtimes import MODEL_FILES, import_extra
from ..model.configuration_musicfm import MusicFMConfig
from .graph import trace

# Dtypes in which the formats are computed, or stored.
DTYPES = {
    "onnx": ("float32", "float16"),
    "openvino": ("float32", "float16"),
    "aoti": ("float32", "bfloat16", "float16"),
}
QUANTIZED = ("onnx", "openvino")  # formats with int8 weights

# Parts of a graph that int8 leaves in float32.
_KEEP_FLOAT = re.compile(r"\b(log_mel|heads)\b")


def check_format(kind: str, dtype: str, quantize: str | None, device: str) -> None:
    """
    Check that a model can be written with these settings on this machine.

    Raises:
        ValueError: if the settings do not go together, or AOTInductor has no compiler.
        ImportError: if a library is missing. The message contains the command that installs it.
    """
    if kind not in DTYPES:
        raise ValueError(f"The format must be one of {', '.join(DTYPES)}, got {kind!r}.")
    if dtype not in DTYPES[kind]:
        raise ValueError(f"The format {kind} supports {' and '.join(DTYPES[kind])}, not {dtype}.")
    if quantize not in (None, "int8"):
        raise ValueError(f"`quantize` must be 'int8' or None, got {quantize!r}.")
    if quantize is not None and (kind not in QUANTIZED or dtype != "float32"):
        raise ValueError(f"int8 needs the format {' or '.join(QUANTIZED)} and the dtype float32, got {kind}, {dtype}.")
    if kind != "aoti":
        if torch.device(device).type != "cpu":
            raise ValueError(f"`device` is only for the format aoti; {kind} chooses the device when it is loaded.")
        for module in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ("onnx", "onnxscript", "openvino"):
            import_extra(module, kind)
        if kind == "openvino" and quantize is not None:
            import_extra("nncf", kind)
    elif torch.device(device).type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise ValueError(
            "AOTInductor needs a C++ compiler, and there is none: install one (`apt install g++`), or choose the "
            "format onnx or openvino."
        )


def write_model(
    graph: Any,
    config: MusicFMConfig,
    frames: int,
    folder: Path,
    kind: str,
    dtype: str = "float32",
    quantize: str | None = None,
    device: str = "cpu",
) -> None:
    """
    Trace a graph, and write it to a folder in a format; the settings are those of [`export_model`].

    Args:
        graph: Module with `input_values`, `attention_mask` and the attribute `outputs`. Cast to `dtype` in place.
        config ([`MusicFMConfig`]): Configuration of its encoder.
        frames (`int`): Number of frames to trace; see [`trace`].
    """
    path = folder / MODEL_FILES[kind]
    if kind == "aoti":
        program = trace(graph.to(device, getattr(torch, dtype)), config, frames, device)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        return
    if kind == "onnx" and dtype == "float16":
        graph.half()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        plain = Path(temporary) / MODEL_FILES["onnx"]
        _write_onnx(graph, config, frames, path if kind == "onnx" and quantize is None else plain)
        if kind == "openvino":
            _write_openvino(plain, path, dtype == "float16", quantize is not None)
        elif quantize is not None:
            _quantize_onnx(plain, path)


def _write_onnx(graph: Any, config: MusicFMConfig, frames: int, path: Path) -> None:
    """Write an ONNX file, and beside it `model.onnx.data` with the weights of a large model."""
    program = trace(graph, config, frames)
    onnx_program: Any = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["input_values", "attention_mask"],
        output_names=list(graph.outputs),
    )
    _name_axes(onnx_program.model, graph.outputs)
    onnx_program.save(path)


def _name_axes(model: Any, outputs: Mapping[str, tuple[str | int, ...]]) -> None:
    """Name the dynamic axes of the inputs and outputs, in place of symbols."""
    import onnx_ir

    shapes = [("batch", "samples")] * len(model.graph.inputs) + list(outputs.values())
    for value, axes in zip((*model.graph.inputs, *model.graph.outputs), shapes, strict=True):
        value.shape = onnx_ir.Shape(axes)


def _quantize_onnx(plain: Path, path: Path) -> None:
    """Write an ONNX file with the weights of linear layers in int8. Their inputs are quantized when the model runs."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    excluded = _float_nodes(onnx.load(plain, load_external_data=False))
    quantize_dynamic(plain, path, ["MatMul"], True, weight_type=QuantType.QInt8, nodes_to_exclude=excluded)


def _float_nodes(model: Any) -> list[str]:
    """Return the names of the matrix products that int8 must not change: the mel spectrogram and the heads."""
    nodes = []
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "namespace"), "")
        if node.op_type in ("MatMul", "Gemm") and _KEEP_FLOAT.search(scopes):
            nodes.append(node.name)
    return nodes


def _write_openvino(onnx_path: Path, path: Path, half_weights: bool, int8_weights: bool) -> None:
    """Convert an ONNX file to OpenVINO's format, with weights in float32, float16 or int8."""
    import openvino

    model = openvino.convert_model(onnx_path)
    if int8_weights:
        import nncf
        import onnx

        excluded = _float_nodes(onnx.load(onnx_path, load_external_data=False))
        convolutions = ["Convolution", "GroupConvolution"]
        scope = nncf.IgnoredScope(names=excluded, types=convolutions, validate=False)
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)
    openvino.save_model(model, path, compress_to_fp16=half_weights)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the notes of the libraries, which are about what a model does not use."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
