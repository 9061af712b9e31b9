"""What is saved loads in a process that cannot import the package."""

import json

import torch
from helpers.audio import music
from helpers.models import TINY, random_model
from helpers.remote_code import run_without_the_package
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForAudioFrameClassification
from transformers.dynamic_module_utils import custom_object_save

from musicfm_hf import (
    MusicFMConfig,
    MusicFMFeatureExtractor,
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    MusicFMInt8Config,
)

ENCODER = """
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

folder, audio, output, again = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
fresh = AutoModel.from_config(config, trust_remote_code=True)
assert type(fresh) is type(model)
assert not any(name.startswith("musicfm_hf") for name in sys.modules)
inputs = extractor(load_file(audio)["audio"], sampling_rate=24000, return_tensors="pt")
save_file({"embeddings": model(**inputs, layer=2).last_hidden_state}, output)
model.save_pretrained(again)
extractor.save_pretrained(again)
"""

INT8 = """
from transformers import AutoModel

int8, plain, audio, output, again = sys.argv[1:]
waveform = load_file(audio)["audio"][None]
saved = AutoModel.from_pretrained(int8, trust_remote_code=True).eval()
settings = {"quant_method": "musicfm_int8"}
quantized = AutoModel.from_pretrained(plain, trust_remote_code=True, quantization_config=settings).eval()
assert not any(name.startswith("musicfm_hf") for name in sys.modules)
outputs = {name: model(waveform).last_hidden_state for name, model in (("saved", saved), ("quantized", quantized))}
save_file(outputs, output)
quantized.save_pretrained(again)
"""

HEADS = """
from transformers import AutoModel, AutoModelForAudioClassification, AutoModelForAudioFrameClassification

frames, clips, adapter, audio, output = sys.argv[1:]
waveform, outputs = load_file(audio)["audio"][None], {}
for folder, auto_class in (
    (frames, AutoModelForAudioFrameClassification),
    (clips, AutoModelForAudioClassification),
    (adapter, AutoModelForAudioFrameClassification),
):
    model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
    outputs[folder] = model(waveform).logits.detach()
encoder = AutoModel.from_pretrained(frames, trust_remote_code=True)
outputs["encoder"] = encoder(waveform).last_hidden_state.detach()
assert not any(name.startswith("musicfm_hf") for name in sys.modules)
save_file(outputs, output)
"""


def embed_without_the_package(tmp_path, folder, name):
    output = tmp_path / f"{name}.out"
    run_without_the_package(tmp_path, ENCODER, folder, tmp_path / "audio", output, tmp_path / f"{name}.again")
    return load_file(output)["embeddings"]


def test_saved_model_loads_without_the_package(tmp_path):
    model = random_model(MusicFMConfig(**TINY))
    model.save_pretrained(tmp_path / "model")
    MusicFMFeatureExtractor().save_pretrained(tmp_path / "model")
    audio = torch.from_numpy(music(2.0))
    save_file({"audio": audio}, tmp_path / "audio")
    expected = model(audio[None], layer=2).last_hidden_state
    torch.testing.assert_close(
        embed_without_the_package(tmp_path, tmp_path / "model", "first"), expected, rtol=0, atol=1e-6
    )
    # What such a process saves is complete again.
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert sorted(path.name for path in (tmp_path / "first.again").iterdir() if path.is_file()) == names
    second = embed_without_the_package(tmp_path, tmp_path / "first.again", "second")
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-6)
    for folder in ("model", "first.again"):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert config["auto_map"] == {
            "AutoConfig": "configuration_musicfm.MusicFMConfig",
            "AutoModel": "modeling_musicfm.MusicFMModel",
            "AutoModelForAudioClassification": "modeling_musicfm.MusicFMForAudioClassification",
            "AutoModelForAudioFrameClassification": "modeling_musicfm.MusicFMForAudioFrameClassification",
            "AutoModelForAudioXVector": "modeling_musicfm.MusicFMForXVector",
            "AutoModelForPreTraining": "modeling_musicfm.MusicFMForPreTraining",
        }


def test_int8_models_load_without_the_package(tmp_path):
    random_model(MusicFMConfig(**TINY)).save_pretrained(tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model", quantization_config=MusicFMInt8Config()).eval()
    model.save_pretrained(tmp_path / "int8")
    audio = torch.from_numpy(music(2.0))
    save_file({"audio": audio}, tmp_path / "audio")
    with torch.no_grad():
        expected = model(audio[None]).last_hidden_state
    arguments = (tmp_path / name for name in ("int8", "model", "audio", "out", "again"))
    run_without_the_package(tmp_path, "import torch; torch.set_grad_enabled(False)\n" + INT8, *arguments)
    outputs = load_file(tmp_path / "out")
    assert torch.equal(outputs["saved"], expected)
    assert torch.equal(outputs["quantized"], expected)
    assert (tmp_path / "again/int8_musicfm.py").is_file()
    again = AutoModel.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        assert torch.equal(again(audio[None]).last_hidden_state, expected)


def test_saved_heads_load_without_the_package(tmp_path):
    waveform = torch.from_numpy(music(2.0))
    save_file({"audio": waveform}, tmp_path / "audio")
    frames = MusicFMForAudioFrameClassification(MusicFMConfig(**TINY, label_rate=8.0, num_labels=5)).eval()
    clips = MusicFMForAudioClassification(MusicFMConfig(**TINY, use_weighted_layer_sum=True, num_labels=3)).eval()
    frames.save_pretrained(tmp_path / "frames")
    clips.save_pretrained(tmp_path / "clips")
    lora = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["classifier"], init_lora_weights=False)
    adapted = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "frames", label_rate=20.0)
    adapted = get_peft_model(adapted, lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    # The configuration and, which peft does not, the code.
    adapted.config.save_pretrained(tmp_path / "adapter")
    custom_object_save(adapted.get_base_model(), tmp_path / "adapter")
    folders = [tmp_path / name for name in ("frames", "clips", "adapter")]
    run_without_the_package(tmp_path, HEADS, *folders, tmp_path / "audio", tmp_path / "out")
    outputs = load_file(tmp_path / "out")
    for folder, model in zip(folders, (frames, clips, adapted), strict=True):
        torch.testing.assert_close(outputs[str(folder)], model(waveform[None]).logits, rtol=0, atol=1e-6)
    hidden_states = frames.musicfm(waveform[None]).last_hidden_state
    torch.testing.assert_close(outputs["encoder"], hidden_states, rtol=0, atol=1e-6)
