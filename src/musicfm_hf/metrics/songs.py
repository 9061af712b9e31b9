"""What the `evaluate` modules share: songs in the columns of our data sets, and means over songs."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import datasets
import evaluate
import numpy as np

from musicfm_hf.tasks.annotations import Beats, Segment

BEATS = {"times": [datasets.Value("float64")], "positions": [datasets.Value("int64")]}
SEGMENTS = {
    "starts": [datasets.Value("float64")],
    "ends": [datasets.Value("float64")],
    "labels": [datasets.Value("string")],
}
MIR_EVAL = """
@inproceedings{raffel2014mireval,
  title = {mir\\_eval: A Transparent Implementation of Common MIR Metrics},
  author = {Raffel, Colin and McFee, Brian and Humphrey, Eric J. and Salamon, Justin and Nieto, Oriol and
            Liang, Dawen and Ellis, Daniel P. W.},
  booktitle = {Proceedings of the 15th International Society for Music Information Retrieval Conference (ISMIR)},
  year = {2014}
}
"""


class SongMetric(evaluate.Metric):
    """
    A metric over songs. Predictions and references are what `events` of the task returns (`Beats` or a list of
    `Segment`), or the column of a data set that holds the same.
    """

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add a song."""
        super().add(prediction=_columns(prediction), reference=_columns(reference), **kwargs)

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add songs."""
        if predictions is None or references is None or len(predictions) != len(references):
            counts = [0 if songs is None else len(songs) for songs in (predictions, references)]
            raise ValueError(f"Each song needs a prediction and a reference, got {counts[0]} and {counts[1]}.")
        predictions, references = ([_columns(song) for song in songs] for songs in (predictions, references))
        super().add_batch(predictions=predictions, references=references, **kwargs)


def to_beats(song: Mapping[str, Any]) -> Beats:
    """Beats from the columns of a song."""
    return Beats(np.array(song["times"], dtype=np.float64), np.array(song["positions"], dtype=np.int64))


def to_segments(song: Mapping[str, Any]) -> list[Segment]:
    """Segments from the columns of a song."""
    return [Segment(*row) for row in zip(song["starts"], song["ends"], song["labels"], strict=True)]


def mean_over_songs(songs: Iterable[Mapping[str, float]], names: Iterable[str]) -> dict[str, float]:
    """Of each score, the mean over the songs that have it: those for which it is not nan. Where none has, nan."""
    songs = list(songs)
    values = {name: [song[name] for song in songs if not math.isnan(song[name])] for name in names}
    return {name: sum(found) / len(found) if found else math.nan for name, found in values.items()}


def _columns(song: Any) -> Mapping[str, Any]:
    """A song as it is stored."""
    if song is None:
        raise ValueError("A song has no annotation (None). Leave out songs that were not annotated.")
    if isinstance(song, Beats):
        return song._asdict()
    if isinstance(song, Mapping):
        return song
    return {name: [segment[index] for segment in song] for index, name in enumerate(SEGMENTS)}
