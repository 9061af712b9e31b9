"""Readers of published data sets, on made-up sources with the layout of the real ones."""

import csv
import gzip
import json
import math
import re
import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from helpers.recipes import prepare

from musicfm_hf.data.labeled import read_all
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.data.mirdata_tracks import to_beats
from musicfm_hf.data.readers import beatles, giantsteps, giantsteps_plus, gtzan, harmonix, hooktheory, magnatagatune
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.chord import parse_chord


def write(path, text=None, seconds=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        soundfile.write(path, np.full(seconds * 4000, 0.1), 4000)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def read(readers, strict=False):
    songs, problems = read_all(readers.items(), strict)
    return {song.id: song for song in songs}, {problem.id: problem.reason for problem in problems}


# Harmonix


@pytest.fixture
def harmonixset(tmp_path):
    folder = tmp_path / "harmonixset/dataset"
    header = "File,Title,Artist,Release,Duration,BPM,Ratio Bars in 4,Time Signature,Genre,MusicBrainz Id,Acoustid Id"
    names = {"0001_song": ('"One, Two"', "Ne\u2010Yo"), "0002_song": ('"One, Two (Remix)"', "Ne-Yo feat. X")}
    names["0003_song"] = ("Other", "Ne-Yo")
    rows = [f"{name},{title},{artist},R,20,120,100.0,4|4,Pop,," for name, (title, artist) in names.items()]
    write(folder / "metadata.csv", "\n".join([header, *rows]) + "\n")
    for name in names:
        write(folder / f"beats_and_downbeats/{name}.txt", "0.0\t1\t1\n0.5\t2\t1\n1.0\t1\t2\n19.5\t2\t2\n")
        write(folder / f"segments/{name}.txt", "0.0 intro\n8.5 verse 2\n17.0 end\n19.0 end\n")
        write(tmp_path / f"audio/{name}.wav")
    return folder.parent


def test_harmonix(harmonixset, tmp_path):
    songs, problems = read(harmonix.song_readers(harmonixset, tmp_path / "audio"))
    assert problems == {}
    song = songs["0001_song"]
    assert song.beats.times.tolist() == [0, 0.5, 1, 19.5]
    assert song.beats.positions.tolist() == [1, 2, 1, 2]
    assert song.sections == [Segment(0, 8.5, "intro"), Segment(8.5, 17, "verse 2")]
    assert [song.group for song in songs.values()] == ["ne yo - one two", "ne yo - one two", "ne yo - other"]
    assert song.split is None


def test_harmonix_without_end_and_without_audio(harmonixset, tmp_path):
    write(harmonixset / "dataset/segments/0001_song.txt", "1.0\tintro\n8.5\tout\n")
    write(harmonixset / "dataset/segments/0002_song.txt", "1.0 intro\n19.5 out\n")
    (tmp_path / "audio/0003_song.wav").unlink()
    songs, problems = read(harmonix.song_readers(harmonixset / "dataset", tmp_path / "audio"))
    assert songs["0001_song"].sections == [Segment(1, 8.5, "intro"), Segment(8.5, 19.5, "out")]  # to the last beat
    assert songs["0002_song"].sections == [Segment(1, 19.5, "intro")]  # the last one has no length
    assert "No audio 0003_song" in problems["0003_song"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("segments/0001_song.txt", "0 a\nb 2\n", r"0001_song.txt, line 2: the time of a section must be a number of"),
        (
            "segments/0001_song.txt",
            "0 a\n2,5 b\n",
            r"0001_song.txt, line 2: .* got '2,5'. Write it with a decimal point",
        ),
        ("segments/0001_song.txt", "0 a\n5 b\n4 end\n", r"0001_song.txt, line 3: sections must ascend"),
        ("segments/0001_song.txt", "0 a\n25 end\n", r"0001_song.txt, line 1: 25 s is after the end of the audio"),
        ("beats_and_downbeats/0001_song.txt", "1\t1\t1\n1\t2\t1\n", r"0001_song.txt, line 2: beats must ascend"),
        (
            "beats_and_downbeats/0001_song.txt",
            "".join(f"{number}\t{number}\t1\n" for number in range(1, 20)),
            r"0001_song.txt, line 19: a position in the bar must be 1 for the downbeat",
        ),
    ],
)
def test_mistakes_in_harmonix_are_listed(harmonixset, tmp_path, file, text, message):
    write(harmonixset / "dataset" / file, text)
    songs, problems = read(harmonix.song_readers(harmonixset, tmp_path / "audio"))
    assert list(songs) == ["0002_song", "0003_song"]
    assert re.search(message, problems["0001_song"])
    with pytest.raises(ValueError, match=message):
        read(harmonix.song_readers(harmonixset, tmp_path / "audio"), strict=True)


