import os
from pathlib import Path

import mir_eval
import numpy as np
import pytest

from musicfm_hf.tasks import structure
from musicfm_hf.tasks.annotations import Segment, read_segments

SONG = [Segment(1.0, 9.0, "Intro"), Segment(9.0, 21.1, "pre-chorus"), Segment(21.1, 40.0, "Chorus 1")]


def logits(targets):
    functions = np.log(np.clip(targets[:, :7], 1e-6, 1))
    return np.column_stack([functions, np.where(targets[:, 7] > 0.5, 10, -10)])


@pytest.mark.parametrize(
    ("label", "function"),
    [
        ("verse", "verse"),
        ("Pre-Chorus 2", "verse"),
        ("prechorus", "verse"),
        ("postchorus", "chorus"),
        ("refrain", "chorus"),
        ("rap", "verse"),
        ("fadein", "intro"),
        ("transition", "bridge"),
        ("fade-out", "outro"),
        ("ending", "outro"),
        ("altchorus", "chorus"),
        ("breakdown", "inst"),
        ("guitar solo", "inst"),
        ("instrumental verse", "verse"),
        ("x", "inst"),
        ("Silence", "silence"),
        (" End ", None),
        ("", "inst"),
        ("pre_chorus", "verse"),
        ("pre chorus", "verse"),
        ("Pre \N{EN DASH} Chorus 2", "verse"),
        ("PRE\N{NON-BREAKING HYPHEN}CHORUS", "verse"),
        ("prechorus5", "verse"),
        ("post_chorus", "chorus"),
        ("fade-in", "intro"),
        ("fade_in", "intro"),
        ("fade in (long)", "intro"),
        ("fadeout", "outro"),
        ("outroa", "outro"),
        ("drop_out", "outro"),
        ("transition2a", "bridge"),
        ("end.", None),
        # Parts of words are no words.
        ("without drums", "inst"),
        ("about", "inst"),
        ("shout", "inst"),
        ("trap", "inst"),
        ("wrap", "inst"),
        ("reverse guitar", "inst"),
        ("universe", "inst"),
        ("transposed", "inst"),
        ("slowly", "inst"),
        ("spending", "inst"),
        ("intersection", "inst"),
        ("introspective", "inst"),
    ],
)
def test_functions(label, function):
    assert structure.function_of(label) == function


# Labels of the Harmonix Set that join words; as Wang et al. 2022 map them.
JOINED = {
    "chorus": "altchorus chorus_instrumental chorushalf chorusinst choruspart instchorus intchorus introchorus "
    "postchorus2 quietchorus",
    "verse": "build instrumentalverse introverse miniverse postverse preverse raps section17 slow2 slowverse verse11 "
    "verse1a verse_slow verseinst versepart",
    "intro": "fadein instintro intropt2 rhythmlessintro",
    "bridge": "instbridge transition3",
    "outro": "bigoutro outro3 vocaloutro",
    "inst": "bre break1 breakdown2 drumroll fast gtr2 gtrbreak guitarsolo instrumental3 mainriff2 oddriff quiet "
    "saxobeat solo3 synth worstthingever",
}


def test_functions_of_joined_words():
    for function, labels in JOINED.items():
        assert {label: structure.function_of(label) for label in labels.split()} == dict.fromkeys(
            labels.split(), function
        )


def test_every_function_is_its_own():
    assert [structure.function_of(function) for function in structure.FUNCTIONS] == list(structure.FUNCTIONS)
    assert sum(output["size"] for output in structure.OUTPUTS) == len(structure.LABELS) == 8


def test_targets():
    targets = structure.targets(SONG, 210, 5.0)
    assert targets.dtype == np.float32
    # Boundaries at 1, 9 and 21.1 s; frame 5 is centred at 1.1 s. The end at 40 s is none.
    assert np.flatnonzero(targets[:, 7] == 1).tolist() == [3, 4, 5, 6, 43, 44, 45, 46, 104, 105, 106]
    assert (targets[:5, :7] == -100).all()
    assert (targets[200:, :7] == -100).all()
    assert np.flatnonzero(targets[:, 7] == -100).tolist() == [0, 1, 2, *range(200, 210)]  # unlabeled
    assert set(targets[:, 7].tolist()) == {-100, 0, 1}
    # Half of frame 105 is verse: the first label wins.
    assert targets[5:200, :7].argmax(axis=1).tolist() == [0] * 40 + [1] * 61 + [2] * 94
    np.testing.assert_array_equal(structure.targets(SONG, 30, 5.0, start=7.0), targets[35:65])


