"""Heads: what they compute, what their losses are, how they are trained, saved and loaded."""

import copy
import inspect
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import peft
import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.models import TINY, random_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from musicfm_hf import (
    MusicFMConfig,
    MusicFMFeatureExtractor,
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    MusicFMForPreTraining,
    MusicFMModel,
    MusicFMQuantizerModel,
    embed,
    load_annotators,
    load_audio,
)
from musicfm_hf.model.losses_musicfm import classification_loss
from musicfm_hf.model.modeling_musicfm import MusicFMClassifier

QUIET = {
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "conformer_conv_dropout": 0.0,
}
WAVEFORM = {
    "encoder_type": "bert",
    "front_end": "waveform",
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "hop_length": 320,
    "mask_type": "embedding",
}
STRUCTURE = [
    {"name": "function", "size": 7, "problem_type": "single_label_classification", "loss_weight": 0.1},
    {"name": "boundary", "size": 1, "problem_type": "multi_label_classification", "loss_weight": 0.9},
]
LENGTHS = (24000, 48000, 30001)


def config_of(**settings) -> MusicFMConfig:
    labels = {index: f"label {index}" for index in range(settings.pop("num_labels", 4))}
    names = {"id2label": labels, "label2id": {label: index for index, label in labels.items()}}
    return MusicFMConfig(**TINY | QUIET | {"classifier_proj_size": 16} | names | settings)


