import pytest
import torch
from torch import nn

from musicfm_hf import MusicFMConfig
from musicfm_hf.finetuning.whitening import SMALLEST_SHARE, Moments, WhitenedLinear, whiten_heads
from musicfm_hf.model.heads_musicfm import MusicFMHead


def inputs(scales: list[float], mean: float = 8.0, count: int = 4000) -> torch.Tensor:
    """Rows with these standard deviations in directions that are no axes."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(len(scales), len(scales), generator=generator))[0]
    return torch.randn(count, len(scales), generator=generator) * torch.tensor(scales) @ directions.T + mean


def whitened(linear: nn.Linear, *tensors: torch.Tensor) -> WhitenedLinear:
    moments = Moments(linear.in_features)
    for tensor in tensors:
        moments.add(tensor)
    return WhitenedLinear(linear, moments)


def test_inputs_become_white():
    rows = inputs([2.0, 1.0, 0.5])
    layer = whitened(nn.Linear(3, 2), *rows.view(40, 100, 3))
    white = (rows - layer.mean) @ layer.matrix
    torch.testing.assert_close(white.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    variances = torch.tensor([0.25, 1.0, 4.0])
    expected = variances / (variances + SMALLEST_SHARE * variances.mean())
    torch.testing.assert_close(torch.cov(white.T), torch.diag(expected), atol=0.06, rtol=0)


def test_what_hardly_varies_is_not_blown_up():
    rows = inputs([1.0, 0.0, 0.0])
    layer = whitened(nn.Linear(3, 2), rows)
    assert layer.matrix.norm(dim=0).max() == pytest.approx((SMALLEST_SHARE / 3) ** -0.5, rel=0.1)
    constant = whitened(nn.Linear(3, 2), torch.ones(5, 3))
    assert constant(torch.ones(1, 3)).isfinite().all()


def test_folded_is_the_same_function():
    rows = inputs([5.0, 1.0, 0.3, 0.01])
    layer = whitened(nn.Linear(4, 6), rows)
    folded = layer.folded()
    assert type(folded) is nn.Linear
    torch.testing.assert_close(folded(rows), layer(rows), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(folded.double()(rows.double()), layer.double()(rows.double()), atol=1e-5, rtol=1e-5)


def test_it_begins_with_the_weights_it_is_given():
    linear = nn.Linear(3, 2)
    layer = whitened(linear, inputs([1.0, 1.0, 1.0]))
    assert torch.equal(layer.weight, linear.weight)
    assert torch.equal(layer(layer.mean), linear.bias)


def test_too_few_inputs():
    with pytest.raises(ValueError, match="at least two inputs, got 1"):
        whitened(nn.Linear(3, 2), torch.ones(1, 3))
    with pytest.raises(ValueError, match="got 0"):
        whitened(nn.Linear(3, 2))


def test_it_learns_what_a_plain_layer_hardly_sees():
    """The label is the sign of a direction with a hundredth of the deviation."""
    rows = inputs([1.0, 1.0, 0.05])
    labels = (rows @ torch.linalg.eigh(torch.cov(rows.T))[1][:, 0])[:, None]
    labels = (labels > labels.median()).float()

    def accuracy(layer: nn.Linear) -> float:
        optimizer = torch.optim.AdamW(layer.parameters(), 1e-2)
        for _ in range(100):
            loss = nn.functional.binary_cross_entropy_with_logits(layer(rows), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return ((layer(rows) > 0) == labels.bool()).float().mean().item()

    torch.manual_seed(0)
    linear = nn.Linear(3, 1)
    layer = whitened(linear, rows)
    assert accuracy(layer) > 0.95
    assert accuracy(linear) < 0.7


class Crops(list):
    """Training crops, more of which can be drawn than training uses, as from `TaskCrops`."""

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        self.read = number + 1
        return {"hidden_states": inputs([1.0, 2.0], count=1)}


@pytest.mark.parametrize(("used", "read"), [(3, 64), (100, 100), (5000, 1024)])
def test_crops_are_those_of_training(used, read):
    """A short run does not wait for statistics of many crops; a very short one still has enough for a covariance."""
    config = MusicFMConfig(hidden_size=2, num_attention_heads=1, num_labels=1, task="tagging", classifier_proj_size=2)
    crops = Crops([None] * used)
    whiten_heads({"tagging": MusicFMHead(config)}, crops)
    assert crops.read == read
