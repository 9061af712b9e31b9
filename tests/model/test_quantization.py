import random

import numpy as np
import pytest
import torch
from helpers.audio import music
from helpers.models import TINY
from helpers.quantizers import SMALL, numbers, quantizer_of, residual_vq
from torch import nn

from musicfm_hf import MusicFMConfig, MusicFMQuantizerModel
from musicfm_hf.model.quantization_musicfm import MusicFMQuantizer, build_quantizer

# What all of them share


def test_features_are_the_frames_of_a_token_one_after_the_other():
    quantizer = quantizer_of()
    audio = torch.from_numpy(music(1.03))[None]  # 103 mel frames: the last 3 are no token
    mel = quantizer.log_mel(audio, None)
    features = quantizer.features(audio)
    assert (mel.shape, features.shape) == ((1, 103, 2), (1, 25, 8))
    for token in (0, 7, 24):
        assert features[0, token].equal(mel[0, 4 * token : 4 * token + 4].flatten())


@pytest.mark.parametrize("quantizer_type", ["random_projection", "residual_vq"])
def test_statistics_of_each_band_are_those_of_the_targets(quantizer_type):
    audio = torch.from_numpy(music(1.0))[None]
    settings = {"quantizer_type": quantizer_type, "mel_mean": 0.0, "mel_std": 1.0}
    decibels = quantizer_of(**settings).features(audio)
    own = quantizer_of(**settings, target_mel_mean=[-3.0, 8.0], target_mel_std=[2.0, 5.0])
    expected = (decibels - torch.tensor([-3.0, 8.0] * 4)) / torch.tensor([2.0, 5.0] * 4)
    torch.testing.assert_close(own.features(audio), expected)
    assert own(audio).equal(own.tokens(own.features(audio)))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_codebooks": 2, "codebook_size": [4, 3]},
        {"quantizer_type": "residual_vq", "num_codebooks": 2},
        {"quantizer_type": "kmeans", "kmeans_features": ["mel", "harmony"], "num_codebooks": 2},
    ],
)
def test_new_values_follow_the_seed_and_nothing_else(settings):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first = quantizer_of(**settings).state_dict()
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.get_rng_state().equal(states[2])
    torch.rand(7)
    again, other = quantizer_of(**settings).state_dict(), quantizer_of(**settings, quantizer_seed=1).state_dict()
    assert all(tensor.equal(again[name]) for name, tensor in first.items())
    drawn = [name for name in first if name.split("_")[0] in ("projection", "codebook", "centroids", "in", "out")]
    assert all(not first[name].equal(other[name]) for name in drawn if not name.endswith("bias"))


def test_the_shared_class_makes_no_tokens():
    with pytest.raises(TypeError, match="build_quantizer"):
        MusicFMQuantizer(MusicFMConfig(**SMALL))(torch.zeros(1, 24000))