def test_faulty_lines_of_the_table_of_harmonix(harmonixset, tmp_path):
    path = harmonixset / "dataset/metadata.csv"
    path.write_text(path.read_text(encoding="utf-8") + "0001_song,A,B\n,C,D\n", encoding="utf-8")
    songs, problems = read(harmonix.song_readers(harmonixset, tmp_path / "audio"))
    assert len(songs) == 3
    assert [reason.split(": ")[-1] for reason in problems.values()] == [
        "'0001_song' is empty or appears twice.",
        "'' is empty or appears twice.",
    ]
    write(path, "File,Title\n")
    with pytest.raises(ValueError, match=r"metadata.csv, line 1: no column Artist"):
        harmonix.song_readers(harmonixset)


def test_alignment_of_harmonix(harmonixset, tmp_path):
    path = write(harmonixset / "dataset/youtube_alignment_scores.csv", "File,score\n0001_song,0.95\n0003_song,0.9\n")
    songs, problems = read(harmonix.song_readers(harmonixset, tmp_path / "audio", min_alignment=0.95))
    assert list(songs) == ["0001_song"]
    assert problems == {
        "0002_song": f"It has no alignment score in {path}.",
        "0003_song": f"Its alignment score is 0.900, below 0.95 ({path}).",
    }
    with pytest.raises(ValueError, match="`min_alignment` must be between 0 and 1, got 95"):
        harmonix.song_readers(harmonixset, min_alignment=95)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"youtube_alignment_scores.csv does not exist"):
        harmonix.song_readers(harmonixset, min_alignment=0.9)


def test_held_out_songs_of_harmonix(tmp_path):
    """The draw depends on the table alone, and keeps all versions of a song together."""
    rows = [f"{number:04d}_song,Song {number // 2 if number < 40 else number},Artist" for number in range(100)]
    write(tmp_path / "metadata.csv", "\n".join(["File,Title,Artist", *rows]) + "\n")
    songs = {}
    for number in range(100):
        name = f"{number:04d}_song"
        write(tmp_path / f"beats_and_downbeats/{name}.txt", "0.0\t1\t1\n")
        write(tmp_path / f"segments/{name}.txt", "0.0 intro\n5.0 end\n")
    write(tmp_path / "audio/a.wav")
    for number in range(100):
        (tmp_path / f"audio/{number:04d}_song.wav").symlink_to(tmp_path / "audio/a.wav")
    for seed in (0, 1):
        readers = harmonix.song_readers(tmp_path, tmp_path / "audio", held_out=25, held_out_seed=seed)
        songs[seed] = {name: reader() for name, reader in readers.items()}
        assert Counter(song.split for song in songs[seed].values()) == {"train": 67, "validation": 8, "test": 25}
        for number in range(0, 40, 2):
            pair = [songs[seed][f"{number + one:04d}_song"] for one in (0, 1)]
            assert pair[0].split == pair[1].split
            assert pair[0].group == pair[1].group
    assert [song.split for song in songs[0].values()] != [song.split for song in songs[1].values()]
    (tmp_path / "audio/0007_song.wav").unlink()
    fewer, _ = read(harmonix.song_readers(tmp_path, tmp_path / "audio", held_out=25))
    assert len(fewer) == 99
    assert all(song.split == songs[0][name].split for name, song in fewer.items())
    for number in (0, 100):
        with pytest.raises(ValueError, match=r"`held_out` must be between 1 and 99, one song less than all"):
            harmonix.song_readers(tmp_path, held_out=number)


def test_recipe_for_harmonix(harmonixset, tmp_path, monkeypatch):
    arguments = ["harmonix", "--source", harmonixset, "--audio", tmp_path / "audio", "--output_dir", tmp_path / "out"]
    prepare(monkeypatch, *arguments, "--fractions", "0", "0", "1")
    assert len(load_songs(tmp_path / "out", "test")) == 3
    prepare(monkeypatch, *arguments, "--held_out", "2")
    assert [len(load_songs(tmp_path / "out", split)) for split in ("train", "test")] == [1, 2]
    assert json.loads((tmp_path / "out/info.json").read_text())["held_out"] == 2
    assert json.loads((tmp_path / "out/info.json").read_text())["homepage"].endswith("harmonixset")
    with pytest.raises(SystemExit, match=r"^Not prepared: .*metadata.csv does not exist: is this a copy"):
        prepare(monkeypatch, "harmonix", "--source", tmp_path / "audio", "--output_dir", tmp_path / "out")


# HookTheory


def entry(**changes):
    chord = {"onset": 0, "offset": 2, "root_pitch_class": 1, "root_position_intervals": [3, 4], "inversion": 0}
    minor = {"beat": 0, "tonic_pitch_class": 1, "scale_degree_intervals": [2, 1, 2, 2, 1, 2]}
    major = {"beat": 2, "tonic_pitch_class": 4, "scale_degree_intervals": [2, 2, 1, 2, 2, 2]}
    return {
        "tags": ["HARMONY"],
        "split": "TRAIN",
        "hooktheory": {"id": "abc", "artist": "somebody", "song": "something"},
        "youtube": {"id": "-Yt_1", "duration": 20.0},
        # A beat of a second, then one of two; what comes after goes on as slowly.
        "alignment": {"refined": {"beats": [0, 1, 2], "times": [3.0, 4.0, 6.0]}},
        "annotations": {
            "num_beats": 4,
            "keys": [minor, major],
            "harmony": [chord, chord | {"onset": 2.5, "offset": 4, "root_pitch_class": 10}],
        },
    } | changes


