"""Folders that version 0.1.0 wrote load, give the outputs that it gave, and are saved with the present code."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import FIXTURES, ROOT
from helpers.remote_code import run_without_the_package
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForPreTraining,
)

from musicfm_hf import MusicFMConfig, MusicFMQuantizerModel, annotate, load_annotators

VERSION_0_1 = FIXTURES / "version_0_1"
CLASSES = {
    "encoder": AutoModelForPreTraining,
    "quantizer": MusicFMQuantizerModel,
    "converted": AutoModel,
    "beat_probe": AutoModelForAudioFrameClassification,
    "structure_probe": AutoModelForAudioFrameClassification,
    "key_probe": AutoModelForAudioFrameClassification,
    "tagging_probe": AutoModelForAudioClassification,
    "chord_lora": AutoModelForAudioFrameClassification,
}
# Processors, and numbers of threads, round differently.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
CODE = {path.name for path in (ROOT / "src/musicfm_hf/model").glob("*_musicfm.py")}
FILES_OF_0_1 = {"classification_musicfm.py", "convolution_musicfm.py", "features_musicfm.py"}

LOAD_COPIES = """
import json
import torch
import transformers

folders, audio, output = sys.argv[1:]
waveform, outputs = load_file(audio)["input_values"], {}
for name, (auto_class, folder) in json.loads(folders).items():
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        if auto_class == "AutoModelForPreTraining":
            outputs[f"{name}.loss"] = model(waveform, generator=torch.Generator().manual_seed(0)).loss
        elif auto_class == "AutoModel":
            outputs[f"{name}.hidden_states.3"] = model(waveform).last_hidden_state
        else:
            outputs[f"{name}.logits"] = model(waveform).logits
assert not any(name.startswith("musicfm_hf") for name in sys.modules)
save_file(outputs, output)
"""


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    """The audio, and the outputs of version 0.1.0 for it."""
    return load_file(VERSION_0_1 / "expected.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The folders by name; of the adapter a copy that names the folder of its base model."""
    adapter = tmp_path_factory.mktemp("version_0_1") / "chord_lora"
    shutil.copytree(VERSION_0_1 / "chord_lora", adapter)
    adapter_config = json.loads((adapter / "adapter_config.json").read_text())
    adapter_config["base_model_name_or_path"] = str(VERSION_0_1 / "encoder")
    (adapter / "adapter_config.json").write_text(json.dumps(adapter_config))
    return {name: VERSION_0_1 / name for name in CLASSES} | {"chord_lora": adapter}


def outputs_of(name: str, model, waveform: torch.Tensor) -> dict[str, torch.Tensor]:
    """The outputs that were recorded for a folder, from a model in eval mode."""
    with torch.no_grad():
        if name == "quantizer":
            return {"tokens": model(waveform).tokens}
        if name == "encoder":
            loss = model(waveform, generator=torch.Generator().manual_seed(0)).loss
            return {"loss": loss, "tokens": model.quantizer(waveform)} | hidden_states_of(model.musicfm, waveform)
        if name == "converted":
            return hidden_states_of(model, waveform)
        return {"logits": model(waveform).logits}


def hidden_states_of(encoder, waveform: torch.Tensor) -> dict[str, torch.Tensor]:
    hidden_states = encoder(waveform, output_hidden_states=True).hidden_states
    return {f"hidden_states.{index}": state for index, state in enumerate(hidden_states)}


@pytest.mark.parametrize("name", CLASSES)
def test_outputs_are_those_of_version_0_1(name, folders, expected):
    model = CLASSES[name].from_pretrained(folders[name]).eval()
    outputs = outputs_of(name, model, expected["input_values"])
    assert outputs.keys() == {key.split(".", 1)[1] for key in expected if key.startswith(f"{name}.")}
    for key, output in outputs.items():
        torch.testing.assert_close(output, expected[f"{name}.{key}"], **ROUNDING)


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"quantizer"}))
def test_feature_extractor_loads(name, folders, expected):
    waveform = expected["input_values"]
    extractor = AutoFeatureExtractor.from_pretrained(folders[name])
    inputs = extractor(waveform.numpy(), sampling_rate=24000, return_tensors="pt")
    assert inputs["input_values"].equal(waveform)


def test_annotation_is_that_of_version_0_1(folders, expected):
    models = load_annotators(folder for name, folder in folders.items() if name.endswith(("probe", "lora")))
    values = annotate(models, expected["input_values"][0], 24000).to_dict()
    added = {"tempo", "tempo_curve", "time_signatures"}
    recorded = json.loads((VERSION_0_1 / "annotation.json").read_text())
    assert added <= values.keys()
    assert all(("downbeat_probability" in beat) == (beat["position"] == 1) for beat in values["beats"])
    values["beats"] = [{key: beat[key] for key in beat if key != "downbeat_probability"} for beat in values["beats"]]
    assert_close({name: value for name, value in values.items() if name not in added}, recorded)


def assert_close(value: Any, expected: Any) -> None:
    """Compare JSON whose numbers are rounded to four digits."""
    assert type(value) is type(expected)
    if isinstance(expected, dict):
        assert value.keys() == expected.keys()
        for key in expected:
            assert_close(value[key], expected[key])
    elif isinstance(expected, list):
        assert len(value) == len(expected)
        for entry, expected_entry in zip(value, expected, strict=True):
            assert_close(entry, expected_entry)
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, abs=1.01e-4)
    else:
        assert value == expected


@pytest.mark.parametrize("name", CLASSES)
def test_saved_again_with_the_present_code(name, folders, tmp_path):
    save_copy(name, folders[name], tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map == MusicFMConfig().to_dict()["auto_map"]
    copied = {path.name for path in tmp_path.glob("*_musicfm.py")}
    assert {f"{reference.split('.')[0]}.py" for reference in auto_map.values()} <= copied <= CODE
    assert not copied & FILES_OF_0_1


def save_copy(name: str, folder: Path, copy: Path) -> None:
    """Load a model and save it again; with an adapter, the configuration of the whole model."""
    model = CLASSES[name].from_pretrained(folder)
    model.save_pretrained(copy)
    if name == "chord_lora":
        model.config.save_pretrained(copy)


def test_copies_and_the_folders_themselves_load_without_the_package(folders, expected, tmp_path):
    """Copies with the present code; `encoder` with the code of version 0.1.0 that lies beside its weights."""
    loaded = {"encoder": ("AutoModelForPreTraining", str(folders["encoder"]))}
    for name, auto_class in CLASSES.items():
        if name != "quantizer":
            save_copy(name, folders[name], tmp_path / name)
            loaded[f"{name} again"] = (auto_class.__name__, str(tmp_path / name))
    output = tmp_path / "output.safetensors"
    run_without_the_package(tmp_path, LOAD_COPIES, json.dumps(loaded), VERSION_0_1 / "expected.safetensors", output)
    outputs = load_file(output)
    assert len(outputs) == len(loaded)
    for key, value in outputs.items():
        torch.testing.assert_close(value, expected[key.replace(" again", "")], **ROUNDING)


def test_configurations_keep_every_value(folders):
    for name, folder in folders.items():
        saved = json.loads((folder / "config.json").read_text())
        written = json.loads(AutoConfig.from_pretrained(folder).to_json_string(use_diff=False))
        changed = {key for key, value in saved.items() if written[key] != value}
        assert changed <= {"auto_map", "transformers_version", "freeze_batch_norm"}, name
        # False was the default, and kept no statistics; now the default keeps those that an adapter's file lacks.
        assert written["freeze_batch_norm"] == (saved["freeze_batch_norm"] or None)
