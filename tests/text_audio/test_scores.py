"""Retrieval scores between songs and captions, with values worked out by hand, by counting, or by scikit-learn."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from musicfm_hf.text_audio.scores import averages, caption_matrix, chance, scores_with_intervals, song_scores

# Three songs; the first two share a caption, and the third has two.
CAPTIONS = [["calm"], ["calm"], ["loud", "fast"]]
SIMILARITIES = np.array([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.5, 0.4, 0.6]])  # (songs, texts): calm, loud, fast


def test_texts_are_listed_once():
    texts, is_caption = caption_matrix(CAPTIONS)
    assert texts == ["calm", "loud", "fast"]
    assert is_caption.tolist() == [[True, False, False], [True, False, False], [False, True, True]]


def test_values_worked_out_by_hand():
    _, is_caption = caption_matrix(CAPTIONS)
    scores = song_scores(SIMILARITIES, is_caption)
    # "calm" ranks songs 1, 3, 2: precision 1 and 2/3. "loud" ranks song 3 second, "fast" ranks it first.
    assert scores["text_to_music_map"] == pytest.approx([5 / 6, 5 / 6, (1 / 2 + 1) / 2])
    assert scores["text_to_music_recall_at_1"] == pytest.approx([1, 1, 0.5])
    assert scores["text_to_music_median_rank"] == pytest.approx([1, 1, 1.5])
    # Song 1 finds calm first, song 2 second; song 3 ranks fast, calm, loud: precision 1 and 2/3.
    assert scores["music_to_text_map"] == pytest.approx([1, 1 / 2, 5 / 6])
    assert scores["music_to_text_recall_at_1"] == pytest.approx([1, 0, 1])
    assert scores["music_to_text_recall_at_5"] == pytest.approx([1, 1, 1])
    assert scores["music_to_text_median_rank"] == pytest.approx([1, 2, 1])
    means = averages(scores)
    assert means["text_to_music_median_rank"] == 1
    assert means["map"] == pytest.approx(((5 / 6 + 5 / 6 + 3 / 4) / 3 + (1 + 1 / 2 + 5 / 6) / 3) / 2)


def test_average_precision_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    similarities = generator.standard_normal((12, 20))
    is_caption = generator.random((12, 20)) < 0.2
    is_caption[np.arange(12), np.arange(12)] = is_caption[np.arange(20) % 12, np.arange(20)] = True
    scores = song_scores(similarities, is_caption)
    wanted = [average_precision_score(truth, row) for truth, row in zip(is_caption, similarities, strict=True)]
    assert scores["music_to_text_map"] == pytest.approx(wanted)


def test_equal_similarities_do_not_help():
    scores = song_scores(np.zeros((20, 20)), np.eye(20, dtype=bool))
    assert set(scores["text_to_music_median_rank"]) == {20.0}
    assert scores["music_to_text_recall_at_10"].sum() == 0


@pytest.mark.parametrize("captions", [CAPTIONS, [["a"], ["b"], ["c"], ["d"]]], ids=["several", "one each"])
def test_chance_is_the_mean_over_all_orders(captions):
    _, is_caption = caption_matrix(captions)
    songs, texts = is_caption.shape
    rows = [song_scores(np.tile(order, (songs, 1)).astype(float), is_caption) for order in permutations(range(texts))]
    expected = chance(is_caption)
    for name in ("map", "recall_at_1", "recall_at_5"):
        found = np.mean([row[f"music_to_text_{name}"].mean() for row in rows])
        assert expected[f"music_to_text_{name}"] == pytest.approx(found)
    ranks = np.mean([row["music_to_text_median_rank"].mean() for row in rows])
    assert expected["music_to_text_median_rank"] == pytest.approx(ranks)


def test_intervals_contain_the_scores():
    similarities = np.random.default_rng(1).standard_normal((30, 30)) + 2 * np.eye(30)
    summary = scores_with_intervals(song_scores(similarities, np.eye(30, dtype=bool)), np.eye(30, dtype=bool))
    for score in summary.values():
        low, high = score["interval"]
        assert low <= score["mean"] <= high
        assert score["songs"] == 30
    assert summary["text_to_music_recall_at_10"]["chance"] == pytest.approx(10 / 30)
    assert summary["text_to_music_median_rank"]["chance"] == pytest.approx(15.5)
    assert summary["text_to_music_map"]["interval"][0] > summary["text_to_music_map"]["chance"]


@pytest.mark.parametrize(
    ("similarities", "is_caption", "message"),
    [
        (np.zeros((2, 3)), np.ones((3, 2), dtype=bool), r"shape \(songs, texts\), got \(2, 3\) and \(3, 2\)"),
        (np.full((2, 2), np.nan), np.eye(2, dtype=bool), "must be finite"),
        (np.zeros((2, 2)), np.array([[True, True], [False, False]]), "Every song needs a caption"),
    ],
    ids=["shapes", "nan", "no caption"],
)
def test_errors(similarities, is_caption, message):
    with pytest.raises(ValueError, match=message):
        song_scores(similarities, is_caption)