def write_hooktheory(folder, songs):
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / "Hooktheory.json.gz", "wt", encoding="utf-8") as file:
        json.dump(songs, file)
    return folder


def test_hooktheory(tmp_path):
    songs = {"abc": entry(), "bcd": entry(split="VALID"), "cde": entry(split="TEST", youtube=None)}
    songs["def"] = entry(alignment={"refined": None, "user": None})
    songs["user"] = entry(alignment={"refined": None, "user": {"beats": [0, 4], "times": [3.0, 7.0]}})
    songs["null"] = entry(alignment=None)
    songs["none"] = None
    songs["efg"] = entry(youtube={"id": "none"})
    source = write_hooktheory(tmp_path / "source", songs)
    write(tmp_path / "audio/-Yt_1.wav")
    write(tmp_path / "audio/cde.wav")
    found, problems = read(hooktheory.song_readers(source, tmp_path / "audio"))
    assert {name: song.split for name, song in found.items()} == {"abc": "train", "bcd": "validation", "cde": "test"}
    song = found["abc"]
    assert song.chords == [Segment(3, 6, "C#:min"), Segment(7, 10, "Bb:min")]
    assert song.keys == [Segment(3, 6, "C#:min"), Segment(6, 10, "E:maj")]
    assert (song.group, song.audio.name) == ("somebody", "-Yt_1.wav")
    assert problems["def"].endswith("def: no alignment.")
    assert problems["null"].endswith("null: no alignment.")
    assert "no refined alignment, only that of a user, which --user_alignment uses" in problems["user"]
    assert "none: is malformed (TypeError" in problems["none"]
    assert "No audio efg or none" in problems["efg"]
    assert list(hooktheory.song_readers(source / "Hooktheory.json.gz", tmp_path / "audio")) == list(songs)
    found, _ = read(hooktheory.song_readers(source, tmp_path / "audio", user_alignment=True))
    assert sorted(found) == ["abc", "bcd", "cde", "user"]
    assert found["user"].chords == [Segment(3, 5, "C#:min"), Segment(5.5, 7, "Bb:min")]
    assert found["abc"].chords == song.chords  # the refined alignment comes first


@pytest.mark.parametrize(
    ("intervals", "inversion", "label", "third"),
    [
        ([4, 3], 0, "G:maj", "G:maj"),
        ([4, 3, 3], 1, "G:7/3", "G:maj"),
        ([3, 4, 3], 3, "G:min7/b7", "G:min"),
        ([4, 3, 4, 3], 0, "G:maj7(9)", "G:maj"),
        ([4, 3, 7], 0, "G:maj(9)", "G:maj"),
        ([5, 2, 3], 0, "G:sus4(b7)", None),
        ([3, 3, 3], 3, "G:dim7/6", None),
        ([4, 4], 0, "G:aug", None),
        ([7], 0, "G:5", None),
        ([4, 2, 4], 0, "G:1(3,b5,b7)", None),
        ([4, 3, 3, 4, 3, 4], 0, "G:7(9,11,13)", "G:maj"),
        ([], 0, "G:1", None),
    ],
)
def test_chords_of_hooktheory(intervals, inversion, label, third):
    chord = {"root_pitch_class": 7, "root_position_intervals": intervals, "inversion": inversion}
    assert hooktheory.chord_label(chord) == label
    assert parse_chord(label) == third


def test_keys_of_hooktheory():
    dorian, strange = [2, 1, 2, 2, 2, 1], [1, 1, 1]
    assert hooktheory.key_label({"tonic_pitch_class": 3, "scale_degree_intervals": dorian}) == "Eb:min"
    assert hooktheory.key_label({"tonic_pitch_class": 3, "scale_degree_intervals": strange}) == "X"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "DEV"}, r"abc: is malformed .*split 'DEV'"),
        (
            {"alignment": {"refined": {"beats": [0, 1], "times": [1, 1]}}},
            r"abc: .*needs at least two ascending",
        ),
        ({"annotations": {"harmony": [{"onset": 0}]}}, r"abc, chord 1 is left out: it lasts from beat 0 to None\."),
        ({"annotations": None}, r"abc: is malformed \(AttributeError"),
        ({"alignment": {"refined": {"beats": [0, 1], "times": [17, 19]}}}, r"abc, chords, segment 2: 22 s is after"),
    ],
)
def test_mistakes_in_hooktheory_are_listed(tmp_path, changes, message):
    source = write_hooktheory(tmp_path / "source", {"abc": entry(**changes), "bcd": entry()})
    write(tmp_path / "source/-Yt_1.wav")
    songs, problems = read(hooktheory.song_readers(source))
    assert list(songs) == ["bcd"]
    assert re.search(message, problems["abc"])
    with pytest.raises(ValueError, match=message):
        read(hooktheory.song_readers(source), strict=True)


