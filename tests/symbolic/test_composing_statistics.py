"""What is learned from songs, and how patterns are brought to meters and chords."""

import dataclasses
import pickle

import numpy as np
import pytest
from helpers.learned_songs import learned_song, learned_songs

from musicfm_hf.data.composed_songs import composed_versions
from musicfm_hf.data.readers import rendered
from musicfm_hf.symbolic.composing.accompaniment import accompany, bass_line
from musicfm_hf.symbolic.composing.composition import compose_score
from musicfm_hf.symbolic.composing.harmony import draw_progression
from musicfm_hf.symbolic.composing.material import GridNote, chord_label, relative_chord, split_phrases
from musicfm_hf.symbolic.composing.melody import Harmony
from musicfm_hf.symbolic.composing.meters import Meter, draw_meter
from musicfm_hf.symbolic.composing.statistics import CompositionStatistics, fit_statistics
from musicfm_hf.tasks.annotations import PITCH_NAMES, Segment


@pytest.mark.parametrize(
    ("label", "tonic", "relative"),
    [
        ("A:min7/b3", 0, "9:min7/b3"),
        ("Bb:maj", 10, "0:maj"),
        ("F#:sus4", 7, "11:sus4"),
        ("C", 2, "10:maj"),
        ("C/3", 0, "0:maj/3"),
        ("N", 3, None),
        ("X", 3, None),
    ],
)
def test_chords_relative_to_the_tonic(label, tonic, relative):
    assert relative_chord(label, tonic) == relative
    if relative is not None:
        spelled = chord_label(relative, tonic)
        assert relative_chord(spelled, tonic) == relative
        assert spelled.split(":")[0] == label.split(":")[0].split("/")[0]


def test_phrases_of_a_song():
    phrases = split_phrases(*learned_song(tonic=2))
    assert [(phrase.letter, phrase.function, phrase.bars) for phrase in phrases[:3]] == [
        ("i", "intro", 2),
        ("A", "verse", 4),
        ("B", "chorus", 4),
    ]
    verse = phrases[1]
    assert (verse.tonic, verse.mode) == (2, "maj")
    assert verse.chords == [(0, "0:maj"), (4, "7:maj/3"), (8, "9:min"), (12, "7:maj")]
    assert verse.notes["MELODY"][:4] == [
        GridNote(-4, 2, 62, 85),
        GridNote(-2, 2, 62, 85),
        GridNote(0, 2, 62, 90),
        GridNote(4, 2, 64, 90),
    ]
    assert phrases[2].notes["MELODY"][-1] == GridNote(48, 8, 73, 90)  # the pickup of the next verse is not its own
    assert verse.notes["BRIDGE"] == []


def test_statistics_count_what_the_songs_have():
    statistics = fit_statistics(learned_songs())
    assert statistics.songs == 8
    major = statistics.transitions["maj"]
    assert major["^|^verse"] == {"0:maj": 8}  # four songs with two verses
    assert major["5:maj"] == {"0:maj": 4, "7:7": 8, "7:maj": 8}
    assert major["9:min7|5:maj"] == {"7:maj": 8}
    assert statistics.cadences["min"] == {"0:min": 12, "10:maj": 8, "8:maj": 4}
    assert statistics.chord_rhythms["inner|0"] == {"0": 32, "0,2": 16}
    assert statistics.forms[0] == [
        ("i", "intro", 2),
        ("A", "verse", 4),
        ("B", "chorus", 4),
        ("A", "verse", 4),
        ("B", "chorus", 4),
        ("o", "outro", 2),
    ]
    assert statistics.repeats == 1.0
    assert statistics.loops == 0.0  # no phrase has eight bars
    melody = statistics.melody
    assert melody.forms == {"4": {"aaab": 32}}
    # The first interval of each of 32 phrases is a whole tone up: C D or D E.
    assert melody.intervals["start"] == {"2": 32}
    assert melody.finals["maj"][11] == 16
    assert sum(melody.degrees["maj"]) == 16 * 16
    manner = statistics.manners[0]
    assert (manner["tempo"], manner["mode"]) == (120.0, "maj")
    assert manner["melody"]["verse"]["inner"][0] == [0, 2, 4, 2, 8, 2, 10, 2, 12, 2]
    assert manner["melody"]["verse"]["pickup"] == [[-4, 2, -2, 2]] * 2
    assert set(manner["bridge"]) == {"intro", "outro"}
    assert manner["piano"]["verse"][0][0] == [0, 16, 36, 70, 1, 2, 14, 55, 60, 0, 2, 14, 62, 60, 0]


