import re
import shutil

import numpy as np
import pytest
from helpers.recipes import prepare
from music21 import harmony, key, metadata, meter, note, stream

from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.data.readers import lead_sheets
from musicfm_hf.data.readers.lead_sheets import song_readers
from musicfm_hf.symbolic.lead_sheets import read_lead_sheets
from musicfm_hf.tasks.annotations import Segment

WALTZ = """X:1
T:Little Waltz
M:3/4
L:1/4
Q:1/4=120
K:G
D|"G"G2B|"D7/F#"A3|"Em"E2:|
"""
REEL = """X:2
T:Reel
M:2/2
L:1/8
K:Ador
"Am"A2c2 e2c2|"G"G4 B4|
"""


def only(path, **options):
    """Return the score of a file with one sheet."""
    ((_, score),) = read_lead_sheets(path, **options)
    if isinstance(score, ValueError):
        raise score
    return score


def write(folder, text, name="tunes.abc"):
    path = folder / name
    path.write_text(text)
    return path


def test_upbeats_repeats_chords_and_keys(tmp_path):
    score = only(write(tmp_path, WALTZ, "waltz.abc"))
    assert (score.id, score.group) == ("waltz", "Little Waltz")
    assert np.allclose(score.beats.times, 0.5 * np.arange(18))  # twice 1 + 3 + 3 + 2 beats
    assert score.beats.positions.tolist() == [3, 1, 2, 3, 1, 2, 3, 1, 2] * 2
    assert score.chords == [
        Segment(0.0, 0.5, "X"),
        Segment(0.5, 2.0, "G:maj"),
        Segment(2.0, 3.5, "D:7/3"),
        Segment(3.5, 5.0, "E:min"),  # until the first chord of the repetition, beyond its upbeat
        Segment(5.0, 6.5, "G:maj"),
        Segment(6.5, 8.0, "D:7/3"),
        Segment(8.0, 9.0, "E:min"),
    ]
    assert score.keys == [Segment(0.0, 9.0, "G:maj")]
    (melody,) = score.parts
    notes = [(one.start, one.end, one.pitch) for one in melody.notes]
    assert notes[:4] == [(0.0, 0.5, 62), (0.5, 1.5, 67), (1.5, 2.0, 71), (2.0, 3.5, 69)]
    assert len(notes) == 10


def test_half_notes_are_the_beats_of_cut_time(tmp_path):
    path = write(tmp_path, REEL, "reel.abc")
    score = only(path, tempi=(60.0, 60.0))
    assert score.beats.times.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert score.beats.positions.tolist() == [1, 2, 1, 2]
    assert score.keys == [Segment(0.0, 4.0, "X")]  # a mode that is neither major nor minor
    slow, fast = (only(path, tempi=(low, 2 * low)).beats.times[1] for low in (40.0, 80.0))
    assert slow == pytest.approx(2 * fast)  # the same draw
    assert 60 / 80 <= slow <= 60 / 40
    with pytest.raises(ValueError, match="the slowest first, got 2"):
        only(path, tempi=(2.0, 1.0))


def test_musicxml(tmp_path):
    part = stream.Part()
    bars = [
        (["B-4"], [harmony.ChordSymbol("B-m7")]),
        (["C5", "F4"], [harmony.ChordSymbol("F7/C"), harmony.ChordSymbol("Gm7b5")]),
        (["B-4"], [harmony.NoChord()]),
        (["B-4", "B-4"], [harmony.ChordSymbol(root="B-", kind="pedal"), harmony.ChordSymbol(root="B-", kind="power")]),
    ]
    for number, (names, symbols) in enumerate(bars, start=1):
        bar = stream.Measure(number=number)
        if number == 1:
            bar.append([key.Key("b-", "minor"), meter.TimeSignature("4/4")])
        for index, (name, symbol) in enumerate(zip(names, symbols, strict=True)):
            length = 4 / len(names)
            bar.insert(index * length, symbol)
            bar.insert(index * length, note.Note(name, quarterLength=length))
        part.append(bar)
    sheet = stream.Score([part])
    sheet.metadata = metadata.Metadata(title="Flat")
    sheet.write("musicxml", fp=tmp_path / "flat.musicxml")
    score = only(tmp_path / "flat.musicxml", tempi=(120.0, 120.0))
    assert score.chords == [
        Segment(0.0, 2.0, "Bb:min7"),
        Segment(2.0, 3.0, "F:7/5"),
        Segment(3.0, 4.0, "G:(b3,b5,b7)"),
        Segment(4.0, 6.0, "N"),
        Segment(6.0, 7.0, "Bb:(1)"),
        Segment(7.0, 8.0, "Bb:(5)"),
    ]
    assert score.keys == [Segment(0.0, 8.0, "Bb:min")]
    assert score.beats.positions.tolist() == [1, 2, 3, 4] * 4


