import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.models import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers import AutoFeatureExtractor, AutoProcessor, DataCollatorWithPadding
from transformers.utils import logging as transformers_logging

from musicfm_hf import MusicFMConfig, MusicFMFeatureExtractor

RATE = 24000


@pytest.fixture(scope="module")
def extractor():
    return MusicFMFeatureExtractor()


def ramp(samples: int) -> np.ndarray:
    return np.linspace(-0.5, 0.5, samples, dtype=np.float32)


def test_one_array_and_its_mask(extractor):
    batch = extractor(ramp(3000), sampling_rate=RATE, return_tensors="pt")
    assert batch["input_values"].dtype == torch.float32
    torch.testing.assert_close(batch["input_values"][0], torch.from_numpy(ramp(3000)), rtol=0, atol=0)
    assert batch["attention_mask"].tolist() == [[1] * 3000]


def test_a_misspelt_setting(tmp_path):
    with pytest.raises(ValueError, match=r"no argument `sampling_rates`\. Did you mean `sampling_rate`"):
        MusicFMFeatureExtractor(sampling_rates=16000)
    MusicFMFeatureExtractor(padding_side="left", processor_class="Any").save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).padding_side == "left"
    with pytest.raises(ValueError, match=r"no argument `do_normalise`\. Did you mean `do_normalize`"):
        MusicFMFeatureExtractor.from_dict({"do_normalise": True})


def test_list_of_different_lengths(extractor):
    batch = extractor([ramp(2000), ramp(3000)], sampling_rate=RATE, return_tensors="np", pad_to_multiple_of=512)
    assert batch["input_values"].shape == (2, 3072)
    assert batch["attention_mask"].sum(1).tolist() == [2000, 3000]
    assert (batch["input_values"][0, 2000:] == 0).all()


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (np.int16, -16384, -0.5),
        (np.int32, 2**30, 0.5),
        (np.int8, 64, 0.5),
        (np.uint8, 192, 0.5),
        (np.uint8, 128, 0.0),
        (np.float64, 0.25, 0.25),
        (np.float16, 0.25, 0.25),
    ],
)
def test_sample_formats(extractor, dtype, value, expected):
    batch = extractor(np.full(2000, value, dtype=dtype), sampling_rate=RATE, return_tensors="np")
    assert batch["input_values"].dtype == np.float32
    assert (batch["input_values"] == expected).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_torch_and_lists(extractor, dtype):
    batch = extractor(torch.full((2, 2000), 0.5, dtype=dtype, requires_grad=True), RATE, return_tensors="np")
    assert batch["input_values"].shape == (2, 2000)
    assert (batch["input_values"] == 0.5).all()
    assert extractor([0.5] * 2000, RATE, return_tensors="np")["input_values"].shape == (1, 2000)


def test_stereo_is_an_explicit_choice(extractor):
    stereo = np.stack([np.full(2000, 0.2), np.full(2000, 0.6)])
    with pytest.raises(ValueError, match=r"Item 0 has shape \(2, 2000\).*to_mono"):
        extractor([stereo], RATE)
    for choice, expected in (("mean", 0.4), ("left", 0.2), ("right", 0.6)):
        batch = extractor(stereo, RATE, to_mono=choice, return_tensors="np")
        np.testing.assert_allclose(batch["input_values"], np.full((1, 2000), expected), rtol=1e-6)
    assert extractor(np.stack([stereo] * 3), RATE, to_mono="mean", return_tensors="np")["input_values"].shape[0] == 3
    with pytest.raises(ValueError, match="transpose"):
        extractor(stereo.T, RATE, to_mono="mean")
    with pytest.raises(ValueError, match="`to_mono` must be one of mean, left, right"):
        extractor(stereo, RATE, to_mono="middle")


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ([], "empty list"),
        ([ramp(2000), np.zeros(0)], "Item 1 is empty"),
        ([ramp(2000), ramp(1024)], "Item 1 has 1024 samples, but the model needs at least 1025"),
        ([ramp(2000), np.where(np.arange(2000) == 7, np.nan, 0.0)], "Item 1 has NaN or infinite values.*sample 7"),
        (np.where(np.arange(2000) == 7, np.inf, 0.0), "Item 0 has NaN or infinite"),
        (np.full(2000, 1e300), "Item 0 has NaN or infinite"),
        (np.zeros((0, 2000)), "at least one waveform"),
        ([[0.0] * 2000, [[0.0]]], "Item 1 has shape"),
        ([[0.0, [0.0]]], "Item 0 is not an array of numbers"),
    ],
)
def test_unusable_audio_is_named(extractor, audio, message):
    with pytest.raises(ValueError, match=message):
        extractor(audio, RATE)


def test_rows_of_a_data_set(extractor):
    """As `datasets` decodes audio, or Transformers' pipelines take it."""
    row = {"path": "a.wav", "array": ramp(2000), "sampling_rate": RATE}
    expected = extractor(ramp(2000), RATE)["input_values"][0]
    raw = {"raw": torch.from_numpy(ramp(2000)), "sampling_rate": np.int64(RATE)}
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(ramp(2000))[None], sample_rate=RATE)
    )
    for audio in (row, raw, decoder):
        for batch in (extractor(audio), extractor([audio, audio], RATE)):
            np.testing.assert_array_equal(batch["input_values"][0], expected)
    with pytest.raises(ValueError, match="44100 Hz, but the model needs 24000 Hz"):
        extractor(row | {"sampling_rate": 44100})
    with pytest.raises(ValueError, match=r"must have one sampling rate, got 24000, 44100 Hz"):
        extractor([row, row | {"sampling_rate": 44100}])
    with pytest.raises(
        ValueError, match=r"Item 1 must be a row with `array` and `sampling_rate`, got keys \['path'\]"
    ):
        extractor([row, {"path": "a.wav"}])
    with pytest.raises(ValueError, match=r"Item 1 is null"):
        extractor([ramp(2000), None], RATE)


