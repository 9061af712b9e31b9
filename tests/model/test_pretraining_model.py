"""`MusicFMForPreTraining`: masks, targets, losses. What the quantizers and features compute has tests of its own."""

import random

import numpy as np
import pytest
import torch
from helpers.audio import music
from helpers.models import TINY
from helpers.paths import FIXTURES
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForPreTraining, Trainer, TrainingArguments

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining, MusicFMModel, convert_checkpoint
from musicfm_hf.model.masking_musicfm import mix_in_batch, replace_by_noise, sample_mask, target_frames
from musicfm_hf.model.quantization_musicfm import build_quantizer
from musicfm_hf.model.spectrogram_musicfm import constant_q

CODES = TINY | {"codebook_size": 32}
WAVEFORM = {
    "encoder_type": "bert",
    "front_end": "waveform",
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "hop_length": 320,
}
AT_75_HZ = {"hop_length": 320, "subsampling_time_strides": [1, 1]}
KINDS = {
    "mel conformer": {},
    "mel bert": {"encoder_type": "bert", "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4},
    "waveform bert": WAVEFORM,
}


def build(seed: int = 0, **settings) -> MusicFMForPreTraining:
    """A tiny model in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MusicFMForPreTraining(MusicFMConfig(**CODES | settings)).eval()


def audio_of(*samples: int) -> list[torch.Tensor]:
    return [torch.from_numpy(music(count / 24000, seed=row)) for row, count in enumerate(samples)]


def pad(waveforms: list[torch.Tensor], side: str = "right") -> dict[str, torch.Tensor]:
    """A batch whose padding is not silent."""
    values = nn.utils.rnn.pad_sequence(waveforms, batch_first=True, padding_value=3.0, padding_side=side)
    ones = [torch.ones(len(waveform), dtype=torch.int64) for waveform in waveforms]
    mask = nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)
    return {"input_values": values, "attention_mask": mask}


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def some_frames(model: MusicFMForPreTraining, batch: int, samples: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A mask and tokens, drawn."""
    frames, generator = model.musicfm.output_frames(samples), torch.Generator().manual_seed(seed)
    shape = (batch, frames, model.config.num_codebooks)
    return {
        "mask_time_indices": torch.rand(shape[:2], generator=generator) < 0.5,
        "target_tokens": torch.randint(min(model.config.codebook_sizes), shape, generator=generator),
    }


# The public implementation


@pytest.fixture(scope="module", params=["musicfm", "muq"])
def published(request, tmp_path_factory):
    """A converted folder, what was recorded, and the mask as `(batch, frames)`."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    source = FIXTURES / request.param
    convert_checkpoint(source / "pretrained.pt" if request.param == "musicfm" else source, folder)
    recorded = load_file(source / "expected.safetensors")
    mask = torch.zeros(2, 70, dtype=torch.bool)
    mask[tuple(recorded["masked_indices"].T)] = True
    return folder, recorded, mask


def test_tokens_loss_accuracy_and_logits_are_the_public_ones(published):
    folder, recorded, mask = published
    model = AutoModelForPreTraining.from_pretrained(folder).eval()
    targets = recorded["target_tokens"].view(2, 70, -1)
    assert model(recorded["input_values"], mask_time_indices=mask).tokens.equal(targets)
    output = model(recorded["masked_input_values"], mask_time_indices=mask, target_tokens=recorded["target_tokens"])
    assert output.mask_time_indices.equal(mask)
    torch.testing.assert_close(output.loss, recorded["loss"][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(output.accuracy, recorded["accuracy"][0], rtol=0, atol=1e-6)
    expected = recorded["masked_logits"].unflatten(-1, (targets.shape[-1], -1))[mask]
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tokens_are_the_same_in_half_precision(published, dtype):
    folder, recorded, mask = published
    for model in (
        AutoModelForPreTraining.from_pretrained(folder, dtype=dtype).eval(),
        AutoModelForPreTraining.from_pretrained(folder).to(dtype).eval(),
    ):
        with torch.no_grad():
            output = model(recorded["input_values"], mask_time_indices=mask, generator=torch.Generator())
        assert model.dtype == output.logits.dtype == dtype
        assert output.tokens.equal(recorded["target_tokens"].view(2, 70, -1))
        assert output.loss.dtype == torch.float32
        assert output.loss.isfinite()


def test_public_noise_stands_where_ours_would(published):
    folder, recorded, mask = published
    config = MusicFMConfig.from_pretrained(folder)
    clean, masked = recorded["input_values"], recorded["masked_input_values"]
    ours = replace_by_noise(config, clean, torch.tensor([67200, 67200]), mask, torch.Generator().manual_seed(0))
    assert (ours != clean).equal(masked != clean)
    where = ours != clean
    assert ours[where].std().item() == pytest.approx(masked[where].std().item(), rel=0.02)
    assert mask.view(2, 7, 10).all(-1).equal(mask.view(2, 7, 10).any(-1))


# From a clean waveform


def test_clean_waveform_with_a_given_mask():
    """The same as to make tokens and put noise in place oneself."""
    model, waveform = build(), torch.stack(audio_of(48000, 48000))
    lengths = torch.tensor([48000, 48000])
    mask = sample_mask(model.config, lengths, 48000, generators(1, 2))
    output = model(waveform, mask_time_indices=mask, generator=torch.Generator().manual_seed(5))
    noisy = replace_by_noise(model.config, waveform, lengths, mask, torch.Generator().manual_seed(5))
    tokens = model.quantizer(waveform)
    assert not tokens.equal(model.quantizer(noisy))
    by_hand = model(noisy, mask_time_indices=mask, target_tokens=tokens)
    assert output.tokens.equal(tokens)
    assert output.logits.equal(by_hand.logits)
    assert output.loss.equal(by_hand.loss)


@pytest.mark.parametrize("mask_type", ["noise", "embedding"])
def test_generators_decide_everything(mask_type):
    model, waveform = build(mask_type=mask_type), torch.stack(audio_of(48000, 48000))

    def run(generator):
        output = model(waveform, generator=generator)
        return output.mask_time_indices, output.logits

    for make in (lambda seed: torch.Generator().manual_seed(seed), lambda seed: generators(seed, seed + 1)):
        first, again, other = run(make(0)), run(make(0)), run(make(7))
        assert first[0].equal(again[0])
        assert first[1].equal(again[1])
        assert not first[0].equal(other[0])
    assert not run(None)[0].equal(run(None)[0])
    with pytest.raises(ValueError, match="3 generators for 2 items"):
        run(generators(1, 2, 3))


@pytest.mark.parametrize(
    "settings", [{}, {"mask_type": "embedding", "mask_prob": 0.9, "mask_seconds": 0.2}, WAVEFORM], ids=str
)
def test_an_item_has_the_same_mask_and_noise_in_every_batch(settings):
    model, waveforms = build(**settings), audio_of(28805, 60011, 19997)
    together = model(**pad(waveforms), generator=generators(10, 11, 12))
    counts = together.mask_time_indices.sum(-1).tolist()
    assert min(counts) > 0
    for row, (waveform, logits) in enumerate(zip(waveforms, together.logits.split(counts), strict=True)):
        alone = model(waveform[None], generator=generators(10 + row))
        frames = alone.mask_time_indices.shape[1]
        assert together.mask_time_indices[row, :frames].equal(alone.mask_time_indices[0])
        assert not together.mask_time_indices[row, frames:].any()
        torch.testing.assert_close(logits, alone.logits, rtol=0, atol=1e-4)


# In-batch mix-up. Each item is a constant, so that a sum of excerpts shows where each of them came from.
LEVELS = torch.tensor([1.0, 10.0, 100.0, 1000.0])


def mixed(samples: int = 120000, seed: int = 0, lengths=None, **settings) -> torch.Tensor:
    """What `mix_in_batch` adds to four items."""
    clean = LEVELS[:, None].repeat(1, samples)
    lengths = torch.full((4,), samples) if lengths is None else torch.tensor(lengths)
    config = MusicFMConfig(**CODES | {"mixup_prob": 1.0} | settings)
    return mix_in_batch(config, clean, lengths, generators(*range(seed, seed + 4))) - clean


def test_mixup_adds_one_to_three_excerpts_of_other_items():
    added = torch.stack([mixed(seed=seed) for seed in range(0, 200, 4)])  # (50, 4, samples)
    sources = set()
    for index in range(4):
        changes = added[:, index].diff(dim=1, prepend=torch.zeros(50, 1), append=torch.zeros(50, 1))
        begins, ends = (changes > 0).sum(1), (changes < 0).sum(1)
        assert begins.min() >= 1
        assert max(begins.max(), ends.max()) <= 3
        digits = [(added[:, index] // level).long() % 10 for level in LEVELS.tolist()]
        assert not digits[index].any()  # never an excerpt of itself
        sources |= {(index, other) for other, digit in enumerate(digits) if digit.any()}
        seconds = sum(digits).sum(1) / 24000
        assert seconds.min() >= 0.5 - 1e-4
        assert seconds.max() <= 3 * 1.5 + 1e-4
        single = seconds[begins == 1]
        assert single.min() < 0.8 < 1.2 < seconds[begins > 1].max()
    assert len(sources) == 12


def test_mixup_has_its_probability_and_ends_with_the_items():
    changed = torch.stack([mixed(seed=seed, samples=24000, mixup_prob=0.5).any(1) for seed in range(0, 400, 4)])
    assert 0.43 < changed.float().mean() < 0.57  # 400 draws: 0.5 with a standard deviation of 0.025
    assert not mixed(mixup_prob=0.0).any()
    for seed in range(20):
        added = mixed(samples=30000, seed=seed, lengths=[30000, 20000, 9000, 1])
        for index, length in enumerate((30000, 20000, 9000, 1)):
            assert added[index, :length].any()
            assert not added[index, length:].any()
    lone = torch.ones(1, 24000)
    assert mix_in_batch(MusicFMConfig(mixup_prob=1.0), lone, torch.tensor([24000]), None).equal(lone)


def test_mixup_is_drawn_from_the_seeds_of_the_items():
    assert mixed(seed=3).equal(mixed(seed=3))
    assert not mixed(seed=3).equal(mixed(seed=4))
    assert mixed(mixup_seconds=[0.25, 0.25], mixup_max_excerpts=1).count_nonzero(1).tolist() == [6000] * 4


@pytest.mark.parametrize("mask_type", ["noise", "embedding"])
def test_mixup_changes_the_input_in_training_but_not_the_targets(mask_type):
    settings = {"mask_type": mask_type, "mixup_prob": 1.0, "cqt_loss_weight": 1.0, "freeze_batch_norm": True}
    settings |= dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout"), 0.0)
    model, waveforms = build(**settings, conformer_conv_dropout=0.0), torch.stack(audio_of(48000, 48000))
    mask = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) < 0.5
    inputs = {"input_values": waveforms, "mask_time_indices": mask, "generator": generators(0, 1)}
    clean = model(**inputs)
    assert clean.logits.equal(model.eval()(**inputs | {"generator": generators(0, 1)}).logits)
    model.train()
    received = []
    with torch.no_grad(), model.musicfm.register_forward_pre_hook(lambda _, args: received.append(args[0])):
        noisy = model(**inputs | {"generator": generators(0, 1)})
    assert noisy.tokens.equal(clean.tokens)
    assert not noisy.logits.equal(clean.logits)
    config, lengths, streams = model.config, torch.tensor([48000, 48000]), generators(0, 1)
    expected = mix_in_batch(config, waveforms, lengths, streams)
    if mask_type == "noise":
        expected = replace_by_noise(config, expected, lengths, mask, streams)
    assert received[0].equal(expected)
    with torch.no_grad():
        reconstruction = model.cqt_head(
            model.musicfm(expected, mask_time_indices=mask if mask_type == "embedding" else None).last_hidden_state
        )
    errors = (reconstruction - constant_q(waveforms, None, config))[mask].square().mean(-1)
    torch.testing.assert_close(noisy.cqt_loss, errors.mean())


def test_noise_is_drawn_for_an_items_own_length():
    config, waveforms = MusicFMConfig(**CODES), audio_of(9605, 19217)
    lengths, mask = torch.tensor([9605, 19217]), torch.ones(2, 20, dtype=torch.bool)
    values = pad(waveforms)["input_values"]
    together = replace_by_noise(config, values, lengths, mask, generators(0, 1))
    alone = replace_by_noise(config, values[:1, :9605], lengths[:1], mask[:, :10], generators(0))
    assert together[0, :9600].equal(alone[0, :9600])
    assert together[0, :9600].std().item() == pytest.approx(0.1, rel=0.05)


# Masks


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({}, 25),
        ({"subsampling_time_strides": [2, 1]}, 50),
        (AT_75_HZ, 75),
        (WAVEFORM, 75),
    ],
)
def test_mask_is_a_grid_of_cells(settings, rate):
    config = MusicFMConfig(**CODES | settings)
    cell = round(0.4 * rate)
    assert (config.frame_rate, config.mask_frames) == (rate, cell)
    samples = 720000
    lengths = torch.tensor([720000, 247200, 9599] * 70)  # 75 cells, 25.75 cells and nearly one
    mask = sample_mask(config, lengths, samples, torch.Generator().manual_seed(0))
    assert mask.shape == (210, 30 * rate)
    cells = mask.view(210, 75, cell)
    assert cells.all(-1).equal(cells.any(-1))
    assert not cells[1::3, 25:].any()
    assert not cells[2::3].any()
    shares = cells[0::3, :, 0].float().mean(0), cells[1::3, :25, 0].float().mean()
    assert shares[0].mean().item() == pytest.approx(0.6, abs=0.03)
    assert 0.3 < shares[0].min() <= shares[0].max() < 0.9  # every cell, also the last
    assert shares[1].item() == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_mask_of_certain_cells(probability):
    config = MusicFMConfig(**CODES, mask_prob=probability)
    mask = sample_mask(config, torch.tensor([24000, 19200]), 24000)  # two cells and a half, and two
    assert mask.sum(-1).tolist() == [20 * probability] * 2


@pytest.mark.parametrize("samples", [48000, 48100, 48239, 48240, 48959])
@pytest.mark.parametrize("settings", [{}, {"mask_type": "embedding"}, WAVEFORM], ids=str)
def test_drawn_mask_can_be_given_whatever_the_length(settings, samples):
    """Also where the last frame is partial, or so short that it is no mel frame."""
    model, (waveform,) = build(**settings), audio_of(samples)
    mask = sample_mask(model.config, torch.tensor([samples]), samples, generators(0))
    output = model(waveform[None], mask_time_indices=mask, generator=generators(0))
    frames = model.musicfm.output_frames(samples)
    assert output.mask_time_indices.shape == output.tokens.shape[:2] == (1, frames)
    assert output.mask_time_indices.sum() == mask[:, : min(frames, samples // model.config.samples_per_frame)].sum()


def test_waveform_front_end_has_fewer_frames_than_tokens():
    """2249 frames in 30 s, where tokens and mask have 2250: the last token has no frame."""
    config = MusicFMConfig(**CODES | WAVEFORM)
    lengths = torch.tensor([720000])
    assert target_frames(config, lengths, 720000).sum() == 2249
    assert sample_mask(config, lengths, 720000).shape == (1, 2250)
    model, (waveform,) = build(**WAVEFORM, mask_prob=1.0), audio_of(48000)  # the same in 2 s: 149 and 150
    assert model.quantizer(waveform[None]).shape[1] == 150
    output = model(waveform[None])
    assert (output.tokens.shape, output.logits.shape[0]) == ((1, 149, 1), 149)
    assert output.tokens[0].equal(model.quantizer(waveform[None])[0, :149])
    given = model(waveform[None], mask_time_indices=torch.ones(1, 150), target_tokens=model.quantizer(waveform[None]))
    assert given.logits.shape[0] == 149


def test_partial_last_frame_has_no_target():
    model, (waveform,) = build(), audio_of(48480)  # 202 mel frames: 51 frames, 50 tokens
    output = model(waveform[None], mask_time_indices=torch.ones(1, 51))
    assert output.tokens[0, :, 0].tolist()[-1] == -100
    assert output.mask_time_indices.sum() == output.logits.shape[0] == 50


def test_spans_of_learned_vectors():
    """As MERT: spans of 5 frames begin at 16 % of all frames, anywhere, and may overlap: 1 - 0.84⁵ are masked."""
    mert = {"mask_type": "embedding", "mask_prob": 0.8, "mask_seconds": 5 / 75}
    config = MusicFMConfig(**CODES | WAVEFORM | mert)
    assert config.mask_frames == 5
    lengths = torch.tensor([240000, 100000] * 40)
    mask = sample_mask(config, lengths, 240000, torch.Generator().manual_seed(0))
    frames = [config.frame_counts(count)[-1] for count in (240000, 100000)]
    assert mask[:, 10 : frames[1]].float().mean().item() == pytest.approx(1 - 0.84**5, abs=0.02)
    for row, own in enumerate(mask):
        count = frames[row % 2]
        assert not own[count:].any()
        edges = np.flatnonzero(np.diff(np.r_[0, own.int().numpy(), 0]))
        runs = [(stop - start) for start, stop in edges.reshape(-1, 2) if stop < count]
        assert min(runs) >= 5
    assert len({int(own.int().argmax()) % 5 for own in mask}) == 5  # not on a grid


def test_learned_vector_stands_in_masked_frames():
    """What is under the mask does not matter to a model without a positional convolution; the vector does."""
    model, (waveform,) = build(mask_type="embedding"), audio_of(48000)
    targets = some_frames(model, 1, 48000) | {"mask_time_indices": torch.arange(50)[None] < 20}
    first = model(waveform[None], **targets, output_hidden_states=True)
    vector = model.musicfm.encoder_input.masked_spec_embed
    assert first.hidden_states[0][0, :20].equal(vector.expand(20, -1))
    changed = waveform.clone()
    changed[: 16 * 960] = 0  # frame 20 sees the spectrogram from 71 on, which sees the samples from 16016 on
    torch.testing.assert_close(model(changed[None], **targets).logits, first.logits, rtol=0, atol=1e-5)
    with torch.no_grad():
        vector.copy_(vector.flip(0))
    assert not model(waveform[None], **targets).logits.allclose(first.logits, atol=1e-3)


# Logits and losses


def test_logits_of_codebooks_of_different_sizes():
    model, waveform = build(num_codebooks=2, codebook_size=[16, 7]), torch.stack(audio_of(48000, 48000))
    output = model(waveform, generator=torch.Generator().manual_seed(0))
    count = int(output.mask_time_indices.sum())
    assert output.logits.shape == (count, 2, 16)
    assert (output.logits[:, 1, 7:] == -torch.inf).all()
    assert output.logits[:, 0].isfinite().all()
    assert output.logits[:, 1, :7].isfinite().all()
    assert output.tokens[..., 1].max() < 7
    targets = output.tokens[output.mask_time_indices]
    losses = [
        nn.functional.cross_entropy(output.logits[:, 0], targets[:, 0]),
        nn.functional.cross_entropy(output.logits[:, 1, :7], targets[:, 1]),
    ]
    torch.testing.assert_close(output.loss, sum(losses) / 2)
    torch.testing.assert_close(output.accuracy, (output.logits.argmax(-1) == targets).float().mean())
    output.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == {name for name, _ in model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["head.weight"].any(dim=-1).all()


def test_tokens_of_minus_100_are_left_out():
    model, waveform = build(num_codebooks=2), torch.stack(audio_of(48000, 48000))
    targets = some_frames(model, 2, 48000)
    mask, tokens = targets["mask_time_indices"], targets["target_tokens"]
    every = model(waveform, mask_time_indices=mask, target_tokens=tokens)
    tokens[0, :30] = -100
    tokens[1, 10:20, 1] = -100  # of one codebook: the frame does not count
    output = model(waveform, mask_time_indices=mask, target_tokens=tokens)
    counted = mask & (tokens >= 0).all(-1)
    assert 0 < counted.sum() < mask.sum()
    assert output.mask_time_indices.equal(counted)
    assert output.logits.equal(every.logits[counted[mask]])
    torch.testing.assert_close(
        output.loss, nn.functional.cross_entropy(output.logits.flatten(0, 1), tokens[counted].flatten())
    )


def test_tokens_of_one_codebook_need_no_axis():
    model, (waveform,) = build(), audio_of(48000)
    targets = some_frames(model, 1, 48000)
    flat = targets | {"target_tokens": targets["target_tokens"][..., 0]}
    assert model(waveform[None], **flat).loss.equal(model(waveform[None], **targets).loss)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_loss(kind, side):
    """The loss of a batch is that of its items, weighed by how many frames count."""
    model, waveforms = build(**KINDS[kind]), audio_of(48240, 24005, 14479)
    batch = pad(waveforms, side)
    targets = some_frames(model, 3, 48240)
    # The best guesses of the model for a half, so that the accuracy is neither 0 nor 1.
    for row, waveform in enumerate(waveforms):
        frames = model.musicfm.output_frames(len(waveform))
        own = {name: value[row : row + 1, :frames] for name, value in targets.items()}
        own["mask_time_indices"] = torch.ones(1, frames)
        logits = model(waveform[None], **own).logits
        targets["target_tokens"][row, : len(logits) : 2, 0] = logits.argmax(-1)[::2, 0]
    together = model(**batch, **targets)
    losses = accuracies = counts = 0
    for row, waveform in enumerate(waveforms):
        frames = model.musicfm.output_frames(len(waveform))
        own = {name: value[row : row + 1, :frames] for name, value in targets.items()}
        alone = model(waveform[None], **own)
        count = alone.mask_time_indices.sum()
        assert together.mask_time_indices[row].sum() == count > 0
        losses, accuracies, counts = losses + count * alone.loss, accuracies + count * alone.accuracy, counts + count
    torch.testing.assert_close(together.loss, losses / counts, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.accuracy, accuracies / counts, rtol=0, atol=1e-6)
    assert 0.2 < together.accuracy < 0.8


@pytest.mark.parametrize("settings", [{}, {"mask_type": "embedding", "cqt_loss_weight": 1.0}], ids=str)
def test_nothing_masked_is_no_loss(settings):
    model, (waveform,) = build(**settings), audio_of(24000)
    output = model(waveform[None], mask_time_indices=torch.zeros(1, 25))
    assert (output.loss.item(), output.accuracy.item()) == (0.0, 0.0)
    assert output.logits.shape == (0, 1, 32)
    output.loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 10
    assert not any(gradient.any() for gradient in gradients)  # NaN would be true


@pytest.mark.parametrize(("unmasked_loss_weight", "weight"), [(0.0, 34), (0.5, 34 + 0.5 * 41)])
def test_parts_of_a_step_add_up(unmasked_loss_weight, weight):
    """Gradients with `num_items_in_batch` of two batches, of unequal counts, are those of one."""
    settings = {"num_codebooks": 2, "cqt_loss_weight": 0.5, "unmasked_loss_weight": unmasked_loss_weight}
    whole, parts = build(**settings), build(**settings)
    waveforms = torch.stack(audio_of(24000, 24000, 24000))
    mask = torch.arange(25) < torch.tensor([5, 20, 9])[:, None]
    total = whole(waveforms, mask_time_indices=mask, generator=generators(0, 1, 2))
    total.loss.backward()
    loss = 0
    for rows in (slice(0, 1), slice(1, 3)):
        own = {"generator": generators(0, 1, 2)[rows], "num_items_in_batch": torch.tensor(weight)}
        part = parts(waveforms[rows], mask_time_indices=mask[rows], **own)
        part.loss.backward()
        loss += part.loss
    torch.testing.assert_close(loss, total.loss)
    for (name, parameter), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_constant_q_loss():
    """Of masked frames only, against the clean waveform, and weighed."""
    model, (waveform,) = build(mask_type="embedding", cqt_loss_weight=0.25), audio_of(48000)
    mask = torch.arange(50)[None] < 20
    output = model(waveform[None], mask_time_indices=mask, output_hidden_states=True)
    target = constant_q(waveform[None], None, model.config)[mask]
    guess = model.cqt_head(output.hidden_states[-1][mask])
    torch.testing.assert_close(output.cqt_loss, (guess - target).square().mean())
    cross_entropy = nn.functional.cross_entropy(output.logits.flatten(0, 1), output.tokens[mask].flatten())
    torch.testing.assert_close(output.loss, cross_entropy + 0.25 * output.cqt_loss)
    output.loss.backward()
    assert model.cqt_head.weight.grad.any(dim=-1).all()
    without = build(mask_type="embedding")
    assert without.cqt_head is None
    assert without(waveform[None], mask_time_indices=mask).cqt_loss is None


def test_loss_of_frames_that_are_not_masked():
    """A frame that is not masked has a quarter of the weight of a masked one; padding has none."""
    model = build(mask_type="embedding", cqt_loss_weight=0.5, unmasked_loss_weight=0.25)
    batch = pad(audio_of(48000, 24000))
    mask = torch.arange(50)[None].expand(2, -1) < torch.tensor([[10], [40]])
    output = model(**batch, mask_time_indices=mask, output_hidden_states=True)
    hidden_states, tokens = output.hidden_states[-1], output.tokens[..., 0]
    cross_entropy = nn.functional.cross_entropy(model.head(hidden_states).mT, tokens, reduction="none")
    target = constant_q(batch["input_values"], batch["attention_mask"], model.config)
    errors = (model.cqt_head(hidden_states) - target).square().mean(-1)
    weights = torch.where(mask, 1.0, 0.25) * (torch.arange(50)[None] < torch.tensor([[50], [25]]))
    assert weights.sum() == 10 + 0.25 * 40 + 25  # all 25 frames of the second item are masked
    torch.testing.assert_close(output.cqt_loss, (weights * errors).sum() / 45)
    torch.testing.assert_close(output.loss, (weights * cross_entropy).sum() / 45 + 0.5 * output.cqt_loss)
    assert output.logits.shape == (35, 1, 32)  # of masked frames
    assert model(**batch, mask_time_indices=mask & False).loss > 1


def test_constant_q_target_of_noise_masking_is_the_clean_waveform():
    model, (waveform,) = build(cqt_loss_weight=1.0), audio_of(48000)
    mask = torch.ones(1, 50, dtype=torch.bool)
    output = model(waveform[None], mask_time_indices=mask, output_hidden_states=True, generator=generators(0))
    guess = model.cqt_head(output.hidden_states[-1][mask])
    target = constant_q(waveform[None], None, model.config)[mask]
    torch.testing.assert_close(output.cqt_loss, (guess - target).square().mean())


@pytest.mark.parametrize("settings", [WAVEFORM, {}], ids=str)
def test_do_normalize(settings):
    """Level and offset change nothing where the encoder expects normalized waveforms; also in padded batches."""
    model, waveforms = build(**settings, do_normalize=True), audio_of(48000, 24000)
    targets = some_frames(model, 2, 48000)
    expected = model(**pad(waveforms), **targets)
    shifted = model(**pad([10 * waveform + 0.1 for waveform in waveforms]), **targets)
    torch.testing.assert_close(shifted.logits, expected.logits, rtol=0, atol=1e-3)
    plain = build(**settings)
    normalized = [(waveform - waveform.mean()) / waveform.var(correction=0).sqrt() for waveform in waveforms]
    by_hand = plain(**pad(normalized), **targets)
    torch.testing.assert_close(by_hand.logits, expected.logits, rtol=0, atol=1e-3)
    if settings is not WAVEFORM:  # which has a norm of its own near the beginning
        assert not plain(**pad(waveforms), **targets).logits.allclose(expected.logits, atol=1e-2)


def test_tokens_are_of_the_waveform_as_it_is_in_the_file():
    """Masks, noise and normalisation are of what the encoder sees."""
    model, (waveform,) = build(do_normalize=True, mask_prob=1.0), audio_of(48000)
    assert model(waveform[None]).tokens.equal(build().quantizer(waveform[None]))


# The rest of what models in Transformers can do


def test_hidden_states_and_attentions_pass_through():
    model, (waveform,) = build(), audio_of(48000)
    model.set_attn_implementation("eager")
    targets = some_frames(model, 1, 48000)
    output = model(waveform[None], **targets, output_hidden_states=True, output_attentions=True)
    encoder = model.musicfm(waveform[None], output_hidden_states=True, output_attentions=True)
    assert [len(output.hidden_states), len(output.attentions)] == [4, 3]
    torch.testing.assert_close(output.hidden_states, encoder.hidden_states, rtol=0, atol=0)
    torch.testing.assert_close(output.attentions, encoder.attentions, rtol=0, atol=0)
    logits = model.head(output.hidden_states[-1][targets["mask_time_indices"]])
    torch.testing.assert_close(output.logits[:, 0], logits)
    assert model(waveform[None], **targets).hidden_states is None


def test_tuples():
    model, (waveform,) = build(), audio_of(24000)
    targets = some_frames(model, 1, 24000)
    expected = model(waveform[None], **targets)
    as_tuple = model(waveform[None], **targets, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert as_tuple[0].equal(expected.loss)
    model.config.return_dict = False
    assert model(waveform[None], **targets)[1].equal(expected.logits)
    assert model(waveform[None], **targets, return_dict=True).logits.equal(expected.logits)


@pytest.mark.parametrize("settings", [{}, {"mask_type": "embedding", "cqt_loss_weight": 1.0}], ids=str)
def test_plain_trainer_evaluates_without_labels_and_gathers_nothing(settings, tmp_path):
    waveforms = [{"input_values": waveform} for waveform in audio_of(24000, 24000, 24000)]
    arguments = TrainingArguments(tmp_path, report_to="none", use_cpu=True, per_device_eval_batch_size=2, seed=0)
    trainer = Trainer(build(**settings), arguments, eval_dataset=waveforms)
    scores = trainer.evaluate()
    assert 2.0 < scores["eval_loss"] < 20.0
    inputs = {"input_values": torch.stack([item["input_values"] for item in waveforms])}
    loss, logits, labels = trainer.prediction_step(trainer.model, inputs, prediction_loss_only=False)
    assert loss.isfinite()
    assert logits == labels == ()
    assert 2.0 < trainer.predict(waveforms).metrics["test_loss"] < 20.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_values": torch.zeros(48000)}, r"shape \(batch, samples\).*\(48000,\)"),
        ({"input_values": torch.zeros(1, 48000, dtype=torch.int16)}, "floating point"),
        ({"input_values": torch.zeros(0, 48000)}, "The batch is empty"),
        ({"input_values": torch.zeros(1, 1024)}, "1024 samples, but the model needs at least 1025"),
        ({"attention_mask": torch.arange(48000)[None] < 1000}, "1000 samples, but the model needs at least 1025"),
        ({"attention_mask": torch.ones(1, 50)}, r"`attention_mask` must have the shape .*got \(1, 50\)"),
        ({"attention_mask": torch.arange(48000)[None] % 9000 > 9}, "`attention_mask` has holes"),
        ({"mask_time_indices": torch.ones(1, 49)}, r"`mask_time_indices` must have shape \(1, 50\), got \(1, 49\)"),
        ({"mask_time_indices": torch.ones(2, 50)}, r"`mask_time_indices` must .*got \(2, 50\)"),
        ({"mask_time_indices": torch.ones(1, 50, 1)}, r"`mask_time_indices` must .*got \(1, 50, 1\)"),
        ({"target_tokens": torch.zeros(1, 50).long()}, "`target_tokens` need `mask_time_indices`"),
        (
            {"target_tokens": torch.zeros(1, 48).long(), "mask_time_indices": torch.ones(1, 50)},
            r"`target_tokens` must be integers of shape \(1, 50, 1\), got torch.int64 of shape \(1, 48\)",
        ),
        (
            {"target_tokens": torch.zeros(1, 50, 2).long(), "mask_time_indices": torch.ones(1, 50)},
            r"`target_tokens` must be integers of shape \(1, 50, 1\), got .*\(1, 50, 2\)",
        ),
        (
            {"target_tokens": torch.zeros(1, 50), "mask_time_indices": torch.ones(1, 50)},
            r"`target_tokens` must be integers .*got torch.float32",
        ),
        (
            {"target_tokens": torch.full((1, 50), -1), "mask_time_indices": torch.ones(1, 50)},
            "`target_tokens` must be codes from 0 to 31, or -100 to leave out, got -1",
        ),
        (
            {"target_tokens": torch.full((1, 50, 1), 32), "mask_time_indices": torch.ones(1, 50)},
            "`target_tokens` must be codes from 0 to 31, or -100 to leave out, got 32",
        ),
    ],
)
def test_wrong_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build()(**{"input_values": torch.zeros(1, 48000)} | arguments)


def test_tokens_of_several_codebooks_need_the_axis():
    given = {"mask_time_indices": torch.ones(1, 25), "target_tokens": torch.zeros(1, 25).long()}
    with pytest.raises(ValueError, match=r"`target_tokens` must be integers of shape \(1, 25, 2\)"):
        build(num_codebooks=2)(torch.zeros(1, 24000), **given)


def test_tokens_of_a_smaller_codebook():
    model, tokens = build(num_codebooks=2, codebook_size=[32, 8]), torch.tensor([[[31, 7]] * 25])
    mask = torch.ones(1, 25)
    assert model(torch.zeros(1, 24000), mask_time_indices=mask, target_tokens=tokens).loss.isfinite()
    with pytest.raises(ValueError, match="codebook 2 must be codes from 0 to 7, or -100 to leave out, got 8"):
        model(torch.zeros(1, 24000), mask_time_indices=mask, target_tokens=tokens + torch.tensor([0, 1]))


def test_constant_q_loss_needs_the_clean_waveform():
    model = build(cqt_loss_weight=1.0)
    with pytest.raises(ValueError, match="constant-Q loss needs the clean waveform"):
        model(torch.zeros(1, 24000), **some_frames(model, 1, 24000))


def test_building_seeds_nothing():
    """The global generators of Python and NumPy stay as they are; that of torch gives the weights and goes on."""
    torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (MusicFMForPreTraining(MusicFMConfig(**CODES)) for _ in range(2))
    after = torch.rand(3)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert not first.head.weight.equal(second.head.weight)
    torch.manual_seed(4)
    other = MusicFMForPreTraining(MusicFMConfig(**CODES))
    assert not after.equal(torch.rand(3))
    for model in (second, other):  # tokens do not depend on any of that
        assert model.quantizer.projection.equal(first.quantizer.projection)
        assert model.quantizer.codebook.equal(first.quantizer.codebook)
    other_seed = MusicFMForPreTraining(MusicFMConfig(**CODES, quantizer_seed=1))
    assert not other_seed.quantizer.projection.equal(first.quantizer.projection)
    assert not other_seed.quantizer.codebook.equal(first.quantizer.codebook)


QUANTIZERS = {
    "random_projection": {},
    "residual_vq": {"quantizer_type": "residual_vq", "num_codebooks": 2},
    "kmeans": {"quantizer_type": "kmeans", "kmeans_mel_bins": 8},
}


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_saved_and_loaded(kind, tmp_path):
    """The quantizer too, whatever the seed says."""
    model, (waveform,) = build(**QUANTIZERS[kind], mask_type="embedding", cqt_loss_weight=1.0), audio_of(48000)
    for tensor in model.quantizer.buffers():
        tensor.add_(0.5 * torch.rand_like(tensor))
    model.save_pretrained(tmp_path)
    mask = torch.arange(50)[None] < 30
    for dtype in (torch.float32, torch.bfloat16):
        loaded, info = AutoModelForPreTraining.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
        assert not any(info.values()), info
        own = dict(loaded.quantizer.named_buffers())
        assert own.keys() == dict(model.quantizer.named_buffers()).keys() != set()
        for name, tensor in model.quantizer.named_buffers():
            assert own[name].equal(tensor)
        if dtype == torch.float32:
            assert loaded.eval()(waveform[None], mask_time_indices=mask).loss.equal(
                model(waveform[None], mask_time_indices=mask).loss
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_pretraining_goes_on_from_an_encoder_alone(kind, dtype, tmp_path):
    config = MusicFMConfig(**CODES | QUANTIZERS[kind], quantizer_seed=5)
    encoder = MusicFMModel(config)
    encoder.save_pretrained(tmp_path)
    model = MusicFMForPreTraining.from_pretrained(tmp_path, dtype=dtype)
    for name, tensor in build_quantizer(config).state_dict().items():
        assert model.quantizer.state_dict()[name].equal(tensor), name
    for name, tensor in encoder.state_dict().items():
        assert model.musicfm.state_dict()[name].equal(tensor.to(dtype) if tensor.is_floating_point() else tensor)
    assert model.head.weight.float().std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.head.bias.any()


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm(frozen):
    """In training mode, which the Trainer sets at every step; dropout is on all the same."""
    model = build(freeze_batch_norm=frozen).train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model(torch.stack(audio_of(24000, 24000)), mask_time_indices=torch.ones(2, 25)).loss.backward()
    running = [name for name in before if "running" in name]
    assert len(running) == 2 * (2 * 3 + 3)  # mean and variance; two blocks of three, and three layers
    assert all(before[name].equal(tensor) == frozen for name, tensor in model.named_buffers() if name in running)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert {norm.training for norm in norms} == {not frozen}
    assert model.musicfm.layers[0].self_attn_dropout.training
    assert norms[0].weight.grad.any()
