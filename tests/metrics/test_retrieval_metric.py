"""Scores of retrieval: worked out by hand, and as scikit-learn computes them."""

import evaluate
import numpy as np
import pytest
from helpers.paths import ROOT
from sklearn.metrics import average_precision_score

from musicfm_hf.metrics.retrieval import Retrieval
from musicfm_hf.tasks.retrieval import score

# Similarities in descending order, so that the ranks are 1 to 5.
DESCENDING = [0.9, 0.8, 0.7, 0.6, 0.5]


def compute(**inputs):
    return Retrieval(keep_in_memory=True).compute(**inputs)


def test_ranks_worked_out():
    # Relevant items at ranks 2 and 4: precisions 1/2 and 2/4.
    found = compute(predictions=[DESCENDING], references=[[0, 1, 0, 1, 0]])
    assert found == {"map": 0.5, "mrr": 0.5, "recall_at_1": 0.0, "recall_at_5": 1.0, "recall_at_10": 1.0}
    # At ranks 1 and 5: 1/1 and 2/5.
    assert compute(predictions=[DESCENDING], references=[[1, 0, 0, 0, 1]])["map"] == pytest.approx(0.7)


def test_left_out_items_have_no_rank():
    # Without the first item, the relevant one is at rank 2 instead of 3; without the second as well, at rank 1.
    assert compute(predictions=[DESCENDING], references=[[-1, 0, 1, 0, 0]])["map"] == 0.5
    found = compute(predictions=[DESCENDING], references=[[-1, -1, 1, 0, 0]])
    assert found == {"map": 1.0, "mrr": 1.0, "recall_at_1": 1.0, "recall_at_5": 1.0, "recall_at_10": 1.0}


def test_equal_similarities_never_help():
    # All equal: rank 5 for each, precision 2/5. A system that says nothing must not score well.
    found = compute(predictions=[[0.3] * 5], references=[[1, 0, 1, 0, 0]])
    assert found["map"] == pytest.approx(0.4)
    assert found["mrr"] == pytest.approx(0.2)
    assert (found["recall_at_1"], found["recall_at_5"]) == (0.0, 1.0)


def test_cutoffs():
    similarities = np.linspace(1, 0, 12)
    for rank, expected in ((1, (1, 1, 1)), (5, (0, 1, 1)), (6, (0, 0, 1)), (10, (0, 0, 1)), (11, (0, 0, 0))):
        found = compute(predictions=[similarities], references=[np.arange(12) == rank - 1])
        assert (found["recall_at_1"], found["recall_at_5"], found["recall_at_10"]) == expected
        assert found["mrr"] == pytest.approx(1 / rank)


def test_songs_count_once():
    # Two queries of song a with average precision 1 and 1/2, one of song b with 1/5.
    references = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]
    found = compute(predictions=[DESCENDING] * 3, references=references, groups=["a", "a", "b"])
    assert found["groups"]["a"]["map"] == 0.75
    assert found["groups"]["b"]["map"] == pytest.approx(0.2)
    assert found["map"] == pytest.approx((0.75 + 0.2) / 2)
    assert compute(predictions=[DESCENDING] * 3, references=references)["map"] == pytest.approx((1 + 0.5 + 0.2) / 3)


@pytest.mark.parametrize("values", [1000, 4])  # with few values, many similarities are equal
def test_as_scikit_learn(values):
    generator = np.random.default_rng(values)
    references = generator.integers(0, 2, size=(20, 30))
    references[:, 0] = 1
    similarities = generator.integers(values, size=(20, 30)) / values
    found = compute(predictions=similarities, references=references, groups=[str(number) for number in range(20)])
    expected = [average_precision_score(*pair) for pair in zip(references, similarities, strict=True)]
    assert [song["map"] for song in found["groups"].values()] == pytest.approx(expected, abs=1e-12)
    assert len(set(np.round(expected, 6))) > 15


def test_wrong_inputs_are_named():
    for references, predictions, groups, message in (
        ([[1, 0]], [[0.5, 0.2, 0.1]], None, r"got \(1, 2\) and \(1, 3\)"),
        ([[1, 2]], [[0.5, 0.2]], None, "got 2"),
        ([[1, 0]], [[0.5, np.nan]], None, "got nan for query 0 and item 1"),
        ([[0, 0]], [[0.5, 0.2]], None, "Every query needs a relevant item"),
        ([[1, 0]], [[0.5, 0.2]], ["a", "b"], "each of the 1 queries, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            score(np.array(references), np.array(predictions), groups)


def test_the_module_loads_from_its_file():
    metric = evaluate.load(str(ROOT / "src/musicfm_hf/metrics/retrieval.py"), keep_in_memory=True)
    assert metric.compute(predictions=[DESCENDING], references=[[0, 1, 0, 0, 0]])["map"] == 0.5
