import io
import shutil
import warnings

import numpy as np
import pytest
import soundfile
import soxr
from helpers.audio import music
from hypothesis import given, settings
from hypothesis import strategies as st

from musicfm_hf import load_audio

RATE = 24000
FORMATS = {  # name: (format, subtype, rate, largest error against what was written)
    "u8.wav": ("WAV", "PCM_U8", 44100, 1e-2),
    "s16.wav": ("WAV", "PCM_16", 44100, 1e-4),
    "s24.wav": ("WAV", "PCM_24", 44100, 1e-6),
    "s32.wav": ("WAV", "PCM_32", 44100, 1e-6),
    "f32.wav": ("WAV", "FLOAT", 44100, 1e-7),
    "f64.wav": ("WAV", "DOUBLE", 44100, 1e-7),
    "mulaw.wav": ("WAV", "ULAW", 44100, 2e-2),
    "a.flac": ("FLAC", "PCM_16", 44100, 1e-4),
    "a.aiff": ("AIFF", "PCM_16", 44100, 1e-4),
    "a.w64": ("W64", "PCM_16", 44100, 1e-4),
    "a.caf": ("CAF", "PCM_16", 44100, 1e-4),
    "a.ogg": ("OGG", "VORBIS", 44100, 0.1),
    "a.opus": ("OGG", "OPUS", 48000, 0.1),
    "a.mp3": ("MP3", "MPEG_LAYER_III", 44100, 0.1),
}


def write(path, audio, rate, file_format="WAV", subtype="FLOAT"):
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    with soundfile.SoundFile(path, "w", rate, channels, format=file_format, subtype=subtype) as file:
        for start in range(0, len(audio), rate):
            file.write(audio[start : start + rate])
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_formats(tmp_path, name):
    file_format, subtype, rate, tolerance = FORMATS[name]
    audio = music(3.0, rate)
    path = write(tmp_path / name, audio, rate, file_format, subtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_rate, at_24k = load_audio(path, rate), load_audio(path)
    assert (same_rate.dtype, same_rate.ndim) == (np.float32, 1)
    assert abs(len(same_rate) - len(audio)) <= 2 * 1152  # mp3 may keep a frame of its padding
    count = min(len(same_rate), len(audio))
    assert np.abs(same_rate[:count] - audio[:count]).max() <= tolerance
    np.testing.assert_allclose(at_24k, soxr.resample(same_rate, rate, RATE, "HQ")[: len(at_24k)], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("written", "renamed"), [("a.flac", "a.mp3"), ("s16.wav", "a.raw"), ("a.mp3", "no_extension")]
)
def test_content_counts_not_the_extension(tmp_path, written, renamed):
    file_format, subtype, rate, _ = FORMATS[written]
    path = write(tmp_path / written, music(1.0, rate), rate, file_format, subtype)
    expected = load_audio(path)
    shutil.move(path, tmp_path / renamed)
    np.testing.assert_array_equal(load_audio(tmp_path / renamed), expected)


def test_kinds_of_source(tmp_path):
    path = write(tmp_path / "a.wav", music(1.0), RATE)
    expected = load_audio(path)
    np.testing.assert_allclose(expected, music(1.0), rtol=0, atol=1e-7)
    content = path.read_bytes()
    with path.open("rb") as file:
        sources = [str(path), content, bytearray(content), io.BytesIO(content), file]
        sources += [{"bytes": content, "path": None}, {"bytes": None, "path": str(path)}]
        for source in sources:
            np.testing.assert_array_equal(load_audio(source), expected)


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(tmp_path, channels):
    audio = np.stack([np.full(RATE, (channel + 1) / 10) for channel in range(channels)], axis=1)
    np.testing.assert_allclose(
        load_audio(write(tmp_path / "a.wav", audio, RATE)), np.full(RATE, (channels + 1) / 20), rtol=1e-6
    )


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 44101, 48000, 96000])
@pytest.mark.parametrize(("start", "duration"), [(0.0, 1.0), (0.7, 0.5), (1.23456, 1.0), (2.9, 5.0), (0.5, None)])
def test_crop_is_part_of_the_whole(tmp_path, rate, start, duration):
    path = write(tmp_path / "a.wav", music(4.0, rate), rate)
    whole = load_audio(path)
    assert len(whole) == 4 * RATE
    first = round(start * RATE)
    stop = len(whole) if duration is None else round((start + duration) * RATE)
    crop = load_audio(path, start=start, duration=duration)
    assert len(crop) == min(stop, len(whole)) - first
    np.testing.assert_allclose(crop, whole[first:stop], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.opus", "a.mp3"])
def test_crop_of_compressed_audio(tmp_path, name):
    file_format, subtype, rate, tolerance = FORMATS[name]
    path = write(tmp_path / name, music(20.0, rate), rate, file_format, subtype)
    whole = load_audio(path)
    crop = load_audio(path, start=11.3, duration=2.0)
    expected = whole[round(11.3 * RATE) : round(13.3 * RATE)]
    assert np.abs(crop - expected).max() < 0.02 + tolerance * 0.2


def test_resampling_keeps_a_tone_and_removes_what_is_too_high(tmp_path):
    rate = 48000
    time_axis = np.arange(2 * rate) / rate
    low, high = 0.5 * np.sin(2 * np.pi * 1000 * time_axis), 0.5 * np.sin(2 * np.pi * 15000 * time_axis)
    audio = load_audio(write(tmp_path / "a.wav", low + high, rate))
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)
    middle = slice(RATE // 2, -RATE // 2)
    np.testing.assert_allclose(audio[middle], expected[middle], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "most"), [("s16.wav", 0.04), ("a.flac", 0.1), ("a.ogg", 0.1)])