def test_gaps_end_with_a_boundary_and_end_is_no_segment():
    song = [Segment(0.0, 4.0, "a"), Segment(8.0, 12.0, "b"), Segment(12.0, 13.0, "end")]
    boundary = structure.targets(song, 13, 1.0)[:, 7]
    assert np.flatnonzero(boundary == 1).tolist() == [4, 8]  # the frame that holds the boundary, always
    assert np.flatnonzero(boundary == -100).tolist() == [5, 6, 7, 12]
    assert (structure.targets(song, 13, 1.0)[4:8, :7] == -100).all()
    assert (structure.targets(song, 13, 1.0)[12, :7] == -100).all()
    assert (structure.targets([], 3, 1.0) == -100).all()


def test_remarks():
    def remarks(*labels):
        return structure.remarks([Segment(i, i + 1, label) for i, label in enumerate(labels)], len(labels))

    text = "most labels name no known function and count as inst (A, B). Boundaries are not affected."
    assert remarks("A", "B", "A", "end") == [text]
    assert remarks("intro", "Strophe 1", "hook")[0].startswith("most labels name no known function")
    assert remarks("intro", "A", "verse", "B") == []  # half of them
    assert remarks("inst", "solo", "silence", "end") == remarks() == []


@pytest.mark.parametrize("rate", [5.0, 8.0])
def test_decoding(rate):
    decoded = structure.events(logits(structure.targets(SONG, int(41 * rate), rate)), rate)
    assert [segment.label for segment in decoded[1:]] == ["intro", "verse", "chorus"]
    np.testing.assert_allclose([segment.start for segment in decoded], [0, 1, 9, 21.1], atol=0.5 / rate + 1e-9)
    assert decoded[-1].end == 41.0
    scores = structure.score(SONG, decoded)
    assert (scores["hr05_f"], scores["hr3_f"]) == (1.0, 1.0)
    assert scores["frame_accuracy"] > 0.99


def boundary_logits(probabilities):
    probabilities = np.asarray(probabilities, dtype=float)
    return np.column_stack([np.zeros((len(probabilities), 7)), np.log(probabilities / (1 - probabilities))])


def starts(probabilities, **settings):
    return [segment.start for segment in structure.events(boundary_logits(probabilities), 1.0, **settings)]


def test_peaks():
    probabilities = np.full(60, 0.01)
    probabilities[[10, 14, 30, 31, 50]] = [0.6, 0.9, 0.5, 0.5, 0.05]
    assert starts(probabilities) == [0, 14.5, 31]  # the lower neighbour, and a peak under the threshold, go
    assert starts(probabilities, peak_window_seconds=1) == [0, 10.5, 14.5, 31]
    assert starts(probabilities, peak_window_seconds=1, min_segment_seconds=5) == [0, 14.5, 31]
    assert starts(probabilities, peak_window_seconds=0) == starts(probabilities, peak_window_seconds=1)
    assert starts(probabilities, threshold=0.02) == [0, 14.5, 31, 50.5]
    assert starts(probabilities, min_segment_seconds=15) == [0, 31]  # too near to the start, then free
    assert starts(np.full(60, 0.5), threshold=0) == [0]
    # A mean over 2 s before and 1 s after: (0.9 + 3 · 0.01) / 4 = 0.2325, and 0.9 - 0.2325 = 0.6675.
    around = {"before_seconds": 2, "after_seconds": 1}
    assert 14.5 in starts(probabilities, threshold=0.667, **around)
    assert 14.5 not in starts(probabilities, threshold=0.668, **around)


def test_function_is_the_highest_mean():
    values = boundary_logits([0.01, 0.01, 0.9, 0.01, 0.01])
    values[:3, 3] = [0, 0, 100]  # frame 2 is half in each segment, and counts to the first
    values[0, 1] = 1
    values[3:, 4] = 0.1
    first, second = structure.events(values, 1.0, peak_window_seconds=1)
    assert first == Segment(0.0, 2.5, "bridge")
    assert second == Segment(2.5, 5.0, "inst")


