"""Audio effects: what they change, by how much, and that they move nothing in time."""

import random
import sys

import numpy as np
import pytest
import torch
from helpers.audio import music
from scipy import signal

from musicfm_hf.audio import effects
from musicfm_hf.audio.effect_chain import EffectChain
from musicfm_hf.audio.effects import CHAIN

RATE = 24000
EFFECTS = [effect for effect, _ in CHAIN]


def decibels(ratio: float) -> float:
    return 20 * float(np.log10(ratio))


def rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_impulse_stays_in_place(effect):
    """Within 1 ms; the codecs without the delay of their encoders."""
    impulse = np.zeros(96000, dtype=np.float32)
    impulse[70000:70002] = 0.5, -0.3  # after the first block that an encoder gets
    for seed in range(6 if effect is effects.code else 30):
        changed = effect(impulse, RATE, np.random.default_rng(seed))
        assert abs(int(np.argmax(np.abs(changed))) - 70000) <= RATE / 1000, seed


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize(("samples", "rate"), [(1025, 24000), (16000, 16000), (30001, 30000)])
def test_shape_and_values(effect, samples, rate):
    waveform = music(samples / rate, rate)
    original = waveform.copy()
    changed, again = (effect(waveform, rate, np.random.default_rng(3)) for _ in range(2))
    assert (changed.dtype, changed.shape) == (np.float32, (samples,))
    assert np.isfinite(changed).all()
    np.testing.assert_array_equal(changed, again)
    np.testing.assert_array_equal(waveform, original)
    assert not np.array_equal(changed, original)


@pytest.mark.parametrize(
    ("shape", "gains"), [("low", (6.0, 3.0, 0.0)), ("peak", (0.0, 6.0, 0.0)), ("high", (0.0, 3.0, 6.0))]
)
def test_response_of_the_filters(shape, gains):
    """At 0 Hz, at the frequency of the filter, where a shelf has half its gain, and at half the sampling rate."""
    section = effects._filter_section(shape, 1000, 6.0, 0.7, RATE)
    _, response = signal.sosfreqz(section[None], worN=np.array([0, 1000, RATE / 2]), fs=RATE)
    assert 20 * np.log10(np.abs(response)) == pytest.approx(gains, abs=1e-6)


def test_a_compressor_evens_out_the_level():
    """Two seconds of noise at 0 dB after two at -20 dB; the ratio is 2 to 8, the threshold at most 15 dB lower."""
    noise = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32) * 0.1
    noise[: 2 * RATE] *= 0.1
    for seed in range(10):
        changed = effects.compress(noise, RATE, np.random.default_rng(seed))
        difference = decibels(rms(changed[3 * RATE :]) / rms(changed[RATE : 2 * RATE]))
        assert 2 < difference < 19.5, seed
        assert rms(changed) == pytest.approx(rms(noise), rel=1e-4)


def test_a_room_lasts_and_is_not_louder_than_the_sound():
    impulse = np.zeros(2 * RATE, dtype=np.float32)
    impulse[1000] = 0.5
    for seed in range(10):
        changed = effects.reverberate(impulse, RATE, np.random.default_rng(seed))
        tail = np.delete(changed, 1000)
        assert -20.1 < decibels(np.linalg.norm(tail) / changed[1000]) < -2.9
        assert np.abs(changed[:1000]).max() < 1e-6
        assert np.linalg.norm(changed[1000 + round(1.25 * RATE) :]) < 1e-6


def test_noise_is_15_to_40_decibels_weaker():
    waveform = music(2.0)
    ratios = [
        decibels(rms(waveform) / rms(effects.add_noise(waveform, RATE, np.random.default_rng(seed)) - waveform))
        for seed in range(30)
    ]
    assert 14.9 < min(ratios) < 20
    assert 35 < max(ratios) < 40.1


def test_every_band_of_a_device_loses_the_lowest_and_highest_sound():
    times = np.arange(RATE) / RATE
    for frequency, bounds in ((8.0, (-90, -10)), (1000.0, (-3, 0.1)), (11900.0, (-120, -5))):
        tone = np.sin(2 * np.pi * frequency * times).astype(np.float32)
        for seed in range(12):
            changed = effects.limit_band(tone, RATE, np.random.default_rng(seed))
            low, high = bounds
            assert low < decibels(rms(changed[RATE // 2 :]) / rms(tone)) < high, (frequency, seed)


def test_clipping_lowers_the_peak_by_1_to_9_decibels():
    waveform = music(1.0)
    for seed in range(20):
        changed = effects.clip(waveform, RATE, np.random.default_rng(seed))
        ratio = decibels(np.abs(changed).max() / np.abs(waveform).max())
        assert -10.5 < ratio < -0.9, seed  # tanh(peak / limit) is at least 0.8


@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_codecs_keep_what_is_heard(gain):
    """Also above full scale, which files of integers would clip."""
    waveform = gain * music(3.0) / np.float32(0.5)
    for seed in range(4):
        changed = effects.code(waveform, RATE, np.random.default_rng(seed))
        assert np.corrcoef(waveform, changed)[0, 1] > 0.95
        assert rms(changed) == pytest.approx(rms(waveform), rel=0.1)


def test_the_level_stays_within_full_scale():
    waveform = music(1.0)
    for seed in range(20):
        changed = effects.change_level(waveform, RATE, np.random.default_rng(seed))
        ratio = changed[np.abs(waveform).argmax()] / waveform[np.abs(waveform).argmax()]
        assert -15.1 < decibels(ratio) < 6.1
        np.testing.assert_allclose(changed, waveform * ratio, rtol=1e-5, atol=1e-7)
        assert np.abs(changed).max() <= 1 + 1e-6


def test_share_of_waveforms_that_are_changed():
    chain, waveform = EffectChain(0.3, RATE), music(0.1)
    count = sum(chain(waveform, np.random.default_rng(seed)) is not waveform for seed in range(300))
    assert 66 <= count <= 114  # 90, and three standard deviations of a binomial distribution
    always = EffectChain(1.0, RATE)
    assert all(always(waveform, np.random.default_rng(seed)) is not waveform for seed in range(30))


def test_a_chain_depends_on_its_generator_alone():
    chain, waveform = EffectChain(1.0, RATE), music(0.5)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    changed = [chain(waveform, np.random.default_rng(seed)) for seed in (0, 1, 0)]
    np.testing.assert_array_equal(changed[0], changed[2])
    assert not np.array_equal(changed[0], changed[1])
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.get_rng_state().equal(states[2])


def test_without_effects_nothing_is_drawn():
    generator, waveform = np.random.default_rng(0), music(0.1)
    assert EffectChain(0.0, RATE)(waveform, generator) is waveform
    assert generator.random() == np.random.default_rng(0).random()


def test_silence_stays_silent():
    silence = np.zeros(5000, dtype=np.float32)
    chain = EffectChain(1.0, RATE)
    assert all(chain(silence, np.random.default_rng(seed)) is silence for seed in range(5))


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match=r"`effects` must be a probability from 0 to 1, got 1\.5"):
        EffectChain(1.5, RATE)
    monkeypatch.setattr("soundfile.available_formats", lambda: {"WAV": "", "OGG": ""})
    EffectChain(0.0, RATE)
    with pytest.raises(ImportError, match="cannot encode MP3 and Ogg, which `effects` needs: `pip install -U"):
        EffectChain(0.5, RATE)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "musicfm_hf.audio.effects", None)
    with pytest.raises(ImportError, match=r"`effects` needs scipy: pip install 'musicfm_hf\[effects\]'"):
        EffectChain(0.5, RATE)
