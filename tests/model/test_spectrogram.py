import math

import numpy as np
import pytest
import torch
from helpers.audio import music, padded_batch
from helpers.models import TINY
from transformers.audio_utils import chroma_filter_bank

from musicfm_hf import MusicFMConfig
from musicfm_hf.model.spectrogram_musicfm import (
    MusicFMLogMel,
    chroma,
    chroma_filters,
    constant_q,
    power_spectrum,
    window_statistics,
)

CONFIG = MusicFMConfig(**TINY)


def sine(frequency: float, seconds: float = 2.0, amplitude: float = 1.0) -> torch.Tensor:
    """`(1, samples)`, computed in float64."""
    time = torch.arange(round(seconds * 24000), dtype=torch.float64) / 24000
    return (amplitude * torch.sin(2 * math.pi * frequency * time)).float()[None]


def frequency_of(index: int) -> float:
    return CONFIG.cqt_fmin * 2 ** (index / CONFIG.cqt_bins_per_octave)


# The spectrogram


def test_power_of_a_sine():
    """A sine between the edges has the power (A · sum of the window / 2)² in its bin: 0.5 · 1024 / 2 here."""
    power = power_spectrum(sine(24000 * 100 / 2048, amplitude=0.5), None, CONFIG)
    assert power.shape == (1, 200, 1025)
    assert power[0, 100].argmax() == 100
    assert power[0, 100, 100] == pytest.approx((0.5 * 1024 / 2) ** 2, rel=1e-4)


