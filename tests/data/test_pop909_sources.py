"""POP909 from its public repositories: songs whose labels follow from a few notes."""

import zipfile
from pathlib import Path

import mido
import numpy as np
import pytest
from helpers.pop909 import PARTS, write_midi
from helpers.recipes import prepare

from musicfm_hf.data import pop909_sources
from musicfm_hf.data.pop909_rendering import read_songs
from musicfm_hf.data.pop909_sources import CHORDS, SONGS, STRUCTURE, name_chord, write_pop909
from musicfm_hf.data.readers.pop909 import read_song
from musicfm_hf.symbolic.score import Part, ScoreNote
from musicfm_hf.tasks.annotations import Segment

TICKS = 480


@pytest.mark.parametrize(
    ("pitches", "label"),
    [
        ([60, 64, 67], "C:maj"),
        ([64, 67, 72], "C:maj/3"),
        ([57, 60, 64, 67], "A:min7"),
        ([60, 64, 67, 69], "A:min7/b3"),  # not a sixth
        ([59, 62, 65, 69], "B:hdim7"),
        ([60, 64, 68], "C:aug"),
        ([61, 65, 69], "C#:aug"),  # its lowest tone is its root
        ([60, 62, 67], "C:sus2"),
        ([67, 72, 74], "G:sus4"),
        ([62, 67, 72], "C:sus2/2"),  # or G:sus4/5: the lower root
        ([60, 64], "C:maj"),
        ([60, 63, 70], "C:min7"),  # without its fifth
        ([60, 67], "C:5"),
        ([60, 61, 62], "X"),
        ([60], "X"),
    ],
)
def test_names_of_chords(pitches, label):
    assert name_chord(pitches) == label


