"""Small copies of models that were trained jointly, such as the one in the package."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..training.files import matching_files, put_in_place, temporary_path, write_json, write_safetensors

ENCODER, HEAD, INDEX = "model.safetensors", "classifier.safetensors", "model.safetensors.index.json"

FORMAT = {"format": "pt"}  # of Transformers

# Results that are left out of the copy, because they are long.
_LONG_RESULTS = ("history", "scores_of_songs")


def pack_joint(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    encoder_run: str | os.PathLike | None = None,
    average_with: str | os.PathLike | None = None,
) -> int:
    """
    Copy models that were trained jointly, without LoRA, into a folder that holds the encoder once and has no links:
    the index of the weights in each subfolder names the file of the encoder in the folder above it. Matrices and
    kernels are rounded to bfloat16, and biases, norms and statistics are not. The models load as before, in float32.

    The copy has no code, so it needs the package. `results.json` is copied without scores of test songs, because they
    are those of the weights before rounding: `musicfm evaluate` scores the copy.

    Args:
        source: Output folder of `musicfm finetune joint/full` or `joint/probe`.
        output_dir: Folder to write to; an existing copy is replaced.
        encoder_run (*optional*): Output folder of `musicfm pretrain` for the encoder from which the models were
            trained. The card then lists its music too.
        average_with (*optional*): Output folder of an earlier run that `source` continued. Each weight of the copy is
            the mean of both, which can keep more of the skills of the earlier run (Wortsman et al. 2022, "Robust
            fine-tuning of zero-shot models"). `results.json` then has no scores.

    Returns:
        Number of bytes of all files.

    Raises:
        FileNotFoundError: the folder, or a model in it, has no weights; or a folder has no results.
        ValueError: the folder does not hold models that were trained jointly, or the weights to average have other
            names or shapes.
    """
    source, output = Path(source), Path(output_dir)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    tasks = config.get("task_folders")
    if not tasks:
        raise ValueError(f"{source} does not hold models that were trained jointly with `musicfm finetune joint/…`.")
    if not (source / ENCODER).is_file():
        raise FileNotFoundError(f"{source} has no {ENCODER}: adapters cannot be copied without their base model.")
    results = _short_results(_read_results(source))
    if average_with is not None:
        results = {name: value for name, value in results.items() if name not in ("scores", "calibration")}
        results["averaged"] = True  # for the card
    if encoder_run is not None:
        results["base_music"] = _read_results(Path(encoder_run)).get("music", [])

    def read(task: str = "") -> dict[str, torch.Tensor]:
        weights = _read_weights(source / task)
        return weights if average_with is None else _average(weights, Path(average_with, task))

    encoder = _rounded(read())
    place = temporary_path(output)
    place.mkdir(parents=True)
    write_safetensors(place / ENCODER, encoder, FORMAT)
    _copy_settings(source, place)
    write_json(place / "results.json", results)
    for task in tasks:
        (place / task).mkdir()
        _write_head(source / task, place / task, read(task), encoder)
    put_in_place(place, output)
    return _size(output)


def pack_head(source: str | os.PathLike, model: str | os.PathLike) -> int:
    """
    Add a head that was trained on the frozen encoder of a copy to this copy, as the subfolder with the name of its
    task, without the encoder. It is rounded as the others are. `musicfm annotate` does not use it: this is for models
    that do not annotate, which are those for retrieval.

    Args:
        source: Output folder of a probe whose `--model` was the copy.
        model: Folder that [`pack_joint`] wrote; a subfolder for the task is replaced.

    Returns:
        Number of bytes of all files of the copy.

    Raises:
        FileNotFoundError: one of the folders has no weights or results.
        ValueError: the encoders differ.
    """
    source, model = Path(source), Path(model)
    encoder, weights = load_file(model / ENCODER), _read_weights(source)
    for name, tensor in encoder.items():
        if name not in weights or not weights[name].equal(tensor.to(weights[name].dtype)):
            raise ValueError(
                f"The encoder of {source} is not that of {model}: {name} differs. Train a probe with "
                f"`--model {model}`."
            )
    results = _read_results(source)
    place = temporary_path(model / results["task"])
    place.mkdir()
    _write_head(source, place, weights, encoder)
    write_json(place / "results.json", _short_results(results))
    put_in_place(place, model / results["task"])
    return _size(model)


def _write_head(source: Path, place: Path, weights: dict[str, torch.Tensor], encoder: dict[str, torch.Tensor]) -> None:
    """Write the head of a model to a folder inside that of its encoder."""
    head = _rounded({name: tensor for name, tensor in weights.items() if name not in encoder})
    write_safetensors(place / HEAD, head, FORMAT)
    files = dict.fromkeys(encoder, f"../{ENCODER}") | dict.fromkeys(head, HEAD)
    size = sum(tensor.nbytes for tensor in (*encoder.values(), *head.values()))
    write_json(place / INDEX, {"metadata": {"total_size": size}, "weight_map": files})
    _copy_settings(source, place)


def _size(folder: Path) -> int:
    """Return the number of bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return all weights of a model, by name."""
    return {name: tensor for file in _weights(folder) for name, tensor in load_file(file).items()}


def _average(weights: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """Return the means of weights and those of the model in a folder; counters are not averaged."""
    earlier = _read_weights(folder)
    if {name: tensor.shape for name, tensor in earlier.items()} != {name: t.shape for name, t in weights.items()}:
        raise ValueError(f"{folder} cannot be averaged with a model whose weights have other names or shapes.")
    return {
        name: (tensor.float() + earlier[name].float()) / 2 if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def _read_results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def _weights(folder: Path) -> list[Path]:
    """Return the files of weights of a model."""
    if not (files := matching_files(folder, "model*.safetensors")):
        raise FileNotFoundError(f"{folder} has no weights.")
    return files


def _rounded(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round matrices and kernels to bfloat16."""
    return {
        name: tensor.bfloat16() if tensor.ndim > 1 and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def _copy_settings(source: Path, place: Path) -> None:
    """Copy the configurations of a model, which is loaded in float32."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("auto_map", None)  # of the code that is not copied
    write_json(place / "config.json", config | {"dtype": "float32"})
    shutil.copyfile(source / "preprocessor_config.json", place / "preprocessor_config.json")


def _short_results(results: dict[str, Any]) -> dict[str, Any]:
    """Return results without scores of songs, and without those of test songs."""
    short = {name: value for name, value in results.items() if name not in _LONG_RESULTS}
    for name in ("scores", "calibration"):
        if name in results:
            short[name] = {split: value for split, value in results[name].items() if split != "test"}
    return short