C, D, E, F = ({"root_pitch_class": pitch, "root_position_intervals": [4, 3], "inversion": 0} for pitch in (0, 2, 4, 5))


def passage(chords, keys=(), num_beats=16):
    """An entry with a beat a second, from 0 s."""
    harmony = [row and row[0] | {"onset": row[1], "offset": row[2]} for row in chords]
    keys = [{"beat": beat, "tonic_pitch_class": 0, "scale_degree_intervals": [2, mode]} for beat, mode in keys]
    alignment = {"refined": {"beats": [0, 16], "times": [0.0, 16.0]}}
    return entry(alignment=alignment, annotations={"num_beats": num_beats, "keys": keys, "harmony": harmony})


@pytest.mark.parametrize(
    ("chords", "expected", "problems"),
    [
        (
            [(C, 0, 4), (D, 4, 4), (E, 4, 8)],
            [(0, 4, "C"), (4, 8, "E")],
            ["chord 2 is left out: it lasts from beat 4 to 4"],
        ),
        (
            [(C, 0, 4), (D, 6, 5), (E, 6, 8)],
            [(0, 4, "C"), (6, 8, "E")],
            ["chord 2 is left out: it lasts from beat 6 to 5"],
        ),
        ([(C, -1, 4), (D, 4, 8)], [(4, 8, "D")], ["chord 1 is left out: it lasts from beat -1 to 4"]),
        ([(C, 0, None), (D, 4, 8)], [(4, 8, "D")], ["chord 1 is left out: it lasts from beat 0 to None"]),
        # What two chords claim has no label.
        ([(C, 0, 6), (D, 4, 8), (E, 8, 9)], [(0, 4, "C"), (6, 8, "D"), (8, 9, "E")], ["chord 2 begins before"]),
        (
            [(C, 0, 8), (D, 2, 4), (E, 7, 9)],
            [(0, 2, "C"), (8, 9, "E")],
            ["chord 2 begins before", "chord 3 begins before"],
        ),
        ([(C, 0, 4), (D, 0, 4), (E, 4, 6)], [(4, 6, "E")], ["chord 2 begins before"]),
        ([(E, 8, 9), (C, 0, 4)], [(0, 4, "C"), (8, 9, "E")], []),  # in another order
        ([None, (E, 8, 9)], [(8, 9, "E")], ["chord 1 is left out: it lasts from beat None to None"]),
        (
            [(C | {"inversion": 9}, 0, 4), (C | {"root_pitch_class": None}, 4, 5), (D, 5, 8)],
            [(5, 8, "D")],
            ["chord 1 is left out: IndexError", "chord 2 is left out: TypeError"],
        ),
    ],
)
def test_faulty_chords_of_hooktheory_are_left_out(tmp_path, chords, expected, problems):
    source = write_hooktheory(tmp_path / "source", {"abc": passage(chords)})
    write(tmp_path / "source/-Yt_1.wav")
    songs, found = read_all(hooktheory.song_readers(source).items())
    assert songs[0].chords == [Segment(start, end, f"{label}:maj") for start, end, label in expected]
    assert [problem.kind for problem in found] == ["part"] * len(problems)
    assert all(message in problem.reason for message, problem in zip(problems, found, strict=True))
    if problems:
        with pytest.raises(ValueError, match=problems[0]):
            read(hooktheory.song_readers(source), strict=True)


@pytest.mark.parametrize(
    ("keys", "num_beats", "expected", "problems"),
    [
        ([(0, 1), (8, 2)], 16, [(0, 8, "min"), (8, 16, "maj")], []),
        (
            [(0, 1), (8, 2), (16, 1)],
            16,
            [(0, 8, "min"), (8, 16, "maj")],
            ["key 3 is left out: it lasts from beat 16 to 16"],
        ),
        ([(0, 1), (20, 2)], 16, [(0, 16, "min")], ["key 2 is left out: it lasts from beat 20 to 16"]),
        ([(0, 1), (8, 2), (8, 1)], 16, [(0, 8, "min")], ["key 3 begins before the one before it ends"]),
        ([(8, 2), (0, 1)], 16, [(0, 8, "min"), (8, 16, "maj")], []),
        ([(0, 1), (None, 2)], 16, None, ["key 1 is left out", "key 2 is left out"]),
        ([(0, 1)], None, None, ["key 1 is left out: it lasts from beat 0 to None"]),
    ],
)
def test_faulty_keys_of_hooktheory_are_left_out(tmp_path, keys, num_beats, expected, problems):
    source = write_hooktheory(tmp_path / "source", {"abc": passage([(C, 0, 16)], keys, num_beats)})
    write(tmp_path / "source/-Yt_1.wav")
    songs, found = read_all(hooktheory.song_readers(source).items())
    modes = {"min": "C:min", "maj": "C:maj"}
    assert songs[0].keys == (expected and [Segment(start, end, modes[mode]) for start, end, mode in expected])
    assert songs[0].chords == [Segment(0, 16, "C:maj")]
    assert all(message in problem.reason for message, problem in zip(problems, found, strict=True))


