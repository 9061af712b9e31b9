"""
Operations on annotations and predictions of every kind: [`Beats`], a list of [`Segment`], tags (annotated: a list of
strings; predicted: a dictionary from tags to probabilities), or one label as a string; and, predicted only, one number
or an array of numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..training.files import write_text
from .annotations import Beats, Segment, check_beats, check_segments, write_beats, write_segments
from .values import to_label, to_number, to_position

MIN_TAG_PROBABILITY = 0.5  # of the tags that are written to a `.tags` file


def is_empty(events: Any) -> bool:
    """Return whether events contain no beat, segment or tag."""
    return len(events.times if isinstance(events, Beats) else events) == 0


def comparable(events: Any) -> Any:
    """Return events without arrays, so that equal events have the same `repr`."""
    return [values.tolist() for values in events] if isinstance(events, Beats) else events


def stretch(events: Any, tempo: float) -> Any:
    """Divide all times by `tempo`, as in audio that is played faster by this factor. Tags stay as they are."""
    if isinstance(events, Beats):
        return events._replace(times=events.times / tempo)
    if tempo == 1.0:
        return events
    return [
        entry._replace(start=entry.start / tempo, end=entry.end / tempo) if isinstance(entry, Segment) else entry
        for entry in events
    ]


def fit_to_audio(events: Any, probabilities: np.ndarray | None, duration: float) -> tuple[Any, np.ndarray | None]:
    """
    Make decoded events end with the audio, because the last label frame ends slightly before or after it.

    Args:
        events: Output of `TaskSpec.decode`.
        probabilities (`np.ndarray` of shape `(events,)`, *optional*): Probability of each event.
        duration (`float`): Seconds of audio.

    Returns:
        The events and their probabilities. Beats after the end are removed; if only one beat remains, it is removed
        too. The last segment ends exactly at `duration`.
    """
    if isinstance(events, Beats):
        inside = events.times <= duration
        inside &= inside.sum() > 1
        events = Beats(events.times[inside], events.positions[inside])
        return events, None if probabilities is None else probabilities[inside]
    if isinstance(events, Mapping):
        return events, probabilities
    segments = [segment for segment in events if segment.start < duration]
    segments[-1:] = [segment._replace(end=duration) for segment in segments[-1:]]
    return segments, None if probabilities is None else probabilities[: len(segments)]


def to_json(events: Any, probabilities: np.ndarray | None = None, uncertain: np.ndarray | None = None) -> Any:
    """
    Convert events to values for JSON, with times in seconds, rounded to microseconds. Each beat or segment also gets
    its `probability` if `probabilities` has the same length, and `uncertain: true` if it is marked in `uncertain`. One
    number is rounded to thousandths, and an array is a list of rows.
    """
    if isinstance(events, str):
        return events
    if isinstance(events, float):
        return round(events, 3)
    if isinstance(events, np.ndarray):
        return np.round(events, 6).tolist()
    if isinstance(events, Mapping):
        return dict(events)
    rows: list[dict[str, Any]]
    if isinstance(events, Beats):
        pairs = zip(events.times, events.positions, strict=True)
        rows = [{"time": round(float(time), 6), "position": int(position)} for time, position in pairs]
    else:
        rows = [{"start": round(start, 6), "end": round(end, 6), "label": label} for start, end, label in events]
    add_confidence(rows, probabilities, uncertain)
    return rows


def add_confidence(
    rows: Sequence[dict[str, Any]],
    probabilities: np.ndarray | None,
    uncertain: np.ndarray | None,
    prefix: str = "",
) -> None:
    """
    Add probabilities and marks to rows for JSON, unless there are more or fewer of them than rows.

    Args:
        prefix (`str`): Beginning of the keys, such as `downbeat_`.
    """
    if probabilities is not None and len(probabilities) == len(rows):
        for row, probability in zip(rows, probabilities, strict=True):
            row[f"{prefix}probability"] = round(float(probability), 4)
    if uncertain is not None and len(uncertain) == len(rows):
        for row, is_uncertain in zip(rows, uncertain, strict=True):
            if is_uncertain:
                row[f"{prefix}uncertain"] = True


def from_json(values: Any, place: str) -> tuple[Any, np.ndarray | None]:
    """
    Convert the output of [`to_json`] back to events.

    Args:
        values: Entry of a JSON file.
        place (`str`): Name of the entry in error messages.

    Returns:
        The events, and the probability of each, or `None` if not all of them have one.

    Raises:
        ValueError: if the entry is not a text, tags with probabilities, beats or segments, or if beats or segments are
            not in order.
    """
    if isinstance(values, str):
        return values, None
    if isinstance(values, Mapping):
        return _to_tags(values, place), None
    if not isinstance(values, list) or not all(isinstance(row, Mapping) for row in values):
        raise ValueError(f"{place}: this entry must be a list of beats or segments, got {str(values)[:60]!r}.")
    places = [f"{place}, item {number}" for number in range(1, len(values) + 1)]
    rows = list(zip(values, places, strict=True))
    events: Any
    if any("time" in row for row in values):
        times = [to_number(row.get("time"), "the time", where) for row, where in rows]
        positions = [to_position(row.get("position"), where) for row, where in rows]
        events = Beats(np.array(times, np.float64), np.array(positions, np.int64))
        check_beats(events, places.__getitem__)
    else:
        events = [
            Segment(
                to_number(row.get("start"), "the start", where),
                to_number(row.get("end"), "the end", where),
                to_label(row.get("label"), where),
            )
            for row, where in rows
        ]
        check_segments(events, places.__getitem__)
    probabilities = [row.get("probability") for row in values]
    if not values or None in probabilities:
        return events, None
    pairs = zip(probabilities, places, strict=True)
    return events, np.array([to_number(value, "the probability", where, "a number") for value, where in pairs])


def _to_tags(values: Mapping[str, Any], place: str) -> dict[str, float]:
    """Convert tags with probabilities."""
    return {tag: to_number(value, f"the probability of {tag}", place, "a number") for tag, value in values.items()}


def file_format(events: Any) -> str | None:
    """Return the format in which events are written in addition to JSON: `beats`, `lab`, `tags`, or `None`."""
    if isinstance(events, str | float | np.ndarray):
        return None
    return "beats" if isinstance(events, Beats) else "tags" if isinstance(events, Mapping) else "lab"


def write_events(path: Path, events: Any) -> None:
    """
    Write events to a file in their [`file_format`], which [`musicfm_hf.tasks.annotations`] reads. Only tags with a
    probability of at least one half are written.

    Raises:
        ValueError: if the events are not in order; see [`check_beats`] and [`check_segments`].
    """
    if isinstance(events, Beats):
        write_beats(path, events)
    elif isinstance(events, Mapping):
        tags = (tag for tag, probability in events.items() if probability >= MIN_TAG_PROBABILITY)
        write_text(path, "".join(f"{tag}\n" for tag in tags))
    else:
        write_segments(path, events)
