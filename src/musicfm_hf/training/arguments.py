"""Arguments that all training shares."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments


@dataclass
class RecipeArguments(TrainingArguments):
    """[`TrainingArguments`] for endless data: `max_steps` is required."""

    output_dir: str = field(default="trainer_output", metadata={"help": "Folder for the result and the checkpoints."})
    max_steps: int = field(default=-1, metadata={"help": "Number of optimizer steps; required."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches go to the model unchanged."})
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard, wandb, none, …"})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the result to the Hub at the end."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Repository to push to; by default it is named after the output folder."}
    )
    hub_private_repo: bool | None = field(
        default=None, metadata={"help": "Whether a new repository is private; true by default."}
    )
    hub_revision: str | None = field(
        default=None, metadata={"help": "Branch to push to; it is created if needed. By default main."}
    )

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            # Otherwise, `bf16` is refused, and several processes wait for each other forever.
            self.use_cpu = True
            self.dataloader_pin_memory = False
        super().__post_init__()
        if self.max_steps <= 0:
            raise ValueError("`max_steps` is required, because the data is endless.")
        if self.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` has no effect on the losses of these models: leave it at 0.")
        if self.n_gpu > 1:
            raise ValueError(
                f"Each of {self.n_gpu} GPUs needs a process: run `accelerate launch --num_processes {self.n_gpu} "
                "-m musicfm_hf …`, or select one GPU with CUDA_VISIBLE_DEVICES=0."
            )


@dataclass
class BestModelArguments(RecipeArguments):
    """[`RecipeArguments`] for training that keeps the model with the best score on validation songs."""

    train_sampling_strategy: str = field(
        default="sequential", metadata={"help": "Must be sequential: the index of an example determines its content."}
    )
    logging_steps: float = field(default=20, metadata={"help": "Steps between two log entries."})
    eval_strategy: str = field(default="steps", metadata={"help": "When to score validation songs."})
    save_strategy: str = field(default="steps", metadata={"help": "When to write checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Number of checkpoints to keep."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Keep the model that scored best on validation songs."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after this number of evaluations without a better score; 0 never stops."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_sampling_strategy != "sequential":
            raise ValueError("`train_sampling_strategy` must be sequential, because examples are already random.")

    @property
    def chosen_score(self) -> str | None:
        """The score that `metric_for_best_model` names; `None` for that of the task."""
        name = self.metric_for_best_model
        return None if name in (None, "loss") else name  # defaults of the Trainer, whatever the task

    def choose_by(self, score: str, scores: Collection[str]) -> None:
        """
        Let a score choose the best model, unless `metric_for_best_model` names another one.

        Raises:
            ValueError: it is not one of `scores`, those of an evaluation.
        """
        name = self.chosen_score
        if name is None:
            name, self.greater_is_better = score, True
        name = name.removeprefix("eval_")
        if name not in scores:
            raise ValueError(f"`metric_for_best_model` must be one of {', '.join(scores)}, got {name!r}.")
        self.metric_for_best_model = f"eval_{name}"
