"""The front end and the conformer of MERT-v2; `tests/conversion` compares them with the public implementation."""

import peft
import pytest
import torch
from helpers.audio import music
from helpers.models import TINY

from musicfm_hf import (
    MusicFMConfig,
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    MusicFMForPreTraining,
    MusicFMModel,
    annotate,
    embed,
)
from musicfm_hf.model.subsampling_musicfm import MusicFMGlobalResponseNorm

CONVNEXT = TINY | {
    "front_end": "convnext",
    "convnext_channels": [16, 24, 32],
    "convnext_depths": [1, 2, 1],
    "subsampling_time_strides": [1, 2, 2],
    "num_mel_bins": 16,
    "conformer_conv_norm": "layer_norm",
    "rotary_after_projection": True,
    "use_final_layer_norm": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "conformer_conv_dropout": 0.0,
}
RATE = 24000


def build(model_class=MusicFMModel, **settings):
    """A tiny model in eval mode, whose response norms have an effect."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(MusicFMConfig(**CONVNEXT | settings)).eval()
        for module in model.modules():
            if isinstance(module, MusicFMGlobalResponseNorm):
                torch.nn.init.normal_(module.weight)
                torch.nn.init.normal_(module.bias)
    return model


def audio(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(music(seconds, seed=seed))[None]


def test_response_norm_worked_out():
    """Two channels with norms 5 and 12 over time: their mean is 8.5. The third frame is padding."""
    norm = MusicFMGlobalResponseNorm(2)
    values = torch.tensor([[[3.0, 0.0], [4.0, 12.0], [100.0, 100.0]]])
    assert norm(values, None).equal(values)  # weights and biases begin at 0
    torch.nn.init.constant_(norm.weight, 2.0)
    torch.nn.init.constant_(norm.bias, 1.0)
    result = norm(values, torch.tensor([[True, True, False]]))[0, :2]
    expected = [[3 * (1 + 2 * 5 / 8.5) + 1, 1.0], [4 * (1 + 2 * 5 / 8.5) + 1, 12 * (1 + 2 * 12 / 8.5) + 1]]
    torch.testing.assert_close(result, torch.tensor(expected))


def test_response_norm_does_not_overflow_in_half_precision():
    norm = MusicFMGlobalResponseNorm(4).half()
    torch.nn.init.ones_(norm.weight)
    values = torch.full((1, 3000, 4), 30.0, dtype=torch.float16)  # the squares add up to 2.7 million
    torch.testing.assert_close(norm(values, None), 2 * values)


def test_frames_and_their_times():
    """Partial frames are dropped; strided convolutions put the center of frame 0 between mel frames 1 and 2."""
    config = MusicFMConfig(**CONVNEXT)
    assert [config.frame_counts(samples)[-1] for samples in (1025, 1919, 1920, 24000)] == [1, 1, 2, 25]
    assert (config.min_samples, config.frame_offset, config.window_samples(3)) == (1025, 0.375, 2880)
    model = build()
    quiet = 0.01 * audio(4.0)
    clicked = quiet.clone()
    clicked[0, 2 * RATE] = 1.0
    change = (model(clicked, layer=0).last_hidden_state - model(quiet, layer=0).last_hidden_state).norm(dim=-1)
    assert abs(float(model.frame_times(100)[change.argmax()]) - 2.0) <= 0.04


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_class", [MusicFMModel, MusicFMForAudioFrameClassification])
def test_padding_changes_nothing(attention, model_class):
    """Also with numbers of mel frames that the strides do not divide, and with gradients."""
    model = build(model_class)
    model.set_attn_implementation(attention)
    lengths = (24000, 17000, 9991)
    waveforms = [audio(length / RATE, seed)[0] for seed, length in enumerate(lengths)]
    batch, mask = torch.full((3, 24000), 3.0), torch.zeros(3, 24000).long()
    for row, waveform in enumerate(waveforms):
        batch[row, : len(waveform)], mask[row, : len(waveform)] = waveform, 1
    outputs = model(batch, mask)[0]
    for row, waveform in enumerate(waveforms):
        alone = model(waveform[None])[0][0]
        torch.testing.assert_close(outputs[row, : len(alone)], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_mel(dtype):
    model, waveform = build(), audio(3.0)
    mel, expected = model.log_mel(waveform, None), model(waveform).last_hidden_state
    model.to(dtype)
    assert model.log_mel(waveform, None).equal(mel)
    output = model(waveform).last_hidden_state
    assert output.dtype == dtype
    similarity = torch.nn.functional.cosine_similarity(output.float(), expected, dim=-1)
    assert similarity.min() > 0.99


def test_a_layer_without_the_rest():
    model, called = build(), []
    for index, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda *_, index=index: called.append(index))
    every = model(audio(1.0), output_hidden_states=True).hidden_states
    called.clear()
    for layer in range(4):
        assert model(audio(1.0), layer=layer).last_hidden_state.equal(every[layer])
    assert called == [0, 0, 1, 0, 1, 2]
    assert every[3].equal(model(audio(1.0)).last_hidden_state)  # no final norm


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradients_of_checkpointing(use_reentrant):
    waveform = audio(1.0)
    gradients = []
    for checkpointing in (False, True):
        model = build().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model(waveform).last_hidden_state.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_masked_pretraining_learns():
    """On one second of music, from scratch."""
    torch.manual_seed(0)
    model = build(MusicFMForPreTraining, codebook_size=32).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(audio(1.0), generator=torch.Generator().manual_seed(1)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_lora_and_head():
    model = build(MusicFMForAudioFrameClassification, label_rate=5.0, id2label={0: "a", 1: "b", 2: "c"})
    targets = ["q_proj", "v_proj", "intermediate_dense", "pointwise_conv1"]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=targets, modules_to_save=["classifier"], r=2, init_lora_weights=False)
    )
    labels = torch.zeros(1, 5).long()
    adapted(audio(1.0), labels=labels).loss.backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert trained
    assert all("lora_" in name or "classifier" in name for name in trained)
    assert any("subsampling.stages.2" in name for name in trained)


def test_long_audio_in_windows_of_the_model(monkeypatch):
    """A song is encoded in windows of `context_seconds`, unless the caller chooses another length."""
    model, lengths = build(context_seconds=4.0), []
    forward = model.subsampling.forward
    monkeypatch.setattr(
        model.subsampling, "forward", lambda mel, counts: lengths.append(mel.shape[1]) or forward(mel, counts)
    )
    song = music(10.0)
    frames = embed(model, song, RATE).frames
    assert frames.shape == (250, 32)
    assert lengths == [400, 400, 400]
    alone = model(torch.from_numpy(song[: 4 * RATE])[None]).last_hidden_state[0]
    torch.testing.assert_close(frames[:90], alone[:90], rtol=0, atol=2e-5)
    lengths.clear()
    embed(model, song, RATE, window_seconds=10.0)
    assert lengths == [1000]
    lengths.clear()
    labels = {"id2label": {0: "a", 1: "b"}, "label_rate": None, "task": "tagging"}
    head = build(MusicFMForAudioClassification, context_seconds=5.0, **labels)
    forward_of_head = head.musicfm.subsampling.forward
    monkeypatch.setattr(
        head.musicfm.subsampling,
        "forward",
        lambda mel, counts: lengths.append(mel.shape[1]) or forward_of_head(mel, counts),
    )
    annotate(head, song, RATE)
    assert lengths == [500, 500, 500]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"convnext_channels": [24, 24, 32]},
            r"`convnext_channels` must be widths that change only with a stride of 2, from 16 \(`num_mel_bins`\)",
        ),
        (
            {"convnext_channels": [16, 24, 30]},
            r"`convnext_channels` must be widths that end with `hidden_size` \(32\)",
        ),
        ({"convnext_depths": [1, 2]}, "`convnext_depths` must be a list of positive integers, as long as"),
        ({"convnext_depths": [1, 2, 0]}, "`convnext_depths` must be a list of positive integers"),
        ({"subsampling_time_strides": [2, 2]}, "`subsampling_time_strides` must be 3 strides, each 1 or 2"),
        ({"conformer_conv_norm": "group_norm"}, "`conformer_conv_norm` must be one of batch_norm, layer_norm"),
        ({"context_seconds": 0.0}, "`context_seconds` must be a positive number"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        MusicFMConfig(**CONVNEXT | settings)
