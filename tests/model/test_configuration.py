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
        ("mixup_prob", 1.1),
        ("mixup_seconds", [1.5, 0.5]),
        ("mixup_seconds", [0.0, 0.5]),
        ("mixup_seconds", [1.0]),
        ("mixup_max_excerpts", 0),
        ("task", ""),
        ("label_rate", 0.0),
        ("label_rate", -8.0),
        ("classifier_layer", 13),
        ("classifier_layer", -1),
        ("classifier_layer", 2.0),
        ("classifier_proj_size", 0),
        ("classifier_dropout", 1.5),
        ("classifier_outputs", [{"name": "function", "size": 2}]),
        ("classifier_outputs", [{"name": "function", "size": 2, "problem_type": "regression"}]),
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


@pytest.mark.parametrize("load", [AutoConfig.from_pretrained, MusicFMConfig.from_pretrained])
def test_a_misspelt_setting_is_not_ignored_on_loading(tmp_path, caplog, load):
    MusicFMConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no argument `num_hidden_layer`\. Did you mean `num_hidden_layers`\?"):
        load(tmp_path, num_hidden_layer=2)
    logging.getLogger("transformers").propagate = True
    load(tmp_path, use_safetensors=True)  # as from `pipeline(..., model_kwargs={"use_safetensors": True})`
    assert "no argument `use_safetensors` and ignores it" in caplog.text
    caplog.clear()
    theirs = {"trust_remote_code": False, "local_files_only": True, "_from_pipeline": "audio-classification"}
    config, rest = load(tmp_path, return_unused_kwargs=True, dtype="float16", device_map="auto", **theirs)
    assert (str(config.dtype), rest) == ("torch.float16", {"device_map": "auto"}) or rest.get("device_map") == "auto"
    assert caplog.text == ""


def test_a_misspelt_key_of_a_file_is_suggested(tmp_path, caplog):
    MusicFMConfig().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"label_rates": 5.0}))
    logging.getLogger("transformers").propagate = True
    MusicFMConfig.from_pretrained(tmp_path)
    assert "ignores: `label_rates`. Did you mean `label_rate`?" in caplog.text


@pytest.mark.parametrize("value", [None, True, False])
def test_batch_norms_that_a_user_freezes_or_not(tmp_path, value):
    """A value that is not that of version 0.1 is kept."""
    MusicFMConfig(freeze_batch_norm=value).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).freeze_batch_norm is value
    assert MusicFMConfig.from_dict({"freeze_batch_norm": value}).freeze_batch_norm is value


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


FUNCTION = {"name": "function", "size": 7, "problem_type": "single_label_classification", "loss_weight": 0.1}
BOUNDARY = {"name": "boundary", "size": 1, "problem_type": "multi_label_classification", "loss_weight": 0.9}


def test_head_fits_its_labels():
    labels = dict(enumerate("ABCDEFGH"))
    assert MusicFMConfig(id2label=labels, classifier_outputs=[FUNCTION, BOUNDARY]).num_labels == 8
    with pytest.raises(
        ValueError, match="`classifier_outputs` must be outputs with 8 labels in total, as in `id2label`"
    ):
        MusicFMConfig(id2label=labels, classifier_outputs=[FUNCTION])
    message = r"`class_weights` must be 8 numbers, one for each label, or `None`, got \[1\.0, 2\.0\]"
    with pytest.raises(ValueError, match=message):
        MusicFMConfig(id2label=labels, class_weights=[1.0, 2.0])


def test_a_new_head_for_other_labels(tmp_path):
    """As `AutoModel.from_pretrained(..., num_labels=5)` asks for it, of a model with outputs for its own labels."""
    labels = dict(enumerate("ABCDEFGH"))
    MusicFMConfig(id2label=labels, classifier_outputs=[FUNCTION, BOUNDARY], class_weights=[1.0] * 8).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match=r"`classifier_outputs` must be outputs with 5 labels in total, .* or `None`"):
        AutoConfig.from_pretrained(tmp_path, num_labels=5)
    config = AutoConfig.from_pretrained(tmp_path, num_labels=5, classifier_outputs=None, class_weights=None)
    assert (config.num_labels, config.classifier_outputs, config.class_weights) == (5, None, None)