def build(model_class=MusicFMForAudioFrameClassification, seed: int = 0, **settings):
    """A model in eval mode, whose batch statistics and layer weights are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_of(**settings)).eval()
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "layer_weights")):
                tensor.normal_()
    return model


def class_of(settings):
    return MusicFMForAudioFrameClassification if "label_rate" in settings else MusicFMForAudioClassification


def waveforms_of(*samples: int) -> list[torch.Tensor]:
    return [torch.from_numpy(music(n / 24000, seed=n)) for n in samples]


def pad(tensors: list[torch.Tensor], value: float = 0.0) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


def batch_of(waveforms: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    mask = pad([torch.ones(len(waveform)) for waveform in waveforms])
    return {"input_values": pad(waveforms), "attention_mask": mask}


def soft_labels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5)).softmax(-1)


HEADS = {
    "25 to 8": {"label_rate": 8.0},
    "25 to 20, centered": {"label_rate": 20.0, "label_centered": True},
    "25 to 50, centered, layer 2": {"label_rate": 50.0, "label_centered": True, "classifier_layer": 2},
    "25 to 0.5": {"label_rate": 0.5},
    "weighted sum": {"label_rate": 8.0, "use_weighted_layer_sum": True},
    "75 to 20, centered": WAVEFORM | {"label_rate": 20.0, "label_centered": True},
    "clip": {},
    "clip, weighted sum": {"use_weighted_layer_sum": True},
    "clip of 75 Hz, layer 1": WAVEFORM | {"classifier_layer": 1},
}


@pytest.mark.parametrize("name", HEADS)
def test_padding_changes_neither_logits_nor_loss(name):
    settings = HEADS[name]
    model = build(class_of(settings), **settings)
    waveforms = waveforms_of(*LENGTHS)
    alone = [model(waveform[None]).logits[0] for waveform in waveforms]
    labels = [soft_labels(*logits.shape) for logits in alone]
    losses = torch.stack(
        [model(waveform[None], labels=label[None]).loss for waveform, label in zip(waveforms, labels, strict=True)]
    )
    output = model(
        **batch_of(waveforms), labels=pad(labels, -100.0) if "label_rate" in settings else torch.stack(labels)
    )
    for logits, expected in zip(output.logits, alone, strict=True):
        own = logits[: len(expected)] if "label_rate" in settings else logits
        torch.testing.assert_close(own, expected, rtol=0, atol=2e-5)
    counts = torch.tensor([len(logits) if "label_rate" in settings else 1 for logits in alone])
    torch.testing.assert_close(output.loss, (losses * counts).sum() / counts.sum(), rtol=1e-5, atol=1e-6)
    if "label_rate" in settings:
        assert model.label_frames(torch.tensor(LENGTHS)).tolist() == counts.tolist()
        assert [model.label_frames(samples) for samples in LENGTHS] == counts.tolist()


def test_logits_are_the_head_on_averaged_hidden_states():
    model = build(label_rate=12.5, classifier_layer=1)
    (waveform,) = waveforms_of(24000)
    hidden = model.musicfm(waveform[None], layer=1).last_hidden_state[0]  # 25 frames
    # [0, 2) is half of frame 0, frame 1, half of frame 2; the last one is [24, 24.5) of frame 24.
    averages = torch.stack([(hidden[2 * j] / 2 + hidden[2 * j + 1] + hidden[2 * j + 2] / 2) / 2 for j in range(12)])
    averages = torch.cat([averages, hidden[24:]])
    head = model.classifier
    normalized = F.layer_norm(averages, (32,), head.layer_norm.weight, head.layer_norm.bias)
    expected = head.output(head.projector(normalized).relu())
    torch.testing.assert_close(model(waveform[None]).logits[0], expected, rtol=0, atol=1e-6)
    assert model.label_times(3).tolist() == [0.04, 0.12, 0.2]


def test_label_times_of_centered_frames():
    model = build(label_rate=20.0, label_centered=True)
    assert model.label_times(3).tolist() == [0.0, 0.05, 0.1]
    # 1 s is 25 frames, which end at 24.5 / 25 s = 0.98 s; the last label frame is number 20, from 0.975 s on.
    assert model.label_frames(24000) == 21


def test_no_label_rate_is_the_encoders():
    config = config_of()
    before = config.to_dict()
    model = MusicFMForAudioFrameClassification(config).eval()
    assert config.to_dict() == before
    assert model.config.label_rate == 25.0
    assert MusicFMForAudioClassification(config).config is not config
    (waveform,) = waveforms_of(24000)
    assert model(waveform[None]).logits.shape == (1, 25, 4)  # [24, 24.5) of an interval is left for the last one


def test_a_clip_is_the_mean_of_its_frames():
    model = build(MusicFMForAudioClassification)
    (waveform,) = waveforms_of(24000)
    expected = model.classifier.score(model.musicfm(waveform[None]).last_hidden_state.mean(1))
    torch.testing.assert_close(model(waveform[None]).logits, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"got 8\.0\. For label frames, use MusicFMForAudioFrameClassification"):
        build(MusicFMForAudioClassification, label_rate=8.0)


def test_weighted_sum_weighs_and_learns():
    model = build(label_rate=8.0, use_weighted_layer_sum=True)
    (waveform,) = waveforms_of(24000)
    labels = soft_labels(1, 8, 4)
    with torch.no_grad():
        model.classifier.layer_weights.copy_(torch.tensor([-1e4, -1e4, 0.0, -1e4]))
        second = build(label_rate=8.0, classifier_layer=2)
        second.load_state_dict({k: v for k, v in model.state_dict().items() if k != "classifier.layer_weights"})
        torch.testing.assert_close(model(waveform[None]).logits, second(waveform[None]).logits, rtol=0, atol=1e-6)
        model.classifier.layer_weights.zero_()
    model(waveform[None], labels=labels).loss.backward()
    gradient = model.classifier.layer_weights.grad
    assert gradient.shape == (4,)
    assert (gradient.abs() > 1e-7).all()
    torch.testing.assert_close(gradient.sum(), torch.tensor(0.0), rtol=0, atol=1e-6)  # softmax: weights sum to one
    assert model(waveform[None]).hidden_states is None
    assert len(model(waveform[None], output_hidden_states=True).hidden_states) == 4


@pytest.mark.parametrize("weighted", [False, True])
def test_head_alone_on_stored_hidden_states(weighted):
    model = build(label_rate=8.0, use_weighted_layer_sum=weighted)
    batch = batch_of(waveforms_of(*LENGTHS))
    states = model.musicfm(**batch, output_hidden_states=True).hidden_states
    stored = torch.stack(states, 2) if weighted else states[-1]
    head = MusicFMClassifier(model.config)
    head.load_state_dict(model.classifier.state_dict())
    counts = model.musicfm.frames_mask(batch["attention_mask"]).sum(1)
    output, labels = head(stored, counts, soft_labels(3, 16, 4)), soft_labels(3, 16, 4)
    expected = model(**batch, labels=labels)
    torch.testing.assert_close((output.logits, output.loss), (expected.logits, expected.loss))
    assert MusicFMClassifier(model.config, input_size=7).projector.weight.shape == (16, 7)


# Losses


def logits_of(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 4.0, 2.0]])
@pytest.mark.parametrize("shape", [(3, 10), (3,)], ids=["frames", "clips"])
def test_integer_labels(shape, weights):
    config, logits = config_of(class_weights=weights), logits_of(*shape, 4)
    labels = torch.arange(logits[..., 0].numel()).reshape(shape) % 4
    labels[1:] = labels[1:].masked_fill(labels[1:] == 2, -100)
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits.reshape(-1, 4), labels.reshape(-1), weight=weight)
    torch.testing.assert_close(classification_loss(config, logits, labels), expected)


def test_soft_labels_of_one_output():
    logits, labels = logits_of(3, 10, 4), soft_labels(3, 10, 4)
    expected = F.cross_entropy(logits.reshape(-1, 4), labels.reshape(-1, 4))
    torch.testing.assert_close(classification_loss(config_of(), logits, labels), expected)
    labels[:, 7:] = -100
    expected = F.cross_entropy(logits[:, :7].reshape(-1, 4), labels[:, :7].reshape(-1, 4))
    torch.testing.assert_close(classification_loss(config_of(), logits, labels), expected)


def test_booleans_are_probabilities_or_classes():
    logits, labels = logits_of(3, 10, 4), logits_of(3, 10, 4).flip(0) > 0
    several = config_of(problem_type="multi_label_classification")
    expected = classification_loss(several, logits, labels.float())
    assert classification_loss(several, logits, labels).equal(expected)
    two, classes = config_of(num_labels=2), labels[..., 0]
    expected = F.cross_entropy(logits[..., :2].reshape(-1, 2), classes.reshape(-1).long())
    torch.testing.assert_close(classification_loss(two, logits[..., :2], classes), expected)


def test_soft_and_integer_labels_agree():
    config, logits = config_of(class_weights=[1.0, 0.5, 4.0, 2.0]), logits_of(3, 10, 4)
    labels = torch.arange(30).reshape(3, 10) % 4
    soft = F.one_hot(labels, 4).float()
    torch.testing.assert_close(classification_loss(config, logits, soft), classification_loss(config, logits, labels))


def test_class_weights_worked_out():
    # Even logits: each frame costs log 2. Of weights 3 and 1, 3 · log 2 + 1 · log 2 over 3 + 1 is log 2 again;
    # logits (log 3, 0) give class 0 three quarters: (3 · log 4/3 + 1 · log 4) / 4.
    config = config_of(num_labels=2, class_weights=[3.0, 1.0])
    logits = torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log()
    loss = classification_loss(config, logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((3 * 0.2876821 + 1.3862944) / 4, abs=1e-6)


@pytest.mark.parametrize("weights", [None, [5.0, 1.0, 1.0, 0.5]])
def test_several_labels_at_once(weights):
    config = config_of(problem_type="multi_label_classification", class_weights=weights)
    logits, labels = logits_of(6, 4), (logits_of(6, 4).flip(0) > 0).float()
    weight = None if weights is None else torch.tensor(weights)
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
    torch.testing.assert_close(classification_loss(config, logits, labels), expected)
    torch.testing.assert_close(classification_loss(config, logits, labels.long()), expected)
    labels[4:] = -100
    expected = F.binary_cross_entropy_with_logits(logits[:4], labels[:4], pos_weight=weight)
    torch.testing.assert_close(classification_loss(config, logits, labels), expected)


def test_several_outputs():
    weights = [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 6.0]
    config = config_of(num_labels=8, classifier_outputs=STRUCTURE, class_weights=weights)
    logits, labels = logits_of(2, 10, 8), torch.zeros(2, 10, 8)
    function = torch.arange(20).reshape(2, 10) % 7
    labels[..., :7] = F.one_hot(function, 7)
    labels[..., 7] = soft_labels(2, 10)
    labels[0, :4, :7] = -100  # a head that is not labeled: its function is not known, its boundaries are
    labels[1, 6:] = -100  # padding
    known, bounded = labels[..., 0] >= 0, labels[..., 7] >= 0
    functions = F.cross_entropy(logits[known][:, :7], function[known], weight=torch.tensor(weights[:7]))
    boundaries = F.binary_cross_entropy_with_logits(
        logits[bounded][:, 7], labels[bounded][:, 7], pos_weight=torch.tensor(6.0)
    )
    loss = classification_loss(config, logits, labels)
    torch.testing.assert_close(loss, 0.1 * functions + 0.9 * boundaries)


def test_output_without_a_weight_counts_once():
    outputs = [{name: value for name, value in output.items() if name != "loss_weight"} for output in STRUCTURE]
    logits, labels = logits_of(10, 8), torch.zeros(10, 8)
    labels[:, 2] = 1
    expected = F.cross_entropy(logits[:, :7], torch.full((10,), 2)) + F.binary_cross_entropy_with_logits(
        logits[:, 7], torch.zeros(10)
    )
    config = config_of(num_labels=8, classifier_outputs=outputs)
    torch.testing.assert_close(classification_loss(config, logits, labels), expected)


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({}, torch.full((2, 10), -100)),
        ({}, torch.full((2, 10, 4), -100.0)),
        ({"problem_type": "multi_label_classification"}, torch.full((2, 10, 4), -100.0)),
    ],
)
def test_nothing_labeled_is_no_loss(settings, labels):
    logits = logits_of(2, 10, 4).requires_grad_()
    loss = classification_loss(config_of(**settings), logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_a_tag_that_is_not_known():
    """Only this label of its item is ignored. In a softmax, the other probabilities mean nothing without it."""
    logits, labels = logits_of(3, 4), soft_labels(3, 4)
    labels[1, 2] = labels[2, 0] = -100
    known = labels >= 0
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0])
    several = config_of(problem_type="multi_label_classification", class_weights=weight.tolist())
    losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), pos_weight=weight, reduction="none")
    torch.testing.assert_close(classification_loss(several, logits, labels), losses[known].mean())
    expected = F.cross_entropy(logits[:1], labels[:1])
    torch.testing.assert_close(classification_loss(config_of(), logits, labels), expected)


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ({}, torch.zeros(2, 9), r"shape \(2, 10, 4\), or \(2, 10\) for classes, got torch.float32 \(2, 9\)"),
        (
            {},
            torch.zeros(2, 11).long(),
            r"got torch.int64 \(2, 11\)\. They have 11 label frames, and the audio has 10",
        ),
        ({}, torch.zeros(2, 10), r"or \(2, 10\) for classes, got torch.float32 \(2, 10\)\. Classes are integers"),
        ({}, torch.zeros(2, 9, 4), r"9 label frames, and the audio has 10: .*`musicfm_hf.collate_examples` pads both"),
        ({"problem_type": "multi_label_classification"}, torch.zeros(2, 9), r"shape \(2, 10, 4\), got"),
        ({}, torch.full((2, 10), -1), "must be classes from 0 to 3, or -100 to ignore, got -1"),
        ({}, torch.full((2, 10), 4), "must be classes from 0 to 3, or -100 to ignore, got 4"),
        ({}, torch.full((2, 10, 4), -1.0), "must be probabilities from 0 to 1, or -100 to ignore, got -1"),
        ({}, torch.full((2, 10, 4), 2), "must be probabilities from 0 to 1, or -100 to ignore, got 2"),
        ({}, torch.full((2, 10, 4), torch.nan), "must be probabilities from 0 to 1, or -100 to ignore, got nan"),
        (
            {"problem_type": "multi_label_classification"},
            torch.zeros(2, 10).long(),
            r"Classes as labels need a configuration with one single-label output, .*multi_label_classification.*"
            r"of shape \(2, 10, 4\)",
        ),
    ],
)
def test_wrong_labels_are_refused(settings, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_loss(config_of(**settings), logits_of(2, 10, 4), labels)


def test_wrong_audio_is_refused():
    with pytest.raises(ValueError, match="1024 samples, but the model needs at least 1025"):
        build()(torch.zeros(1, 1024))
    with pytest.raises(ValueError, match=r"`input_values` must be floating point of shape \(batch, samples\)"):
        build()(torch.zeros(24000))


# Training


def test_frozen_encoder_stays_as_it_is():
    model = build(label_rate=8.0, hidden_dropout=0.5)
    model.freeze_base_model()
    model.train()
    assert model.classifier.training
    assert not any(module.training for module in model.musicfm.modules())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    (waveform,) = waveforms_of(24000)
    model(waveform[None], labels=soft_labels(1, 8, 4)).loss.backward()
    assert all(parameter.grad is None for parameter in model.musicfm.parameters())
    assert all(parameter.grad is not None for parameter in model.classifier.parameters())
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {f"classifier.{name}" for name, _ in model.classifier.named_parameters()}
    # The encoder is as in eval mode: no dropout, the batch norms' own statistics.
    trained = model(waveform[None]).logits
    torch.testing.assert_close(trained, model.eval()(waveform[None]).logits, rtol=0, atol=2e-5)


def test_freezing_in_training_takes_effect_at_once():
    model = build(label_rate=8.0).train()
    assert model.musicfm.training
    model.freeze_base_model()
    assert model.training
    assert not model.musicfm.training
    model.musicfm.requires_grad_(True)
    assert model.train().musicfm.training


def test_what_is_not_frozen_learns():
    model = build(label_rate=8.0).train()
    (waveform,) = waveforms_of(24000)
    statistics = model.musicfm.layers[0].conv_module.batch_norm.running_mean.clone()
    model(waveform[None], labels=soft_labels(1, 8, 4)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert statistics.equal(model.musicfm.layers[0].conv_module.batch_norm.running_mean)


@pytest.mark.parametrize("layer", [0, 2])
def test_nothing_after_the_layer_is_computed(layer):
    model = build(label_rate=8.0, classifier_layer=layer)
    called = []
    for index, module in enumerate([*model.musicfm.layers, model.musicfm.layer_norm], start=1):
        module.register_forward_hook(lambda *_, index=index: called.append(index))
    (waveform,) = waveforms_of(24000)
    output = model(waveform[None], output_hidden_states=True)
    assert called == list(range(1, layer + 1))
    assert len(output.hidden_states) == layer + 1


def test_hidden_states_attentions_and_tuples():
    model = build(label_rate=8.0)
    model.set_attn_implementation("eager")
    batch = batch_of(waveforms_of(*LENGTHS))
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    encoder = model.musicfm(**batch, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(output.hidden_states, encoder.hidden_states, rtol=0, atol=0)
    torch.testing.assert_close(output.attentions, encoder.attentions, rtol=0, atol=0)
    as_tuple = model(**batch, labels=soft_labels(3, 16, 4), return_dict=False)
    assert len(as_tuple) == 2
    assert as_tuple[1].equal(output.logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["25 to 8", "weighted sum", "clip", "75 to 20, centered"])
def test_half_precision(name, dtype):
    settings = HEADS[name]
    model = build(class_of(settings), **settings)
    torch.nn.init.normal_(model.classifier.output.weight)  # logits far from each other
    head = copy.deepcopy(model.classifier)
    batch = batch_of(waveforms_of(*LENGTHS))
    model.to(dtype)
    states = model.musicfm(**batch, output_hidden_states=True).hidden_states
    states = torch.stack(states, 2) if model.config.use_weighted_layer_sum else states[-1]
    expected = head(states.float(), model.musicfm.frames_mask(batch["attention_mask"]).sum(1)).logits
    output = model(**batch, labels=soft_labels(*expected.shape))
    assert output.logits.dtype == dtype
    assert output.loss.dtype == torch.float32
    worst = (output.logits.float() - expected).abs().max() / expected.std()
    assert worst < (0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("model_class", [MusicFMForAudioFrameClassification, MusicFMForAudioClassification])
def test_trainer_gathers_logits(model_class, tmp_path):
    model = build(model_class, **{"label_rate": 8.0} if model_class is MusicFMForAudioFrameClassification else {})
    shape = (8, 4) if model_class is MusicFMForAudioFrameClassification else (4,)
    data = [{"input_values": w, "labels": soft_labels(*shape)} for w in waveforms_of(24000, 24000, 24000)]
    arguments = TrainingArguments(tmp_path, report_to="none", use_cpu=True, per_device_eval_batch_size=2, seed=0)
    model.config.output_hidden_states = True
    seen = []
    trainer = Trainer(
        model, arguments, eval_dataset=data, compute_metrics=lambda p: {"shape": seen.append(p.predictions) or 1.0}
    )
    output = trainer.predict(data)
    expected = model(torch.stack([item["input_values"] for item in data]))
    torch.testing.assert_close(torch.from_numpy(output.predictions), expected.logits.detach(), rtol=0, atol=1e-5)
    assert output.label_ids.shape == (3, *shape)
    loss = classification_loss(model.config, expected.logits, torch.stack([item["labels"] for item in data]))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert seen[0].shape == (3, *shape)


def test_what_the_trainer_leaves_out_is_a_models_own(tmp_path):
    model = build(label_rate=8.0)
    assert "logits" not in model.config.keys_to_ignore_at_inference
    assert "logits" in MusicFMConfig.keys_to_ignore_at_inference
    model.save_pretrained(tmp_path)
    assert "keys_to_ignore_at_inference" not in json.loads((tmp_path / "config.json").read_text())
    assert "logits" in AutoConfig.from_pretrained(tmp_path).keys_to_ignore_at_inference
    loaded = MusicFMForAudioFrameClassification.from_pretrained(tmp_path)
    assert "logits" not in loaded.config.keys_to_ignore_at_inference


def one_step(tmp_path, data, batch_size: int, accumulation: int) -> dict[str, torch.Tensor]:
    """Weights of the head after one step of gradient descent on all of `data`."""
    model = build(label_rate=8.0)
    model.freeze_base_model()
    arguments = TrainingArguments(
        tmp_path, report_to="none", use_cpu=True, max_steps=1, per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation, learning_rate=0.5, optim="sgd", max_grad_norm=0.0,
        lr_scheduler_type="constant", save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data)
    assert not trainer.model_accepts_loss_kwargs
    trainer.train()
    return {name: tensor.detach().clone() for name, tensor in model.classifier.named_parameters()}


def test_accumulated_gradients(tmp_path):
    data = [{"input_values": w, "labels": soft_labels(8, 4).roll(i, -1)}
            for i, w in enumerate(waveforms_of(24000, 24010, 24020, 24030))]  # fmt: skip
    data = [item | {"input_values": item["input_values"][:24000]} for item in data]
    whole = one_step(tmp_path, data, 4, 1)
    torch.testing.assert_close(one_step(tmp_path, data, 2, 2), whole, rtol=0, atol=1e-6)
    # Parts weigh the same whatever they hold: with labels left out of one of them, it is no longer the large batch.
    data[0]["labels"][2:] = data[1]["labels"][2:] = -100
    whole, parts = one_step(tmp_path, data, 4, 1), one_step(tmp_path, data, 2, 2)
    assert max((whole[name] - parts[name]).abs().max() for name in whole) > 1e-4


# Saving and loading


@pytest.mark.parametrize(
    ("model_class", "auto_class", "settings"),
    [
        (MusicFMForAudioFrameClassification, AutoModelForAudioFrameClassification,
         {"label_rate": 8.0, "use_weighted_layer_sum": True, "num_labels": 8, "classifier_outputs": STRUCTURE,
          "task": "structure", "decoding": {"threshold": 0.3}}),
        (MusicFMForAudioFrameClassification, AutoModelForAudioFrameClassification,
         WAVEFORM | {"label_rate": 20.0, "label_centered": True, "task": "beat"}),
        (MusicFMForAudioClassification, AutoModelForAudioClassification,
         {"classifier_layer": 1, "task": "tagging", "problem_type": "multi_label_classification"}),
    ],
    ids=["structure", "beat", "tagging"],
)  # fmt: skip
def test_saved_and_loaded(model_class, auto_class, settings, tmp_path):
    model = build(model_class, **settings)
    model.save_pretrained(tmp_path)
    loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is model_class
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = batch_of(waveforms_of(*LENGTHS))
    assert loaded(**batch).logits.equal(model(**batch).logits)
    for name, value in settings.items():
        assert getattr(loaded.config, name) == value
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder) is MusicFMModel
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert encoder(**batch).last_hidden_state.equal(model.musicfm(**batch).last_hidden_state)


@pytest.mark.parametrize("source", ["encoder", "pretraining"])
@pytest.mark.parametrize(
    ("auto_class", "settings"),
    [(AutoModelForAudioFrameClassification, {"label_rate": 8.0, "use_weighted_layer_sum": True}),
     (AutoModelForAudioClassification, {"num_labels": 3})],
)  # fmt: skip
def test_head_on_a_pretrained_encoder(source, auto_class, settings, tmp_path):
    config = MusicFMConfig(**TINY, codebook_size=16, codebook_dim=4, cqt_loss_weight=1.0)
    if source == "encoder":
        encoder = random_model(config)
        encoder.save_pretrained(tmp_path)
    else:
        pretraining = MusicFMForPreTraining(config).eval()
        pretraining.save_pretrained(tmp_path)
        encoder = pretraining.musicfm
    model, info = auto_class.from_pretrained(tmp_path, output_loading_info=True, **settings)
    head = {name for name, _ in model.named_parameters() if name.startswith("classifier.")}
    assert set(info["missing_keys"]) == head
    assert not info["unexpected_keys"]
    (waveform,) = waveforms_of(24000)
    assert model.musicfm(waveform[None]).last_hidden_state.equal(encoder(waveform[None]).last_hidden_state)
    # The new head is initialised: no layer is preferred, no class either.
    assert 0.01 < model.classifier.projector.weight.std() < 0.03
    assert not model.classifier.output.bias.any()
    assert model.classifier.layer_norm.weight.eq(1).all()
    if "use_weighted_layer_sum" in settings:
        assert not model.classifier.layer_weights.any()


# The pipeline


def classifier_of(tmp_path, **settings):
    labels = ["drums", "voice", "strings", "noise"]
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    model = build(MusicFMForAudioClassification, **settings | names)
    model.save_pretrained(tmp_path)
    MusicFMFeatureExtractor().save_pretrained(tmp_path)
    return model, pipeline("audio-classification", str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("problem_type", "probabilities"),
    [
        (None, lambda logits: logits.softmax(-1)),
        ("single_label_classification", lambda logits: logits.softmax(-1)),
        ("multi_label_classification", torch.sigmoid),
    ],
)
def test_pipeline(problem_type, probabilities, tmp_path):
    model, classify = classifier_of(tmp_path, problem_type=problem_type)
    default = inspect.signature(classify.postprocess).parameters["function_to_apply"].default
    if default == "softmax" and problem_type == "multi_label_classification":
        classify = partial(classify, function_to_apply="sigmoid")  # older pipelines do not look at `problem_type`
    soundfile.write(tmp_path / "song.wav", music(2.0, 44100), 44100)
    audio = load_audio(tmp_path / "song.wav")
    expected = probabilities(model(torch.from_numpy(audio)[None]).logits[0])
    answer = classify(audio)
    assert [entry["score"] for entry in answer] == sorted((entry["score"] for entry in answer), reverse=True)
    scores = {entry["label"]: entry["score"] for entry in answer}
    assert scores == pytest.approx(
        dict(zip(["drums", "voice", "strings", "noise"], expected.tolist(), strict=True)), abs=1e-6
    )
    assert classify(audio, top_k=2) == answer[:2]
    assert classify({"array": audio, "sampling_rate": 24000}) == answer


def test_pipeline_of_a_batch_with_a_long_file(tmp_path):
    _, classify = classifier_of(tmp_path)
    songs = [music(1.0), music(60.0, seed=1), music(2.5, seed=2)]
    alone = [classify(song) for song in songs]
    for together, expected in zip(classify(songs, batch_size=3), alone, strict=True):
        for one, other in zip(together, expected, strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_pipeline_in_half_precision(tmp_path):
    _, classify = classifier_of(tmp_path)
    half = pipeline("audio-classification", str(tmp_path), device="cpu", dtype=torch.bfloat16)
    expected = {entry["label"]: entry["score"] for entry in classify(music(2.0))}
    assert {entry["label"]: entry["score"] for entry in half(music(2.0))} == pytest.approx(expected, abs=0.02)


# LoRA

LOAD_ADAPTER = """
import sys
from functools import partial
from pathlib import Path
from safetensors.torch import load_file, save_file
import musicfm_hf
from transformers import AutoModelForAudioFrameClassification

