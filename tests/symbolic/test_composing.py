"""Composed songs, and labels against notes."""

import os
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from helpers.learned_songs import learned_songs

from musicfm_hf.data.readers.pop909 import chosen_songs, read_score, read_song
from musicfm_hf.symbolic.composing.composition import compose_score, compose_song
from musicfm_hf.symbolic.composing.material import split_phrases
from musicfm_hf.symbolic.composing.plan import ComposerSettings, draw_plan
from musicfm_hf.symbolic.composing.statistics import CompositionStatistics, fit_statistics
from musicfm_hf.tasks.annotations import PITCH_NAMES
from musicfm_hf.tasks.chord_syntax import chord_tones, encode_chord
from musicfm_hf.tasks.meter import time_signatures

SCALES = {"maj": (0, 2, 4, 5, 7, 9, 11), "min": (0, 2, 3, 5, 7, 8, 10)}
FORM = "iABABo"


@lru_cache
def fitted() -> CompositionStatistics:
    return fit_statistics(learned_songs())


def in_meter(beats: int, **changes: float) -> ComposerSettings:
    """Return settings for one meter without changes, except the given ones."""
    steady = {"meter_change": 0.0, "tempo_change": 0.0, "modulation": 0.0, "swing": 0.0}
    return ComposerSettings({beats: 1.0}, **steady | changes)


def parts_of(score):
    return {part.name: part.notes for part in score.parts}


