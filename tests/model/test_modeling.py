import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from helpers.audio import music, padded_batch
from helpers.models import TINY, random_model
from torch import nn
from transformers import AutoModel
from transformers.audio_utils import mel_filter_bank

from musicfm_hf import MusicFMConfig, MusicFMModel

NO_DROPOUT = {
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "conformer_conv_dropout": 0.0,
}


def largest_difference(one, other) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(one, other, strict=True))


# The public implementation


def test_log_mel_is_the_public_one(converted, recorded):
    model = AutoModel.from_pretrained(converted)
    mel = model.log_mel(recorded["input_values"], None).transpose(1, 2)
    torch.testing.assert_close(mel, recorded["log_mel"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("attention", "with_gradient"),
    [
        *itertools.product(["eager", "sdpa"], [True, False]),
        pytest.param("flex_attention", False, marks=pytest.mark.slow),  # compiled for half a minute
    ],
)
def test_hidden_states_are_the_public_ones(converted, recorded, attention, with_gradient):
    model = AutoModel.from_pretrained(converted, attn_implementation=attention).eval()
    with torch.set_grad_enabled(with_gradient):
        hidden_states = model(recorded["input_values"], output_hidden_states=True).hidden_states
    assert len(hidden_states) == 4
    for index, hidden_state in enumerate(hidden_states):
        torch.testing.assert_close(hidden_state, recorded[f"hidden_states.{index}"], rtol=0, atol=1e-4)


# Layers and outputs


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_layer_is_hidden_state(tiny_model, layer):
    audio = torch.from_numpy(music(2.0))[None]
    every = tiny_model(audio, output_hidden_states=True).hidden_states
    output = tiny_model(audio, layer=layer, output_hidden_states=True)
    assert len(every) == 4
    assert len(output.hidden_states) == layer + 1
    torch.testing.assert_close(output.last_hidden_state, every[layer], rtol=0, atol=0)
    torch.testing.assert_close(output.hidden_states, every[: layer + 1], rtol=0, atol=0)
    assert tiny_model(audio, layer=layer, return_dict=False)[0].equal(output.last_hidden_state)


def test_nothing_after_the_layer_is_computed(tiny_model):
    called = []
    for index, layer in enumerate(tiny_model.layers):
        layer.register_forward_hook(lambda *_, index=index: called.append(index))
    tiny_model.layer_norm.register_forward_hook(lambda *_: called.append("norm"))
    audio = torch.from_numpy(music(1.0))[None]
    tiny_model(audio, layer=2)
    assert called == [0, 1]
    tiny_model(audio, layer=0)
    assert called == [0, 1]
    tiny_model(audio)
    assert called == [0, 1, 0, 1, 2, "norm"]


def test_selected_hidden_states_and_attentions(tiny_model):
    audio = torch.from_numpy(music(1.0))[None]
    selected = tiny_model(audio, output_hidden_states=[1, 3]).hidden_states
    assert [state is not None for state in selected] == [False, True, False, True]
    tiny_model.set_attn_implementation("eager")
    attentions = tiny_model(audio, layer=2, output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(1, 4, 25, 25)] * 2
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(1, 4, 25))


def test_frames_mask_and_times(tiny_model):
    mask = torch.zeros(2, 24000).long()
    mask[0, :24000] = mask[1, :4321] = 1  # 18 mel frames: 5 frames
    assert tiny_model.frames_mask(mask).sum(-1).tolist() == [25, 5]
    assert tiny_model.frames_mask(mask).dtype == torch.bool
    assert tiny_model.frame_times(4).tolist() == [0.0, 0.04, 0.08, 0.12]
    assert tiny_model.output_frames(24000 * 30) == 750


def test_impulse_lies_at_its_frame_time(tiny_model):
    """A click moves the hidden state before the first layer most at the frame whose time it has."""
    audio = torch.from_numpy(0.01 * music(4.0))[None]
    clicked = audio.clone()
    clicked[0, 2 * 24000] = 1.0
    change = (tiny_model(clicked, layer=0).last_hidden_state - tiny_model(audio, layer=0).last_hidden_state).norm(
        dim=-1
    )
    assert abs(float(tiny_model.frame_times(100)[change.argmax()]) - 2.0) <= 0.04


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_values": torch.zeros(24000)}, r"shape \(batch, samples\).*\(24000,\)"),
        ({"input_values": torch.zeros(1, 24000, dtype=torch.int16)}, "floating point"),
        ({"input_values": torch.zeros(0, 24000)}, "batch is empty"),
        ({"input_values": torch.zeros(1, 24000), "layer": 2.0}, r"`layer` must be .* got 2\.0"),
        ({"input_values": torch.zeros(1, 1024)}, "1024 samples, but the model needs at least 1025"),
        ({"input_values": torch.zeros(1, 24000), "layer": 4}, "`layer` must be between 0 and 3, got 4"),
        ({"input_values": torch.zeros(1, 24000), "layer": -1}, "`layer` must be between 0 and 3, got -1"),
        ({"input_values": torch.zeros(1, 24000), "layer": True}, "`layer` must be"),
        ({"input_values": torch.zeros(1, 24000), "attention_mask": torch.ones(1, 25)}, "`attention_mask` must have"),
        ({"input_values": torch.zeros(1, 24000), "attention_mask": torch.zeros(1, 24000)}, "0 samples"),
        ({"input_values": torch.zeros(1, 24000), "attention_mask": torch.arange(24000)[None] % 9000 > 9}, "holes"),
    ],
)
def test_wrong_input_is_refused(tiny_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**arguments)


