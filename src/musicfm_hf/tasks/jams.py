"""
Annotations of JAMS files (Humphrey et al., *JAMS: A JSON Annotated Music Specification for Reproducible MIR Research*,
ISMIR 2014). Error messages name the file and the observation, counted from 1.

An observation with a confidence of 0 is left out: its annotator did not observe it. In data sets of tags, such an
observation lists a tag that the song does not have. Without a confidence, or with null, an observation counts.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .values import read_text, to_confidence, to_number

# Namespaces by column of labeled data; the first one with observations is read.
NAMESPACES = {
    "beats": ("beat_position", "beat"),
    "chords": ("chord", "chord_harte"),
    "sections": ("segment_salami_function", "segment_open", "segment_tut", "segment_salami_upper"),
    "keys": ("key_mode",),
}


class JamsAnnotation(NamedTuple):
    """An annotation of a JAMS file."""

    namespace: str
    observations: list[tuple]  # (time, duration, value) with a confidence above 0; times are checked
    places: list[str]  # name of each observation in error messages
    num_listed: int  # number of observations in the file, with any confidence
    confidences: list[float | None]  # of the observations


def read_jams(path: Path) -> tuple[list[JamsAnnotation], float | None]:
    """
    Read the annotations of a JAMS file, and the duration of its audio in seconds if the file has it.

    Raises:
        ValueError: if the file is malformed.
    """
    try:
        content = json.loads(read_text(path))
        duration = (content.get("file_metadata") or {}).get("duration")
        annotations = [
            _parse_annotation(annotation, f"{path}, annotation {number}")
            for number, annotation in enumerate(content["annotations"], 1)
        ]
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not JAMS ({type(error).__name__}: {error}).") from error
    return annotations, duration if isinstance(duration, int | float) and duration > 0 else None


def read_sandbox(path: Path, name: str) -> dict[str, Any]:
    """Return an entry of the sandbox of a JAMS file that [`read_jams`] has read; empty if it does not exist."""
    sandbox = json.loads(read_text(path)).get("sandbox")
    entry = sandbox.get(name) if isinstance(sandbox, dict) else None
    return entry if isinstance(entry, dict) else {}


def pick_annotation(annotations: list[JamsAnnotation], namespaces: Sequence[str], path: Path) -> JamsAnnotation:
    """
    Return the first annotation that is not empty, trying these namespaces in order. If all are empty, return the first
    annotation.

    Raises:
        ValueError: if no annotation has one of these namespaces.
    """
    candidates = [
        annotation for namespace in namespaces for annotation in annotations if annotation.namespace == namespace
    ]
    if not candidates:
        raise ValueError(f"{path} has no annotation {' or '.join(namespaces)}, only {name_all(annotations)}.")
    return next((annotation for annotation in candidates if annotation.observations), candidates[0])


def only_namespace(annotations: list[JamsAnnotation], path: Path) -> str:
    """
    Return the namespace of the annotations with text labels, ignoring tags and lyrics.

    Raises:
        ValueError: if no such annotation exists, or if they have different namespaces.
    """
    labeled = [
        annotation
        for annotation in annotations
        if not annotation.namespace.startswith(("tag_", "lyrics"))
        and any(isinstance(value, str) for _, _, value in annotation.observations)
    ]
    if len({annotation.namespace for annotation in labeled}) != 1:
        raise ValueError(
            f"{path} has {name_all(labeled or annotations)}: choose the annotation to read by `namespace`."
        )
    return labeled[0].namespace


def name_all(annotations: list[JamsAnnotation]) -> str:
    """List the namespaces of annotations, for messages."""
    return ", ".join(sorted({annotation.namespace for annotation in annotations})) or "none"


def _parse_annotation(annotation: dict, place: str) -> JamsAnnotation:
    """Parse one annotation. JAMS allows a list of observations, or one list for each field."""
    data, namespace = annotation["data"], annotation["namespace"]
    if isinstance(data, dict):
        confidences = data.get("confidence") or [None] * len(data["time"])
        rows = list(zip(data["time"], data["duration"], data["value"], confidences, strict=True))
    else:
        rows = [(row["time"], row["duration"], row["value"], row.get("confidence")) for row in data]
    observations, places, confidences = [], [], []
    for number, (time, duration, value, confidence) in enumerate(rows, 1):
        where = f"{place} ({namespace}), observation {number}"
        if to_confidence(confidence, where) > 0:
            observations.append((to_number(time, "the time", where), duration, value))
            places.append(where)
            confidences.append(confidence)
    return JamsAnnotation(namespace, observations, places, len(rows), confidences)
