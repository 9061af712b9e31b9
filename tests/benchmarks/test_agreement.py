"""Agreement of estimates without labels: scores of pairs, their relative size, and the recorded tables."""

import json
import sys

import agreement
import numpy as np
import pytest
import soundfile
from agreement import OURS, compare, relate, report
from peer_environments import Environment, PeerUnavailableError
from reporting import RESULTS

from musicfm_hf import SongAnnotation
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.tasks import get_task
from musicfm_hf.tasks.annotations import Beats, Segment
from musicfm_hf.tasks.averages import drop_nan

MADMOM, LIBROSA = "madmom, beats", "librosa, beats"


def beats(*times: float) -> Beats:
    return Beats(np.array(times), np.zeros(len(times), dtype=np.int64))


def whole(label: str) -> list[Segment]:
    return [Segment(0.0, 4.0, label)]


@pytest.mark.parametrize(
    ("task", "first", "second", "score"),
    [
        ("beat", beats(1, 2, 3, 4), beats(1.05, 3.05), 2 / 3),  # precision 1, recall 1/2
        ("beat", beats(1, 2), beats(1.08, 2.08), 0.0),
        ("beat", beats(1, 2), beats(), 0.0),
        ("beat", beats(), beats(), None),
        ("beat", beats(1, 2), None, None),
        ("key", whole("C:maj"), whole("G:maj"), 0.25),  # 0.5 for a fifth above, 0 for a fifth below
        ("key", whole("C:maj"), whole("A:min"), 0.3),
        ("key", whole("C:maj"), whole("N"), 0.0),
        ("chord", whole("C:maj"), [Segment(0, 1, "C:7"), Segment(1, 4, "F:maj")], 0.25),
        ("chord", whole("N"), whole("N"), 1.0),
        # Csus4 is wrong if C is the reference, and not compared if it is the reference itself.
        ("chord", whole("C:maj"), [Segment(0, 2, "C:maj"), Segment(2, 4, "C:sus4")], (0.5 + 1) / 2),
        ("chord", whole("C:maj"), whole("C:sus4"), None),
    ],
)
def test_agreement_of_a_pair(task, first, second, score):
    expected = pytest.approx(float("nan") if score is None else score, nan_ok=True)
    assert agreement.agreement(get_task(task), first, second) == expected
    assert agreement.agreement(get_task(task), second, first) == expected


def test_pairs_are_compared_on_the_songs_that_have_a_score():
    songs = [LabeledSong(name, f"{name}.wav", name, duration=4.0) for name in "abcd"]
    # The key of the whole song counts, not the longest one.
    keys = [Segment(0.0, 3.0, "D:maj"), Segment(3.0, 4.0, "C:maj")]
    ours = {name: SongAnnotation(4.0, beats=beats(1, 2), keys=keys, key="C:maj") for name in "abc"}
    ours["d"] = SongAnnotation(4.0, beats=beats(), keys=[], key="N")
    estimates = {
        OURS: ours,
        "tracker": {"a": beats(1, 2), "b": beats(1), "d": beats()},  # failed for c
        "keys": {"a": whole("C:maj"), "b": whole("A:min"), "c": whole("E:maj"), "d": whole("C:maj")},
        "profiles": {name: whole("C:maj") for name in "abcd"},
    }
    tasks = {OURS: ["beat", "key", "tagging"], "tracker": ["beat"], "keys": ["key"], "profiles": ["key"]}
    rows = {(row["task"], *row["pair"]): row for row in compare(songs, estimates, tasks)}
    assert list(rows) == [
        ("beat", OURS, "tracker"),
        ("key", OURS, "keys"),
        ("key", OURS, "profiles"),
        ("key", "keys", "profiles"),
    ]
    tracked = rows["beat", OURS, "tracker"]
    assert tracked["scores"] == pytest.approx([1, 2 / 3, np.nan, np.nan], nan_ok=True, abs=1e-6)
    assert tracked["songs"] == 2
    assert tracked["mean"] == pytest.approx(5 / 6)
    assert tracked["interval"] == pytest.approx((2 / 3, 1))
    assert rows["key", OURS, "keys"]["scores"] == pytest.approx([1, 0.3, 0, 0])
    assert rows["key", "keys", "profiles"]["scores"] == pytest.approx([1, 0.3, 0, 1])


def pair(first: str, second: str, *scores: float | None) -> dict:
    mean = float(np.nanmean(np.array(scores, dtype=float)))
    row = {"task": "beat", "score": "beat_f", "pair": [first, second], "songs": 2, "scores": list(scores)}
    return row | {"mean": mean, "interval": (0.0, 1.0)}


def test_ratios_draw_the_same_songs_for_ours_and_for_the_tools():
    pairs = [pair(OURS, LIBROSA, 1, 0), pair(OURS, MADMOM, 0.5, 0.5), pair(LIBROSA, MADMOM, 1, 0.5)]
    rows = relate(pairs)
    assert [(row["tool"], row["with"]) for row in rows] == [
        (OURS, [LIBROSA, MADMOM]),
        (OURS, [MADMOM]),
        (LIBROSA, [MADMOM]),
        (MADMOM, [LIBROSA]),
    ]
    assert [row["mean"] for row in rows] == [0.5, 0.5, 0.75, 0.75]
    assert [row["between_tools"] for row in rows] == [0.75] * 4
    assert [row["ratio"] for row in rows] == pytest.approx([2 / 3, 2 / 3, 1, 1])
    # Twice the first song: 0.75 / 1; twice the second: 0.25 / 0.5; each happens in a quarter of the draws.
    assert rows[0]["interval"] == pytest.approx((0.5, 0.75))
    assert rows[1]["interval"] == pytest.approx((0.5, 1))
    assert rows[2]["interval"] == pytest.approx((1, 1))
    assert report({"pairs": pairs, "relative": rows}).splitlines()[2:5] == [
        "| beat | **ours**, with “librosa, beats” and “madmom, beats” | 0.500 | 0.750 | 0.67 [0.50, 0.75] |",
        "| beat | **ours**, with “madmom, beats” | 0.500 | 0.750 | 0.67 [0.50, 1.00] |",
        "| beat | librosa, beats, with the other tools | 0.750 | 0.750 | 1.00 [1.00, 1.00] |",
    ]


