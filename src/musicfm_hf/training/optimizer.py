"""Optimizers with a learning rate of their own for encoders."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer, TrainingArguments


def two_rate_optimizer(
    arguments: TrainingArguments, model: Any, encoder_learning_rate: float, is_encoder: Callable[[str], bool]
) -> torch.optim.Optimizer:
    """
    Create the optimizer that `arguments` specify, with separate parameter groups for encoders. These come last,
    because the learning rate of the first group is logged. Parameters with one axis or none, such as biases and norms,
    have no weight decay; [`Trainer`] would not recognize norms with names like `norm1`.

    Args:
        arguments: Settings, whose `learning_rate` is that of all other parameters.
        model: The model; parameters that are frozen are left out.
        encoder_learning_rate (`float`): Learning rate of encoders.
        is_encoder (`Callable`): Whether a parameter, given by its name, belongs to an encoder.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in sorted(trainable, key=lambda item: is_encoder(item[0])):
        learning_rate = encoder_learning_rate if is_encoder(name) else arguments.learning_rate
        decay = arguments.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((learning_rate, decay), []).append(parameter)
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return optimizer_class(
        [
            {"params": parameters, "lr": learning_rate, "weight_decay": decay}
            for (learning_rate, decay), parameters in groups.items()
        ],
        **options,
    )
