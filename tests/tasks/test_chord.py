"""Chords: classes as mir_eval compares them, targets and runs that can be worked out by hand, real songs and back."""

import os
from itertools import product
from pathlib import Path

import mir_eval
import numpy as np
import pytest
from helpers.models import config_of

from musicfm_hf.tasks import chord, spans
from musicfm_hf.tasks.annotations import PITCH_NAMES, Segment, read_segments
from musicfm_hf.tasks.chord_syntax import chord_tones


def targets(annotation, num_frames, rate, start=0.0):
    return chord.TASK.make_targets(config_of("chord", rate), annotation, num_frames, start)


def events(logits, rate, **settings):
    return chord.TASK.decode(config_of("chord", rate, decoding=settings), logits)


ROOTS = (*PITCH_NAMES, "Cb", "B#", "E#", "Fb", "G##", "Abb")
KINDS = """
    | :maj | :min | :7 | :maj7 | :min7 | :minmaj7 | :maj6 | :min6 | :9 | :maj9 | :min9 | :11 | :13 | :maj13 | :min11
    | :dim | :aug | :dim7 | :hdim7 | :sus2 | :sus4 | :1 | :5 | :sus4(b7) | :sus2(b7)/5 | :aug(b7) | :(1,3,5) | :(1,5)
    | :maj(9) | :min(*b3) | :maj(*3) | :maj(4) | /3 | /5 | /b7 | /2 | /6 | :maj/3 | :maj/b3 | :min/b3 | :min/3 | :min/5
    | :min7/b7 | :7/b7 | :maj7/7 | :maj/#4 | :maj/4 | :hdim7/b3 | :minmaj7/b3 | :5/3
""".replace("\n", "").split("|")


def one_hot(*labels):
    return 9 * np.eye(25)[[chord.LABELS.index(label) for label in labels]]


def main_scores(scores):
    return {name: scores[name] for name in ("majmin", "root", "seconds")}


def test_labels():
    assert chord.LABELS[:3] == ("C:maj", "C#:maj", "D:maj")
    assert chord.LABELS[12:15] == ("C:min", "C#:min", "D:min")
    assert chord.LABELS[24:] == ("N",)
    assert chord.TASK.classifier_outputs(25)[0]["size"] == 25


def test_classes_are_those_that_majmin_finds_right():
    """Against every class: a label has one that is right, or is compared with none."""
    labels = [f"{root}{kind.strip()}" for root, kind in product(ROOTS, KINDS)] + ["N", "X"]
    references = [label for label in labels for _ in chord.LABELS]
    found = mir_eval.chord.majmin(references, list(chord.LABELS) * len(labels)).reshape(len(labels), 25)
    for label, row in zip(labels, found, strict=True):
        parsed = chord.parse_chord(label)
        expected = np.full(25, -1.0) if parsed is None else np.eye(25)[chord.LABELS.index(parsed)]
        np.testing.assert_array_equal(row, expected, err_msg=label)
    assert (found.max(axis=1) == 1).mean() > 0.5
    assert (found.max(axis=1) == -1).mean() > 0.2


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("C", "C:maj"),
        ("C/3", "C:maj"),
        ("C/5", "C:maj"),
        ("Db:maj7", "C#:maj"),
        ("G:9", "G:maj"),
        ("A:maj6", "A:maj"),
        ("A#:min7/b3", "Bb:min"),
        ("D:minmaj7", "D:min"),
        ("N", "N"),
        ("X", None),
        ("C:5", None),
        ("C:sus4", None),
        ("C:dim", None),
        ("C:aug", None),
        ("B:hdim7", None),
        ("C:min/3", None),  # both thirds
    ],
)
def test_classes(label, expected):
    assert chord.parse_chord(label) == expected


@pytest.mark.parametrize("label", ["", "H", "c", "C:major", "Cm", "C:maj/x", "NC", " C", "C:(1,3"])
def test_no_chord(label):
    with pytest.raises(ValueError, match="is not a chord"):
        chord.parse_chord(label)


