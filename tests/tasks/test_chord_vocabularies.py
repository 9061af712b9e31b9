"""Vocabularies of chords: awkward spellings and the labels of POP909, read, mapped and written, against mir_eval."""

import itertools
import os
from pathlib import Path

import mir_eval
import numpy as np
import pytest

from musicfm_hf.tasks import chord_vocabularies as vocabularies
from musicfm_hf.tasks import get_task
from musicfm_hf.tasks.annotations import PITCH_NAMES

ROOTS = "C Cb C## B# Bbb E# Fb Abb G## D# Ebb A# Gb F## Dbb".split()
KINDS = """
    | :maj | :min | :dim | :aug | :sus2 | :sus4 | :maj6 | :min6 | :maj7 | :7 | :min7 | :minmaj7 | :hdim7 | :dim7
    | :9 | :maj9 | :min9 | :11 | :min11 | :13 | :maj13 | :min13 | :1 | :5 | :5/5 | :5/b3 | :5/3 | :1/3
    | /3 | /b3 | /5 | /b7 | /7 | /2 | /9 | /b9 | /4 | /#4 | /11 | /6 | /13 | /b6 | /#5 | /bb7 | /##4
    | :maj/3 | :maj/5 | :min/b3 | :min/3 | :min/5 | :7/b7 | :7/3 | :7/9 | :maj7/7 | :min7/b7 | :min7/11 | :hdim7/b5
    | :hdim7/b3 | :dim7/bb7 | :dim7/6 | :minmaj7/7 | :minmaj7/b3 | :aug/3 | :aug/#5 | :sus4/4 | :sus4/5 | :sus2/2
    | :sus4/b7 | :sus2/b7 | :maj6/6 | :min6/6 | :min6/b3 | :dim/b5 | :dim/b3 | :dim/b7 | :dim/bb7
    | :sus4(b7) | :sus4(b7)/5 | :sus2(b7) | :sus4(9) | :aug(b7) | :maj(9) | :min(9) | :maj(#11) | :7(b9) | :7(#9)
    | :7(*5) | :min7(*5) | :maj(*5) | :maj(*3) | :min(*b3) | :min7(*b3,*5) | :maj7(*1) | :maj(*5)/3 | :7(*3)/b7
    | :maj(2) | :min(4) | :maj(4,*3) | :maj(2,*3) | :maj(b7) | :min(b7) | :min(7) | :min(b5) | :min(b5,*5)
    | :maj(#5,*5) | :min(6) | :maj(6) | :dim(b7) | :dim(bb7) | :(1,3,5) | :(1,b3,5) | :(1,3,5,b7) | :(1,b3,b5,bb7)
    | :(3,5) | :(1,5) | :(b3,5,b7)/b3 | :(1,4,5)/4 | :(1,3,#5) | :(1,2,5) | :(1,b3,b5,b7)/b7
""".replace("\n", "").split("|")
# Two roots for each kind.
AWKWARD = [
    f"{ROOTS[(7 * number + step) % len(ROOTS)]}{kind.strip()}"
    for number, kind in enumerate(KINDS)
    for step in range(2)
] + ["N", "X"]
# All kinds of chords in POP909.
POP909 = """maj min min7 sus2 maj7 maj/3 sus4 maj/5 7 min/5 min7/b3 dim min/b3 maj7/7 7/b7 min7/5 hdim7 min7/b7 maj7/3
    aug 7/3 maj7/5 7/5 hdim7/b3 minmaj7 dim/b5 5 dim/b3 sus2(b7) sus4(b7) dim7 sus2(b7)/5 sus2/2 sus4(b7)/5 hdim7/b7
    sus4(b7)/b7 sus4/5 sus2(b7)/2 minmaj7/7 aug(b7) minmaj7/b3 hdim7/b5""".split()
LABELS = [*AWKWARD, *(f"{root}:{kind}" for root in PITCH_NAMES for kind in POP909)]

# Worked out by hand: spelling, triads, sevenths, full.
WORKED_OUT = [
    ("C", "C:maj", "C:maj", "C:maj"),
    ("Cb", "B:maj", "B:maj", "B:maj"),
    ("B#:min7", "C:min", "C:min7", "C:min7"),
    ("Fb:maj7/7", "E:maj", "E:maj7", "E:maj7/7"),
    ("G##:min/b3", "A:min", "A:min", "A:min/b3"),
    ("Abb:7/b7", "G:maj", "G:7", "G:7/b7"),
    ("C/b7", "C:maj", "C:7", "C:7/b7"),  # mir_eval counts the bass as a tone
    ("D/9", None, None, "D:maj/2"),
    ("D:9", "D:maj", "D:7", "D:7"),  # a ninth is beyond the octave
    ("D:maj(9)", "D:maj", "D:maj", "D:maj"),
    ("D:maj(2)", None, None, "X"),
    ("C:7(*5)", None, None, "X"),
    ("E:min(b7)", "E:min", "E:min7", "E:min7"),
    ("E:(1,b3,5,b7)/b3", "E:min", "E:min7", "E:min7/b3"),
    ("F:hdim7/b5", "F:dim", None, "F:hdim7/b5"),
    ("F:dim7/6", "F:dim", None, "F:dim7/bb7"),
    ("F:minmaj7", "F:min", None, "F:minmaj7"),
    ("G:sus4(b7)", "G:sus4", None, "X"),
    ("G:sus4/b7", "G:sus4", None, "G:sus4/b7"),
    ("G:sus2/2", "G:sus2", None, "G:sus2/2"),
    ("A:aug", "A:aug", None, "A:aug"),
    ("A:aug/3", "A:aug", None, "A:aug/3"),
    ("A:maj(*5)", None, None, "X"),  # mir_eval's triads cannot tell it from an augmented one
    ("A:maj6/6", "A:maj", None, "A:maj6/6"),
    ("A/6", "A:maj", None, "A:maj6/6"),
    ("A:5", None, None, "X"),
    ("A:5/3", "A:maj", "A:maj", "A:maj/3"),
    ("N", "N", "N", "N"),
    ("X", None, None, "X"),
]