def test_chords_before_the_audio_are_left_out(tmp_path):
    alignment = {"refined": {"beats": [4, 16], "times": [2.5, 14.5]}}
    chords = [(C, 0, 1), (D, 1, 4), (E, 4, 8)]
    song = passage(chords, [(0, 1)]) | {"alignment": alignment}
    write(tmp_path / "source/-Yt_1.wav")
    (found,), problems = read_all(
        hooktheory.song_readers(write_hooktheory(tmp_path / "source", {"abc": song})).items()
    )
    assert found.chords == [Segment(0, 2.5, "D:maj"), Segment(2.5, 6.5, "E:maj")]
    assert found.keys == [Segment(0, 14.5, "C:min")]
    assert [problem.reason.split("abc, ")[1] for problem in problems] == [
        "chord 1 is left out: it ends before the audio begins.",
        "chord 2 begins 0.50 s before the audio: that part is left out.",
        "key 1 begins 1.50 s before the audio: that part is left out.",
    ]


def test_faulty_parts_are_in_the_summary(tmp_path, monkeypatch, capsys):
    songs = {"abc": passage([(C, 0, 4), (D, 4, 4), (E, 4, 3)]), "bcd": entry(), "cde": entry(alignment=None)}
    source = write_hooktheory(tmp_path / "source", songs | {"def": entry(split="DEV")})
    write(tmp_path / "source/-Yt_1.wav")
    arguments = ["hooktheory", "--source", source, "--output_dir", tmp_path / "out"]
    prepare(monkeypatch, *arguments)
    summary = "2 train, 0 valid, 0 test, 2 left out, 1 left out for wrong annotations, 1 used in part"
    assert summary in capsys.readouterr().out
    lines = [line.split("\t")[0] for line in (tmp_path / "out/problems.tsv").read_text().splitlines()]
    assert lines == ["abc", "abc", "cde", "def"]
    with pytest.raises(SystemExit, match=r"^Not prepared: .*chord 2 is left out"):
        prepare(monkeypatch, *arguments, "--strict")


def test_hooktheory_must_be_there_and_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Hooktheory.json.gz does not exist"):
        hooktheory.song_readers(tmp_path)
    write(tmp_path / "Hooktheory.json.gz", "{")
    with pytest.raises(ValueError, match=r"Hooktheory.json.gz is not JSON"):
        hooktheory.song_readers(tmp_path)


# MagnaTagATune


