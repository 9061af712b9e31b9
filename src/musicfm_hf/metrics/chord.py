"""Chord scores as an `evaluate` module: `evaluate.load("…/metrics/chord.py")`; see `musicfm_hf.tasks.chord.score`."""

from typing import Any

import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks.chord import TASK

_DESCRIPTION = """
Weighted chord symbol recall of major, minor and no chord, and of the root, as in mir_eval.

majmin, root: means over songs with something to compare (seconds > 0).
majmin_by_duration: mean over songs, weighted by their duration.
songs: {"majmin", "root", "seconds"} of each song.
"""
_INPUTS = """
predictions, references: one entry per song, either a list of (start in seconds, end in seconds, label) or
{"starts", "ends", "labels"}. Labels are in the syntax of mir_eval.chord.
"""


class Chord(songs.SongMetric):
    """Scores of `musicfm_hf.tasks.chord.score`, averaged over songs."""

    def _info(self) -> evaluate.MetricInfo:
        return songs.segment_info(_DESCRIPTION, _INPUTS)

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        return songs.score_songs(TASK, map(songs.to_segments, references), map(songs.to_segments, predictions))
