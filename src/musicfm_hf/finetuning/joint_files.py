"""
Files of models that were trained jointly.

The folder has a subfolder for each task, named after it, with a complete model for this task: `AutoModelFor….
from_pretrained(folder, subfolder=task)` loads it. Its weights are in two files, the encoder and the head. The file of
the encoder is the same in all subfolders and, as `model.safetensors`, in the folder itself, which is thereby a model
without a head. On disk, these are links to one file; the Hub, which stores files by their content, receives and sends
it once. Adapters are small, and each subfolder has a whole one, in one file as PEFT needs it; the folder itself then
has no weights.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.dynamic_module_utils import custom_object_save

from ..inference.embedding import HeadModel
from ..model.adapters_musicfm import merge_adapters
from ..model.configuration_musicfm import MusicFMConfig
from ..model.feature_extraction_musicfm import MusicFMFeatureExtractor
from ..training.files import complete_model, write_json
from .arguments import FinetuningArguments
from .heads import lora_config
from .joint_arguments import JointArguments
from .joint_model import JointModel
from .run import Finetuned, results_path

ENCODER, HEAD = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def save_joint_run(run: Finetuned, task: JointArguments, arguments: FinetuningArguments) -> None:
    """
    Write the models or adapters with their feature extractors, and the results. Those of a single task are also in its
    subfolder, in the form of a run for this task alone.
    """
    output = Path(arguments.output_dir)
    joint: Any = run.model
    save_joint(joint, task, output)
    for path in (output / "results.json", results_path(task, arguments)):
        write_json(path, run.results)
    for name, source in run.results["data"]["tasks"].items():
        single = {key: value for key, value in run.results.items() if key not in ("history", "scores_of_songs")}
        for key in ("scores", "scores_of_songs"):
            single[key] = {split: parts[name] for split, parts in run.results[key].items() if name in parts}
        counts = {
            split.removeprefix(f"{name}/"): count
            for split, count in run.results["data"]["songs"].items()
            if split.startswith(f"{name}/")
        }
        settings = {key.removeprefix(f"{name}."): value for key, value in run.results["settings"].items()}
        single["settings"] = {key: value for key, value in settings.items() if "." not in key and key != "tasks"}
        write_json(output / name / "results.json", single | {"task": name, "data": source | {"songs": counts}})


def save_joint(joint: JointModel, task: JointArguments, folder: str | Path) -> None:
    """
    Write the models of all tasks as described for this module. Random encoders with adapters are merged first, because
    their weights are saved nowhere else.
    """
    folder = Path(folder)
    first: Any = next(iter(joint.models.values()))
    encoder: Any = first.musicfm
    is_adapter = task.method == "lora" and not task.random_encoder
    if task.method == "lora" and task.random_encoder:
        merge_adapters(encoder)
    with complete_model(folder) as temporary:
        if not is_adapter:
            _save_weights({f"musicfm.{name}": tensor for name, tensor in encoder.state_dict().items()}, temporary)
        for name, model in joint.models.items():
            with complete_model(folder / name) as place:
                if is_adapter:
                    _save_adapter(model, task, place)
                else:
                    _save_model(model, temporary / "model.safetensors", place)
                MusicFMFeatureExtractor.from_model_config(model.config).save_pretrained(place)
        config = _encoder_config(first.config)
        config.task_folders = list(joint.models)
        config.dtype = encoder.dtype
        config.save_pretrained(temporary)
        MusicFMFeatureExtractor.from_model_config(config).save_pretrained(temporary)
        custom_object_save(first, temporary)  # the code of all models, for users without the package


def _save_model(model: HeadModel, encoder_file: Path, place: Path) -> None:
    """Write a model whose encoder is in a file that exists."""
    try:
        os.link(encoder_file, place / ENCODER)
    except OSError:  # a file system without links
        shutil.copyfile(encoder_file, place / ENCODER)
    head = {f"classifier.{name}": tensor for name, tensor in model.classifier.state_dict().items()}
    _save_weights(head, place, HEAD)
    files = {f"musicfm.{name}": ENCODER for name in model.musicfm.state_dict()} | dict.fromkeys(head, HEAD)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    write_json(place / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": files})
    _save_config(model, place)


def _save_adapter(model: HeadModel, task: JointArguments, place: Path) -> None:
    """Write an adapter with its head, as `PeftModel.save_pretrained` does."""
    matrices = {
        f"base_model.model.musicfm.{name.replace('.default.', '.')}": tensor
        for name, tensor in model.musicfm.state_dict().items()
        if ".lora_" in name
    }
    head = {f"base_model.model.classifier.{name}": value for name, value in model.classifier.state_dict().items()}
    _save_weights(matrices | head, place, "adapter_model.safetensors")
    lora = lora_config(model.musicfm, task)
    lora.inference_mode = True
    base = Path(task.model)
    lora.base_model_name_or_path = str(base.resolve()) if base.is_dir() else task.model
    lora.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    lora.save_pretrained(str(place))
    _save_config(model, place)


def _save_config(model: HeadModel, place: Path) -> None:
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.musicfm.dtype
    model.config.save_pretrained(place)


def _encoder_config(config: MusicFMConfig) -> MusicFMConfig:
    """Return the configuration without the settings of its head."""
    default = MusicFMConfig().to_dict()
    names = [
        "task",
        "vocabulary",
        "decoding",
        "label_rate",
        "label_centered",
        "classifier_layer",
        "use_weighted_layer_sum",
    ]
    names += ["classifier_outputs", "class_weights", "problem_type", "id2label", "label2id"]
    values = config.to_dict() | {name: default[name] for name in names}
    return MusicFMConfig.from_dict(values | {"architectures": ["MusicFMModel"]})


def _save_weights(tensors: dict[str, torch.Tensor], place: Path, name: str = "model.safetensors") -> None:
    """Write tensors in the format of Transformers."""
    save_file(
        {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
        place / name,
        metadata={"format": "pt"},
    )
