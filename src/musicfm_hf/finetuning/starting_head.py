"""
Heads that fine-tuning starts from: that of a probe which is trained first, or that of a saved model.

An encoder that follows the gradients of a random head loses some of what it has learned. With a trained head, training
starts from the scores of the probe (Kumar et al., *Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution*, ICLR 2022).
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from ..data.labeled import LabeledSong
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import label_names
from .arguments import Arguments, FinetuningArguments, HeadArguments

FOLDER = ".probe"  # in the output folder, until the probe is trained
EVALUATIONS = 4

Splits = Mapping[str, Sequence[LabeledSong]]


def starting_head(
    train: Callable[..., Any],
    task: HeadArguments,
    arguments: FinetuningArguments,
    splits: Splits,
    checkpoint: str | None,
) -> nn.Module | None:
    """
    Train the probe that precedes full fine-tuning or LoRA, and return its head; `None` if the settings specify no such
    probe, or the run resumes from a checkpoint, which has the head. The probe has the seed and the songs of the run,
    and the settings `probe_steps`, `probe_learning_rate` and `probe_batch_size`. Validation songs are scored four
    times, and the best head is returned. If the run starts with a trained head, `arguments.eval_on_start` is set.

    Args:
        train: Function that trains and returns a model, such as [`finetune`].
        splits: Songs for `train` and `validation`; in joint training, for `TASK/train` and `TASK/validation`.
    """
    is_trained = task.trains_probe_first or task.keep_head
    arguments.eval_on_start = is_trained and not checkpoint and arguments.load_best_model_at_end
    if checkpoint or not task.trains_probe_first:
        return None
    folder = Path(arguments.output_dir) / FOLDER
    songs = {name: part for name, part in splits.items() if name.rpartition("/")[2] in ("train", "validation")}
    head = train(*probe_settings(task, arguments, folder), songs).model.classifier
    if arguments.should_save:
        shutil.rmtree(folder, ignore_errors=True)
    set_seed(arguments.seed)  # as at the start of a run, so that the rest does not depend on the training of the probe
    return head


def probe_settings(
    task: Arguments, arguments: FinetuningArguments, folder: Path
) -> tuple[Arguments, FinetuningArguments]:
    """Return the settings of the probe that precedes full fine-tuning or LoRA."""
    changes: dict[str, Any] = {"method": "probe", "probe_steps": 0} | task.without_augmentation()
    training = copy(arguments)
    training.output_dir, training.resume_from_checkpoint = str(folder), None
    training.report_to, training.push_to_hub, training.eval_on_start = "none", False, False
    training.max_steps, training.learning_rate = task.probe_steps, task.probe_learning_rate
    training.per_device_train_batch_size, training.gradient_accumulation_steps = task.probe_batch_size, 1
    training.warmup_steps, training.logging_steps = 0, max(1, task.probe_steps // EVALUATIONS)
    training.eval_strategy = training.save_strategy = IntervalStrategy.STEPS
    training.eval_steps = training.save_steps = -(-task.probe_steps // EVALUATIONS)
    training.load_best_model_at_end, training.early_stopping_patience = True, 0
    return replace(task, **changes), training


def check_kept_head(config: MusicFMConfig, saved: MusicFMConfig, model: str) -> None:
    """
    Check that the head of a saved model has the same meaning in a new run.

    Args:
        config ([`MusicFMConfig`]): Configuration of the run.
        saved ([`MusicFMConfig`]): Configuration of the saved model.
        model (`str`): Name of the saved model, for the message.

    Raises:
        ValueError: The head is of another task, or has other labels or rates, or reads another layer.
    """
    names = ("task", "id2label", "label_rate", "classifier_layer", "use_weighted_layer_sum", "classifier_proj_size")
    different = [
        f"{name} {_describe(name, saved, config)}, not {_describe(name, config, saved)}"
        for name in names
        if getattr(saved, name) != getattr(config, name)
    ]
    if different:
        raise ValueError(
            f"The head of {model} cannot be kept, because it has {'; '.join(different)}. Use the settings that it was "
            "trained with, or leave out `--keep_head`."
        )


def _describe(name: str, config: MusicFMConfig, other: MusicFMConfig) -> str:
    """Describe a value of a configuration; of labels, their number and some that another configuration lacks."""
    if name != "id2label":
        return repr(getattr(config, name))
    labels, others = label_names(config), label_names(other)
    own = [label for label in labels if label not in others]
    text = f"of {len(labels)} labels"
    if own:
        text += f" with {', '.join(map(repr, own[:3]))}" + (", …" if len(own) > 3 else "")
    return text if own or len(labels) != len(others) else f"{text} in its order"
