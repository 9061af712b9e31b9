"""
Structure scores as an `evaluate` module: `evaluate.load("…/metrics/structure.py")`; see
`musicfm_hf.tasks.structure.score`.
"""

from typing import Any

import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks.structure import TASK

_DESCRIPTION = """
Hits of segment boundaries within 0.5 s and 3 s, as in mir_eval, and the share of time with the right function.

hr05_f, hr05_p, hr05_r, hr3_f, frame_accuracy: means over songs.
songs: the scores of each song.
"""
_INPUTS = """
predictions, references: one entry per song, either a list of (start in seconds, end in seconds, label) or
{"starts", "ends", "labels"}. musicfm_hf.tasks.structure.function_of maps labels to the seven functions.
"""


class Structure(songs.SongMetric):
    """Scores of `musicfm_hf.tasks.structure.score`, averaged over songs."""

    def _info(self) -> evaluate.MetricInfo:
        return songs.segment_info(_DESCRIPTION, _INPUTS)

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        return songs.score_songs(TASK, map(songs.to_segments, references), map(songs.to_segments, predictions))
