"""
A linear layer that is trained on whitened inputs and saved as a plain linear layer.

The hidden states of pretrained encoders vary mostly in a few directions, around a mean far from zero: six of 192
dimensions may hold most of the variance. A small head then learns from these directions and hardly uses the others.
Whitening does not change which functions a linear layer can represent, only how fast it learns them (LeCun et al.,
*Efficient BackProp*, 1998).
"""

from collections.abc import Iterable

import torch
from torch import nn

from ..data.examples import TaskCrops
from ..data.pairs import PairCrops
from ..model.heads_musicfm import MusicFMHead
from .joint_data import HeadInputs

# Share of the mean variance that is added to each variance, so that directions with a smaller variance, which may be
# rounding errors, are not amplified to unit variance.
SMALLEST_SHARE = 1e-2


class WhitenedLinear(nn.Linear):
    """
    A linear layer on whitened inputs: their mean and covariance are removed first. The initial weights are those of
    another layer, and they apply to the whitened inputs.

    Args:
        linear (`nn.Linear`): A layer with a bias.
        inputs (`Iterable[torch.Tensor]`): Tensors `(…, in_features)` from which mean and covariance are estimated.

    Raises:
        ValueError: `inputs` has fewer than two rows.
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, linear: nn.Linear, inputs: Iterable[torch.Tensor]):
        in_features = linear.in_features
        super().__init__(in_features, linear.out_features)
        self.load_state_dict(linear.state_dict())
        count, first = 0, torch.zeros(in_features)
        total = torch.zeros(in_features, dtype=torch.float64)
        products = torch.zeros(in_features, in_features, dtype=torch.float64)
        for tensor in inputs:
            rows = tensor.detach().float().cpu().reshape(-1, in_features)
            first = first if count else rows.mean(0)  # centered values keep their precision when squared
            rows = rows - first
            count, total, products = count + len(rows), total + rows.sum(0), products + rows.T @ rows
        if count < 2:
            raise ValueError(f"Whitening needs at least two inputs, got {count}.")
        mean = total / count
        variances, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        variances = variances.clamp_min(0) + SMALLEST_SHARE * variances.mean().clamp_min(1e-12)
        self.register_buffer("mean", (first + mean).float())
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


def whitened_projector(head: MusicFMHead, crops: TaskCrops | PairCrops | HeadInputs) -> WhitenedLinear:
    """Create the first layer of a head, with whitening estimated from the features of the crops."""
    examples = (crops[number]["hidden_states"][None].float() for number in range(len(crops)))
    with torch.no_grad():
        inputs = (head.normalize(head.pool(head.mix(example), None)) for example in examples)
        return WhitenedLinear(head.projector, inputs)
