"""Click tracks, and tempo and key in the tags of audio files."""

import io
import os

import mutagen
import numpy as np
import pytest
import soundfile
from helpers.audio import encode, encode_with_ffmpeg, music
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, COMM, ID3, TBPM, TIT2, TPE1, TXXX, TYER
from mutagen.mp4 import MP4
from mutagen.wave import WAVE

from musicfm_hf import Beats, Segment, SongAnnotation, load_audio
from musicfm_hf.inference.audio_tags import write_audio_tags
from musicfm_hf.inference.clicks import click_track

RATE = 44100
BEATS = Beats(np.array([0.5, 1.0, 1.5]), np.array([1, 2, 1]))
SONG = SongAnnotation(2.0, BEATS, keys=[Segment(0.0, 2.0, "F#:min")], key="F#:min")


# Click tracks


def pitch(audio, start):
    """The frequency of the loudest partial in 40 ms, to 25 Hz."""
    part = audio[round(start * RATE) :][: round(0.04 * RATE)]
    return np.fft.rfftfreq(len(part), 1 / RATE)[np.abs(np.fft.rfft(part)).argmax()]


def test_clicks_alone(tmp_path):
    SONG.write_clicks(tmp_path / "clicks.wav")
    clicks, rate = soundfile.read(tmp_path / "clicks.wav")
    assert (rate, len(clicks)) == (44100, 88200)
    loud = np.flatnonzero(np.abs(clicks) > 0.01)
    onsets = loud[np.diff(loud, prepend=-RATE) > 0.1 * RATE]
    np.testing.assert_allclose(onsets / RATE, BEATS.times, rtol=0, atol=2e-4)
    assert [pitch(clicks, time) for time in BEATS.times] == pytest.approx([1600, 1000, 1600], abs=25)
    assert 0.3 < np.abs(clicks).max() <= 0.6
    assert not clicks[: RATE // 2].any()


def test_clicks_under_a_name_that_is_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.click.wav")
    SONG.write_clicks(path)
    assert soundfile.info(path.open("rb")).frames == 88200


def test_clicks_over_the_song(tmp_path):
    song = music(2.0, RATE) / np.abs(music(2.0, RATE)).max()
    SONG.write_clicks(tmp_path / "mix.wav", song.astype(np.float32), RATE)
    mix, _ = soundfile.read(tmp_path / "mix.wav")
    np.testing.assert_allclose(mix - click_track(BEATS, 2 * RATE, RATE), 0.5 * song, rtol=0, atol=1e-4)
    quiet = np.full(2 * RATE, 0.01, np.float32)  # is not made louder
    SONG.write_clicks(tmp_path / "mix.wav", quiet, RATE)
    assert soundfile.read(tmp_path / "mix.wav")[0][0] == pytest.approx(0.01, abs=1e-4)


def test_clicks_at_the_end_and_without_beats(tmp_path):
    late = Beats(np.array([1.99, 2.0, 2.01]), np.array([1, 2, 3]))
    assert len(click_track(late, 2 * RATE, RATE)) == 2 * RATE
    SongAnnotation(1.0, Beats(np.empty(0), np.empty(0, int))).write_clicks(tmp_path / "none.wav")
    assert not soundfile.read(tmp_path / "none.wav")[0].any()
    with pytest.raises(ValueError, match="needs beats: annotate the song with a model for the task beat"):
        SongAnnotation(1.0).write_clicks(tmp_path / "none.wav")


# Tags


def audio_file(folder, name):
    """A second of music in the format of a name."""
    path = folder / name
    ending = path.suffix[1:]
    if ending == "m4a":
        path.write_bytes(encode_with_ffmpeg(music(1.0, RATE), RATE, "ipod", "aac"))
    else:
        settings = {"mp3": "MP3", "flac": "FLAC", "ogg": "OGG", "opus": "OGG", "wav": "WAV", "aiff": "AIFF"}
        rate = 48000 if ending == "opus" else RATE
        subtypes = {"opus": "OPUS", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
        path.write_bytes(encode(music(1.0, rate), rate, settings[ending], subtypes.get(ending)))
    return path


def tags_of(path):
    """Tempo and key as mutagen reads them."""
    tags = mutagen.File(path).tags
    if path.suffix in (".mp3", ".wav", ".aiff"):
        return [str(tags[name]) for name in ("TBPM", "TKEY")]
    if path.suffix == ".m4a":
        return [str(tags["tmpo"][0]), bytes(tags["----:com.apple.iTunes:initialkey"][0]).decode()]
    return [tags["BPM"][0], tags["INITIALKEY"][0]]


@pytest.mark.parametrize("ending", ["mp3", "flac", "ogg", "opus", "m4a", "wav", "aiff"])
def test_every_kind_of_file(tmp_path, ending):
    path = audio_file(tmp_path, f"song.{ending}")
    os.chmod(path, 0o640)
    before = load_audio(path, RATE)
    assert SONG.write_tags(path) == ["120", "F#m"]  # beats are half a second apart
    assert tags_of(path) == ["120", "F#m"]
    assert write_audio_tags(path, 97.6, "Eb:maj") == ["98", "Eb"]
    assert tags_of(path) == ["98", "Eb"]
    np.testing.assert_array_equal(load_audio(path, RATE), before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("version", [3, 4])
def test_other_frames_of_id3_stay(tmp_path, version):
    path = audio_file(tmp_path, "song.mp3")
    tags = ID3()
    for frame in (
        TIT2(encoding=1, text=["Ein schöner Titel"]),
        TPE1(encoding=0, text=["A", "B"]),
        TYER(encoding=0, text=["1999"]),
        COMM(encoding=1, lang="eng", desc="note", text=["a comment"]),
        TXXX(encoding=0, desc="SERATO", text=["x"]),
        APIC(encoding=0, mime="image/png", type=3, desc="cover", data=b"\x89PNG" * 100),
        TBPM(encoding=0, text=["90"]),
    ):
        tags.add(frame)
    tags.save(path, v2_version=version, v23_sep=None)
    id3v1 = b"TAG" + b"Old title".ljust(30, b"\0") + b"Old artist".ljust(30, b"\0") + bytes(64) + b"\x0c"
    with path.open("ab") as file:
        file.write(id3v1)
    as_stored = {"translate": False, "load_v1": False}
    before = ID3(path, **as_stored)
    assert len(before) == 7
    SONG.write_tags(path)
    after = ID3(path, **as_stored)
    assert after.version == (2, version, 0)
    assert str(after.pop("TBPM")) == "120"
    assert str(after.pop("TKEY")) == "F#m"
    before.pop("TBPM")
    assert after == before
    assert [after[name].encoding for name in sorted(after)] == [before[name].encoding for name in sorted(before)]
    assert path.read_bytes().endswith(id3v1)


def test_new_tags_are_of_version_2_3(tmp_path):
    path = audio_file(tmp_path, "song.mp3")
    SONG.write_tags(path)
    assert ID3(path, translate=False).version == (2, 3, 0)
    path = audio_file(tmp_path, "song.wav")
    before = soundfile.read(path, dtype="int16")[0]
    SONG.write_tags(path)
    assert WAVE(path, translate=False).tags.version == (2, 3, 0)
    np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], before)


def test_other_blocks_of_flac_and_atoms_of_mp4_stay(tmp_path):
    path = audio_file(tmp_path, "song.flac")
    flac = FLAC(path)
    flac["title"], flac["bpm"] = ["One", "Two"], ["1"]
    picture = Picture()
    picture.data, picture.mime = b"\x89PNG" * 100, "image/png"
    flac.add_picture(picture)
    flac.save()
    SONG.write_tags(path)
    flac = FLAC(path)
    assert {name.lower(): value for name, value in flac.tags.as_dict().items()} == {
        "title": ["One", "Two"],
        "bpm": ["120"],
        "initialkey": ["F#m"],
    }
    assert flac.pictures == [picture]
    path = audio_file(tmp_path, "song.m4a")
    file = MP4(path)
    file["\xa9nam"], file["trkn"] = ["One"], [(1, 9)]
    file.save()
    SONG.write_tags(path)
    file = MP4(path)
    assert (file["\xa9nam"], file["trkn"], file["tmpo"]) == (["One"], [(1, 9)], [120])


def test_what_is_not_known_stays(tmp_path):
    path = audio_file(tmp_path, "song.flac")
    SONG.write_tags(path)
    content = path.read_bytes()
    assert SongAnnotation(2.0, key="N").write_tags(path) == []
    assert path.read_bytes() == content
    assert write_audio_tags(path, None, "C:maj") == ["C"]
    assert tags_of(path) == ["120", "C"]


def test_links_are_followed(tmp_path):
    path = audio_file(tmp_path, "song.flac")
    (tmp_path / "link.flac").symlink_to(path)
    SONG.write_tags(tmp_path / "link.flac")
    assert (tmp_path / "link.flac").is_symlink()
    assert tags_of(path) == ["120", "F#m"]


def test_files_that_cannot_be_tagged(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"song.mp3 does not exist"):
        SONG.write_tags(tmp_path / "song.mp3")
    (tmp_path / "song.wma").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"tags can be written into mp3, flac, .* files, not into wma"):
        SONG.write_tags(tmp_path / "song.wma")
    for ending in ("flac", "m4a", "wav"):
        path = tmp_path / f"broken.{ending}"
        path.write_bytes(b"no music" * 100)
        with pytest.raises(ValueError, match=rf"/broken.{ending}: its tags cannot be written \((?!.*part)"):
            SONG.write_tags(path)
        assert path.read_bytes() == b"no music" * 100
    old = audio_file(tmp_path, "old.mp3")
    old.write_bytes(b"ID3\x02\x00\x00\x00\x00\x00\x0cTT2\x00\x00\x06\x00Title" + old.read_bytes())
    content = old.read_bytes()
    with pytest.raises(ValueError, match=r"/old.mp3: its tags cannot be written \(they are in ID3v2.2"):
        SONG.write_tags(old)
    assert old.read_bytes() == content
    monkeypatch.setitem(__import__("sys").modules, "mutagen", None)
    with pytest.raises(ImportError, match=r"needs mutagen: `pip install 'musicfm_hf\[files\]'`"):
        SONG.write_tags(audio_file(tmp_path, "song.flac"))


