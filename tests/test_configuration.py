import json
import logging

import pytest
from transformers import AutoConfig

from musicfm_hf import MusicFMConfig


def test_defaults_are_the_published_encoder():
    config = MusicFMConfig()
    assert (config.frame_rate, config.samples_per_frame, config.min_samples) == (25.0, 960, 1025)
    assert config.subsampling_time_strides == [2, 2]


@pytest.mark.parametrize(
    ("hop_length", "strides", "rate"), [(240, [2, 1], 50.0), (320, [1, 1], 75.0), (240, (2, 2), 25.0)]
)
def test_frame_rate(hop_length, strides, rate):
    assert MusicFMConfig(hop_length=hop_length, subsampling_time_strides=strides).frame_rate == rate


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", 1024.0),
        ("hidden_size", "1024"),
        ("hidden_size", True),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 7),
        ("num_attention_heads", 1024),
        ("hidden_act", "swich"),
        ("hidden_dropout", 1.5),
        ("attention_dropout", -0.1),
        ("conv_depthwise_kernel_size", 30),
        ("n_fft", 2047),
        ("hop_length", 4096),
        ("mel_std", 0.0),
        ("mel_mean", float("nan")),
        ("subsampling_time_strides", [2]),
        ("subsampling_time_strides", [2, 3]),
    ],
)
def test_impossible_values_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        MusicFMConfig(**{name: value})


def test_misspelt_argument_suggests_the_right_one():
    with pytest.raises(ValueError, match=r"no argument `num_hiden_layers`\. Did you mean `num_hidden_layers`\?"):
        MusicFMConfig(num_hiden_layers=3)
    with pytest.raises(ValueError, match=r"no argument `qqq`\.$"):
        MusicFMConfig(qqq=3)


def test_unknown_saved_key_warns_and_stays(tmp_path, caplog):
    MusicFMConfig(hidden_size=64, num_attention_heads=4).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"from_the_future": 5}))
    logging.getLogger("transformers").propagate = True
    config = AutoConfig.from_pretrained(tmp_path)
    assert "`from_the_future`" in caplog.text
    assert (config.from_the_future, config.hidden_size) == (5, 64)
    assert MusicFMConfig.from_json_file(tmp_path / "config.json").from_the_future == 5


def test_values_overridden_on_loading_are_checked(tmp_path):
    MusicFMConfig().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, num_hidden_layers=7).num_hidden_layers == 7
    with pytest.raises(ValueError, match="`hidden_dropout` must be"):
        AutoConfig.from_pretrained(tmp_path, hidden_dropout=2.0)


def test_round_trip(tmp_path):
    config = MusicFMConfig(hidden_size=64, num_attention_heads=4, subsampling_time_strides=(2, 1), num_labels=3)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert isinstance(loaded, MusicFMConfig)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "modeling_musicfm.MusicFMModel"
