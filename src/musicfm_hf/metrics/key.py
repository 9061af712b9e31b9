"""Key scores as an `evaluate` module: `evaluate.load("…/metrics/key.py")`; see `musicfm_hf.tasks.key.score`."""

from typing import Any

import evaluate

from musicfm_hf.metrics import songs
from musicfm_hf.tasks.key import TASK

_DESCRIPTION = """
Weighted key score of mir_eval: 1 for the same key, 0.5 for a fifth above, 0.3 for the relative key, 0.2 for the
parallel key. A fifth below the reference scores 0, as by default in mir_eval; MIREX counts both directions since 2017.

key_weighted: score of the key of each song, averaged over songs. key_frame: score averaged over the time of a song,
then over songs. Songs whose reference names no key are left out of both.
songs: {"key_weighted", "key_frame"} of each song.
"""
_INPUTS = """
predictions, references: one entry per song, either a list of (start in seconds, end in seconds, key) or
{"starts", "ends", "labels"}, with keys such as C, F#:min, Bb major.
keys (optional): the predicted key of each song, for example from musicfm_hf.tasks.key.song_key; by default the key
with the longest total time in the prediction.
"""


class Key(songs.SongMetric):
    """Scores of `musicfm_hf.tasks.key.score`, averaged over songs."""

    def _info(self) -> evaluate.MetricInfo:
        return songs.segment_info(_DESCRIPTION, _INPUTS)

    def _compute(self, predictions: list, references: list, keys: list[str] | None = None) -> dict[str, Any]:
        if keys is not None and len(keys) != len(references):
            raise ValueError(f"`keys` must have one key for each of the {len(references)} songs, got {len(keys)}.")
        results = None if keys is None else [{"key": key} for key in keys]
        return songs.score_songs(
            TASK, map(songs.to_segments, references), map(songs.to_segments, predictions), results
        )