def streamed(wav: bytes) -> bytes:
    """A wav file with the sizes that ffmpeg writes to a pipe."""
    data = wav.index(b"data") + 4
    return wav[:4] + b"\xff" * 4 + wav[8:data] + b"\xff" * 4 + wav[data + 4 :]


AUDIO = music(1.0, RATE)
WAV, AIFF = encode(AUDIO, RATE, "WAV"), encode(AUDIO, RATE, "AIFF")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m4a.mp3", lambda: encode_with_ffmpeg(AUDIO, RATE, "mp4", "aac")),
        ("wav.mp3", lambda: WAV),
        ("flac.mp3", lambda: encode(AUDIO, RATE, "FLAC")),
        ("streamed.wav", lambda: streamed(WAV)),
        ("truncated.wav", lambda: WAV[:30_000]),
        ("truncated.aiff", lambda: AIFF[: 2 * len(AIFF) // 3]),
        ("joined.wav", lambda: WAV + WAV),
        ("joined.aiff", lambda: AIFF + AIFF),
    ],
)
def test_tags_that_would_change_the_audio_are_not_written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"/{name}: its tags cannot be written \((?!.*part)"):
        SONG.write_tags(path)
    assert path.read_bytes() == before


def test_an_interrupted_write_leaves_the_file(tmp_path, monkeypatch):
    path = audio_file(tmp_path, "song.flac")
    content = path.read_bytes()

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(FLAC, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        SONG.write_tags(path)
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["song.flac"]


def test_bytes_after_the_tags_are_the_audio(tmp_path):
    """The mp3 frames themselves are not touched."""
    path = audio_file(tmp_path, "song.mp3")
    frames = path.read_bytes()
    SONG.write_tags(path)
    assert path.read_bytes().endswith(frames)
    assert io.BytesIO(path.read_bytes()).read(3) == b"ID3"
