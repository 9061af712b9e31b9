import json
import os
import shutil
import unicodedata

import numpy as np
import pytest
import soundfile
from helpers.recipes import prepare

from musicfm_hf.data.catalog import describe_source
from musicfm_hf.data.labeled import AudioFolder, read_all
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.data.readers.folder import song_readers
from musicfm_hf.tasks.annotations import Segment


def write(path, text=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        soundfile.write(path, np.full(16000, 0.1), 8000)
    else:
        path.write_text(text, encoding="utf-8")


def read(*arguments, strict=True, **settings):
    songs, problems = read_all(song_readers(*arguments, **settings).items(), strict)
    return {song.id: song for song in songs}, problems


def test_files_beside_the_audio(tmp_path):
    write(tmp_path / "album/one.wav")
    write(tmp_path / "album/one.beats", "0.5\t1\n1.0\t2\n")
    write(tmp_path / "album/one.chords.lab", "0 1 C\n1 2 G:7\n")
    write(tmp_path / "album/one.keys.lab", "0 2 C major\n")
    write(tmp_path / "album/one.sections.lab", "0\t2\tfirst verse\n")
    write(tmp_path / "album/one.tags", "piano\nslow\n")
    write(tmp_path / "two.dots.wav")
    write(tmp_path / "two.dots.tags", "loud\n")
    write(tmp_path / "notes.txt", "not read")
    songs, problems = read(tmp_path)
    assert problems == []
    assert sorted(songs) == ["album/one", "two.dots"]
    one = songs["album/one"]
    assert one.beats.positions.tolist() == [1, 2]
    assert one.chords == [Segment(0, 1, "C"), Segment(1, 2, "G:7")]
    assert one.keys == [Segment(0, 2, "C major")]
    assert one.sections == [Segment(0, 2, "first verse")]
    assert one.tags == ["piano", "slow"]
    assert one.group == "album/one"
    assert one.duration == 2
    assert songs["two.dots"].tags == ["loud"]
    grouped, _ = read(tmp_path, group_by_folder=True)
    assert [song.group for song in grouped.values()] == ["album", "."]


def test_folders_of_annotations_apart(tmp_path):
    write(tmp_path / "audio/a/song.wav")
    write(tmp_path / "labels/chords/a/song.lab", "0 2 C\n")
    write(tmp_path / "labels/sections/a/song.lab", "0 2 verse\n")
    write(tmp_path / "labels/beats/a/song.lab", "0.5\n")
    write(tmp_path / "labels/a/song.lab", "0 2 D\n")
    songs, problems = read(tmp_path / "labels", tmp_path / "audio", strict=False)
    assert songs == {}
    assert [problem.kind for problem in problems] == ["wrong"]
    assert "song.lab may have chords, keys or sections: pass `--lab_task`, or rename" in problems[0].reason
    songs, _ = read(tmp_path / "labels", tmp_path / "audio", lab_task="keys")
    song = songs["a/song"]
    assert [song.chords[0].label, song.keys[0].label, song.sections[0].label] == ["C", "D", "verse"]
    assert song.beats.positions.tolist() == [0]


def test_labels_of_other_programs_in_folders_of_annotations(tmp_path):
    """If the song has no other file of the kind. Texts, which may be anything, need the kind in their names."""
    write(tmp_path / "audio/a/song.wav")
    write(tmp_path / "labels/chords/a/song.csv", "0.0,C\n1.5,end\n")
    write(tmp_path / "labels/chords/a/song.txt", "Am  C\nHello world\n")
    write(tmp_path / "labels/sections/a/song.lab", "0 2 verse\n")
    write(tmp_path / "labels/sections/a/song.csv", "no,layer\n")
    write(tmp_path / "labels/beats/a/song.beats.txt", "0.5\t0.5\t1\n")
    write(tmp_path / "labels/chords/settings.csv", "name,value\n")
    songs, problems = read(tmp_path / "labels", tmp_path / "audio")
    assert not problems
    song = songs["a/song"]
    assert song.chords == [Segment(0.0, 1.5, "C")]
    assert song.sections == [Segment(0.0, 2.0, "verse")]
    assert song.beats.positions.tolist() == [1]


@pytest.mark.parametrize("name", ["beats", "chords", "sections", "keys", "tags", "jams"])
def test_songs_in_a_folder_called_like_annotations(tmp_path, name):
    """An album, a genre or an instrument: its songs have annotations beside them, or below a folder of labels."""
    write(tmp_path / f"{name}/one.wav")
    write(tmp_path / f"{name}/one.chords.lab", "0 2 C\n")
    write(tmp_path / "two.wav")
    write(tmp_path / "two.chords.lab", "0 2 D\n")
    write(tmp_path / f".{name}/one.chords.lab", "0 2 E\n")
    songs, problems = read(tmp_path)
    assert problems == []
    assert {name: song.chords[0].label for name, song in songs.items()} == {f"{name}/one": "C", "two": "D"}
    write(tmp_path / f"labels/{name}/one.chords.lab", "0 2 F\n")
    songs, problems = read(tmp_path / "labels", tmp_path)
    assert songs[f"{name}/one"].chords == [Segment(0, 2, "F")]


def test_hidden_files_are_not_read(tmp_path):
    write(tmp_path / "one.wav")
    write(tmp_path / "one.beats", "0.5\t1\n")
    for folder in (".trash", "__MACOSX", "more/.cache"):
        write(tmp_path / folder / "two.wav")
        write(tmp_path / folder / "two.beats", "0.5\t1\n")
    for name in ("._one.wav", "._one.beats"):
        write(tmp_path / name, "note")
    songs, problems = read(tmp_path)
    assert list(songs) == ["one"]
    assert problems == []
    with pytest.raises(FileNotFoundError, match="No audio two exists"):
        AudioFolder(tmp_path).find("two")
    assert AudioFolder(tmp_path).find("one") == tmp_path / "one.wav"


def test_jams(tmp_path):
    annotations = [
        ("beat", [(0.5, 0, 1), (1.0, 0, 2)]),
        ("chord", [(0, 1, "C"), (1, 1, "F")]),
        ("segment_open", [(0, 2, "verse")]),
        ("key_mode", [(0, 2, "C:minor")]),
        ("tag_open", [(0, 2, "piano")]),
    ]
    content = {
        "annotations": [
            {
                "namespace": namespace,
                "data": [
                    {"time": time, "duration": length, "value": value, "confidence": None}
                    for time, length, value in rows
                ],
            }
            for namespace, rows in annotations
        ],
        "file_metadata": {"duration": 2},
    }
    write(tmp_path / "song.wav")
    write(tmp_path / "song.jams", json.dumps(content))
    write(tmp_path / "song.chords.lab", "0 2 G\n")  # counts before JAMS
    songs, problems = read(tmp_path)
    assert problems == []
    song = songs["song"]
    assert song.beats.times.tolist() == [0.5, 1.0]
    assert song.chords == [Segment(0, 2, "G")]
    assert song.sections == [Segment(0, 2, "verse")]
    assert song.keys == [Segment(0, 2, "C:minor")]
    assert song.tags == ["piano"]
    # What nothing is in hides nothing; segments of several levels overlap.
    content["annotations"][0]["namespace"] = "beat_position"
    content["annotations"][0]["data"] = []
    content["annotations"][2]["namespace"] = "segment_tut"
    content["annotations"] += [
        {"namespace": "beat", "data": [{"time": 0.7, "duration": 0, "value": 1, "confidence": None}]},
        {"namespace": "multi_segment", "data": [{"time": 0, "duration": 2, "value": {"label": "A", "level": 0}}]},
    ]
    write(tmp_path / "song.jams", json.dumps(content))
    songs, _ = read(tmp_path)
    assert songs["song"].beats.times.tolist() == [0.7]
    assert songs["song"].sections == [Segment(0, 2, "verse")]
    write(tmp_path / "song.jams", "{}")
    with pytest.raises(ValueError, match=r"song.jams is not JAMS"):
        read(tmp_path)


def test_missing_parts_are_listed(tmp_path):
    write(tmp_path / "a.wav")
    write(tmp_path / "b.beats", "0.5\t1\n")
    write(tmp_path / "c.wav")
    write(tmp_path / "c.beats", "\n")
    songs, problems = read(tmp_path)
    assert songs == {}
    assert [problem.id for problem in problems] == ["a", "b", "c"]
    assert "no annotation" in problems[0].reason
    assert "No audio b" in problems[1].reason
    assert "no annotation" in problems[2].reason


def test_case_of_endings(tmp_path):
    write(tmp_path / "a.WAV")
    write(tmp_path / "a.CHORDS.LAB", "0 1 C\n")
    write(tmp_path / "a.Beats.lab", "0.5\t1\n1.0\t2\n")
    write(tmp_path / "a.Keys.TXT", "0\t2\tC\n")
    songs, problems = read(tmp_path)
    assert problems == []
    assert songs["a"].chords == [Segment(0, 1, "C")]
    assert songs["a"].beats.positions.tolist() == [1, 2]
    assert songs["a"].keys == [Segment(0, 2, "C")]


def test_names_that_are_nearly_right(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.wav")
    write(tmp_path / "a.chord.lab", "0 1 C\n")
    write(tmp_path / "b.Beat.csv", "0.5,1\n")
    write(tmp_path / "c.key", "C major\n")
    write(tmp_path / "c.jpg", "a picture")
    _, problems = read(tmp_path, strict=False)
    reasons = {problem.id: problem.reason for problem in problems}
    assert reasons["a.chord"].endswith(
        "a.chord.lab has labels under a name that is not known: rename it to a.chords.lab."
    )
    assert reasons["b.Beat"].endswith("rename it to b.beats.csv.")
    assert reasons["a"] == reasons["b"] == "It has no annotation."
    assert reasons["c"] == "It has no annotation. Not read: c.jpg, c.key."


def test_accents(tmp_path):
    """macOS writes accents apart from letters, others do not; and some names are no Unicode at all."""
    apart, together = (unicodedata.normalize(form, "Café") for form in ("NFD", "NFC"))
    write(tmp_path / f"{apart}.wav")
    write(tmp_path / f"{together}.beats", "0.5\t1\n")
    assert read(tmp_path)[0][together].audio == tmp_path / f"{apart}.wav"
    assert AudioFolder(tmp_path).find(together) == AudioFolder(tmp_path).find(apart) == tmp_path / f"{apart}.wav"
    latin = os.fsdecode(b"Caf\xe9")
    shutil.copy(tmp_path / f"{apart}.wav", tmp_path / f"{latin}.wav")
    write(tmp_path / f"{latin}.beats", "0.5\t1\n")
    songs, problems = read(tmp_path)
    assert list(songs) == [together]
    assert problems == [(latin, "Its name is not UTF-8: rename the file.", "missing")]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        song_readers(tmp_path / "none")
    with pytest.raises(ValueError, match="The source is an empty text"):
        song_readers("")
    with pytest.raises(ValueError, match="neither audio nor annotations"):
        song_readers(tmp_path)
    with pytest.raises(ValueError, match="`lab_task` must be one of chords, sections, keys"):
        song_readers(tmp_path, lab_task="beats")
    write(tmp_path / "a.wav")
    write(tmp_path / "a.beats", "1.0\n0.5\n")
    with pytest.raises(ValueError, match=r"a.beats, line 2"):
        read(tmp_path)
    write(tmp_path / "beats/a.beats", "1.0\n")
    with pytest.raises(ValueError, match="are for the same song"):
        read(tmp_path)
    (tmp_path / "beats/a.beats").unlink()
    write(tmp_path / "a.flac")
    with pytest.raises(ValueError, match=r"a.flac and .*a.wav are for the same song"):
        read(tmp_path)


def test_faulty_songs_do_not_stop_the_others(tmp_path):
    for name in "abcdef":
        write(tmp_path / f"{name}.wav")
        write(tmp_path / f"{name}.beats", "0.5\t1\n1.0\t2\n")
    write(tmp_path / "b.beats", "0,5\n1,0\n")
    write(tmp_path / "c.lab", "0 1 C\n")
    write(tmp_path / "d.flac")
    write(tmp_path / "beats/e.beats", "0.5\t1\n")
    (tmp_path / "f.tags").write_bytes(b"caf\xe9\n")
    songs, problems = read(tmp_path, strict=False)
    assert list(songs) == ["a"]
    reasons = (
        "b.beats, line 1: the comma",
        "c.lab may have",
        "are for the same song",
        "are for the same",
        "not text in",
    )
    assert [problem.id for problem in problems] == list("bcdef")
    assert {problem.kind for problem in problems} == {"wrong"}
    assert all(reason in problem.reason for reason, problem in zip(reasons, problems, strict=True))


def test_tags_of_jams_that_the_song_does_not_have(tmp_path):
    rows = [{"time": 0, "duration": 2, "value": value, "confidence": 0} for value in ("piano", "slow")]
    write(tmp_path / "song.wav")
    write(tmp_path / "song.jams", json.dumps({"annotations": [{"namespace": "tag_open", "data": rows}]}))
    assert read(tmp_path)[0]["song"].tags == []
    rows[0]["confidence"] = 1
    sections = [{"time": 0, "duration": 2, "value": "A", "confidence": 0}]
    chosen = [{"time": 0, "duration": 2, "value": "verse", "confidence": 1}]
    content = [{"namespace": "tag_open", "data": rows}, {"namespace": "segment_salami_function", "data": sections}]
    content += [{"namespace": "segment_open", "data": chosen}]
    write(tmp_path / "song.jams", json.dumps({"annotations": content}))
    song = read(tmp_path)[0]["song"]
    assert (song.tags, song.sections) == (["piano"], [Segment(0, 2, "verse")])


def test_recipe(tmp_path, monkeypatch, capsys):
    for number in range(40):
        write(tmp_path / f"music/{number}.wav")
        write(tmp_path / f"music/{number}.lab", "0 2 C\n")
    (tmp_path / "music/7.wav").unlink()
    arguments = ["folder", "--source", tmp_path / "music", "--output_dir", tmp_path / "out"]
    arguments += ["--lab_task", "chords"]
    prepare(monkeypatch, *arguments, "--license", "CC0", "--fractions", "0.5", "0.25", "0.25")
    assert "1 left out" in capsys.readouterr().out
    lists = {name: (tmp_path / f"out/{name}.txt").read_text().split() for name in ("train", "valid", "test")}
    assert sum(map(len, lists.values())) == 39
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        assert [str(song.audio) for song in load_songs(tmp_path / "out", split)] == lists[name]
    assert "No audio 7 exists" in (tmp_path / "out/problems.tsv").read_text()
    info = json.loads((tmp_path / "out/info.json").read_text())
    assert info["licence"] == "CC0"
    assert describe_source(tmp_path / "out")["name"] == "out"  # and not that of the command
    (tmp_path / "music/info.json").write_text('[{"licence": "CC0"}]')  # of another program
    assert describe_source(tmp_path / "music") == {"name": "music"}
    (tmp_path / "music/info.json").write_text('{"licence": "CC0"}')
    assert describe_source(tmp_path / "music") == {"name": "music"}
    (tmp_path / "music/info.json").unlink()
    assert describe_source(tmp_path / "music/*.tar") == {"name": "music/*.tar"}
    assert describe_source(os.fsdecode(os.fsencode(tmp_path) + b"/mus\xe9e")) == {"name": "mus\ufffde"}
    assert info["counts"]["left out"] == 1
    assert info["rows"] == {split: len(lists[name]) for split, name in zip(info["rows"], lists, strict=True)}
    write(tmp_path / "music/8.lab", "0 2 H\n")
    with pytest.raises(SystemExit, match=r"^Not prepared: .*8.lab, line 1: 'H' is not a chord"):
        prepare(monkeypatch, *arguments, "--strict")
    prepare(monkeypatch, *arguments)
    output = capsys.readouterr().out
    assert "2 left out, 1 left out for wrong annotations" in output
    assert output.splitlines()[0].startswith("  8\t")  # what is wrong comes before what is missing
    with pytest.warns(FutureWarning, match="--skip_faulty is the default and will be removed"):
        prepare(monkeypatch, *arguments, "--skip_faulty")