@pytest.fixture
def magna(tmp_path):
    folder = tmp_path / "magna"
    clips = [
        ("2", "f/a-one-0-29.mp3", "1 0 1"),
        ("6", "c/b-two-30-59.mp3", "1 1 0"),
        ("10", "0/c-three-30-59.mp3", "1 0 0"),
        ("11", "b/c-three-59-88.mp3", "0 0 0"),
        ("12", "d/d-four-0-29.mp3", "0 0 1"),
    ]
    folder.mkdir()
    with (folder / "annotations_final.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(["clip_id", "guitar", "drums", "drum", "mp3_path"])
        writer.writerows([clip, *tags.split(), path] for clip, path, tags in clips)
    for _, path, _ in clips[:-1]:
        audio = folder / path
        audio.parent.mkdir(exist_ok=True)
        soundfile.write(audio, np.full(round(29.1 * 16000), 0.1), 16000, format="MP3")
    return folder


def test_magnatagatune(magna):
    clips, problems = read(magnatagatune.song_readers(magna, num_tags=2))
    assert {clip: (song.split, song.group, song.tags) for clip, song in clips.items()} == {
        "2": ("test", "a-one", ["guitar", "drum"]),
        "6": ("validation", "b-two", ["guitar"]),  # drums is third
        "10": ("train", "c-three", ["guitar"]),
    }
    assert "d-four-0-29.mp3 does not exist" in problems["12"]
    assert problems["11"] == "b/c-three-59-88.mp3 has none of the 2 tags."
    merged, _ = read(magnatagatune.song_readers(magna, num_tags=2, merge_synonyms=True))
    assert [song.tags for song in merged.values()] == [["guitar", "drum"], ["guitar", "drum"], ["guitar"]]
    rows = "clip_id\ttrack_number\ttitle\tartist\talbum\n2\t1\tOne\tA\tB\n"
    write(magna / "clip_info_final.csv", rows)
    clips, _ = read(magnatagatune.song_readers(magna))
    assert [song.group for song in clips.values()][:2] == ["A - B - One", "b-two"]
    assert [song.tags for song in clips.values()][:2] == [["guitar", "drum"], ["guitar", "drums"]]  # as annotated


def test_clips_that_are_cut_off_are_left_out(magna):
    soundfile.write(magna / "c/b-two-30-59.mp3", np.full(28 * 4000, 0.1), 4000, format="WAV")
    clips, problems = read(magnatagatune.song_readers(magna))
    assert list(clips) == ["2", "10"]
    assert problems["6"].endswith("c/b-two-30-59.mp3 has 28.00 s, less than the 29 s of a whole clip.")


def test_published_lists_of_magnatagatune(magna, tmp_path):
    """`INDEX<tab>PATH`, as in split/mtat of sota-music-tagging-models; here the folders say something else."""
    lists = {"train": ["0\tf/a-one-0-29.mp3"], "valid": ["2\t0/c-three-30-59.mp3"], "test": ["9\td/d-four-0-29.mp3"]}
    for name, lines in lists.items():
        np.save(tmp_path / f"{name}.npy", np.array(lines))
    read_lists = partial(magnatagatune.song_readers, magna, split_dir=tmp_path, num_tags=2)
    clips, problems = read(read_lists())
    assert {clip: (song.split, song.tags) for clip, song in clips.items()} == {
        "2": ("train", ["guitar", "drum"]),
        "10": ("validation", ["guitar"]),
    }
    assert problems["6"] == f"c/b-two-30-59.mp3 is not in the lists of {tmp_path}."
    assert "does not exist" in problems["12"]
    np.save(tmp_path / "tags.npy", np.array(["drums", "drum"]))
    assert [song.tags for song in read(read_lists())[0].values()] == [["drum"]]
    np.save(tmp_path / "test.npy", np.array(["0\tf/a-one-0-29.mp3"]))
    with pytest.raises(ValueError, match=r"test.npy: f/a-one-0-29 is in the list of train clips, too"):
        read_lists()
    np.save(tmp_path / "test.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"test.npy is not a NumPy file of texts"):
        read_lists()
    (tmp_path / "test.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"test.npy does not exist: is this split/mtat of"):
        read_lists()


def test_synonyms_are_in_one_row_only():
    names = [name for row in magnatagatune.SYNONYMS for name in row]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"6"\t"1"', '"6"\t"2"', r"annotations_final.csv, line 3: tags must be 0 or 1, got '2'"),
        ('"6"\t"1"', '"6"\t"1"\t"1"\t"1"', r"annotations_final.csv, line 3: the line has more fields than the first"),
        ("c/b-two", "x/b-two", r"line 3: clip 6 appears twice, or 'x/b-two-30-59.mp3' is not in"),
        ('"6"\t"1"', '"2"\t"1"', r"line 3: clip 2 appears twice, or"),
    ],
)
def test_faulty_lines_of_magnatagatune_are_listed(magna, old, new, message):
    path = magna / "annotations_final.csv"
    path.write_text(path.read_text().replace(old, new))
    clips, problems = read(magnatagatune.song_readers(magna))
    assert list(clips) == ["2", "10"]
    assert any(re.search(message, reason) for reason in problems.values())
    with pytest.raises(ValueError, match=message):
        read(magnatagatune.song_readers(magna), strict=True)


def test_magnatagatune_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="is this the folder of MagnaTagATune"):
        magnatagatune.song_readers(tmp_path)


def test_recipe_for_magnatagatune(magna, tmp_path, monkeypatch, capsys):
    arguments = ["magnatagatune", "--source", magna, "--output_dir", tmp_path / "out"]
    prepare(monkeypatch, *arguments)
    assert "1 train, 1 valid, 1 test, 2 left out" in capsys.readouterr().out
    info = json.loads((tmp_path / "out/info.json").read_text())
    assert {name: info.get(name) for name in ("num_tags", "merge_synonyms", "split", "note")} == {
        "num_tags": 50,
        "merge_synonyms": False,
        "split": "by folder",
        "note": None,
    }
    prepare(monkeypatch, *arguments, "--merge_synonyms")
    assert "not comparable" in json.loads((tmp_path / "out/info.json").read_text())["note"]
    prepare(monkeypatch, *arguments, "--no_merge_synonyms")  # of 0.1.0, where this was not the default
    assert load_songs(tmp_path / "out", "validation")[0].tags == ["guitar", "drums"]


# mirdata


@pytest.fixture
def index(tmp_path, monkeypatch):
    """What writes an index of mirdata, which it would download."""
    from mirdata import core

    def write_index(tracks):
        monkeypatch.setattr(core.Index, "get_path", lambda self: str(tmp_path / "index.json"))
        tracks = {
            name: {part: [path, path and "0" * 32] for part, path in parts.items()} for name, parts in tracks.items()
        }
        write(tmp_path / "index.json", json.dumps({"version": "1.0", "tracks": tracks}))

    return write_index


