"""Models from which pretraining continues."""

import logging

import pytest
import torch
from helpers.models import TINY
from peft import LoraConfig
from transformers import logging as transformers_logging

from musicfm_hf import MusicFMConfig, MusicFMForPreTraining, MusicFMModel, MusicFMQuantizerModel
from musicfm_hf.pretraining.arguments import DataArguments, ModelArguments, PretrainingArguments
from musicfm_hf.pretraining.model import build_model

KMEANS = TINY | {"quantizer_type": "kmeans", "kmeans_features": ["mel"], "num_codebooks": 1, "codebook_size": 16}


@pytest.fixture
def build(tmp_path):
    """Function that builds the model for pretraining from a saved one."""
    arguments = PretrainingArguments(str(tmp_path / "run"), max_steps=1, report_to="none", use_cpu=True)

    def build(values, model_class=MusicFMModel, **settings):
        model_class(MusicFMConfig(**values)).save_pretrained(tmp_path / "model")
        return build_model(ModelArguments(model=str(tmp_path / "model"), **settings), DataArguments(), arguments)

    return build


def test_an_adapter_is_refused(tmp_path):
    """All of its base's weights would be frozen."""
    MusicFMModel(MusicFMConfig(**TINY)).save_pretrained(tmp_path / "base")
    model = MusicFMModel.from_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    arguments = PretrainingArguments(str(tmp_path / "run"), max_steps=1, report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match=r"adapter is an adapter\. Pass its base model, or merge the adapter into it"):
        build_model(ModelArguments(model=str(tmp_path / "adapter")), DataArguments(), arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_trained_in_full_precision(tmp_path, dtype):
    """Updates are often too small for the precision in which a model may have been saved."""
    model = MusicFMForPreTraining(MusicFMConfig(**TINY))
    model.to(dtype).save_pretrained(tmp_path / "model")
    arguments = PretrainingArguments(str(tmp_path / "run"), max_steps=1, report_to="none", use_cpu=True)
    loaded = build_model(ModelArguments(model=str(tmp_path / "model")), DataArguments(), arguments)
    weight = loaded.musicfm.layers[0].ffn1.output_dense.weight
    assert weight.equal(model.musicfm.layers[0].ffn1.output_dense.weight.float())
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@pytest.fixture
def logged(caplog):
    logging.getLogger("transformers").propagate = True
    transformers_logging.set_verbosity_warning()
    return caplog


def test_a_quantizer_that_has_to_be_trained_may_not_be_missing(build, tmp_path):
    """Models for tasks are saved without it."""
    message = r"`quantizer_type` 'kmeans' needs a trained quantizer, and .*model has none.*pass its folder as `--quant"
    with pytest.raises(ValueError, match=message):
        build(KMEANS)
    quantizer = MusicFMQuantizerModel(MusicFMConfig(**KMEANS))
    quantizer.quantizer.centroids_0.normal_()
    quantizer.save_pretrained(tmp_path / "quantizer")
    model = build(KMEANS, quantizer=str(tmp_path / "quantizer"))
    assert model.quantizer.centroids_0.equal(quantizer.quantizer.centroids_0)
    build(KMEANS, MusicFMForPreTraining)


def test_a_missing_random_projection_is_drawn_with_a_warning(build, logged):
    build(TINY)
    assert "has no quantizer: a new random projection is drawn" in logged.text
    logged.clear()
    build(TINY, MusicFMForPreTraining)
    assert "has no quantizer" not in logged.text


def test_settings_that_a_saved_model_does_not_take_are_named(build, logged):
    config = '{"num_hidden_layers": 3, "mask_prob": 0.25, "hidden_size": 32}'
    model = build(TINY, MusicFMForPreTraining, config=config)
    assert model.config.mask_prob != 0.25
    expected = f"have no effect: mask_prob 0.25 ({model.config.mask_prob} there)"
    assert expected in logged.text
    assert "num_hidden_layers" not in logged.text
    with pytest.raises(ValueError, match="`--stats` applies to new models only"):
        build(TINY, MusicFMForPreTraining, stats="stats.json")
