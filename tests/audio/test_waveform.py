"""Everything that is accepted as audio becomes the same waveform."""

import io

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.models import head

from musicfm_hf import annotate, embed, load_audio
from musicfm_hf.audio.waveform import to_waveform


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "song.wav"
    soundfile.write(path, music(2.0, 16000), 16000, subtype="FLOAT")
    return path


def read(path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def test_all_kinds_give_the_same(song):
    expected = load_audio(song, 24000)
    waveform, content = read(song), song.read_bytes()
    for audio, rate in [
        (waveform, 16000),
        (torch.from_numpy(waveform), 16000),
        (waveform.tolist(), 16000),
        (waveform[None], 16000),
        ({"array": waveform, "sampling_rate": 16000}, None),
        ({"array": waveform, "sampling_rate": 16000, "path": "elsewhere.wav"}, None),
        (song, None),
        (str(song), None),
        (content, None),
        (io.BytesIO(content), None),
        ({"bytes": content, "path": None}, None),
        ({"bytes": None, "path": str(song)}, None),
    ]:
        found = to_waveform(audio, rate, 24000)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=str(type(audio)))


def test_integers_are_scaled():
    found = to_waveform(np.array([-(2**15), 0, 2**14], dtype=np.int16), 24000, 24000)
    np.testing.assert_array_equal(found, [-1.0, 0.0, 0.5])


def test_models_take_them(song, tiny_model):
    expected = embed(tiny_model, read(song), 16000)
    for audio in (song, song.read_bytes(), {"array": read(song), "sampling_rate": 16000}):
        found = embed(tiny_model, audio)
        torch.testing.assert_close(found.frames, expected.frames, rtol=0, atol=1e-4)
    assert embed(tiny_model, song, layer=1).frames.shape == expected.frames.shape


def test_a_waveform_is_not_copied_unless_pytorch_needs_it():
    waveform = music(1.0)
    assert np.shares_memory(to_waveform(waveform, 24000, 24000), waveform)
    assert np.shares_memory(to_waveform(torch.from_numpy(waveform), 24000, 24000), waveform)
    fixed = waveform.copy()
    fixed.flags.writeable = False
    for other in (fixed, np.flip(np.flip(waveform).copy())):  # read-only; with a negative stride
        copy = to_waveform(other, 24000, 24000)
        assert copy.flags.writeable
        assert copy.flags.c_contiguous
        np.testing.assert_array_equal(copy, waveform)


def test_annotating_takes_them(song):
    assert annotate(head("chord"), song).duration == 2.0
    assert annotate(head("chord"), {"array": read(song), "sampling_rate": 16000}).duration == 2.0


@pytest.mark.parametrize(
    ("audio", "rate", "error", "message"),
    [
        (np.zeros(8), None, ValueError, "`sampling_rate` must be the rate of the waveform in Hz, got None"),
        (np.zeros(8), -1, ValueError, "got -1"),
        (b"RIFF", 24000, ValueError, "A file has its own sampling rate: omit `sampling_rate`, got 24000"),
        ({"path": "a.wav"}, 24000, ValueError, "A row of a data set has its own sampling rate"),
        ({"array": np.zeros(8)}, None, ValueError, "A row with `array` needs its `sampling_rate`"),
        ({"array": np.zeros(8), "sampling_rate": 24000}, 24000, ValueError, "has its own sampling rate"),
        ("nowhere.wav", None, FileNotFoundError, "nowhere.wav does not exist"),
        (b"not audio", None, ValueError, "is not audio that can be read"),
        (np.zeros((8, 2)), 24000, ValueError, r"one waveform of shape \(samples,\), got \(8, 2\)"),
        (np.zeros(0), 24000, ValueError, "is empty"),
        (np.array([0.0, np.nan]), 24000, ValueError, "NaN or infinite"),
        (np.array(["a"]), 24000, TypeError, "dtype"),
    ],
)  # fmt: skip
def test_mistakes(audio, rate, error, message):
    with pytest.raises(error, match=message):
        to_waveform(audio, rate, 24000)
