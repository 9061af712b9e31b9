"""Chords with root, quality, bass and tones: targets, transposition, decoding, and what is learned for smoothing."""

import itertools
import pickle

import numpy as np
import pytest
from helpers.models import config_of

from musicfm_hf.tasks import chord_smoothing, chord_structured, get_task, task_of
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.chord_scores import score_types

SONG = [
    Segment(0.0, 2.0, "C:maj/3"),
    Segment(2.0, 4.0, "A:min7/b3"),
    Segment(4.0, 5.0, "N"),
    Segment(5.0, 6.0, "X"),
    Segment(6.0, 7.0, "G:sus4(b7)/5"),
    Segment(7.0, 9.0, "Db:9/b7"),
    Segment(9.0, 10.0, "C/2"),
]


def certain(targets):
    """Logits of a model that is sure of the targets, and of nothing where they are ignored."""
    return 20.0 * np.where(targets < 0, 0.0, targets)


def names(row):
    return [name for name, value in zip(chord_structured.LABELS, row, strict=True) if value == 1]


def test_targets_worked_out():
    targets = chord_structured.targets(SONG, 10, 1.0)
    assert targets.shape == (10, 224)
    assert targets.dtype == np.float32
    assert names(targets[0]) == ["root C", "quality maj", "bass E", "chord C:maj", "tone C", "tone E", "tone G"]
    assert names(targets[2]) == [
        "root A",
        "quality min7",
        "bass C",
        "chord A:min7",
        "tone C",
        "tone E",
        "tone G",
        "tone A",
    ]
    assert names(targets[4]) == ["root N", "quality N", "bass N", "chord N"]
    assert names(targets[5]) == ["quality X", "chord X"]  # the rest is unknown
    assert (targets[5, :13] == -100).all()
    assert (targets[5, 29:42] == -100).all()
    assert (targets[5, 212:] == -100).all()
    assert names(targets[6]) == ["root G", "quality X", "bass D", "chord X", "tone C", "tone D", "tone F", "tone G"]
    assert names(targets[7]) == [
        "root C#",
        "quality 7",
        "bass B",
        "chord C#:7",
        "tone C#",
        "tone F",
        "tone Ab",
        "tone B",
    ]
    assert (chord_structured.targets(SONG, 12, 1.0)[11] == -100).all()


def test_events_return_what_was_annotated():
    task = get_task("chord", "full")
    config = config_of("chord", 8.0, vocabulary="full")
    logits = certain(task.make_targets(config, SONG, 80))
    expected = ["C:maj/3", "A:min7/b3", "N", "X", "C#:7/b7", "C:maj/2"]  # the two X are one
    for settings in ({}, {"chord_seconds": 2.0, "kinds": {"maj": 0.5, "min7/b3": 0.1, "N": 0.1}}):
        found = chord_structured.events(logits, 8.0, **settings)
        assert [segment.label for segment in found] == expected
        assert [segment.end for segment in found] == [2, 4, 5, 7, 9, 10]
    np.testing.assert_allclose(task.event_probabilities(config, logits, found), 1, atol=1e-5)


@pytest.mark.parametrize("vocabulary", ["triads", "sevenths", "full"])
@pytest.mark.parametrize("semitones", [-5, 1, 6])
def test_transposed_targets_are_those_of_transposed_chords(vocabulary, semitones):
    task, config = get_task("chord", vocabulary), config_of("chord", 2.0, vocabulary=vocabulary)
    kinds = ["maj", "min/b3", "sus4", "7/b7", "dim", "hdim7", "X", "maj/2"]
    pitches = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

    def song(shift):
        labels = [kind if kind == "X" else f"{pitches[(5 * n + shift) % 12]}:{kind}" for n, kind in enumerate(kinds)]
        return [Segment(float(n), n + 1.0, label) for n, label in enumerate([*labels, "N"])]

    moved = task.transpose(task.make_targets(config, song(0), 18), semitones)
    np.testing.assert_array_equal(moved, task.make_targets(config, song(semitones), 18))


def test_a_chord_and_its_bass_are_decoded_together():
    logits = np.zeros((1, 224))
    logits[0, [42 + 9 * 14 + 10, 29 + 0]] = 3  # A:min7, and C in the bass
    assert chord_structured.LABELS[42 + 9 * 14 + 10] == "chord A:min7"
    (chord,) = chord_structured.events(logits, 8.0)
    assert chord == Segment(0.0, 0.125, "A:min7/b3")
    likely = np.exp(3)
    # Relative to a chord with another root or quality, and another bass: 168 chords with 12 basses each, N and X.
    total = (likely + 167) * (likely + 11) + 1 + likely
    found = chord_structured.probabilities(logits, [chord], (), 8.0)
    np.testing.assert_allclose(found, likely**2 / total, rtol=1e-5)


def test_other_outputs_do_not_change_the_chord():
    logits = np.zeros((1, 224))
    logits[0, [0, 13, 42 + 9 * 14 + 10, 29 + 9, 212]] = [9, 9, 1, 1, 9]  # root C, quality maj, A:min7, bass A, tone C
    assert chord_structured.events(logits, 8.0) == [Segment(0.0, 0.125, "A:min7")]


