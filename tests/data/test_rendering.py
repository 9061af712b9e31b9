import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile
from helpers.pop909 import write_pack
from helpers.recipes import prepare
from helpers.scores import make_score

from musicfm_hf.data.labeled_dataset import load_songs, split_names
from musicfm_hf.data.readers.rendered import read_rendered, song_readers
from musicfm_hf.data.rendering import (
    LEAD_SECONDS,
    TAIL_SECONDS,
    Settings,
    Version,
    check_settings,
    draw_version,
    mix_parts,
    render_versions,
    version_tags,
)
from musicfm_hf.symbolic import fluidsynth as fluidsynth
from musicfm_hf.symbolic.fluidsynth import Room, check_soundfont, synthesize_parts, write_parts
from musicfm_hf.symbolic.midi_parts import read_parts
from musicfm_hf.symbolic.midi_synthesis import default_soundfont
from musicfm_hf.symbolic.score import Part, ScoreControl, ScoreNote
from musicfm_hf.tasks.annotations import Segment

RATE = 24000
DRY = Room(reverb=0.0)

needs_fluidsynth = pytest.mark.skipif(
    shutil.which("fluidsynth") is None, reason="the program fluidsynth is not installed (apt-get install fluidsynth)"
)


def settings(**values):
    """Return settings whose soundfont for tests is not read."""
    return Settings((default_soundfont(),), (Path("other.sf2"),), **values)


def version(split="train", number=1):
    return Version("song", number, make_score, split)


def rms(audio):
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


def test_midi_files_have_parts_one_after_another(tmp_path):
    piano = Part(
        "PIANO",
        4,
        (ScoreNote(0.0, 1.0, 60, 90), ScoreNote(0.5, 2.0, 60, 80)),
        controls=(ScoreControl(0.25, 64, 127),),
    )
    drums = Part("DRUMS", 8, (ScoreNote(0.5, 0.6, 38, 100),), is_drums=True)
    write_parts(tmp_path / "a.mid", [piano, drums], 5.0)
    first, second = read_parts(tmp_path / "a.mid")
    # The first note ends where the next one of its pitch begins.
    assert first.notes == (ScoreNote(0.0, 0.5, 60, 90), ScoreNote(0.5, 2.0, 60, 80))
    assert first.controls == (ScoreControl(0.0, 64, 0), ScoreControl(0.25, 64, 127))
    assert (first.program, first.is_drums) == (4, False)
    assert second.notes == (ScoreNote(5.5, 5.6, 38, 100),)
    assert (second.program, second.is_drums) == (8, True)
    messages = list(mido.MidiFile(tmp_path / "a.mid").tracks[0])
    assert messages[-2].control == 120  # all sound off


def test_parts_are_read_from_midi(tmp_path):
    midi = mido.MidiFile(type=1, ticks_per_beat=100)
    midi.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=1000000)]))
    track = mido.MidiTrack([mido.MetaMessage("track_name", name="MELODY")])
    for kind, time, values in (
        ("program_change", 0, {"program": 40}),
        ("note_on", 100, {"note": 60, "velocity": 90}),
        ("control_change", 0, {"control": 7, "value": 3}),
        ("control_change", 0, {"control": 11, "value": 3}),
        ("note_on", 50, {"note": 60, "velocity": 50}),
        ("note_on", 50, {"note": 60, "velocity": 0}),
        ("note_on", 100, {"note": 62, "velocity": 50}),
        ("program_change", 100, {"program": 41}),
    ):
        track.append(mido.Message(kind, time=time, **values))
    midi.tracks.append(track)
    midi.save(tmp_path / "a.mid")
    (part,) = read_parts(tmp_path / "a.mid")
    assert (part.name, part.program) == ("MELODY", 40)
    assert part.notes == (ScoreNote(1.0, 1.5, 60, 90), ScoreNote(1.5, 2.0, 60, 50), ScoreNote(3.0, 4.0, 62, 50))
    assert part.controls == (ScoreControl(1.0, 11, 3),)
    midi.tracks.pop()
    midi.save(tmp_path / "b.mid")
    with pytest.raises(ValueError, match=r"b.mid has no notes"):
        read_parts(tmp_path / "b.mid")


def test_parts_are_mixed_at_their_levels():
    time = np.arange(RATE) / RATE
    stems = [np.sin(2 * np.pi * 440 * time), 0.01 * np.sin(2 * np.pi * 600 * time), np.zeros(RATE)]
    parts = [Part("A", 0, (), decibels=0.0), Part("B", 0, (), decibels=-6.0), Part("C", 0, ())]
    mix, sounds = mix_parts([stem.astype(np.float32) for stem in stems], parts, RATE)
    assert sounds == [True, True, False]
    assert rms(mix) == pytest.approx(0.08, rel=1e-3)
    spectrum = np.abs(np.fft.rfft(mix))
    assert 20 * np.log10(spectrum[600] / spectrum[440]) == pytest.approx(-6.0, abs=0.01)
    with pytest.raises(ValueError, match="The rendering is silent"):
        mix_parts([np.zeros(RATE, np.float32)], parts[:1], RATE)