def test_gtzan(tmp_path, index):
    genres, beats = "gtzan_genre/genres", "gtzan_tempo_beat-main/beats"
    index(
        {
            name: {
                "audio": f"{genres}/{name.split('.')[0]}/{name}.wav",
                "beats": f"{beats}/gtzan_{name.replace('.', '_')}.beats",
                "tempo": "tempo",
            }
            for name in ("country.00000", "jazz.00054", "hiphop.00001")
        }
    )
    write(tmp_path / f"home/{genres}/country/country.00000.wav")
    write(tmp_path / f"home/{genres}/jazz/jazz.00054.wav")
    write(tmp_path / f"home/{beats}/gtzan_country_00000.beats", "0.5\t3\n1.0\t4\n1.5\t1\n")
    write(tmp_path / f"home/{beats}/gtzan_jazz_00054.beats", "0.5\n1.0\n")
    songs, problems = read(gtzan.song_readers(tmp_path / "home"))
    assert [beats.tolist() for beats in songs["country.00000"].beats] == [[0.5, 1.0, 1.5], [3, 4, 1]]
    assert songs["jazz.00054"].beats.positions.tolist() == [0, 0]
    assert "No audio hiphop.00001" in problems["hiphop.00001"]
    write(tmp_path / f"home/{beats}/gtzan_jazz_00054.beats", "1.0\n0.5\n")
    with pytest.raises(ValueError, match=r"gtzan_jazz_00054.beats: mirdata cannot read it"):
        read(gtzan.song_readers(tmp_path / "home"), strict=True)
    songs, problems = read(gtzan.song_readers(tmp_path / "home"))
    assert list(songs) == ["country.00000"]
    assert {"hiphop.00001", "jazz.00054"} <= problems.keys()


def test_an_entry_of_mirdata_that_is_wrong(tmp_path, index):
    """mirdata raises a KeyError for an entry that lacks a part."""
    index(
        {"country.00000": {"tempo": "tempo"}, "jazz.00054": {"audio": "a.wav", "beats": "a.beats", "tempo": "tempo"}}
    )
    write(tmp_path / "home/a.wav")
    write(tmp_path / "home/a.beats", "0.5\t1\n")
    songs, problems = read_all(gtzan.song_readers(tmp_path / "home").items())
    assert [song.id for song in songs] == ["jazz.00054"]
    errors = [problem for problem in problems if problem.kind != "part"]
    assert [(problem.id, problem.kind) for problem in errors] == [("country.00000", "error")]
    assert "KeyError" in errors[0].reason


@pytest.mark.parametrize(("positions", "expected"), [([1.0, math.nan, 2.0], [1, 0, 2]), (None, [0, 0, 0])])
def test_positions_of_mirdata(positions, expected):
    annotation = SimpleNamespace(times=[0.5, 1.0, 1.5], positions=positions and np.array(positions))
    assert to_beats(annotation).positions.tolist() == expected


def test_positions_of_mirdata_between_two_numbers_are_refused():
    with pytest.raises(ValueError, match="beat 2: the position in the bar must be a whole number"):
        to_beats(SimpleNamespace(times=[0.5, 1.0], positions=np.array([1, 1.5])))


def test_giantsteps_plus(tmp_path, index, monkeypatch, capsys):
    titles = {"3": "10089 Somebody - A song feat. J. (Mix)", "4": "4 Nobody - Other"}
    index(
        {
            name: {"audio": f"audio/{title}.mp3", "meta": f"meta/{title}.json", "key": f"keys_gs+/{title}.txt"}
            for name, title in titles.items()
        }
    )
    home = tmp_path / "home"
    write(home / f"keys_gs+/{titles['3']}.txt", "D major")
    write(home / f"meta/{titles['3']}.json", json.dumps({"artists": [{"name": "Somebody"}]}))
    write(home / f"keys_gs+/{titles['4']}.txt", "F# minor\n")
    for title in titles.values():
        write(tmp_path / f"audio/{title}.wav")  # not mp3, and elsewhere
    songs, problems = read(giantsteps_plus.song_readers(home, tmp_path / "audio"))
    assert problems == {}
    assert songs["3"].keys == [Segment(0, 20, "D major")]
    assert songs["4"].keys == [Segment(0, 20, "F# minor")]
    assert [song.group for song in songs.values()] == ["Somebody", "4"]
    arguments = ["--source", home, "--audio", tmp_path / "audio", "--output_dir", tmp_path / "out"]
    prepare(monkeypatch, "giantsteps_plus", *arguments)
    assert "0 train, 0 valid, 2 test" in capsys.readouterr().out  # the field tests on it
    # Its name in 0.1.0 was that of the other data set.
    with pytest.warns(FutureWarning, match="GiantSteps. is now called giantsteps_plus"):
        songs, _ = read(giantsteps.song_readers(home, tmp_path / "audio"))
    assert [song.keys[0].label for song in songs.values()] == ["D major", "F# minor"]


