"""Labels of `musicfm annotate` that were corrected in other programs become labeled data."""

import json
import os

import numpy as np
import pytest
import soundfile
from helpers.audio import music
from helpers.models import head

from musicfm_hf import Beats, Segment, SongAnnotation
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.labeled import read_all
from musicfm_hf.data.readers.folder import song_readers
from musicfm_hf.inference.annotate_files import annotate_files
from musicfm_hf.inference.annotation_records import SongFiles
from musicfm_hf.inference.embedding import WindowSettings
from musicfm_hf.inference.song_annotation import FORMATS

SONG = SongAnnotation(
    2.0,
    Beats(np.array([0.5, 1.0, 1.5]), np.array([1, 2, 1])),
    [Segment(0.0, 1.0, "C:maj"), Segment(1.0, 2.0, "G:maj")],
    [Segment(0.0, 2.0, "verse")],
    [Segment(0.0, 2.0, "C:maj")],
    "C:maj",
    tags={"piano": 0.9, "slow": 0.1},
    probabilities={"chords": np.array([0.5, 0.6])},
)


@pytest.fixture
def folder(tmp_path):
    """A song with all files of `musicfm annotate`, and their record."""
    soundfile.write(tmp_path / "song.wav", np.full(16000, 0.1), 8000)
    SongFiles(tmp_path, "song", ()).write(SONG, {"place": "", "damage": []}, None, FORMATS)
    return tmp_path


def read(folder, strict=True):
    songs, problems = read_all(song_readers(folder).items(), strict)
    assert problems == [] or not strict
    return songs[0] if songs else problems[0]


def test_files_as_they_were_written(folder):
    song = read(folder)
    assert (song.chords, song.sections, song.keys, song.tags) == (SONG.chords, SONG.sections, SONG.keys, ["piano"])
    assert song.beats.positions.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("song.chords.lab", "0 1.5 F:min\n1.5 2 N\n"),
        ("song.chords.txt", "0.000000\t1.500000\tF:min\n1.500000\t2.000000\tN\n"),
        (
            "song.chords.txt",
            "0.000000\t0.000000\tF:min\n1.500000\t1.500000\tN\n",
        ),  # points: the last ends with the audio
        ("song.chords.csv", "0.000000000,1,1.500000000,F:min\n1.500000000,2,0.500000000,N\n"),
        ("song.chords.csv", "TIME,LABEL\n0.0,F:min\n1.5,N\n"),
        ("song.chords.svl", None),
        ("song.json", None),
        ("song.jams", None),
    ],
)
def test_an_edited_file_counts(folder, name, text):
    """It counts before files that are as they were written, whatever its format and its time."""
    if name.endswith(".svl"):
        text = (
            '<sv><data><model id="1" sampleRate="8000" type="sparse" dimensions="2"/><dataset id="0" dimensions="2">'
            '<point frame="0" value="1" duration="12000" label="F:min"/>'
            '<point frame="12000" value="1" duration="4000" label="N"/></dataset></data></sv>'
        )
    elif name == "song.json":
        content = json.loads((folder / name).read_text())
        content["chords"] = [{"start": 0, "end": 1.5, "label": "F:min"}, {"start": 1.5, "end": 2, "label": "N"}]
        text = json.dumps(content)
    elif name == "song.jams":
        content = json.loads((folder / name).read_text())
        content["annotations"][1]["data"] = [
            {"time": 0, "duration": 1.5, "value": "F:min", "confidence": None},
            {"time": 1.5, "duration": 0.5, "value": "N", "confidence": None},
        ]
        text = json.dumps(content)
    (folder / name).write_text(text)
    os.utime(folder / name, (0, 0))
    song = read(folder)
    assert song.chords == [Segment(0.0, 1.5, "F:min"), Segment(1.5, 2.0, "N")]
    assert song.sections == SONG.sections
    assert song.files["chords"].startswith(str(folder / name))


def test_edited_beats(folder):
    (folder / "song.beats.csv").write_text(" 0.250000000,1.1\n 0.750000000,1.2\n 1.250000000,2.1\n")
    assert read(folder).beats.times.tolist() == [0.25, 0.75, 1.25]
    (folder / "song.beats.txt").write_text("0.25\t0.25\t1\n0.75\t0.75\t2\n1.2501\t1.2501\t1\n")  # equal to 1 ms
    assert read(folder).beats.positions.tolist() == [1, 2, 1]
    (folder / "song.beats").write_text("0.3\t1\n0.8\t2\n")
    with pytest.raises(
        ValueError, match=r"song.beats and .*song.beats.csv have different beats, and both were edited"
    ):
        read(folder)
    problem = read(folder, strict=False)
    assert (problem.id, problem.kind) == ("song", "wrong")


