"""Code shared by the `evaluate` modules: the columns of songs in our data sets, and averages over songs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from musicfm_hf.tasks.annotations import Beats, Segment
from musicfm_hf.tasks.spec import TaskSpec

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
    A metric over songs. Predictions and references are `Beats` or lists of `Segment`, as decoded by tasks, or the
    corresponding columns of a data set.
    """

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add a song."""
        super().add(prediction=_columns(prediction), reference=_columns(reference), **kwargs)

    def add_batch(
        self, *, predictions: Sequence[Any] | None = None, references: Sequence[Any] | None = None, **kwargs: Any
    ) -> None:
        """Add songs."""
        if predictions is None or references is None or len(predictions) != len(references):
            counts = [0 if songs is None else len(songs) for songs in (predictions, references)]
            raise ValueError(f"Each song needs a prediction and a reference, got {counts[0]} and {counts[1]}.")
        predictions, references = ([_columns(song) for song in songs] for songs in (predictions, references))
        super().add_batch(predictions=predictions, references=references, **kwargs)


def segment_info(description: str, inputs: str) -> evaluate.MetricInfo:
    """Return the description of a metric whose predictions and references are segments, scored by mir_eval."""
    return evaluate.MetricInfo(
        description=description,
        citation=MIR_EVAL,
        inputs_description=inputs,
        features=datasets.Features({"predictions": SEGMENTS, "references": SEGMENTS}),
    )


def to_beats(song: Mapping[str, Any]) -> Beats:
    """Convert the column value of a song to beats."""
    return Beats(np.array(song["times"], dtype=np.float64), np.array(song["positions"], dtype=np.int64))


def to_segments(song: Mapping[str, Any]) -> list[Segment]:
    """Convert the column value of a song to segments."""
    return [Segment(*row) for row in zip(song["starts"], song["ends"], song["labels"], strict=True)]


def score_songs(
    task: TaskSpec,
    references: Iterable[Any],
    predictions: Iterable[Any],
    results: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """
    Score songs and average their scores.

    Args:
        references, predictions: Annotations and events of songs.
        results (`list[dict[str, Any]]`, *optional*): Further results of each song, such as its `key`, for tasks that
            score them.

    Returns:
        The averages of the task, and `songs`, the scores of each song.
    """
    pairs = list(zip(references, predictions, strict=True))
    values = [None] * len(pairs) if results is None else results
    scores = [task.score_song(*pair, value) for pair, value in zip(pairs, values, strict=True)]
    return {**task.average_scores(scores), "songs": scores}


def _columns(song: Any) -> Mapping[str, Any]:
    """Convert beats or segments to the column value of a song."""
    if song is None:
        raise ValueError("A song has no annotation (None). Leave out songs that were not annotated.")
    if isinstance(song, Beats):
        return song._asdict()
    if isinstance(song, Mapping):
        return song
    return {name: [segment[index] for segment in song] for index, name in enumerate(SEGMENTS)}
