"""
A linear layer that is trained on whitened inputs and kept as a plain one.

Hidden states of pretrained encoders lie in few directions, far from zero: of 192 dimensions, half a dozen may hold
most of the variance. A small head then learns these and hardly sees the rest. Whitening changes nothing that a linear
layer can say, only how fast it learns it (LeCun et al., *Efficient BackProp*, 1998).
"""

from collections.abc import Iterable

import torch
from torch import nn

from ..data.examples import TaskCrops
from ..model.modeling_musicfm import MusicFMClassifier

SMALLEST_SHARE = 1e-2  # of the mean variance: what varies less is not blown up, since it may be rounding


class WhitenedLinear(nn.Linear):
    """
    A linear layer behind a map that takes mean and covariance away. It begins with the weights of another one, for
    whitened inputs.

    Args:
        linear (`nn.Linear`): With a bias.
        inputs (`Iterable[torch.Tensor]`): Tensors `(…, in_features)`, of which mean and covariance are taken.

    Raises:
        ValueError: there are fewer than two inputs.
    """

    def __init__(self, linear: nn.Linear, inputs: Iterable[torch.Tensor]):
        in_features = linear.in_features
        super().__init__(in_features, linear.out_features)
        self.load_state_dict(linear.state_dict())
        count, first = 0, None
        total = torch.zeros(in_features, dtype=torch.float64)
        products = torch.zeros(in_features, in_features, dtype=torch.float64)
        for tensor in inputs:
            rows = tensor.detach().float().cpu().reshape(-1, in_features)
            first = rows.mean(0) if first is None else first  # near zero, squares lose nothing
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
        # Few rows are whitened; for many it costs less to map the weights, as multi_dot decides.
        outputs = torch.linalg.multi_dot([rows, self.matrix, self.weight.T]) + self.bias
        return outputs.view(*inputs.shape[:-1], self.out_features)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """The same function as a plain layer."""
        linear = nn.Linear(self.in_features, self.out_features, device=self.weight.device, dtype=self.weight.dtype)
        weight = self.weight.double() @ self.matrix.double().T
        linear.weight.copy_(weight)
        linear.bias.copy_(self.bias.double() - weight @ self.mean.double())
        return linear


def whitened_projector(head: MusicFMClassifier, crops: TaskCrops) -> WhitenedLinear:
    """The first layer of a head, for whitened features: those of the crops."""
    examples = (crops[number]["hidden_states"][None].float() for number in range(len(crops)))
    with torch.no_grad():
        inputs = (head.layer_norm(head.pool(head.mix(example), None)) for example in examples)
        return WhitenedLinear(head.projector, inputs)
