"""Heads on an encoder: their configuration, construction, LoRA matrices, and files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.dynamic_module_utils import custom_object_save

from ..data.examples import crop_targets
from ..data.labeled import LabeledSong
from ..inference.embedding import HeadModel
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import (
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    MusicFMForXVector,
)
from ..tasks import label_names, task_of
from ..tasks.retrieval import get_retrieval_task
from ..training.files import complete_model
from .arguments import HeadArguments, RetrievalArguments, TaskArguments
from .pitch_maps import count_pitch_maps
from .starting_head import check_kept_head

AnyHeadModel = HeadModel | MusicFMForXVector


def build_model(arguments: HeadArguments, config: MusicFMConfig, subfolder: str = "") -> AnyHeadModel:
    """
    Build the encoder of `arguments.model` with its head, which is new unless the arguments keep it.

    Args:
        config ([`MusicFMConfig`]): Configuration from [`head_config`] or [`retrieval_config`].
        subfolder (`str`): Folder of the saved model inside `arguments.model`.

    Raises:
        ValueError: if `arguments.model` lacks weights of the encoder.
    """
    classes = (MusicFMForAudioClassification, MusicFMForAudioFrameClassification, MusicFMForXVector)
    model_class = next(cls for cls in classes if cls.__name__ == config.head_class)
    if arguments.random_encoder:
        return model_class(config)
    folder = Path(arguments.model)
    name = str(folder.resolve()) if folder.is_dir() else arguments.model  # recorded in adapters
    source = {"revision": arguments.revision, "subfolder": subfolder}
    return model_class.from_encoder(name, config, arguments.keep_head, dtype=torch.float32, **source)


def head_config(
    arguments: TaskArguments,
    base: MusicFMConfig,
    songs: Sequence[LabeledSong],
    vocabulary: Sequence[LabeledSong] | None = None,
) -> MusicFMConfig:
    """
    Return the configuration of a model with a head for a task.

    Args:
        songs: Training songs; class weights and learned settings of the decoder depend on them.
        vocabulary: Songs whose labels the head predicts if the task defines no labels; the training songs by default.

    Raises:
        ValueError: a setting of the decoder is wrong, no training song has a label that the head can learn, or the
            head of the saved model cannot be kept.
    """
    spec = arguments.spec
    labels = spec.label_names(songs if vocabulary is None else vocabulary)
    outputs = spec.classifier_outputs(len(labels))
    rate = arguments.label_rate or spec.label_rate
    learned = {} if spec.learn_decoding is None else spec.learn_decoding([spec.annotation_of(song) for song in songs])
    values = base.to_dict() | {
        "task": arguments.task,
        "vocabulary": arguments.vocabulary,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": outputs[0]["problem_type"],
        "classifier_outputs": outputs,
        "label_rate": rate,
        "context_seconds": arguments.window_seconds,
        "label_centered": spec.centered,
        **_layers_read(arguments, base),
        "classifier_proj_size": arguments.head_size,
        "classifier_dropout": arguments.head_dropout,
        "freeze_batch_norm": arguments.freeze_batch_norm or arguments.method == "lora",
        "decoding": learned | decoder_settings(arguments),
        "calibration": None,
        "class_weights": None,
        "task_folders": None,
    }
    config = MusicFMConfig.from_dict(values)
    if arguments.keep_head:
        check_kept_head(config, base, arguments.model)
    check_decoding(config)
    if songs and not any(_has_label(config, song) for song in songs):
        raise ValueError(
            f"None of the {len(songs)} training songs has {spec.column} that a model for {arguments.task} can learn: "
            "all of their labels are ignored, such as X for unknown chords."
        )
    if arguments.balance > 0:
        config.class_weights = class_weights(config, songs, arguments.balance)
    return config


def _has_label(config: MusicFMConfig, song: LabeledSong) -> bool:
    """Return whether any label of a song is trained on."""
    frames = config.frame_counts(max(round(song.duration * config.sampling_rate), config.min_samples))[-1]
    return bool((crop_targets(config, song, 0.0, frames)[..., 0] >= 0).any())


def retrieval_config(
    arguments: RetrievalArguments, base: MusicFMConfig, songs: Sequence[LabeledSong]
) -> MusicFMConfig:
    """
    Return the configuration of a model with an embedding head for a retrieval task. The number of pitch maps depends
    on the annotations of the training songs, unless the head is kept.

    Raises:
        ValueError: if the maps of a kept head have no targets in the songs, but are trained.
    """
    pitch_maps = base.pitch_maps
    if arguments.learns_pitch or not arguments.keep_head:
        pitch_maps = count_pitch_maps(songs)
    if arguments.keep_head and pitch_maps < base.pitch_maps:
        raise ValueError(
            f"The head of {arguments.model} finds chroma and chords, but not all training songs have chords: use "
            "songs with chords, or keep the maps as they are with `--pitch_loss false`."
        )
    values = base.to_dict() | {
        "task": arguments.task,
        "vocabulary": None,
        "problem_type": None,
        "classifier_outputs": None,
        "class_weights": None,
        "label_rate": None,
        "label_centered": False,
        "context_seconds": arguments.window_seconds,
        **_layers_read(arguments, base),
        "classifier_dropout": arguments.head_dropout,
        "pitch_maps": base.pitch_maps if arguments.keep_head else pitch_maps,
        "pitch_frames": arguments.head_frames,
        "pitch_channels": arguments.head_channels,
        "pitch_kernel": arguments.head_kernel,
        "xvector_output_dim": arguments.embedding_size,
        "contrastive_loss": arguments.loss,
        "contrastive_temperature": arguments.temperature,
        "freeze_batch_norm": arguments.freeze_batch_norm or arguments.method == "lora",
        "calibration": None,
        "decoding": {"passage_seconds": get_retrieval_task(arguments.task).passage_seconds},
        "task_folders": None,
    }
    return MusicFMConfig.from_dict(values)


def _layers_read(arguments: HeadArguments, base: MusicFMConfig) -> dict[str, Any]:
    """Return the configuration of the layers that the head reads: by default, those of the head that is kept."""
    if arguments.keep_head and arguments.layer is None and not arguments.weighted_layer_sum:
        return {name: getattr(base, name) for name in ("classifier_layer", "use_weighted_layer_sum")}
    return {"classifier_layer": arguments.layer, "use_weighted_layer_sum": arguments.weighted_layer_sum}


def decoder_settings(arguments: TaskArguments) -> dict[str, Any]:
    """
    Parse `arguments.decoding`.

    Raises:
        ValueError: if it is not a mapping.
    """
    try:
        settings = json.loads(arguments.decoding)
    except json.JSONDecodeError as error:
        raise ValueError(f"`decoding` must be a mapping, got {arguments.decoding!r} ({error}).") from error
    if not isinstance(settings, dict):
        raise ValueError(f"`decoding` must be a mapping, got {arguments.decoding!r}.")
    return settings


def check_decoding(config: MusicFMConfig) -> None:
    """
    Check the settings of the decoder on silence, so that mistakes are found before the first evaluation.

    Raises:
        ValueError: if the decoder of the task does not have a setting, or a value is out of range.
    """
    try:
        task_of(config).decode(config, np.zeros((8, len(label_names(config)))))
    except TypeError as error:
        raise ValueError(f"`decoding` has a setting that does not exist or is invalid: {error}") from error


def class_weights(config: MusicFMConfig, songs: Sequence[LabeledSong], balance: float) -> list[float]:
    """
    Compute label weights that increase with the rarity of a label in songs: (1 / (classes · share))^`balance` for the
    classes of a softmax, and ((1 - share) / share)^`balance` for independent labels.
    """
    total, sums = _label_sums(config, songs)
    shares = (total / sums.clamp(min=1)).clamp(min=1e-4, max=1 - 1e-4)
    weights, start = [], 0
    for output in config.classifier_slices:
        part = shares[start : start + output["size"]]
        start += output["size"]
        single = output["problem_type"] == "single_label_classification"
        weights += ((1 / (len(part) * part)) if single else (1 - part) / part).pow(balance).tolist()
    return weights


def constant_loss(config: MusicFMConfig, songs: Sequence[LabeledSong]) -> float:
    """
    Compute the loss, over whole songs, of the best head that ignores the music: it predicts the frequency of each
    label in these songs. Without class weights, this is the entropy of the labels, summed over the outputs of the
    head.
    """
    total, sums = _label_sums(config, songs)
    shares = total / sums.clamp(min=1)
    weights = torch.tensor(config.class_weights or [1.0] * len(shares), dtype=torch.float64)
    loss, start = 0.0, 0
    for output in config.classifier_slices:
        part = slice(start, start + output["size"])
        start = part.stop
        share, weight = shares[part], weights[part]
        positive = share * weight
        if output["problem_type"] == "single_label_classification":
            predicted = positive / positive.sum().clamp(min=1e-12)
            output_loss = -torch.xlogy(predicted, predicted).sum()
        else:
            predicted = positive / (positive + 1 - share).clamp(min=1e-12)
            losses = -torch.xlogy(positive, predicted) - torch.xlogy(1 - share, 1 - predicted)
            output_loss = (losses * sums[part]).sum() / sums[part].sum().clamp(min=1)
        loss += output.get("loss_weight", 1.0) * float(output_loss)
    return loss


def _label_sums(config: MusicFMConfig, songs: Sequence[LabeledSong]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the targets of each label over songs, and the number of frames or clips that have it."""
    num_labels = len(label_names(config))
    total, sums = torch.zeros(2, num_labels, dtype=torch.float64)
    for song in songs:
        frames = config.frame_counts(round(song.duration * config.sampling_rate))[-1]
        targets = crop_targets(config, song, 0.0, frames).double().view(-1, num_labels)
        valid = (targets >= 0).double()
        total += (targets * valid).sum(0)
        sums += valid.sum(0)
    return total, sums


