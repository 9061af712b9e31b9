import numpy as np
import torch

from musicfm_hf.analysis import find_boundaries, plot_self_similarity, self_similarity


def song(generator):
    """100 s at 25 Hz in the form A B A, sections of 30, 40 and 30 s."""
    sections = {"A": torch.randn(16, generator=generator), "B": torch.randn(16, generator=generator)}
    parts = [sections[name].repeat(seconds * 25, 1) for name, seconds in (("A", 30), ("B", 40), ("A", 30))]
    return torch.cat(parts) + 0.3 * torch.randn(2500, 16, generator=generator)


def test_sections_are_found_and_alike_is_alike(tmp_path):
    similarity, features, times = self_similarity(song(torch.Generator().manual_seed(0)), 25.0)
    assert similarity.shape == (200, 200)
    np.testing.assert_allclose(np.diag(similarity), 1.0, atol=1e-5)
    assert similarity[:50, 150:].mean() > 0.7  # A and A
    assert similarity[:50, 70:130].mean() < 0  # A and B
    boundaries = find_boundaries(features, times, 3)
    np.testing.assert_allclose(boundaries, [30.0, 70.0], atol=1.0)
    picture = tmp_path / "song.png"
    plot_self_similarity(
        similarity, times, boundaries, picture, "A B A", [(0, 30, "A"), (30, 70, "B"), (70, 100, "A")]
    )
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_very_short_songs(tmp_path):
    similarity, features, times = self_similarity(torch.randn(3, 16), 25.0)
    assert similarity.shape == (1, 1)
    assert find_boundaries(features, times, 4).tolist() == []
    plot_self_similarity(similarity, times, [], tmp_path / "short.png")
    assert (tmp_path / "short.png").stat().st_size > 1000
