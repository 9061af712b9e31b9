"""
Structure, as an `evaluate` module: `evaluate.load("…/metrics/structure.py")`. Thin over
`musicfm_hf.tasks.structure.score`.
"""

import datasets
import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks import structure

_DESCRIPTION = """
Hits of segment boundaries within 0.5 s and 3 s, as mir_eval measures them, and the share of time with the right
function.

hr05_f, hr05_p, hr05_r, hr3_f, frame_accuracy: means over songs.
songs: the same of each song.
"""
_INPUTS = """
predictions, references: lists over songs of lists of (start in seconds, end in seconds, label), or of
{"starts", "ends", "labels"}. Labels are mapped to the seven functions by musicfm_hf.tasks.structure.function_of.
"""


class Structure(songs.SongMetric):
    """Scores of `musicfm_hf.tasks.structure.score`, averaged over songs."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=songs.MIR_EVAL,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": songs.SEGMENTS, "references": songs.SEGMENTS}),
        )

    def _compute(self, predictions, references):
        scores = [
            structure.score(songs.to_segments(reference), songs.to_segments(prediction))
            for reference, prediction in zip(references, predictions, strict=True)
        ]
        names = ("hr05_f", "hr05_p", "hr05_r", "hr3_f", "frame_accuracy")
        return {**songs.mean_over_songs(scores, names), "songs": scores}
