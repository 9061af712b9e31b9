import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.recipes import run_recipe

from musicfm_hf.data.labeled import LabeledSong, Source
from musicfm_hf.data.labeled_dataset import build, load_songs, save
from musicfm_hf.evaluation import baselines
from musicfm_hf.evaluation.baselines import Priors, fit_priors
from musicfm_hf.evaluation.classical import KEY_PROFILES, AudioFeatures, bar_grid, match_chords, match_key
from musicfm_hf.tasks.annotations import PITCH_NAMES, Beats, Segment


def triad(*names):
    """Chroma of one frame."""
    return np.isin(PITCH_NAMES, names).astype(np.float32)


def song(name="a", audio="", **labels):
    return LabeledSong(name, audio, name, duration=labels.pop("duration", 20.0), **labels)


def played(chords, seconds, rate=22050):
    """Sines of MIDI pitches with two harmonics, each chord for so many seconds, with a click every half second."""
    time = np.arange(round(seconds * rate)) / rate
    parts = []
    for pitches in chords:
        part = np.zeros(len(time))
        for pitch in pitches:
            for harmonic in (1, 2):
                part += 0.1 / harmonic * np.sin(2 * np.pi * harmonic * 440 * 2 ** ((pitch - 69) / 12) * time)
        parts.append(part)
    audio = np.concatenate(parts)
    click = np.random.default_rng(0).standard_normal(400) * np.exp(-np.arange(400) / 60)
    for start in range(0, len(audio) - 400, rate // 2):
        audio[start : start + 400] += 0.5 * click
    return audio.astype(np.float32)


# Chords


def test_chords_between_beats():
    """One frame a second; the beat at 2.5 s is nearest to frame 2 (halves go to the even one)."""
    frames = [triad("C", "E", "G"), triad("C", "E", "G"), triad("A", "C", "E"), triad("F#", "A", "C#"), np.zeros(12)]
    chroma = np.stack(frames, axis=1)
    assert match_chords(chroma, 1.0, np.array([0.0, 1.0, 2.5, 3.0, 4.0]), 5.5) == [
        Segment(0.0, 2.5, "C:maj"),
        Segment(2.5, 3.0, "A:min"),
        Segment(3.0, 4.0, "F#:min"),
        Segment(4.0, 5.5, "N"),
    ]


def test_the_chord_of_a_beat_is_that_of_its_mean():
    chroma = np.stack([triad("C", "E", "G"), triad("C", "E", "G"), 1.5 * triad("D", "F#", "A")], axis=1)
    assert match_chords(chroma, 1.0, np.array([]), 3.0) == [Segment(0.0, 3.0, "C:maj")]
    assert match_chords(chroma, 1.0, np.array([2.0]), 3.0)[1] == Segment(2.0, 3.0, "D:maj")


def test_all_triads():
    for mode, third in (("maj", 4), ("min", 3)):
        for root in range(12):
            names = [PITCH_NAMES[(root + step) % 12] for step in (0, third, 7)]
            ((_, _, label),) = match_chords(triad(*names)[:, None], 1.0, np.array([]), 1.0)
            assert label == f"{PITCH_NAMES[root]}:{mode}"


def test_chords_with_awkward_beats():
    chroma = np.stack([triad("C", "E", "G")] * 3, axis=1)
    whole = [Segment(0.0, 3.0, "C:maj")]
    # Nearer than a frame, at the end, after the end.
    assert match_chords(chroma, 1.0, np.array([0.1, 0.2, 0.3, 2.9, 3.0, 7.0]), 3.0) == whole
    assert match_chords(np.zeros((12, 3)), 1.0, np.array([1.0]), 3.0) == [Segment(0.0, 3.0, "N")]
    quiet = np.stack([triad("C", "E", "G"), triad("C", "E", "G"), 0.04 * triad("D", "F#", "A")], axis=1)
    assert match_chords(quiet, 1.0, np.array([2.0]), 3.0)[1].label == "N"


# Keys


@pytest.mark.parametrize("mode", ["maj", "min"])
def test_a_profile_is_its_own_key(mode):
    for tonic, name in enumerate(PITCH_NAMES):
        chroma = np.roll(KEY_PROFILES[mode], tonic)[:, None] * np.array([1.0, 3.0])
        assert match_key(chroma) == f"{name}:{mode}"


def test_the_key_of_a_scale():
    assert match_key(triad("D", "E", "F#", "G", "A", "B", "C#")[:, None] + 2 * triad("D", "A")[:, None]) == "D:maj"


def test_no_key():
    assert match_key(np.zeros((12, 4))) == "N"
    assert match_key(np.ones((12, 4))) == "N"


# Sections


def test_eight_bars():
    """Bars of 2 s from 0.5 s on, after a pickup."""
    times = np.arange(1 + 4 * 20) * 0.5
    beats = Beats(times, np.r_[4, np.arange(4 * 20) % 4 + 1])
    assert bar_grid(beats, 41.0, "verse") == [
        Segment(0.0, 0.5, "verse"),
        Segment(0.5, 16.5, "verse"),
        Segment(16.5, 32.5, "verse"),
        Segment(32.5, 41.0, "verse"),
    ]
    assert [start for start, _, _ in bar_grid(beats, 41.0, "verse", 3)] == [0.0, 6.5, 22.5, 38.5]
    assert len(bar_grid(beats, 32.5, "verse")) == 3  # none begins at the end
    assert bar_grid(Beats(np.array([0.5]), np.array([2])), 3.0, "verse") == [Segment(0.0, 3.0, "verse")]


def test_what_is_learned():
    songs = [
        song("a", sections=[Segment(0, 3, "intro"), Segment(3, 4, "Chorus"), Segment(4, 9, "solo")], tags=["x", "y"]),
        song("b", sections=[Segment(0, 5, "refrain"), Segment(5, 90, "end")], tags=["x"]),
        song("c", tags=[]),
        song("d"),
    ]
    assert fit_priors(songs) == Priors("chorus", {"x": 2 / 3, "y": 1 / 3})
    assert fit_priors([song()]) == Priors(None, {})


# Scores


VERSES = Priors("verse", {})


def scored(name, songs, sounds=None, priors=VERSES):
    return baselines.score_baseline(name, songs, sounds or {}, priors)


def test_beats_that_are_right_and_bars_that_are_not():
    """All beats are hit. Of downbeats at 5.5, 7.5, …, guessed at 5, 7, …, none is."""
    times = 5 + np.arange(16) * 0.5
    reference = Beats(times, (np.arange(16) + 3) % 4 + 1)
    found = scored("beat_track", [song(beats=reference)], {"a": AudioFeatures(times, None, 43.0)})
    assert found["metric"] == "beat_f"
    assert found["scores"]["beat_f"] == {"mean": 1.0, "songs": 1, "interval": (1.0, 1.0)}
    assert found["scores"]["downbeat_f"]["mean"] == 0.0


def test_chords_on_true_beats_need_beats():
    chords = [Segment(0, 1, "C"), Segment(1, 2, "A:min7"), Segment(2, 3, "G:7"), Segment(3, 4, "D")]
    frames = [triad("C", "E", "G"), triad("A", "C", "E"), triad("G", "B", "D"), triad("D", "F", "A")]
    sound = AudioFeatures(np.array([2.0]), np.stack(frames, axis=1), 1.0)
    beats = Beats(np.arange(4.0), np.zeros(4, dtype=np.int64))
    songs = [song("a", chords=chords, beats=beats, duration=4.0), song("b", chords=chords, duration=4.0)]
    found = scored("templates_true_beats", songs, {"a": sound, "b": sound})
    assert list(found["songs"]) == ["a"]
    assert found["scores"]["majmin"]["mean"] == 0.75
    assert found["scores"]["majmin_by_duration"] == {"mean": 0.75, "songs": 1}
    assert scored("templates_true_beats", songs[1:], {"b": sound}) is None
    assert list(scored("templates_tracked_beats", songs, {"a": sound, "b": sound})["songs"]) == ["a", "b"]


def test_templates_with_sevenths_and_basses():
    """The bass is looked for among the tones of the chord: the F below C:maj is not one of them."""
    chords = [Segment(0, 1, "C/3"), Segment(1, 2, "A:min7/b3"), Segment(2, 3, "G:7"), Segment(3, 4, "D:sus2")]
    frames = [triad("C", "E", "G"), triad("A", "C", "E", "G"), triad("G", "B", "D", "F"), triad("D", "E", "A")]
    basses = [triad("E") + 2 * triad("F"), triad("C"), triad("G"), triad("D")]
    sound = AudioFeatures(np.empty(0), np.stack(frames, axis=1), 1.0, np.stack(basses, axis=1))
    songs = [song(chords=chords, beats=Beats(np.arange(4.0), np.zeros(4, dtype=np.int64)), duration=4.0)]
    found = {
        name: scored(f"templates_{name}", songs, {"a": sound})["songs"]["a"]
        for name in ("true_beats", "sevenths", "inversions", "full")
    }
    assert [scores["tetrads"] for scores in found.values()] == [0.25, 0.75, 0.25, 1.0]
    assert [scores["tetrads_inv"] for scores in found.values()] == [0.0, 0.25, 0.25, 1.0]


def test_sections():
    sections = [Segment(0, 10, "verse"), Segment(10, 16, "chorus"), Segment(16, 20, "verse")]
    other = [Segment(0, 10.4, "verse"), Segment(10.4, 20, "chorus")]
    songs = [song("a", sections=sections, more={"sections_2": other}), song("b", sections=sections)]
    trivial = scored("start_and_end", songs)["songs"]["b"]
    # 0 and 20 are among 0, 10, 16, 20.
    assert (trivial["hr05_p"], trivial["hr05_r"], trivial["frame_accuracy"]) == (1.0, 0.5, 0.7)
    assert scored("start_and_end", songs, priors=Priors("chorus", {}))["songs"]["b"]["frame_accuracy"] == 0.3
    # No training song has sections, so no function is the most frequent one.
    assert scored("start_and_end", songs, priors=Priors(None, {})) is None
    second = scored("second_annotator", songs)
    assert list(second["songs"]) == ["a"]
    assert (second["songs"]["a"]["hr05_p"], second["songs"]["a"]["hr05_r"]) == (1.0, 0.75)
    assert second["songs"]["a"]["frame_accuracy"] == pytest.approx((10 + 5.6) / 20)
    assert scored("eight_bars", songs) is None


def test_sections_on_a_grid():
    """Bars of 2 s from 0 on; sections begin with bars 0, 3 and 11."""
    beats = Beats(np.arange(80) * 0.5, np.arange(80) % 4 + 1)
    sections = [Segment(0, 6, "intro"), Segment(6, 22, "verse"), Segment(22, 40, "chorus")]
    songs = [song(sections=sections, beats=beats, duration=40.0)]
    first = scored("eight_bars", songs)["songs"]["a"]
    assert (first["hr05_p"], first["hr05_r"]) == (0.5, 0.5)  # 0 and 40 of 0, 16, 32, 40
    later = [song(sections=[Segment(6.3, 22, "verse"), Segment(22, 40, "chorus")], beats=beats, duration=40.0)]
    found = scored("eight_bars", later)["songs"]["a"]  # counted from 6: 0, 6, 22, 38, 40
    assert (found["hr05_p"], found["hr05_r"]) == (0.8, 1.0)
    best = scored("eight_bars_best_phase", songs)["songs"]["a"]
    assert (best["hr05_p"], best["hr05_r"]) == (0.8, 1.0)  # 38 is one too many
    assert best["frame_accuracy"] == 0.4


def test_prevalence():
    """Every song gets the same: the mean precision of a tag is its share, the area 0.5; z is not in training songs."""
    songs = [song("a", tags=["x", "z"]), song("b", tags=[]), song("c", tags=["x", "y"]), song("d", tags=["x"])]
    found = scored("prevalence", songs, priors=Priors("verse", {"x": 0.9, "y": 0.1}))
    assert found["scores"]["map"]["mean"] == pytest.approx((0.75 + 0.25) / 2)
    assert found["scores"]["roc_auc"]["mean"] == 0.5
    assert found["songs"]["d"] == {"probabilities": {"x": 0.9, "y": 0.1}, "tags": ["x"]}
    assert scored("prevalence", songs) is None  # no training song has tags


# With sound


@pytest.fixture
def data(tmp_path):
    """C, F, G and A minor, 2 s each, twice; two training songs without a sound, and a test song that has one."""
    notes = {"C": (60, 64, 67), "F": (65, 69, 72), "G": (67, 71, 74), "A:min": (57, 60, 64)}
    path = tmp_path / "song.flac"
    soundfile.write(path, played([*notes.values()] * 2, 2.0), 22050)
    labels = {
        "beats": Beats(np.arange(32) * 0.5, np.arange(32) % 4 + 1),
        "chords": [Segment(2.0 * k, 2.0 * k + 2, list(notes)[k % 4]) for k in range(8)],
        "keys": [Segment(0, 16, "C")],
        "sections": [Segment(0, 8, "verse"), Segment(8, 16, "chorus")],
        "tags": ["low"],
    }
    training = [song(name, "none.flac", sections=[Segment(0, 9, "chorus")], tags=["low"][:k]) for k, name in
                enumerate("tu")]  # fmt: skip
    splits = {"train": training, "test": [song("a", str(path), **labels, duration=16.0)]}
    save(build(splits, Source("", "", "", "")), tmp_path / "data")
    return tmp_path


def test_shift_of_beats_is_chosen_on_validation_songs():
    """Tracked beats are 30 ms late in the validation songs, more than in the test song, which decides nothing."""
    times = np.arange(20) * 0.5 + 0.25
    validation = [song(str(number), beats=Beats(times, np.arange(20) % 4 + 1)) for number in range(3)]
    late = {
        str(number): AudioFeatures(times + 0.03 + jitter, None, 43.0)
        for number, jitter in enumerate((-0.069, 0, 0.068))
    }
    shift = baselines.fit_beat_shift(validation, late)
    assert shift == pytest.approx(-0.03)
    priors = Priors("verse", {}, shift)
    reference = song("t", beats=Beats(times, np.arange(20) % 4 + 1))
    tested = {"t": AudioFeatures(times + 0.09, None, 43.0)}  # hits within 70 ms
    plain = baselines.score_baseline("beat_track", [reference], tested, priors)
    shifted = baselines.score_baseline("beat_track_shifted", [reference], tested, priors)
    assert plain["songs"]["t"]["beat_f"] == 0
    assert shifted["songs"]["t"]["beat_f"] == 1
    assert shifted["chosen"] == {"shift_seconds": shift}
    assert baselines.score_baseline("beat_track_shifted", [reference], tested, Priors("verse", {})) is None
    early = baselines._shifted_beats(np.array([0.02, 0.52]), -0.03)  # none before the song
    assert early.times.tolist() == pytest.approx([0.49])
    assert early.positions.tolist() == [1]


def test_shifted_beats_need_a_validation_split(data):
    """With one, the command scores them; the songs of `test_recipe` have none."""
    songs = load_songs(data / "data", "test")
    splits = {"train": load_songs(data / "data", "train"), "test": songs}
    splits["validation"] = [replace(songs[0], id="b", group="b")]
    save(build(splits, Source("", "", "", "")), data / "data")
    scored = baselines.score_data_set(data / "data", "test", ["beat"], num_workers=0)
    assert list(scored) == ["beat_track", "beat_track_shifted"]
    assert abs(scored["beat_track_shifted"]["chosen"]["shift_seconds"]) <= 0.1
    better = [scored[name]["scores"]["beat_f"]["mean"] for name in scored]
    assert better[1] >= better[0]


def test_recipe(data, monkeypatch, capsys):
    run_recipe(
        monkeypatch, "baselines.py", "--data", data / "data", "--output", data / "out.json", "--num-workers", "1"
    )
    written = json.loads((data / "out.json").read_text())
    found = written["models"]
    means = {name: result["scores"][result["metric"]]["mean"] for name, result in found.items()}
    assert list(means) == [
        "beat_track", "templates_true_beats", "templates_sevenths", "templates_inversions", "templates_full",
        "templates_tracked_beats", "key_profiles", "start_and_end", "eight_bars", "eight_bars_best_phase",
        "prevalence",
    ]  # fmt: skip
    assert means["beat_track"] > 0.9
    assert means["templates_true_beats"] > 0.95
    assert means["templates_tracked_beats"] > 0.9
    assert means["key_profiles"] == 1.0
    assert means["start_and_end"] == pytest.approx(2 * 1.0 * (2 / 3) / (1 + 2 / 3))  # 0 and 16 of 0, 8, 16
    assert means["prevalence"] is None  # all songs that are scored have the one tag
    assert found["start_and_end"]["songs"]["a"]["frame_accuracy"] == 0.5
    assert found["prevalence"]["songs"]["a"]["probabilities"] == {"low": 0.5}
    assert written["split"] == "test"
    assert (
        "key, key_profiles: profiles of Krumhansl and Kessler on the mean chroma; 1 songs" in capsys.readouterr().out
    )


def test_so_many_songs_of_each_task(data, monkeypatch, capsys):
    """Also where the first ones are not annotated for it."""
    songs = load_songs(data / "data", "test")
    bare = replace(songs[0], id="bare", beats=None, chords=None)
    splits = {"train": load_songs(data / "data", "train"), "test": [bare, songs[0]]}
    save(build(splits, Source("", "", "", "")), data / "data")
    run_recipe(monkeypatch, "baselines.py", "--data", data / "data", "--limit", "1", "--tasks", "beat", "key")
    out = capsys.readouterr().out
    assert "beat, beat_track: librosa.beat.beat_track" in out
    assert "; 1 songs" in out
    assert "; 2 songs" not in out


def test_without_training_songs(data, monkeypatch, capsys):
    """Baselines that need statistics of training songs are left out."""
    songs = [replace(song, chords=[]) for song in load_songs(data / "data", "test")]
    save(build({"test": songs}, Source("", "", "", "")), data / "alone")
    run_recipe(monkeypatch, "baselines.py", "--data", data / "alone", "--num-workers", "0")
    out = capsys.readouterr().out
    assert "key, key_profiles" in out
    assert "structure" not in out
    assert "tagging" not in out
    assert "chord" not in out  # an empty list is no annotation


def test_mistakes(data, monkeypatch):
    with pytest.raises(SystemExit, match="no split 'validation'"):
        run_recipe(monkeypatch, "baselines.py", "--data", data / "data", "--split", "validation")
    with pytest.raises(SystemExit, match=r"None of the 2 songs of .* has beats"):
        run_recipe(monkeypatch, "baselines.py", "--data", data / "data", "--split", "train", "--tasks", "beat")
    soundfile.write(data / "song.flac", np.zeros(1000), 22050)
    with pytest.raises(SystemExit, match=r"a: has 0\.05 s, but baselines need 1"):
        run_recipe(monkeypatch, "baselines.py", "--data", data / "data", "--tasks", "key", "--num-workers", "0")


@pytest.mark.slow
@pytest.mark.skipif("MUSICFM_POP909" not in os.environ, reason="MUSICFM_POP909 does not name the folder of POP909")
def test_sections_of_pop909():
    """Recorded: boundaries on the ten songs of its small test split."""
    from musicfm_hf.data.pop909_rendering import read_songs
    from musicfm_hf.data.readers.pop909 import read_song

    folder = Path(os.environ["MUSICFM_POP909"])
    songs = [read_song(folder, one, "audio") for one in read_songs(folder) if one.is_mini and one.split == "test"]
    songs = [replace(one, duration=one.sections[-1].end) for one in songs]
    expected = {"start_and_end": 0.223, "eight_bars": 0.470, "eight_bars_best_phase": 0.559, "second_annotator": 0.877}
    scores = {name: scored(name, songs)["scores"]["hr05_f"]["mean"] for name in expected}
    assert scores == pytest.approx(expected, abs=0.001)
