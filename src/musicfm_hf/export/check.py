"""Comparison of exported models with the models in PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..inference.runtimes import Run
from ..model.configuration_musicfm import MusicFMConfig
from .graph import Batch, least_samples, lengths, noisy_tones

# Largest deviation in float32, relative to the largest absolute value of the output.
TOLERANCE = 1e-4

# Smallest cosine between vectors of the two models, by the precision of the exported one.
LEAST_COSINE = {"float16": 0.999, "bfloat16": 0.99, "int8": 0.98}

# Largest share of tokens that differ: rounding decides between two codes at the same distance.
TOKENS_TOLERANCE = 0.01

Reference = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
Counts = Callable[[int], int | None]


class Comparison(NamedTuple):
    """An output of both models for one item, without padding."""

    output: str
    samples: int
    exported: torch.Tensor
    expected: torch.Tensor


def check_batches(config: MusicFMConfig, frames: int) -> list[Batch]:
    """
    Return a padded batch of two items, one item alone, and the shortest item alone. Their lengths differ from those
    that are traced.

    Args:
        frames (`int`): Output of [`traced_frames`].
    """
    counts = ((2 * frames + 3, frames + 9), (25,))
    batches = [*(lengths(config, part) for part in counts), [least_samples(config)]]
    return [noisy_tones(batch, config.sampling_rate) for batch in batches]


def compare(
    run: Run, expected: Sequence[Mapping[str, torch.Tensor]], batches: Sequence[Batch], counts: Mapping[str, Counts]
) -> list[Comparison]:
    """
    Run an exported model.

    Args:
        run: The exported model.
        expected: For each batch, the outputs of the model in PyTorch by name.
        batches: Input.
        counts: For each output the function that returns its number of frames for a number of samples, or `None` if
            it has no frames.

    Raises:
        ValueError: if the runtime cannot run the model, or an output has another shape than in PyTorch.
    """
    comparisons = []
    for batch, outputs in zip(batches, expected, strict=True):
        try:
            results = run(batch.input_values, batch.attention_mask, list(outputs))
        except Exception as error:  # each runtime has errors of its own
            raise ValueError(
                f"The exported model fails for inputs of the shape {tuple(batch.input_values.shape)}: {error}"
            ) from error
        for (name, reference), result in zip(outputs.items(), results, strict=True):
            if result.shape != reference.shape:
                raise ValueError(
                    f"The output {name} has the shape {tuple(result.shape)} for inputs of the shape "
                    f"{tuple(batch.input_values.shape)}, and {tuple(reference.shape)} in PyTorch."
                )
            for item, length in enumerate(batch.lengths):
                valid = slice(counts[name](length))
                comparisons.append(Comparison(name, length, result[item][valid], reference[item][valid]))
    return comparisons


def judge(comparisons: Sequence[Comparison], precision: str) -> dict[str, Any]:
    """
    Return the outcome of a check, as values for JSON.

    Args:
        precision (`str`): `"float32"`, or a key of [`LEAST_COSINE`].

    Returns:
        `samples`, the lengths of the items; `largest_deviation`, of floating point outputs, and `largest_value` of the
        same outputs; `smallest_cosine` of their vectors; `tokens_that_differ`, a share, for a quantizer; and the
        `limit` that the check applied.

    Raises:
        ValueError: if the exported model deviates too much, or its output is not finite.
    """
    outcome: dict[str, Any] = {
        "samples": [part.samples for part in comparisons if part.output == comparisons[0].output]
    }
    if not comparisons[0].expected.is_floating_point():
        differing = [
            (part.exported != part.expected).double().mean().item() for part in comparisons if part.expected.numel()
        ]
        outcome |= {"tokens_that_differ": max(differing), "limit": TOKENS_TOLERANCE}
        if outcome["tokens_that_differ"] > TOKENS_TOLERANCE:
            raise ValueError(f"{outcome['tokens_that_differ']:.1%} of the tokens differ from those in PyTorch.")
        return outcome
    relative = []
    cosines = []
    for part in comparisons:
        exported, expected = part.exported.double(), part.expected.double()
        deviation, value = (exported - expected).abs().max().item(), expected.abs().max().item()
        relative.append((deviation / max(value, 1.0), deviation, value, part.output))
        cosines.append(torch.nn.functional.cosine_similarity(exported, expected, dim=-1).min().item())
        if not exported.isfinite().all():
            raise ValueError(f"The output {part.output} has values that are not finite.")
    _, deviation, value, output = max(relative)
    outcome |= {"largest_deviation": deviation, "largest_value": value, "smallest_cosine": min(cosines)}
    if precision == "float32":
        outcome["limit"] = TOLERANCE * max(value, 1.0)
        if deviation > outcome["limit"]:
            raise ValueError(
                f"The output {output} deviates by {deviation:.2g} from PyTorch's, which reaches {value:.2g}; at most "
                f"{outcome['limit']:.2g} is allowed."
            )
        return outcome
    outcome["limit"] = LEAST_COSINE[precision]
    if min(cosines) < outcome["limit"]:
        raise ValueError(
            f"The cosine of outputs with PyTorch's is {min(cosines):.4f} in {precision}, and must be at least "
            f"{outcome['limit']}: export in float32."
        )
    return outcome
