"""Keys: spellings, targets and scores that can be worked out by hand, real songs and back."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.models import config_of

from musicfm_hf.tasks import key
from musicfm_hf.tasks.annotations import PITCH_NAMES, Segment, read_segments


def targets(annotation, num_frames, rate, start=0.0):
    return key.TASK.make_targets(config_of("key", rate), annotation, num_frames, start)


def events(logits, rate, **settings):
    return key.TASK.decode(config_of("key", rate, decoding=settings), logits)


def one_hot(*labels):
    return 9 * np.eye(25)[[key.LABELS.index(label) for label in labels]]


SPELLINGS = {
    "C:maj": "C|Cmaj|C major|C:maj|C:major|c major|C-major|C_major|CM|C M|B#|B♯ major|Dbb|C ionian|C:lyd|CMixolydian",
    "A:min": "Am|A m|A:min|a minor|A Minor|A MINOR|a|A:aeo|A aeolian|A dorian|A:phrygian|A locrian"
    "|A natural minor|A Harmonic Minor|A MELODIC MINOR",
    "F#:maj": "F#|Gb|G♭|Gb:maj|F♯ major|F sharp major|F-sharp major|G flat major|Gflat|E## major",
    "B:maj": "B|Cb|Cb major|C♭|C-flat major|A## major",
    "E:maj": "E|Fb|Fb:maj",
    "F:min": "Fm|E#m|E# minor|E♯:min|f minor|f",
    "Bb:min": "Bbm|bb|bb minor|A#:min|a# harmonic minor|Bb:harmonic_minor|bb melodic minor|B flat minor",
    "B:min": "b|Bm|bmin|b minor|Cb:min",
    "Eb:min": "Eb dorian|D#m|eb:dor|E♭ minor",
    "Ab:maj": "Ab|G#|  Ab   major |G# Major",
    "C#:min": "C#m|Db:min|C sharp minor",
    "D:min": "D\N{EN DASH}minor|D \N{MINUS SIGN} minor|D\N{NON-BREAKING HYPHEN}dorian",
    "N": "N|n|none|None|silence|Silence|no key",
    None: "X|x|D other|D:modal|unknown|atonal",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [(text, label) for label, texts in SPELLINGS.items() for text in texts.split("|")],
)
def test_spellings(text, expected):
    assert key.parse_key(text) == expected


def test_labels_spell_themselves():
    assert [key.parse_key(label) for label in key.LABELS] == list(key.LABELS)
    assert key.LABELS[:12] == tuple(f"{name}:maj" for name in PITCH_NAMES)


@pytest.mark.parametrize("text", ["", " ", "H", "Cmaj7", "C:foo", "8A", "C major minor", "F#:min/b3", "major", "Gx"])
def test_no_key(text):
    with pytest.raises(ValueError, match="is not a key"):
        key.parse_key(text)


@pytest.mark.parametrize("text", ["E- major", "b- minor", "D-:maj", "A-", "E– minor"])
def test_a_hyphen_may_be_a_flat(text):
    """music21 writes E flat as E-."""
    message = "may be {0} or, as in music21, {0} flat: write {0} or {0}b".format(text[0])
    with pytest.raises(ValueError, match=message):
        key.parse_key(text)
    assert key.parse_key("Eb-major") == key.parse_key("E-flat major") == "Eb:maj"
    assert key.parse_key("E-major") == "E:maj"


def test_targets():
    """Frames of 2 s."""
    keys = [Segment(0.0, 5.5, "Gb"), Segment(5.5, 8.0, "A dorian"), Segment(8.0, 10.5, "X"), Segment(10.5, 13.5, "N")]
    found = targets(keys, 7, 0.5)
    assert found.dtype == np.float32
    expected = ["F#:maj", "F#:maj", "F#:maj", "A:min", None, "N", "N"]
    for row, label in zip(found, expected, strict=True):
        wanted = np.full(25, -100) if label is None else np.eye(25)[key.LABELS.index(label)]
        np.testing.assert_array_equal(row, wanted)
    np.testing.assert_array_equal(targets(keys, 2, 0.5, start=4.0), found[2:4])


def test_events():
    logits = one_hot("C:maj", "C:maj", "C:maj", "A:min", "C:maj", "C:maj", "D:maj", "D:maj", "D:maj")
    assert events(logits, 0.5) == [
        Segment(0.0, 6.0, "C:maj"),
        Segment(6.0, 8.0, "A:min"),
        Segment(8.0, 12.0, "C:maj"),
        Segment(12.0, 18.0, "D:maj"),
    ]
    assert events(logits, 0.5, min_seconds=6.0) == [Segment(0.0, 12.0, "C:maj"), Segment(12.0, 18.0, "D:maj")]


def test_song_key():
    assert key.song_key(one_hot("C:maj", "G:min", "G:min")) == "G:min"
    assert key.song_key(one_hot("N", "N", "G:min")) == "N"
    assert key.song_key(np.zeros((0, 25))) == "N"
    # A frame that is ever so sure is one frame.
    assert key.song_key(np.concatenate([1e4 * one_hot("C:maj"), one_hot("G:min", "G:min")])) == "G:min"
    # Two halves of .6 against .4, and .1 against .9.
    probabilities = np.full((2, 25), 1e-9)
    probabilities[0, :2], probabilities[1, :2] = (0.6, 0.4), (0.1, 0.9)
    assert key.song_key(np.log(probabilities)) == "C#:maj"
    with pytest.raises(ValueError, match="finite"):
        key.song_key(np.full((1, 25), np.nan))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([(0, 5, "A"), (5, 12, "Bm"), (12, 16, "A")], "A:maj"),
        ([(0, 5, "F#"), (5, 12, "B"), (12, 16, "Gb")], "F#:maj"),
        ([(0, 90, "N"), (90, 100, "D")], "D:maj"),
        ([(0, 90, "X"), (90, 100, "D")], "D:maj"),
        ([(0, 5, "E"), (5, 10, "A")], "E:maj"),
        ([(0, 90, "N")], "N"),
        ([(0, 90, "X")], None),
        ([], None),
    ],
)
def test_main_key(keys, expected):
    assert key.main_key([Segment(*row) for row in keys]) == expected


@pytest.mark.parametrize(
    ("estimate", "expected"), [("C", 1.0), ("G", 0.5), ("F", 0.0), ("Am", 0.3), ("Cm", 0.2), ("N", 0.0), ("D", 0.0)]
)
def test_score_of_one_key(estimate, expected):
    found = key.score([Segment(0.0, 100.0, "C major")], [Segment(0.0, 120.0, estimate)])
    assert found == {"key_weighted": expected, "key_frame": expected}


def test_score_over_time():
    reference = [Segment(10.0, 70.0, "C"), Segment(70.0, 80.0, "X"), Segment(80.0, 100.0, "N")]
    estimate = [Segment(0.0, 40.0, "C"), Segment(40.0, 90.0, "G")]
    # 30 s of C against C, 30 s of C against G (0.5), X is out, 10 s of N against G (0), 10 s of N against nothing (1).
    found = key.score(reference, estimate)
    assert found["key_frame"] == pytest.approx((30 + 15 + 10) / 80)
    assert found["key_weighted"] == 0.5
    assert key.score(reference, estimate, "C:maj")["key_weighted"] == 1.0


def test_an_undecided_estimate_is_not_no_key():
    none, undecided = [Segment(0.0, 9.0, "N")], [Segment(0.0, 9.0, "X")]
    assert key.score(none, undecided) == {"key_weighted": 0.0, "key_frame": 0.0}
    assert key.score(none, [Segment(0.0, 9.0, "D other")]) == {"key_weighted": 0.0, "key_frame": 0.0}
    assert key.score(none, none, "X") == {"key_weighted": 0.0, "key_frame": 1.0}
    assert key.score([Segment(0.0, 9.0, "C")], undecided) == {"key_weighted": 0.0, "key_frame": 0.0}
    half = [Segment(0.0, 4.5, "X"), Segment(4.5, 9.0, "N")]
    assert key.score(none, half) == {"key_weighted": 1.0, "key_frame": 0.5}


def test_score_without_keys():
    assert key.score([Segment(0.0, 9.0, "N")], []) == {"key_weighted": 1.0, "key_frame": 1.0}
    assert key.score([Segment(0.0, 9.0, "C")], []) == {"key_weighted": 0.0, "key_frame": 0.0}
    for reference in ([], [Segment(0.0, 9.0, "X")]):
        found = key.score(reference, [Segment(0.0, 9.0, "C")])
        assert all(map(math.isnan, found.values()))
    with pytest.raises(ValueError, match="is not a key"):
        key.score([], [Segment(0.0, 9.0, "Q")])


@pytest.mark.slow
@pytest.mark.skipif("MUSICFM_POP909" not in os.environ, reason="MUSICFM_POP909 does not name a folder of POP909")
def test_real_songs_and_back():
    folder = Path(os.environ["MUSICFM_POP909"])
    found = []
    for song in (folder / "splits/test.txt").read_text().split():
        reference = read_segments(folder / f"keys/{song}.lab")
        logits = 10 * targets(reference, int(np.ceil(reference[-1].end * 0.5)), 0.5)
        found.append(key.score(reference, events(logits, 0.5), key.song_key(logits)))
    assert [song["key_weighted"] for song in found] == [1.0] * 50
    assert min(song["key_frame"] for song in found) > 0.99
