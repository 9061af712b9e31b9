import subprocess
import sys

import pytest
import torch
from helpers.audio import music, padded_batch
from helpers.models import TINY, random_model
from torch import nn

from musicfm_hf import MusicFMConfig
from musicfm_hf.model.fast_inference_musicfm import (
    FastDepthwiseConvolution,
    conv3x3,
    strided_conv3x3,
    transform_filters,
    transform_strided_filters,
)

# Winograd's convolution


def direct(frames, weight):
    return torch.nn.functional.conv2d(frames.permute(0, 3, 1, 2), weight).permute(0, 2, 3, 1)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (1, 1), (7, 9), (48, 8), (49, 32), (101, 6)])
def test_agrees_with_direct_convolution(rows, columns):
    torch.manual_seed(rows)
    frames, weight = torch.randn(2, rows + 2, columns + 2, 64), torch.randn(96, 64, 3, 3) / 24
    transformed = transform_filters(weight)
    assert transformed.shape == (36, 96, 64)
    exact = direct(frames.double(), weight.double())  # values of order 1
    torch.testing.assert_close(conv3x3(frames, weight, transformed).double(), exact, rtol=0, atol=6e-5)
    torch.testing.assert_close(conv3x3(frames, weight, None).double(), exact, rtol=0, atol=1e-5)


def test_one_tap_copies_its_neighbor():
    frames = torch.arange(36.0).view(1, 6, 6, 1).repeat(1, 1, 1, 64)
    weight = torch.zeros(64, 64, 3, 3)
    weight[range(64), range(64), 0, 2] = 1.0  # one row up, one column right
    output = conv3x3(frames, weight, transform_filters(weight))
    torch.testing.assert_close(output, frames[:, :4, 2:], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(4, 8), (1, 1), (7, 9), (8, 2), (13, 32), (50, 15)])
def test_agrees_with_direct_convolution_with_stride_2(rows, columns):
    torch.manual_seed(rows)
    frames, weight = torch.randn(2, 2 * rows + 1, columns, 64), torch.randn(96, 64, 3, 3) / 24
    exact = torch.nn.functional.conv2d(frames.double().permute(0, 3, 1, 2), weight.double(), None, 2, (0, 1))
    output = strided_conv3x3(frames, transform_strided_filters(weight))
    assert output.shape == (2, rows, (columns + 1) // 2, 96)
    torch.testing.assert_close(output.double(), exact.permute(0, 2, 3, 1), rtol=0, atol=2e-5)


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("column", range(3))
def test_one_tap_copies_its_neighbor_with_stride_2(row, column):
    frames = torch.arange(81.0).view(1, 9, 9, 1).repeat(1, 1, 1, 64)
    weight = torch.zeros(64, 64, 3, 3)
    weight[range(64), range(64), row, column] = 1.0
    output = strided_conv3x3(frames, transform_strided_filters(weight))
    padded = torch.nn.functional.pad(frames, (0, 0, 1, 1))  # columns from -1 on
    expected = padded[:, row : row + 7 : 2, column : column + 9 : 2]
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("weight", [torch.zeros(96, 32, 3, 3), torch.zeros(64, 64, 3, 3, dtype=torch.bfloat16)])
def test_direct_where_it_is_the_better_choice(weight):
    assert transform_filters(weight) is None
    assert transform_strided_filters(weight) is None


# Models


@pytest.mark.parametrize("strides", [(2, 2), (2, 1), (1, 1)])
@pytest.mark.parametrize("num_mel_bins", [128, 30])
def test_fused_inference_equals_the_plain_path(strides, num_mel_bins):
    """Folded batch norm, tiles of time and fewer multiplications, at any stride and with an odd number of bands."""
    config = MusicFMConfig(
        **TINY | {"subsampling_conv_channels": 64}, subsampling_time_strides=strides, num_mel_bins=num_mel_bins
    )
    model = random_model(config)
    input_values, mask = padded_batch([music(7.3), music(11.1), music(0.1)])
    frames = model.frames_mask(mask)
    plain = model(input_values, mask, output_hidden_states=True).hidden_states
    with torch.no_grad():
        fused = model(input_values, mask, output_hidden_states=True).hidden_states
    for plain_state, fused_state in zip(plain, fused, strict=True):
        torch.testing.assert_close(fused_state[frames], plain_state[frames], rtol=0, atol=2e-5)


def test_only_plain_modules_in_inference_are_merged():
    """Convolutions that are wrapped, hooked or in training mode are called."""
    conv, norm = nn.Conv1d(4, 4, 3, padding=1, groups=4, bias=False).eval(), nn.BatchNorm1d(4).eval()
    applies, values = FastDepthwiseConvolution.applies, torch.randn(2, 4, 9)
    with torch.no_grad():
        assert applies(conv, norm, values)
        torch.testing.assert_close(FastDepthwiseConvolution(conv, norm)(values), norm(conv(values)))
        assert not applies(nn.Sequential(conv), norm, values)
        assert not applies(conv, nn.BatchNorm1d(4).train(), values)
        assert not applies(conv, nn.SyncBatchNorm(4).eval(), values)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not applies(conv, norm, values)
        hook = conv.register_forward_hook(lambda *_: None)
        assert not applies(conv, norm, values)
        hook.remove()
    assert not applies(conv, norm, values)  # with gradients


def test_hooks_see_what_they_would_see_in_training(tiny_model):
    audio = torch.from_numpy(music(12.0))[None]
    seen = []
    with torch.no_grad():
        expected = tiny_model(audio).last_hidden_state
        for module in (tiny_model.subsampling.blocks[0], tiny_model.subsampling.projection):
            module.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape)))
        torch.testing.assert_close(tiny_model(audio).last_hidden_state, expected, rtol=0, atol=1e-5)
    assert seen == [(1, 8, 600, 64), (1, 300, 32)]


DEPTHWISE = """
import torch
from musicfm_hf.model.fast_inference_musicfm import FastDepthwiseConvolution

torch.manual_seed(0)
for channels in (8, 32, 33, 64):
    conv = torch.nn.Conv1d(channels, channels, 31, padding=15, groups=channels).eval()
    values = torch.randn(1, 50, channels).transpose(1, 2)
    with torch.inference_mode():
        exact = conv(values)
        rounded = FastDepthwiseConvolution(conv.bfloat16(), None)(values.bfloat16())
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.03)  # values of order 1
"""


def test_depthwise_convolutions_of_narrow_models_end_in_bfloat16():
    """In a process of its own, because oneDNN did not return from it on processors with AVX512-BF16."""
    subprocess.run([sys.executable, "-c", DEPTHWISE], check=True, timeout=120)