def test_giantsteps(tmp_path, monkeypatch, capsys):
    keys = {
        "10089.LOFI": "D major",
        "1004923.LOFI": "Eb minor\n",
        "3.LOFI": "D major\nG minor\n",
        "4.LOFI": "tag 0 house",
    }
    for name, text in keys.items():
        write(tmp_path / f"set/annotations/key/{name}.key", text)
        write(tmp_path / f"set/annotations/giantsteps/{name}.key", "#@format: tag\tname\ntag 0 house")
        write(tmp_path / f"audio/{name}.wav")
    write(tmp_path / "set/annotations/key/5.LOFI.key", "C minor")
    songs, problems = read(giantsteps.song_readers(tmp_path / "set", tmp_path / "audio"))
    assert {name: song.keys for name, song in songs.items()} == {
        "10089.LOFI": [Segment(0, 20, "D major")],
        "1004923.LOFI": [Segment(0, 20, "Eb minor")],
    }
    assert "3.LOFI.key must have one line with a key, such as Eb minor, got 2 lines" in problems["3.LOFI"]
    assert "4.LOFI.key, line 1: 'tag 0 house' is not a key" in problems["4.LOFI"]
    assert "No audio 5.LOFI" in problems["5.LOFI"]
    assert list(giantsteps.song_readers(tmp_path / "set/annotations", tmp_path)) == sorted([*keys, "5.LOFI"])
    arguments = ["--source", tmp_path / "set", "--audio", tmp_path / "audio", "--output_dir", tmp_path / "out"]
    prepare(monkeypatch, "giantsteps", *arguments)
    assert "0 train, 0 valid, 2 test, 3 left out, 2 left out for wrong annotations" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"has no file .key: is this a copy of github.com/GiantSteps"):
        giantsteps.song_readers(tmp_path / "audio")
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        giantsteps.song_readers(tmp_path / "none")


def test_beatles(tmp_path, index):
    album, other = "01_-_Please_Please_Me", "10CD2_-_The_Beatles"
    parts = {"beat": "beat", "chords": "chordlab", "keys": "keylab", "sections": "seglab"}
    tracks = {}
    for name, folder, title in (("0111", album, "11_-_A_Secret"), ("10212", other, "CD2_-_12_-_Nine")):
        paths = {
            part: f"annotations/{kind}/The Beatles/{folder}/{title}.{'txt' if part == 'beat' else 'lab'}"
            for part, kind in parts.items()
        }
        tracks[name] = {"audio": f"audio/{folder}/{title}.wav"} | paths
    tracks["10212"] |= {"beat": None, "keys": None}
    index(tracks)
    texts = {
        "beat": "13.249  2\n13.959  3\n14.416  4\n14.965  1\n15.453  2\n",
        "chords": "0.000000 0.497838 N\n0.497838 4.989730 E:min/b3\n4.989730 9.985104 G\n",
        "keys": "0.000\t2.0\tSilence\n2.0\t19.333\tKey\tE:mixolydian\n",
        "sections": "0.000\t0.465\t\tsilence\n0.465\t14.931\t\tverse_(instrumental)\n",
    }
    for track in tracks.values():
        for part, text in texts.items():
            if track[part]:
                write(tmp_path / "home" / track[part], text)
    write(tmp_path / f"home/audio/{album}/11_-_A_Secret.flac")  # mirdata says wav
    write(tmp_path / f"home/audio/{other}/CD2_-_12_-_Nine.wav")
    songs, problems = read(beatles.song_readers(tmp_path / "home"))
    assert problems == {}
    song = songs["0111"]
    assert song.beats.positions.tolist() == [2, 3, 4, 1, 2]
    assert song.chords[1] == Segment(0.497838, 4.98973, "E:min/b3")
    assert song.keys == [Segment(2, 19.333, "E:mixolydian")]
    assert song.sections == [Segment(0, 0.465, "silence"), Segment(0.465, 14.931, "verse_(instrumental)")]
    assert (song.group, song.audio.suffix) == (album, ".flac")
    assert songs["10212"].beats is None
    assert songs["10212"].keys is None
    assert songs["10212"].group == other


def test_mirdata_downloads_nothing_unless_told(tmp_path, monkeypatch):
    from mirdata import core

    monkeypatch.setattr(core.Index, "get_path", lambda self: str(tmp_path / "index.json"))
    called = []
    monkeypatch.setattr(core.Dataset, "download", lambda self: called.append(self.name))
    with pytest.raises(FileNotFoundError, match=r"index.json does not exist.*With `--download`, mirdata downloads it"):
        gtzan.song_readers(tmp_path)
    assert called == []
    write(tmp_path / "index.json", json.dumps({"tracks": {}}))
    assert gtzan.song_readers(tmp_path, download=True) == {}
    assert called == ["gtzan_genre"]
    monkeypatch.setitem(sys.modules, "mirdata", None)
    with pytest.raises(ImportError, match="pip install mirdata"):
        gtzan.song_readers(tmp_path)