def test_tags_are_those_that_are_true():
    score = make_score()  # 32.25 s; 5 % are 1.61 s
    parts = [
        Part("A", 24, (ScoreNote(0, 1, 60, 9), ScoreNote(2, 2.7, 60, 9))),  # 1.7 s
        Part("B", 40, (ScoreNote(0, 1.5, 60, 9),)),
        Part("C", 0, (ScoreNote(0, 1.0, 60, 9),)),
        Part("D", 1, (ScoreNote(5, 6.0, 60, 9),)),  # also a piano
        Part("E", 88, (ScoreNote(5, 16.0, 60, 9),)),
        Part("F", 0, (ScoreNote(5, 16.0, 60, 9),), is_drums=True),
    ]
    assert version_tags(score, parts) == ["acoustic_guitar", "piano", "major", "fast"]
    slow = replace(score.mapped(lambda time: 2 * time), keys=[Segment(0.0, 60.0, "A:min")], tags=("major", "3/4"))
    assert version_tags(slow, []) == ["minor", "slow", "3/4"]


def test_training_songs_vary_and_test_songs_do_not():
    whole, labeled, details, _ = draw_version(version("test"), settings(seconds=10.0))
    assert details["variation"] == {"semitones": 0, "tempo": 1.0, "rubato": 0.0}
    assert (details["start"], details["lead"], details["tail"]) == (0.0, 0.0, TAIL_SECONDS)
    assert labeled.beats.times.tolist() == make_score().beats.times.tolist()
    assert whole.parts == labeled.parts
    played, labeled, details, _ = draw_version(version(), settings(seconds=10.0))
    assert labeled.duration == pytest.approx(10.0)
    assert 0 < details["lead"] <= LEAD_SECONDS
    assert details["tail"] == 0.0
    assert played.duration == pytest.approx(10.0 + details["lead"])
    np.testing.assert_allclose(played.beats.times[-len(labeled.beats.times) :] - details["lead"], labeled.beats.times)
    again = draw_version(version(), settings(seconds=10.0))
    assert again[0].parts == played.parts
    assert again[2] == details
    for other in (draw_version(version(number=2), settings(seconds=10.0)), draw_version(version(), settings(seed=1))):
        assert other[0].parts != played.parts
        assert other[2]["variation"] != details["variation"]
    _, labeled, details, _ = draw_version(version(), settings(tempi=(2.0, 2.0)))
    assert details["variation"]["tempo"] == 2.0
    assert labeled.duration == pytest.approx(make_score().duration / 2, rel=0.05)  # with rubato
    _, _, details, _ = draw_version(version("test"), settings(tempi=(2.0, 2.0)))
    assert details["variation"]["tempo"] == 1.0


