"""All audio to the end of a file is read, whatever its header specifies."""

import io
import struct
import warnings

import numpy as np
import pytest
import soundfile
from helpers.audio import encode, music

from musicfm_hf import load_audio
from musicfm_hf.audio.flac_frames import open_flac
from musicfm_hf.audio.mpeg_frames import find_mpeg_parts
from musicfm_hf.audio.ogg_pages import find_ogg_links
from musicfm_hf.audio.reading import audio_length
from musicfm_hf.data.decoding import SongLoader
from musicfm_hf.data.labeled import audio_seconds

RATE = 24000
NOISE = np.random.default_rng(0).standard_normal(40 * 44100).astype(np.float32) / 10
FORMATS = {
    "mp3": ("MP3", None, 44100),
    "vorbis": ("OGG", "VORBIS", 44100),
    "opus": ("OGG", "OPUS", 48000),
    "flac": ("FLAC", "PCM_16", 44100),
    "wav": ("WAV", "PCM_16", 44100),
    "aiff": ("AIFF", "PCM_24", 44100),
    "au": ("AU", "PCM_16", 44100),
    "caf": ("CAF", "PCM_16", 44100),
    "w64": ("W64", "PCM_16", 44100),
    "rf64": ("RF64", "PCM_16", 44100),
}


def vbr() -> bytes:
    return encode(NOISE, 44100, "MP3", bitrate_mode="VARIABLE", compression_level=0.5)


def without_first_frame(content: bytes) -> bytes:
    """The mp3 without its Xing or Info frame."""
    (part,) = find_mpeg_parts(io.BytesIO(content))
    return content[part.ranges[0][0] :]


def put(content: bytes, at: int, layout: str, value: int) -> bytes:
    field = struct.pack(layout, value)
    return content[:at] + field + content[at + len(field) :]


def load_silently(content: bytes, rate: int = 44100, **part) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_audio(content, rate, **part)


def assert_whole(content: bytes, seconds: float, rate: int = 44100, tolerance: float = 0.0) -> np.ndarray:
    """The whole, its length, and crops from any start agree, and nothing is reported."""
    audio = load_silently(content, rate)
    assert len(audio) / rate == pytest.approx(seconds, abs=tolerance)
    assert audio_length(content) == (len(audio), rate)
    for start in (0.0, 0.4 * seconds, 0.75 * seconds, seconds - 1.0):
        first = round(start * rate)
        crop = load_silently(content, rate, start=start, duration=0.5)
        expected = audio[first:][: round((start + 0.5) * rate) - first]
        assert len(crop) == len(expected)
        assert np.abs(crop - expected).max() < 0.02
    assert audio_seconds(content) == len(audio) / rate
    (song,) = SongLoader([("song", content)], rate)
    assert song.problem is None
    np.testing.assert_array_equal(song.content, audio)
    return audio


# Files with a right header


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_files_with_a_right_header_are_read_as_libsndfile_does(name, channels):
    file_format, subtype, rate = FORMATS[name]
    audio = np.stack([music(2.5, rate, seed) for seed in range(channels)], axis=1)
    content = encode(audio, rate, file_format, subtype)
    blocks = soundfile.blocks(io.BytesIO(content), 1 << 16, dtype="float32", always_2d=True)
    expected = np.concatenate([block.mean(axis=1) for block in blocks])
    np.testing.assert_array_equal(load_silently(content, rate), expected)
    assert audio_length(content) == (len(expected), rate)


@pytest.mark.parametrize("samples", [1, 100, 4096, 4097, 8192, 50_000, 300_000])
@pytest.mark.parametrize("kind", ["silence", "tone", "noise"])
def test_files_of_any_length_are_complete(kind, samples):
    """Frames of silence are very short, which makes them hard to find."""
    audio = {"silence": np.zeros(samples), "tone": np.sin(np.arange(samples) / 9) / 2, "noise": NOISE[:samples]}[kind]
    for file_format, subtype, rate in FORMATS.values():
        content = encode(audio.astype(np.float32), rate, file_format, subtype)
        assert audio_length(content)[0] == samples
        assert len(load_silently(content, rate)) == samples


