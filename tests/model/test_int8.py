"""Int8 inference: the layer, its kernels, and models that are loaded and saved in int8."""

import copy
import json

import pytest
import torch
from helpers.audio import music, padded_batch
from helpers.models import TINY, head, random_model
from helpers.text_audio import save_adapter, text_audio_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForAudioFrameClassification, Trainer, TrainingArguments

from musicfm_hf import (
    MusicFMConfig,
    MusicFMForAudioFrameClassification,
    MusicFMForPreTraining,
    MusicFMInt8Config,
    MusicFMModel,
)
from musicfm_hf.model import int8_musicfm
from musicfm_hf.model.int8_musicfm import Int8Convolution, MusicFMInt8Linear, multiply_plainly, quantize_frames

needs_kernel = pytest.mark.skipif(
    not int8_musicfm.has_fast_int8(), reason="oneDNN has no exact and fast int8 kernel on this processor"
)

# The layer


def test_frames_are_rounded_with_a_scale_of_their_own():
    frames = torch.tensor([[127.0, -63.4, 0.6, 0.4], [0.5, -1.27, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    values, scales = quantize_frames(frames)
    expected = torch.tensor([[127, -63, 1, 0], [50, -127, 100, 0], [0, 0, 0, 0]]) + 128
    assert values.dtype is torch.uint8
    assert torch.equal(values.long(), expected)
    torch.testing.assert_close(scales[:2], torch.tensor([[1.0], [0.01]]))


def test_weights_are_rounded_with_a_scale_for_each_output():
    linear = nn.Linear(3, 2)
    linear.weight.data = torch.tensor([[127.0, -2.6, 1.4], [0.0127, 0.0, -0.005]])
    linear.bias.data = torch.tensor([1.0, 2.0])
    layer = MusicFMInt8Linear.from_linear(linear)
    assert layer.weight.tolist() == [[127, -3, 1], [127, 0, -50]]
    torch.testing.assert_close(layer.weight_scale, torch.tensor([1.0, 0.0001]))
    # The input is exact in int8: 127 · 127 - 3 · 64 + 2, and 127 · 127 - 50 · 2 in units of 0.0001.
    output = layer(torch.tensor([[[127.0, 64.0, 2.0]]]))
    torch.testing.assert_close(output, torch.tensor([[[15939.0 + 1.0, 1.6029 + 2.0]]]))
    torch.testing.assert_close(layer.to_linear(torch.float32).weight[0], torch.tensor([127.0, -3.0, 1.0]))


def example(inputs: int = 96, outputs: int = 64, frames: int = 300) -> tuple[nn.Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(inputs, outputs)
    linear.weight.data.normal_(0.0, 0.02, generator=generator)
    loudness = torch.logspace(-3, 3, frames)[:, None]
    return linear, loudness * torch.randn(frames, inputs, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_errors_are_within_the_rounding(dtype):
    linear, frames = example()
    layer = MusicFMInt8Linear.from_linear(linear).to(dtype)
    with torch.no_grad():
        output, exact = layer(frames.to(dtype)), linear(frames.to(dtype).float())
    assert output.dtype is dtype
    error = (output.float() - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() < 0.02  # two roundings of 1/254 of the largest value, at any loudness


def test_a_frame_does_not_depend_on_the_others():
    linear, frames = example()
    layer = MusicFMInt8Linear.from_linear(linear)
    with torch.no_grad():
        output = layer(frames)
        assert torch.equal(layer(frames[7:8]), output[7:8])
        assert torch.equal(layer(frames.view(3, 100, -1)).view(300, -1), output)


@needs_kernel
def test_the_plain_product_equals_that_of_the_kernel(monkeypatch):
    linear, frames = example(inputs=1000, outputs=200)
    layer = MusicFMInt8Linear.from_linear(linear)
    with torch.no_grad():
        output = layer(frames)
        assert layer._packed is not None
        monkeypatch.setattr(int8_musicfm, "has_fast_int8", lambda: False)
        torch.testing.assert_close(layer(frames), output, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fault", ["missing", "saturating"])
def test_a_kernel_that_is_missing_or_inexact_is_not_used(monkeypatch, fault):
    if fault == "missing":
        monkeypatch.setattr(int8_musicfm, "_pack", lambda weight: torch.ops.onednn.no_such_operator(weight))
    else:
        monkeypatch.setattr(int8_musicfm, "_pack", lambda weight: weight)

        def saturated(values, weight, scales, zero_points):
            return multiply_plainly(values, weight, scales).clamp(-32768, 32767)

        monkeypatch.setattr(int8_musicfm, "_multiply_packed", saturated)
    assert int8_musicfm.has_fast_int8.__wrapped__() is False


def test_weights_that_change_are_packed_again():
    linear, frames = example()
    layer = MusicFMInt8Linear.from_linear(linear)
    with torch.no_grad():
        before = layer(frames)
        weights = layer.state_dict() | {"weight": -layer.weight}
        layer.load_state_dict(weights)
        torch.testing.assert_close(layer(frames) - layer.bias, layer.bias - before)
        assert torch.equal(copy.deepcopy(layer)(frames), layer(frames))


def test_values_that_are_not_finite_stay_so():
    linear, frames = example()
    frames[3, 5], frames[4, 5] = torch.nan, torch.inf
    with torch.no_grad():
        output = MusicFMInt8Linear.from_linear(linear)(frames)
    assert torch.nonzero(~output.isfinite().any(-1)).flatten().tolist() == [3, 4]


def test_gradients_are_refused():
    linear, frames = example()
    with pytest.raises(ValueError, match="no gradients"):
        MusicFMInt8Linear.from_linear(linear)(frames.requires_grad_())


# Convolutions


@needs_kernel
@pytest.mark.parametrize(("strides", "bands"), [((2, 2), 8), ((1, 2), 7), ((1, 1), 8)])
def test_convolutions_are_exact_for_integers(strides, bands):
    """The largest input of each frame is 127, and so is the largest weight of each output: nothing is rounded."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(-127, 128, (2, 9, bands, 64), generator=generator).float()
    weight = torch.randint(-127, 128, (32, 64, 3, 3), generator=generator).float()
    frames[:, :, 3, 5], weight[:, 7, 1, 1] = 127, -127
    bias = torch.arange(32.0)
    convolution = Int8Convolution(weight, bias, strides)
    inputs = frames.permute(0, 3, 1, 2).double(), weight.double(), bias.double()
    expected = nn.functional.conv2d(*inputs, strides, padding=(0, 1))
    torch.testing.assert_close(convolution(frames).permute(0, 3, 1, 2).double(), expected, rtol=1e-6, atol=0.5)


@needs_kernel
def test_scales_of_convolutions_are_local():
    frames = torch.zeros(1, 9, 6, 64)
    frames[0, 0], frames[0, 6] = 1000.0, 1.0  # the loud frame is not a neighbor of the last output frames
    convolution = Int8Convolution(torch.ones(8, 64, 3, 3), torch.zeros(8), (1, 1))
    output = convolution(frames)[0, :, 2, 0]
    torch.testing.assert_close(output, torch.tensor([192000.0, 0, 0, 0, 192, 192, 192]))


def test_the_front_end_is_int8_with_and_without_gradients(tmp_path):
    model = random_model(MusicFMConfig(**TINY | {"subsampling_conv_channels": 64}))
    model.save_pretrained(tmp_path)
    quantized = AutoModel.from_pretrained(tmp_path, quantization_config=MusicFMInt8Config()).eval()
    input_values, mask = padded_batch([music(6.0), music(2.3)])
    frames = model.frames_mask(mask)
    output = quantized(input_values, mask, layer=0).last_hidden_state
    with torch.no_grad():
        exact = model(input_values, mask, layer=0).last_hidden_state
        assert torch.equal(quantized(input_values, mask, layer=0).last_hidden_state, output)
        alone = quantized(input_values[1:, : round(2.3 * 24000)], layer=0).last_hidden_state[0]
    assert torch.equal(alone, output[1][frames[1]])
    assert torch.cosine_similarity(output[frames], exact[frames], dim=-1).min() > 0.999


# Models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A float model, its folder, the same in int8, and its folder."""
    folder = tmp_path_factory.mktemp("int8")
    model = random_model(MusicFMConfig(**TINY))
    model.save_pretrained(folder / "float")
    quantized = AutoModel.from_pretrained(folder / "float", quantization_config=MusicFMInt8Config()).eval()
    quantized.save_pretrained(folder / "int8")
    return model, folder / "float", quantized, folder / "int8"


def kinds(model) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in model.named_modules()}


def test_linear_layers_of_the_encoder_are_quantized(saved):
    model, _, quantized, _ = saved
    changed = {name for name, kind in kinds(quantized).items() if kind != kinds(model)[name]}
    assert changed == {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert {"subsampling.projection", "layers.2.self_attn.k_proj", "layers.0.conv_module.pointwise_conv2"} < changed


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoder_type": "bert", "front_end": "waveform", "hop_length": 320},
        {"front_end": "convnext", "convnext_channels": [32, 32], "convnext_depths": [1, 1]},
        {"rotary_after_projection": True, "conformer_conv_norm": "layer_norm"},
    ],
)
def test_hidden_states_stay_close(changes, tmp_path):
    model = random_model(MusicFMConfig(**TINY | changes))
    model.save_pretrained(tmp_path)
    quantized = AutoModel.from_pretrained(tmp_path, quantization_config=MusicFMInt8Config()).eval()
    input_values = torch.from_numpy(music(2.0))[None]
    with torch.no_grad():
        exact = model(input_values, output_hidden_states=True).hidden_states
        states = quantized(input_values, output_hidden_states=True).hidden_states
        assert torch.equal(quantized(input_values, layer=2).last_hidden_state, states[2])
    for state, exact_state in zip(states, exact, strict=True):
        assert torch.cosine_similarity(state, exact_state, dim=-1).mean() > 0.999


def test_padding_has_no_effect(saved):
    _, _, quantized, _ = saved
    clips = [music(2.0), music(3.1), music(0.2)]
    input_values, mask = padded_batch(clips)
    frames = quantized.frames_mask(mask)
    with torch.no_grad():
        batch = quantized(input_values, mask).last_hidden_state
        for index, clip in enumerate(clips):
            alone = quantized(torch.from_numpy(clip)[None]).last_hidden_state[0]
            # A float32 rounding of an input may move a value to the next integer.
            torch.testing.assert_close(batch[index][frames[index]], alone, rtol=0, atol=5e-3)


def test_a_saved_model_is_the_same(saved):
    _, folder, quantized, int8_folder = saved
    weights = load_file(int8_folder / "model.safetensors")
    assert weights["layers.0.ffn1.intermediate_dense.weight"].dtype is torch.int8
    assert json.loads((int8_folder / "config.json").read_text())["quantization_config"] == {
        "quant_method": "musicfm_int8"
    }
    assert (int8_folder / "model.safetensors").stat().st_size < 0.45 * (folder / "model.safetensors").stat().st_size
    loaded = AutoModel.from_pretrained(int8_folder).eval()
    input_values = torch.from_numpy(music(2.0))[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_values)[0], quantized(input_values)[0])
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in quantized.state_dict().items())


def test_scales_stay_in_float32(saved):
    _, _, quantized, int8_folder = saved
    name = "layers.1.ffn2.output_dense"
    scale = quantized.get_submodule(name).weight_scale
    for model in (
        AutoModel.from_pretrained(int8_folder, dtype=torch.bfloat16),
        AutoModel.from_pretrained(int8_folder).to(torch.bfloat16),
    ):
        assert model.dtype is torch.bfloat16
        assert model.get_submodule(name).bias.dtype is torch.bfloat16
        assert torch.equal(model.get_submodule(name).weight_scale, scale)


def test_a_model_with_a_head(tmp_path):
    model = head("beat")
    model.save_pretrained(tmp_path / "float")
    settings = {"quantization_config": MusicFMInt8Config()}
    quantized = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "float", **settings).eval()
    assert type(quantized.musicfm.layers[0].ffn1.output_dense) is MusicFMInt8Linear
    assert type(quantized.classifier.projector) is nn.Linear
    quantized.save_pretrained(tmp_path / "int8")
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "int8", **settings).eval()  # once
    input_values = torch.from_numpy(music(2.0))[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_values).logits, quantized(input_values).logits)
        difference = (loaded(input_values).logits - model(input_values).logits).abs().max()
    assert 0 < difference < 0.02


