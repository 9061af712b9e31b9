import numpy as np
import pytest

from musicfm_hf.symbolic.score import Part, Score, ScoreControl, ScoreNote
from musicfm_hf.tasks.annotations import Beats, Segment


def make_score():
    """Return two bars in 2/4 with a piano and drums: C at 0 to 2 s, G at 2 to 4 s."""
    piano = Part(
        "PIANO",
        0,
        (ScoreNote(0.0, 1.5, 60, 80), ScoreNote(1.0, 3.0, 64, 90), ScoreNote(2.0, 4.0, 67, 70)),
        controls=(ScoreControl(0.0, 64, 127), ScoreControl(1.0, 64, 0), ScoreControl(2.5, 11, 99)),
    )
    drums = Part("DRUMS", 0, (ScoreNote(0.0, 0.1, 36, 100), ScoreNote(2.0, 2.1, 38, 100)), is_drums=True)
    return Score(
        "a",
        "a",
        (piano, drums),
        4.0,
        Beats(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1, 2, 1, 2])),
        chords=[Segment(0.0, 2.0, "C:maj/3"), Segment(2.0, 3.5, "G:7"), Segment(3.5, 4.0, "N")],
        sections=[Segment(0.0, 4.0, "verse")],
        keys=[Segment(0.0, 4.0, "C:maj")],
        tags=("major",),
    )


def notes_of(part):
    return [(note.start, note.end, note.pitch) for note in part.notes]


def test_transposition_moves_notes_chords_and_keys_but_not_drums():
    score = make_score().transposed(-2)
    assert [note.pitch for note in score.parts[0].notes] == [58, 62, 65]
    assert [note.pitch for note in score.parts[1].notes] == [36, 38]
    assert [chord.label for chord in score.chords] == ["Bb:maj/3", "F:7", "N"]
    assert [key.label for key in score.keys] == ["Bb:maj"]
    assert score.tags == ("major",)
    with pytest.raises(ValueError, match="from 0 to 127, got 128"):
        make_score().transposed(61)


def test_a_time_map_moves_everything():
    score = make_score().mapped(lambda seconds: 0.5 + 2 * seconds)
    assert notes_of(score.parts[0]) == [(0.5, 3.5, 60), (2.5, 6.5, 64), (4.5, 8.5, 67)]
    assert [control.time for control in score.parts[0].controls] == [0.5, 2.5, 5.5]
    assert score.beats.times.tolist() == [0.5, 2.5, 4.5, 6.5]
    assert score.beats.positions.tolist() == [1, 2, 1, 2]
    assert score.chords[1] == Segment(4.5, 7.5, "G:7")
    assert (score.sections[0].end, score.keys[0].start, score.duration) == (8.5, 0.5, 8.5)
    with pytest.raises(ValueError, match="A note must end after its start"):
        make_score().mapped(lambda seconds: 1.0)


def test_an_excerpt_cuts_notes_and_segments_and_keeps_the_pedal():
    score = make_score().excerpt(0.5, 3.5)
    assert notes_of(score.parts[0]) == [(0.0, 1.0, 60), (0.5, 2.5, 64), (1.5, 3.0, 67)]
    assert score.parts[0].controls == (
        ScoreControl(0.0, 64, 127),
        ScoreControl(0.5, 64, 0),
        ScoreControl(2.0, 11, 99),
    )
    assert [note.start for note in score.parts[1].notes] == [1.5]  # the kick ended before
    assert score.beats.times.tolist() == [0.5, 1.5, 2.5]
    assert score.beats.positions.tolist() == [2, 1, 2]
    assert score.chords == [Segment(0.0, 1.5, "C:maj/3"), Segment(1.5, 3.0, "G:7")]
    assert score.duration == 3.0
    assert make_score().excerpt(0.0, 9.0).duration == 4.0
    with pytest.raises(ValueError, match="must begin within the score, which lasts 4 s"):
        make_score().excerpt(4.0, 5.0)


def test_parts_are_replaced():
    score = make_score()
    assert score.with_parts(score.parts[:1]).parts == score.parts[:1]
    assert score.with_parts(score.parts[:1]).chords == score.chords


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreNote(1.0, 1.0, 60, 80), "must end after its start"),
        (lambda: ScoreNote(-0.1, 1.0, 60, 80), "not negative, got -0.1"),
        (lambda: ScoreNote(0.0, 1.0, 128, 80), "pitch of a note must be from 0 to 127, got 128"),
        (lambda: ScoreNote(0.0, 1.0, 60, 0), "velocity of a note must be from 1 to 127, got 0"),
        (lambda: ScoreControl(0.0, 64, 128), "from 0 to 127, got 64 and 128"),
        (lambda: ScoreControl(-1.0, 64, 0), "must not be negative, got -1"),
        (lambda: Part("BASS", 128, ()), "Part BASS: the program must be from 0 to 127, got 128"),
        (lambda: Part("BASS", 0, (), pan=2.0), "pan must be from -1 to 1"),
        (lambda: Part("BASS", 0, (ScoreNote(1, 2, 60, 80), ScoreNote(0, 2, 60, 80))), "in order of time"),
        (lambda: Score("a", "a", (), 0.0, Beats(np.zeros(0), np.zeros(0, int)), [], [], []), "above 0, got 0"),
        (lambda: Score("a", "a", (), 1.0, Beats(np.ones(2), np.ones(2, int)), [], [], []), "beats must ascend"),
    ],
)
def test_wrong_scores_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
