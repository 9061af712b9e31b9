"""
A linear layer that is trained on whitened inputs and saved as a plain linear layer.

The hidden states of pretrained encoders vary mostly in a few directions, around a mean far from zero: six of 192
dimensions may hold most of the variance. A small head then learns from these directions and hardly uses the others.
Whitening does not change which functions a linear layer can represent, only how fast it learns them (LeCun et al.,
*Efficient BackProp*, 1998).
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ..data.examples import TaskCrops
from ..model.heads_musicfm import MusicFMHead

# Share of the mean variance that is added to each variance, so that directions with a smaller variance, which may be
# rounding errors, are not amplified to unit variance.
SMALLEST_SHARE = 1e-2
FEWEST_CROPS, MOST_CROPS = 64, 1024


class Moments:
    """The mean and the covariance of rows with `size` values, which are added in parts."""

    def __init__(self, size: int):
        self.count, self.first = 0, torch.zeros(size)
        self.total = torch.zeros(size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, tensor: torch.Tensor) -> None:
        """Add the rows of a tensor `(…, size)`."""
        rows = tensor.detach().float().cpu().reshape(-1, len(self.first))
        self.first = self.first if self.count else rows.mean(0)  # centered values keep their precision when squared
        rows = rows - self.first
        self.count += len(rows)
        self.total += rows.sum(0)
        self.products += rows.T @ rows

    def mean(self) -> torch.Tensor:
        """Return the mean, float32 `(size,)`."""
        return (self.first + self.total / self.count).float()

    def covariance(self) -> torch.Tensor:
        """Return the covariance, float64 `(size, size)`."""
        mean = self.total / self.count
        return self.products / self.count - torch.outer(mean, mean)


class WhitenedLinear(nn.Linear):
    """
    A linear layer on whitened inputs: their mean and covariance are removed first. The initial weights are those of
    another layer, and they apply to the whitened inputs.

    Args:
        linear (`nn.Linear`): A layer with a bias.
        inputs ([`Moments`]): Mean and covariance of inputs `(…, in_features)`.

    Raises:
        ValueError: `inputs` has fewer than two rows.
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, linear: nn.Linear, inputs: Moments):
        if inputs.count < 2:
            raise ValueError(f"Whitening needs at least two inputs, got {inputs.count}.")
        super().__init__(linear.in_features, linear.out_features)
        self.load_state_dict(linear.state_dict())
        variances, directions = torch.linalg.eigh(inputs.covariance())
        variances = variances.clamp_min(0) + SMALLEST_SHARE * variances.mean().clamp_min(1e-12)
        self.register_buffer("mean", inputs.mean())
        self.register_buffer("matrix", (directions * variances.rsqrt()).float().contiguous())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = (inputs - self.mean).reshape(-1, self.in_features)
        # multi_dot chooses the cheaper order: whitening few rows, or mapping the weights once for many.
        outputs = torch.linalg.multi_dot([rows, self.matrix, self.weight.T]) + self.bias
        return outputs.view(*inputs.shape[:-1], self.out_features)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Return a plain linear layer that computes the same function."""
        linear = nn.Linear(self.in_features, self.out_features, device=self.weight.device, dtype=self.weight.dtype)
        weight = self.weight.double() @ self.matrix.double().T
        linear.weight.copy_(weight)
        linear.bias.copy_(self.bias.double() - weight @ self.mean.double())
        return linear


@torch.no_grad()
def whiten_heads(
    heads: Mapping[str, MusicFMHead],
    crops: TaskCrops,
    select: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, hidden_states: hidden_states,
) -> None:
    """
    Replace the first layer of each head with one on whitened inputs, estimated from the features of the first 1024
    training crops, or of all if training has fewer, but of 64 at least. Crops are read once for all heads.

    Args:
        heads (`dict[str, MusicFMHead]`): Heads by name.
        crops ([`TaskCrops`]): Training crops of the features of songs.
        select: `(name, hidden_states)` → the hidden states that a head reads.
    """
    moments = {name: Moments(head.float().projector.in_features) for name, head in heads.items()}
    for number in range(min(max(len(crops), FEWEST_CROPS), MOST_CROPS)):
        hidden_states = crops[number]["hidden_states"][None].float()
        for name, head in heads.items():
            moments[name].add(head.normalize(head.pool(head.mix(select(name, hidden_states)), None)))
    for name, head in heads.items():
        head.projector = WhitenedLinear(head.projector, moments[name])