def test_a_model_of_music_and_text(tmp_path):
    model = text_audio_model()
    model.save_pretrained(tmp_path / "float")
    quantized = AutoModel.from_pretrained(tmp_path / "float", quantization_config=MusicFMInt8Config()).eval()
    assert {name.split(".")[0] for name, kind in kinds(quantized).items() if kind == "MusicFMInt8Linear"} == {
        "audio_model"
    }
    quantized.save_pretrained(tmp_path / "int8")
    loaded = AutoModel.from_pretrained(tmp_path / "int8").eval()
    input_values = torch.from_numpy(music(2.0))[None]
    with torch.no_grad():
        exact, features, again = (
            each.get_audio_features(input_values).pooler_output[0] for each in (model, quantized, loaded)
        )
    assert torch.equal(features, again)
    assert torch.cosine_similarity(features, exact, dim=0) > 0.999


def test_an_adapter_is_merged_before(tmp_path):
    head("beat").save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["classifier"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base"), lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.config.save_pretrained(tmp_path / "adapter")
    settings = {"quantization_config": MusicFMInt8Config()}
    quantized = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "adapter", **settings).eval()
    adapted.merge_adapter()
    projection = quantized.musicfm.layers[1].self_attn.q_proj
    expected = adapted.base_model.model.musicfm.layers[1].self_attn.q_proj.weight
    change = (expected - head("beat").musicfm.layers[1].self_attn.q_proj.weight).abs().max()
    rounding = (projection.to_linear(torch.float32).weight - expected).abs().amax(1)
    assert (rounding <= 0.501 * projection.weight_scale).all()
    assert rounding.max() < 0.1 * change
    input_values = torch.from_numpy(music(2.0))[None]
    with torch.no_grad():
        logits = quantized(input_values).logits
    quantized.save_pretrained(tmp_path / "int8")
    assert not (tmp_path / "int8/adapter_config.json").exists()
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "int8").eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_values).logits, logits)


