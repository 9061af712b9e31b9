"""
Retrieval: find the same music in other versions of songs, by similarity.

A song exists in several versions, which share its `group`: other performances, or other renderings of the same notes.
The first version of each song provides the queries, and all others the gallery.

- `same_song`: passages of 20 s, one after another. Relevant are all passages of other versions of the song.
- `same_material`: a passage of 10 s of each phrase. In the column `phrases`, equal capital letters from A to W mark
  the same musical material within a song. Relevant are the other phrases with the letter of the query, in other
  versions of its song; the phrase that is the query itself, in another version, is left out. Other segments, such as
  introductions, are neither queries nor in the gallery.

Passages begin at positions that are drawn for each version. With equal boundaries, two versions that differ only in
key and tempo could be compared frame by frame after stretching both to the same length, which a search in recordings
without annotations cannot do.

Scores are mean average precision, as in cover song identification, mean reciprocal rank, and recall at 1, 5 and 10.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from .spec import Score

CUTOFFS = (1, 5, 10)

PASSAGE_SECONDS = 20.0

PHRASE_SECONDS = 10.0

IGNORED = -1  # reference of a pair that is left out

RETRIEVAL_SCORES = {
    "map": Score("mean_average_precision", "mean average precision"),
    "mrr": Score("mean_reciprocal_rank", "mean reciprocal rank"),
    **{f"recall_at_{cutoff}": Score(f"recall_at_{cutoff}", f"recall at {cutoff}") for cutoff in CUTOFFS},
}

SCORES = tuple(RETRIEVAL_SCORES)

METRIC = "map"  # the score that selects checkpoints and layers

_ADVICE = (
    "Retrieval needs several versions of songs in one group, such as those of `musicfm prepare pop909 --arranged "
    "--versions 2`."
)

_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVW")  # X marks transitions, which need not be alike


class Excerpt(NamedTuple):
    """A part of a song that is searched for or found."""

    song: Any  # LabeledSong
    start: float  # seconds
    end: float  # seconds
    label: str  # letter of its musical material; empty for whole songs
    number: int  # position of its phrase in the song, which is the same in all versions


class Search(NamedTuple):
    """Queries, the gallery in which they are searched for, and what they should find."""

    queries: list[Excerpt]
    gallery: list[Excerpt]
    references: np.ndarray  # int8 (queries, gallery): 1 for relevant, 0 for others, -1 for left out

    @property
    def groups(self) -> list[str]:
        """Group of the song of each query."""
        return [query.song.group for query in self.queries]


@dataclass(frozen=True)
class RetrievalTask:
    """
    A retrieval task.

    Attributes:
        name (`str`): Value of `config.task` and of the flag `--task`.
        about (`str`): What is found, for help texts and model cards.
        passage_seconds (`float`): Length of the excerpts, unless the music is shorter, and of training crops.
        excerpts (`Callable`): Song → its excerpts that are searched for or found.
        regions (`Callable`): Song → the regions from which training crops are taken, as excerpts.
    """

    name: str
    about: str
    passage_seconds: float
    excerpts: Callable[[Any], list[Excerpt]]
    regions: Callable[[Any], list[Excerpt]]

    def search(self, songs: Sequence[Any]) -> Search:
        """
        Plan the queries and the gallery of a set of songs. Queries that have nothing relevant are left out.

        Raises:
            ValueError: no query has anything relevant, for example because every song has one version.
        """
        first, others = _split_versions(songs)
        gallery = [excerpt for song in others for excerpt in self.excerpts(song)]
        queries = [excerpt for song in first for excerpt in self.excerpts(song)]
        references = _relevance(queries, gallery)
        kept = np.flatnonzero((references == 1).any(axis=1))
        if not len(kept):
            raise ValueError(
                f"None of the {len(songs)} songs has what {self.name} searches for: {self.about}. {_ADVICE}"
            )
        return Search([queries[index] for index in kept], gallery, references[kept])

    def classes(self, songs: Sequence[Any]) -> list[list[list[Excerpt]]]:
        """
        Return, for each song, its classes for training: lists of at least two regions that are the same music, from
        all versions of the song.

        Raises:
            ValueError: no song has two regions that are the same music.
        """
        groups: dict[str, dict[str, list[Excerpt]]] = {}
        for song in songs:
            for excerpt in self.regions(song):
                groups.setdefault(song.group, {}).setdefault(excerpt.label, []).append(excerpt)
        classes = [[members for members in group.values() if len(members) > 1] for group in groups.values()]
        classes = [group for group in classes if group]
        if not classes:
            raise ValueError(
                f"None of the {len(songs)} songs has two versions or phrases that are the same music. {_ADVICE}"
            )
        return classes


def score(references: np.ndarray, predictions: np.ndarray, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """
    Score a search.

    The average precision of a query is the mean, over its relevant items, of the share of relevant items among those
    that are at least as similar to the query; it equals `sklearn.metrics.average_precision_score`. The rank of an item
    is the number of items that are at least as similar, so equal similarities never help. Recall at k is 1 if a
    relevant item is among the first k, else 0.

    Args:
        references (`np.ndarray` of shape `(queries, items)`): 1 for relevant items, 0 for others, -1 for items that
            are left out of the search of this query.
        predictions (`np.ndarray` of shape `(queries, items)`): Similarities; higher is more similar.
        groups (`list[str]`, *optional*): Song of each query. Scores are averaged over the queries of a song, and then
            over songs. By default over all queries.

    Returns:
        map, mrr, recall_at_1, recall_at_5, recall_at_10 (`float`): Means.
        groups (`dict`): The same of each song, if `groups` is given.

    Raises:
        ValueError: if shapes do not agree, references are not 1, 0 or -1, similarities are not finite, or a query has
            nothing relevant.
    """
    references, predictions = _checked(references, predictions)
    rows = [score_query(truth, similarity) for truth, similarity in zip(references, predictions, strict=True)]
    if groups is None:
        return _means(rows)
    if len(groups) != len(rows):
        raise ValueError(f"`groups` must name the song of each of the {len(rows)} queries, got {len(groups)}.")
    of_group: dict[str, list[Mapping[str, float]]] = {}
    for group, row in zip(groups, rows, strict=True):
        of_group.setdefault(group, []).append(row)
    means = {group: _means(members) for group, members in of_group.items()}
    return {**_means(list(means.values())), "groups": means}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each score over rows."""
    return {name: float(np.mean([row[name] for row in rows])) for name in SCORES}