# Padding


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("with_gradient", [True, False])
def test_padding_changes_nothing(attention, with_gradient):
    model = random_model(MusicFMConfig(**TINY, attn_implementation=attention))
    waveforms = [music(seconds, seed=row) for row, seconds in enumerate([0.1, 30.0, 1.0, 0.043, 7.777, 12.34, 0.5])]
    input_values, mask = padded_batch(waveforms)
    with torch.set_grad_enabled(with_gradient):
        together = model(input_values, mask, output_hidden_states=True).hidden_states
        for row, waveform in enumerate(waveforms):
            alone = model(torch.from_numpy(waveform)[None], output_hidden_states=True).hidden_states
            count = int(model.frames_mask(mask)[row].sum())
            assert alone[0].shape[1] == count
            assert largest_difference([h[row : row + 1, :count] for h in together], alone) < 1e-5


def test_what_stands_in_the_padding_does_not_matter(tiny_model):
    input_values, mask = padded_batch([music(1.0), music(2.0)])
    clean = tiny_model(input_values, mask).last_hidden_state
    dirty = tiny_model(input_values.masked_fill(mask == 0, 1e4), mask).last_hidden_state
    torch.testing.assert_close(clean[0, :25], dirty[0, :25], rtol=0, atol=0)


def test_padding_on_the_left_gives_the_same_frames_first(tiny_model):
    input_values, mask = padded_batch([music(1.0), music(2.0)])
    right = tiny_model(input_values, mask).last_hidden_state
    shift = 24000
    left_values, left_mask = input_values.clone(), mask.clone()
    left_values[0], left_mask[0] = input_values[0].roll(shift), mask[0].roll(shift)
    left = tiny_model(left_values, left_mask).last_hidden_state
    torch.testing.assert_close(left[0, :25], right[0, :25], rtol=0, atol=0)
    assert tiny_model.frames_mask(left_mask).equal(tiny_model.frames_mask(mask))


def test_training_statistics_leave_out_padding():
    """Two items, one padded: the same loss gradient and batch statistics as if the padding were shorter."""
    short = random_model(MusicFMConfig(**TINY, **NO_DROPOUT)).train()
    long = copy.deepcopy(short)
    input_values, mask = padded_batch([music(1.0), music(2.0)])
    more_values, more_mask = (
        nn.functional.pad(input_values, (0, 24000), value=3.0),
        nn.functional.pad(mask, (0, 24000)),
    )
    for model, values, item_mask in ((short, input_values, mask), (long, more_values, more_mask)):
        frames = model.frames_mask(item_mask)
        model(values, item_mask).last_hidden_state[frames].square().mean().backward()
    for (name, a), b in zip(short.named_buffers(), long.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    gradient, other = short.subsampling.blocks[0].conv1.weight.grad, long.subsampling.blocks[0].conv1.weight.grad
    torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-6)


# Inference


def test_inference_leaves_training_and_saving_alone(tiny_model):
    before = copy.deepcopy(tiny_model.state_dict())
    audio = torch.from_numpy(music(1.0))[None]
    with torch.inference_mode():
        first = tiny_model(audio).last_hidden_state
    tiny_model.train()
    tiny_model(audio).last_hidden_state.sum().backward()
    tiny_model.eval()
    tiny_model.load_state_dict(before)
    with torch.no_grad():
        again = tiny_model(audio).last_hidden_state
        tiny_model.subsampling.blocks[1].norm2.running_mean += 1.0
        changed = tiny_model(audio).last_hidden_state
    assert again.equal(first)
    assert not changed.allclose(first)
    assert tiny_model.state_dict().keys() == before.keys()


def test_lora_on_convolutions_counts_in_inference(tiny_model):
    from peft import LoraConfig, inject_adapter_in_model

    audio = torch.from_numpy(music(1.0))[None]
    model = inject_adapter_in_model(
        LoraConfig(target_modules=["conv2", "q_proj"], init_lora_weights=False), tiny_model
    )
    with_gradient = model(audio).last_hidden_state
    with torch.no_grad():
        torch.testing.assert_close(model(audio).last_hidden_state, with_gradient, rtol=0, atol=1e-5)


# Dtypes


