import math

import pytest
import torch

from musicfm_hf.pretraining.token_statistics import (
    TokenStatistics,
    copy_nearest,
    count_tokens,
    unigram_cross_entropy,
    unigram_entropy,
)


def column(*tokens: int) -> torch.Tensor:
    """`(1, frames, 1)`."""
    return torch.tensor(tokens)[None, :, None]


def test_count_tokens():
    tokens = torch.tensor([[[0, 3], [0, 1]], [[2, 3], [-100, -100]]])
    assert count_tokens(tokens, 4).tolist() == [[2, 0, 1, 0], [0, 1, 0, 2]]


def test_unigram_entropy():
    """Of four codes as frequent, of one code, of half, quarter and quarter, and of nothing."""
    counts = torch.tensor([[5, 5, 5, 5], [9, 0, 0, 0], [2, 1, 1, 0], [0, 0, 0, 0]])
    expected = [math.log(4), 0.0, 1.5 * math.log(2), 0.0]
    assert unigram_entropy(counts).tolist() == pytest.approx(expected)


def test_unigram_cross_entropy():
    """One is added to each of the codes that a codebook has: shares 3/6, 1/6, 2/6, and 3/5, 2/5."""
    counts = torch.tensor([[2, 0, 1], [2, 1, 0]])
    tokens = torch.tensor([[0, 1], [1, 0]])
    losses = -torch.log(torch.tensor([[3 / 6, 2 / 5], [1 / 6, 3 / 5]], dtype=torch.float64))
    assert unigram_cross_entropy(counts, tokens, [3, 2]).item() == pytest.approx(losses.mean().item())


@pytest.mark.parametrize(
    ("tokens", "masked", "expected"),
    [
        ((5, 1, 2, 7, 3), (1, 2, 4), (5, 5, 7, 7, 7)),
        ((5, 1, 7), (1,), (5, 5, 7)),  # as near on both sides: the earlier one
        ((5, 1, 2, 3, 7), (1, 2, 3), (5, 5, 5, 7, 7)),
        ((1, 2, 7, 9), (0, 1), (7, 7, 7, 9)),  # nothing before
        ((6, 1, 2), (1, 2), (6, 6, 6)),  # nothing after
        ((5, 1, -100, -100), (1,), (5, 5, 5, 5)),  # where there is no token, there is nothing to copy
        ((1, 2), (0, 1), (-1, -1)),
        ((1, -100), (0,), (-1, -1)),
    ],
)
def test_copy_nearest(tokens, masked, expected):
    mask = torch.zeros(1, len(tokens), dtype=torch.bool)
    mask[0, list(masked)] = True
    assert copy_nearest(column(*tokens), mask)[0, :, 0].tolist() == list(expected)


def test_copy_nearest_keeps_items_and_codebooks_apart():
    tokens = torch.tensor([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 1]]])
    mask = torch.tensor([[False, True, True], [True, True, True]])
    assert copy_nearest(tokens, mask).tolist() == [[[1, 2]] * 3, [[-1, -1]] * 3]


def outputs_of(tokens: torch.Tensor, mask: torch.Tensor, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"tokens": tokens, "mask_time_indices": mask, "logits": logits}


def test_statistics_by_hand():
    """Masked are the second frame, whose logits are right, and the last, whose are wrong; code 2 is most frequent."""
    tokens, mask = column(2, 2, 1, 2, 0), torch.tensor([[False, True, False, False, True]])
    logits = torch.log(torch.tensor([[[0.1, 0.1, 0.8]], [[0.25, 0.5, 0.25]]]))
    statistics = TokenStatistics([3], torch.device("cpu"))
    statistics.add(outputs_of(tokens, mask, logits))
    assert statistics.counts.tolist() == [[1, 1, 3]]
    scores = statistics.take(lambda sums: sums)
    assert scores == pytest.approx(
        {
            "cross_entropy": -(math.log(0.8) + math.log(0.25)) / 2,
            "unigram_cross_entropy": -(math.log(4 / 8) + math.log(2 / 8)) / 2,
            "accuracy": 0.5,
            "accuracy_most_frequent": 0.5,
            "accuracy_copy": 0.5,
        }
    )
    assert set(statistics.take(lambda sums: sums).values()) == {0.0}


def test_statistics_are_averages_over_frames_of_all_batches_and_processes():
    """Three masked frames in one batch and one in another; a second process has the same."""
    statistics = TokenStatistics([2], torch.device("cpu"))
    right, wrong = torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]])
    every = torch.ones(1, 3, dtype=torch.bool)
    statistics.add(outputs_of(column(0, 0, 0), every, torch.stack([right] * 3)))
    statistics.add(outputs_of(column(0), every[:, :1], torch.stack([wrong])))
    statistics.add(outputs_of(column(0), ~every[:, :1], torch.zeros(0, 1, 2)))  # nothing masked
    assert statistics.counts.tolist() == [[5, 0]]
    scores = statistics.take(lambda sums: 2 * sums)
    assert scores["accuracy"] == pytest.approx(0.75)
    assert scores["cross_entropy"] == pytest.approx(18 / 4, abs=1e-4)
    assert scores["accuracy_copy"] == 0.0


def test_statistics_with_given_frequencies_count_nothing():
    statistics = TokenStatistics([2, 3], torch.device("cpu"))
    tokens = torch.tensor([[[0, 1], [1, 2]]])
    logits = torch.tensor([[[9.0, 0.0, -math.inf], [0.0, 9.0, 0.0]], [[0.0, 9.0, -math.inf], [9.0, 0.0, 0.0]]])
    frequencies = torch.tensor([[0, 4, 0], [0, 0, 4]])
    statistics.add(outputs_of(tokens, torch.ones(1, 2, dtype=torch.bool), logits), frequencies)
    assert not statistics.counts.any()
    scores = statistics.take(lambda sums: sums)
    assert scores["accuracy"] == pytest.approx(0.75)
    assert scores["accuracy_most_frequent"] == pytest.approx(0.5)
    expected = -(math.log(1 / 6) + math.log(5 / 6) + math.log(1 / 7) + math.log(5 / 7)) / 4
    assert scores["unigram_cross_entropy"] == pytest.approx(expected)


def test_code_use_of_each_codebook():
    statistics = TokenStatistics([2, 4], torch.device("cpu"))
    values = statistics.describe_codes(torch.tensor([[6, 2, 0, 0], [1, 1, 1, 1]]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert values == pytest.approx(
        {
            "unigram_entropy_0": entropy,
            "perplexity_0": math.exp(entropy),
            "codes_used_0": 1.0,
            "top_token_share_0": 0.75,
            "unigram_entropy_1": math.log(4),
            "perplexity_1": 4.0,
            "codes_used_1": 1.0,
            "top_token_share_1": 0.25,
        }
    )
    single = TokenStatistics([4], torch.device("cpu")).describe_codes(torch.tensor([[3, 0, 0, 0]]))
    assert single == pytest.approx(
        {"unigram_entropy": 0.0, "perplexity": 1.0, "codes_used": 0.25, "top_token_share": 1.0}
    )
