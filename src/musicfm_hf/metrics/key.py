"""Keys, as an `evaluate` module: `evaluate.load("…/metrics/key.py")`. Thin over `musicfm_hf.tasks.key.score`."""

import datasets
import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks import key

_DESCRIPTION = """
Weighted key score of mir_eval: 1 for the same key, 0.5 a fifth above, 0.3 relative, 0.2 parallel.

key_weighted: of the songs' keys, the mean over songs. key_frame: the mean over the time of a song, then over songs.
Songs whose reference names no key are left out of both.
songs: {"key_weighted", "key_frame"} of each song.
"""
_INPUTS = """
predictions, references: lists over songs of lists of (start in seconds, end in seconds, key), or of
{"starts", "ends", "labels"}; keys such as C, F#:min, Bb major.
keys (optional): the predicted key of each song, as from musicfm_hf.tasks.key.song_key; by default the one with most
seconds in its prediction.
"""


class Key(songs.SongMetric):
    """Scores of `musicfm_hf.tasks.key.score`, averaged over songs."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=songs.MIR_EVAL,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": songs.SEGMENTS, "references": songs.SEGMENTS}),
        )

    def _compute(self, predictions, references, keys=None):
        keys = [None] * len(references) if keys is None else keys
        if len(keys) != len(references):
            raise ValueError(f"`keys` must name one key for each of {len(references)} songs, got {len(keys)}.")
        scores = [
            key.score(songs.to_segments(reference), songs.to_segments(prediction), song_key)
            for reference, prediction, song_key in zip(references, predictions, keys, strict=True)
        ]
        return {**songs.mean_over_songs(scores, ("key_weighted", "key_frame")), "songs": scores}