def test_a_crop_of_a_long_file_reads_little_more_than_itself(tmp_path, name, most):
    """The share of the file's bytes that is read for 3 s from the middle of four minutes."""

    class Counting(io.BytesIO):
        count = 0

        def readinto(self, buffer):
            count = super().readinto(buffer)
            self.count += count
            return count

        def read(self, size=-1):
            data = super().read(size)
            self.count += len(data)
            return data

    file_format, subtype, rate, _ = FORMATS[name]
    content = write(tmp_path / name, np.tile(music(4.0, rate), 60), rate, file_format, subtype).read_bytes()
    source = Counting(content)
    assert len(load_audio(source, start=120.0, duration=3.0)) == 3 * RATE
    assert source.count < most * len(content) + 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"RIFF", "not audio that can be read"),
        (b"just some text, no audio" * 100, "not audio that can be read"),
        (bytes(5000), "not audio that can be read"),
    ],
)
def test_files_without_audio(tmp_path, content, message):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.wav.*{message}"):
        load_audio(path)
    with pytest.raises(ValueError, match=r"audio of|no bytes"):
        load_audio(content)


def test_wrong_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.wav does not exist"):
        load_audio(tmp_path / "nothing.wav")
    with pytest.raises(ValueError, match="is not a file"):
        load_audio(tmp_path)
    with pytest.raises(TypeError, match="must be a path"):
        load_audio(5)
    with pytest.raises(
        ValueError, match=r"audio is null: a mapping needs `bytes` or `path`, got keys \['bytes', 'path'\]"
    ):
        load_audio({"bytes": None, "path": None})
    with pytest.raises(ValueError, match=r"audio is null \(`None`\): leave this row out"):
        load_audio(None)


def test_wrong_crops(tmp_path):
    path = write(tmp_path / "a.wav", music(1.0), RATE)
    for arguments, message in [
        ({"start": -1.0}, "`start` must be 0 or more"),
        ({"start": float("nan")}, "`start` must be"),
        ({"start": 1.0}, "ends at 1.000 s, before `start`"),
        ({"duration": 0.0}, "`duration` must be more than 0"),
        ({"sampling_rate": 0}, "`sampling_rate` must be a positive integer"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_audio(path, **arguments)


def test_no_samples_and_bad_samples(tmp_path):
    with pytest.raises(ValueError, match="has no samples"):
        load_audio(write(tmp_path / "none.wav", np.zeros(0), RATE))
    bad = music(1.0)
    bad[100:103] = [np.nan, np.inf, -np.inf]
    with pytest.raises(ValueError, match=r"nan.wav has 3 NaN or infinite samples"):
        load_audio(write(tmp_path / "nan.wav", bad, RATE))


@pytest.mark.parametrize("name", ["s16.wav", "a.flac", "a.mp3", "a.aiff", "a.ogg", "a.opus"])
def test_truncated_file_gives_what_it_has_and_warns(tmp_path, name):
    file_format, subtype, rate, _ = FORMATS[name]
    path = write(tmp_path / name, music(20.0, rate), rate, file_format, subtype)
    whole = load_audio(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="is truncated"):
        audio = load_audio(path)
    assert 0.3 * len(whole) < len(audio) < 0.7 * len(whole)
    assert np.abs(audio[: 5 * RATE] - whole[: 5 * RATE]).max() < 1e-3


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300), start=st.floats(-1, 2), duration=st.none() | st.floats(-1, 2))
def test_no_bytes_crash(content, start, duration):
    try:
        load_audio(content, start=start, duration=duration)
    except (ValueError, TypeError):
        return  # any other exception fails the test


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 60000), flips=st.lists(st.tuples(st.integers(0, 59999), st.integers(0, 255)), max_size=20))
@pytest.mark.parametrize("name", ["s16.wav", "a.aiff", "a.w64", "a.caf", "a.flac", "a.ogg", "a.mp3"])
def test_damaged_files_do_not_crash(name, cut, flips):
    content = bytearray(_encoded(name)[:cut])
    for place, value in flips:
        if place < len(content):
            content[place] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            audio = load_audio(bytes(content))
        except ValueError:
            return
    assert audio.dtype == np.float32
    assert len(audio) > 0
    assert np.isfinite(audio).all()


_CACHE = {}


def _encoded(name: str) -> bytes:
    if name not in _CACHE:
        file_format, subtype, rate, _ = FORMATS[name]
        buffer = io.BytesIO()
        soundfile.write(buffer, music(0.6, rate), rate, format=file_format, subtype=subtype)
        _CACHE[name] = buffer.getvalue()
    return _CACHE[name]
