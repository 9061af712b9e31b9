"""Retrieval tasks: queries, galleries, relevance, and classes for training."""

from types import SimpleNamespace

import numpy as np
import pytest

from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.retrieval import PASSAGE_SECONDS, PHRASE_SECONDS, get_retrieval_task

LETTERS = "iABAXBCo"  # A and B occur twice; C once; the others are not sung phrases that repeat


def song_of(name, group, tempo=1.0, letters=LETTERS):
    phrases = [Segment(15 * n / tempo, 15 * (n + 1) / tempo, letter) for n, letter in enumerate(letters)]
    duration = 15 * len(letters) / tempo
    return SimpleNamespace(id=name, group=group, duration=duration, more={"phrases": phrases})


def two_songs():
    return [song_of("a", "A"), song_of("a_v2", "A", 1.1), song_of("b", "B"), song_of("b_v2", "B", 0.9)]


def test_phrases_of_one_letter_are_relevant_but_not_the_own_copy():
    search = get_retrieval_task("same_material").search(two_songs())
    assert {query.song.id for query in search.queries} == {"a", "b"}
    assert {item.song.id for item in search.gallery} == {"a_v2", "b_v2"}
    assert [item.label for item in search.gallery] == list("ABABC") * 2
    assert [query.label for query in search.queries] == list("ABAB") * 2  # nothing is relevant for C
    # First query: the A of phrase 1. Its copy is item 0; the other A is item 2; the Bs, the C and all of b are wrong.
    assert search.references[0].tolist() == [-1, 0, 1, 0, 0] + [0] * 5
    assert search.references[3].tolist() == [0, 1, 0, -1, 0] + [0] * 5
    assert search.references[4].tolist() == [0] * 5 + [-1, 0, 1, 0, 0]
    assert search.groups == ["A"] * 4 + ["B"] * 4


def test_passages_of_the_same_song_are_relevant():
    search = get_retrieval_task("same_song").search(two_songs())
    same = [[query.song.group == item.song.group for item in search.gallery] for query in search.queries]
    assert search.references.tolist() == np.array(same).astype(int).tolist()
    of_a = [query for query in search.queries if query.song.id == "a"]
    assert len(of_a) == 5  # of 20 s in 120 s, from a start within the first 20 s
    assert all(query.end - query.start == pytest.approx(PASSAGE_SECONDS) for query in of_a)
    assert 0 < of_a[0].start < PASSAGE_SECONDS
    assert of_a[-1].end <= 120


def test_excerpts_are_not_aligned_between_versions():
    task = get_retrieval_task("same_material")
    first, second = task.excerpts(song_of("a", "A")), task.excerpts(song_of("a_v2", "A"))  # at the same tempo
    assert [(query.label, query.number) for query in first] == [(item.label, item.number) for item in second]
    assert all(abs(query.start - item.start) > 0.01 for query, item in zip(first, second, strict=True))
    for excerpt in first:
        assert 15 * excerpt.number <= excerpt.start
        assert excerpt.end <= 15 * (excerpt.number + 1) + 1e-9
        assert excerpt.end - excerpt.start == pytest.approx(PHRASE_SECONDS)
    again = task.excerpts(song_of("a", "A"))
    assert [excerpt[1:] for excerpt in again] == [excerpt[1:] for excerpt in first]


def test_short_songs_and_phrases_are_used_whole():
    song = SimpleNamespace(id="a", group="A", duration=6.0, more={"phrases": [Segment(1.0, 9.0, "A")]})
    ((_, start, end, _, _),) = get_retrieval_task("same_song").excerpts(song)
    assert (start, end) == (0.0, 6.0)
    ((_, start, end, _, _),) = get_retrieval_task("same_material").excerpts(song)
    assert (start, end) == (1.0, 6.0)  # the annotation is longer than the audio


def test_classes_for_training_hold_all_versions():
    classes = get_retrieval_task("same_material").classes(two_songs())
    assert [["".join(excerpt.label for excerpt in members) for members in song] for song in classes] == [
        ["AAAA", "BBBB", "CC"]
    ] * 2
    assert {excerpt.song.id for excerpt in classes[0][2]} == {"a", "a_v2"}
    ((whole,), _) = get_retrieval_task("same_song").classes(two_songs())
    assert [(region.song.id, region.start, region.end) for region in whole] == [
        ("a", 0.0, 120.0),
        ("a_v2", 0.0, 120.0 / 1.1),
    ]


def test_songs_with_one_version_cannot_be_searched():
    task = get_retrieval_task("same_song")
    with pytest.raises(ValueError, match="--versions 2"):
        task.search([song_of("a", "A"), song_of("b", "B")])
    with pytest.raises(ValueError, match="two versions or phrases that are the same music"):
        get_retrieval_task("same_material").classes([song_of("a", "A", letters="AB")])
    with pytest.raises(ValueError, match="one of same_song, same_material, got 'chord'"):
        get_retrieval_task("chord")
