"""Check of the keyword arguments of models, so that none is ignored in silence."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

# What Transformers passes to any model. Settings of attention, such as `is_causal`, are not among them, because only
# some implementations would use them.
_PASSED = frozenset({"output_hidden_states", "output_attentions", "return_dict", "num_items_in_batch"})

# Names of other models for what ours call differently.
_OTHER_NAMES = {
    "labels": "target_tokens",
    "input_features": "input_values",
    "input_ids": "input_values",
    "inputs": "input_values",
    "padding_mask": "attention_mask",
    "layer_idx": "layer",
}


def check_keywords(keywords: Mapping[str, Any], forward: Callable[..., Any], *further: str) -> None:
    """
    Check the keyword arguments of a model that are not parameters of its `forward`. An argument that is `None` changes
    nothing: wrappers of PEFT pass `None` for every argument of a language model.

    Args:
        keywords: The arguments.
        forward (`Callable`): The method, whose parameters the error message suggests.
        further: Names that are allowed as well.

    Raises:
        TypeError: if the model does not use an argument. The message names it and the most similar parameter.
    """
    known = _PASSED.union(further)
    unknown = next((name for name, value in keywords.items() if name not in known and value is not None), None)
    if unknown is None:
        return
    parameters = [name for name in inspect.signature(forward).parameters if name != "kwargs"]
    near = difflib.get_close_matches(unknown, [*parameters, *sorted(_PASSED)], n=1)
    other = _OTHER_NAMES.get(unknown)
    if other in parameters:
        near = [other]
    hint = f" Did you mean `{near[0]}`?" if near else f" Its arguments are {', '.join(parameters)}."
    owner = type(getattr(forward, "__self__", forward)).__name__
    raise TypeError(f"{owner} does not use the argument `{unknown}`.{hint}")


__all__ = ["check_keywords"]