@pytest.mark.parametrize("quantizer_type", ["random_projection", "residual_vq", "kmeans"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_cast_reaches_a_quantizer(quantizer_type, dtype):
    model = MusicFMQuantizerModel(MusicFMConfig(**TINY, quantizer_type=quantizer_type, codebook_size=64))
    audio = torch.from_numpy(music(2.0))[None]
    expected = model(audio).tokens
    assert len(expected.unique()) > 1
    model.to(dtype)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert model(audio).tokens.equal(expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(audio).tokens.equal(expected)


@pytest.mark.parametrize("quantizer_type", ["random_projection", "residual_vq", "kmeans"])
def test_tokens_and_padding(quantizer_type):
    features = {"kmeans_features": ["mel", "chroma"], "num_codebooks": 2} if quantizer_type == "kmeans" else {}
    config = MusicFMConfig(**TINY, quantizer_type=quantizer_type, codebook_size=64, **features)
    model = MusicFMQuantizerModel(config)
    waveforms = [torch.from_numpy(music(seconds, seed=row)) for row, seconds in enumerate((1.01, 2.0, 0.3))]
    for side in ("right", "left"):
        values = nn.utils.rnn.pad_sequence(waveforms, batch_first=True, padding_value=5.0, padding_side=side)
        ones = [torch.ones(len(waveform)) for waveform in waveforms]
        output = model(values, nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side))
        assert output.tokens_mask.sum(-1).tolist() == [25, 50, 7]
        for row, waveform in enumerate(waveforms):
            alone = model(waveform[None]).tokens[0]
            assert output.tokens[row, output.tokens_mask[row]].equal(alone)


def test_input_of_the_model_is_checked():
    model = MusicFMQuantizerModel(MusicFMConfig(**SMALL))
    with pytest.raises(ValueError, match="1024 samples, but the model needs at least 1025"):
        model(torch.zeros(1, 1024))
    with pytest.raises(ValueError, match="`attention_mask` must have the shape"):
        model(torch.zeros(1, 24000), torch.ones(1, 25))


# Random projection


def test_random_projection_by_hand():
    """The first two features are projected, one codebook as they are, one exchanged; codes are the four directions."""
    quantizer = quantizer_of(num_codebooks=2, codebook_size=[4, 2])
    quantizer.projection.zero_()
    quantizer.projection[0, 0, 0] = quantizer.projection[0, 1, 1] = 1
    quantizer.projection[1, 0, 1] = quantizer.projection[1, 1, 0] = 1
    quantizer.codebook[:] = torch.tensor([[1.0, 0.0], [0.0, 0.1], [-1.0, 0.0], [0.0, -9.0]])
    features = torch.zeros(1, 4, 8)
    features[0, :, :2] = torch.tensor([[3.0, 1.0], [-0.1, 0.01], [1.0, 2.0], [0.3, -0.4]])
    features[0, :, 2:] = 100.0
    assert quantizer.tokens(features).tolist() == [[[0, 1], [2, 0], [1, 0], [3, 1]]]
    assert quantizer.tokens(50 * features).equal(quantizer.tokens(features))


def test_random_projection_is_drawn_as_published():
    """Xavier normal for the projection, standard normal for the codes."""
    quantizer = build_quantizer(MusicFMConfig(**TINY, codebook_size=2048))
    assert quantizer.projection.std().item() == pytest.approx((2 / (512 + 16)) ** 0.5, rel=0.03)
    assert quantizer.codebook.std().item() == pytest.approx(1.0, rel=0.03)
    assert list(quantizer.parameters()) == []  # nothing that an optimizer moves, or a shard or a cast reaches


# K-means


def test_kmeans_is_the_nearest_centroid():
    settings = {"kmeans_features": ["mel", "chroma"], "num_codebooks": 2, "codebook_size": [7, 5]}
    quantizer = quantizer_of(quantizer_type="kmeans", kmeans_mel_bins=6, kmeans_chroma_bins=3, **settings)
    features = numbers(2, 30, 4 * 6 + 4 * 3)
    parts = quantizer.split(features)
    assert [part.shape[-1] for part in parts] == [24, 12]
    for index, part in enumerate(parts):
        getattr(quantizer, f"feature_mean_{index}").copy_(numbers(part.shape[-1], seed=1))
        getattr(quantizer, f"feature_std_{index}").copy_(0.5 + numbers(part.shape[-1], seed=2).abs())
        centroids = getattr(quantizer, f"centroids_{index}")
        centroids.copy_(numbers(*centroids.shape, seed=3) * (1.0 + index))
    tokens = quantizer.tokens(features)
    for index, part in enumerate(parts):
        standard = (part - getattr(quantizer, f"feature_mean_{index}")) / getattr(quantizer, f"feature_std_{index}")
        distance = (standard[:, :, None] - getattr(quantizer, f"centroids_{index}")).norm(dim=-1)
        assert tokens[..., index].equal(distance.argmin(-1))
        assert len(tokens[..., index].unique()) > 2


def test_kmeans_features_are_decibels_of_wide_mel_and_chroma():
    settings = {"kmeans_features": ["mel", "harmony", "texture", "chroma"], "num_codebooks": 4}
    settings |= {"kmeans_mel_bins": 40, "kmeans_window_seconds": 2.0}
    quantizer = build_quantizer(MusicFMConfig(**TINY, quantizer_type="kmeans", codebook_size=4, **settings))
    audio = torch.from_numpy(music(1.0))[None]
    mel, harmony, texture, chroma = quantizer.split(quantizer.features(audio))
    assert (mel.shape, chroma.shape) == ((1, 25, 4 * 40), (1, 25, 4 * 264))
    # The window around the middle token has all frames.
    frames = mel.reshape(100, 40)
    expected = torch.cat([frames.mean(0), frames.std(0, correction=0)])
    torch.testing.assert_close(texture[0, 12], expected, rtol=0, atol=1e-2)
    torch.testing.assert_close(harmony[0, 12], chroma.reshape(100, 264).mean(0), rtol=0, atol=1e-2)
    torch.testing.assert_close(quantizer.features(10 * audio)[..., :160], mel + 20.0, rtol=0, atol=1e-2)
    assert chroma.max() == 0
    assert chroma.min() >= -40


# Residual VQ


def test_residual_vq_by_hand():
    """(3, 1): the first stage takes away (3, 0), the second finds (0, 1), of which it takes half away."""
    quantizer = residual_vq(codebook_size=[2, 3])
    with torch.no_grad():
        for tensor in quantizer.buffers():
            tensor.zero_()
        for side, transpose in (("in", False), ("out", True)):
            direction = getattr(quantizer, f"{side}_direction")
            direction[:] = 1.0  # of no interest where the magnitude is 0
            (direction.mT if transpose else direction)[:, :, :2] = 4 * torch.eye(2)
        quantizer.in_magnitude[:] = 1.0
        quantizer.in_direction[:, :, 2:] = 0.0
        quantizer.out_magnitude[0, :2], quantizer.out_magnitude[1, :2] = 3.0, 0.5
        quantizer.codebook[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    features = torch.tensor([[[3.0, 1.0, 0, 0, 0, 0, 0, 0], [-3.0, 0.1, 0, 0, 0, 0, 0, 0]]])
    tokens = quantizer.tokens(features)
    assert tokens.tolist() == [[[0, 1], [1, 2]]]  # (-1, 0) is no code of the first stage, so (0, 1) is nearest there
    stages = quantizer.decode(tokens)[..., :2]
    assert stages[:, 0, 0].tolist() == [[3.0, 0.0], [0.0, 0.5]]
    assert stages[:, 0, 1].tolist() == [[0.0, 3.0], [-0.5, 0.0]]


def test_residual_vq_weights_are_normed():
    quantizer = residual_vq()
    direction, magnitude, bias = numbers(8, 2, seed=1), numbers(8, seed=2).abs(), numbers(8, seed=3)
    with torch.no_grad():
        quantizer.out_direction[0], quantizer.out_magnitude[0], quantizer.out_bias[0] = direction, magnitude, bias
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(2, 8))
    with torch.no_grad():
        linear.parametrizations.weight.original0[:, 0] = magnitude
        linear.parametrizations.weight.original1[:] = direction
        linear.bias[:] = bias
    expected = linear(quantizer.codebook[0, 3])
    torch.testing.assert_close(quantizer.decode(torch.tensor([[3, 0]]))[0, 0], expected)


def test_new_residual_vq_has_the_magnitudes_of_its_directions():
    quantizer = residual_vq()
    torch.testing.assert_close(quantizer.in_magnitude, quantizer.in_direction.norm(dim=-1))
    torch.testing.assert_close(quantizer.out_magnitude, quantizer.out_direction.norm(dim=-1))


def test_residual_vq_tokens_decode_and_losses_agree():
    quantizer = residual_vq(num_codebooks=3, codebook_size=[16, 8, 16], num_mel_bins=4)
    features = numbers(50, 16)
    losses = quantizer.losses(features)
    tokens = quantizer.tokens(features[None])[0]
    assert losses["tokens"].equal(tokens)
    stages = quantizer.decode(tokens)
    assert stages.shape == (3, 50, 16)
    residual, commitment = features, 0.0
    for stage in range(3):
        code = quantizer.codebook[stage, tokens[:, stage]]
        commitment += (losses["projected"][:, stage] - code).square().mean()
        cosine = nn.functional.cosine_similarity(
            losses["projected"][:, stage, None], quantizer.codebook[stage, : [16, 8, 16][stage]], dim=-1
        )
        assert cosine.argmax(-1).equal(tokens[:, stage])
        residual = residual - stages[stage]
    torch.testing.assert_close(stages.sum(0), features - residual, rtol=0, atol=1e-5)
    torch.testing.assert_close(losses["reconstruction"], residual.abs().mean())
    torch.testing.assert_close(losses["commitment"], commitment)
    torch.testing.assert_close(losses["codebook"], commitment)


def test_residual_vq_losses_move_what_they_should():
    """Of one stage: commitment moves the projection, the codebook loss the codes, reconstruction both projections."""
    moved = {}
    for name in ("commitment", "codebook", "reconstruction"):
        quantizer = residual_vq(num_codebooks=1)
        tensors = {key: tensor.requires_grad_(True) for key, tensor in quantizer.named_buffers()}
        quantizer.losses(numbers(20, 8))[name].backward()
        moved[name] = {key for key, tensor in tensors.items() if tensor.grad is not None and tensor.grad.any()}
    inwards = {"in_direction", "in_magnitude", "in_bias"}
    assert moved == {
        "commitment": inwards,
        "codebook": {"codebook"},
        "reconstruction": inwards | {"out_direction", "out_magnitude", "out_bias"},
    }