def test_ours_is_compared_with_the_two_tools_that_agree_most():
    means = {(OURS, "a"): 0.5, (OURS, "b"): 0.3, (OURS, "c"): 0.1, ("a", "b"): 0.8, ("a", "c"): 0.2, ("b", "c"): 0.2}
    rows = relate([pair(*names, mean, mean) for names, mean in means.items()])
    assert [(row["tool"], row["with"]) for row in rows[:2]] == [(OURS, ["a", "b", "c"]), (OURS, ["a", "b"])]
    assert [row["mean"] for row in rows] == pytest.approx([0.3, 0.4, 0.5, 0.5, 0.2])
    assert [row["between_tools"] for row in rows] == pytest.approx([0.4, 0.8, 0.4, 0.4, 0.4])
    assert [row["ratio"] for row in rows] == pytest.approx([0.75, 0.5, 1.25, 1.25, 0.5])
    assert "| beat | **ours**, with all tools | 0.300 |" in report({"pairs": [], "relative": rows})


def test_scores_that_are_missing_are_left_out_of_drawn_means():
    drawn = agreement.draw_means([[0.25, None, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0, 0.0]])
    assert drawn.shape == (2, agreement.DRAWS)
    assert set(drop_nan(drawn[0])) == {0.25}  # few samples have the second song only, and no mean
    assert np.isnan(drawn[0]).mean() < 0.01
    assert drawn[1].mean() == pytest.approx(0.2, abs=0.01)


def test_there_is_no_ratio_with_one_tool():
    assert relate([pair(OURS, MADMOM, 1, 0)]) == []


def test_songs_on_which_a_tool_fails_are_left_out(monkeypatch, tmp_path):
    songs = [LabeledSong(name, f"{name}.wav", name, duration=4.0) for name in "ab"]
    results = {"a": {"result": [1.0, 2.0]}, "b": {"error": "ValueError: too loud"}}
    monkeypatch.setattr(agreement, "install", lambda *_: Environment(tmp_path, "1.2", {}))
    monkeypatch.setattr(agreement, "analyze", lambda *_: results)
    version, events = agreement.estimate(LIBROSA, songs, tmp_path)
    assert version == "1.2"
    assert list(events) == ["a"]
    assert events["a"].times.tolist() == [1.0, 2.0]


def test_a_tool_that_does_not_install_is_recorded(monkeypatch, tmp_path):
    (tmp_path / "songs").mkdir()
    for name in "ab":
        soundfile.write(tmp_path / f"songs/{name}.wav", np.zeros(6 * 24000), 24000)

    def estimate(name, songs, folder):
        if name == MADMOM:
            raise PeerUnavailableError("does not install: no wheel")
        return "1.2", {song.id: beats(1, 2) for song in songs}

    monkeypatch.setattr(agreement, "estimate", estimate)
    words = ["--songs", tmp_path / "songs", "--environments", tmp_path / "peers", "--seconds", 4]
    words += ["--methods", MADMOM, LIBROSA, "Essentia, beats", "--output_file", tmp_path / "agreement.json"]
    monkeypatch.setattr(sys, "argv", ["agreement.py", *map(str, words)])
    agreement.main()
    results = json.loads((tmp_path / "agreement.json").read_text())
    assert results["recordings"] == ["000-a", "001-b"]
    assert results["tools"][MADMOM] == {"reason": "does not install: no wheel"}
    assert results["tools"][LIBROSA] == {"version": "1.2", "songs": 2}
    assert [(row["pair"], row["mean"]) for row in results["pairs"]] == [
        ([OURS, LIBROSA], 0),  # the model finds no beats in silence
        ([OURS, "Essentia, beats"], 0),
        ([LIBROSA, "Essentia, beats"], 1),
    ]
    excerpt = next((tmp_path / "peers/excerpts-4").iterdir())
    assert soundfile.info(excerpt).duration == pytest.approx(4.0)


def test_the_recorded_tables_are_those_of_their_scores():
    results = json.loads((RESULTS / "agreement.json").read_text(encoding="utf-8"))
    assert report(results) == (RESULTS / "agreement.md").read_text(encoding="utf-8")
    for row in results["pairs"]:
        scores = [score for score in row["scores"] if score is not None]
        assert len(row["scores"]) == len(results["recordings"])
        assert len(scores) == row["songs"]
        assert row["mean"] == pytest.approx(np.mean(scores), abs=1e-6)
    for row, expected in zip(results["relative"], relate(results["pairs"]), strict=True):
        assert (row["task"], row["tool"], row["with"]) == (expected["task"], expected["tool"], expected["with"])
        for name in ("mean", "between_tools", "ratio", "interval"):
            assert row[name] == pytest.approx(expected[name], abs=1e-5)