def test_number_of_labels_will_do_for_their_names():
    config = MusicFMConfig(num_labels=8, classifier_outputs=[FUNCTION, BOUNDARY], class_weights=[1.0] * 8)
    assert config.num_labels == len(config.id2label) == 8


def test_slices_of_the_logits():
    labels = dict(enumerate("ABCDEFGH"))
    assert MusicFMConfig(id2label=labels, classifier_outputs=[FUNCTION, BOUNDARY]).classifier_slices == [
        FUNCTION,
        BOUNDARY,
    ]
    # Without any: all labels together, of the problem type that Transformers has for a model.
    one = {"name": "labels", "size": 8, "problem_type": "single_label_classification", "loss_weight": 1.0}
    assert MusicFMConfig(id2label=labels).classifier_slices == [one]
    several = one | {"problem_type": "multi_label_classification"}
    assert MusicFMConfig(id2label=labels, problem_type=several["problem_type"]).classifier_slices == [several]


def test_round_trip_of_a_head(tmp_path):
    labels = dict(enumerate("ABCDEFGH"))
    fields = {
        "task": "structure",
        "decoding": {"threshold": 0.3, "before": 12},
        "label_rate": 8.0,
        "label_centered": True,
        "classifier_layer": 7,
        "classifier_proj_size": 64,
        "classifier_dropout": 0.25,
        "classifier_outputs": [FUNCTION, BOUNDARY],
        "class_weights": [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 6.0],
    }
    MusicFMConfig(id2label=labels, label2id={name: i for i, name in labels.items()}, **fields).save_pretrained(
        tmp_path
    )
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert loaded.id2label == labels
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "keys_to_ignore_at_inference" not in saved
    changed = AutoConfig.from_pretrained(tmp_path, classifier_layer=3, label_rate=None)
    assert (changed.classifier_layer, changed.label_rate) == (3, None)
    with pytest.raises(ValueError, match=r"`classifier_layer` must be between 0 and 12 .*, got 13"):
        AutoConfig.from_pretrained(tmp_path, classifier_layer=13)


def test_every_auto_class_is_in_the_map(tmp_path):
    MusicFMConfig().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_musicfm.MusicFMConfig",
        "AutoModel": "modeling_musicfm.MusicFMModel",
        "AutoModelForAudioClassification": "modeling_musicfm.MusicFMForAudioClassification",
        "AutoModelForAudioFrameClassification": "modeling_musicfm.MusicFMForAudioFrameClassification",
        "AutoModelForAudioXVector": "modeling_musicfm.MusicFMForXVector",
        "AutoModelForPreTraining": "modeling_musicfm.MusicFMForPreTraining",
    }


def test_auto_map_of_a_loaded_configuration_is_written_anew(tmp_path):
    """Entries for our classes name the present files; those that a user added stay."""
    loaded = {
        "AutoModel": "you/model--modeling_musicfm.MusicFMModel",
        "AutoModelForAudioClassification": "classification_musicfm.MusicFMForAudioClassification",
        "AutoModelForCTC": "my_model.MyModel",
    }
    config = MusicFMConfig.from_dict(MusicFMConfig().to_dict() | {"auto_map": loaded})
    written = MusicFMConfig().to_dict()["auto_map"]
    assert config.to_dict()["auto_map"] == written | {"AutoModelForCTC": "my_model.MyModel"}
    mine = MusicFMConfig.from_dict(MusicFMConfig().to_dict() | {"auto_map": {"AutoModel": "my_model.MyModel"}})
    assert mine.to_dict()["auto_map"] == written | {"AutoModel": "my_model.MyModel"}