def test_mistakes_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"TimGM6mb.sf2 does not exist: `apt-get install timgm6mb-soundfont`"):
        check_soundfont(tmp_path / "TimGM6mb.sf2")
    with pytest.raises(FileNotFoundError, match=r"x.sf2 does not exist: Debian has timgm6mb-soundfont \(/usr/share"):
        check_soundfont(tmp_path / "x.sf2")
    (tmp_path / "x.sf2").write_text("no soundfont")
    with pytest.raises(ValueError, match="is not a soundfont"):
        check_soundfont(tmp_path / "x.sf2")
    monkeypatch.setattr(fluidsynth.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="`apt-get install fluidsynth`"):
        check_settings(settings())
    for values, message in (
        ({"seconds": 0.5}, "`seconds` must be at least 1"),
        ({"drums": 1.5}, "`drums` must be a probability from 0 to 1, got 1.5"),
        ({"tempi": (1.6, 0.8)}, "two factors from 0.25 to 4, the lower first, got 1.6 and 0.8"),
        ({"tempi": (0.8, 5.0)}, "two factors from 0.25 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            check_settings(settings(**values))
    with pytest.raises(ValueError, match="must each name at least one file"):
        check_settings(Settings((), ()))
    with pytest.raises(ValueError, match="`reverb` must be from 0 to 1, got 2"):
        Room(reverb=2.0)
    with pytest.raises(ValueError, match="`versions` must be at least 1 and `test_versions` at least 0, got 0 and 1"):
        song_readers("pack", tmp_path, versions=0)


@needs_fluidsynth
def test_a_soundfont_of_training_is_not_used_for_tests(tmp_path):
    link = tmp_path / "other.sf2"
    link.symlink_to(default_soundfont())
    with pytest.raises(ValueError, match="among `soundfonts` and `test_soundfonts`"):
        check_settings(Settings((default_soundfont(),), (link,)))


@needs_fluidsynth
def test_notes_start_on_time_and_parts_do_not_mix():
    times = 0.25 + 0.2503 * np.arange(10)
    clicks = Part("DRUMS", 0, tuple(ScoreNote(time, time + 0.1, 37, 110) for time in times), is_drums=True)
    organ = Part("MELODY", 16, (ScoreNote(0.0, 3.0, 69, 100),))
    first, second = synthesize_parts([organ, clicks], 3.0, default_soundfont(), DRY, RATE)
    assert first.shape == second.shape == (3 * RATE,)
    assert first.dtype == np.float32
    delays = []
    for time in times:
        piece = np.abs(second[round((time - 0.02) * RATE) : round((time + 0.08) * RATE)])
        delays.append(np.argmax(piece > 0.1 * piece.max()) / RATE - 0.02)
    assert np.abs(delays).max() < 0.003
    assert abs(np.mean(delays)) < 0.001
    assert not second[: round(0.24 * RATE)].any()  # the organ has ended
    spectrum = np.abs(np.fft.rfft(first[RATE : 2 * RATE] * np.hanning(RATE)))
    assert spectrum[435:446].max() > 5 * spectrum[395:430].max()


@needs_fluidsynth
def test_pedal_tuning_and_reverb_are_heard():
    def tone(program, end, room=DRY, controls=(), pitch=69):
        part = Part("PIANO", program, (ScoreNote(0.0, end, pitch, 100),), controls=controls)
        (audio,) = synthesize_parts([part], 2.0, default_soundfont(), room, RATE)
        return audio

    late = slice(RATE, round(1.2 * RATE))
    held, short = tone(0, 0.3, controls=(ScoreControl(0.0, 64, 127),)), tone(0, 0.3)
    assert rms(held[late]) > 100 * rms(short[late])
    sends = (ScoreControl(0.0, 91, 127),)
    wet = tone(0, 0.3, Room(reverb=0.9, room_size=0.8), sends)
    assert rms(wet[late]) > 100 * rms(short[late])

    def frequency(audio):
        spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 16 * len(audio)))
        low, high = (round(hertz * 16 * len(audio) / RATE) for hertz in (420, 460))
        return (low + spectrum[low:high].argmax()) * RATE / (16 * len(audio))

    cents = 1200 * np.log2(frequency(tone(73, 2.0, Room(0.0, tuning=30.0))) / frequency(tone(73, 2.0)))
    assert cents == pytest.approx(30.0, abs=2.0)


@needs_fluidsynth
def test_fluidsynth_failures_are_errors(tmp_path):
    broken = tmp_path / "broken.sf2"
    broken.write_bytes(default_soundfont().read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"FluidSynth failed with \S+broken.sf2"):
        list(synthesize_parts(make_score().parts, 1.0, broken, DRY, RATE))


@needs_fluidsynth
def test_versions_are_rendered_once(tmp_path):
    copy = tmp_path / "other.sf2"
    shutil.copy(default_soundfont(), copy)
    values = Settings((default_soundfont(),), (copy,), seconds=3.0)
    jobs = [replace(version(), load=partial(make_score, bars=4)), version("test", 2)]
    jobs[1] = replace(jobs[1], load=partial(make_score, bars=4))
    assert [error for _, error in render_versions(jobs, tmp_path / "out", values)] == [None, None]
    first = read_rendered(tmp_path / "out/song_v1.flac")
    second = read_rendered(tmp_path / "out/song_v2.flac")
    assert (first.split, second.split, first.group, second.group) == ("train", "test", "song", "song")
    assert soundfile.info(first.audio).duration == pytest.approx(3.0)
    assert soundfile.info(first.audio).samplerate == RATE
    assert soundfile.info(second.audio).duration == pytest.approx(make_score(bars=4).duration + TAIL_SECONDS, abs=0.2)
    np.testing.assert_allclose(second.beats.times, make_score(bars=4).beats.times, atol=1e-6)
    assert second.chords == [
        chord._replace(start=pytest.approx(chord.start), end=pytest.approx(chord.end))
        for chord in make_score(bars=4).chords
    ]
    audio, _ = soundfile.read(second.audio)
    assert rms(audio) == pytest.approx(0.08, rel=0.01)
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted((tmp_path / "out").iterdir())]
    list(render_versions(jobs, tmp_path / "out", values))
    assert before == [(path.name, path.stat().st_mtime_ns) for path in sorted((tmp_path / "out").iterdir())]
    list(render_versions([replace(jobs[0], made_from="other notes")], tmp_path / "out", values))
    assert dict(before)["song_v1.flac"] != (tmp_path / "out/song_v1.flac").stat().st_mtime_ns
    with pytest.raises(ValueError, match="has songs rendered with other settings"):
        list(render_versions(jobs, tmp_path / "out", replace(values, drums=0.2)))