def test_short_songs_and_wrong_arguments():
    assert structure.events(np.zeros((0, 8)), 5.0) == []
    assert structure.events(boundary_logits([0.9]), 5.0) == [Segment(0.0, 0.2, "intro")]
    for call, message in [
        (lambda: structure.events(np.zeros((5, 7)), 5.0), r"shape \(frames, 8\), got \(5, 7\)"),
        (lambda: structure.events(np.full((5, 8), np.inf), 5.0), "finite"),
        (lambda: structure.events(np.zeros((5, 8)), 5.0, peak_window_seconds=-1), "settings of 0 or more"),
        (lambda: structure.targets(SONG[::-1], 5, 5.0), "must ascend"),
        (lambda: structure.score(SONG, SONG[::-1]), "estimate, segment 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_scores():
    estimate = [Segment(0, 1.4, "intro"), Segment(1.4, 11.0, "intro"), Segment(11.0, 42.0, "chorus")]
    scores = structure.score(SONG, estimate)
    # Reference 0, 1, 9, 21.1, 40; estimate 0, 1.4, 11, 40, since it is cut at 40: three hits within 0.5 s, four in 3.
    assert (scores["hr05_p"], scores["hr05_r"]) == (3 / 4, 3 / 5)
    assert scores["hr05_f"] == pytest.approx(2 / 3)
    assert scores["hr3_f"] == pytest.approx(8 / 9)
    # Right: intro from 1 to 9, chorus from 21.1 to 40; the first second does not count.
    assert scores["frame_accuracy"] == pytest.approx((8 + 18.9) / 39)
    perfect = structure.score(SONG, SONG)
    assert set(perfect.values()) == {1.0}


def test_estimates_that_end_on_the_reference_and_empty_ones():
    on_the_end = [Segment(0, 40.0, "intro"), Segment(40.0, 41.0, "outro")]
    assert structure.score(SONG, on_the_end)["hr05_p"] == 1.0
    nothing = structure.score(SONG, [])
    assert (nothing["hr05_p"], nothing["frame_accuracy"]) == (1.0, 0.0)  # start and end are given


def test_a_reference_without_sections_says_nothing():
    for reference in ([], [Segment(0, 3.0, "end")]):
        assert all(np.isnan(list(structure.score(reference, SONG).values())))


def test_scores_are_those_of_mir_eval():
    estimate = [Segment(0, 1.4, "intro"), Segment(1.4, 11.0, "verse"), Segment(11.0, 30.0, "chorus")]
    sides = [
        (np.array([segment[:2] for segment in side]), [segment.label for segment in side]) for side in (SONG, estimate)
    ]
    expected = mir_eval.segment.evaluate(*sides[0], *sides[1], trim=False)
    scores = structure.score(SONG, estimate)
    assert scores["hr05_f"] == pytest.approx(expected["F-measure@0.5"])
    assert scores["hr3_f"] == pytest.approx(expected["F-measure@3.0"])


@pytest.mark.slow
@pytest.mark.skipif("MUSICFM_POP909" not in os.environ, reason="MUSICFM_POP909 does not name the folder of POP909")
@pytest.mark.parametrize("rate", [5.0, 8.0])
def test_pop909_survives_the_round_trip(rate):
    folder = Path(os.environ["MUSICFM_POP909"])
    scores = []
    for name in (folder / "splits/test.txt").read_text().split():
        song = read_segments(folder / f"segments/{name}.lab", column=5)
        targets = structure.targets(song, int((song[-1].end + 1.5) * rate), rate)
        scores.append(structure.score(song, structure.events(logits(targets), rate, peak_window_seconds=1)))
    assert np.mean([one["hr05_f"] for one in scores]) > 0.999
    assert np.mean([one["frame_accuracy"] for one in scores]) > 0.998


@pytest.mark.parametrize("rate", [5.0, 8.0])
@pytest.mark.parametrize("window", [1.0, 6.0])
def test_sections_from_the_start_come_back(rate, window):
    """The start of the song is a boundary on both sides as it is, and not once more a frame later."""
    sections = [Segment(0.0, 20.0, "intro"), Segment(20.0, 45.0, "verse"), Segment(45.0, 70.0, "chorus")]
    logits = 16.0 * structure.targets(sections, round(70 * rate), rate) - 8.0
    found = structure.events(logits, rate, peak_window_seconds=window)
    assert [segment.label for segment in found] == ["intro", "verse", "chorus"]
    assert structure.score(sections, found)["hr05_f"] == 1.0
