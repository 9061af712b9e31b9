"""Adapters of PEFT and of `add_adapter`, loaded as scripts would load them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.models import TINY, head
from huggingface_hub import HfApi, RepoUrl
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForAudioFrameClassification, AutoModelForPreTraining

from musicfm_hf import (
    MusicFMConfig,
    MusicFMForAudioFrameClassification,
    MusicFMForPreTraining,
    MusicFMModel,
    MusicFMQuantizerModel,
    load_annotators,
)
from musicfm_hf.finetuning.arguments import TaskArguments
from musicfm_hf.finetuning.heads import add_lora, save_finetuned
from musicfm_hf.model import adapters_musicfm

URL = "https://huggingface.co/alice/model"
WAVEFORM = torch.randn(1, 24000, generator=torch.Generator().manual_seed(0))
FRAMES = AutoModelForAudioFrameClassification


def random_lora(**settings) -> LoraConfig:
    return LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, **settings)


def adapter_on(base: Path, folder: Path, auto_class=FRAMES, **settings):
    """Save an adapter with random weights as PEFT does, and return the model in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(auto_class.from_pretrained(base), random_lora(**settings)).eval()
    adapted.save_pretrained(folder)
    assert not (folder / "config.json").exists()
    return adapted


def name_base(folder: Path, **values) -> None:
    """Change what an adapter records; `None` is a value, and a missing key is written as ..."""
    path = folder / "adapter_config.json"
    recorded = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in recorded.items() if value is not ...}))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a model for chords, one with an adapter on it, and the adapted model."""
    folder = tmp_path_factory.mktemp("adapters")
    head("chord").save_pretrained(folder / "base")
    return folder / "base", folder / "adapter", adapter_on(folder / "base", folder / "adapter")


@pytest.fixture
def warnings_logged(monkeypatch):
    """The messages of warnings that the models log."""
    messages: list[str] = []
    monkeypatch.setattr(adapters_musicfm.logger, "warning", messages.append)
    return messages


@pytest.fixture
def adapter(folders, tmp_path):
    """A copy of the adapter."""
    return Path(shutil.copytree(folders[1], tmp_path / "adapter"))


@pytest.mark.parametrize("base", [None, "", ...], ids=["null", "empty", "missing"])
@pytest.mark.parametrize("load", [MusicFMForAudioFrameClassification.from_pretrained, MusicFMModel.from_pretrained,
                                  lambda folder: load_annotators([folder])])  # fmt: skip
def test_an_adapter_that_names_no_base(adapter, base, load):
    name_base(adapter, base_model_name_or_path=base)
    with pytest.raises(ValueError, match=r"adapter.* names no base model: set `base_model_name_or_path` in its"):
        load(adapter)


def test_a_base_that_cannot_be_found(adapter, tmp_path):
    name_base(adapter, base_model_name_or_path=str(tmp_path / "moved"))
    with pytest.raises(OSError, match=r"base model of the adapter .*adapter, .*moved, cannot be loaded.*set `base_"):
        MusicFMForAudioFrameClassification.from_pretrained(adapter)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 64}, r"does not fit .*other: .* have other sizes"),
        ({"num_hidden_layers": 2}, r"does not fit .*other: 4 of its weights, such as musicfm\.layers\.2\."),
    ],
)
@pytest.mark.parametrize("auto_class", [FRAMES, AutoModel])
def test_a_base_that_was_replaced(adapter, tmp_path, changes, message, auto_class):
    """Without a configuration beside the adapter, its own weights show that the base is another one."""
    config = MusicFMConfig(**TINY | changes, label_rate=8.0, num_labels=25)
    MusicFMForAudioFrameClassification(config).save_pretrained(tmp_path / "other")
    name_base(adapter, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=message):
        auto_class.from_pretrained(adapter)


@pytest.mark.parametrize(
    "changes",
    [
        {"subsampling_time_strides": [2, 1]},
        {"hidden_act": "gelu"},
        {"rotary_after_projection": True},
        {"conv_depthwise_kernel_size": 9},
        {"num_mel_bins": 80},
    ],
)
def test_a_base_with_another_architecture(folders, adapter, tmp_path, changes):
    """With a configuration beside the adapter, also where all weights would fit."""
    config = MusicFMConfig.from_pretrained(folders[0])
    config.save_pretrained(adapter)
    MusicFMForAudioFrameClassification(MusicFMConfig(**config.to_dict() | changes)).save_pretrained(tmp_path / "other")
    name_base(adapter, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=f"cannot be used with .*other: it was trained for {next(iter(changes))} "):
        FRAMES.from_pretrained(adapter)


def test_a_second_adapter(folders, adapter, tmp_path):
    adapted = folders[2]
    expected = adapted(WAVEFORM).logits
    model = FRAMES.from_pretrained(adapter)
    model.load_adapter(adapter, adapter_name="second")
    model.set_adapter("second")
    torch.testing.assert_close(model.eval()(WAVEFORM).logits, expected, rtol=0, atol=1e-6)
    model.set_adapter("default")
    torch.testing.assert_close(model(WAVEFORM).logits, expected, rtol=0, atol=1e-6)
    name_base(adapter, target_modules=["q_proj", "v_proj", "k_proj"])
    with pytest.raises(ValueError, match="it lacks 6 weights"):
        model.load_adapter(adapter, adapter_name="third")
    assert set(model.peft_config) == {"default", "second"}
    assert model.active_adapters() == ["default"]
    torch.testing.assert_close(model(WAVEFORM).logits, expected, rtol=0, atol=1e-6)


def test_a_file_without_a_part_of_its_adapter(adapter):
    name_base(adapter, target_modules=["q_proj", "v_proj", "k_proj"])
    with pytest.raises(ValueError, match=r"does not fit .*base: it lacks 6 weights.*such as musicfm\..*k_proj\.lora_"):
        FRAMES.from_pretrained(adapter)


def test_an_encoder_with_the_adapter_of_a_head(folders, tmp_path):
    """As `musicfm embed` loads it. The weights of the head are left out, and are no error."""
    base, folder, adapted = folders
    expected = adapted.get_base_model().musicfm(WAVEFORM).last_hidden_state
    for model_class in (AutoModel, MusicFMModel):
        loaded = model_class.from_pretrained(folder).eval()
        torch.testing.assert_close(loaded(WAVEFORM).last_hidden_state, expected, rtol=0, atol=1e-6)
    plain = AutoModel.from_pretrained(base)(WAVEFORM).last_hidden_state
    assert (plain - expected).abs().max() > 0.01
    with_head = adapter_on(base, tmp_path / "with head", modules_to_save=["classifier"])
    expected = with_head.get_base_model().musicfm(WAVEFORM).last_hidden_state
    loaded = AutoModel.from_pretrained(tmp_path / "with head").eval()
    torch.testing.assert_close(loaded(WAVEFORM).last_hidden_state, expected, rtol=0, atol=1e-6)


def test_an_encoder_with_an_adapter_of_fine_tuning(folders, tmp_path):
    model = MusicFMForAudioFrameClassification.from_pretrained(folders[0])
    trained = add_lora(model, TaskArguments(task="chord", model="model", data="data", method="lora"))
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    save_finetuned(model, trained, tmp_path)
    expected = model.eval().musicfm(WAVEFORM).last_hidden_state
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(WAVEFORM).last_hidden_state, expected, rtol=0, atol=1e-6)


def test_an_adapter_of_pretraining(tmp_path):
    config = MusicFMConfig(**TINY, codebook_size=32)
    MusicFMForPreTraining(config).save_pretrained(tmp_path / "base")
    adapted = adapter_on(tmp_path / "base", tmp_path / "adapter", AutoModelForPreTraining)
    mask, tokens = torch.ones(1, 25, dtype=torch.bool), torch.arange(25)[None]
    expected = adapted(WAVEFORM, mask_time_indices=mask, target_tokens=tokens).loss
    for model_class in (AutoModelForPreTraining, MusicFMForPreTraining):
        loaded = model_class.from_pretrained(tmp_path / "adapter").eval()
        found = loaded(WAVEFORM, mask_time_indices=mask, target_tokens=tokens).loss
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_new_head_without_its_configuration(tmp_path):
    """PEFT saves the head, but neither its labels nor its rate; those of the base are not its own."""
    MusicFMModel(MusicFMConfig(**TINY)).save_pretrained(tmp_path / "base")
    model = FRAMES.from_pretrained(tmp_path / "base", label_rate=10.0)
    get_peft_model(model, random_lora(modules_to_save=["classifier"])).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"has a head, but its base model .* has none.*save `model\.config` beside"):
        FRAMES.from_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    assert FRAMES.from_pretrained(tmp_path / "adapter").config.label_rate == 10.0


def test_add_adapter_saves_the_configuration(tmp_path):
    """Of a new head, which the base does not have."""
    MusicFMModel(MusicFMConfig(**TINY)).save_pretrained(tmp_path / "base")
    model = FRAMES.from_pretrained(tmp_path / "base", label_rate=10.0, id2label={0: "low", 1: "high"})
    model.add_adapter(random_lora(modules_to_save=["classifier"]))
    model.eval().save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter/model.safetensors").exists()
    for model_class in (FRAMES, MusicFMForAudioFrameClassification):
        loaded = model_class.from_pretrained(tmp_path / "adapter").eval()
        assert (loaded.config.label_rate, loaded.config.id2label[1]) == (10.0, "high")
        torch.testing.assert_close(loaded(WAVEFORM).logits, model(WAVEFORM).logits, rtol=0, atol=1e-6)
    encoder = AutoModel.from_pretrained(tmp_path / "adapter").eval()
    expected = model.musicfm(WAVEFORM).last_hidden_state
    torch.testing.assert_close(encoder(WAVEFORM).last_hidden_state, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["adapter", "quantizer"])
def test_saving_with_a_push_uploads_everything(tmp_path, monkeypatch, kind):
    """Also the configuration of an adapter, and the code of a quantizer, which Transformers does not save."""
    if kind == "adapter":
        MusicFMModel(MusicFMConfig(**TINY)).save_pretrained(tmp_path / "base")
        model = FRAMES.from_pretrained(tmp_path / "base", label_rate=10.0)
        model.add_adapter(random_lora(modules_to_save=["classifier"]))
    else:
        model = MusicFMQuantizerModel(MusicFMConfig(**TINY))
    commits, repositories = [], []
    monkeypatch.setattr(HfApi, "create_repo", lambda *args, **_: repositories.append(args[1]) or RepoUrl(URL))
    monkeypatch.setattr(HfApi, "create_commit", lambda *_, operations, **__: commits.append(operations))
    model.save_pretrained(tmp_path / kind, push_to_hub=True, repo_id="alice/model", commit_message="New")
    (operations,) = commits
    assert repositories == ["alice/model"]
    uploaded = {operation.path_in_repo for operation in operations} - {"README.md"}
    assert uploaded == {path.name for path in (tmp_path / kind).iterdir()} - {"README.md"}
    assert {"config.json", "modeling_musicfm.py"} <= uploaded


def test_an_adapter_on_a_model_that_was_never_saved(tmp_path, warnings_logged):
    model = head("chord")
    model.add_adapter(random_lora())
    model.save_pretrained(tmp_path)
    (message,) = warnings_logged
    assert "names no base model, and cannot be loaded without one" in message


@pytest.mark.parametrize("model_class", [AutoModel, MusicFMModel, FRAMES])
def test_the_revision_of_the_base(tmp_path, adapter, folders, model_class):
    """An adapter names it, for an encoder as for a head; the main branch has other weights since."""
    cached, old = tmp_path / "cache/models--somebody--base", "1" * 40
    shutil.copytree(folders[0], cached / "snapshots" / old)
    head("chord", seed=5).save_pretrained(cached / "snapshots" / ("2" * 40))
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("2" * 40)
    name_base(adapter, base_model_name_or_path="somebody/base", revision=old)
    loaded = model_class.from_pretrained(adapter, cache_dir=tmp_path / "cache", local_files_only=True).eval()
    adapted = folders[2].get_base_model()
    expected = adapted(WAVEFORM).logits if model_class is FRAMES else adapted.musicfm(WAVEFORM).last_hidden_state
    torch.testing.assert_close(loaded(WAVEFORM)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_class", [FRAMES, MusicFMForAudioFrameClassification])
@pytest.mark.parametrize("with_config", [False, True])
def test_settings_change_an_adapted_model_as_any_other(adapter, model_class, with_config):
    if with_config:
        AutoConfig.from_pretrained(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
                                   ).save_pretrained(adapter)  # fmt: skip
    changes = {"attn_implementation": "eager", "output_hidden_states": True, "label_rate": 4.0}
    model = model_class.from_pretrained(adapter, dtype=torch.bfloat16, **changes)
    assert model.config._attn_implementation == "eager"
    assert (model.config.output_hidden_states, model.config.label_rate, model.dtype) == (True, 4.0, torch.bfloat16)
    assert model.config.num_labels == 25
    config = AutoConfig.from_pretrained(model.config.name_or_path, label_rate=2.0)
    assert model_class.from_pretrained(adapter, config=config).config.label_rate == 2.0
    with pytest.raises(TypeError, match="num_hidden_layer"):
        model_class.from_pretrained(adapter, num_hidden_layer=2)


def test_loading_information_of_an_adapter(adapter):
    model, loading = MusicFMForAudioFrameClassification.from_pretrained(adapter, output_loading_info=True)
    assert isinstance(model, MusicFMForAudioFrameClassification)
    assert not loading["missing_keys"]


def test_an_adapted_model_has_one_configuration(adapter):
    model = FRAMES.from_pretrained(adapter)
    assert {id(module.config) for module in model.modules() if hasattr(module, "config")} == {id(model.config)}


def test_a_relative_base(folders, tmp_path, monkeypatch):
    shutil.copytree(folders[0], tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    adapted = adapter_on(Path("base"), Path("adapter"))
    loaded = FRAMES.from_pretrained("adapter").eval()
    torch.testing.assert_close(loaded(WAVEFORM).logits, adapted(WAVEFORM).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task_type", [None, "FEATURE_EXTRACTION"])
def test_wrappers_of_peft(folders, task_type):
    """The wrapper of a task passes arguments of language models, all of them `None`."""
    model = AutoModel.from_pretrained(folders[0])
    expected = model(WAVEFORM).last_hidden_state
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type=task_type))
    assert adapted(input_values=WAVEFORM).last_hidden_state.equal(expected)
