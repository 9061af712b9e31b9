"""Readers of published data sets, on made-up sources with the layout of the real ones."""

import csv
import gzip
import json
import sys

import numpy as np
import pytest
import soundfile
from helpers.recipes import prepare

from musicfm_hf.data.labeled import read_all
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.data.readers import beatles, giantsteps, gtzan, harmonix, hooktheory, magnatagatune
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.chord import parse_chord


def write(path, text=None, seconds=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        soundfile.write(path, np.full(seconds * 4000, 0.1), 4000)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def read(readers):
    songs, problems = read_all(readers.items())
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
        ("segments/0001_song.txt", "0 a\nb 2\n", r"0001_song.txt, line 2: needs a time in seconds and a label"),
        ("segments/0001_song.txt", "0 a\n5 b\n4 end\n", r"0001_song.txt, line 3: sections must ascend"),
        ("segments/0001_song.txt", "0 a\n25 end\n", r"0001_song.txt, line 1: 25 s is after the end of the audio"),
        ("beats_and_downbeats/0001_song.txt", "1\t1\t1\n1\t2\t1\n", r"0001_song.txt, line 2: beats must ascend"),
        ("metadata.csv", "File,Title\n", r"metadata.csv, line 1: no column Artist"),
        ("metadata.csv", "File,Title,Artist\na,b,c\na,b,c\n", r"metadata.csv, line 3: 'a' is empty or appears twice"),
    ],
)
def test_mistakes_in_harmonix_are_named(harmonixset, tmp_path, file, text, message):
    write(harmonixset / "dataset" / file, text)
    with pytest.raises(ValueError, match=message):
        read(harmonix.song_readers(harmonixset, tmp_path / "audio"))


def test_recipe_for_harmonix(harmonixset, tmp_path, monkeypatch):
    arguments = ["harmonix", "--source", harmonixset, "--audio", tmp_path / "audio", "--output_dir", tmp_path / "out"]
    prepare(monkeypatch, *arguments, "--fractions", "0", "0", "1")
    assert len(load_songs(tmp_path / "out", "test")) == 3
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
    songs["def"] = entry(alignment={"refined": None})
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
    assert "no refined alignment" in problems["def"]
    assert "No audio efg or none" in problems["efg"]
    assert list(hooktheory.song_readers(source / "Hooktheory.json.gz", tmp_path / "audio")) == list(songs)


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
        ({"annotations": {"harmony": [{"onset": 0}]}}, r"abc: is malformed \(KeyError: 'offset'\)"),
        ({"alignment": {"refined": {"beats": [0, 1], "times": [17, 19]}}}, r"abc, chords, segment 2: 22 s is after"),
    ],
)
def test_mistakes_in_hooktheory_are_named(tmp_path, changes, message):
    source = write_hooktheory(tmp_path / "source", {"abc": entry(**changes)})
    write(tmp_path / "source/-Yt_1.wav")
    with pytest.raises(ValueError, match=message):
        read(hooktheory.song_readers(source))


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
        soundfile.write(audio, np.full(16000, 0.1), 16000, format="MP3")
    return folder


def test_magnatagatune(magna):
    clips, problems = read(magnatagatune.song_readers(magna, num_tags=2, merge_synonyms=False))
    assert {clip: (song.split, song.group, song.tags) for clip, song in clips.items()} == {
        "2": ("test", "a-one", ["guitar", "drum"]),
        "6": ("validation", "b-two", ["guitar"]),  # drums is third
        "10": ("train", "c-three", ["guitar"]),
        "11": ("train", "c-three", []),
    }
    assert "d-four-0-29.mp3" in problems["12"]
    merged, _ = read(magnatagatune.song_readers(magna, num_tags=2))
    assert [song.tags for song in merged.values()] == [["guitar", "drum"], ["guitar", "drum"], ["guitar"], []]
    rows = "clip_id\ttrack_number\ttitle\tartist\talbum\n2\t1\tOne\tA\tB\n"
    write(magna / "clip_info_final.csv", rows)
    clips, _ = read(magnatagatune.song_readers(magna))
    assert [song.group for song in clips.values()][:2] == ["A - B - One", "b-two"]


def test_synonyms_are_in_one_row_only():
    names = [name for row in magnatagatune.SYNONYMS for name in row]
    assert len(names) == len(set(names))


def test_mistakes_in_magnatagatune_are_named(magna, tmp_path):
    path = magna / "annotations_final.csv"
    text = path.read_text()
    path.write_text(text.replace('"6"\t"1"', '"6"\t"2"'))
    with pytest.raises(ValueError, match=r"annotations_final.csv, line 3: tags must be 0 or 1, got '2'"):
        magnatagatune.song_readers(magna)
    path.write_text(text.replace("c/b-two", "x/b-two"))
    with pytest.raises(ValueError, match=r"line 3: clip 6 appears twice, or 'x/b-two-30-59.mp3' is not in"):
        magnatagatune.song_readers(magna)
    with pytest.raises(FileNotFoundError, match="is this the folder of MagnaTagATune"):
        magnatagatune.song_readers(tmp_path)


def test_recipe_for_magnatagatune(magna, tmp_path, monkeypatch, capsys):
    prepare(monkeypatch, "magnatagatune", "--source", magna, "--output_dir", tmp_path / "out")
    assert "2 train, 1 valid, 1 test, 1 left out" in capsys.readouterr().out


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
        read(gtzan.song_readers(tmp_path / "home"))


def test_giantsteps(tmp_path, index, monkeypatch, capsys):
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
    songs, problems = read(giantsteps.song_readers(home, tmp_path / "audio"))
    assert problems == {}
    assert songs["3"].keys == [Segment(0, 20, "D major")]
    assert songs["4"].keys == [Segment(0, 20, "F# minor")]
    assert [song.group for song in songs.values()] == ["Somebody", "4"]
    arguments = ["--source", home, "--audio", tmp_path / "audio", "--output_dir", tmp_path / "out"]
    prepare(monkeypatch, "giantsteps", *arguments)
    assert "0 train, 0 valid, 2 test" in capsys.readouterr().out  # the field tests on it


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