def test_notes_of_a_pickup_that_begin_together_count_once():
    score, letters = learned_song()
    doubled = [
        dataclasses.replace(part, notes=tuple(note for note in part.notes for _ in range(2))) for part in score.parts
    ]
    manner = fit_statistics([(score.with_parts(doubled), letters)]).manners[0]
    assert manner["melody"]["verse"] == fit_statistics([(score, letters)]).manners[0]["melody"]["verse"]
    assert manner["melody"]["verse"]["pickup"] == [[-4, 2, -2, 2]] * 2


def test_statistics_are_saved_and_loaded(tmp_path):
    statistics = fit_statistics(learned_songs())
    statistics.save(tmp_path / "s.json")
    assert CompositionStatistics.load(tmp_path / "s.json") == statistics
    (tmp_path / "t.json").write_text('{"songs": 3}')
    with pytest.raises(ValueError, match=r"t\.json must have the entries cadences, .*as `save` writes them"):
        CompositionStatistics.load(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        CompositionStatistics.load(tmp_path / "t.json")


def test_modes_without_frequent_chords_are_not_composed_in():
    """The two chords of the outro are the only ones in minor."""
    score, letters = learned_song()
    change = letters[-1].start
    keys = [Segment(0.0, change, "C:maj"), Segment(change, score.duration, "A:min")]
    statistics = fit_statistics([(dataclasses.replace(score, keys=keys), letters)])
    assert list(statistics.transitions) == ["maj"]
    for seed in range(5):
        assert compose_score(statistics, seed).keys
    labels = [f"{name}:{kind}" for name in PITCH_NAMES for kind in ("maj", "min", "7")]
    one_chord_each = [segment._replace(label=label) for segment, label in zip(score.chords, labels, strict=False)]
    with pytest.raises(ValueError, match="No chord occurs 3 times in a mode of the songs"):
        fit_statistics([(dataclasses.replace(score, chords=one_chord_each), letters)])


def test_only_four_beats_are_learned():
    waltz, song = learned_song(beats_per_bar=3), learned_song()
    assert split_phrases(*waltz) == []
    assert fit_statistics([waltz, song]) == fit_statistics([song])
    with pytest.raises(ValueError, match="None of 0 songs has a phrase in four beats"):
        fit_statistics([waltz])
    score, letters = song
    with pytest.raises(ValueError, match="Song a needs at least two downbeats and a key"):
        split_phrases(dataclasses.replace(score, keys=[]), letters)


def test_progressions_are_those_of_the_songs_where_they_leave_no_choice():
    statistics = fit_statistics(learned_songs())
    statistics.chord_rhythms = {"first|": {"0": 1}, "inner|0": {"0": 1}, "last|0": {"0": 1}}
    rng = np.random.default_rng(0)
    progression = draw_progression(rng, statistics, "min", "verse", 4)
    assert progression == [(0, "0:min"), (4, "8:maj"), (8, "3:maj"), (12, "10:maj")]
    statistics.loops = 1.0
    looped = draw_progression(rng, statistics, "min", "verse", 8)
    assert looped[:4] == progression
    assert looped[4:7] == [(beat + 16, chord) for beat, chord in progression[:3]]


@pytest.mark.parametrize(
    ("meter", "bars"),
    [
        (Meter(2, (2,), 4, ((0, 4), (8, 12))), [[0, 4, 6], [0, 4]]),
        (Meter(3, (3,), 4, ((0, 8, 12),)), [[0, 4, 8]]),
        (Meter(4, (2, 2), 4, ((0, 4, 8, 12),)), [[0, 4, 6, 8, 12]]),
        (Meter(5, (3, 2), 4, ((0, 4, 4, 8, 12),)), [[0, 4, 6, 8, 10, 12, 16]]),
        (Meter(6, (3, 3), 2, ((0, 2, 4, 8, 10, 12),)), [[0, 8, 12, 20]]),
    ],
    ids=lambda value: str(value.beats) if isinstance(value, Meter) else None,
)
def test_rhythms_in_other_meters(meter, bars):
    # Notes on beats 1, 2, 2½, 3 and 4 of a bar of four.
    pattern = [[(step, 1) for step in (0, 4, 6, 8, 12)]]
    assert [[step for step, _ in bar] for bar in meter.bring_bars(pattern)] == bars


def test_accents_and_lengths_in_other_meters():
    six = Meter(6, (3, 3), 2, ((0, 2, 4, 8, 10, 12),))
    assert six.strengths()[::4].tolist() == [4, 2, 2, 3, 2, 2]
    assert six.strengths()[1:4].tolist() == [0, 1, 0]
    # A half note becomes three beats: the left-out eighth does not count. A quarter note becomes two.
    assert six.bring_bars([[(0, 8), (8, 4)]]) == [[(0, 12), (12, 8)]]
    three = Meter(3, (3,), 4, ((0, 4, 8),))
    assert three.bring_bars([[(0, 16)]]) == [[(0, 12)]]
    five = Meter(5, (3, 2), 4, ((0, 4, 4, 8, 12),))
    assert five.bring_bars([[(0, 16)], [(4, 4), (12, 8)]]) == [[(0, 8)], [(4, 4), (8, 4), (16, 8)]]
    assert draw_meter(np.random.default_rng(0), 7).beats == 7


def test_chords_in_other_meters():
    chords = [(0, "a"), (2, "b"), (4, "c"), (5, "d"), (7, "e")]  # beats of two bars
    assert Meter(2, (2,), 4, ((0, 4), (8, 12))).bring_chords(chords) == chords
    three = Meter(3, (3,), 4, ((0, 4, 12),))  # without the third beat
    assert three.bring_chords(chords) == [(0, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]
    six = Meter(6, (3, 3), 2, ((0, 2, 4, 8, 10, 12),))
    assert six.bring_chords(chords) == [(0, "a"), (3, "b"), (6, "c"), (8, "d"), (11, "e")]


def test_an_accompaniment_follows_the_chords():
    meter = Meter(4, (2, 2), 4, ((0, 4, 8, 12),))
    harmony = Harmony(0, "maj", [(0, "C:maj"), (8, "G:7/3"), (16, "F:maj")], meter.strengths())
    # A bass of a bar, and two notes on beat 2 that last until the end of the bar.
    pattern = [[(0, 16, 36, 80, 1), (4, 12, 64, 70, 0), (4, 12, 67, 70, 0)]]
    notes = [tuple(note) for note in accompany(pattern, harmony, 2, meter)]
    assert (
        notes
        == [
            (0, 8, 36, 80),  # C; it ends where C is no longer in the chord
            (4, 4, 64, 70),  # E
            (4, 12, 67, 70),  # G, which stays
            (8, 8, 47, 70),  # B, the bass of the second chord, which the pattern does not play, and its other tones
            (8, 8, 62, 64),
            (8, 8, 65, 64),
            (16, 16, 36 + 5, 80),  # F
            (20, 12, 65, 70),  # F instead of E
            (20, 12, 69, 70),  # A is as near to G as F, which is used
        ]
        or notes
    )
    bass = [tuple(note)[:3] for note in bass_line([GridNote(*note) for note in notes], harmony, 32)]
    assert bass == [(0, 8, 36), (8, 8, 35), (16, 16, 29)]


def test_composed_versions_learn_once_and_only_if_their_songs_change(tmp_path):
    calls = []

    def songs():
        calls.append(1)
        return learned_songs()

    versions = composed_versions(songs, "a", 3, tmp_path, seed=2)
    assert [(version.id, version.split) for version in versions] == [(f"composed_{n}_v1", "train") for n in range(3)]
    assert composed_versions(songs, "a", 4, tmp_path)[0].made_from == versions[0].made_from
    assert len(calls) == 1
    assert composed_versions(songs, "b", 1, tmp_path)[0].made_from != versions[0].made_from
    assert len(calls) == 2
    score = pickle.loads(pickle.dumps(versions[1])).load()
    assert (score.id, score.group) == ("composed_1", "composed_1")
    other = composed_versions(songs, "a", 2, tmp_path, seed=3)[1].load()
    assert score.parts != other.parts
    assert composed_versions(songs, "c", 0, tmp_path) == []
    with pytest.raises(ValueError, match="from 0 to 1000000, got -1"):
        composed_versions(songs, "a", -1, tmp_path)


def test_composed_songs_are_learned_from_training_songs_alone(tmp_path, monkeypatch):
    songs = {
        split: [dataclasses.make_dataclass("Song", ["id", "split", "midi"])(split, split, tmp_path)]
        for split in ("train", "valid", "test")
    }
    asked = []
    monkeypatch.setattr(rendered, "chosen_songs", lambda *arguments: songs)
    monkeypatch.setattr(rendered, "check_settings", lambda settings: None)
    monkeypatch.setattr(rendered, "render_versions", lambda *arguments: iter(()))
    monkeypatch.setattr(rendered, "composed_versions", lambda *arguments: asked.append(arguments) or [])
    rendered.song_readers(tmp_path, tmp_path, composed=5, seed=7)
    load, _, count, folder, seed = asked[0]
    assert [song.id for song in load.args[1]] == ["train"]
    assert (count, folder, seed) == (5, tmp_path, 7)
