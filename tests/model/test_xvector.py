"""Embedding head: padding, losses worked out by hand, saving, training."""

import math

import pytest
import torch
from helpers.audio import music
from helpers.models import TINY
from helpers.remote_code import run_without_the_package
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModelForAudioXVector

from musicfm_hf import MusicFMConfig, MusicFMForXVector
from musicfm_hf.model.contrastive_musicfm import contrastive_loss, info_nce, vicreg
from musicfm_hf.model.frames_musicfm import average_intervals
from musicfm_hf.model.heads_musicfm import MusicFMEmbeddingHead, _magnitudes
from musicfm_hf.model.losses_musicfm import pitch_loss

SIZES = {"pitch_frames": 8, "pitch_channels": 5, "xvector_output_dim": 6, "contrastive_loss": "info_nce"}
LENGTHS = (24000, 48000, 30001)


def build(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MusicFMForXVector(MusicFMConfig(**TINY | SIZES | settings)).eval()


def batch_of(*samples):
    waveforms = [torch.from_numpy(music(count / 24000, seed=count)) for count in samples]
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones(len(waveform)) for waveform in waveforms], batch_first=True)
    return {"input_values": pad(waveforms, batch_first=True), "attention_mask": mask}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_weighted_layer_sum": True},
        {"classifier_layer": 1},
        {"pitch_maps": 1, "pitch_kernel": 5},
        {"pitch_frames": 40},  # more than there are frames
    ],
    ids=str,
)
def test_an_item_in_a_padded_batch_has_its_own_embedding(settings):
    model, batch = build(**settings), batch_of(*LENGTHS)
    with torch.no_grad():
        together = model(**batch)
        for index, length in enumerate(LENGTHS):
            alone = model(batch["input_values"][index : index + 1, :length])
            for name in ("embeddings", "logits"):
                torch.testing.assert_close(together[name][index], alone[name][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.embeddings.norm(dim=-1), torch.ones(3))
    assert together.embeddings.shape == (3, 6)
    assert together.loss is None
    assert len({tuple(row.tolist()) for row in together.embeddings}) == 3


def test_head_alone_on_stored_hidden_states():
    model, batch = build(use_weighted_layer_sum=True), batch_of(*LENGTHS)
    with torch.no_grad():
        states = torch.stack(model.musicfm(**batch, output_hidden_states=True).hidden_states, 2)
        counts = model.musicfm.frames_mask(batch["attention_mask"]).sum(1)
        labels = torch.tensor([5, 5, 9])
        head, whole = model.classifier(states, counts, labels), model(**batch, labels=labels)
    torch.testing.assert_close((head.loss, head.embeddings), (whole.loss, whole.embeddings))


def pitch_head(**settings):
    """A head that reads one map of pitch classes from the first twelve values of a frame, as they are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = MusicFMEmbeddingHead(MusicFMConfig(**TINY | SIZES | {"pitch_maps": 1} | settings)).eval()
    torch.nn.init.eye_(head.projector.weight)
    torch.nn.init.zeros_(head.projector.bias)
    head.layer_norm = torch.nn.Identity()
    return head


def frames_of(chroma):
    """Hidden states `(1, frames, width)` that begin with the values `(12, frames)`."""
    return F.pad(chroma.T[None], (0, TINY["hidden_size"] - 12))


def test_the_embedding_is_the_same_in_another_key():
    head = pitch_head()
    chroma = torch.rand(12, 50, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        original, *transposed = (head(frames_of(chroma.roll(key, 0))).embeddings for key in (0, 1, 5, 11))
        other = head(frames_of(chroma.flip(0))).embeddings
    for embedding in transposed:
        torch.testing.assert_close(embedding, original, rtol=0, atol=1e-5)
    assert (other - original).abs().max() > 1e-2


def test_the_embedding_is_the_same_when_music_is_rotated_in_time():
    head = pitch_head(pitch_kernel=1)  # wider kernels see the ends of the clip
    chroma = torch.rand(12, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        original, rotated = (head(frames_of(chroma.roll(shift, 1))).embeddings for shift in (0, 12))
    torch.testing.assert_close(rotated, original, rtol=0, atol=1e-5)


def test_magnitudes_worked_out():
    """A cosine with three periods over the pitch classes has its whole spectrum at frequencies 3 and 0."""
    cosine = torch.cos(2 * math.pi * 3 * torch.arange(12) / 12)[:, None].expand(12, 8)
    found = _magnitudes(5 + 2 * cosine[None])[0]
    expected = torch.zeros(12, 5)
    expected[[3, 9], 0] = math.sqrt(12 * 5 / 2)  # two values with a mean square of 1 over all
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_average_intervals_worked_out():
    frames = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 9.0, 9.0, 9.0]])[..., None]
    found = average_intervals(frames, 2, torch.tensor([5, 2]))[..., 0]
    torch.testing.assert_close(found, torch.tensor([[4.5 / 2.5, 10.5 / 2.5], [1.0, 2.0]]))
    repeated = average_intervals(frames[1:, :2], 4)[0, :, 0]
    torch.testing.assert_close(repeated, torch.tensor([1.0, 1.0, 2.0, 2.0]))


def test_info_nce_worked_out():
    # Unit vectors at 0, 90, 0 and 90 degrees; pairs (0, 2) and (1, 3). At temperature 1, each clip has similarity 1 to
    # its positive and 0 to the two others: -log(e / (e + 2)).
    vectors = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 7.0]])
    positives = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]).bool()
    assert info_nce(vectors, positives, 1.0).item() == pytest.approx(-math.log(math.e / (math.e + 2)), abs=1e-6)
    # A temperature of 1/2 doubles the similarities.
    assert info_nce(vectors, positives, 0.5).item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 2)), abs=1e-6)


def test_info_nce_is_cross_entropy_for_pairs():
    """As in SimCLR: the other view of the pair is the class, and the clip itself is no candidate."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(8, 5, generator=generator)
    scores = F.normalize(vectors, dim=-1) @ F.normalize(vectors, dim=-1).T / 0.1
    scores.fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(scores, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]))
    labels = torch.tensor([4, 4, 0, 0, 9, 9, 7, 7])
    found = contrastive_loss(MusicFMConfig(**TINY | SIZES), vectors, labels)
    torch.testing.assert_close(found, expected)
    # A clip without a positive is a negative of all others, and has no loss of its own.
    vectors = torch.cat([vectors, torch.randn(1, 5, generator=generator)])
    scores = F.normalize(vectors, dim=-1) @ F.normalize(vectors, dim=-1).T / 0.1
    scores.fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(scores[:8], torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]))
    found = contrastive_loss(MusicFMConfig(**TINY | SIZES), vectors, torch.cat([labels, torch.tensor([1])]))
    torch.testing.assert_close(found, expected)