def test_an_adapter_of_music_and_text_is_merged_before(tmp_path):
    text_audio_model().save_pretrained(tmp_path / "base")
    adapted = save_adapter(tmp_path / "base", tmp_path / "adapter")
    quantized = AutoModel.from_pretrained(tmp_path / "adapter", quantization_config=MusicFMInt8Config()).eval()
    assert isinstance(quantized.audio_model.layers[0].self_attn.q_proj, MusicFMInt8Linear)
    input_values = torch.from_numpy(music(1.0))[None]
    with torch.no_grad():
        found, expected, plain = (
            model.get_audio_features(input_values).pooler_output for model in (quantized, adapted, text_audio_model())
        )
    assert (found - expected).norm() < 0.2 * (plain - expected).norm()


def test_an_adapter_needs_a_float_base(tmp_path):
    settings = {"quantization_config": MusicFMInt8Config()}
    head("beat").save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    lora = LoraConfig(target_modules=["q_proj"])
    get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
    AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base", **settings).save_pretrained(
        tmp_path / "base"
    )
    with pytest.raises(ValueError, match="base is an int8 model, which cannot be adapted"):
        AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "adapter")


def test_dequantize(saved):
    _, folder, quantized, int8_folder = saved
    model = AutoModel.from_pretrained(int8_folder).dequantize().eval()
    assert kinds(model) == kinds(AutoModel.from_pretrained(folder))
    assert not hasattr(model.config, "quantization_config")
    layer = quantized.layers[1].ffn1.output_dense
    torch.testing.assert_close(model.layers[1].ffn1.output_dense.weight, layer.weight * layer.weight_scale[:, None])


