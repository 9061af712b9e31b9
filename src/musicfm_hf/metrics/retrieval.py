"""
Retrieval scores as an `evaluate` module: `evaluate.load("…/metrics/retrieval.py")`; see
`musicfm_hf.tasks.retrieval.score`.
"""

from typing import Any

import datasets
import evaluate

from musicfm_hf.tasks import retrieval

_DESCRIPTION = """
Mean average precision as in cover song identification and scikit-learn, mean reciprocal rank, and recall at 1, 5 and
10: the share of queries with a relevant item among the first k. Equal similarities never help.

map, mrr, recall_at_1, recall_at_5, recall_at_10: means over queries, or over songs if the song of each query is given.
groups: {song: the same scores}, if songs are given.
"""
_CITATION = """
@phdthesis{serra2011identification,
  title = {Identification of versions of the same musical composition by processing audio descriptions},
  author = {Serr{\\`a}, Joan},
  school = {Universitat Pompeu Fabra},
  year = {2011}
}
"""
_INPUTS = """
predictions: for each query, its similarity to each item of the gallery. references: for each query and item, 1 if the
item is relevant, 0 if not, and -1 if it is left out of the search, such as the query itself.
groups: the song of each query, optional; then scores are averaged over the queries of a song, and then over songs.
"""


class Retrieval(evaluate.Metric):
    """Scores of `musicfm_hf.tasks.retrieval.score`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": [datasets.Value("float64")], "references": [datasets.Value("int64")]}
            ),
        )

    def _compute(self, predictions: Any, references: Any, groups: list[str] | None = None) -> dict[str, Any]:
        return retrieval.score(references, predictions, groups)