def test_vicreg_worked_out():
    # Four clips, two dimensions; pairs (0, 1) and (2, 3).
    vectors = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [-3.0, 0.0]])
    positives = torch.zeros(4, 4, dtype=torch.bool)
    positives[0, 1] = positives[1, 0] = positives[2, 3] = positives[3, 2] = True
    # Distance 2 in one of two dimensions: mean square 4 / 2.
    assert vicreg(vectors, positives, 1.0, 0.0, 0.0).item() == pytest.approx(2.0)
    # Deviations: that of dimension 0 is above 1; that of dimension 1 is the root of 1e-4, so 0.99 is missing, in mean.
    assert vicreg(vectors, positives, 0.0, 1.0, 0.0).item() == pytest.approx(0.99 / 2, abs=1e-6)
    assert vicreg(vectors, positives, 0.0, 0.0, 1.0).item() == 0.0
    # Twice the same dimension, with variance 20 / 3, as is the covariance: two of them squared, over two dimensions.
    twice = vectors[:, :1].expand(4, 2)
    assert vicreg(twice, positives, 0.0, 0.0, 1.0).item() == pytest.approx((20 / 3) ** 2, rel=1e-5)
    config = MusicFMConfig(**TINY | SIZES | {"contrastive_loss": "vicreg"})
    total = vicreg(vectors, positives, 25.0, 25.0, 1.0)
    torch.testing.assert_close(contrastive_loss(config, vectors, torch.tensor([3, 3, 8, 8])), total)


@pytest.mark.parametrize("loss", ["info_nce", "vicreg"])
def test_training_moves_pairs_together(loss):
    torch.manual_seed(0)
    model = build(contrastive_loss=loss)
    batch = batch_of(24000, 24001, 24002, 24003)
    labels = torch.tensor([0, 0, 1, 1])
    optimizer = torch.optim.Adam(model.classifier.parameters(), 3e-3)
    model.freeze_base_model()
    model.train()
    for step in range(40):
        optimizer.zero_grad()
        output = model(**batch, labels=labels)
        similar = output.embeddings @ output.embeddings.T
        if step == 0:
            before = similar[0, 1] + similar[2, 3] - similar[0, 2] - similar[1, 3]
        output.loss.backward()
        optimizer.step()
    assert similar[0, 1] + similar[2, 3] - similar[0, 2] - similar[1, 3] > before + 1