def add_lora(model: AnyHeadModel, arguments: HeadArguments) -> Any:
    """
    Add LoRA matrices to the layers that `arguments.lora_target_modules` names, and return the model. All weights of
    the head are trained.

    Raises:
        ValueError: if the encoder has no layer with one of these names.
    """
    from peft import get_peft_model

    return get_peft_model(model, lora_config(model.musicfm, arguments))


def lora_config(encoder: torch.nn.Module, arguments: HeadArguments) -> Any:
    """Return PEFT's configuration of the LoRA matrices. For errors, see [`add_lora`]."""
    from peft import LoraConfig

    names = {
        name.rpartition(".")[2]
        for name, module in encoder.named_modules()
        if not list(module.children()) or hasattr(module, "base_layer")  # the latter is already adapted
    }
    if missing := sorted(set(arguments.lora_target_modules) - names):
        raise ValueError(f"The encoder has no layers {', '.join(missing)}; it has {', '.join(sorted(names))}.")
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,  # type: ignore[arg-type]  # PEFT divides it by `r`
        lora_dropout=arguments.lora_dropout,
        # A layer of the encoder, whose names begin with `musicfm.` in this model, and not in `AutoModel`.
        target_modules=rf"(?!classifier\.).*\.({'|'.join(arguments.lora_target_modules)})",
        modules_to_save=["classifier"],
        revision=arguments.revision,
    )


def save_finetuned(model: AnyHeadModel, trained: Any, folder: str | Path, is_random: bool = False) -> None:
    """
    Write the trained weights: the whole model, or a PEFT adapter together with the configuration of its model, so that
    the folder can be loaded on its own. With `is_random`, the adapter is merged into its encoder, whose random weights
    are saved nowhere else.
    """
    from peft import PeftModel

    with complete_model(folder) as temporary:
        if isinstance(trained, PeftModel) and is_random:
            trained.merge_and_unload().save_pretrained(temporary)
        elif isinstance(trained, PeftModel):
            trained.save_pretrained(str(temporary))
            model.config.architectures = [type(model).__name__]  # it still has those of the base model
            model.config.save_pretrained(temporary)
            custom_object_save(trained.get_base_model(), temporary)  # the code, for users without the package
        else:
            model.save_pretrained(temporary)


def count_parameters(model: torch.nn.Module, trained: torch.nn.Module) -> dict[str, int]:
    """Count all parameters and the trained ones, without the copy of the initial head that PEFT keeps."""
    parameters = [parameter for name, parameter in model.named_parameters() if ".original_module." not in name]
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad),
    }
