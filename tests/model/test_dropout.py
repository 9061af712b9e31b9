"""Dropout is where the public implementations have it, with the settings of their configurations."""

import json
import shutil

import pytest
from helpers.models import TINY
from helpers.paths import FIXTURES
from torch import nn
from transformers import HubertConfig, Wav2Vec2ConformerConfig
from transformers.models.hubert.modeling_hubert import HubertEncoderLayer
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoderLayer

from musicfm_hf import MusicFMConfig, convert_checkpoint
from musicfm_hf.model.modeling_musicfm import MusicFMBertLayer, MusicFMConformerLayer

RATES = {"hidden_dropout": 0.1, "activation_dropout": 0.2, "attention_dropout": 0.3}
CONFORMER_RATES = RATES | {"conformer_conv_dropout": 0.4}
SIZE = {name: TINY[name] for name in ("hidden_size", "num_attention_heads", "intermediate_size")}


def rates(layer: nn.Module) -> dict[str, float]:
    """Name → probability of every dropout in a layer, except that of the attention weights."""
    return {name: module.p for name, module in layer.named_modules() if isinstance(module, nn.Dropout)}


def test_conformer_layer():
    """MusicFM and MuQ use the layer of Transformers: after the attention module, it drops with `attention_dropout`."""
    ours = MusicFMConformerLayer(MusicFMConfig(**TINY | CONFORMER_RATES), 0)
    config = Wav2Vec2ConformerConfig(**SIZE, **CONFORMER_RATES, position_embeddings_type="rotary")
    public = rates(Wav2Vec2ConformerEncoderLayer(config))
    assert ours.self_attn.attention_dropout == public.pop("self_attn.dropout")
    assert rates(ours) == public
    assert rates(ours)["self_attn_dropout"] == 0.3


@pytest.mark.parametrize("stable", [False, True])
def test_bert_layer(stable):
    """MERT uses the layer of HuBERT: after the attention module, it drops with `hidden_dropout`."""
    config = MusicFMConfig(**TINY | RATES, encoder_type="bert", do_stable_layer_norm=stable)
    ours, public = MusicFMBertLayer(config, 0), HubertEncoderLayer(HubertConfig(**SIZE, **RATES))
    assert ours.self_attn.attention_dropout == public.attention.dropout
    names = {"self_attn_dropout": "dropout", "ffn.intermediate_dropout": "feed_forward.intermediate_dropout"}
    names |= {"ffn.output_dropout": "feed_forward.output_dropout"}
    assert {names[name]: rate for name, rate in rates(ours).items()} == rates(public)


@pytest.mark.parametrize(("family", "expected"), [("muq", CONFORMER_RATES), ("mert_base", RATES)])
def test_conversion_keeps_the_rates(family, expected, tmp_path):
    shutil.copytree(FIXTURES / family, tmp_path / "source")
    path = tmp_path / "source/config.json"
    published = json.loads(path.read_text())
    published.get("w2v2_config", published).update(expected | {"feat_proj_dropout": 0.05})
    path.write_text(json.dumps(published))
    convert_checkpoint(tmp_path / "source", tmp_path / "converted")
    config = MusicFMConfig.from_pretrained(tmp_path / "converted")
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.feat_proj_dropout == (0.05 if family == "mert_base" else 0.0)  # MuQ does not use it


def test_musicfm_has_the_rates_of_its_published_code(converted):
    """All 0.1: those of facebook/wav2vec2-conformer-rope-large-960h-ft, which its code loads."""
    config = MusicFMConfig.from_pretrained(converted)
    assert {name: getattr(config, name) for name in CONFORMER_RATES} == dict.fromkeys(CONFORMER_RATES, 0.1)