# mp3


@pytest.mark.parametrize(("rate", "channels"), [(22050, 1), (44100, 2), (48000, 1), (8000, 2)])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_frames_of_every_kind(mode, rate, channels):
    """Loud noise, and then quiet noise, so that the first frames mislead an estimate of the length."""
    audio = np.stack([NOISE[: 10 * rate]] * channels, axis=1)
    audio[5 * rate :] *= 0.01
    assert_whole(without_first_frame(encode(audio, rate, "MP3", bitrate_mode=mode)), 10.0, rate, 0.4)


def test_mp3_without_xing_frame():
    audio = assert_whole(without_first_frame(vbr()), 40.0, tolerance=0.05)
    assert np.sqrt((audio[-44100:] ** 2).mean()) > 0.05


@pytest.mark.parametrize("factor", [0.5, 0.0, 0.999])
def test_mp3_with_too_few_frames_in_its_xing_frame(factor):
    content = vbr()
    at = content.index(b"Xing") + 8
    frames = int.from_bytes(content[at : at + 4], "big")
    audio = assert_whole(put(content, at, ">I", int(factor * frames)), 40.0)
    np.testing.assert_array_equal(audio, load_audio(content, 44100))


def test_mp3_with_a_xing_frame_that_does_not_count():
    content = vbr()
    flags = content.index(b"Xing") + 4
    assert_whole(put(content, flags, ">I", 0), 40.0, tolerance=0.1)


@pytest.mark.parametrize("tag", [b"", b"TAG" + bytes(125), b"APETAGEX" + bytes(100_000) + b"TAG" + bytes(125)])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_complete_mp3_is_not_reported(mode, tag):
    content = without_first_frame(encode(NOISE[: 8 * 44100], 44100, "MP3", bitrate_mode=mode, compression_level=0.5))
    assert_whole(content + tag, 8.0, tolerance=0.05)
    cover = b"ID3\3\0\0" + bytes((0, 3, 0, 0)) + bytes(3 << 14)
    assert_whole(cover + content + tag, 8.0, tolerance=0.05)


def test_mp3_decodes_as_before_without_xing_frame():
    content = without_first_frame(encode(NOISE[: 8 * 44100], 44100, "MP3", bitrate_mode="CONSTANT"))
    expected, _ = soundfile.read(io.BytesIO(content), 1 << 16, dtype="float32")  # as many samples as are read at once
    np.testing.assert_array_equal(load_silently(content, 44100)[: 1 << 16], expected)


def test_joined_mp3():
    first, second = (encode(music(seconds, 44100, seed), 44100, "MP3") for seconds, seed in ((3.0, 0), (5.0, 1)))
    audio = assert_whole(first + second, 8.0)
    np.testing.assert_array_equal(audio, np.concatenate([load_audio(first, 44100), load_audio(second, 44100)]))
    tag = b"ID3\4\0\0\0\0\x01\0" + bytes(128)
    np.testing.assert_array_equal(audio, assert_whole(tag + first + tag + second, 8.0))
    without = without_first_frame(first) + without_first_frame(second)
    assert_whole(without, 8.0, tolerance=0.1)


def test_joined_mp3_of_other_rates_and_channels():
    first = encode(music(3.0, 44100), 44100, "MP3")
    second = encode(np.stack([music(2.0, 24000, 1)] * 2, axis=1), 24000, "MP3")
    third = without_first_frame(encode(music(2.0, 44100, 2), 44100, "MP3"))
    content = first + second + third
    audio = load_silently(content, RATE)
    assert len(audio) == pytest.approx(7.0 * RATE, abs=0.07 * RATE)
    assert audio_length(content)[0] == pytest.approx(7.0 * 44100, abs=0.07 * 44100)
    for position, part, rate in ((0.0, first, 44100), (3.0, second, 24000), (5.0, third, 44100)):
        expected = load_audio(part, RATE)[1000:40000]
        found = load_silently(content, RATE, start=position, duration=1.9)[1000:40000]
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 + (rate != 24000) * 0.01)
    np.testing.assert_allclose(
        load_silently(content, RATE, start=2.0, duration=2.0), audio[2 * RATE : 4 * RATE], rtol=0, atol=1e-3
    )


