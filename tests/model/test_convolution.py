import pytest
import torch

from musicfm_hf.model.convolution_musicfm import conv3x3, transform_filters


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


def test_one_tap_copies_its_neighbour():
    frames = torch.arange(36.0).view(1, 6, 6, 1).repeat(1, 1, 1, 64)
    weight = torch.zeros(64, 64, 3, 3)
    weight[range(64), range(64), 0, 2] = 1.0  # one row up, one column right
    output = conv3x3(frames, weight, transform_filters(weight))
    torch.testing.assert_close(output, frames[:, :4, 2:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("weight", [torch.zeros(96, 32, 3, 3), torch.zeros(64, 64, 3, 3, dtype=torch.bfloat16)])
def test_direct_where_it_is_the_better_choice(weight):
    assert transform_filters(weight) is None
