"""
JAMS files of annotated songs (Humphrey et al., *JAMS: A JSON Annotated Music Specification for Reproducible MIR
Research*, ISMIR 2014), for other programs and data sets.

Beats are `beat_position`, or `beat` if a position is unknown; chords are `chord`, sections `segment_open`, keys
`key_mode`, tags `tag_open`, and the tempo is `tempo`. The confidence of an observation is its probability, or null if
it is unknown. All other results are in the sandbox `musicfm_hf` as in the JSON file of the song, and so are the
probabilities of downbeats, which are observations of beats.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import __version__
from ..tasks.annotations import Beats, Segment, read_beats, read_segments
from ..tasks.bar_positions import bar_lengths
from ..tasks.events import MIN_TAG_PROBABILITY
from ..tasks.jams import NAMESPACES, read_jams, read_sandbox
from ..training.files import readable_name, write_json

SANDBOX = "musicfm_hf"
VERSION = "0.3.5"  # of JAMS
TOOL = f"musicfm_hf {__version__}"

_NAMESPACES = {"chords": "chord", "sections": "segment_open", "keys": "key_mode"}
_BEAT_UNIT = 4  # beats are written as quarter notes: models do not tell which note value is the beat
_MODES = {"maj": "major", "min": "minor"}
_DOWNBEATS = "downbeat_probabilities"  # name in the sandbox
_MIN_CONFIDENCE = 1e-4  # observations with a confidence of 0 do not count


class JamsSong(Protocol):
    """The part of a [`SongAnnotation`] that is written."""

    duration: float
    probabilities: dict[str, np.ndarray]

    def get(self, name: str) -> Any:
        """Return the result with this name, or `None`."""

    def to_dict(self) -> dict[str, Any]:
        """Return all results as values for JSON."""


def write_jams(path: Path, song: JamsSong, title: str) -> None:
    """
    Write a song as JAMS. Of tags, only those with a probability of at least one half are written.

    Args:
        path: The file.
        song ([`SongAnnotation`]): The song.
        title (`str`): Title in the metadata.
    """
    annotations = []
    written = {"duration"}
    for column in ("beats", *_NAMESPACES, "tags", "tempo"):
        if (events := song.get(column)) is None:
            continue
        written.add(column)
        namespace, observations = _observations(column, events, song)
        annotations.append(
            {
                "namespace": namespace,
                "data": observations,
                "annotation_metadata": _metadata(),
                "sandbox": {},
                "time": 0.0,
                "duration": round(song.duration, 6),
            }
        )
    others = {name: values for name, values in song.to_dict().items() if name not in written}
    if (probabilities := song.probabilities.get("downbeats")) is not None:
        others[_DOWNBEATS] = np.round(probabilities, 4).tolist()
    metadata = {
        "title": readable_name(title),
        "artist": "",
        "release": "",
        "duration": round(song.duration, 6),
        "identifiers": {},
    }
    content = {
        "annotations": annotations,
        "file_metadata": metadata | {"jams_version": VERSION},
        "sandbox": {SANDBOX: others},
    }
    write_json(path, content, ascii_only=False)


def read_jams_song(path: Path) -> dict[str, Any]:
    """
    Read the results of a song from JAMS, of this package or of others, as the entries of the JSON file of a song.

    Raises:
        ValueError: if the file is malformed.
    """
    annotations, duration = read_jams(path)
    content: dict[str, Any] = {**read_sandbox(path, SANDBOX)}
    of_downbeats = content.pop(_DOWNBEATS, [])
    content["duration"] = duration or 0.0
    for column, names in NAMESPACES.items():
        present = [name for name in names if any(annotation.namespace == name for annotation in annotations)]
        if not present:
            continue
        filled = {annotation.namespace for annotation in annotations if annotation.observations}
        namespace = next(filter(filled.__contains__, present), present[0])
        rows = _read_rows(path, column, namespace)
        content[column] = _with_confidences(rows, annotations, namespace)
    for annotation in annotations:
        values = [value for _, _, value in annotation.observations]
        if annotation.namespace.startswith("tag_"):
            confidences = [1.0 if value is None else value for value in annotation.confidences]
            content["tags"] = content.get("tags", {}) | dict(zip(values, confidences, strict=True))
        elif annotation.namespace == "tempo" and values:
            content.setdefault("tempo", values[0])
    downbeats = [row for row in content.get("beats", []) if row["position"] == 1]
    if len(downbeats) == len(of_downbeats):
        for row, probability in zip(downbeats, of_downbeats, strict=True):
            row["downbeat_probability"] = probability
    return content


def _read_rows(path: Path, column: str, namespace: str) -> list[dict[str, Any]]:
    """Read beats or segments as the entry of a JSON file."""
    if column == "beats":
        beats = read_beats(path)
        pairs = zip(beats.times.tolist(), beats.positions.tolist(), strict=True)
        return [{"time": time, "position": position} for time, position in pairs]
    rows = [segment._asdict() for segment in read_segments(path, namespace)]
    return [{**row, "label": _from_key_mode(row["label"])} for row in rows] if column == "keys" else rows


def _with_confidences(rows: list[dict[str, Any]], annotations: Sequence[Any], namespace: str) -> list[dict[str, Any]]:
    """Add the confidences of the annotation with as many observations as `rows`, if it has them."""
    for annotation in annotations:
        if annotation.namespace == namespace and len(annotation.confidences) == len(rows):
            pairs = zip(rows, annotation.confidences, strict=True)
            return [row if value is None else {**row, "probability": value} for row, value in pairs]
    return rows


def _observations(column: str, events: Any, song: JamsSong) -> tuple[str, list[dict[str, Any]]]:
    """Return the namespace and the observations of a result."""
    if column == "tempo":
        return "tempo", [
            _observation(0.0, song.duration, round(float(events), 3), 1.0)
        ]  # the schema needs a confidence
    if column == "tags":
        tags = [(tag, value) for tag, value in events.items() if value >= MIN_TAG_PROBABILITY]
        return "tag_open", [_observation(0.0, song.duration, tag, value) for tag, value in tags]
    probabilities = song.probabilities.get(column)
    number = len(events.times) if isinstance(events, Beats) else len(events)
    confidences: Sequence[Any] = [None] * number
    if probabilities is not None and len(probabilities) == number:
        confidences = probabilities.tolist()
    if isinstance(events, Beats):
        namespace, values = _beat_values(events)
        rows = zip(events.times.tolist(), values, confidences, strict=True)
        return namespace, [_observation(time, 0.0, value, confidence) for time, value, confidence in rows]
    segments = [_label(column, segment) for segment in events]
    return _NAMESPACES[column], [
        _observation(start, end - start, label, confidence)
        for (start, end, label), confidence in zip(segments, confidences, strict=True)
    ]


def _observation(time: float, duration: float, value: Any, confidence: float | None) -> dict[str, Any]:
    """Return an observation, with times in seconds, rounded to nanoseconds so that neighboring segments meet."""
    if confidence is not None:
        confidence = max(round(float(confidence), 4), _MIN_CONFIDENCE)
    return {"time": round(time, 9), "duration": round(duration, 9), "value": value, "confidence": confidence}


def _beat_values(beats: Beats) -> tuple[str, list[Any]]:
    """Return the namespace and the values of beats. Beats before the first downbeat are in measure 0."""
    positions = beats.positions.tolist()
    if not all(positions):
        return "beat", [position or None for position in positions]
    measures = np.cumsum(beats.positions == 1).tolist()
    lengths = bar_lengths(beats.positions).tolist()
    return "beat_position", [
        {"position": position, "measure": measure, "num_beats": length, "beat_units": _BEAT_UNIT}
        for position, measure, length in zip(positions, measures, lengths, strict=True)
    ]


def _label(column: str, segment: Segment) -> Segment:
    """Return a segment with the label that JAMS uses."""
    tonic, _, mode = segment.label.partition(":")
    return segment._replace(label=f"{tonic}:{_MODES[mode]}") if column == "keys" and mode in _MODES else segment


def _from_key_mode(label: str) -> str:
    """Return the label of the package for a key of JAMS."""
    tonic, _, mode = label.partition(":")
    short = next((short for short, name in _MODES.items() if name == mode), mode)
    return f"{tonic}:{short}" if short else label


def _metadata() -> Mapping[str, Any]:
    """Return the metadata of an annotation."""
    return {
        "curator": {"name": "", "email": ""},
        "annotator": {},
        "version": __version__,
        "corpus": "",
        "annotation_tools": TOOL,
        "annotation_rules": "",
        "validation": "",
        "data_source": "program",
    }