def test_targets():
    """At 2 Hz, from 0.25 s: half-second frames that begin at 0.25, 0.75, 1.25, …"""
    chords = [
        Segment(0.0, 0.9, "C"),
        Segment(0.9, 1.45, "A:min7"),
        Segment(1.45, 2.0, "G:sus4"),
        Segment(2.0, 2.5, "N"),
        Segment(3.0, 3.5, "F"),
    ]
    found = targets(chords, 8, 2, start=0.25)
    assert found.dtype == np.float32
    assert found.shape == (8, 25)
    # G:sus4 has most of 1.25 to 1.75; it shares 1.75 to 2.25 with N, and the gap 2.75 to 3.25 with F: they lose.
    expected = ["C:maj", "A:min", None, "N", "N", "F:maj", "F:maj", None]
    for row, label in zip(found, expected, strict=True):
        wanted = np.full(25, -100) if label is None else np.eye(25)[chord.LABELS.index(label)]
        np.testing.assert_array_equal(row, wanted)


def test_targets_sum_what_has_one_class():
    chords = [Segment(0.0, 0.3, "C"), Segment(0.3, 0.7, "G"), Segment(0.7, 1.0, "C:7")]
    assert targets(chords, 1, 1)[0, 0] == 1


@pytest.mark.parametrize("start", [-3.0, 50.0])
def test_targets_outside_of_the_labels_are_ignored(start):
    assert (targets([Segment(0.0, 40.0, "C")], 24, 8, start) == -100).all()
    assert (targets([], 24, 8, start) == -100).all()
    assert targets([], 0, 8, start).shape == (0, 25)


def test_crops_are_cut_out_of_the_song():
    generator = np.random.default_rng(0)
    edges = np.cumsum(generator.uniform(0.05, 3, 60))
    labels = generator.choice(["C", "A:min", "X", "N", "F#:7", "D:sus4"], 59)
    song = [Segment(*row) for row in zip(edges[:-1], edges[1:], labels, strict=True)]
    whole = targets(song, 800, 8)
    for first in (0, 37, 411, 704):
        np.testing.assert_array_equal(targets(song, 96, 8, start=first / 8), whole[first : first + 96])


@pytest.mark.parametrize(("frames", "rate", "start"), [(-1, 8, 0.0), (4, 0, 0.0), (4, 8, np.nan), (4, np.inf, 0.0)])
def test_targets_refuse_impossible_frames(frames, rate, start):
    with pytest.raises(ValueError, match="positive rate"):
        spans.frame_targets([], chord.parse_chord, chord.LABELS, frames, rate, start)


def test_targets_refuse_bad_annotations():
    with pytest.raises(ValueError, match="segment 2"):
        targets([Segment(0.0, 2.0, "C"), Segment(1.0, 3.0, "G")], 8, 8)
    with pytest.raises(ValueError, match="'Q' is not a chord"):
        targets([Segment(0.0, 2.0, "Q")], 8, 8)


def test_events_are_runs():
    logits = one_hot("N", "N", "C:maj", "A:min", "A:min", "C:maj")
    assert events(logits, 4) == [
        Segment(0.0, 0.5, "N"),
        Segment(0.5, 0.75, "C:maj"),
        Segment(0.75, 1.25, "A:min"),
        Segment(1.25, 1.5, "C:maj"),
    ]


def test_events_of_next_to_nothing():
    assert events(np.zeros((0, 25)), 8) == []
    assert events(one_hot("G:min"), 8, min_seconds=9) == [Segment(0.0, 0.125, "G:min")]
    # All alike: the first.
    assert events(np.zeros((3, 25), dtype=np.float16), 8) == [Segment(0.0, 0.375, "C:maj")]
    # So sure that probabilities of the rest are 0 in float64.
    assert events(1e6 * one_hot("N", "D:maj"), 1, min_seconds=1) == [
        Segment(0.0, 1.0, "N"),
        Segment(1.0, 2.0, "D:maj"),
    ]


def test_min_seconds_takes_short_runs_away():
    logits = one_hot(*["C:maj"] * 5, "F:maj", *["C:maj"] * 4, *["G:maj"] * 4, "A:min", *["D:min"] * 5)
    found = events(logits, 8, min_seconds=0.25)
    assert [segment.label for segment in found] == ["C:maj", "G:maj", "D:min"]
    assert found[0].end == 10 / 8
    # A:min goes to the neighbour that is likelier there.
    logits[14, chord.LABELS.index("D:min")] = 1
    assert events(logits, 8, min_seconds=0.25)[1].end == 14 / 8
    logits[14, chord.LABELS.index("G:maj")] = 2
    assert events(logits, 8, min_seconds=0.25)[1].end == 15 / 8


