"""Retrieval scores between songs and captions, their intervals, and the scores of a random order."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.bootstrap import bootstrap_interval, percentile_interval
from ..tasks.retrieval import CUTOFFS, score_query

DEPTHS = CUTOFFS
DIRECTIONS = ("text_to_music", "music_to_text")
MEASURES = ("map", *(f"recall_at_{depth}" for depth in DEPTHS), "median_rank")
MAIN_SCORE = "map"  # mean of both directions
SCORES = (MAIN_SCORE, *(f"{direction}_{measure}" for direction in DIRECTIONS for measure in MEASURES))

SongScores = dict[str, np.ndarray]  # score → one value for each song


def song_scores(similarities: np.ndarray, is_caption: np.ndarray) -> SongScores:
    """
    Score the search for songs by their captions, and for captions by their songs.

    A query is a caption, and the songs that it describes are relevant; or a song, and its captions are relevant. A
    caption that several songs have is one text. Each query is scored as in [`musicfm_hf.tasks.retrieval.score`]; the
    rank is that of the first relevant item.

    Args:
        similarities (`np.ndarray` of shape `(songs, texts)`): Similarity of every song with every text.
        is_caption (`np.ndarray` of shape `(songs, texts)`): Whether a text is a caption of a song.

    Returns:
        `text_to_music_map`, `…_recall_at_1`, `…_recall_at_5`, `…_recall_at_10` and `…_median_rank`, and the same for
        `music_to_text`: for each song, the mean over its captions, or the value of its own query.

    Raises:
        ValueError: shapes differ, a similarity is not finite, or a song or a text has no counterpart.
    """
    _check(similarities, is_caption)
    of_songs = [_query_scores(row, relevant) for row, relevant in zip(similarities, is_caption, strict=True)]
    of_texts = [_query_scores(row, relevant) for row, relevant in zip(similarities.T, is_caption.T, strict=True)]
    texts = np.array(of_texts)  # (texts, measures)
    by_text = np.array([texts[own].mean(axis=0) for own in is_caption])
    return _named("text_to_music", by_text) | _named("music_to_text", np.array(of_songs))


def averages(scores: SongScores) -> dict[str, float]:
    """Return the mean of each score over songs, the median of ranks, and `map`, the mean of both directions."""
    values = {name: _average(name, rows) for name, rows in scores.items()}
    return {MAIN_SCORE: float(np.mean([values[f"{direction}_map"] for direction in DIRECTIONS]))} | values


def scores_with_intervals(scores: SongScores, is_caption: np.ndarray) -> dict[str, dict[str, Any]]:
    """
    Summarize the scores of songs: for each score its `mean` (of ranks, the median), a 95 % bootstrap `interval` over
    songs, the number of `songs`, and `chance`, the expected value in a random order.

    Args:
        scores: Output of [`song_scores`].
        is_caption: As for [`song_scores`].
    """
    scores = {MAIN_SCORE: np.mean([scores[f"{direction}_map"] for direction in DIRECTIONS], axis=0)} | scores
    chances = chance(is_caption)
    return {
        name: {
            "mean": _average(name, rows),
            "interval": _median_interval(rows) if name.endswith("rank") else bootstrap_interval(rows),
            "songs": len(rows),
            "chance": chances[name],
        }
        for name, rows in scores.items()
    }


def chance(is_caption: np.ndarray) -> dict[str, float]:
    """
    Compute the expected scores of a random order; of ranks, the mean over queries.

    Args:
        is_caption: As for [`song_scores`].
    """
    songs, texts = is_caption.shape
    of_texts = np.array([_chance(songs, int(count)) for count in is_caption.sum(axis=0)])
    by_text = np.array([of_texts[own].mean(axis=0) for own in is_caption])
    of_songs = np.array([_chance(texts, int(count)) for count in is_caption.sum(axis=1)])
    rows = _named("text_to_music", by_text) | _named("music_to_text", of_songs)
    values = {name: float(row.mean()) for name, row in rows.items()}
    return {MAIN_SCORE: float(np.mean([values[f"{direction}_map"] for direction in DIRECTIONS]))} | values


def caption_matrix(captions: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """Return the distinct texts of songs, and which of them each song has: bool `(songs, texts)`."""
    texts = list(dict.fromkeys(text for own in captions for text in own))
    place = {text: index for index, text in enumerate(texts)}
    is_caption = np.zeros((len(captions), len(texts)), dtype=bool)
    for song, own in enumerate(captions):
        is_caption[song, [place[text] for text in own]] = True
    return texts, is_caption


def _named(direction: str, rows: np.ndarray) -> SongScores:
    return {f"{direction}_{name}": rows[:, index] for index, name in enumerate(MEASURES)}


def _average(name: str, rows: np.ndarray) -> float:
    return float(np.median(rows) if name.endswith("rank") else rows.mean())


def _query_scores(similarities: np.ndarray, relevant: np.ndarray) -> list[float]:
    """Return the values of `MEASURES` for one query."""
    scores = score_query(relevant.astype(np.int8), similarities)
    return [scores["map"], *(scores[f"recall_at_{depth}"] for depth in DEPTHS), 1 / scores["mrr"]]


def _chance(items: int, relevant: int) -> list[float]:
    """Return the expected values of `MEASURES` for one query in a random order."""
    # P(item i is relevant) · E(precision at i), averaged over ranks i; the rest of the items is relevant by `others`.
    others = (relevant - 1) / max(1, items - 1)
    harmonic = float((1 / np.arange(1, items + 1)).mean())
    recalls = [
        1 - math.comb(items - relevant, depth) / math.comb(items, depth) if depth < items else 1.0 for depth in DEPTHS
    ]
    return [harmonic + (1 - harmonic) * others, *recalls, (items + 1) / (relevant + 1)]


def _median_interval(rows: np.ndarray, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """Return the interval of the median from the percentile bootstrap over songs."""
    picked = np.random.default_rng(seed).integers(len(rows), size=(draws, len(rows)))
    return percentile_interval(np.median(rows[picked], axis=1))


def _check(similarities: np.ndarray, is_caption: np.ndarray) -> None:
    """Raise a `ValueError` for invalid arguments of [`song_scores`]."""
    if similarities.shape != is_caption.shape or similarities.ndim != 2:
        raise ValueError(
            f"Similarities and captions must both have the shape (songs, texts), got {similarities.shape} and "
            f"{is_caption.shape}."
        )
    if not np.isfinite(similarities).all():
        raise ValueError("Similarities must be finite.")
    if not (is_caption.any(axis=0).all() and is_caption.any(axis=1).all()):
        raise ValueError("Every song needs a caption, and every text a song.")
