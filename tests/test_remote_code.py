"""What is saved loads in a process that cannot import the package."""

import json
import os
import subprocess
import sys

import torch
from conftest import TINY, music, random_model
from safetensors.torch import load_file, save_file

from musicfm_hf import MusicFMConfig, MusicFMFeatureExtractor

WITHOUT_THE_PACKAGE = """
import sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "musicfm_hf":
            raise ModuleNotFoundError(f"No module named {name!r} (hidden for this test)")

sys.meta_path.insert(0, NoPackage())
try:
    import musicfm_hf
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package could be imported")

from safetensors.torch import load_file, save_file
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


def run_without_the_package(tmp_path, folder, name):
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    arguments = [str(folder), str(tmp_path / "audio"), str(tmp_path / f"{name}.out"), str(tmp_path / f"{name}.again")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, *arguments], env=environment, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return load_file(tmp_path / f"{name}.out")["embeddings"]


def test_saved_model_loads_without_the_package(tmp_path):
    model = random_model(MusicFMConfig(**TINY))
    model.save_pretrained(tmp_path / "model")
    MusicFMFeatureExtractor().save_pretrained(tmp_path / "model")
    audio = torch.from_numpy(music(2.0))
    save_file({"audio": audio}, tmp_path / "audio")
    expected = model(audio[None], layer=2).last_hidden_state
    torch.testing.assert_close(
        run_without_the_package(tmp_path, tmp_path / "model", "first"), expected, rtol=0, atol=1e-6
    )
    # What such a process saves is complete again.
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert sorted(path.name for path in (tmp_path / "first.again").iterdir() if path.is_file()) == names
    second = run_without_the_package(tmp_path, tmp_path / "first.again", "second")
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-6)
    for folder in ("model", "first.again"):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert config["auto_map"] == {
            "AutoConfig": "configuration_musicfm.MusicFMConfig", "AutoModel": "modeling_musicfm.MusicFMModel",
            "AutoModelForPreTraining": "modeling_musicfm.MusicFMForPreTraining",
        }  # fmt: skip