def write_labels(path: Path, keys: list[tuple[float, str]], chords: list[tuple[float, float, list[int]]]) -> None:
    """Write a file of POP909-CL: keys at beats, and notes of chords from one beat to another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    midi = mido.MidiFile(ticks_per_beat=TICKS)
    signatures = [(beat, mido.MetaMessage("key_signature", key=key)) for beat, key in keys]
    notes = []
    for start, end, pitches in chords:
        for pitch in pitches:
            notes.append((start, mido.Message("note_on", note=pitch, velocity=90, channel=1)))
            notes.append((end, mido.Message("note_off", note=pitch, velocity=90, channel=1)))
    for events in (signatures, [(0.0, mido.Message("program_change", program=0))], notes):
        track, tick = mido.MidiTrack(), 0
        for beat, message in sorted(events, key=lambda event: (event[0], event[1].type == "note_on")):
            track.append(message.copy(time=round(beat * TICKS) - tick))
            tick = round(beat * TICKS)
        midi.tracks.append(track)
    midi.save(path)


@pytest.fixture
def repositories(tmp_path, monkeypatch):
    """Two songs of ten beats, 0.5 s apart from 0.1 s on, with bars from the third beat, and one with few notes."""
    folder = tmp_path / "repositories"
    table = ["id\tsplit\tmini\tmelody\tbridge\tpiano\tfirst_bar\tchord_shift"]
    rows = []
    for song, split, shift in (("001", "train", 0), ("002", "test", -3)):
        notes = [(beat, 1, 60 + beat, 90) for beat in range(10)]
        (folder / SONGS / f"POP909/{song}").mkdir(parents=True)
        write_midi(folder / SONGS / f"POP909/{song}/{song}.mid", dict.fromkeys(PARTS, notes))
        beats = "".join(f"{0.1 + 0.5 * beat} 1.0 0.0\n" for beat in range(13))
        (folder / SONGS / f"POP909/{song}/beat_midi.txt").write_text(beats)
        (folder / STRUCTURE / f"POP909/{song}").mkdir(parents=True)
        (folder / STRUCTURE / f"POP909/{song}/human_label1.txt").write_text("A1B1")
        (folder / STRUCTURE / f"POP909/{song}/human_label2.txt").write_text("A1C1\n")
        chords = [(2, 4, [60, 64, 67]), (4, 5, [57, 60, 64]), (6, 9, [57, 60, 64])]
        moved = [(start - shift, end - shift, pitches) for start, end, pitches in chords]
        write_labels(folder / CHORDS / f"POP909_processed/{song}.mid", [(0, "Gb"), (6 - shift, "Ebm")], moved)
        table.append(f"{song}\t{split}\t{int(song == '001')}\t40\t73\t0\t2\t{shift}")
        rows.append(f"<row><c><is><t>{song}</t></is></c><c><is><t>Title {song}</t></is></c><c><t>Nobody</t></c></row>")
    with zipfile.ZipFile(folder / SONGS / "POP909/index.xlsx", "w") as archive:
        sheet = f"<sheetData>{''.join(rows)}</sheetData>"
        namespace = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
        archive.writestr("xl/worksheets/sheet1.xml", f'<worksheet xmlns="{namespace}">{sheet}</worksheet>')
    path = tmp_path / "songs.tsv"
    path.write_text("\n".join(table) + "\n")
    monkeypatch.setattr(pop909_sources, "_TABLE", path)
    return folder


def test_labels_in_seconds(repositories, tmp_path):
    output = tmp_path / "POP909"
    assert write_pop909(repositories, output) == 2
    first, second = read_songs(output)
    assert (first.split, first.is_mini, first.title, first.artist) == ("train", True, "Title 001", "Nobody")
    assert (first.programs, first.bpm, first.first_key) == ((40, 73, 0), 120.0, "F#:maj")
    assert first.tags == ("piano", "violin", "major", "fast")  # the flute plays only ten notes
    assert (second.split, second.is_mini) == ("test", False)
    end = first.seconds
    for song in (first, second):  # whose chords and keys are shifted by three beats
        labels = read_song(output, song, tmp_path)
        np.testing.assert_allclose(labels.beats.times, 0.1 + 0.5 * np.arange(len(labels.beats.times)), atol=1e-9)
        assert end < labels.beats.times[-1] + 0.5 <= end + 1.0
        assert labels.beats.positions.tolist()[:7] == [3, 4, 1, 2, 3, 4, 1]
        assert labels.chords == [
            Segment(0.0, 1.1, "N"),
            Segment(1.1, 2.1, "C:maj"),
            Segment(2.1, 2.6, "A:min"),
            Segment(2.6, 3.1, "N"),
            Segment(3.1, 4.6, "A:min"),
            Segment(4.6, end, "N"),
        ]
        assert labels.keys == [Segment(0.0, 3.1, "F#:maj"), Segment(3.1, end, "Eb:min")]
        assert labels.sections == [Segment(1.1, 3.1, "verse"), Segment(3.1, end, "bridge")]
        assert [segment.label for segment in labels.more["sections_2"]] == ["verse", "bridge"]
        assert [segment.label for segment in labels.more["phrases"]] == ["A", "B"]


def test_wrong_files(repositories, tmp_path):
    mido.MidiFile(tracks=[mido.MidiTrack()]).save(repositories / CHORDS / "POP909_processed/002.mid")
    with pytest.raises(ValueError, match=r"002.mid has 1 tracks: chords are in the third"):
        write_pop909(repositories, tmp_path / "POP909")
    table = repositories / SONGS / "POP909/index.xlsx"
    with zipfile.ZipFile(table, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "<worksheet/>")
    with pytest.raises(ValueError, match=r"index.xlsx has no row for 001, 002"):
        write_pop909(repositories, tmp_path / "POP909")
    table.write_bytes(b"")
    with pytest.raises(ValueError, match=r"index.xlsx is not the spreadsheet of POP909"):
        write_pop909(repositories, tmp_path / "POP909")
    assert not (tmp_path / "POP909/songs.tsv").exists()


def test_the_chorus_is_the_frequent_letter_with_the_highest_melody():
    phrases = [pop909_sources._Phrase(number, number + 1, letter, 1) for number, letter in enumerate("iABCxBCAD")]
    pitches = {"A": 90, "B": 60, "C": 72, "D": 80}  # the verse is A, and D occurs only once
    notes = [ScoreNote(start, end, pitches[letter], 80) for start, end, letter, _ in phrases if letter in pitches]
    melody = Part("MELODY", 0, tuple(notes))
    assert pop909_sources._functions(phrases, melody) == {"A": "verse", "B": "bridge", "C": "chorus", "D": "bridge"}


def test_the_command(repositories, tmp_path, monkeypatch, capsys):
    words = ["pop909-source", "--source", repositories, "--output_dir", tmp_path / "POP909"]
    prepare(monkeypatch, *words)
    assert capsys.readouterr().out == f"{tmp_path / 'POP909'}: 2 songs\n"
    with pytest.raises(SystemExit, match="has POP909 already: choose another folder"):
        prepare(monkeypatch, *words)
    (repositories / STRUCTURE).rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match=f"has no folder {STRUCTURE}: `git clone https://github.com/Dsqvival/"):
        prepare(monkeypatch, *words)