def test_smoothing_is_the_best_of_all_sequences():
    """Against the score of every sequence of four chords over five frames."""
    changes = chord_smoothing.log_shares({"maj": 0.6, "N": 0.1}, ["maj", "maj", "min", "N"], [2, 2, 1, 1])
    np.testing.assert_allclose(np.exp(changes), np.array([0.3, 0.3, 0.05, 0.1]) / 0.75)
    change = 1 - np.exp(-1 / (4 * 0.5))
    for seed in range(10):
        frames = np.log(np.random.default_rng(seed).dirichlet(np.ones(4), 5))

        def value(states, frames=frames):
            total = changes[states[0]] + frames[0, states[0]]
            for index in range(1, 5):
                before, after = states[index - 1], states[index]
                move = np.log(change) + changes[after]
                total += max(move, np.log(1 - change)) if before == after else move
                total += frames[index, after]
            return total

        best = max(itertools.product(range(4), repeat=5), key=value)
        blocks = [frames[:2], frames[2:]]
        assert chord_smoothing.smooth(blocks, 4.0, 0.5, changes).tolist() == list(best)


def test_smoothing_removes_a_short_chord():
    targets = chord_structured.targets([Segment(0.0, 4.0, "C"), Segment(4.0, 8.0, "G:7")], 64, 8.0)
    logits = 2.0 * targets
    logits[10, :] = logits[40, :]
    assert len(chord_structured.events(logits, 8.0)) == 4
    smoothed = chord_structured.events(logits, 8.0, chord_seconds=2.0)
    assert [segment.label for segment in smoothed] == ["C:maj", "G:7"]


def test_what_is_learned_from_annotations():
    songs = [
        [Segment(0.0, 2.0, "C"), Segment(2.0, 4.0, "C:maj"), Segment(4.0, 5.0, "A:min7/b3"), Segment(5.0, 6.0, "N")],
        [Segment(0.0, 3.0, "D"), Segment(3.0, 9.0, "X"), Segment(9.0, 12.0, "D")],
        [],
    ]
    learned = get_task("chord", "full").learn_decoding(songs)
    # Five chords in 12 s: C and C:maj are one, X is left out.
    assert learned == {"chord_seconds": 2.4, "kinds": {"maj": 0.6, "N": 0.2, "min7/b3": 0.2}}
    assert get_task("chord", "triads").learn_decoding(songs)["kinds"] == {"maj": 0.6, "N": 0.2, "min": 0.2}
    assert get_task("chord").learn_decoding is None
    assert get_task("chord", "full").learn_decoding([[]]) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"chord_seconds": 0.0}, "chord_seconds"), ({"kinds": {"maj": 2.0}}, "between 0 and 1")],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        chord_structured.events(np.zeros((4, 224)), 8.0, **settings)


def test_logits_of_another_shape():
    with pytest.raises(ValueError, match=r"\(frames, 224\), got \(4, 25\)"):
        chord_structured.events(np.zeros((4, 25)), 8.0)
    assert chord_structured.events(np.zeros((0, 224)), 8.0, chord_seconds=2.0) == []


def test_vocabularies_of_the_task():
    task = get_task("chord")
    assert task.vocabulary == "majmin"
    for name in ("majmin", "triads", "sevenths", "full"):
        variant = get_task("chord", name)
        assert variant.vocabulary == name
        assert pickle.loads(pickle.dumps(variant)).labels == variant.labels
        config = config_of("chord", 8.0, vocabulary=name)
        assert task_of(config).metric == variant.metric
        assert type(config).from_dict(config.to_dict()).vocabulary == name
    with pytest.raises(ValueError, match="must be one of majmin, triads, sevenths, full"):
        get_task("chord", "jazz")
    with pytest.raises(ValueError, match="has only one"):
        get_task("key", "full")


def test_scores_of_types_worked_out():
    """Two songs: 4 s of C:maj/3 with 3 s right but for the bass, 2 s of A:min7 found as A:min, 2 s of N, 2 s of X."""
    first = [Segment(0.0, 4.0, "C/3"), Segment(4.0, 6.0, "A:min7"), Segment(6.0, 8.0, "X")]
    estimate = [Segment(0.0, 3.0, "C:maj"), Segment(3.0, 4.0, "G"), Segment(4.0, 8.0, "A:min")]
    found = score_types([(first, estimate), ([Segment(0.0, 2.0, "N")], []), ([], [])])
    right = {"seconds": 4.0, "root": 0.75, "tetrads": 0.75, "tetrads_inv": 0.0}
    assert found == {
        "maj": right,
        "maj/3": right,
        "min7": {"seconds": 2.0, "root": 1.0, "tetrads": 0.0, "tetrads_inv": 0.0},
        "N": {"seconds": 2.0, "root": 1.0, "tetrads": 1.0, "tetrads_inv": 1.0},
    }