@needs_fluidsynth
def test_a_version_that_cannot_be_rendered_does_not_stop_the_others(tmp_path):
    def malformed():
        score = make_score(bars=4)
        return replace(score, chords=[chord._replace(label="C:majj") for chord in score.chords])

    jobs = [Version("wrong", 1, malformed, "train"), replace(version(), load=partial(make_score, bars=4))]
    copy = tmp_path / "other.sf2"
    shutil.copy(default_soundfont(), copy)
    values = Settings((default_soundfont(),), (copy,), seconds=3.0)
    (_, error), (_, none) = render_versions(jobs, tmp_path / "out", values)
    assert "majj" in str(error)
    assert none is None
    assert [path.name for path in sorted((tmp_path / "out").glob("*.flac"))] == ["song_v1.flac"]


@needs_fluidsynth
def test_the_command_prepares_rendered_songs(tmp_path, monkeypatch):
    pack = write_pack(tmp_path / "pack")
    (pack / "chords/003.lab").write_text("0.000\t0.500\tN\n0.500\tend\tC:maj\n")
    copy = tmp_path / "other.sf2"
    shutil.copy(default_soundfont(), copy)
    fonts = ["--soundfonts", default_soundfont(), "--test_soundfonts", copy]
    arguments = ["rendered", "--source", pack, "--output_dir", tmp_path / "out", *fonts]
    prepare(monkeypatch, *arguments, "--versions", 2, "--num_workers", 1, "--seed", 3)
    assert (tmp_path / "out/train.txt").read_text() == "audio/001_v1.flac\naudio/001_v2.flac\n"
    assert (tmp_path / "out/valid.txt").read_text() == "audio/002_v1.flac\n"
    assert "003_v1\t" in (tmp_path / "out/problems.tsv").read_text()  # its chords are malformed
    (song,) = load_songs(tmp_path / "out", "validation")
    assert (song.id, song.group) == ("002_v1", "002")
    assert song.beats.times.tolist() == [0.055, 0.555, 1.055]
    assert [chord.label for chord in song.chords] == ["N", "Bb:min7/b3", "X"]
    assert [key.label for key in song.keys] == ["B:maj"]
    assert [section.label for section in song.sections] == ["verse"]
    assert song.tags[-2:] == ["major", "fast"]
    info = json.loads((tmp_path / "out/info.json").read_text())
    assert info["rendering"]["seed"] == 3
    assert info["rendering"]["test_soundfonts"][0]["name"] == "other.sf2"
    assert info["versions_of_songs"] == {"train": 2, "validation": 1, "test": 1}
    stored = json.loads((tmp_path / "out/audio/rendering.json").read_text())
    assert stored == info["rendering"]
    arguments[arguments.index(tmp_path / "out")] = tmp_path / "training"
    prepare(monkeypatch, *arguments, "--versions", 1, "--test_versions", 0, "--num_workers", 1, "--tempi", 2, 2)
    assert split_names(tmp_path / "training") == ["train"]
    (song,) = load_songs(tmp_path / "training", "train")
    assert np.diff(song.beats.times).mean() == pytest.approx(0.25, rel=0.05)  # instead of 0.5, with rubato
    assert json.loads((tmp_path / "training/info.json").read_text())["rendering"]["tempi"] == [2.0, 2.0]


@needs_fluidsynth
def test_a_held_out_soundfont_sounds_different():
    other = Path(fluidsynth.PACKAGES["fluid-soundfont-gm"])
    if not other.is_file():
        pytest.skip("its soundfont is not installed (apt-get install fluid-soundfont-gm)")
    part = Part("PIANO", 0, tuple(ScoreNote(k / 2, k / 2 + 0.5, 60 + k, 90) for k in range(8)))
    sounds = []
    for font in (default_soundfont(), other):
        (audio,) = synthesize_parts([part], 4.0, font, DRY, RATE)
        sounds.append(np.log(np.abs(np.fft.rfft(audio.reshape(8, -1) * np.hanning(len(audio) // 8))) + 1e-3).ravel())
    assert np.corrcoef(sounds)[0, 1] < 0.8
