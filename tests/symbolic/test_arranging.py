from collections import Counter

import numpy as np
import pytest
from helpers.scores import SECTIONS, make_score

from musicfm_hf.symbolic.arranging import drum_styles as drum_styles
from musicfm_hf.symbolic.arranging import drum_styles_held_out as held_out_drums
from musicfm_hf.symbolic.arranging.arrangement import (
    TEMPI,
    Variation,
    arrange,
    draw_variation,
    sounding_seconds,
    tempo_class,
    vary,
)
from musicfm_hf.symbolic.arranging.bars import Chords, find_bars, tones
from musicfm_hf.symbolic.arranging.bass import HELD_OUT as HELD_OUT_BASS
from musicfm_hf.symbolic.arranging.bass import TRAINING as TRAINING_BASS
from musicfm_hf.symbolic.arranging.bass import bass_part
from musicfm_hf.symbolic.arranging.chords import arpeggio_part, comping_part, pad_part
from musicfm_hf.symbolic.arranging.drums import draw_style, drum_part
from musicfm_hf.symbolic.arranging.instruments import INSTRUMENTS, ROLES, draw_instrument, play_on, tag_of
from musicfm_hf.symbolic.score import Part, ScoreControl, ScoreNote
from musicfm_hf.tasks.annotations import Beats, Segment


def rng(seed=0):
    return np.random.default_rng(seed)


def test_bars_follow_downbeats_and_sections():
    bars = find_bars(make_score())
    assert len(bars) == 16
    assert bars[0].times == (0.25, 0.75, 1.25, 1.75, 2.25)
    assert bars[-1].times[-1] == pytest.approx(0.25 + 16 * 2)
    assert [bar.section for bar in bars[::4]] == list(SECTIONS)
    assert [bar.number for bar in bars] == 4 * [0, 1, 2, 3]
    assert [bar.begins_section for bar in bars] == 4 * [True, False, False, False]
    assert [bar.ends_section for bar in bars] == 4 * [False, False, False, True]
    assert (bars[1].at(0.5), bars[1].at(4)) == (2.5, 4.25)


def test_tones_of_chords():
    assert tones("C:maj") == (0, 0, (0, 4, 7))
    assert tones("F:maj/3") == (5, 9, (5, 9, 0))
    assert tones("G:7").fifth == 2
    assert tones("B:dim").fifth == 5
    assert tones("N") is None
    chords = Chords([Segment(1.0, 2.0, "C:maj"), Segment(2.0, 3.0, "G:7"), Segment(4.0, 5.0, "N")])
    assert chords.at(0.5) == (None, 1.0)
    assert chords.at(1.99) == (tones("G:7"), 3.0)  # a chord may change 30 ms after its beat
    assert chords.at(3.5) == (None, 4.0)
    assert chords.at(4.5) == (None, 5.0)


def test_no_style_fill_or_program_of_training_is_held_out():
    assert not set(drum_styles.TRAINING) & set(held_out_drums.STYLES)
    assert not set(TRAINING_BASS) & set(HELD_OUT_BASS)
    patterns = {
        name: [tuple(sorted(rows.items())) for style in styles.values() for rows in sum(style.patterns.values(), ())]
        for name, styles in (("training", drum_styles.TRAINING), ("held out", held_out_drums.STYLES))
    }
    assert not set(patterns["training"]) & set(patterns["held out"])
    assert not any(fill in drum_styles.FILLS for fill in held_out_drums.FILLS)
    for instrument in INSTRUMENTS.values():
        assert not set(instrument.programs) & set(instrument.held_out)
    alternatives = {instrument.name for instrument in INSTRUMENTS.values() if instrument.held_out}
    for role in ROLES:
        drawn = [[draw_instrument(rng(seed), role, held_out) for seed in range(60)] for held_out in (False, True)]
        programs = [{program for one, program in part if one.name in alternatives} for part in drawn]
        assert not programs[0] & programs[1]


