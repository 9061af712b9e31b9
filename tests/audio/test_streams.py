"""Audio is read to the end of the stream, whatever the header specifies."""

import io
import struct
import warnings

import numpy as np
import pytest
import soundfile
from helpers.audio import music

from musicfm_hf import load_audio
from musicfm_hf.audio.reading import audio_length
from musicfm_hf.audio.streams import stream_parts
from musicfm_hf.data.crop_reader import CropReader, CropReference
from musicfm_hf.data.labeled import audio_seconds
from musicfm_hf.data.sources import ListedSource

RATE = 44100


def noise(seconds: float, seed: int = 0, channels: int = 1) -> np.ndarray:
    """Dull noise that becomes quiet, so that a variable bitrate at the start misleads an estimate of the length."""
    samples = int(seconds * RATE)
    white = np.random.default_rng(seed).standard_normal((samples + 15, channels)).astype(np.float32)
    audio = 0.3 * np.lib.stride_tricks.sliding_window_view(white, 16, axis=0).mean(axis=-1)
    audio[samples // 2 :] *= 0.01
    return audio


def encode(audio: np.ndarray, file_format: str, rate: int = RATE, **settings) -> bytes:
    stream = io.BytesIO()
    subtype = settings.pop("subtype", None)
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    with soundfile.SoundFile(stream, "w", rate, channels, subtype=subtype, format=file_format, **settings) as file:
        for start in range(0, len(audio), rate):
            file.write(audio[start : start + rate])
    return stream.getvalue()


def mp3(audio: np.ndarray, mode: str = "VARIABLE", rate: int = RATE) -> bytes:
    return encode(audio, "MP3", rate, bitrate_mode=mode, compression_level=0.5)


def without_first_frame(content: bytes) -> bytes:
    """The stream without its information frame; encoders write nothing else before the audio."""
    return content[content.index(content[:2], 100) :]


def with_half_the_frames(content: bytes) -> bytes:
    place = max(content.find(b"Xing"), content.find(b"Info")) + 8
    frames = struct.unpack(">I", content[place : place + 4])[0]
    return content[:place] + struct.pack(">I", frames // 2) + content[place + 4 :]


def quietly(content: bytes, *arguments) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_audio(content, *arguments)


# MPEG audio


@pytest.mark.parametrize(
    ("mode", "rate", "channels"),
    [("VARIABLE", 44100, 1), ("VARIABLE", 22050, 2), ("CONSTANT", 44100, 2), ("CONSTANT", 22050, 1)],
)
def test_mp3_without_a_header(mode, rate, channels):
    """All of 20 s, and what a decoder makes of the frames alone: nothing is trimmed."""
    whole = mp3(noise(20.0, channels=channels)[: 20 * rate], mode, rate)
    content = without_first_frame(whole)
    audio = quietly(content, rate)
    frame = 1152 if rate == 44100 else 576
    assert len(audio) % frame == 0
    assert 20 * rate <= len(audio) <= 20 * rate + 3 * frame
    assert audio_length(content) == (len(audio), rate)
    reference = quietly(whole, rate)  # its header trims the delay of encoder and decoder
    delay = 576 + 529
    np.testing.assert_allclose(audio[delay : delay + 3 * rate], reference[: 3 * rate], rtol=0, atol=1e-3)


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_mp3_with_half_the_frames_in_its_header(mode):
    whole = mp3(noise(20.0), mode)
    np.testing.assert_array_equal(quietly(with_half_the_frames(whole), RATE), quietly(whole, RATE))
    assert audio_length(with_half_the_frames(whole)) == (20 * RATE, RATE)


def test_joined_files_are_read_as_one(tmp_path):
    """As `cat a.mp3 b.mp3`, with tags in front, and with different rates and channels."""
    first, second = mp3(noise(3.0, 1)), mp3(noise(5.0, 2, channels=2), rate=48000)
    parts = [quietly(first), quietly(second)]
    tag = b"ID3\x03\0\0\0\0\x02\0" + bytes(256)
    for content in (first + second, tag + first + tag + second):
        audio = quietly(content)
        np.testing.assert_array_equal(audio, np.concatenate(parts))
    (tmp_path / "joined.mp3").write_bytes(first + second)
    np.testing.assert_array_equal(quietly(tmp_path / "joined.mp3"), np.concatenate(parts))


@pytest.mark.parametrize("start", [0.0, 1.5, 2.9, 3.0, 3.1, 7.0])
@pytest.mark.parametrize("kind", ["joined", "half", "none"])
def test_crops_are_parts_of_the_whole(kind, start):
    content = {
        "joined": lambda: mp3(noise(3.0, 1)) + mp3(noise(5.0, 2)),
        "half": lambda: with_half_the_frames(mp3(noise(8.0))),
        "none": lambda: without_first_frame(mp3(noise(8.0))),
    }[kind]()
    whole, crop = quietly(content), quietly(content, 24000, start, 1.0)
    first = round(start * 24000)
    np.testing.assert_allclose(crop, whole[first : first + 24000], rtol=0, atol=0.02)


def test_complete_files_are_not_said_to_break_off():
    """Without a header, with tags behind the audio, and with a cover in front."""
    content = without_first_frame(mp3(noise(5.0), "CONSTANT"))
    cover = b"ID3\x03\0\0" + bytes((0, 3, 0, 0)) + bytes(3 << 14)
    tag = b"TAG" + bytes(125)
    expected = quietly(content)
    for other in (content + tag, cover + content, cover + content + b"APETAGEX" + bytes(100_000) + tag):
        np.testing.assert_array_equal(quietly(other), expected)


def test_truncated_mp3():
    content = mp3(noise(20.0))
    content = content[: len(content) // 2]
    with pytest.warns(UserWarning, match=r"is truncated: its header specifies more than the [\d.]+ s read"):
        audio = load_audio(content, RATE)
    samples, _ = audio_length(content)
    assert 0 <= samples - len(audio) <= 4 * 1152
    assert len(quietly(content, RATE, 1.0, 2.0)) == 2 * RATE  # a crop before the end is complete
    with pytest.raises(ValueError, match=r"ends at [\d.]+ s, before `start` \(19\.0 s\)"):
        load_audio(content, start=19.0)


# Ogg, FLAC, wav, aiff


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg(subtype):
    """3 s and 5 s, as in recordings of radio streams."""
    first, second = (encode(noise(seconds, seed), "OGG", 48000, subtype=subtype) for seconds, seed in ((3, 1), (5, 2)))
    content = first + second
    expected = np.concatenate([quietly(first), quietly(second)])
    np.testing.assert_array_equal(quietly(content), expected)
    for start in (0.0, 1.0, 2.5, 4.0):
        crop = quietly(content, 24000, start, 1.0)
        np.testing.assert_allclose(crop, expected[round(start * 24000) :][:24000], rtol=0, atol=0.02)
    assert audio_length(content)[0] == audio_length(first)[0] + audio_length(second)[0]
    with pytest.warns(UserWarning, match="is truncated"):
        load_audio(content[:-2000])


@pytest.mark.parametrize("promised", [0, 1000, 0xFFFFFFFF])
@pytest.mark.parametrize(("file_format", "chunk", "order"), [("WAV", b"data", "<"), ("AIFF", b"SSND", ">")])
def test_chunk_with_a_wrong_size(file_format, chunk, order, promised):
    """Recorders and pipes that cannot go back write such sizes."""
    whole = encode(noise(3.0), file_format)
    place = whole.index(chunk) + 4
    content = whole[:place] + struct.pack(f"{order}I", promised) + whole[place + 4 :]
    np.testing.assert_array_equal(quietly(content, RATE), quietly(whole, RATE))
    assert audio_length(content) == (3 * RATE, RATE)


def test_chunks_after_the_audio_are_none():
    whole = encode(noise(1.0), "WAV")
    content = whole + b"LIST" + struct.pack("<I", 5000) + bytes(5000)
    np.testing.assert_array_equal(quietly(content, RATE), quietly(whole, RATE))


@pytest.mark.parametrize("promised", [0, 1000])
def test_flac_with_a_wrong_length(promised):
    whole = encode(noise(3.0), "FLAC")
    content = bytearray(whole)
    content[21] = content[21] & 0xF0
    content[22:26] = struct.pack(">I", promised)
    np.testing.assert_array_equal(quietly(bytes(content), RATE), quietly(whole, RATE))
    np.testing.assert_array_equal(quietly(bytes(content), RATE, 2.0, 0.5), quietly(whole, RATE, 2.0, 0.5))
    assert audio_length(bytes(content)) == (3 * RATE, RATE)


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "MP3", "OGG", "AIFF"])
def test_files_with_right_headers_are_read_as_they_are(file_format):
    content = encode(noise(2.0), file_format)
    stream = io.BytesIO(content)
    (part,) = stream_parts(stream)
    assert part.stream is stream
    assert (part.frames, part.is_truncated) == (None, False)


def test_consumers_see_all_of_the_audio(tmp_path):
    """Data preparation and pretraining use the same length."""
    path = tmp_path / "half.mp3"
    path.write_bytes(with_half_the_frames(mp3(noise(12.0))))
    assert audio_seconds(path) == 12.0
    reader = CropReader([ListedSource([("half", str(path))])], 11.0, 24000, 1025)
    item = reader[CropReference(0, 0, 5)]
    assert "problem" not in item
    assert item["input_values"].shape == (11 * 24000,)


# Channels


def test_channels_that_cancel(tmp_path):
    """The loudest channel replaces the silence, in whole files, in crops, and in annotations."""
    audio = music(3.0, RATE)
    path = tmp_path / "wide.wav"
    soundfile.write(path, np.stack([0.5 * audio, -0.5 * audio, 0 * audio], axis=1)[:, :2], RATE, subtype="FLOAT")
    expected = load_audio(encode(0.5 * audio, "WAV", subtype="FLOAT"))
    for start in (0.0, 1.0):
        with pytest.warns(
            UserWarning, match=r"channels of .*wide\.wav cancel each other out.* Channel 1, the loudest"
        ):
            crop = load_audio(path, start=start)
        np.testing.assert_allclose(crop, expected[round(start * 24000) :], rtol=0, atol=1e-6)


def test_channels_that_do_not_cancel():
    audio = noise(1.0)[:, 0]
    for sides in ((audio, 0 * audio), (audio, audio), (audio, noise(1.0, 1)[:, 0]), (audio, -0.9 * audio)):
        stereo = np.stack(sides, axis=1)
        np.testing.assert_allclose(
            quietly(encode(stereo, "WAV", subtype="FLOAT"), RATE), stereo.mean(axis=1), atol=1e-7
        )