def test_files_for_one_kind_come_before_jams_and_json(folder):
    for name in ("song.json", "song.jams"):
        (folder / name).write_text((folder / name).read_text().replace("G:maj", "G:min"))
    assert read(folder).chords[1].label == "G:min"
    (folder / "song.chords.txt").write_text("0\t2\tD\n")
    assert read(folder).chords == [Segment(0.0, 2.0, "D")]


def test_without_the_record_all_files_were_made_by_hand(folder):
    (folder / ".song.made_from.json").unlink()
    assert read(folder).chords == SONG.chords
    (folder / "song.chords.txt").write_text("0\t2\tD\n")
    with pytest.raises(ValueError, match=r"song.chords.lab and .*song.chords.txt have different chords"):
        read(folder)


def test_mistakes_are_named(folder):
    (folder / "song.chords.txt").write_text("0\t1\tC\n1\t2\tH\n")
    with pytest.raises(ValueError, match=r"song.chords.txt, line 2: 'H' is not a chord"):
        read(folder)
    (folder / "song.chords.txt").unlink()
    (folder / "song.chords.csv").write_text("time,value,duration,label\n0.0,1,1.0,C\n1.0,1,1.0,H\n")
    with pytest.raises(ValueError, match=r"song.chords.csv, line 3: 'H' is not a chord"):
        read(folder)
    (folder / "song.chords.csv").unlink()
    (folder / "song.json").write_text("{")
    with pytest.raises(ValueError, match=r"song.json is not JSON"):
        read(folder)


def test_other_files_are_not_read(tmp_path):
    """Text, tables, JSON and click tracks with other names or contents are not annotations."""
    soundfile.write(tmp_path / "song.wav", np.full(16000, 0.1), 8000)
    (tmp_path / "song.chords.txt").write_text("0\t2\tD\n")
    (tmp_path / "song.lyrics.txt").write_text("la la la")
    (tmp_path / "song.txt").write_text("la la la")
    (tmp_path / "table.csv").write_text("a,b\n")
    (tmp_path / "info.json").write_text("{")
    (tmp_path / "song.meters.txt").write_text("0\t2\t3\n")
    (tmp_path / "song.mid").write_bytes(b"MThd")
    for content in ("{", "[]", '{"duration": 200.0, "tags": ["rock"], "title": "x"}', '{"tags": {"rock": 1}}'):
        (tmp_path / "song.json").write_text(content)
        song = read(tmp_path)
        assert (song.id, song.chords, song.tags) == ("song", [Segment(0.0, 2.0, "D")], None)


def test_corrections_of_a_song_that_is_annotated_again(tmp_path):
    """What people do: annotate, correct, annotate more songs, prepare. Nothing that they made is lost."""
    audio, output = tmp_path / "music", tmp_path / "out"
    audio.mkdir()
    soundfile.write(audio / "a.wav", music(1.0), 24000)
    models = {"chord": head("chord"), "beat": head("beat")}

    def annotate_again():
        sources = list_sources(audio)
        formats = ["json", "lab", "audacity", "sonic-visualiser", "jams", "midi"]
        return annotate_files(
            models, sources, output, WindowSettings(), formats, "skip", False, False, num_workers=0, click="mix"
        )

    assert annotate_again() == (0, [], 0)
    assert sorted(path.name for path in output.iterdir() if path.name[0] != ".") == [
        "a.beats.csv", "a.beats.txt", "a.chords.csv", "a.chords.lab", "a.chords.txt", "a.click.wav", "a.jams",
        "a.json", "a.mid",
    ]  # fmt: skip
    (output / "a.chords.txt").write_text("0\t1\tBb:7\n")
    soundfile.write(audio / "b.wav", music(1.0, seed=1), 24000)
    assert annotate_again() == (1, [], 0)
    assert (output / "a.chords.txt").read_text() == "0\t1\tBb:7\n"
    songs, problems = read_all(song_readers(output, audio).items(), strict=True)
    assert problems == []
    assert [song.id for song in songs] == ["a", "b"]
    assert songs[0].chords == [Segment(0.0, 1.0, "Bb:7")]
    soundfile.write(audio / "a.wav", music(1.1, seed=2), 24000)
    ((name, problem),) = annotate_again().problems
    assert (name, "its files were edited" in problem) == ("a", True)
    assert (output / "a.chords.txt").read_text() == "0\t1\tBb:7\n"


def test_click_tracks_are_no_songs(tmp_path):
    soundfile.write(tmp_path / "a.wav", music(1.0), 24000)
    soundfile.write(tmp_path / "mine.click.wav", music(1.0), 24000)
    sources = list_sources(tmp_path)
    assert [name for name, _ in sources] == ["a.wav", "mine.click.wav"]
    settings = {"picture": False, "progress": False, "num_workers": 0, "click": "alone"}
    annotate_files({"beat": head("beat")}, sources[:1], tmp_path, WindowSettings(), ["json"], **settings)
    assert (tmp_path / "a.click.wav").is_file()
    assert list_sources(tmp_path) == sources