def test_channels_that_cancel(extractor):
    audio = np.stack([ramp(2000), -ramp(2000) * np.float32(0.999)])
    with pytest.warns(UserWarning, match=r"The channels of Item 0 cancel each other out: .* Channel 1 is used"):
        waveform = extractor(audio, RATE, to_mono="mean")["input_values"][0]
    np.testing.assert_array_equal(waveform, audio[0])
    audio[1] *= np.float32(0.9)  # the average is 26 dB weaker
    np.testing.assert_array_equal(extractor(audio, RATE, to_mono="mean")["input_values"][0], audio.mean(axis=0))


@pytest.mark.parametrize("audio", ["song.wav", b"abc", np.zeros(2000, bool), np.zeros(2000, complex)])
def test_what_is_not_audio_is_a_type_error(extractor, audio):
    with pytest.raises(TypeError, match=r"Item 0 has dtype|Item 0 is a file or its bytes, not a waveform"):
        extractor(audio, RATE)


def test_sampling_rate(extractor, caplog):
    with pytest.raises(ValueError, match="44100 Hz, but the model needs 24000 Hz"):
        extractor(ramp(2000), sampling_rate=44100)
    logging.getLogger("transformers").propagate = True
    transformers_logging.warning_once.cache_clear()  # other tests of this process may have had the warning
    extractor(ramp(2000))
    assert "assumed to be at 24000 Hz" in caplog.text


def test_samples_of_16_bits_in_int32(extractor, caplog):
    logging.getLogger("transformers").propagate = True
    transformers_logging.warning_once.cache_clear()
    samples = (ramp(2000) * 2**15).astype(np.int32)
    extractor(samples * 2**16, RATE)
    extractor(0 * samples, RATE)
    assert "int32" not in caplog.text
    extractor(samples, RATE)
    assert f"int32 with a peak of {np.abs(samples).max()}, which is nearly silent" in caplog.text


def test_truncation_and_max_length(extractor):
    batch = extractor(
        [ramp(2000), ramp(5000)], RATE, padding="max_length", max_length=3000, truncation=True, return_tensors="np"
    )
    assert batch["attention_mask"].sum(1).tolist() == [2000, 3000]
    with pytest.raises(ValueError, match="`max_length` is 100 samples, but the model needs at least 1025"):
        extractor(ramp(2000), RATE, truncation=True, max_length=100)


def test_mask_can_be_left_out(extractor):
    assert "attention_mask" not in extractor(ramp(2000), RATE, return_attention_mask=False)
    assert "attention_mask" not in MusicFMFeatureExtractor(return_attention_mask=False)(ramp(2000), RATE)


def test_saved_and_loaded(tmp_path):
    MusicFMFeatureExtractor(sampling_rate=16000, min_samples=513).save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(loaded, MusicFMFeatureExtractor)
    assert (loaded.sampling_rate, loaded.min_samples, loaded.return_attention_mask) == (16000, 513, True)
    MusicFMConfig(**TINY).save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), MusicFMFeatureExtractor)


ANY_ARRAY = hnp.arrays(
    dtype=st.one_of(hnp.scalar_dtypes(), hnp.unicode_string_dtypes(max_len=3)),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=40),
)
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5), ANY_ARRAY
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(audio=ANYTHING, to_mono=st.sampled_from([None, "mean", "left"]))
def test_no_input_crashes(audio, to_mono):
    extractor = MusicFMFeatureExtractor(min_samples=4)
    try:
        batch = extractor(audio, RATE, return_tensors="np", to_mono=to_mono)
    except (ValueError, TypeError):
        return  # any other exception fails the test
    assert batch["input_values"].dtype == np.float32
    assert batch["input_values"].shape == batch["attention_mask"].shape
    assert np.isfinite(batch["input_values"]).all()


def test_waveforms_stay_float32_when_features_are_moved():
    audio = 1e-4 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    features = MusicFMFeatureExtractor()(audio, sampling_rate=RATE, return_tensors="pt")
    quiet = features["input_values"].clone()
    assert torch.equal(features.to("cpu", torch.bfloat16)["input_values"], quiet)
    assert torch.equal(features.to(dtype=torch.float16)["input_values"], quiet)
    assert features.to("meta")["attention_mask"].is_meta


def test_without_tensors_nothing_is_padded_so_that_a_collator_knows_the_padding():
    """As in Wav2Vec2: scripts keep the lists alone, and leave the padding to `DataCollatorWithPadding`."""
    extractor = MusicFMFeatureExtractor()
    waveforms = [ramp(2000), ramp(5000)]
    lists = extractor(waveforms, sampling_rate=RATE)
    assert [len(values) for values in lists["input_values"]] == [2000, 5000]
    rows = [{"input_values": values, "labels": 0} for values in lists["input_values"]]
    batch = DataCollatorWithPadding(extractor)(rows)
    assert batch["attention_mask"].sum(-1).tolist() == [2000, 5000]
    expected = extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    assert batch["input_values"].equal(expected["input_values"])
    assert batch["attention_mask"].equal(expected["attention_mask"])
    padded = extractor(waveforms, sampling_rate=RATE, padding=True)
    assert [len(values) for values in padded["input_values"]] == [5000, 5000]
