"""Settings for fine-tuning runs with a small encoder, and probes that are trained in this process."""

from typing import Any

from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.joint_arguments import JOINT, JointArguments
from musicfm_hf.finetuning.run import Finetuned, cache_all_layers, finetune
from musicfm_hf.finetuning.starting_head import Splits
from musicfm_hf.training.recipes import parse_recipe


def recipes(task: str, method: str) -> list[str]:
    """Return the names of the recipes for a task, or for joint training, and a method (`probe`, `full` or `lora`)."""
    return [f"{task}/{method}", f"small/{method}"]


def parse(task: str, method: str, flags: list[str]) -> tuple[Any, FinetuningArguments]:
    """Parse the settings of a run of `musicfm finetune`, which are [`JointArguments`] for the task "joint"."""
    arguments = JointArguments if task == JOINT else TaskArguments
    settings, training = parse_recipe(
        (arguments, FinetuningArguments), [*recipes(task, method), *flags], kind="finetune"
    )
    return settings, training


def train_probe(settings: TaskArguments, training: FinetuningArguments, splits: Splits) -> Finetuned:
    """Train and score a probe. All layers of the encoder are computed in one pass and cached for other probes."""
    if not settings.log_mel:
        cache_all_layers(settings, training, splits)
    return finetune(settings, training, splits)