def test_a_sheet_without_a_key_signature_has_an_unknown_key(tmp_path):
    bar = stream.Measure(number=1)
    bar.append([meter.TimeSignature("4/4"), harmony.ChordSymbol("C"), note.Note("C5", quarterLength=4)])
    stream.Score([stream.Part([bar])]).write("musicxml", fp=tmp_path / "plain.musicxml")
    score = only(tmp_path / "plain.musicxml", tempi=(120.0, 120.0))
    assert score.keys == [Segment(0.0, 2.0, "X")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Am"A2c2 e2c2|"G"G4 B4|', "A8|G8|", "It has 2 notes and 0 chord symbols: a lead sheet needs both"),
        ("M:2/2", "M:6/8", "Its meter is 6/8: beats in three parts"),
        ("M:2/2", "M:1/1", "Its meter is 1/1: bars must have 2 to 7 beats"),
        ('"G"G4 B4|', '"G"G4|A8|', r"Measure 2 of 3 has 1 of 2 beats"),
    ],
)
def test_sheets_that_cannot_be_used(tmp_path, old, new, message):
    path = write(tmp_path, WALTZ + "\n" + REEL.replace(old, new))
    (_, waltz), (name, error) = read_lead_sheets(path)
    assert waltz.group == "Little Waltz"
    assert name == "tunes_2"
    assert isinstance(error, ValueError)
    assert re.search(message, str(error))


def test_repeats_that_do_not_match_are_played_once(tmp_path):
    start_without_end = WALTZ.replace("D|", "|:").replace("E2:|", "E3|]")
    score = only(write(tmp_path, start_without_end, "waltz.abc"))
    assert score.beats.positions.tolist() == [1, 2, 3] * 3
    assert [segment.label for segment in score.chords] == ["G:maj", "D:7/3", "E:min"]


def test_any_error_of_music21_is_that_of_its_sheet(tmp_path, monkeypatch):
    def fail(self):
        raise IndexError("no such element")

    monkeypatch.setattr(stream.Stream, "stripTies", fail)
    ((_, error),) = read_lead_sheets(write(tmp_path, WALTZ))
    assert isinstance(error, ValueError)
    assert str(error) == "music21 cannot interpret it: no such element"


def test_wrong_files(tmp_path):
    path = write(tmp_path, "<score-partwise><part></score-partwise>", "wrong.xml")
    ((name, error),) = read_lead_sheets(path)
    assert name == "wrong"
    assert re.search(r"music21 cannot read .*wrong\.xml", str(error))
    with pytest.raises(ValueError, match="the slowest first, got 90 and 80"):
        list(read_lead_sheets(path, (90, 80)))


needs_fluidsynth = pytest.mark.skipif(
    shutil.which("fluidsynth") is None, reason="the program fluidsynth is not installed (apt-get install fluidsynth)"
)


@needs_fluidsynth
def test_the_command_renders_lead_sheets(tmp_path, monkeypatch, capsys):
    source = tmp_path / "sheets"
    source.mkdir()
    write(source, WALTZ, "waltz.abc")
    write(source, REEL.replace("2/2", "6/8"), "jig.abc")
    write(source, "<score-partwise><part></score-partwise>", "wrong.xml")  # the others are used all the same
    words = ["lead_sheets", "--source", source, "--fractions", 0, 0, 1, "--license", "CC0-1.0"]
    prepare(monkeypatch, *words, "--output_dir", tmp_path / "data")
    printed = capsys.readouterr().out
    assert "Its meter is 6/8" in printed
    assert "music21 cannot read" in printed
    (song,) = load_songs(tmp_path / "data", "test")
    assert song.id == "waltz_v1"
    assert song.beats.positions.tolist() == [3, 1, 2, 3, 1, 2, 3, 1, 2] * 2
    assert song.chords[1] == Segment(0.5, 2.0, "G:maj")
    assert song.sections is None
    assert "major" in song.tags


def test_sheets_have_different_ids(tmp_path, monkeypatch):
    rendered = []
    monkeypatch.setattr(lead_sheets, "rendered_readers", lambda versions, *_: rendered.extend(versions) or {})
    monkeypatch.setattr(lead_sheets, "check_settings", lambda settings: None)
    source = tmp_path / "sheets"
    for folder in ("old", "new", "folder.xml"):
        (source / folder).mkdir(parents=True)
    write(source, WALTZ + "\n" + REEL, "tunes.abc")
    write(source, REEL, "tunes_1.abc")  # as the first one of the other file
    write(source / "old", WALTZ, "waltz.abc")
    write(source / "new", REEL, "waltz.abc")
    write(source, WALTZ, "._waltz.abc")  # macOS leaves such files
    readers = song_readers(source, tmp_path / "audio")
    assert {version.id: version.load().group for version in rendered} == {
        "new_waltz_v1": "Reel",
        "old_waltz_v1": "Little Waltz",
        "tunes_1_v1": "Little Waltz",
        "tunes_2_v1": "Reel",
    }
    (name,) = readers
    assert name == "tunes_1 (tunes_1.abc)"
    with pytest.raises(ValueError, match=r"tunes_1.abc has a second sheet tunes_1: rename a file"):
        readers[name]()


@needs_fluidsynth
def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no lead sheets: no files that end with \.abc"):
        song_readers(tmp_path, tmp_path / "audio")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        song_readers(tmp_path / "none", tmp_path / "audio")
    write(tmp_path, WALTZ)
    with pytest.raises(ValueError, match="`versions` must be at least 1, got 0"):
        song_readers(tmp_path, tmp_path / "audio", versions=0)