@pytest.mark.parametrize("seed", range(20))
def test_min_seconds_finds_the_best_of_all(seed):
    """Against all labellings of a few frames with three labels."""
    generator = np.random.default_rng(seed)
    shortest, frames = int(generator.integers(2, 4)), int(generator.integers(1, 9))
    logits = np.full((frames, 25), -50.0)
    logits[:, :3] = generator.normal(0, 2, (frames, 3))
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def lengths(labelling):
        edges = [0, *np.flatnonzero(np.diff(labelling)) + 1, frames]
        return np.diff(edges)

    allowed = [
        labelling
        for labelling in product(range(3), repeat=frames)
        if min(lengths(labelling)) >= shortest or len(lengths(labelling)) == 1
    ]
    best = max(allowed, key=lambda labelling: log_probabilities[range(frames), labelling].sum())
    found = events(logits, 10, min_seconds=shortest / 10)
    rows = [chord.LABELS.index(segment.label) for segment in found for _ in range(round(10 * np.ptp(segment[:2])))]
    assert rows == list(best)


@pytest.mark.parametrize(
    ("logits", "rate", "seconds", "message"),
    [
        (np.zeros((4, 24)), 8, 0, r"\(frames, 25\), got \(4, 24\)"),
        (np.zeros(25), 8, 0, r"got \(25,\)"),
        (np.where(np.arange(100).reshape(4, 25) == 30, np.nan, 0), 8, 0, "at frame 1"),
        (np.zeros((4, 25)), 0, 0, "positive frame rate"),
        (np.zeros((4, 25)), 8, -1, "min_seconds"),
    ],
)
def test_events_refuse(logits, rate, seconds, message):
    with pytest.raises(ValueError, match=message):
        spans.decode(logits, chord.LABELS, rate, min_seconds=seconds)


def test_an_undecided_estimate_is_not_no_chord():
    """In the headline score; `mir_eval.chord.root` takes both for the same root."""
    found = chord.score([Segment(0.0, 4.0, "N")], [Segment(0.0, 3.0, "X"), Segment(3.0, 4.0, "N")])
    assert main_scores(found) == {"majmin": 0.25, "root": 1.0, "seconds": 4.0}


def test_score():
    reference = [Segment(0.0, 4.0, "C"), Segment(4.0, 6.0, "G:sus4"), Segment(6.0, 8.0, "X"), Segment(8.0, 10.0, "N")]
    estimate = [Segment(0.0, 3.0, "C:maj"), Segment(3.0, 5.0, "G:maj"), Segment(5.0, 9.0, "A:min")]
    # majmin: 3 of 4 s of C and, as time without an estimate is N, 1 of 2 s of N. root: also 1 of 2 s of G; X is out.
    assert main_scores(chord.score(reference, estimate)) == {"majmin": 4 / 6, "root": 5 / 8, "seconds": 6.0}


def test_gaps_in_the_reference_are_not_scored():
    """mir_eval would prolong the chord before the gap."""
    reference = [Segment(1.0, 2.0, "C"), Segment(4.0, 5.0, "C")]
    assert main_scores(chord.score(reference, [Segment(0.0, 5.0, "C")])) == {
        "majmin": 1.0,
        "root": 1.0,
        "seconds": 2.0,
    }
    estimate = [Segment(0.0, 1.5, "C"), Segment(4.5, 9.0, "C")]
    assert main_scores(chord.score(reference, estimate)) == {"majmin": 0.5, "root": 0.5, "seconds": 2.0}


@pytest.mark.slow
@pytest.mark.skipif("MUSICFM_POP909" not in os.environ, reason="MUSICFM_POP909 does not name a folder of POP909")
@pytest.mark.parametrize(("rate", "least"), [(8, 0.98), (16, 0.99)])
def test_real_songs_and_back(rate, least):
    """Annotations → targets → events: what the frame rate costs."""
    folder = Path(os.environ["MUSICFM_POP909"])
    found = []
    for song in (folder / "splits/test.txt").read_text().split():
        reference = read_segments(folder / f"chords/{song}.lab")
        logits = 10 * targets(reference, int(np.ceil(reference[-1].end * rate)), rate)
        found.append(chord.score(reference, events(logits, rate))["majmin"])
    assert len(found) == 50
    assert np.mean(found) >= least


def test_tones_of_a_chord_worked_out():
    assert chord_tones("A:min7/b3") == (0, 4, 7, 9)
    assert chord_tones("C/2") == (0, 2, 4, 7)  # the bass is a tone of its own
    assert chord_tones("N") == chord_tones("X") == ()
    with pytest.raises(ValueError, match="'H' is not a chord"):
        chord_tones("H")
