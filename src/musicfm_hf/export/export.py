"""Export of saved models."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from .. import __version__
from ..inference.exported import DESCRIPTION, HEADS, files_digest, is_exported
from ..inference.model_files import resolve_model
from ..inference.runtimes import open_runtime
from ..model.feature_extraction_musicfm import MusicFMFeatureExtractor
from ..training.files import put_in_place, temporary_path, write_json
from .check import check_batches, compare, judge
from .formats import check_format, quiet, write_model
from .graph import traced_frames
from .subjects import PARTS, Subject, load_subject


class Export(NamedTuple):
    """
    Result of [`export_model`].

    Attributes:
        output_dir (`Path`): Folder of the exported model.
        outputs (`dict[str, list[str | int]]`): Names and shapes of the outputs.
        check (`dict[str, Any]`): Outcome of the comparison with PyTorch; see [`musicfm_hf.export.check.judge`].
    """

    output_dir: Path
    outputs: dict[str, list[str | int]]
    check: dict[str, Any]


def export_model(
    models: str | os.PathLike | Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    format: str = "onnx",
    part: str = "model",
    layer: int | None = None,
    dtype: str = "float32",
    quantize: str | None = None,
    device: str = "cpu",
    revision: str | None = None,
    overwrite: bool = False,
) -> Export:
    """
    Export a saved model to a folder that [`musicfm_hf.load_exported`] and other programs load. The graph takes
    waveforms: the mel spectrogram is part of it, in float32. The batch size and the length are dynamic.

    The written model is compared with PyTorch: a padded batch with items of two lengths, an item of a third length
    alone, and one of the shortest length. None of these lengths was traced.

    Args:
        models: Folder or Hub repository of an encoder, a model with a head (or an adapter), a quantizer, or models
            that were trained jointly; or several models with a head, one for each task, with equal encoders, which
            then share one pass.
        output_dir: Folder to write. It appears only when it is complete and has passed the comparison.
        format (`str`): `"onnx"`, `"openvino"`, or `"aoti"`: a package of AOTInductor, compiled for this machine.
        part (`str`): `"model"`: all of it; of a model for masked pretraining, the encoder. `"encoder"`: the encoder
            alone. `"quantizer"`: the quantizer of a model for masked pretraining.
        layer (`int`, *optional*): For an encoder, the layer to stop after, from 1 to `config.num_hidden_layers` (the
            default). Later layers are not in the graph. Models that were trained jointly are exported as an encoder
            if it is given. With heads, the last layer that one of them reads is the last.
        dtype (`str`): `"float32"`; `"float16"`, for ONNX on GPUs, and to halve the weights of OpenVINO, which computes
            in float32; or for `"aoti"` also `"bfloat16"`.
        quantize (`str`, *optional*): `"int8"`: weights of the linear layers in int8, for ONNX and OpenVINO. ONNX
            Runtime also quantizes their inputs, when the model runs. The mel spectrogram, the convolutions, norms,
            attention and the heads remain float32.
        device (`str`): Device that `"aoti"` compiles for, such as `"cuda"`.
        revision (`str`, *optional*): Branch, tag or commit of a Hub repository.
        overwrite (`bool`): Replace `output_dir` if it holds an exported model.

    Returns:
        [`Export`].

    Raises:
        ValueError: if settings do not go together, the models do not share an encoder, or the exported model does not
            run or deviates from PyTorch by more than the limit; in this case, nothing is written.
        ImportError: if a library is missing. The message contains the command that installs it.
        FileExistsError: if `output_dir` is not empty, and `overwrite` is false or it does not hold an exported model.
        OSError: if a model does not exist.
    """
    output_dir = Path(output_dir).resolve()
    _check_output(output_dir, overwrite)
    check_format(format, dtype, quantize, device)
    if part not in PARTS:
        raise ValueError(f"`part` must be one of {', '.join(PARTS)}, got {part!r}.")
    names = [os.fspath(models)] if isinstance(models, str | os.PathLike) else [os.fspath(name) for name in models]
    if not names:
        raise ValueError("`models` is empty: pass a folder or a repository.")
    sources = [resolve_model(name, revision) for name in names]
    subject = load_subject([folder for folder, _ in sources], part, layer)
    if subject.part == "quantizer" and (dtype != "float32" or quantize is not None):
        raise ValueError("A quantizer is exported in float32 only: its tokens would change in a lower precision.")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_path(output_dir)
    partial.mkdir()
    try:
        settings = {"format": format, "dtype": dtype, "quantize": quantize, "device": device}
        description = settings | _write_and_check(subject, partial, settings)
        description |= {"models": names, "revisions": [found for _, found in sources]}
        description |= {"versions": {"musicfm_hf": __version__, "torch": torch.__version__}}
        write_json(partial / DESCRIPTION, description)
        put_in_place(partial, output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Export(output_dir, description["outputs"], description["check"])


def _check_output(output_dir: Path, overwrite: bool) -> None:
    """Check that the folder can be created, or holds an earlier export that can be replaced."""
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return
    if not (output_dir.is_dir() and is_exported(output_dir)):
        raise FileExistsError(f"{output_dir} exists, and is not an exported model. Choose another folder.")
    if not overwrite:
        raise FileExistsError(f"{output_dir} holds an exported model. Choose another folder, or pass `overwrite`.")


def _write_and_check(subject: Subject, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Write a model to a folder, compare it with PyTorch, and return its part of the description."""
    rates = [model.config.label_rate for model in subject.heads.values()]
    frames = traced_frames(subject.config, [rate for rate in rates if rate is not None])
    batches = check_batches(subject.config, frames)
    with torch.no_grad():
        expected = [subject.expected(batch.input_values, batch.attention_mask) for batch in batches]
    graph = subject.build()
    kind, dtype, quantize, device = (settings[name] for name in ("format", "dtype", "quantize", "device"))
    with quiet():
        write_model(graph, subject.config, frames, folder, kind, dtype, quantize, device)
    try:
        run = open_runtime(folder, kind, list(graph.outputs), device)
    except Exception as error:  # each runtime has errors of its own
        raise ValueError(f"The exported model cannot be loaded by {kind}: {error}") from error
    check = judge(compare(run, expected, batches, subject.counts), quantize or dtype)
    subject.config.to_json_file(folder / "config.json")
    MusicFMFeatureExtractor.from_model_config(subject.config).to_json_file(folder / "preprocessor_config.json")
    for name, model in subject.heads.items():
        (folder / HEADS / name).mkdir(parents=True)
        model.config.architectures = [type(model).__name__]
        model.config.to_json_file(folder / HEADS / name / "config.json")
        weights = {key: tensor.float().contiguous() for key, tensor in model.classifier.state_dict().items()}
        save_file(weights, folder / HEADS / name / "model.safetensors")
    return {
        "part": subject.part,
        "outputs": {name: list(axes) for name, axes in graph.outputs.items()},
        "hidden_states": {str(layer): name for layer, name in graph.hidden_states.items()},
        "heads": list(subject.heads),
        "sha256": files_digest(folder).hex(),
        "check": check,
    }