audio, output, *names = sys.argv[1:]
waveform, logits = load_file(audio)["audio"][None], {}
for name in names:
    model = AutoModelForAudioFrameClassification.from_pretrained(name).eval()
    logits[name] = model(waveform).logits.detach()
save_file(logits, output)
"""


@pytest.fixture(params=["encoder", "pretraining"])
def adapter(request, tmp_path):
    """A folder with an adapter and the configuration of the head, a waveform, and its logits."""
    config = MusicFMConfig(**TINY | QUIET, codebook_size=16, codebook_dim=4)
    base = random_model(config) if request.param == "encoder" else MusicFMForPreTraining(config)
    base.save_pretrained(tmp_path / "base")
    model = AutoModelForAudioFrameClassification.from_pretrained(
        tmp_path / "base", label_rate=20.0, label_centered=True, classifier_layer=2, task="beat", num_labels=3,
        classifier_proj_size=16, freeze_batch_norm=True,
    )  # fmt: skip
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    model = get_peft_model(model, lora)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0.0, 0.2, generator=generator)
            assert "lora_" in name or ".modules_to_save." in name
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    model.config.save_pretrained(folder)
    (waveform,) = waveforms_of(24000)
    return folder, waveform, model.eval()(waveform[None]).logits.detach()


def test_adapter_loads_in_both_ways(adapter, tmp_path):
    folder, waveform, expected = adapter
    loaded = AutoModelForAudioFrameClassification.from_pretrained(folder).eval()
    assert (loaded.config.task, loaded.config.label_rate, loaded.config.num_labels) == ("beat", 20.0, 3)
    torch.testing.assert_close(loaded(waveform[None]).logits, expected, rtol=0, atol=1e-6)
    direct = MusicFMForAudioFrameClassification.from_pretrained(folder).eval()
    torch.testing.assert_close(direct(waveform[None]).logits, expected, rtol=0, atol=1e-6)

    config = AutoConfig.from_pretrained(folder)
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base", config=config)
    model = PeftModel.from_pretrained(base, folder).eval()
    torch.testing.assert_close(model(waveform[None]).logits, expected, rtol=0, atol=1e-6)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(waveform[None]).logits, expected, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(waveform[None]).logits, expected, rtol=0, atol=1e-5)


def in_the_cache(tmp_path, name: str, folder) -> None:
    """Put a folder where the Hub's client keeps what it has downloaded."""
    commit = f"{len(name):040d}"
    cached = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    (cached / "snapshots" / commit).mkdir(parents=True)
    for file in folder.iterdir():
        (cached / "snapshots" / commit / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize("adapter", ["pretraining"], indirect=True)
def test_adapter_loads_in_a_fresh_process(adapter, tmp_path):
    folder, waveform, expected = adapter
    save_file({"audio": waveform}, tmp_path / "audio")
    in_the_cache(tmp_path, "somebody/base", tmp_path / "base")
    named = json.loads((folder / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(tmp_path / "base")
    (tmp_path / "shared").mkdir()
    for file in folder.iterdir():
        (tmp_path / "shared" / file.name).write_bytes(file.read_bytes())
    named["base_model_name_or_path"] = "somebody/base"
    (tmp_path / "shared/adapter_config.json").write_text(json.dumps(named))
    in_the_cache(tmp_path, "somebody/the-adapter", tmp_path / "shared")
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    names = [str(folder), "somebody/the-adapter"]
    arguments = [str(tmp_path / "audio"), str(tmp_path / "out"), *names]
    done = subprocess.run([sys.executable, "-c", LOAD_ADAPTER, *arguments], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    for name in names:
        torch.testing.assert_close(load_file(tmp_path / "out")[name], expected, rtol=0, atol=1e-6)


def test_trainer_trains_an_adapter(tmp_path):
    model = build(label_rate=8.0, freeze_batch_norm=True)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    adapted = get_peft_model(model, lora)
    data = [{"input_values": w, "labels": soft_labels(8, 4)} for w in waveforms_of(24000, 24000)]
    arguments = TrainingArguments(
        tmp_path, report_to="none", use_cpu=True, max_steps=10, learning_rate=0.01, save_strategy="no",
        logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(adapted, arguments, train_dataset=data, eval_dataset=data)
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < first
    assert trainer.predict(data).predictions.shape == (2, 8, 4)
    changed = {name for name, tensor in adapted.state_dict().items() if not tensor.equal(before[name])}
    assert {"lora_" in name or "modules_to_save" in name for name in changed} == {True}
    assert peft.get_peft_model_state_dict(adapted).keys() >= {"base_model.model.classifier.output.weight"}


@pytest.mark.parametrize("labels", [25, 3])
def test_a_head_that_was_saved_is_not_that_of_another_task(tmp_path, labels):
    """Neither where the new head has its shape nor where it has not."""
    saved = MusicFMForAudioFrameClassification(MusicFMConfig(**TINY, num_labels=25, label_rate=5.0)).eval()
    saved.save_pretrained(tmp_path)
    config = MusicFMConfig(**TINY, num_labels=labels, label_rate=5.0)
    found = MusicFMForAudioFrameClassification.from_encoder(tmp_path, config)
    expected = saved.musicfm.state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in found.musicfm.state_dict().items())
    assert found.classifier.output.weight.shape[0] == labels
    assert not found.classifier.projector.weight.equal(saved.classifier.projector.weight)
    assert found.classifier.projector.weight.std() > 0
    other = MusicFMConfig(**TINY | {"intermediate_size": 96}, num_labels=labels, label_rate=5.0)
    with pytest.raises(ValueError, match=r"lacks \d+ encoder weights that the configuration describes"):
        MusicFMForAudioFrameClassification.from_encoder(tmp_path, other)


# Batch statistics


@pytest.mark.parametrize("freeze", [None, True, False])
def test_batch_statistics_change_only_on_demand(freeze):
    """By default, a head, an adapter and plain fine-tuning keep them."""
    model = build(label_rate=8.0, freeze_batch_norm=freeze).train()
    check_statistics(model, changes=freeze is False)


def check_statistics(model, changes: bool) -> None:
    """Check whether a forward pass changes the batch statistics."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    before = [norm.running_mean.clone() for norm in norms]
    assert model.training
    model(torch.stack(waveforms_of(24000, 24000)))
    changed = [not norm.running_mean.equal(mean) for norm, mean in zip(norms, before, strict=True)]
    assert changed == [changes] * len(norms)


@pytest.mark.parametrize("freeze", [None, True, False])
@pytest.mark.parametrize("model_class", [MusicFMModel, MusicFMForAudioFrameClassification, MusicFMForPreTraining])
def test_batch_statistics_of_a_new_model(model_class, freeze):
    """As torch creates it: in training mode, which `train` has not set."""
    config = MusicFMConfig(**TINY, codebook_size=32, freeze_batch_norm=freeze)
    pretrained = model_class is MusicFMForPreTraining and freeze is None
    check_statistics(model_class(config), changes=pretrained or freeze is False)


@pytest.mark.parametrize("adapted", [False, True])
def test_batch_statistics_of_pretraining(adapted):
    """They change, unless an adapter is trained, whose file does not have them."""
    model = build(MusicFMForPreTraining, codebook_size=32)
    if adapted:
        model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    model.train()
    norm = model.musicfm.layers[0].conv_module.batch_norm
    before = norm.running_mean.clone()
    model(torch.stack(waveforms_of(24000, 24000))).loss.backward()
    assert norm.running_mean.equal(before) == adapted


@pytest.mark.parametrize("by", ["get_peft_model", "add_adapter"])
def test_an_adapter_of_a_script_comes_back_as_it_was_trained(tmp_path, by):
    """As in the documentation of PEFT and of Transformers, without any setting of ours."""
    base = build(label_rate=8.0, classifier_layer=2, seed=3)
    base.save_pretrained(tmp_path / "base")
    model = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=2)
    adapted = model
    if by == "add_adapter":
        model.add_adapter(config)
    else:
        adapted = get_peft_model(model, config)
    batch = torch.stack(waveforms_of(24000, 24000))
    labels = torch.arange(16).reshape(2, 8) % 4
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    adapted.train()
    for _ in range(5):
        optimizer.zero_grad()
        adapted(batch, labels=labels).loss.backward()
        optimizer.step()
    expected = adapted.eval()(batch).logits.detach()
    assert (expected - base(batch).logits).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/config.json").unlink(missing_ok=True)  # other versions of `add_adapter` do not write it
    for auto_class in (AutoModelForAudioFrameClassification, MusicFMForAudioFrameClassification):
        loaded = auto_class.from_pretrained(tmp_path / "adapter").eval()
        assert loaded.config.label_rate == 8.0
        torch.testing.assert_close(loaded(batch).logits, expected, rtol=0, atol=1e-6)


# Adapters without a configuration, and configurations without a head


def adapter_of(base: Path, folder: Path, auto_class=AutoModelForAudioFrameClassification, **settings) -> torch.Tensor:
    """Save an adapter with random weights as PEFT does; return its logits, or hidden states, for a second of music."""
    model = get_peft_model(
        auto_class.from_pretrained(base), LoraConfig(target_modules=["q_proj"], init_lora_weights=False, **settings)
    )
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model.eval()(waveforms_of(24000)[0][None])[0].detach()


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["classifier"]}], ids=["head of base", "own head"])
def test_an_adapter_without_a_configuration_has_that_of_its_base(tmp_path, settings):
    """25 labels at 8 Hz, of an encoder that is not of the default size."""
    names = {"id2label": {index: f"chord {index}" for index in range(25)}, "task": "chord"}
    config = MusicFMConfig(**TINY | QUIET, **names, label_rate=8.0, classifier_proj_size=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MusicFMForAudioFrameClassification(config).save_pretrained(tmp_path / "base")
    expected = adapter_of(tmp_path / "base", tmp_path / "adapter", **settings)
    assert expected.shape == (1, 8, 25)
    (waveform,) = waveforms_of(24000)
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(waveform[None]).logits, expected, rtol=0, atol=1e-6)
    assert loaded.config.id2label[24] == "chord 24"
    (annotator,) = load_annotators([tmp_path / "adapter"]).values()
    torch.testing.assert_close(annotator(waveform[None]).logits, expected, rtol=0, atol=1e-6)


def test_an_adapter_of_an_encoder_is_embedded(tmp_path):
    MusicFMModel(config_of()).save_pretrained(tmp_path / "base")
    expected = adapter_of(tmp_path / "base", tmp_path / "adapter", AutoModel)
    loaded = AutoModel.from_pretrained(tmp_path / "adapter").eval()
    frames = embed(loaded, waveforms_of(24000)[0], 24000).frames
    torch.testing.assert_close(frames, expected[0], rtol=0, atol=1e-5)


def test_an_adapter_whose_head_is_nowhere(tmp_path):
    """Its configuration describes one, but it was not saved; it must not be a random one."""
    MusicFMModel(config_of()).save_pretrained(tmp_path / "base")
    model = MusicFMForAudioFrameClassification.from_encoder(tmp_path / "base", config_of(label_rate=8.0))
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r'Neither the adapter .* has the head .*modules_to_save=\["classifier"\]'):
        AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForAudioFrameClassification, MusicFMForPreTraining])
def test_a_folder_without_a_configuration_is_not_a_model_of_the_default_size(tmp_path, auto_class):
    build(label_rate=8.0).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises((OSError, ValueError), match=r"config\.json|model_type"):
        auto_class.from_pretrained(tmp_path)
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        MusicFMConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("saved", [MusicFMModel, MusicFMForAudioFrameClassification])
def test_a_head_has_one_configuration(tmp_path, saved):
    """Also of a head model that gets another head, and whose configuration leaves the label rate to the model."""
    build(saved, label_rate=8.0 if saved is not MusicFMModel else None).save_pretrained(tmp_path)
    model = MusicFMForAudioFrameClassification.from_encoder(tmp_path, config_of(num_labels=2))
    assert {id(module.config) for module in model.modules() if hasattr(module, "config")} == {id(model.config)}
    assert model(waveforms_of(48000)[0][None]).logits.shape == (1, 50, 2)


@pytest.mark.parametrize("settings", [{}, WAVEFORM | {"mask_type": "embedding"}, {"quantizer_type": "residual_vq"}])
@pytest.mark.parametrize("model_class", [MusicFMForPreTraining, MusicFMForAudioClassification, MusicFMQuantizerModel])
def test_every_module_has_the_configuration_of_the_model(tmp_path, model_class, settings):
    for model in (model_class(config_of(**settings)), None):
        if model is None:
            model = model_class.from_pretrained(tmp_path)
        else:
            model.save_pretrained(tmp_path)
        modules = [module for module in model.modules() if hasattr(module, "config")]
        assert {id(module.config) for module in modules} == {id(model.config)}


# Keyword arguments


def test_no_keyword_is_ignored():
    waveform = waveforms_of(24000)[0][None]
    models = [
        MusicFMModel(config_of()), build(label_rate=8.0), build(MusicFMForAudioClassification),
        MusicFMForPreTraining(config_of(codebook_size=32)), MusicFMQuantizerModel(config_of()),
    ]  # fmt: skip
    for model in models:
        name = type(model).__name__
        with pytest.raises(
            TypeError, match=f"{name} does not use the argument `attention_maks`. Did you mean `attention_m"
        ):
            model(waveform, attention_maks=torch.ones_like(waveform))
        with pytest.raises(
            TypeError, match=f"{name} does not use the argument `position_ids`. Its arguments are input_values"
        ):
            model(waveform, position_ids=torch.arange(25)[None])
        with pytest.raises(TypeError, match="does not use the argument `is_causal`"):  # which sdpa alone would apply
            model(waveform, is_causal=True)
    with pytest.raises(TypeError, match=r"does not use the argument `labels`\. Did you mean `target_tokens`"):
        models[3](waveform, labels=torch.zeros(1, 25).long())
    with pytest.raises(TypeError, match="does not use the argument `layer`"):
        models[1](waveform, layer=1)
    asked = {"output_hidden_states": True, "output_attentions": False, "return_dict": True, "num_items_in_batch": 25}
    for model in models[:4]:
        assert len(model(waveform, **asked).hidden_states) == 4


def test_recorded_loss_needs_its_tokens(recorded, converted):
    """`labels` were once ignored, which gave the loss against other tokens."""
    model = MusicFMForPreTraining.from_pretrained(converted).eval()
    mask = torch.zeros(2, 75, dtype=torch.bool)
    mask[:, 10:30] = True
    with pytest.raises(TypeError, match=r"`labels`\. Did you mean `target_tokens`"):
        model(recorded["input_values"], mask_time_indices=mask, labels=recorded["target_tokens"])


def test_front_end_frozen_as_in_wav2vec2():
    model = build(label_rate=8.0).train()
    model.freeze_feature_encoder()
    model(waveforms_of(24000)[0][None], labels=soft_labels(1, 8, 4)).loss.backward()
    frozen = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("musicfm.subsampling.")}
