"""Beat scores as an `evaluate` module: `evaluate.load("…/metrics/beat.py")`; see `musicfm_hf.tasks.beat.score`."""

from typing import Any

import datasets
import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks.beat import TASK

_DESCRIPTION = """
F-measures of beats and of downbeats within 0.07 s, as in mir_eval: over the whole song, and without its first 5 s
(trimmed). Tempo and time signature that follow from the beats.

beat_f, downbeat_f, beat_f_trimmed, downbeat_f_trimmed: means over songs. Scores of downbeats are averaged over songs
whose reference has positions in the bar.
tempo_acc1, tempo_acc2: share of songs with the right tempo within 4 %; the second one also accepts 2, 3, 1/2 and 1/3
times the tempo.
meter_acc: share of songs with the right time signature, that of the longest time. meter_time: share of the time with
the right time signature, averaged over songs. Songs whose reference has no complete bar are left out of both.
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
