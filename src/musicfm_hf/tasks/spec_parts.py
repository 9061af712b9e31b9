"""Parts of a [`TaskSpec`]: scores of songs and of sets of songs, and strips in pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Score:
    """A score listed in model cards: its type on the Hub, and its label."""

    kind: str
    label: str


@dataclass(frozen=True)
class SetScores:
    """
    Scores that are defined only for a set of songs, such as averages over tags. All functions take the scores of songs
    that [`TaskSpec.score_song`] returns.

    Attributes:
        average: Songs → `{score: value}`.
        draw: `(songs, draws=1000)` → `{score: (draws,)}`: scores of bootstrap samples, each with the same number of
            songs, drawn with replacement. Calls with the same number of songs draw the same samples, so that systems
            can be compared draw by draw.
        details: Songs → `{score: {…}}`: further entries of the results, such as the score of each tag.
        labels: A song → the labels that the system predicts. Systems with different labels cannot be compared.
    """

    average: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]]
    draw: Callable[..., dict[str, np.ndarray]]
    details: Callable[[Sequence[Mapping[str, Any]]], dict[str, dict[str, Any]]]
    labels: Callable[[Mapping[str, Any]], tuple[str, ...]]


@dataclass(frozen=True)
class Strip:
    """
    The strip of a task in the picture of a song.

    Attributes:
        label (`str`, *optional*): Text to the left of the strip; the name of the task by default.
        drawing (`str`): A kind of drawing in `inference/drawing.py`: `labels`, `beats`, `chords` or `keys`.
        height (`float`): Height in inches.
        above (`bool`): Draw the strip above the spectrogram instead of below it.
        in_overview (`bool`): Also draw the strip in the overview of audio that is too long to be drawn in detail.
    """

    label: str | None = None
    drawing: str = "labels"
    height: float = 0.24
    above: bool = False
    in_overview: bool = True