def same(label, other):
    """Whether two labels have the same root, tones and bass."""
    encoded = zip(mir_eval.chord.encode(label), mir_eval.chord.encode(other), strict=True)
    return all(np.array_equal(one, another) for one, another in encoded)


def test_the_list_is_long_and_awkward():
    assert len(set(AWKWARD)) >= 200
    for part in ("Cb", "B#", "##", "bb", "(*5)", "(9)", "7/b7", "hdim7", "minmaj7", "sus4(b7)", "/9"):
        assert any(part in label for label in AWKWARD), part


@pytest.mark.parametrize(("text", "triad", "seventh", "full"), WORKED_OUT)
def test_worked_out(text, triad, seventh, full):
    assert vocabularies.parse_triad(text) == triad
    assert vocabularies.parse_seventh(text) == seventh
    assert vocabularies.label_full(text) == full


def test_full_keeps_root_tones_and_bass():
    """Of every chord that has one of the qualities, with or without its bass; the others are X."""
    qualities = {tuple(mir_eval.chord.QUALITIES[name]) for name in vocabularies.QUALITIES}
    written = 0
    for label in LABELS:
        found = vocabularies.label_full(label)
        root, tones, bass = mir_eval.chord.encode(label)
        without = tones.copy()
        without[bass] = 0
        if root >= 0 and not {tuple(tones), tuple(without)} & qualities:
            assert found == "X", label
            assert vocabularies.parse_full(label) == (root, "X", bass)
            continue
        assert same(found, label), (label, found)
        assert vocabularies.label_full(found) == found
        written += 1
    assert written > 0.7 * len(LABELS)


def test_qualities_are_those_of_mir_eval():
    for name, steps in vocabularies.QUALITIES.items():
        assert np.flatnonzero(mir_eval.chord.QUALITIES[name]).tolist() == list(steps)
    assert 12 * len(vocabularies.QUALITIES) + 2 == 170


def test_every_chord_of_full_is_read_back():
    chords = itertools.product(range(12), vocabularies.QUALITIES, range(12))
    names = {vocabularies.spell_chord(*chord) for chord in chords}
    assert len(names) == 12 * 14 * 12
    for name in names:
        assert same(vocabularies.label_full(name), name), name


@pytest.mark.parametrize(
    ("vocabulary", "parse", "size"),
    [("majmin", vocabularies.parse_majmin, 25), ("triads", vocabularies.parse_triad, 73),
     ("sevenths", vocabularies.parse_seventh, 61)],
)  # fmt: skip
def test_labels_are_those_that_the_comparison_finds_right(vocabulary, parse, size):
    """Against every label of the vocabulary: one of them is right, or the chord is ignored."""
    task = get_task("chord", vocabulary)
    assert len(task.labels) == len(set(task.labels)) == size
    compare = getattr(mir_eval.chord, vocabulary)
    for label in LABELS:
        found = compare([label] * size, list(task.labels))
        parsed = parse(label)
        if parsed is None:
            # In mir_eval, thirds without a fifth are right against augmented triads.
            assert (found < 1).all() or mir_eval.chord.encode(label)[1][:8].tolist() == [1, 0, 0, 0, 1, 0, 0, 0], label
        else:
            assert found[task.labels.index(parsed)] == 1, label
            assert parse(parsed) == parsed


@pytest.mark.parametrize("parse", [vocabularies.parse_triad, vocabularies.parse_seventh, vocabularies.parse_full])
def test_no_chord(parse):
    with pytest.raises(ValueError, match="'H:maj' is not a chord"):
        parse("H:maj")


@pytest.mark.skipif("MUSICFM_POP909" not in os.environ, reason="MUSICFM_POP909 does not name a folder of POP909")
def test_all_labels_of_the_songs():
    labels = set()
    for path in (Path(os.environ["MUSICFM_POP909"]) / "chords").glob("*.lab"):
        labels |= {line.split()[2] for line in path.read_text().splitlines()}
    assert {label.partition(":")[2] for label in labels} - {""} == set(POP909)
    for label in labels:
        found = vocabularies.label_full(label)
        assert same(found, label) or (found == "X" and ("(" in label or label.endswith(":5"))), label
