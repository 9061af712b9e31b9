"""Comparison of exported models with the models in PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..inference.runtimes import Run
from ..model.configuration_musicfm import MusicFMConfig
from .graph import Batch, least_samples, lengths, noisy_tones

# Largest deviation by the precision of the exported model, relative to the largest absolute value of the output.
TOLERANCES = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1, "int8": 0.2}

# Absolute value that deviations are relative to at least, for outputs that are zero.
LEAST_VALUE = 1e-6

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
        precision (`str`): A key of [`TOLERANCES`].

    Returns:
        `samples`, the lengths of the items; for a quantizer, `tokens_that_differ`, a share, and its `limit`; for other
        models `largest_deviation` and `largest_value` of the output that deviates most relative to its largest value,
        the `limit` of its deviation, `smallest_cosine` of vectors of more than one value, and in a lower precision
        than float32 `least_cosine`, its limit.

    Raises:
        ValueError: if the exported model deviates too much, or its output is not finite.
    """
    outcome: dict[str, Any] = {
        "samples": [part.samples for part in comparisons if part.output == comparisons[0].output]
    }
    if not comparisons[0].expected.is_floating_point():
        return outcome | _judge_tokens(comparisons)
    for part in comparisons:
        if not part.exported.isfinite().all():
            raise ValueError(f"The output {part.output} has values that are not finite.")
    output, deviation, value = _largest_deviation(comparisons)
    limit = TOLERANCES[precision] * max(value, LEAST_VALUE)
    cosine = min(map(_smallest_cosine, comparisons))
    outcome |= {"largest_deviation": deviation, "largest_value": value, "smallest_cosine": cosine, "limit": limit}
    advice = ""
    if precision != "float32":
        outcome["least_cosine"], advice = LEAST_COSINE[precision], f" in {precision}: export in float32"
        if cosine < LEAST_COSINE[precision]:
            raise ValueError(
                f"The cosine of outputs with PyTorch's is {cosine:.4f}, and must be at least "
                f"{LEAST_COSINE[precision]}{advice}."
            )
    if deviation > limit:
        raise ValueError(
            f"The output {output} deviates by {deviation:.2g} from PyTorch's, which reaches {value:.2g}; at most "
            f"{limit:.2g} is allowed{advice}."
        )
    return outcome


def _judge_tokens(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the share of tokens that differ and its limit, or raise a `ValueError` if it is exceeded."""
    differing = max(
        (part.exported != part.expected).double().mean().item() for part in comparisons if part.expected.numel()
    )
    if differing > TOKENS_TOLERANCE:
        raise ValueError(f"{differing:.1%} of the tokens differ from those in PyTorch.")
    return {"tokens_that_differ": differing, "limit": TOKENS_TOLERANCE}


def _largest_deviation(comparisons: Sequence[Comparison]) -> tuple[str, float, float]:
    """Return the output that deviates most relative to its largest value, its deviation, and its largest value."""
    outputs: dict[str, tuple[float, float]] = {}
    for part in comparisons:
        deviation, value = outputs.get(part.output, (0.0, 0.0))
        difference = part.exported.double() - part.expected.double()
        outputs[part.output] = (
            max(deviation, difference.abs().max().item()),
            max(value, part.expected.abs().max().item()),
        )
    output = max(outputs, key=lambda name: outputs[name][0] / max(outputs[name][1], LEAST_VALUE))
    return output, *outputs[output]


def _smallest_cosine(part: Comparison) -> float:
    """Return the smallest cosine between vectors; 1 for single values, whose cosine is only their sign."""
    exported, expected = part.exported.double(), part.expected.double()
    if expected.shape[-1] == 1:
        return 1.0
    cosines = torch.nn.functional.cosine_similarity(exported, expected, dim=-1)
    return torch.where((exported == expected).all(-1), 1.0, cosines).min().item()  # zeros have no cosine