@pytest.mark.parametrize("beats", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize(
    "changes", [{}, {"tempo_change": 0.5, "modulation": 1.0, "swing": 0.5}], ids=["plain", "changing"]
)
def test_labels_are_those_of_the_notes(beats, changes):
    for seed in range(3):
        score = compose_score(fitted(), seed, in_meter(beats, **changes))
        parts = parts_of(score)
        notes = [*parts["PIANO"], *parts["BASS"]]
        basses = {round(note.start, 6): note.pitch % 12 for note in parts["BASS"]}
        for start, end, label in score.chords:
            if label == "N":
                continue
            sounding = {note.pitch % 12 for note in notes if note.start < end - 1e-6 and note.end > start + 1e-6}
            assert sounding == set(chord_tones(label))
            root, _, bass = encode_chord(label)
            assert basses[round(start, 6)] == (root + bass) % 12
            assert np.abs(score.beats.times - start).min() < 1e-6
        downbeats = score.beats.times[score.beats.positions == 1]
        assert all(np.abs(downbeats - section.start).min() < 1e-6 for section in score.sections)
        for rows in (score.chords, score.keys, score.sections):
            assert rows[-1].end == pytest.approx(score.duration)
            assert all(one.end == pytest.approx(other.start) for one, other in pairwise(rows))
        assert {segment.label for segment in time_signatures(score.beats)} == {str(beats)}
        assert max(note.end for part in score.parts for note in part.notes) <= score.duration + 1e-6


@pytest.mark.parametrize("beats", [2, 3, 4, 6])
def test_sections_have_the_form_of_a_song_and_the_length_of_its_phrases(beats):
    composition = compose_song(fitted(), 1, in_meter(beats))
    form = "".join(segment.label for segment in composition.letters)
    assert form in (FORM, FORM[1:])
    functions = {"i": "intro", "A": "verse", "B": "chorus", "o": "outro"}
    assert [section.label for section in composition.score.sections] == [functions[letter] for letter in form]
    downbeats = composition.score.beats.times[composition.score.beats.positions == 1]
    bars = [np.sum((downbeats > start - 1e-6) & (downbeats < end - 1e-6)) for start, end, _ in composition.letters]
    factor = 2 if beats == 2 else 1  # a bar of four beats becomes two
    assert bars == [factor * {"i": 2, "A": 4, "B": 4, "o": 2}[letter] for letter in form]


def test_sections_with_the_same_letter_are_recognizably_the_same():
    shares = []
    for seed in range(12):
        composition = compose_song(fitted(), seed, in_meter(4))
        first = {}
        for phrase in split_phrases(composition.score, composition.letters):
            notes = {(note.step, note.pitch) for note in phrase.notes["MELODY"] if note.step >= 0}
            if phrase.letter in first:
                shares.append(len(notes & first[phrase.letter]) / len(notes))
            elif notes:
                first[phrase.letter] = notes
    assert len(shares) == 24
    # The songs repeat exactly, so that no bar is varied; only the accompaniment and the last bar may differ.
    assert min(shares) == 1.0
    statistics = replace(fitted(), repeats=0.5)
    songs = [compose_song(statistics, seed, in_meter(4)) for seed in range(12)]
    varied = []
    for song in songs:
        phrases = split_phrases(song.score, song.letters)
        for letter in "AB":
            first, second = (
                {(note.step, note.pitch) for note in phrase.notes["MELODY"] if note.step >= 0}
                for phrase in phrases
                if phrase.letter == letter
            )
            varied.append(len(first & second) / len(first))
    assert 0.4 < np.mean(varied) < 0.95
    assert min(varied) < 1


def test_melodies_have_the_shares_of_chord_tones_of_the_songs():
    # Strength in the bar → notes in the chord, others in the scale, and others. The melody of the songs only has notes
    # of the scale, and this lets notes on downbeats be in the chord.
    roles = {"4": [1000, 0, 0], "3": [500, 500, 0], "2": [0, 1000, 0], "1": [0, 1000, 0]}
    statistics = replace(fitted(), melody=replace(fitted().melody, roles=roles, copies=0.0))
    counts = {strength: Counter() for strength in "432"}
    for seed in range(6):
        score = compose_score(statistics, seed, in_meter(4))
        name, mode = score.keys[0].label.split(":")
        scale = {(PITCH_NAMES.index(name) + interval) % 12 for interval in SCALES[mode]}
        for note in parts_of(score)["MELODY"][:-1]:  # without that of the last bar, which is the tonic
            chord = next((label for start, end, label in score.chords if start - 1e-6 <= note.start < end - 1e-6), "N")
            beat = np.abs(score.beats.times - note.start).argmin()
            if chord == "N" or abs(score.beats.times[beat] - note.start) > 1e-6:
                continue
            pitch = note.pitch % 12
            role = "chord" if pitch in chord_tones(chord) else "scale" if pitch in scale else "other"
            counts["4232"[score.beats.positions[beat] - 1]][role] += 1
    shares = {strength: {role: n / own.total() for role, n in own.items()} for strength, own in counts.items()}
    assert counts["4"].total() > 80
    assert shares["4"]["chord"] > 0.95
    assert shares["2"]["scale"] > 0.95
    assert 0.3 < shares["3"]["chord"] < 0.7


def test_the_seed_decides_everything():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    songs = [compose_score(fitted(), seed) for seed in (3, 3, *range(4, 34))]
    texts = [
        repr((score.parts, score.chords, score.sections, score.keys, score.beats.times.tolist())) for score in songs
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 31
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert songs[0].id == songs[0].group == "composed_3"
    assert compose_score(fitted(), 3, id="x").id == "x"


def test_all_keys_and_meters_are_drawn_in_their_shares():
    plans = [draw_plan(np.random.default_rng(seed), fitted(), ComposerSettings()) for seed in range(600)]
    keys = Counter((plan.tonic, plan.mode) for plan in plans)
    assert len(keys) == 24
    assert 10 < min(keys.values()) <= max(keys.values()) < 45  # 25 on average
    meters = Counter(plan.meters["A"].beats for plan in plans)
    shares = {2: 0.1, 3: 0.2, 4: 0.5, 5: 0.03, 6: 0.14, 7: 0.03}
    assert {beats: round(count / 600, 1) for beats, count in meters.items()} == {
        beats: round(share, 1) for beats, share in shares.items()
    }


def test_changes_of_key_tempo_and_meter():
    for seed in range(6):
        raised = compose_score(fitted(), seed, in_meter(4, modulation=1.0))
        assert len(raised.keys) == 2
        tonics = [PITCH_NAMES.index(key.label.split(":")[0]) for key in raised.keys]
        assert (tonics[1] - tonics[0]) % 12 in (1, 2)
        last = [section.start for section in raised.sections if section.label == "chorus"][-1]
        assert raised.keys[1].start == pytest.approx(last)
        steady = compose_score(fitted(), seed, in_meter(4))
        assert len(steady.keys) == 1
        assert np.ptp(np.diff(steady.beats.times)) < 1e-9
        changing = compose_score(fitted(), seed, in_meter(4, tempo_change=1.0))
        assert np.ptp(np.diff(changing.beats.times)) > 0.01
        meters = compose_score(fitted(), seed, ComposerSettings({3: 1, 4: 1}, meter_change=1.0, tempo_change=0.0))
        changes = [segment.start for segment in time_signatures(meters.beats)[1:]]
        starts = [section.start for section in meters.sections]
        assert all(min(abs(change - start) for start in starts) < 1e-6 for change in changes)


def test_swung_eighths_come_at_two_thirds_of_the_beat():
    score = compose_score(fitted(), 0, in_meter(4, swing=1.0))
    starts = np.array([note.start for note in parts_of(score)["MELODY"]])
    beat = score.beats.times[1] - score.beats.times[0]
    places = np.unique(np.round((starts - score.beats.times[0]) / beat % 1, 6))
    assert set(places) - {0.0, 1.0} == {0.666667}


def test_pickups_come_before_the_first_downbeat_and_replace_what_was_there():
    seeds = [seed for seed in range(40) if compose_song(fitted(), seed, in_meter(4)).letters[0].label == "A"]
    assert seeds
    for seed in seeds[:2]:
        score = compose_score(fitted(), seed, in_meter(4))
        assert score.beats.positions[:2].tolist() == [4, 1]  # two eighth notes
        beat = score.beats.times[1] - score.beats.times[0]
        melody = [note.start for note in parts_of(score)["MELODY"][:3]]
        np.testing.assert_allclose(melody, score.beats.times[0] + np.array([0, 0.5, 1]) * beat)
        assert score.chords[0].label == "N"
        assert score.chords[0].end == pytest.approx(score.beats.times[1])
        notes = parts_of(score)["MELODY"]
        assert all(one.end <= other.start + 1e-6 for one, other in pairwise(notes))


def test_the_last_bar_holds_the_tonic():
    score = compose_score(fitted(), 2, in_meter(3))
    tonic = score.keys[0].label
    last = score.beats.times[score.beats.positions == 1][-1]
    assert score.chords[-1].label == tonic
    held = [note for note in parts_of(score)["PIANO"] if note.start >= last - 1e-6]
    assert {note.pitch % 12 for note in held} == set(chord_tones(tonic))
    assert {(round(note.start - last, 6), round(score.duration - note.end, 6)) for note in held} == {(0, 0)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"meters": {}}, "from 2 to 7 beats, got none"),
        ({"meters": {8: 1.0}}, "from 2 to 7 beats, got 8"),
        ({"meters": {3: -1.0, 4: 1.0}}, "must not be negative"),
        ({"meters": {3: 0.0}}, "not all 0"),
        ({"tempo_change": 1.5}, "`tempo_change` is a probability from 0 to 1, got 1.5"),
        ({"bass": -0.1}, "`bass` is a probability"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ComposerSettings(**settings)


def test_a_bass_is_left_out_on_request():
    assert "BASS" not in parts_of(compose_score(fitted(), 0, in_meter(4, bass=0.0)))


@pytest.mark.slow
@pytest.mark.skipif("MUSICFM_POP909" not in os.environ, reason="MUSICFM_POP909 does not name a folder of POP909")
def test_composed_songs_resemble_those_they_are_learned_from():
    source = os.environ["MUSICFM_POP909"]
    chosen = chosen_songs(source, None, "mini")["train"]
    songs = [
        (read_score(source, song), read_song(source, song, "", with_tags=False).more["phrases"]) for song in chosen
    ]
    statistics = fit_statistics(songs)
    composed = [compose_song(statistics, seed, in_meter(4)) for seed in range(60)]
    learned = _describe([score for score, _ in songs])
    described = _describe([song.score for song in composed])
    print(learned, described, sep="\n")
    for name, tolerance in (("chord types", 0.12), ("intervals", 0.15), ("functions", 0.12)):
        kinds = set(learned[name]) | set(described[name])
        assert sum(abs(learned[name][kind] - described[name][kind]) for kind in kinds) / 2 < tolerance, name
    for name in ("MELODY", "BRIDGE", "PIANO", "tempo", "chord beats"):
        assert described[name] == pytest.approx(learned[name], rel=0.2), name


def _describe(scores):
    """Return shares of chord types, melodic intervals and functions, and means over songs."""
    chords, intervals, functions = Counter(), Counter(), Counter()
    means = {"MELODY": [], "BRIDGE": [], "PIANO": [], "tempo": [], "chord beats": []}
    for score in scores:
        beats = len(score.beats.times)
        for start, end, label in score.chords:
            chords[label.split(":")[-1].split("/")[0]] += (end - start) / score.duration
        for start, end, label in score.sections:
            functions[label] += (end - start) / score.duration
        parts = parts_of(score)
        for name in ("MELODY", "BRIDGE", "PIANO"):
            starts = {(round(note.start, 2), note.pitch if name == "PIANO" else 0) for note in parts.get(name, ())}
            means[name].append(len(starts) / beats)
        intervals.update(other.pitch - one.pitch for one, other in pairwise(parts.get("MELODY", ())))
        means["tempo"].append(60 / np.median(np.diff(score.beats.times)))
        means["chord beats"].append(beats / len(score.chords))
    result = {name: float(np.mean(values)) for name, values in means.items()}
    for name, counts in (("chord types", chords), ("intervals", intervals), ("functions", functions)):
        result[name] = Counter({kind: count / counts.total() for kind, count in counts.items()})
    return result
