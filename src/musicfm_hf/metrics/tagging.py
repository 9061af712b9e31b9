"""
Tag scores as an `evaluate` module: `evaluate.load("…/metrics/tagging.py")`; see `musicfm_hf.tasks.tagging.score`.
"""

from typing import Any

import datasets
import evaluate

from musicfm_hf.tasks import tagging

_DESCRIPTION = """
Mean average precision and area under the ROC curve, as in scikit-learn: macro averages over the tags that some songs
have and some do not.

map, roc_auc: means over tags.
tags: {tag: {"map", "roc_auc", "positives"}} for each of these tags. skipped: the other tags.
"""
_CITATION = """
@article{pedregosa2011scikit,
  title = {Scikit-learn: Machine Learning in Python},
  author = {Pedregosa, F. and Varoquaux, G. and Gramfort, A. and Michel, V. and Thirion, B. and Grisel, O. and
            Blondel, M. and Prettenhofer, P. and Weiss, R. and Dubourg, V. and Vanderplas, J. and Passos, A. and
            Cournapeau, D. and Brucher, M. and Perrot, M. and Duchesnay, E.},
  journal = {Journal of Machine Learning Research},
  volume = {12},
  pages = {2825--2830},
  year = {2011}
}
"""
_INPUTS = """
predictions: for each song, the probability of each tag. references: for each song and tag, 1 if the song has the tag,
and 0 otherwise.
labels: names of the tags, in the order of both.
"""


class Tagging(evaluate.Metric):
    """Scores of `musicfm_hf.tasks.tagging.score` over all songs."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": [datasets.Value("float64")], "references": [datasets.Value("int64")]}
            ),
        )

    def _compute(self, predictions: Any, references: Any, labels: list[str]) -> dict[str, Any]:
        return tagging.score(references, predictions, labels)
