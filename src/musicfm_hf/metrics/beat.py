"""Beat scores as an `evaluate` module: `evaluate.load("…/metrics/beat.py")`; see `musicfm_hf.tasks.beat.score`."""

from typing import Any

import datasets
import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks.beat import TASK

_DESCRIPTION = """
F-measures of beats and of downbeats within 0.07 s, as in mir_eval: over the whole song, and without its first 5 s
(trimmed).

beat_f, downbeat_f, beat_f_trimmed, downbeat_f_trimmed: means over songs. Scores of downbeats are averaged over songs
whose reference has positions in the bar.
songs: the scores of each song.
"""
_INPUTS = """
predictions, references: one entry per song, either musicfm_hf.tasks.annotations.Beats or {"times", "positions"}: times
in seconds, and positions in the bar from 1, or 0 if unknown.
"""


class Beat(songs.SongMetric):
    """Scores of `musicfm_hf.tasks.beat.score`, averaged over songs."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=songs.MIR_EVAL,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": songs.BEATS, "references": songs.BEATS}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, Any]:
        return songs.score_songs(TASK, map(songs.to_beats, references), map(songs.to_beats, predictions))
