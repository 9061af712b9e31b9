"""
Operations on annotations and predictions of every kind: [`Beats`], a list of [`Segment`], tags (annotated: a list of
strings; predicted: a dictionary from tags to probabilities), or one label as a string; and, predicted only, one number
or an array of numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..training.files import write_text
from .annotations import Beats, Segment, write_beats, write_segments

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


def to_json(events: Any, probabilities: np.ndarray | None = None) -> Any:
    """
    Convert events to values for JSON, with times in seconds, rounded to microseconds. Each beat or segment also gets
    its `probability` if `probabilities` has the same length. One number is rounded to thousandths, and an array is a
    list of rows.
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
    if probabilities is not None and len(probabilities) == len(rows):
        for row, probability in zip(rows, probabilities, strict=True):
            row["probability"] = round(float(probability), 4)
    return rows


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