def test_wrong_labels_and_settings_are_named():
    config, vectors = MusicFMConfig(**TINY | SIZES), torch.randn(4, 6)
    with pytest.raises(ValueError, match=r"integers of shape \(4,\)"):
        contrastive_loss(config, vectors, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="integers"):
        contrastive_loss(config, vectors, torch.zeros(4))
    with pytest.raises(ValueError, match="No two of the 4 clips"):
        contrastive_loss(config, vectors, torch.arange(4))
    for settings, message in (
        ({"pitch_kernel": 4}, "`pitch_kernel` must be odd"),
        ({"pitch_frames": 0}, "`pitch_frames` must be a positive integer"),
        ({"contrastive_loss": "triplet"}, "`contrastive_loss` must be info_nce or vicreg"),
        ({"contrastive_temperature": 0.0}, "`contrastive_temperature` must be a positive number"),
        ({"vicreg_variance_weight": -1.0}, "`vicreg_variance_weight` must be 0 or a positive number"),
        ({"xvector_output_dim": 0}, "`xvector_output_dim` must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            MusicFMConfig(**TINY | SIZES | settings)


def test_the_head_of_a_trained_model_is_kept_or_replaced(tmp_path):
    model = build()
    model.save_pretrained(tmp_path / "model")
    model.musicfm.save_pretrained(tmp_path / "encoder")
    weight = model.classifier.embedding.output.weight
    kept = MusicFMForXVector.from_encoder(tmp_path / "model", model.config, keep_head=True)
    assert kept.classifier.embedding.output.weight.equal(weight)
    new = MusicFMForXVector.from_encoder(tmp_path / "model", model.config)
    assert not new.classifier.embedding.output.weight.equal(weight)
    with pytest.raises(ValueError, match="has no head of this shape: leave out `keep_head`"):
        MusicFMForXVector.from_encoder(tmp_path / "encoder", model.config, keep_head=True)


WITHOUT = """
from transformers import AutoModelForAudioXVector

folder, audio, output = sys.argv[1:]
model = AutoModelForAudioXVector.from_pretrained(folder, trust_remote_code=True).eval()
assert not any(name.startswith("musicfm_hf") for name in sys.modules)
save_file({"embeddings": model(load_file(audio)["audio"][None]).embeddings.detach()}, output)
"""


def test_saved_model_loads_with_and_without_the_package(tmp_path):
    model, waveform = build(), torch.from_numpy(music(2.0))
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForAudioXVector.from_pretrained(tmp_path / "model").eval()
    assert type(loaded) is MusicFMForXVector
    save_file({"audio": waveform}, tmp_path / "audio")
    run_without_the_package(tmp_path, WITHOUT, tmp_path / "model", tmp_path / "audio", tmp_path / "out")
    expected = model(waveform[None]).embeddings
    torch.testing.assert_close(loaded(waveform[None]).embeddings, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(load_file(tmp_path / "out")["embeddings"], expected, rtol=0, atol=1e-6)


def test_pitch_loss_worked_out():
    """Half of the variance, none of it, and a batch with padding."""
    config = MusicFMConfig(**TINY | SIZES | {"pitch_maps": 1})
    labels = torch.zeros(1, 2, 12)
    labels[0, 0], labels[0, 1] = 1.0, -1.0  # mean 0, variance 1
    assert pitch_loss(config, labels, labels) == 0
    assert pitch_loss(config, torch.zeros_like(labels), labels).item() == pytest.approx(1.0)
    assert pitch_loss(config, 0.5 * labels, labels).item() == pytest.approx(0.25)
    padded = torch.cat([labels, torch.full((1, 3, 12), -100.0)], dim=1)
    maps = torch.cat([0.5 * labels, torch.full((1, 3, 12), -7.0)], dim=1)
    assert pitch_loss(config, maps, padded).item() == pytest.approx(0.25)
    assert pitch_loss(config, maps[:, 2:], padded[:, 2:]) == 0  # nothing to learn from
    two = MusicFMConfig(**TINY | SIZES | {"pitch_maps": 2})
    both = torch.cat([labels, 3 * labels], dim=-1)  # each map is compared with its own variance
    guess = torch.cat([0.5 * labels, torch.zeros_like(labels)], dim=-1)
    assert pitch_loss(two, guess, both).item() == pytest.approx(1.25)
    with pytest.raises(ValueError, match=r"must have shape \(1, 2, 24\).*got \(1, 2, 12\)"):
        pitch_loss(two, both, labels)


def test_with_pitch_labels_pairs_train_only_the_part_after_the_maps():
    model, batch = build(), batch_of(48000, 48001, 48002, 48003)
    labels, pitch = torch.tensor([1, 1, 2, 2]), torch.rand(4, 50, 24)

    def gradients(**given):
        model.zero_grad()
        result = model(**batch, **given)
        result.loss.backward()
        norms = {"encoder": 0.0, "maps": 0.0, "rest": 0.0}
        for name, parameter in model.named_parameters():
            part = "encoder" if name.startswith("musicfm.") else "rest" if ".embedding." in name else "maps"
            norms[part] += 0.0 if parameter.grad is None else parameter.grad.abs().sum().item()
        return norms, result.loss.item()

    only_pitch, pitch_value = gradients(pitch_labels=pitch)
    assert only_pitch["rest"] == 0
    assert min(only_pitch["encoder"], only_pitch["maps"]) > 0
    both, value = gradients(labels=labels, pitch_labels=pitch)
    assert both["rest"] > 0
    assert both["encoder"] == pytest.approx(only_pitch["encoder"], rel=1e-3)
    pairs, pair_value = gradients(labels=labels)
    assert min(pairs["encoder"], pairs["maps"], pairs["rest"]) > 0
    assert value == pytest.approx(pitch_value + pair_value, rel=1e-4)
