"""Channels are averaged, unless they cancel each other."""

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import encode, music
from helpers.models import head

from musicfm_hf import MusicFMFeatureExtractor, annotate, load_audio
from musicfm_hf.audio.waveform import to_waveform
from musicfm_hf.data.decoding import SongLoader

RATE = 24000
MESSAGE = r"channels of .* cancel each other out: .* Channel 1 is used instead"


class Decoder:
    """What `datasets` decodes an audio column to: an object of torchcodec's interface."""

    def __init__(self, channels: np.ndarray):
        self.channels = channels

    def get_all_samples(self) -> SimpleNamespace:
        return SimpleNamespace(data=torch.from_numpy(self.channels), sample_rate=RATE)


def stereo(left: np.ndarray, right: np.ndarray) -> bytes:
    return encode(np.stack([left, right], axis=1), RATE, "WAV", "FLOAT")


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_channels_that_cancel(noise):
    """The mean would be silence, or noise at -50 dB."""
    song = music(4.0)
    other = -song + noise * np.random.default_rng(0).standard_normal(len(song)).astype(np.float32)
    content = stereo(song, other)
    with pytest.warns(UserWarning, match=MESSAGE):
        np.testing.assert_array_equal(load_audio(content), song)
    with pytest.warns(UserWarning, match=MESSAGE):
        crop = load_audio(content, start=1.0, duration=2.0)
    np.testing.assert_array_equal(crop, song[RATE : 3 * RATE])
    (decoded,) = SongLoader([("song", content)], RATE)
    np.testing.assert_array_equal(decoded.content, song)
    assert "cancel each other out" in decoded.problem
    channels = np.stack([song, other])
    extractor = MusicFMFeatureExtractor()
    with pytest.warns(UserWarning, match=MESSAGE):
        inputs = extractor([channels], sampling_rate=RATE, to_mono="mean")
    np.testing.assert_array_equal(inputs["input_values"][0], song)
    with pytest.warns(UserWarning, match=MESSAGE):
        np.testing.assert_array_equal(to_waveform(Decoder(channels), None, RATE), song)


def test_resampled_channels_that_cancel():
    song = music(4.0, 44100)
    expected = load_audio(encode(song, 44100, "WAV", "FLOAT"))
    with pytest.warns(UserWarning, match=MESSAGE):
        found = load_audio(encode(np.stack([song, -song], axis=1), 44100, "WAV", "FLOAT"))
    np.testing.assert_array_equal(found, expected)


def test_the_first_of_the_loud_channels_is_used():
    song = music(2.0)
    audio = np.stack([np.zeros_like(song), 0.001 * song, song, -song], axis=1)
    with pytest.warns(UserWarning, match="Channel 3 is used"):
        np.testing.assert_array_equal(load_audio(encode(audio, RATE, "WAV", "FLOAT")), song)


def test_it_is_not_annotated_as_silence():
    song = music(3.0)
    with pytest.warns(UserWarning, match=MESSAGE):
        found = annotate(head("chord"), stereo(song, -song))
    expected = annotate(head("chord"), song, RATE)
    assert found.chords == expected.chords


@pytest.mark.parametrize("kind", ["same", "wide", "one side", "silence"])
def test_other_channels_are_averaged_as_ever(kind):
    left = music(2.0)
    right = {"same": left, "wide": -0.8 * left + 0.2 * music(2.0, seed=1), "one side": 0 * left, "silence": 0 * left}[
        kind
    ]
    left = 0 * left if kind == "silence" else left
    content = stereo(left, right.astype(np.float32))
    expected = soundfile.read(io.BytesIO(content), dtype="float32")[0].mean(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_audio(content), expected)
        inputs = MusicFMFeatureExtractor()(
            torch.from_numpy(np.stack([left, right]).astype(np.float32)), sampling_rate=RATE, to_mono="mean"
        )
    np.testing.assert_array_equal(inputs["input_values"][0], expected)
