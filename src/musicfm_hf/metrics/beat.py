"""Beats, as an `evaluate` module: `evaluate.load("…/metrics/beat.py")`. Thin over `musicfm_hf.tasks.beat.score`."""

import datasets
import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks import beat

_DESCRIPTION = """
F-measure of beats and of downbeats within 0.07 s, as mir_eval measures it: of the whole song, and without its first
5 s (trimmed).

beat_f, downbeat_f, beat_f_trimmed, downbeat_f_trimmed: means over songs; of downbeats over songs whose reference has
positions in the bar.
songs: the same of each song.
"""
_INPUTS = """
predictions, references: lists over songs of musicfm_hf.tasks.annotations.Beats, or of {"times", "positions"}: seconds,
and positions in the bar from 1, 0 where unknown.
"""


class Beat(songs.SongMetric):
    """Scores of `musicfm_hf.tasks.beat.score`, averaged over songs."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=songs.MIR_EVAL,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": songs.BEATS, "references": songs.BEATS}),
        )

    def _compute(self, predictions, references):
        scores = [
            beat.score(songs.to_beats(reference), songs.to_beats(prediction))
            for reference, prediction in zip(references, predictions, strict=True)
        ]
        names = ("beat_f", "downbeat_f", "beat_f_trimmed", "downbeat_f_trimmed")
        return {**songs.mean_over_songs(scores, names), "songs": scores}
