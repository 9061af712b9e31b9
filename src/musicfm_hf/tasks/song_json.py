"""The JSON files of annotated songs, which [`SongAnnotation.save`] writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .annotations import SONG_COLUMNS, Beats
from .events import from_json
from .values import read_text, to_number

# Entries that are neither beats, segments nor tags.
_OTHERS = frozenset(["duration", "similarities", "tempo", "tempo_curve"])


def read_song_json(path: Path) -> dict[str, Any]:
    """
    Read the JSON file of a song, without interpreting its entries.

    Raises:
        ValueError: if the file is not JSON, or has no `duration`.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if not is_song(content):
        raise ValueError(
            f"{path} is not the annotation of a song: it needs an entry `duration` in seconds, as the JSON files of "
            "`musicfm annotate` have."
        )
    return content


def is_song(content: Any) -> bool:
    """Return whether parsed JSON is the annotation of a song: an object with a duration and results."""
    if not isinstance(content, dict):
        return False
    duration = content.get("duration")
    return isinstance(duration, int | float) and not isinstance(duration, bool) and duration >= 0


def parse_results(content: dict[str, Any], path: Path) -> dict[str, tuple[Any, np.ndarray | None]]:
    """
    Convert the entries of [`read_song_json`] to events, each with the probabilities of its events or `None`.

    Raises:
        ValueError: if an entry is malformed; the message names it.
    """
    results = {name: from_json(values, f"{path}, {name}") for name, values in content.items() if name not in _OTHERS}
    if "beats" in results and not isinstance(results["beats"][0], Beats):
        results["beats"] = (Beats(np.empty(0), np.empty(0, np.int64)), None)  # no beats: an empty list
    return results


def parse_numbers(values: Any, place: str) -> dict[str, float]:
    """Convert similarities with tags."""
    if not isinstance(values, dict):
        raise ValueError(f"{place}: this entry must have tags with numbers, got {str(values)[:60]!r}.")
    return {tag: to_number(number, f"the similarity with {tag}", place, "a number") for tag, number in values.items()}


def labeled_columns(path: Path) -> tuple[str, ...]:
    """
    Return the columns of labeled data that the JSON file of a song has; none if the file is other JSON, such as the
    metadata of a recording. An entry without beats or segments does not count.
    """
    try:
        content = json.loads(read_text(path))
    except ValueError:
        return ()
    if not is_song(content):
        return ()
    return tuple(column for column in SONG_COLUMNS if _has_events(content.get(column)))


def _has_events(values: Any) -> bool:
    """Return whether an entry has the shape of tags with probabilities, or of at least one beat or segment."""
    return isinstance(values, dict) or (isinstance(values, list) and bool(values) and isinstance(values[0], dict))


def parse_confidence(content: dict[str, Any], path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """
    Read the probabilities of downbeats, which have no entry of their own, and the marks of uncertain items.

    Returns:
        Probabilities and marks by result; of results that have any.

    Raises:
        ValueError: if a probability is not a number, or a mark not true or false.
    """
    probabilities, uncertain = {}, {}
    lists = {name: values for name, values in content.items() if name not in _OTHERS and isinstance(values, list)}
    rows_of = {name: [(row, "") for row in values] for name, values in lists.items()}
    rows_of["downbeats"] = [(row, "downbeat_") for row in lists.get("beats", []) if row.get("position") == 1]
    for name, rows in rows_of.items():
        marks = [row.get(f"{prefix}uncertain", False) for row, prefix in rows]
        if not all(isinstance(mark, bool) for mark in marks):
            raise ValueError(f"{path}, {name}: `uncertain` must be true or false.")
        if any(marks):
            uncertain[name] = np.array(marks)
    values = [row.get("downbeat_probability") for row, _ in rows_of["downbeats"]]
    if values and None not in values:
        place = f"{path}, beats"
        numbers = [to_number(value, "the probability of a downbeat", place, "a number") for value in values]
        probabilities["downbeats"] = np.array(numbers)
    return probabilities, uncertain