def test_filters_are_those_of_transformers(tiny_model):
    expected = mel_filter_bank(1025, 128, 0.0, 12000.0, 24000, norm=None, mel_scale="htk")
    np.testing.assert_allclose(tiny_model.log_mel.filters().numpy(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_mel_is_the_same_to_the_last_bit(converted, dtype):
    audio = torch.from_numpy(music(2.0))[None]
    mask = torch.ones_like(audio).long()
    expected = AutoModel.from_pretrained(converted).log_mel(audio, mask)
    loaded = AutoModel.from_pretrained(converted, dtype=dtype)
    cast = AutoModel.from_pretrained(converted).to(dtype)
    assert loaded.dtype == cast.dtype == dtype
    for model in (loaded, cast):
        assert model.log_mel(audio, mask).equal(expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model.log_mel(audio, mask).equal(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_default_dtype_does_not_move_the_mel(tiny_model, dtype):
    audio = torch.from_numpy(music(1.0))[None]
    expected = tiny_model.log_mel(audio, None)
    torch.set_default_dtype(dtype)
    try:
        assert tiny_model.log_mel(audio, None).equal(expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeds_alike(converted, dtype):
    audio = torch.from_numpy(music(4.0))[None]
    exact = AutoModel.from_pretrained(converted).eval()(audio).last_hidden_state
    with torch.no_grad():
        half = AutoModel.from_pretrained(converted, dtype=dtype).eval()(audio).last_hidden_state
    assert half.dtype == dtype
    assert torch.cosine_similarity(exact, half.float(), dim=-1).min() > 0.995


# The rest of what models in Transformers can do


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(use_reentrant):
    plain = random_model(MusicFMConfig(**TINY, **NO_DROPOUT, freeze_batch_norm=False)).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    input_values, mask = padded_batch([music(1.0), music(2.0)])
    for item_mask in (mask, None):
        for model in (plain, checkpointed):
            model.zero_grad()
            model(input_values, item_mask).last_hidden_state[:, :25].square().mean().backward()
        for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)
        for (name, a), b in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=name)
    assert plain.layers[0].conv_module.batch_norm.num_batches_tracked == 2


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_model_agrees(tiny_model, backend):
    input_values, mask = padded_batch([music(1.0), music(2.0)])
    with torch.no_grad():
        expected = tiny_model(input_values, mask).last_hidden_state
        output = torch.compile(tiny_model, backend=backend)(input_values, mask).last_hidden_state
    frames = tiny_model.frames_mask(mask)
    torch.testing.assert_close(output[frames], expected[frames], rtol=0, atol=1e-5)


@pytest.mark.parametrize("strict", [True, False])
def test_exported_with_dynamic_length(tiny_model, strict):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tiny_model

        def forward(self, input_values):
            return self.model(input_values, layer=2).last_hidden_state

    program = torch.export.export(
        Encoder(), (torch.zeros(1, 24000),), dynamic_shapes={"input_values": {1: torch.export.Dim.AUTO}}, strict=strict
    )
    for seconds in (0.5, 1.0, 3.21):
        audio = torch.from_numpy(music(seconds))[None]
        expected = tiny_model(audio, layer=2).last_hidden_state
        torch.testing.assert_close(program.module()(audio), expected, rtol=0, atol=1e-5)


def test_device_map_and_offload(tiny_model, tmp_path):
    audio = torch.from_numpy(music(1.0))[None]
    with torch.no_grad():
        expected = tiny_model(audio).last_hidden_state
        tiny_model.save_pretrained(tmp_path / "model")
        automatic = AutoModel.from_pretrained(tmp_path / "model", device_map="auto").eval()
        torch.testing.assert_close(automatic(audio).last_hidden_state, expected, rtol=0, atol=1e-6)
        places = {"subsampling": "cpu", "layers": "disk", "layer_norm": "cpu", "log_mel": "cpu"}
        offloaded = AutoModel.from_pretrained(
            tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
        ).eval()
        assert offloaded.layers[0].conv_module.depthwise_conv.weight.device.type == "meta"
        torch.testing.assert_close(offloaded(audio).last_hidden_state, expected, rtol=0, atol=1e-5)


def test_sharded_and_in_another_dtype(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    audio = torch.from_numpy(music(1.0))[None]
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert loaded(audio).last_hidden_state.equal(tiny_model(audio).last_hidden_state)
    assert AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert AutoModel.from_pretrained(tmp_path, dtype="auto").dtype == torch.float32


def test_pickled_deep_copied_and_back_from_meta(tiny_model, tmp_path):
    audio = torch.from_numpy(music(1.0))[None]
    expected = tiny_model(audio).last_hidden_state
    assert pickle.loads(pickle.dumps(tiny_model))(audio).last_hidden_state.equal(expected)
    assert copy.deepcopy(tiny_model)(audio).last_hidden_state.equal(expected)
    tiny_model.save_pretrained(tmp_path)
    on_meta = tiny_model.to("meta")
    assert all(tensor.is_meta for tensor in on_meta.state_dict().values())
    assert AutoModel.from_pretrained(tmp_path).eval()(audio).last_hidden_state.equal(expected)


def test_constructor_leaves_global_generators_of_numpy_alone_and_follows_torchs():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch.manual_seed(3)
    first = MusicFMModel(MusicFMConfig(**TINY))
    torch.manual_seed(3)
    second = MusicFMModel(MusicFMConfig(**TINY))
    assert all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
