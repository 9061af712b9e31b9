"""Numbers of any library, values of `datasets` and pipelines, and messages about mistakes."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.models import head

from musicfm_hf import MusicFMFeatureExtractor, annotate, embed, embed_files, load_audio
from musicfm_hf.audio.reading import audio_length
from musicfm_hf.audio.waveform import to_waveform
from musicfm_hf.data.catalog import DatasetAudio
from musicfm_hf.data.decoding import SongLoader
from musicfm_hf.inference.embedding import WindowSettings

RATE = 24000


class Decoder:
    """What `datasets` decodes an audio column to: an object of torchcodec's interface."""

    def __init__(self, channels: np.ndarray, rate: int):
        self.channels, self.rate = channels, rate

    def get_all_samples(self) -> SimpleNamespace:
        return SimpleNamespace(data=torch.from_numpy(self.channels), sample_rate=self.rate)


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "song.wav"
    soundfile.write(path, music(2.0), RATE, subtype="FLOAT")
    return path


RATES = [np.int64(RATE), np.int32(RATE), np.uint16(RATE), np.float64(RATE), float(RATE), torch.tensor(RATE)]


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: type(rate).__name__)
def test_rates_of_any_type(song, tiny_model, rate):
    expected = music(2.0)
    np.testing.assert_array_equal(load_audio(song, rate), expected)
    np.testing.assert_array_equal(
        load_audio(song, rate, start=np.float32(0.5), duration=np.int64(1)), expected[RATE // 2 : 3 * RATE // 2]
    )
    np.testing.assert_array_equal(to_waveform(expected, rate, RATE), expected)
    np.testing.assert_array_equal(to_waveform({"array": expected, "sampling_rate": rate}, None, RATE), expected)
    np.testing.assert_array_equal(
        MusicFMFeatureExtractor()(expected, sampling_rate=rate, return_tensors="np")["input_values"][0], expected
    )
    frames = embed(tiny_model, expected, rate, layer=np.int64(1), batch_size=np.int32(2), window_seconds=np.float32(2))
    torch.testing.assert_close(frames.frames, embed(tiny_model, expected, RATE, layer=1).frames)
    assert annotate(head("chord"), expected, rate).duration == 2.0


def test_numbers_of_embed_files(song, tiny_model, tmp_path):
    settings = WindowSettings(np.int64(1), np.float64(2.0), None, np.int64(1))
    assert embed_files(tiny_model, [("song", song)], tmp_path, settings, np.float32(2.0), num_workers=0) == []
    assert (tmp_path / "song.safetensors").is_file()


VALUES = {
    "array": lambda audio: {"array": audio, "sampling_rate": RATE},
    "array and path": lambda audio: {"array": audio, "sampling_rate": RATE, "path": "elsewhere.wav", "bytes": None},
    "raw": lambda audio: {"raw": audio, "sampling_rate": RATE},
    "decoder": lambda audio: Decoder(audio[None], RATE),
    "decoder of two channels": lambda audio: Decoder(np.stack([audio, audio]), RATE),
    "list": lambda audio: {"array": audio.tolist(), "sampling_rate": RATE},
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_of_datasets_and_pipelines(tiny_model, kind):
    audio = music(2.0)
    value = VALUES[kind](audio)
    np.testing.assert_allclose(to_waveform(value, None, RATE), audio, rtol=0, atol=1e-7)
    extractor = MusicFMFeatureExtractor()
    np.testing.assert_array_equal(extractor(value, return_tensors="np")["input_values"][0], audio)
    batch = extractor([value, VALUES[kind](audio[:RATE])], sampling_rate=RATE, return_tensors="pt")
    assert batch["attention_mask"].sum(1).tolist() == [2 * RATE, RATE]
    torch.testing.assert_close(embed(tiny_model, value).frames, embed(tiny_model, audio, RATE).frames)


def test_rows_of_datasets_themselves():
    """Nulls in an audio column are listed by the index of their row, and the others are read."""
    import datasets

    buffer = io.BytesIO()
    soundfile.write(buffer, music(1.0), RATE, format="WAV", subtype="FLOAT")
    rows = [{"bytes": buffer.getvalue(), "path": None}, None, {"bytes": None, "path": None}]
    dataset = datasets.Dataset.from_dict({"audio": rows}).cast_column("audio", datasets.Audio(decode=False))
    loader = SongLoader([(str(row), DatasetAudio(dataset, row, "audio")) for row in range(3)], RATE)
    (song,) = loader
    np.testing.assert_array_equal(song.content, music(1.0))
    assert [name for name, _ in loader.unusable] == ["1", "2"]
    for row in (1, 2):
        for read in (load_audio, audio_length):
            with pytest.raises(ValueError, match="The audio is null"):
                read(DatasetAudio(dataset, row, "audio"))


@pytest.mark.parametrize("rate", [0, -1, 24000.5, "24000", None, True, float("nan"), [24000]])
def test_wrong_rates(song, rate):
    with pytest.raises(ValueError, match="`sampling_rate` must be a positive integer, in Hz, got"):
        load_audio(song, rate)
    with pytest.raises(ValueError, match="`sampling_rate` must be the rate of the waveform in Hz, got"):
        to_waveform(music(1.0), rate, RATE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda song, model: load_audio(song, start="1"), TypeError, "`start` must be a number of seconds, got '1'"),
        (lambda song, model: load_audio(song, duration=[1]), TypeError, "`duration` must be a number of seconds"),
        (lambda song, model: load_audio(music(1.0)), TypeError, "`source` must be a path"),
        (lambda song, model: audio_length(None), ValueError, "The audio is null"),
        (lambda song, model: embed(model, None), ValueError, "The audio is null"),
        (lambda song, model: embed(head("chord"), song), TypeError, "must be a MusicFMModel, got "
            r"MusicFMForAudioFrameClassification\. Pass its encoder, `model\.musicfm`"),
        (lambda song, model: embed("folder", song), TypeError, r"must be a MusicFMModel, got str\. Load one with"),
        (lambda song, model: embed_files(head("chord"), [("a", song)], "out", WindowSettings()), TypeError,
            r"Pass its encoder, `model\.musicfm`"),
        (lambda song, model: MusicFMFeatureExtractor()(None, RATE), ValueError, "Item 0 is null"),
        (lambda song, model: MusicFMFeatureExtractor()([music(1.0), None], RATE), ValueError, "Item 1 is null"),
        (lambda song, model: MusicFMFeatureExtractor()(str(song), RATE), TypeError,
            r"Item 0 is a file or its bytes, not a waveform: read it with `musicfm_hf\.load_audio`"),
        (lambda song, model: MusicFMFeatureExtractor()({"path": "a.wav", "bytes": None}, RATE), ValueError,
            "Item 0 must be a row with `array` and `sampling_rate`"),
        (lambda song, model: MusicFMFeatureExtractor()({"array": music(1.0)}, RATE), ValueError,
            "Item 0 must be a row with `array` and `sampling_rate`"),
        (lambda song, model: MusicFMFeatureExtractor()({"array": music(1.0), "sampling_rate": 16000}), ValueError,
            "The audio is at 16000 Hz, but the model needs 24000 Hz"),
        (lambda song, model: MusicFMFeatureExtractor()({"array": music(1.0), "sampling_rate": 16000}, RATE),
            ValueError, "All audio must have one sampling rate, got 16000, 24000 Hz"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(song, tiny_model, call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(song, tiny_model)
    assert len(str(caught.value)) < 300