def score_query(references: np.ndarray, similarities: np.ndarray) -> dict[str, float]:
    """
    Score one query; see [`score`].

    Args:
        references (`np.ndarray` of shape `(items,)`): 1 for relevant items, of which one at least is needed, 0 for
            others, -1 for items that are left out.
        similarities (`np.ndarray` of shape `(items,)`): Finite numbers; higher is more similar.
    """
    kept = references != IGNORED
    references, similarities = references[kept], similarities[kept]
    of_relevant = np.sort(similarities[references == 1])[::-1]
    ascending = np.sort(similarities)
    ranks = len(ascending) - np.searchsorted(ascending, of_relevant, side="left")
    hits = len(of_relevant) - np.searchsorted(of_relevant[::-1], of_relevant, side="left")
    recalls = {f"recall_at_{cutoff}": float(ranks[0] <= cutoff) for cutoff in CUTOFFS}
    return {"map": float((hits / ranks).mean()), "mrr": float(1 / ranks[0])} | recalls


def _checked(references: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check references and similarities, both (queries, items), and convert them to arrays."""
    references, predictions = np.asarray(references), np.asarray(predictions, dtype=np.float64)
    if references.shape != predictions.shape or references.ndim != 2:
        raise ValueError(
            f"References and predictions must both have the shape (queries, items), got {references.shape} and "
            f"{predictions.shape}."
        )
    if not np.isin(references, (1, 0, IGNORED)).all():
        wrong = references[~np.isin(references, (1, 0, IGNORED))][0]
        raise ValueError(f"References must be 1, 0 or {IGNORED} (left out), got {wrong}.")
    if not np.isfinite(predictions).all():
        query, item = np.argwhere(~np.isfinite(predictions))[0]
        raise ValueError(
            f"Similarities must be finite, got {predictions[query, item]} for query {query} and item {item}."
        )
    if not (references == 1).any(axis=1).all() or not len(references):
        raise ValueError("Every query needs a relevant item, and at least one query is needed: leave the others out.")
    return references, predictions


def _split_versions(songs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the first song of each group, and all others, of groups with several songs."""
    groups: dict[str, list[Any]] = {}
    for song in songs:
        groups.setdefault(song.group, []).append(song)
    several = [members for members in groups.values() if len(members) > 1]
    return [members[0] for members in several], [song for members in several for song in members[1:]]


def _relevance(queries: Sequence[Excerpt], gallery: Sequence[Excerpt]) -> np.ndarray:
    """
    Return whether items are relevant (1), irrelevant (0), or left out as a query's own copy (-1), int8 `(queries,
    items)`.
    """
    kinds: dict[tuple[str, str], int] = {}
    query_kinds, item_kinds = (
        np.array([kinds.setdefault((excerpt.song.group, excerpt.label), len(kinds)) for excerpt in part], dtype=int)
        for part in (queries, gallery)
    )
    query_numbers, item_numbers = (np.array([excerpt.number for excerpt in part]) for part in (queries, gallery))
    is_phrase = np.array([excerpt.label != "" for excerpt in queries], dtype=bool)
    relevant = query_kinds[:, None] == item_kinds
    copies = relevant & is_phrase[:, None] & (query_numbers[:, None] == item_numbers)
    return np.where(copies, IGNORED, relevant).astype(np.int8)


def _whole_song(song: Any) -> list[Excerpt]:
    """Return the whole song as its only region."""
    return [Excerpt(song, 0.0, song.duration, "", 0)]


def _passages(song: Any) -> list[Excerpt]:
    """Return passages of the whole song, one after another, from a start that depends on the id of the song."""
    first = _draw(song, 0) * min(PASSAGE_SECONDS, max(0.0, song.duration - PASSAGE_SECONDS))
    count = max(1, int((song.duration - first) / PASSAGE_SECONDS))
    starts = [first + number * PASSAGE_SECONDS for number in range(count)]
    return [
        Excerpt(song, start, min(start + PASSAGE_SECONDS, song.duration), "", number)
        for number, start in enumerate(starts)
    ]


def _phrases(song: Any) -> list[Excerpt]:
    """Return the phrases with a letter."""
    return [
        Excerpt(song, start, min(end, song.duration), label, number)
        for number, (start, end, label) in enumerate(song.more.get("phrases") or [])
        if label in _LETTERS and start < song.duration
    ]


def _phrase_passages(song: Any) -> list[Excerpt]:
    """Return a passage of each phrase with a letter, whose position depends on the id of the song."""
    excerpts = []
    for phrase in _phrases(song):
        seconds = min(phrase.end - phrase.start, PHRASE_SECONDS)
        start = phrase.start + _draw(song, phrase.number) * (phrase.end - phrase.start - seconds)
        excerpts.append(phrase._replace(start=start, end=start + seconds))
    return excerpts


def _draw(song: Any, number: int) -> float:
    """Return a number from 0 to 1 that depends only on the id of the song and on `number`."""
    return float(np.random.default_rng([crc32(song.id.encode()), number]).random())


RETRIEVAL_TASKS = {
    task.name: task
    for task in (
        RetrievalTask("same_song", "passages of other versions of the song", PASSAGE_SECONDS, _passages, _whole_song),
        RetrievalTask(
            "same_material",
            "other phrases of the same musical material, in other versions",
            PHRASE_SECONDS,
            _phrase_passages,
            _phrases,
        ),
    )
}


def get_retrieval_task(name: str | None) -> RetrievalTask:
    """
    Return the retrieval task with this name.

    Raises:
        ValueError: if no such task exists; lists those that do.
    """
    if name not in RETRIEVAL_TASKS:
        raise ValueError(f"The retrieval task must be one of {', '.join(RETRIEVAL_TASKS)}, got {name!r}.")
    return RETRIEVAL_TASKS[str(name)]
