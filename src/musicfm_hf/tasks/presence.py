"""
Presence of music: music, with or without speech over it, or no music. Frame j covers [j, j + 1) / rate seconds.

Annotations may name the sound: `speech`, `noise`, `applause`, `sounds` and `silence` are no music, and
`music and speech` is music. Scores are shares of time, and F-measures over the time of all songs, as in the
evaluations of music and speech detection in MIREX.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import spans
from .annotations import Segment
from .averages import mean_over_songs
from .spec import Score, Strip, TaskSpec

MUSIC, NO_MUSIC = LABELS = ("music", "no music")
SOUNDS = {"music and speech": MUSIC} | dict.fromkeys(("speech", "noise", "applause", "sounds", "silence"), NO_MUSIC)


def label_of(text: str) -> str:
    """
    Return `music` or `no music` for either of them, or for a kind of sound.

    Raises:
        ValueError: if the text is neither.
    """
    if text in LABELS:
        return text
    if text not in SOUNDS:
        raise ValueError(f"{text!r} is not one of {', '.join([*LABELS, *SOUNDS])}.")
    return SOUNDS[text]


def events(logits: np.ndarray, frame_rate: float, min_seconds: float = 1.0, threshold: float = 0.5) -> list[Segment]:
    """
    Decode a whole song: the most likely sequence of music and no music in which each lasts at least `min_seconds`; see
    [`spans.decode`].

    Args:
        threshold (`float`): Probability of no music from which a frame alone counts as no music. With a high one,
            quiet and sparse music is rarely taken for something else.

    Raises:
        ValueError: if logits have another shape than `(frames, 2)` or are not finite, or a setting is out of range.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"`threshold` is a probability between 0 and 1, got {threshold}.")
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim == 2 and logits.shape[1] == len(LABELS):
        logits = logits + np.array([math.log(threshold / (1 - threshold)), 0.0])
    return spans.decode(logits, LABELS, frame_rate, min_seconds)


def music_parts(segments: Sequence[Segment]) -> list[bool]:
    """Return whether each segment is music."""
    return [label_of(segment.label) == MUSIC for segment in segments]


def score(reference: Sequence[Segment], estimate: Sequence[Segment]) -> dict[str, float]:
    """
    Compare one song with its annotation.

    Returns:
        `accuracy`, the share of the annotated time that is right; and the seconds from which [`average`] computes
        F-measures: `music_right`, `music_annotated` and `music_estimated`, and the same for `no_music`. All are nan
        without a reference.

    Raises:
        ValueError: if segments are not in order, or a label is unknown.
    """
    names = [f"{label}_{side}" for label in ("music", "no_music") for side in ("right", "annotated", "estimated")]
    if not reference:
        return dict.fromkeys(["accuracy", *names], float("nan"))
    seconds, labels, estimated = spans.pair(reference, estimate, "", NO_MUSIC)
    known = np.array([bool(label) for label in labels])
    ours = np.array([label_of(label) == MUSIC for label in estimated])
    theirs = np.array([bool(label) and label_of(label) == MUSIC for label in labels])
    scores = {"accuracy": float(seconds[known & (ours == theirs)].sum() / seconds[known].sum())}
    for label, (found, annotated) in {"music": (ours, theirs), "no_music": (~ours, ~theirs)}.items():
        parts = {"right": found & annotated, "annotated": annotated, "estimated": found}
        scores |= {f"{label}_{side}": float(seconds[known & part].sum()) for side, part in parts.items()}
    return scores


def average(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """
    Return the mean accuracy of songs, and `music_f` and `no_music_f`, the F-measures over the time of all songs; nan
    if neither the annotations nor the estimates have any.
    """
    averages = {"accuracy": mean_over_songs([{"accuracy": row["accuracy"]} for row in rows])["accuracy"]}
    for label in ("music", "no_music"):
        right, annotated, estimated = (
            float(np.nansum([row[f"{label}_{side}"] for row in rows])) for side in ("right", "annotated", "estimated")
        )
        total = annotated + estimated
        averages[f"{label}_f"] = 2 * right / total if total else float("nan")
    return averages


TASK = TaskSpec(
    name="presence",
    column="music",
    order=5,
    labels=LABELS,
    label_rate=5.0,
    crop_seconds=12.0,
    parse=label_of,
    resamplable=True,
    events=events,
    music_parts=music_parts,
    silence=spans.whole_song(NO_MUSIC),
    metric="accuracy",
    scores={
        "accuracy": Score("accuracy", "time that is correctly classified as music or no music"),
        "music_f": Score("f1", "F-measure of music, over the time of all songs"),
        "no_music_f": Score("f1", "F-measure of no music, over the time of all songs"),
    },
    score=score,
    average=average,
    about="Music, with or without speech over it, or no music",
    limits="It knows the kinds of noise, speech and music of its training data.",
    strip=Strip("music", height=0.14),
)
