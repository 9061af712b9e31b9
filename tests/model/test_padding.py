import torch

from musicfm_hf.model.padding_musicfm import align_left


def test_align_left():
    values = torch.tensor([[9.0, 9.0, 1.0, 2.0], [3.0, 4.0, 9.0, 9.0], [5.0, 6.0, 7.0, 8.0]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    for padding in (9.0, float("nan"), float("inf")):
        padded = values.masked_fill(mask == 0, padding)
        assert align_left(padded, mask).tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [5, 6, 7, 8]]
