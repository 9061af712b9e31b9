import socket

import torch
from helpers.audio import music, padded_batch
from torch import nn

from musicfm_hf.model.normalization_musicfm import batch_norm, normalize


def test_masked_statistics_are_batch_norms():
    """Without padding, the masked batch norm is torch's own."""
    ours, torchs = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    values = torch.randn(3, 5, 7)
    output = batch_norm(ours, values, torch.ones(3, 1, 7, dtype=torch.bool))
    torch.testing.assert_close(output, torchs(values))
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    assert ours.num_batches_tracked == 1


def _synchronized(rank, port, results):
    """One of two processes, each with one item of a padded batch."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    norm, values, mask = _norm_and_batch(nn.SyncBatchNorm(5))
    output = batch_norm(norm, values[rank : rank + 1], mask[rank : rank + 1])
    (output.square() * torch.arange(7)).sum().backward()
    results[rank] = (output.detach(), norm.running_var, values.grad[rank])
    torch.distributed.destroy_process_group()


def _norm_and_batch(norm):
    values = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1), requires_grad=True)
    return norm, values, torch.arange(7).expand(2, 1, 7) < torch.tensor([4, 7])[:, None, None]


def test_synchronized_statistics_span_the_processes():
    norm, values, mask = _norm_and_batch(nn.BatchNorm1d(5))
    output = batch_norm(norm, values, mask)
    (output.square() * torch.arange(7)).sum().backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = torch.multiprocessing.Manager().dict()
    torch.multiprocessing.spawn(_synchronized, (port, results), nprocs=2)
    for rank in range(2):
        rank_output, running_var, gradient = results[rank]
        torch.testing.assert_close(rank_output, output[rank : rank + 1].detach())
        torch.testing.assert_close(running_var, norm.running_var)
        torch.testing.assert_close(gradient, values.grad[rank])


def test_normalize_over_each_items_own_samples():
    values, mask = padded_batch([music(0.5) + 0.3, 5 * music(1.0)], value=7.0)
    together = normalize(values, mask.bool())
    for row, count in enumerate((12000, 24000)):
        alone = values[row, :count].double()
        expected = (alone - alone.mean()) / (alone.var(correction=0) + 1e-7).sqrt()
        torch.testing.assert_close(together[row, :count].double(), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(
            normalize(values[row : row + 1, :count], None)[0].double(), expected, rtol=0, atol=1e-4
        )
    assert not together[0, 12000:].any()
    assert not normalize(torch.zeros(1, 100), None).any()
