"""Chords, as an `evaluate` module: `evaluate.load("…/metrics/chord.py")`. Thin over `musicfm_hf.tasks.chord.score`."""

import datasets
import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks import chord

_DESCRIPTION = """
Weighted chord symbol recall of major, minor and no chord, and of the root, as mir_eval measures it.

majmin, root: means over songs that have something to compare (seconds > 0).
majmin_by_duration: mean over songs weighted by their seconds, that is, over the time of all songs.
songs: {"majmin", "root", "seconds"} of each song.
"""
_INPUTS = """
predictions, references: lists over songs of lists of (start in seconds, end in seconds, label), or of
{"starts", "ends", "labels"}. Labels in the syntax of mir_eval.chord.
"""


class Chord(songs.SongMetric):
    """Scores of `musicfm_hf.tasks.chord.score`, averaged over songs."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=songs.MIR_EVAL,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": songs.SEGMENTS, "references": songs.SEGMENTS}),
        )

    def _compute(self, predictions, references):
        scores = [
            chord.score(songs.to_segments(reference), songs.to_segments(prediction))
            for reference, prediction in zip(references, predictions, strict=True)
        ]
        compared = [song for song in scores if song["seconds"] > 0]
        seconds = sum(song["seconds"] for song in compared)
        right = sum(song["majmin"] * song["seconds"] for song in compared)
        return {
            **songs.mean_over_songs(compared, ("majmin", "root")),
            "majmin_by_duration": right / seconds if compared else float("nan"),
            "songs": scores,
        }