def test_log_mel_with_statistics_of_each_band():
    audio = torch.from_numpy(music(1.0))[None]
    decibels = MusicFMLogMel(CONFIG, 0.0, 1.0)(audio, None)
    mean, std = [0.1 * band for band in range(128)], [1.0 + band for band in range(128)]
    config = MusicFMConfig(**TINY, mel_mean=mean, mel_std=std)
    expected = (decibels - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(MusicFMLogMel(config)(audio, None), expected)
    alike = MusicFMConfig(**TINY, mel_mean=[3.0] * 128, mel_std=[2.0] * 128)
    torch.testing.assert_close(MusicFMLogMel(alike)(audio, None), (decibels - 3.0) / 2.0)
    assert MusicFMLogMel(config, 0.0, 1.0, 16)(audio, None).shape == (1, 100, 16)


def test_log_mel_is_zero_in_the_padding_with_statistics_of_each_band():
    config = MusicFMConfig(**TINY, mel_mean=[5.0] * 128, mel_std=[2.0] * 128)
    values, mask = padded_batch([music(0.5), music(1.0)], value=7.0)
    mel = MusicFMLogMel(config)(values, mask)
    alone = MusicFMLogMel(config)(values[:1, :12000], None)
    torch.testing.assert_close(mel[:1, :50], alone, rtol=0, atol=1e-4)
    assert not mel[0, 50:].any()


# Constant-Q


@pytest.mark.parametrize("index", [48, 145, 335])
def test_constant_q_of_a_sine(index):
    """0 dB is 2; and the bin below, one full width at half power away, has a sixteenth of the power."""
    bins = constant_q(sine(frequency_of(index), 4.0), None, CONFIG)
    assert bins.shape == (1, 100, 336)
    middle = bins[0, 40:60]
    assert (middle.argmax(-1) == index).all()
    torch.testing.assert_close(middle[:, index], torch.full((20,), 2.0), rtol=0, atol=2e-3)
    lower = 2.0 + math.log10(1 / 16) / 2
    torch.testing.assert_close(middle[:, index - 1], torch.full((20,), lower), rtol=0, atol=5e-3)


def test_constant_q_levels():
    quiet = constant_q(sine(frequency_of(200), 2.0, amplitude=0.01), None, CONFIG)
    assert quiet[0, 25, 200] == pytest.approx(0.0, abs=2e-3)  # -40 dB
    assert quiet[0, 25, 0] == -2.0  # no less than -80 dB
    assert (constant_q(torch.zeros(1, 24000), None, CONFIG) == -2.0).all()


def test_constant_q_is_in_time():
    """A tone that begins at frame 20 has half its amplitude there, and nothing comes round to the other end."""
    audio = sine(frequency_of(288), 2.0)
    audio[:, : 20 * 960] = 0
    level = constant_q(audio, None, CONFIG)[0, :, 288]
    assert level[20] == pytest.approx(2.0 + math.log10(0.5), abs=2e-2)
    torch.testing.assert_close(level[25:45], torch.full((20,), 2.0), rtol=0, atol=2e-3)
    assert (level[:17] == -2.0).all()


@pytest.mark.parametrize("settings", [{}, {"front_end": "waveform", "encoder_type": "bert", "hop_length": 320}])
def test_constant_q_and_padding(settings):
    config = MusicFMConfig(**TINY | {"cqt_bins": 300}, **settings, num_conv_pos_embedding_groups=4)
    waveforms = [music(1.01), music(2.0, seed=1), music(0.3, seed=2)]
    for left in (False, True):
        together = constant_q(*padded_batch(waveforms, left, value=7.0), config)
        for row, waveform in enumerate(waveforms):
            alone = constant_q(torch.from_numpy(waveform)[None], None, config)
            assert alone.shape == (1, len(waveform) // config.samples_per_frame, 300)
            torch.testing.assert_close(together[row : row + 1, : alone.shape[1]], alone, rtol=0, atol=1e-3)


def test_constant_q_above_half_the_sampling_rate_is_refused():
    MusicFMConfig(cqt_bins=500)  # of no interest without the loss
    with pytest.raises(ValueError, match=r"`cqt_bins` must be .*12000 Hz.* got 500"):
        MusicFMConfig(cqt_bins=500, cqt_loss_weight=1.0)


# Chroma


def chroma_of(waveforms, attention_mask, config):
    return chroma(power_spectrum(waveforms, attention_mask, config), config)


def test_chroma_of_a_triad():
    """C, E and G, in three octaves, are the strongest three of the twelve classes."""
    notes = [sine(frequency, 1.0) for frequency in (261.63, 659.26, 1567.98)]
    frames = chroma_of(sum(notes), None, CONFIG)
    assert frames.shape == (1, 100, 264)
    assert (frames.amax(-1) == 0).all()
    assert frames.min() == -40.0
    energy = (10 ** (frames[0, 10:90] / 10)).mean(0)
    classes = energy.roll(11).unflatten(0, (12, 22)).sum(-1)  # C is bin 0, so its class is bins -11 to 10
    assert set(classes.topk(3).indices.tolist()) == {0, 4, 7}
    assert classes.topk(3).values.sum() > 0.8 * classes.sum()


def test_chroma_has_octaves_in_one_place_and_no_level():
    config = MusicFMConfig(**TINY, kmeans_chroma_bins=12)
    low, high = (chroma_of(sine(frequency, 1.0), None, config)[0, 50].argmax() for frequency in (440.0, 1760.0))
    assert low == high == 9
    quiet, loud = (chroma_of(sine(440.0, 1.0, amplitude=a), None, config)[0, 50] for a in (0.1, 1.0))
    torch.testing.assert_close(quiet, loud, rtol=0, atol=1e-2)


def test_chroma_filters_have_no_denormal_numbers():
    """They would make a product twenty times slower. The values left out are too small for float32 to tell apart."""
    filters = chroma_filters(2048, 264, 24000)
    whole = chroma_filter_bank(2048, 264, 24000).T
    assert filters[filters > 0].min() > torch.finfo(torch.float32).tiny
    assert 0 < whole[filters == 0].max() <= 1e-20
    np.testing.assert_array_equal(filters[filters > 0], whole[filters > 0].astype(np.float32))


def test_chroma_and_padding():
    waveforms = [music(0.7), music(1.0, seed=1)]
    for left in (False, True):
        together = chroma_of(*padded_batch(waveforms, left, value=7.0), CONFIG)
        alone = chroma_of(torch.from_numpy(waveforms[0])[None], None, CONFIG)
        torch.testing.assert_close(together[:1, :70], alone, rtol=0, atol=1e-3)


def test_window_statistics_of_a_step():
    """A band that rises from -50 to -10 dB after 20 tokens, with windows of 5 tokens, and 3 at the ends."""
    config = MusicFMConfig(**TINY, kmeans_window_seconds=0.2)
    mel = torch.full((1, 163, 2), -50.0)  # 40 tokens, and a partial one
    mel[:, 80:, 1] = -10.0
    mean, deviation = window_statistics(mel, None, config)
    assert mean.shape == deviation.shape == (1, 40, 2)
    expected_mean, expected_deviation = torch.full((40, 2), -50.0), torch.zeros(40, 2)
    for token, share in {18: 0.2, 19: 0.4, 20: 0.6, 21: 0.8}.items():
        expected_mean[token, 1] = -50 + 40 * share
        expected_deviation[token, 1] = 40 * math.sqrt(share * (1 - share))
    expected_mean[22:, 1] = -10.0
    torch.testing.assert_close(mean[0], expected_mean, rtol=0, atol=1e-2)
    torch.testing.assert_close(deviation[0], expected_deviation, rtol=0, atol=1e-2)


@pytest.mark.parametrize("left", [False, True])
def test_window_statistics_and_padding(left):
    waveforms = [music(0.72), music(3.0, seed=1)]

    def statistics_of(waveform, attention_mask):
        mel = MusicFMLogMel(CONFIG, 0.0, 1.0)(waveform, attention_mask)
        return torch.cat(window_statistics(mel, attention_mask, CONFIG), dim=-1)

    together = statistics_of(*padded_batch(waveforms, left, value=7.0))
    for row, tokens in enumerate((18, 75)):
        alone = statistics_of(torch.from_numpy(waveforms[row])[None], None)
        torch.testing.assert_close(together[row : row + 1, :tokens], alone, rtol=0, atol=1e-2)
    assert (together[0, 18 + 13 :] == 0).all()  # more than half a second after the end
