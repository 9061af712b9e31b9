"""Fitting of quantizers, and the report on their tokens."""

import numpy as np
import pytest
import torch
from helpers.models import TINY
from helpers.quantizers import SMALL, numbers, residual_vq

import musicfm_hf.pretraining.quantizers as quantizer_training
from musicfm_hf import MusicFMConfig, MusicFMQuantizerModel
from musicfm_hf.pretraining.quantizers import (
    describe_quantizer,
    feature_vectors,
    fit_kmeans,
    replace_stale_codes,
    train_residual_vq,
)

# K-means


def tones(count: int = 4, batches: int = 3) -> list[dict[str, torch.Tensor]]:
    """Batches of one second of each of so many tones, far apart, with a little noise, the last item padded."""
    time = torch.arange(24000) / 24000
    result = []
    for batch in range(batches):
        values = torch.stack([0.3 * torch.sin(2 * torch.pi * 300 * 2**index * time) for index in range(count)])
        values += 0.01 * numbers(count, 24000, seed=batch)
        mask = torch.ones(count, 24000).long()
        values[-1, 12000:], mask[-1, 12000:] = 9.0, 0
        result.append({"input_values": values, "attention_mask": mask})
    return result


def test_fit_kmeans_finds_clusters_that_lie_far_apart():
    config = MusicFMConfig(**TINY, quantizer_type="kmeans", codebook_size=4, kmeans_mel_bins=16)
    model = MusicFMQuantizerModel(config)
    batches = tones()
    fit_kmeans(model, batches)
    output = model(**batches[0])
    # Without the ends, where a tone is reflected: one code for each tone, another for each.
    tokens = [own[mask, 0][2:-2].unique() for own, mask in zip(output.tokens, output.tokens_mask, strict=True)]
    assert sorted(torch.cat(tokens).tolist()) == [0, 1, 2, 3]
    vectors = torch.cat([feature_vectors(model, batch) for batch in batches])
    assert len(vectors) == 3 * (3 * 25 + 12)  # without the padding
    quantizer = model.quantizer
    torch.testing.assert_close(quantizer.feature_mean_0, vectors.mean(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(quantizer.feature_std_0, vectors.std(0, correction=0), rtol=1e-3, atol=1e-3)
    standard = (vectors - quantizer.feature_mean_0) / quantizer.feature_std_0
    codes = quantizer.tokens(vectors[None])[0, :, 0]
    centers = torch.stack([standard[codes == code].mean(0) for code in range(4)])
    torch.testing.assert_close(quantizer.centroids_0, centers, rtol=0, atol=0.2)
    # What is left is the noise of the bands without a tone: no more than with the means themselves.
    best = (standard - centers[codes]).square().mean() / (standard - standard.mean(0)).square().mean()
    assert best < 0.6
    assert describe_quantizer(model, batches)["unexplained_variance"] == pytest.approx([best.item()], rel=0.02)
    again = MusicFMQuantizerModel(config)
    fit_kmeans(again, batches)
    assert again.quantizer.centroids_0.equal(quantizer.centroids_0)


def test_fit_kmeans_refuses():
    config = MusicFMConfig(**TINY, quantizer_type="kmeans", codebook_size=500, kmeans_mel_bins=16)
    with pytest.raises(ValueError, match="261 vectors of mel are too few for 500 clusters"):
        fit_kmeans(MusicFMQuantizerModel(config), tones())
    with pytest.raises(ValueError, match="`quantizer_type` must be 'kmeans', got 'random_projection'"):
        fit_kmeans(MusicFMQuantizerModel(MusicFMConfig(**SMALL)), tones())


# Residual VQ


def test_training_residual_vq(monkeypatch):
    """The reconstruction gets better, codes that nothing uses are replaced, and afterwards nothing trains."""
    monkeypatch.setattr(quantizer_training, "STALE_AFTER", 20)
    config = MusicFMConfig(**TINY, quantizer_type="residual_vq", num_codebooks=2, codebook_size=32, num_mel_bins=16)
    before, batches = MusicFMQuantizerModel(config), tones()
    model = MusicFMQuantizerModel(config)
    history = train_residual_vq(model, (batches[step % 3] for step in range(99)), 60, learning_rate=1e-2)
    assert len(history) == 60
    assert history[-1]["reconstruction"] < 0.5 * history[0]["reconstruction"]
    assert sum(step["replaced"] for step in history[:19]) == 0
    assert history[19]["replaced"] > 0
    assert not any(tensor.requires_grad for tensor in model.quantizer.buffers())
    unexplained = describe_quantizer(model, batches)["unexplained_variance"]
    assert unexplained[1] < unexplained[0] < 0.5
    assert unexplained[1] < 0.5 * describe_quantizer(before, batches)["unexplained_variance"][1]
    again = MusicFMQuantizerModel(config)
    assert train_residual_vq(again, (batches[step % 3] for step in range(60)), 60, learning_rate=1e-2) == history
    with pytest.raises(ValueError, match="`quantizer_type` must be 'residual_vq', got 'random_projection'"):
        train_residual_vq(MusicFMQuantizerModel(MusicFMConfig(**SMALL)), batches, 1)


def test_stale_codes_are_put_where_something_is():
    quantizer = residual_vq(codebook_size=[4, 3])
    before = quantizer.codebook.clone()
    unused = torch.tensor([[99, 100, 5, 300], [100, 0, 0, 999]])  # the second codebook has no code 3
    projected = 100 + torch.arange(20.0).view(5, 2, 2)
    count = replace_stale_codes(quantizer, unused, projected, torch.Generator().manual_seed(0))
    assert count == 3
    assert unused.tolist() == [[99, 0, 5, 0], [0, 0, 0, 999]]
    for stage, code in ((0, 1), (0, 3), (1, 0)):
        assert quantizer.codebook[stage, code].tolist() in projected[:, stage].tolist()
    for stage, code in ((0, 0), (0, 2), (1, 1), (1, 2), (1, 3)):
        assert quantizer.codebook[stage, code].equal(before[stage, code])


# What is said about them


def shares_of(tokens: np.ndarray, size: int) -> tuple[float, float, float]:
    """Perplexity, share of codes in use, share of the most frequent."""
    share = np.bincount(tokens, minlength=size) / len(tokens)
    used = share[share > 0]
    return float(np.exp(-(used * np.log(used)).sum())), float(len(used) / size), float(share.max())


@pytest.mark.parametrize("quantizer_type", ["random_projection", "residual_vq", "kmeans"])
def test_describe_quantizer(quantizer_type):
    sizes = [8, 5]
    config = MusicFMConfig(
        **TINY | {"num_mel_bins": 4},
        quantizer_type=quantizer_type,
        num_codebooks=2,
        codebook_size=sizes,
        kmeans_features=["mel", "chroma"],
        kmeans_mel_bins=4,
        kmeans_chroma_bins=12,
    )
    model = MusicFMQuantizerModel(config)
    described = describe_quantizer(model, tones(batches=2))
    vectors = torch.cat([feature_vectors(model, batch) for batch in tones(batches=2)])
    tokens = model.quantizer.tokens(vectors[None])[0]
    assert described["vectors"] == len(vectors) == 2 * (3 * 25 + 12)
    for index, size in enumerate(sizes):
        values = [described[name][index] for name in ("perplexity", "codes_used", "top_token_share")]
        assert values == pytest.approx(shares_of(tokens[:, index].numpy(), size))
    if quantizer_type == "random_projection":
        assert "unexplained_variance" not in described
        return
    expected = []
    if quantizer_type == "kmeans":
        for index, part in enumerate(model.quantizer.split(vectors)):
            part, centers = part.double().numpy(), getattr(model.quantizer, f"centroids_{index}").double().numpy()
            error = np.mean((part - centers[tokens[:, index].numpy()]) ** 2)  # features of a new one: mean 0, std 1
            expected.append(error / np.mean((part - part.mean(0)) ** 2))
    else:
        values, first = vectors.double().numpy(), model.quantizer.decode(tokens).double().numpy()
        for estimate in (first[0], first[0] + first[1]):
            expected.append(np.mean((values - estimate) ** 2) / np.mean((values - values.mean(0)) ** 2))
    assert described["unexplained_variance"] == pytest.approx(expected, rel=1e-3)