@pytest.mark.parametrize("styles", [drum_styles.TRAINING, held_out_drums.STYLES])
def test_patterns_fill_their_bars(styles):
    for style in styles.values():
        for meter, options in style.patterns.items():
            for rows in options:
                assert {len(row) for row in rows.values()} == {meter * style.steps}
                assert set("".join(rows.values())) <= set(".-xX")
                assert set(rows) <= set(drum_styles.DRUMS)
    for meter in range(2, 8):
        assert sum(drum_styles.pattern(style, meter, 0) is not None for style in styles.values()) >= 2
    seven = drum_styles.pattern(styles[next(iter(styles))], 7, 0)
    assert {len(row) for row in seven.values()} == {28}
    for fill in (*drum_styles.FILLS, *held_out_drums.FILLS):
        assert len({len(row) for row in fill.values()}) == 1


@pytest.mark.parametrize("meter", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("held_out", [False, True])
def test_drums_are_on_the_steps_of_the_true_beats(meter, held_out):
    bars = find_bars(make_score(meter))
    kicks = Counter()
    for seed in range(20):
        name, style = draw_style(rng(seed), {meter}, held_out)
        part = drum_part(rng(seed), bars, style, lambda bar: 0.6, held_out)
        assert name in (held_out_drums.STYLES if held_out else drum_styles.TRAINING)
        assert part.is_drums
        steps = {bar.at(step / style.steps) for bar in bars for step in range(style.steps * meter)}
        steps |= {bar.at(step / 4) for bar in bars for step in range(4 * meter)}  # of fills
        grid = np.array(sorted(steps))
        starts = np.array([note.start for note in part.notes])
        assert np.abs(starts[:, None] - grid).min(axis=1).max() <= 0.01 + 1e-9
        first = np.array([bar.times[0] for bar in bars])
        kick = np.array([note.start for note in part.notes if note.pitch == drum_styles.DRUMS["kick"]])
        kicks[seed] = (np.abs(first[:, None] - kick).min(axis=1) < 0.011).mean() if len(kick) else 0.0
        crashes = [note.start for note in part.notes if note.pitch in (49, 57)]
        sections = np.array([bar.times[0] for bar in bars if bar.begins_section])
        assert all(np.abs(sections - crash).min() < 0.011 for crash in crashes)
    assert np.median(list(kicks.values())) == 1.0  # a kick on every downbeat


def test_sparse_sections_have_fewer_drums():
    bars = find_bars(make_score())
    style = drum_styles.TRAINING["rock"]
    sparse, dense = (
        sum(len(drum_part(rng(seed), bars, style, lambda bar, level=level: level, False).notes) for seed in range(10))
        for level in (0.2, 0.6)
    )
    assert sparse < 0.8 * dense


@pytest.mark.parametrize("meter", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("held_out", [False, True])
def test_basses_begin_chords_and_end_with_them(meter, held_out):
    score = make_score(meter)
    bars, chords = find_bars(score), Chords(score.chords)
    for seed in range(10):
        notes = bass_part(rng(seed), bars, chords, lambda bar: 0.6, 33, held_out).notes
        for chord in score.chords:
            own = [note for note in notes if chord.start - 0.011 <= note.start < chord.end - 0.011]
            assert own[0].start == pytest.approx(chord.start, abs=0.0101)
            assert own[0].pitch % 12 == tones(chord.label).bass
            assert {note.pitch % 12 for note in own} <= {*tones(chord.label).classes, tones(chord.label).bass}
            assert all(note.end <= chord.end for note in own)
            assert all(28 <= note.pitch <= 60 for note in own)


def test_basses_begin_chords_in_the_middle_of_a_bar():
    score = make_score()
    chords = [Segment(0.25, 1.75, "C:maj"), Segment(1.75, 2.25, "D:min"), Segment(2.25, 32.25, "G:maj")]
    for seed in range(10):
        notes = bass_part(rng(seed), find_bars(score), Chords(chords), lambda bar: 0.2, 33, False).notes
        near = [note.pitch % 12 for note in notes if abs(note.start - 1.75) < 0.011]
        assert near == [2]


@pytest.mark.parametrize("held_out", [False, True])
def test_accompaniments_have_the_tones_of_their_chords(held_out):
    score = make_score()
    bars, chords = find_bars(score), Chords(score.chords)
    for seed in range(5):
        music = rng(seed), bars, chords, lambda bar: 0.5, 0
        for part in (pad_part(*music), arpeggio_part(*music, held_out), comping_part(*music, held_out)):
            for chord in score.chords:
                # Strummed chords are up to 10 + 3 · 8 ms late.
                own = [note for note in part.notes if chord.start - 0.011 <= note.start < chord.end - 0.011]
                assert {note.pitch % 12 for note in own} <= set(tones(chord.label).classes)
                assert own
                assert max(note.end for note in own) <= chord.end + 0.1


def test_key_and_tempo_move_notes_and_labels_together():
    score = make_score()
    varied = vary(score, Variation(3, 1.25), rng())
    assert [chord.label for chord in varied.chords[:4]] == ["Eb:maj", "C:min", "Ab:maj/3", "Bb:7"]
    assert varied.keys[0].label == "Eb:maj"
    np.testing.assert_allclose(varied.beats.times, score.beats.times / 1.25)
    assert varied.duration == pytest.approx(score.duration / 1.25)
    assert [note.pitch for note in varied.parts[0].notes] == [75] * len(score.parts[0].notes)
    assert vary(score, Variation(), rng()) is score


def test_rubato_keeps_notes_on_beats():
    score = make_score()
    varied = vary(score, Variation(0, 1.0, 0.04), rng(1))
    np.testing.assert_allclose([note.start for note in varied.parts[0].notes], varied.beats.times)
    downbeats = varied.beats.times[varied.beats.positions == 1]
    np.testing.assert_allclose([chord.start for chord in varied.chords], downbeats)
    np.testing.assert_allclose([section.start for section in varied.sections], downbeats[::4])
    tempi = 0.5 / np.diff(varied.beats.times)
    assert 0.005 < tempi.std() < 0.04
    assert 0.92 <= tempi.min() <= tempi.max() <= 1.08


def test_variations_are_drawn_from_their_ranges():
    drawn = [draw_variation(rng(seed)) for seed in range(300)]
    assert {variation.semitones for variation in drawn} == set(range(-6, 6))
    tempi = np.array([variation.tempo for variation in drawn])
    assert TEMPI[0] <= tempi.min() < 0.81
    assert 1.23 < tempi.max() <= TEMPI[1]
    assert 0.45 < np.mean([variation.rubato > 0 for variation in drawn]) < 0.55
    assert max(variation.rubato for variation in drawn) <= 0.04
    faster = np.array([draw_variation(rng(seed), (1.25, 1.6)).tempo for seed in range(300)])
    assert 1.25 <= faster.min() < 1.26
    assert 1.58 < faster.max() <= 1.6
    assert np.median(faster) == pytest.approx(2**0.5, abs=0.02)  # evenly distributed on a logarithmic scale


def test_bands_have_drums_and_a_bass_and_others_do_not():
    score = make_score()
    names = [{part.name for part in arrange(score, rng(seed), 0.5).parts} for seed in range(150)]
    has_drums = np.array(["DRUMS" in own for own in names])
    has_bass = np.array(["BASS" in own for own in names])
    assert 0.4 < has_drums.mean() < 0.6
    assert 0.8 < has_bass[has_drums].mean() < 0.97
    assert 0.15 < has_bass[~has_drums].mean() < 0.35
    assert all(own & {"PIANO", "PAD", "ARPEGGIO", "COMPING"} for own in names)
    assert not any("DRUMS" in {part.name for part in arrange(score, rng(seed), 0.0).parts} for seed in range(20))
    assert all("DRUMS" in {part.name for part in arrange(score, rng(seed), 1.0).parts} for seed in range(20))


def test_arrangements_keep_labels_and_depend_on_the_generator():
    score = make_score()
    first, same, other = (arrange(score, rng(seed)) for seed in (5, 5, 6))
    assert first.parts == same.parts != other.parts
    assert (first.beats, first.chords, first.sections) == (score.beats, score.chords, score.sections)
    melody = [note.start for part in first.parts if part.name == "MELODY" for note in part.notes]
    shifts = np.sort(melody) - [note.start for note in score.parts[0].notes]
    assert 0 < np.abs(shifts).max() <= 0.01 + 1e-9
    assert first.duration >= max(note.end for part in first.parts for note in part.notes)
    with pytest.raises(ValueError, match="Score song has no notes to arrange"):
        arrange(score.with_parts([]), rng())


def test_arrangements_for_test_use_held_out_programs():
    score = make_score()
    programs = {name: set() for name in (False, True)}
    for seed in range(100):
        for held_out in programs:
            programs[held_out] |= {
                part.program for part in arrange(score, rng(seed), 0.5, held_out).parts if not part.is_drums
            }
    alone = {program for one in INSTRUMENTS.values() if not one.held_out for program in one.programs}
    assert programs[False] & programs[True] <= alone
    assert programs[True] - alone == {program for one in INSTRUMENTS.values() for program in one.held_out}


def test_a_bass_and_drums_of_the_score_are_used():
    score = make_score()
    bass = Part("BASS", 0, tuple(ScoreNote(2.0 * k + 0.25, 2.0 * k + 1, 36, 99) for k in range(16)))
    drums = Part("DRUMS", 0, (ScoreNote(0.25, 0.3, 36, 99),), is_drums=True)
    score = score.with_parts([*score.parts, bass, drums])
    basses = []
    for seed in range(60):
        parts = arrange(score, rng(seed), 1.0).parts
        assert [part for part in parts if part.is_drums] == [drums]
        basses += [[note.start for note in part.notes] for part in parts if part.name == "BASS"]
    own = [note.start for note in bass.notes]
    assert 0.3 < np.mean([starts == own for starts in basses]) < 0.7


def test_instruments_play_in_their_range():
    flute, piano = INSTRUMENTS["flute"], INSTRUMENTS["piano"]
    part = Part(
        "MELODY",
        0,
        (ScoreNote(0, 1, 50, 90), ScoreNote(1, 2, 53, 90), ScoreNote(2, 3, 30, 90)),
        controls=(ScoreControl(0.0, 64, 127), ScoreControl(0.0, 11, 90)),
    )
    played = play_on(part, flute, 73)
    # An octave up, because two notes are then from 60 to 96; the third needs two more.
    assert [note.pitch for note in played.notes] == [62, 65, 66]
    assert [control.number for control in played.controls] == [11]  # a flute has no pedal
    assert play_on(part, piano, 1).controls == part.controls
    assert [note.pitch for note in play_on(part, piano, 1).notes] == [50, 53, 30]


def test_tags_of_programs_and_tempi():
    tags = {tag_of(program) for program in range(128)} - {None}
    assert len(tags) == 19
    assert [tag_of(program) for program in (0, 5, 24, 40, 53, 65, 80)] == [
        "piano",
        "electric_piano",
        "acoustic_guitar",
        "violin",
        "choir",
        "sax",
        "synth_lead",
    ]
    assert tag_of(33) is tag_of(42) is tag_of(127) is None
    steps = {66.9: "slow", 67.1: "medium", 89.9: "medium", 90.1: "fast"}
    for tempo, name in steps.items():
        assert tempo_class(Beats(60 / tempo * np.arange(5), np.zeros(5, int))) == name
    assert tempo_class(Beats(np.zeros(1), np.zeros(1, int))) is None


def test_seconds_that_a_part_sounds():
    notes = [
        ScoreNote(0.0, 2.0, 60, 9),
        ScoreNote(1.0, 1.5, 64, 9),
        ScoreNote(1.5, 3.0, 67, 9),
        ScoreNote(5, 6, 60, 9),
    ]
    assert sounding_seconds(notes) == 4.0
    assert sounding_seconds([]) == 0.0
