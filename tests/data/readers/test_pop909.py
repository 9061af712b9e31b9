import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile
import tinysoundfont
from helpers.pop909 import TICKS, write_midi, write_pack
from helpers.recipes import prepare

from musicfm_hf import SongAnnotation
from musicfm_hf.data import pop909_rendering as pop909
from musicfm_hf.data.labeled import check_song, read_all
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.data.pop909_rendering import read_songs, render_songs
from musicfm_hf.data.pop909_versions import draw_version
from musicfm_hf.data.readers.pop909 import read_song, song_readers, transpose_chord, transpose_key
from musicfm_hf.symbolic.midi_synthesis import render
from musicfm_hf.tasks.annotations import Segment

RATE = 24000
ORGAN = (16, 16, 16)


def rms(audio):
    return np.sqrt(np.mean(np.square(audio, dtype=np.float64)))


def pitch(audio):
    """Frequency of the strongest partial, in Hz."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 8 * len(audio)))
    return spectrum.argmax() * RATE / (8 * len(audio))


@pytest.mark.parametrize(("transpose", "frequency"), [(0, 440), (12, 880), (-12, 220)])
def test_pitch_onset_and_length(tmp_path, transpose, frequency):
    path = write_midi(tmp_path / "a.mid", {"PIANO": [(2, 2, 69, 100)]})  # from 1 s to 2 s
    audio = render(path, transpose=transpose)
    assert audio.dtype == np.float32
    assert audio.shape == (round((2 + 1.5) * RATE),)
    assert pitch(audio[round(1.1 * RATE) : round(1.6 * RATE)]) == pytest.approx(frequency, rel=0.01)
    assert not audio[:RATE].any()
    loud = np.abs(audio) > 0.05 * np.abs(audio).max()
    assert loud.argmax() / RATE == pytest.approx(1.0, abs=0.01)


def test_tempo_map_is_kept(tmp_path):
    path = write_midi(tmp_path / "a.mid", {"PIANO": [(4, 1, 60, 100)]}, tempos=((0, 120), (2, 60), (4, 240)))
    audio = render(path)  # two beats of 0.5 s, two of 1 s, then a note of 0.25 s
    assert len(audio) == round((3 + 0.25 + 1.5) * RATE)
    assert not audio[: 3 * RATE].any()
    assert np.abs(audio[3 * RATE :]).argmax() < 0.25 * RATE


def test_controllers_are_sent_up_to_the_last_note_off(tmp_path, monkeypatch):
    notes = [(0, 1, 60, 100)]
    controls = [(0, 64, 127), (0.5, 7, 30), (1, 64, 0), (100, 64, 127)]
    messages = [
        (beat, mido.Message("control_change", control=number, value=value)) for beat, number, value in controls
    ]
    path = write_midi(tmp_path / "a.mid", {"PIANO": [messages[0], *notes, *messages[1:]]})
    sent = []
    send = tinysoundfont.Synth.control_change
    monkeypatch.setattr(
        tinysoundfont.Synth, "control_change", lambda synth, *event: (sent.append(event), send(synth, *event))
    )
    audio = render(path)
    assert sent == [(0, number, value) for _, number, value in controls[:3]]
    assert len(audio) == round((0.5 + 1.5) * RATE)
    assert len(render(path, tail_seconds=0)) == RATE // 2
    loud = render(write_midi(tmp_path / "b.mid", {"PIANO": notes}))
    steps = [rms(one[7200:12000]) / rms(one[:6000]) for one in (audio, loud)]
    assert steps[0] < 0.2 * steps[1]  # the volume went down after a quarter of a second


def test_arranged_parts_have_their_levels(tmp_path):
    # One after another, so that they can be measured in the mix; unequally loud, long and high in the file.
    tracks = {"MELODY": [(0, 4, 72, 40)], "BRIDGE": [(6, 4, 60, 127)], "PIANO": [(12, 12, 52, 90), (12, 12, 59, 90)]}
    path = write_midi(tmp_path / "a.mid", tracks)
    audio = render(path, programs=ORGAN)
    assert rms(audio) == pytest.approx(0.08, rel=1e-4)
    assert np.abs(audio).max() <= 0.98
    levels = [rms(audio[round(start * RATE) : round(end * RATE)]) for start, end in ((0.1, 2), (3.1, 5), (6.1, 12))]
    decibels = 20 * np.log10(np.array(levels) / levels[2])
    np.testing.assert_allclose(decibels, [1, -3, 0], atol=0.4)
    plain = render(path)
    assert rms(plain[:RATE]) < 0.5 * rms(plain[3 * RATE : 4 * RATE])  # as the file has it


def test_arranged_uses_the_programs(tmp_path):
    notes = [(0, 4, 72, 90)]
    program = (0, mido.Message("program_change", program=0))  # not the one that is asked for
    path = write_midi(tmp_path / "a.mid", {"MELODY": [program, *notes], "BRIDGE": [], "PIANO": []})
    steady = slice(round(1.0 * RATE), round(1.2 * RATE))
    onset = slice(0, round(0.2 * RATE))
    piano, organ = render(path, programs=(0, 0, 0)), render(path, programs=ORGAN)
    assert rms(piano[steady]) < 0.7 * rms(piano[onset])  # it decays
    assert rms(organ[steady]) == pytest.approx(rms(organ[onset]), rel=0.15)


def test_peak_is_limited(tmp_path):
    path = write_midi(tmp_path / "a.mid", {"PIANO": [(0, 0.1, 60, 127), (60, 0.1, 60, 1)]})
    audio = render(path)
    assert np.abs(audio).max() == pytest.approx(0.98)
    assert rms(audio) < 0.079


def test_tracks_without_names_and_type_0(tmp_path):
    split = write_midi(tmp_path / "a.mid", {"X": [(0, 1, 60, 90)], "Y": [(1, 1, 64, 90)]})
    midi = mido.MidiFile(split)
    joined = mido.MidiFile(type=0, ticks_per_beat=TICKS, tracks=[mido.merge_tracks(midi.tracks)])
    joined.save(tmp_path / "b.mid")
    np.testing.assert_array_equal(render(tmp_path / "b.mid"), render(split))


def test_wrong_arguments_and_files_are_named(tmp_path):
    path = write_midi(tmp_path / "a.mid", {"PIANO": [(0, 1, 120, 100)]})
    empty = write_midi(tmp_path / "empty.mid", {"PIANO": []})
    (tmp_path / "text.mid").write_text("no music")
    for arguments, message in [
        ((path, None, (0, 0)), "`programs` must be three"),
        ((path, None, (0, 0, 128)), "`programs` must be three"),
        ((path, None, (0, 0, 0)), r"a.mid has no track MELODY, BRIDGE among 0, PIANO"),
        ((path, None, None, 8), "a.mid has note 120: shifted by 8, it is outside 0 to 127"),
        ((path, None, None, 0, 0), "`sampling_rate` must be above 0 and `tail_seconds` at least 0, got 0"),
        ((path, tmp_path / "text.mid"), "text.mid is not a soundfont"),
        ((empty,), "empty.mid has no notes"),
        ((tmp_path / "text.mid",), "text.mid is not MIDI"),
    ]:
        with pytest.raises(ValueError, match=message):
            render(*arguments)
    for arguments in [(tmp_path / "none.mid",), (path, tmp_path / "none.sf2")]:
        with pytest.raises(FileNotFoundError, match="none"):
            render(*arguments)


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("mido", "musicfm_hf.pop909"),
        ("tinysoundfont", "pip install --no-deps tinysound"),
        ("pretty_midi", ".sf2 file"),
    ],
)
def test_missing_packages_are_named(tmp_path, monkeypatch, package, message):
    path = write_midi(tmp_path / "a.mid", {"PIANO": [(0, 1, 60, 100)]})
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message):
        render(path)


@pytest.fixture
def pack(tmp_path):
    return write_pack(tmp_path / "pack")


def test_songs_are_read(pack):
    songs = read_songs(pack)
    assert [(song.id, song.split, song.is_mini) for song in songs] == [
        ("001", "train", False),
        ("002", "valid", True),
        ("003", "test", True),
    ]
    song = songs[1]
    assert (song.title, song.artist, song.first_key) == ("木头人", "Nobody", "F#:maj")
    assert (song.seconds, song.bpm) == (1.5, 120)
    assert song.programs == (40, 11, 2)
    assert song.tags == ("violin", "vibraphone", "piano", "major", "fast")
    assert song.midi == pack / "midi/002.mid"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("songs.tsv", "bpm", "tempo", "songs.tsv, line 1: no column bpm"),
        ("songs.tsv", "002\tvalid", "002", "songs.tsv, line 3: 7 fields where line 1 has 8"),
        ("songs.tsv", "002\tvalid", "001\tvalid", "songs.tsv, line 3: song 001 appears twice"),
        ("songs.tsv", "002\tvalid", "002\ttrain", "songs.tsv, line 3: song 002 is in 'train' here, in 'valid' by"),
        ("songs.tsv", "1.50\t120.0", "long\t120.0", "songs.tsv, line 2: seconds must be a number, got 'long'"),
        (
            "arrangements.tsv",
            "002\t40",
            "002\t140",
            "arrangements.tsv, line 3: programs must be from 0 to 127, got 140",
        ),
        ("arrangements.tsv", "002\t40", "002\tpiano", "arrangements.tsv, line 3: melody_program must be a number"),
        ("arrangements.tsv", "002\t40", "009\t40", "songs.tsv, line 3: song 002 is not in arrangements.tsv"),
        ("splits/test.txt", "003", "004", "test.txt, line 1: song '004' is not in songs.tsv"),
        ("splits/test.txt", "003", "003\n002", "test.txt, line 2: song 002 is in valid already"),
        ("splits/mini_test.txt", "003", "001", "songs.tsv, line 2: song 001 is in 'train' here, in 'test' by"),
    ],
)
def test_broken_sources_are_named(pack, file, old, new, message):
    path = pack / file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_songs(pack)


@pytest.mark.parametrize("file", ["songs.tsv", "arrangements.tsv", "splits/mini_valid.txt"])
def test_missing_files_are_named(pack, file):
    (pack / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        read_songs(pack)


def test_second_run_keeps_files(pack, tmp_path):
    songs = read_songs(pack)
    paths = list(render_songs(songs, tmp_path / "out", arranged=True))
    assert [path.name for path in paths] == ["001.flac", "002.flac", "003.flac"]
    info = soundfile.info(paths[0])
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (RATE, 1, "PCM_16", 3 * RATE)
    audio, _ = soundfile.read(paths[1], dtype="float32")
    np.testing.assert_allclose(audio, render(songs[1].midi, programs=songs[1].programs), atol=2**-15)
    times = [path.stat().st_mtime_ns for path in paths[1:]]
    paths[0].unlink()
    assert list(render_songs(songs, tmp_path / "out", arranged=True)) == paths
    assert [path.stat().st_mtime_ns for path in paths[1:]] == times
    assert paths[0].exists()
    shutil.copy(songs[2].midi, songs[1].midi)  # a song that was replaced
    soundfile.write(paths[0], np.zeros(RATE), RATE)  # of version 0.1: without a record
    assert list(render_songs(songs, tmp_path / "out", arranged=True)) == paths
    audio, _ = soundfile.read(paths[1], dtype="float32")
    np.testing.assert_allclose(audio, render(songs[1].midi, programs=songs[1].programs), atol=2**-15)
    assert paths[1].stat().st_mtime_ns != times[0]
    assert paths[2].stat().st_mtime_ns == times[1]
    assert soundfile.info(paths[0]).frames == RATE
    with pytest.raises(ValueError, match="rendered with other settings"):
        list(render_songs(songs, tmp_path / "out", arranged=False))
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[3:] == ["rendering.json"]


def test_no_half_file_is_left(pack, tmp_path, monkeypatch):
    def break_off(file, audio):
        Path(file.name).write_bytes(b"fLaC")
        raise OSError("the disk is full")

    monkeypatch.setattr(pop909.soundfile.SoundFile, "write", break_off)
    with pytest.raises(OSError, match="the disk is full"):
        list(render_songs(read_songs(pack), tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rendering.json"]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_songs_that_cannot_be_rendered_do_not_stop_the_others(pack, tmp_path, num_workers):
    (pack / "midi/002.mid").unlink()
    (pack / "midi/003.mid").write_bytes(b"no MIDI")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/001.flac").write_bytes(b"fLaC")  # damaged; it is rendered again
    readers = song_readers(pack, tmp_path / "out", num_workers=num_workers)
    songs, problems = read_all(readers.items())
    assert [song.id for song in songs] == ["001"]
    assert [(problem.id, problem.kind) for problem in problems] == [("002", "missing"), ("003", "wrong")]
    assert "002.mid does not exist" in problems[0].reason
    assert "003.mid is not MIDI" in problems[1].reason
    with pytest.raises(ValueError, match=r"003.mid is not MIDI"):
        read_all(readers.items(), strict=True)


def test_malformed_key_signatures_are_wrong_midi(pack, tmp_path):
    content = (pack / "midi/002.mid").read_bytes()
    end = b"\x00\xff\x2f\x00"  # of the first track
    signature = b"\x00\xff\x59\x02\x10\x50"  # 16 sharps
    start = content.index(end)
    length = int.from_bytes(content[18:22], "big") + len(signature)
    changed = content[:18] + length.to_bytes(4, "big") + content[22:start] + signature + content[start:]
    (pack / "midi/002.mid").write_bytes(changed)
    songs, problems = read_all(song_readers(pack, tmp_path / "out").items())
    assert [song.id for song in songs] == ["001", "003"]
    assert [(problem.id, problem.kind) for problem in problems] == [("002", "wrong")]
    with pytest.raises(ValueError, match=r"002.mid is not a MIDI file \(Could not decode key"):
        SongAnnotation.load(pack / "midi/002.mid")


def test_recipe(pack, tmp_path, monkeypatch, capsys):
    prepare(
        monkeypatch, "pop909", "--source", pack, "--output_dir", tmp_path / "out", "--arranged", "--num_workers", "2"
    )
    assert "1 train, 1 valid, 1 test" in capsys.readouterr().out
    for split, number in (("train", 1), ("valid", 2), ("test", 3)):
        assert (tmp_path / f"out/{split}.txt").read_text() == f"audio/00{number}.flac\n"
        assert soundfile.info(tmp_path / f"out/audio/00{number}.flac").duration == 3
    info = json.loads((tmp_path / "out/info.json").read_text())
    assert info["ids"] == {"train": ["001"], "valid": ["002"], "test": ["003"]}
    assert info["rendering"]["part_decibels"] == {"MELODY": 1.0, "BRIDGE": -3.0, "PIANO": 0.0}
    assert info["hours"] == pytest.approx(9 / 3600, abs=1e-3)
    assert info["licence"].startswith("MIT")
    assert info["versions"].keys() == {"musicfm_hf", "mido", "tinysoundfont"}


def test_tempo_scales_all_times(tmp_path):
    path = write_midi(tmp_path / "a.mid", {"PIANO": [(4, 1, 60, 100)]}, tempos=((0, 120), (2, 60)))
    audio = render(path, tempo=1.25)  # two beats of 0.5 s and two of 1 s, then a note of 1 s, all 1.25 times faster
    assert len(audio) == round((4 / 1.25 + 1.5) * RATE)
    assert not audio[: round(3 / 1.25 * RATE)].any()
    assert np.abs(audio[round(3 / 1.25 * RATE) :][: RATE // 4]).max() > 0.01


def test_versions_differ_in_instruments_key_and_tempo(pack):
    songs = [dataclasses.replace(song, id=f"{number:03}") for number in range(100) for song in read_songs(pack)]
    programs = [[11, 40, 56, 73]] * 3
    drawn = [draw_version(song, 2, programs) for song in songs]
    assert drawn == [draw_version(song, 2, programs) for song in songs]
    assert {song.transposition for song in drawn} == {-5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6}
    assert 0.85 <= min(song.tempo for song in drawn) < 0.9 < 1.1 < max(song.tempo for song in drawn) <= 1.18
    for song, other in zip(songs, drawn, strict=True):
        third = draw_version(song, 3, programs)
        assert all(len({song.programs[n], other.programs[n], third.programs[n]}) == 3 for n in range(3))
        assert (other.transposition, other.tempo) != (third.transposition, third.tempo)
    assert draw_version(songs[0], 1, programs) == songs[0]


def test_labels_follow_their_version(pack, tmp_path):
    (pack / "arrangements.tsv").write_text(
        (pack / "arrangements.tsv").read_text().replace("001\t40\t11", "001\t41\t12")  # two instruments for each part
    )
    readers = song_readers(pack, tmp_path / "out", arranged=True, versions=2, num_workers=1)
    songs, problems = read_all(readers.items())
    assert problems == []
    assert [song.id for song in songs] == ["001", "001_v2", "002", "002_v2", "003", "003_v2"]
    first, second = songs[:2]
    assert first.group == second.group
    drawn = draw_version(read_songs(pack)[0], 2, [[40, 41], [11, 12], [1, 2, 3]])
    assert drawn.programs[:2] == (40, 11)
    assert second.transposition == drawn.transposition
    np.testing.assert_allclose(second.beats.times, first.beats.times / drawn.tempo)
    assert second.chords[1].start == pytest.approx(0.5 / drawn.tempo)
    assert second.keys[0].label == transpose_key("B:maj", drawn.transposition)
    assert first.more["phrases"] == [Segment(0.555, 1.5, "A")]
    assert second.more["phrases"] == [Segment(0.555 / drawn.tempo, 1.5 / drawn.tempo, "A")]
    assert first.tags is not None
    assert second.tags is None  # they name the instruments of the first version
    audio, _ = soundfile.read(tmp_path / "out/001_v2.flac", dtype="float32")
    expected = render(drawn.midi, None, drawn.programs, drawn.transposition, tempo=drawn.tempo)
    np.testing.assert_allclose(audio, expected, atol=2**-15)
    with pytest.raises(ValueError, match=r"they need `arranged`"):
        song_readers(pack, tmp_path / "out", versions=2)
    with pytest.raises(ValueError, match=r"`versions` must be 1 to 2"):
        song_readers(pack, tmp_path / "out", arranged=True, versions=3)


def test_recipe_on_a_part(pack, tmp_path, monkeypatch):
    arguments = ["pop909", "--source", pack, "--output_dir", tmp_path / "out", "--num_workers", "1"]
    prepare(monkeypatch, *arguments, "--split_size", "mini", "--limit", "1")
    assert (tmp_path / "out/train.txt").read_text() == ""
    assert (tmp_path / "out/valid.txt").read_text() == "audio/002.flac\n"
    assert not (tmp_path / "out/audio/001.flac").exists()


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        ("songs.tsv", [], r"\S+/songs.tsv does not exist: the source must be a folder that"),
        (None, ["--soundfont", "none.sf2"], "The soundfont none.sf2 does not exist"),
    ],
)
def test_recipe_explains_mistakes(pack, tmp_path, monkeypatch, file, arguments, message):
    if file:
        (pack / file).unlink()
    with pytest.raises(SystemExit, match=f"^Not prepared: {message}"):
        prepare(monkeypatch, "pop909", "--source", pack, "--output_dir", tmp_path / "out", *arguments)


def test_labels_are_read(pack, tmp_path):
    songs = read_songs(pack)
    list(render_songs(songs, tmp_path / "out"))
    song = read_song(pack, songs[1], tmp_path / "out")
    assert (song.id, song.split, song.group, song.transposition) == ("002", "validation", "木头人", 0)
    assert song.audio == tmp_path / "out/002.flac"
    assert song.beats.times.tolist() == [0.055, 0.555, 1.055]
    assert song.beats.positions.tolist() == [4, 1, 2]
    assert song.chords == [Segment(0, 0.5, "N"), Segment(0.5, 1, "Bb:min7/b3"), Segment(1, 1.5, "X")]
    assert song.keys == [Segment(0, 1.5, "B:maj")]
    assert song.sections == [Segment(0.555, 1.5, "verse")]
    assert song.more["sections_2"] == [Segment(0.555, 1.055, "chorus"), Segment(1.055, 1.5, "outro")]
    assert song.tags == ["violin", "vibraphone", "piano", "major", "fast"]
    assert read_song(pack, songs[1], tmp_path / "out", with_tags=False).tags is None


def test_transposed_labels(pack, tmp_path):
    readers = song_readers(pack, tmp_path / "out", num_workers=1, transpositions=(-3, 2))
    assert list(readers) == ["001", "001_t-3", "001_t+2", "002", "003"]  # training songs only
    song = readers["001_t+2"]()
    assert (song.id, song.transposition, song.audio.name) == ("001_t+2", 2, "001_t+2.flac")
    assert [chord.label for chord in song.chords] == ["N", "C:min7/b3", "X"]
    assert [key.label for key in song.keys] == ["C#:maj"]
    assert song.sections == [Segment(0.555, 1.5, "verse")]
    assert song.group == readers["001"]().group


@pytest.mark.parametrize(
    ("label", "semitones", "expected"),
    [
        ("B:maj", 1, "C:maj"),
        ("C", -1, "B"),
        ("Gb:min7/b3", 12, "F#:min7/b3"),
        ("C#:(1,b3,5)", 2, "Eb:(1,b3,5)"),
        ("Abb/5", 1, "Ab/5"),
        ("X", 5, "X"),
    ],
)
def test_chords_are_transposed(label, semitones, expected):
    assert transpose_chord(label, semitones) == expected


def test_keys_are_transposed():
    assert transpose_key("C:min", -1) == "B:min"
    assert transpose_key("N", 3) == "N"
    with pytest.raises(ValueError, match="'H' is not a pitch"):
        transpose_chord("H:maj", 1)


def test_transposed_audio(pack, tmp_path):
    songs = read_songs(pack)[:1]
    paths = list(render_songs(songs, tmp_path, transpositions=(0, -12)))
    assert [path.name for path in paths] == ["001.flac", "001_t-12.flac"]
    for path, semitones in zip(paths, (0, -12), strict=True):
        audio, _ = soundfile.read(path, dtype="float32")
        np.testing.assert_allclose(audio, render(songs[0].midi, transpose=semitones), atol=2**-15)


def test_recipe_makes_a_labeled_data_set(pack, tmp_path, monkeypatch, capsys):
    arguments = ["pop909", "--source", pack, "--output_dir", tmp_path / "out", "--arranged", "--num_workers", "1"]
    prepare(monkeypatch, *arguments)
    lists = {name: (tmp_path / f"out/{name}.txt").read_bytes() for name in ("train", "valid", "test")}
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/audio").iterdir()}
    assert [song.id for song in load_songs(tmp_path / "out", "train")] == ["001"]
    prepare(monkeypatch, *arguments, "--transpositions", "-3", "2", "0")
    songs = load_songs(tmp_path / "out", "train")
    assert [(song.id, song.transposition) for song in songs] == [("001", 0), ("001_t-3", -3), ("001_t+2", 2)]
    assert [song.keys[0].label for song in songs] == ["B:maj", "Ab:maj", "C#:maj"]
    assert [song.duration for song in songs] == [3, 3, 3]
    # Pretraining's lists do not change, and nothing is rendered again.
    assert lists == {name: (tmp_path / f"out/{name}.txt").read_bytes() for name in lists}
    assert {name: (tmp_path / "out/audio" / name).stat().st_mtime_ns for name in times} == times
    assert (tmp_path / "out/problems.tsv").read_text() == ""
    info = json.loads((tmp_path / "out/info.json").read_text())
    assert info["counts"] == {"train": 1, "valid": 1, "test": 1, "left out": 0}
    assert info["rows"] == {"train": 3, "validation": 1, "test": 1}
    (pack / "chords/003.lab").write_text("0\t1\tC:maj\n0.5\t1.5\tN\n")
    with pytest.raises(SystemExit, match=r"^Not prepared: .*003.lab, line 2: segments must not overlap"):
        prepare(monkeypatch, *arguments, "--strict")
    (pack / "chords/003.lab").unlink()
    capsys.readouterr()
    prepare(monkeypatch, *arguments)
    assert "1 left out" in capsys.readouterr().out
    assert "003.lab" in (tmp_path / "out/problems.tsv").read_text()


@pytest.mark.slow
@pytest.mark.skipif("MUSICFM_POP909" not in os.environ, reason="MUSICFM_POP909 names no folder of POP909")
def test_all_labels_of_pop909(tmp_path):
    source = Path(os.environ["MUSICFM_POP909"])
    for song in read_songs(source):
        labeled = read_song(source, song, tmp_path)
        # The audio ends 1.5 s after the last note-off.
        check_song(dataclasses.replace(labeled, duration=song.seconds + 1.5))
        assert len(labeled.tags) >= 4
        assert labeled.beats.positions.max() == 4
        if song.split == "train":
            higher = read_song(source, song, tmp_path, transposition=5)
            pairs = zip(labeled.chords, higher.chords, strict=True)
            assert all(transpose_chord(new.label, -5) == old.label for old, new in pairs)
