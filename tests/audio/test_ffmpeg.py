"""Formats that only FFmpeg reads, through PyAV."""

import builtins
import io
import warnings
from functools import cache

import numpy as np
import pytest
from helpers.audio import encode_with_ffmpeg, music
from hypothesis import given, settings
from hypothesis import strategies as st

from musicfm_hf import embed, load_audio
from musicfm_hf.audio.reading import audio_length
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.data.decoding import SongLoader

av = pytest.importorskip("av")

RATE = 24000
SECONDS = 12.0
FORMATS = {  # name: (container, codec, rate, whether the first sample is that of the original)
    "song.m4a": ("ipod", "aac", 44100, True),
    "video.mp4": ("mp4", "aac", 44100, True),
    "lossless.m4a": ("ipod", "alac", 44100, True),
    "opus.mp4": ("mp4", "libopus", 48000, True),
    "song.webm": ("webm", "libopus", 48000, True),
    "song.mka": ("matroska", "aac", 44100, True),
    "video.mkv": ("matroska", "libmp3lame", 44100, True),
    "flac.mkv": ("matroska", "flac", 44100, True),
    "vorbis.webm": ("webm", "vorbis", 44100, True),
    "pcm.mov": ("mov", "pcm_s16le", 44100, True),
    "song.aac": ("adts", "aac", 44100, False),
    "song.wma": ("asf", "wmav2", 44100, False),
}


@cache
def encoded(name: str) -> bytes:
    container, codec, rate, _ = FORMATS[name]
    return encode_with_ffmpeg(music(SECONDS, rate), rate, container, codec, name.startswith("video"))


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_and_crops(name):
    _, _, rate, is_aligned = FORMATS[name]
    content = encoded(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = load_audio(content, rate)
        assert audio_length(content) == (len(whole), rate)
        for start in (0.0, 1.2345, 5.0, 7.77, 11.0):
            crop = load_audio(content, rate, start=start, duration=0.7)
            np.testing.assert_allclose(crop, whole[round(start * rate) :][: len(crop)], rtol=0, atol=1e-6)
        (song,) = SongLoader([(name, content)], RATE)
    assert song.problem is None
    assert len(whole) / rate == pytest.approx(SECONDS, abs=0 if name.endswith(("m4a", "mp4")) else 0.1)
    original = music(SECONDS, rate)
    lags = range(-3000, 3000)
    part = original[20000:21000]
    errors = [np.abs(whole[20000 + lag : 21000 + lag] - part).mean() for lag in lags]
    lag = lags[int(np.argmin(errors))]
    assert (lag == 0) or not is_aligned
    assert min(errors) < 0.02


def test_lossless_audio_is_exact():
    original = music(SECONDS, 44100)
    for name in ("flac.mkv", "pcm.mov", "lossless.m4a"):
        np.testing.assert_allclose(load_audio(encoded(name), 44100), original, rtol=0, atol=2**-14)


def test_crops_decode_little_more_than_themselves(monkeypatch):
    """Frames that are decoded for 0.5 s near the end of 12 s, in formats whose frames have a fixed length."""
    from musicfm_hf.audio import ffmpeg

    counts = []
    samples = ffmpeg._samples
    monkeypatch.setattr(ffmpeg, "_samples", lambda frame: counts.append(frame.samples) or samples(frame))
    for name in ("song.m4a", "song.webm", "song.mka", "pcm.mov"):
        counts.clear()
        load_audio(encoded(name), FORMATS[name][2], start=9.0, duration=0.5)
        assert sum(counts) < 7 * FORMATS[name][2], name  # the end, the crop, and what precedes both


@pytest.mark.parametrize("name", ["song.webm", "song.mka", "vorbis.webm", "song.wma"])
def test_truncated_files_are_reported(name):
    content = encoded(name)[: len(encoded(name)) // 2]
    with pytest.warns(UserWarning, match=r"is truncated: its header specifies more than the \d\.\d\d\d s that it has"):
        audio = load_audio(content, RATE)
    assert 4 * RATE < len(audio) < 8 * RATE
    assert audio_length(content)[0] / audio_length(content)[1] == pytest.approx(len(audio) / RATE, abs=1e-3)


def test_video_without_audio_and_other_files():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        file.mux(stream.encode())
    with pytest.raises(ValueError, match=r"is not audio that can be read .*it has no audio"):
        load_audio(buffer.getvalue())
    with pytest.raises(ValueError, match=r"is not audio that can be read .*FFmpeg cannot read it either"):
        load_audio(b"just some text, no audio" * 100)


def test_playlists_open_no_other_files(tmp_path):
    (tmp_path / "secret.m4a").write_bytes(encoded("song.m4a"))
    for content in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:12\n#EXTINF:12,\nfile://{tmp_path}/secret.m4a\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {tmp_path}/secret.m4a\n",
    ):
        (tmp_path / "list.m4a").write_text(content)
        with pytest.raises(ValueError, match="is not audio that can be read"):
            load_audio(tmp_path / "list.m4a")


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "song.m4a").write_bytes(encoded("song.m4a"))
    (tmp_path / "video.webm").write_bytes(encoded("song.webm"))
    imported = builtins.__import__

    def refuse(name, *arguments, **settings):
        if name == "av":
            raise ImportError("No module named 'av'")
        return imported(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", refuse)
    message = r"AAC, wma and video need an extra: pip install 'musicfm_hf\[av\]'"
    with pytest.raises(ValueError, match=f"song.m4a is not audio that can be read .*{message}"):
        load_audio(tmp_path / "song.m4a")
    loader = SongLoader(list_sources(tmp_path), RATE)  # a folder with videos is listed, and they are problems of it
    assert list(loader) == []
    assert [name for name, _ in loader.unusable] == ["song.m4a", "video.webm"]
    assert all("musicfm_hf[av]" in problem for _, problem in loader.unusable)


def test_beyond_the_end():
    with pytest.raises(ValueError, match=r"ends at 12\.000 s, before `start` \(20\.0 s\)"):
        load_audio(encoded("song.m4a"), start=20.0)
    assert len(load_audio(encoded("song.m4a"), 44100, 11.5, 5.0)) == 22050


def test_models_take_them(tiny_model, tmp_path):
    (tmp_path / "song.m4a").write_bytes(encoded("song.m4a"))
    assert embed(tiny_model, tmp_path / "song.m4a").frames.shape == (300, 32)


@pytest.mark.parametrize("content", [b"\0\0\0\x20ftypM4A " + bytes(500), b"\x1aE\xdf\xa3" + bytes(500)])
def test_damaged_containers(content):
    with pytest.raises(ValueError, match="is not audio that can be read"):
        load_audio(content)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 30000), flips=st.lists(st.tuples(st.integers(0, 29999), st.integers(0, 255)), max_size=20))
@pytest.mark.parametrize("name", ["song.m4a", "song.webm", "song.wma"])
def test_damaged_files_do_not_crash(name, cut, flips):
    content = bytearray(short(name)[:cut])
    for place, value in flips:
        if place < len(content):
            content[place] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            audio = load_audio(bytes(content))
        except ValueError:
            return
    assert np.isfinite(audio).all()
    assert len(audio) > 0


@cache
def short(name: str) -> bytes:
    container, codec, rate, _ = FORMATS[name]
    return encode_with_ffmpeg(music(1.0, rate), rate, container, codec)
