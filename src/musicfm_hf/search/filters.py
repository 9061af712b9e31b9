"""Filters such as `key=A:min` and `tempo=90-120`, which select passages by what sounds in them."""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from ..tasks import TaskSpec, get_task, known_tasks
from ..tasks.annotations import Segment
from .passage_labels import TEMPO, PassageLabels, field_of, respelled

TEMPO_TOLERANCE = 0.04  # by which a tempo may differ from a single number
MOST_LISTED = 20
_RANGE = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")


def parse_conditions(words: Iterable[str]) -> list[tuple[str, str]]:
    """
    Parse conditions of the form `field=value`, or `field=value,value` for any of several values.

    Raises:
        ValueError: a word has another form.
    """
    conditions = []
    for word in words:
        field, equals, value = word.partition("=")
        if not (field and equals and value):
            raise ValueError(f"A condition has the form field=value, such as key=A:min or tempo=90-120, got {word!r}.")
        conditions.append((field, value))
    return conditions


def select_passages(labels: PassageLabels, where: Mapping[str, str] | Iterable[tuple[str, str]]) -> np.ndarray:
    """
    Return the passages that meet all conditions.

    Args:
        labels ([`PassageLabels`]): Labels of the passages.
        where: Fields and values: a dictionary, or pairs if a field has several conditions. A value is a label, several
            labels separated by commas of which one is enough, or a range of tempos such as `90-120`.

    Returns:
        bool `(passages,)`.

    Raises:
        ValueError: a field does not exist, or no passage has the label.
    """
    pairs = where.items() if isinstance(where, Mapping) else where
    masks = [_select(labels, field, str(value)) for field, value in pairs]
    return np.logical_and.reduce(masks)


def _select(labels: PassageLabels, field: str, value: str) -> np.ndarray:
    """Return the passages that meet one condition."""
    name = field if field in labels.fields else field.removesuffix("s")
    if name not in labels.fields:
        raise ValueError(
            f"The annotations have no field {field!r}, only {', '.join(labels.fields)}. Annotate the songs with "
            "a model for it (`musicfm annotate`), and pass the folder as `--annotations`."
        )
    if name == TEMPO:
        return _select_tempo(labels.arrays[TEMPO], value)
    wanted: set[int] = set()
    for label in value.split(","):
        wanted |= _matching_labels(labels.names[name], name, label.strip())
    return labels.has_label(name, wanted)


def _select_tempo(tempos: np.ndarray, value: str) -> np.ndarray:
    """Return the passages with a tempo in a range, or near a number."""
    match = _RANGE.fullmatch(value)
    try:
        low, high = (float(match[1]), float(match[2])) if match else (float(value),) * 2
        if not (0 < low <= high < math.inf):
            raise ValueError
    except ValueError as error:
        raise ValueError(
            f"A tempo is a range such as 90-120, or a number of beats per minute, got {value!r}."
        ) from error
    if match is None:
        low, high = low * (1 - TEMPO_TOLERANCE), high * (1 + TEMPO_TOLERANCE)
    return (tempos >= low) & (tempos <= high)


def _matching_labels(names: list[str], field: str, value: str) -> set[int]:
    """
    Return the indices of the labels that a value names.

    A value that is a label of the task, such as `F#:min`, names all labels that the task maps to it, such as
    `F#:min7`. Any other value names the label itself, in any spelling of its root; if all labels of the catalog are
    those of the task, as models predict them, it names the one that the task maps it to.
    """
    specs = [spec for spec in map(get_task, known_tasks()) if field_of(spec) == field]
    spec = specs[0] if specs else None
    task_labels = set(spec.labels or ()) if spec is not None else set()
    value = respelled(value)
    if value not in task_labels and task_labels.issuperset(names) and not _is_unknown(spec, value):
        value = _parsed(spec, value) or value
    matches = {index for index, name in enumerate(names) if name == value}
    if value in task_labels:
        matches |= {index for index, name in enumerate(names) if _parsed(spec, name) == value}
    if not matches:
        listed = ", ".join(sorted(names)[:MOST_LISTED]) + (", …" if len(names) > MOST_LISTED else "")
        raise ValueError(f"No passage has the {field} {value!r}. Those of the catalog are {listed}.")
    return matches


def _is_unknown(spec: TaskSpec | None, text: str) -> bool:
    """Return whether a task maps a label only because it maps all, and remarks on it."""
    return spec is not None and spec.remarks is not None and bool(spec.remarks([Segment(0.0, 1.0, text)], 1.0))


def _parsed(spec: object, text: str) -> str | None:
    """Return the label of a task that a text stands for, or `None` if it stands for none."""
    parse = getattr(spec, "parse", None)
    try:
        return text if parse is None else parse(text)
    except ValueError:
        return None
