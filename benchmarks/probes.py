"""Settings of fine-tuning runs, and probes trained in this process."""

from pathlib import Path

from transformers import set_seed

from musicfm_hf.data.labelled import LabelledSong
from musicfm_hf.finetuning.arguments import FinetuningArguments, TaskArguments
from musicfm_hf.finetuning.run import Finetuned, cache_all_layers, finetune
from musicfm_hf.training.arguments import parse_recipe

RECIPES = Path(__file__).parents[1] / "recipes"


def recipes(task: str, method: str) -> list[str]:
    """The recipes of a method for a small encoder."""
    return [str(RECIPES / folder / f"{method}.yaml") for folder in (task, "small")]


def parse(task: str, method: str, flags: list[str]) -> tuple[TaskArguments, FinetuningArguments]:
    """Settings of a run of `musicfm finetune`."""
    return parse_recipe((TaskArguments, FinetuningArguments), [*recipes(task, method), *flags])


def train_probe(
    settings: TaskArguments, training: FinetuningArguments, splits: dict[str, list[LabelledSong]]
) -> Finetuned:
    """Train and score a probe. All layers of the encoder are computed in one pass, and kept for other probes."""
    if not settings.log_mel:
        cache_all_layers(settings, training, splits)
    set_seed(training.seed)
    return finetune(settings, training, splits)