def test_mp3_with_other_bytes_between_frames():
    content = without_first_frame(encode(NOISE[: 8 * 44100], 44100, "MP3", bitrate_mode="CONSTANT"))
    half = find_mpeg_parts(io.BytesIO(content[: len(content) // 2]))[0].ranges[0][1]
    assert_whole(content[:half] + b"no audio" * 4000 + content[half:], 8.0, tolerance=0.05)


def test_layer_two():
    """Silence: frames of 144 * 128000 / 48000 = 384 bytes, whose allocations are zero."""
    frame = bytes([0xFF, 0xFD, 0x84, 0xC4]) + bytes(380)
    assert_whole(frame * 200, 200 * 1152 / 48000, 48000)


def test_truncated_mp3_is_reported_with_its_length():
    content = vbr()[:200_000]
    (part,) = find_mpeg_parts(io.BytesIO(content))
    seconds = audio_length(content)[0] / 44100
    assert seconds == pytest.approx(part.frames * 1152 / 44100, abs=0.05)
    with pytest.warns(UserWarning, match=f"is truncated: its header specifies more than the {seconds:.3f} s that it"):
        assert len(load_audio(content, 44100)) == round(seconds * 44100)


# Ogg


@pytest.mark.parametrize("name", ["vorbis", "opus"])
def test_chained_ogg(name):
    file_format, subtype, rate = FORMATS[name]
    first, second = (encode(music(s, rate, seed), rate, file_format, subtype) for s, seed in ((3.0, 0), (5.0, 1)))
    audio = assert_whole(first + second, 8.0, rate)
    np.testing.assert_array_equal(audio, np.concatenate([load_audio(first, rate), load_audio(second, rate)]))
    assert_whole(first + first, 6.0, rate)  # the same serial number twice


@pytest.mark.parametrize("order", ["ac", "ca", "cc", "aca"])
def test_links_of_any_length(order):
    """`c` is so long that pages between its ends are only examined here and there."""
    links = {"a": encode(music(3.0, 16000), 16000, "OGG"), "c": encode(np.tile(music(4.0, 16000), 20), 16000, "OGG")}
    content = b"".join(links[letter] for letter in order)
    stops = np.cumsum([len(links[letter]) for letter in order]).tolist()
    assert find_ogg_links(io.BytesIO(content)) == list(zip([0, *stops[:-1]], stops, strict=True))
    assert find_ogg_links(io.BytesIO(links["c"])) == [(0, len(links["c"]))]


def test_chain_of_other_rates_and_channels():
    first = encode(music(3.0, 44100), 44100, "OGG", "VORBIS")
    second = encode(np.stack([music(5.0, 48000, 1)] * 2, axis=1), 48000, "OGG", "OPUS")
    audio = load_silently(first + second, RATE)
    assert len(audio) == 8 * RATE
    np.testing.assert_allclose(audio[3 * RATE + 50 :], load_audio(second, RATE)[50:], rtol=0, atol=1e-3)
    assert audio_length(first + second) == (8 * 44100, 44100)
    crop = load_silently(first + second, RATE, start=2.5, duration=1.0)
    np.testing.assert_allclose(crop, audio[round(2.5 * RATE) : round(3.5 * RATE)], rtol=0, atol=1e-3)


def test_multiplexed_ogg_is_one_link():
    """Pages of a second stream, of unknown content, between those of the audio: not a chain."""
    content = encode(music(3.0, 44100), 44100, "OGG", "VORBIS")
    starts = [at for at in range(len(content)) if content[at : at + 4] == b"OggS"]
    pages = [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]

    def other(number: int, flags: int) -> bytes:
        head = b"OggS\0" + bytes([flags]) + bytes(8) + b"\7\7\7\7" + struct.pack("<II", number, 0)
        return head + b"\1\x08" + b"fishhead"

    mixed = [pages[0], other(0, 2)]
    for number, page in enumerate(pages[1:], 1):
        mixed += [other(number, 0), page]
    content = b"".join(mixed)
    assert find_ogg_links(io.BytesIO(content)) == [(0, len(content))]


def test_a_second_link_that_cannot_be_read_is_reported():
    content = encode(music(3.0, 44100), 44100, "OGG", "VORBIS")
    damaged = bytearray(content)
    damaged[28:35] = b"nothing"
    with pytest.warns(UserWarning, match=r"can only be read up to 3\.000 s"):
        assert len(load_audio(content + bytes(damaged), 44100)) == 3 * 44100


# FLAC

FLAC_LENGTH = 18  # offset of the eight bytes whose last 36 bits are the length


def flac(length: int | None = None, seconds: float = 4.0, rate: int = 44100, subtype: str = "PCM_16") -> bytes:
    content = encode(music(seconds, rate), rate, "FLAC", subtype)
    if length is None:
        return content
    (fields,) = struct.unpack(">Q", content[FLAC_LENGTH : FLAC_LENGTH + 8])
    return put(content, FLAC_LENGTH, ">Q", fields >> 36 << 36 | length)


@pytest.mark.parametrize("length", [0, 1, 88200])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_flac_with_a_wrong_length(length, subtype):
    audio = assert_whole(flac(length, subtype=subtype), 4.0)
    np.testing.assert_array_equal(audio, load_audio(flac(subtype=subtype), 44100))
    assert_whole(flac(length) + b"TAG" + bytes(125), 4.0)


def test_flac_with_a_length_that_is_too_large():
    with pytest.warns(UserWarning, match=r"is truncated: its header specifies more than the 4\.000 s that it has"):
        audio = load_audio(flac(5 * 44100), 44100)
    np.testing.assert_array_equal(audio, load_audio(flac(), 44100))
    assert audio_length(flac(5 * 44100)) == (4 * 44100, 44100)


def test_joined_flac():
    first, second = flac(), flac(seconds=3.0)
    audio = assert_whole(first + second, 7.0)
    np.testing.assert_array_equal(audio, np.concatenate([load_audio(first, 44100), load_audio(second, 44100)]))
    assert len(open_flac(io.BytesIO(first + flac(seconds=2.0, rate=16000)))) == 2


@pytest.mark.parametrize("seconds", [1.0, 60.0])
def test_joined_flac_of_equal_length(seconds):
    """The last frame ends at the length in the first header. The longest file is not searched for headers."""
    first, second = (encode(music(seconds, 44100, seed), 44100, "FLAC") for seed in (0, 1))
    assert (len(first + second) > 1 << 22) == (seconds == 60.0)
    audio = assert_whole(first + second, 2 * seconds)
    np.testing.assert_array_equal(audio, np.concatenate([load_audio(first, 44100), load_audio(second, 44100)]))
    content = io.BytesIO(first)
    assert open_flac(content) == [(content, False)]


# wav and the like


@pytest.mark.parametrize("value", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFDB])
@pytest.mark.parametrize("name", ["wav", "aiff", "au"])
def test_unknown_size(name, value):
    file_format, subtype, rate = FORMATS[name]
    content = encode(music(4.0, rate), rate, file_format, subtype)
    at = {"wav": content.find(b"data") + 4, "aiff": content.find(b"SSND") + 4, "au": 8}[name]
    layout = "<I" if name == "wav" else ">I"
    changed = put(content, at, layout, value)
    for size in (content[4:8], b"\0\0\0\0", b"\xff\xff\xff\xff") if name != "au" else (content[4:8],):
        audio = assert_whole(changed[:4] + size + changed[8:], 4.0)
    np.testing.assert_array_equal(audio, load_audio(content, rate))


@pytest.mark.parametrize("value", [0, 2**64 - 1, 2**63 - 1])
@pytest.mark.parametrize("name", ["rf64", "caf", "w64"])
def test_unknown_size_of_eight_bytes(name, value):
    file_format, subtype, rate = FORMATS[name]
    content = encode(music(4.0, rate), rate, file_format, subtype)
    at = {"rf64": content.find(b"ds64") + 16, "caf": content.find(b"data") + 4, "w64": content.find(b"data\xf3") + 16}
    audio = assert_whole(put(content, at[name], ">Q" if name == "caf" else "<Q", value), 4.0)
    np.testing.assert_array_equal(audio, load_audio(content, rate))


@pytest.mark.parametrize("name", ["wav", "aiff", "au", "rf64", "caf"])
def test_too_small_size_is_reported(name):
    file_format, subtype, rate = FORMATS[name]
    content = encode(music(4.0, rate), rate, file_format, subtype)
    at, layout, extra = {
        "wav": (content.find(b"data") + 4, "<I", 0), "aiff": (content.find(b"SSND") + 4, ">I", 8),
        "au": (8, ">I", 0), "rf64": (content.find(b"ds64") + 16, "<Q", 0), "caf": (content.find(b"data") + 4, ">Q", 4),
    }[name]  # fmt: skip
    size = struct.unpack(layout, content[at : at + struct.calcsize(layout)])[0] - extra
    changed = put(content, at, layout, size // 2 + extra)
    with pytest.warns(UserWarning, match="has more audio than its header specifies; all of it is read"):
        np.testing.assert_array_equal(load_audio(changed, rate), load_audio(content, rate))
    assert audio_length(changed) == (4 * rate, rate)
    (song,) = SongLoader([("song", changed)], rate)
    assert "has more audio than its header specifies" in song.problem
    with pytest.warns(UserWarning, match="is truncated"):
        load_audio(put(content, at, layout, 2 * size + extra), rate)


@pytest.mark.parametrize(
    "rest",
    [
        b"LIST\4\0\0\0abcd", b"LIST\4\0\0\0abcdid3 \2\0\0\0ab", b"TAG" + bytes(125), b"ID3\4" + bytes(2000),
        b"APETAGEX" + b"\1" * 300, bytes(5000), b"junk",
    ],
)  # fmt: skip
def test_what_follows_the_audio_is_not_read(rest):
    content = encode(music(2.0, 16000), 16000, "WAV", "PCM_16")
    audio = load_silently(content + rest, 16000)
    np.testing.assert_array_equal(audio, load_silently(content, 16000))
    whole = put(content, content.find(b"data") + 4, "<I", 0)[:44]  # a header, and no audio
    with pytest.raises(ValueError, match="has no samples"):
        load_audio(whole + b"LIST\4\0\0\0abcd")


def test_joined_wav():
    first = encode(music(2.0, 16000), 16000, "WAV", "PCM_16")
    second = encode(np.stack([music(1.0, 16000, 1)] * 2, axis=1), 16000, "WAV", "PCM_24")
    audio = assert_whole(first + second, 3.0, 16000)
    np.testing.assert_array_equal(audio, np.concatenate([load_audio(first, 16000), load_audio(second, 16000)]))


def test_damage_is_reported_with_its_position():
    content = bytearray(flac(seconds=20.0))
    middle = len(content) // 2
    content[middle : middle + 30000] = bytes(30000)
    with pytest.warns(UserWarning, match=r"is damaged: it cannot be decoded from (8|9|10)\.\d\d\d s on"):
        audio = load_audio(bytes(content), 44100)
    assert 8 * 44100 < len(audio) < 11 * 44100
