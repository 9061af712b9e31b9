"""Formats of FFmpeg, with PyAV."""

import io
import sys

import numpy as np
import pytest
from helpers.audio import music

from musicfm_hf import embed, load_audio
from musicfm_hf.audio.reading import audio_length

av = pytest.importorskip("av")

FORMATS = {  # container, codec, rate; samples by which the audio may be longer or shorter; delay of the encoder
    "a.m4a": ("mp4", "aac", 44100, 0, 0),
    "a.mp4": ("mp4", "alac", 44100, 0, 0),
    "a.aac": ("adts", "aac", 44100, 2048, 1024),  # has no place for the delay
    "a.webm": ("webm", "libopus", 48000, 960, 0),
    "a.mka": ("matroska", "aac", 44100, 1024, 0),
    "a.wma": ("asf", "wmav2", 44100, 4096, -2048),  # decoders lose the first frame
}


def encode(name: str, audio: np.ndarray) -> bytes:
    """Encode `(samples, channels)` at 44.1 kHz."""
    container_format, codec, rate, *_ = FORMATS[name]
    stream = io.BytesIO()
    with av.open(stream, "w", format=container_format) as container:
        output = container.add_stream(codec, rate=rate, layout="stereo")
        output.bit_rate = 256_000
        resampler = av.AudioResampler(format=output.codec_context.format or "fltp", layout="stereo", rate=rate)
        for start in range(0, len(audio), 4096):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[start : start + 4096].T), "fltp", "stereo")
            frame.sample_rate, frame.pts = 44100, start
            for converted in resampler.resample(frame):
                container.mux(output.encode(converted))
        for converted in resampler.resample(None):
            container.mux(output.encode(converted))
        container.mux(output.encode(None))
    return stream.getvalue()


@pytest.fixture(scope="module")
def audio() -> np.ndarray:
    """12 s of stereo with a click at 5 s and at 9 s."""
    stereo = np.stack([music(12.0, 44100), 0.5 * music(12.0, 44100, seed=1)], axis=1)
    stereo[[5 * 44100, 9 * 44100]] = 1.0
    return stereo.astype(np.float32)


@pytest.fixture(scope="module")
def files(audio) -> dict[str, bytes]:
    return {name: encode(name, audio) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(files, audio, name):
    *_, tolerance, delay = FORMATS[name]
    content, expected = files[name], audio.mean(axis=1)
    decoded = load_audio(content, 44100)
    assert abs(len(decoded) - len(expected) - delay) <= tolerance
    samples, rate = audio_length(content)
    assert abs(samples / rate - len(decoded) / 44100) <= 0.1
    click = int(np.abs(decoded[4 * 44100 : 6 * 44100]).argmax()) + 4 * 44100
    assert abs(click - 5 * 44100 - delay) <= 2
    middle = slice(44100, 4 * 44100)
    error = decoded[middle.start + delay : middle.stop + delay] - expected[middle]
    assert np.sqrt(np.mean(error**2)) < 0.1 * np.sqrt(np.mean(expected[middle] ** 2))


@pytest.mark.parametrize("start", [0.0, 0.3, 4.9, 8.7654])
@pytest.mark.parametrize("name", FORMATS)
def test_crops_start_exactly(files, name, start):
    whole, crop = load_audio(files[name], 44100), load_audio(files[name], 44100, start, 1.0)
    expected = whole[round(start * 44100) :][:44100]
    assert len(crop) == 44100
    similarities = [float(np.dot(crop[5:-5], expected[5 + lag : 44095 + lag])) for lag in range(-5, 6)]
    assert similarities.index(max(similarities)) == 5
    assert np.corrcoef(crop, expected)[0, 1] > 0.999  # noise that AAC synthesizes depends on the start


def test_beyond_the_end(files):
    with pytest.raises(ValueError, match=r"ends at 12\.000 s, before `start` \(20\.0 s\)"):
        load_audio(files["a.m4a"], start=20.0)
    assert len(load_audio(files["a.m4a"], 44100, 11.5, 5.0)) == 22050


def test_files_and_models(files, tiny_model, tmp_path):
    (tmp_path / "song.m4a").write_bytes(files["a.m4a"])
    assert embed(tiny_model, tmp_path / "song.m4a").frames.shape == (300, 32)


def test_without_pyav(files, monkeypatch):
    """The message names the extra; files of libsndfile need no PyAV."""
    monkeypatch.setitem(sys.modules, "av", None)
    for name, content in files.items():
        with pytest.raises(ValueError, match=r"is in a format of FFmpeg.*pip install 'musicfm_hf\[av\]'"):
            load_audio(content)
        assert name.startswith("a.")


@pytest.mark.parametrize("content", [b"\0\0\0\x20ftypM4A " + bytes(500), b"\x1aE\xdf\xa3" + bytes(500)])
def test_damaged_containers(content):
    with pytest.raises(ValueError, match="is not audio that can be read"):
        load_audio(content)


def test_a_video_without_sound():
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        output = container.add_stream("mpeg4", rate=24, width=64, height=64, pix_fmt="yuv420p")
        for _ in range(24):
            container.mux(output.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8))))
        container.mux(output.encode(None))
    with pytest.raises(ValueError, match="has no audio stream"):
        load_audio(stream.getvalue())
