"""Key scores as an `evaluate` module: `evaluate.load("…/metrics/key.py")`; see `musicfm_hf.tasks.key.score`."""

from typing import Any

import datasets
import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks.key import TASK

_DESCRIPTION = """
Weighted key score of mir_eval: 1 for the same key, 0.5 for a fifth above, 0.3 for the relative, 0.2 for the parallel
key.

key_weighted: of the keys of songs, the mean over songs. key_frame: the mean over the time of a song, then over songs.
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

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=songs.MIR_EVAL,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": songs.SEGMENTS, "references": songs.SEGMENTS}),
        )

    def _compute(self, predictions: list, references: list, keys: list[str] | None = None) -> dict[str, Any]:
        if keys is not None and len(keys) != len(references):
            raise ValueError(f"`keys` must name one key for each of {len(references)} songs, got {len(keys)}.")
        return songs.score_songs(
            TASK, map(songs.to_segments, references), map(songs.to_segments, predictions), song_labels=keys
        )