def test_dequantize_after_saving(saved, tmp_path):
    _, folder, _, int8_folder = saved
    model = AutoModel.from_pretrained(folder, quantization_config=MusicFMInt8Config())
    model.save_pretrained(tmp_path / "int8")
    weights = AutoModel.from_pretrained(int8_folder).dequantize().state_dict()
    found = model.dequantize().state_dict()
    assert all(found[name].equal(weight) for name, weight in weights.items())


def test_int8_models_cannot_be_trained(saved, tmp_path):
    folder = saved[-1]
    with pytest.raises(ValueError, match="int8 model, which cannot be trained"):
        MusicFMForAudioFrameClassification.from_encoder(folder, MusicFMConfig.from_pretrained(folder))
    pretrained = MusicFMForPreTraining(MusicFMConfig(**TINY))
    pretrained.save_pretrained(tmp_path / "pretrained")
    quantized = MusicFMForPreTraining.from_pretrained(tmp_path / "pretrained", quantization_config=MusicFMInt8Config())
    with pytest.raises(ValueError, match="quantized"):
        Trainer(quantized, TrainingArguments(tmp_path / "run", report_to="none", use_cpu=True))


def test_processors_only(saved):
    folder = saved[1]
    with pytest.raises(ValueError, match="run on CPUs only"):
        MusicFMModel.from_pretrained(folder, quantization_config=MusicFMInt8Config(), device_map="cuda:0")
    with pytest.raises(TypeError, match="no settings, got bits"):
        MusicFMInt8Config(bits=4)
