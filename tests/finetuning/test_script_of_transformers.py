"""
The script `run_audio_classification.py` of Transformers, unchanged, on a saved encoder: with the package imported, and
with the code that was saved beside the weights.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, Features, Value
from helpers.models import TINY, random_model
from helpers.remote_code import NO_PACKAGE
from safetensors.torch import load_file
from transformers import pipeline

from musicfm_hf import MusicFMConfig, MusicFMFeatureExtractor

pytestmark = pytest.mark.slow

SCRIPT = "MUSICFM_AUDIO_CLASSIFICATION_SCRIPT"
ADDRESS = "https://raw.githubusercontent.com/huggingface/transformers/main/examples/pytorch/audio-classification"
RATE = 24000

# torchcodec needs FFmpeg. The metric is the file in the current folder.
LAUNCH = """
import io, runpy, sys
import librosa
from datasets import Audio

def decode_example(self, value, token_per_repo_id=None):
    array, rate = librosa.load(io.BytesIO(value["bytes"]), sr=self.sampling_rate)
    return {"array": array, "sampling_rate": rate}

Audio.decode_example = decode_example
script, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""

ACCURACY = """
import datasets
import evaluate

class Accuracy(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": sum(p == r for p, r in zip(predictions, references)) / len(references)}
"""


@pytest.fixture(scope="module")
def script() -> Path:
    path = os.environ.get(SCRIPT)
    if path is None:
        pytest.skip(
            f"{SCRIPT} is not set. Run `curl -O {ADDRESS}/run_audio_classification.py`, and set it to the path."
        )
    return Path(path).resolve()


def clip(label: int, generator: np.random.Generator) -> bytes:
    """A low or a high tone in noise, of 1 to 3 s."""
    time = np.arange(generator.integers(RATE, 3 * RATE)) / RATE
    tone = np.sin(2 * np.pi * (200, 3000)[label] * generator.uniform(0.9, 1.1) * time)
    content = io.BytesIO()
    audio = 0.3 * tone + 0.01 * generator.standard_normal(len(time))
    soundfile.write(content, audio, RATE, format="WAV")
    return content.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with an encoder, a data set and a metric."""
    place = tmp_path_factory.mktemp("script")
    random_model(MusicFMConfig(**TINY)).save_pretrained(place / "encoder")
    MusicFMFeatureExtractor().save_pretrained(place / "encoder")
    generator = np.random.default_rng(0)
    (place / "data").mkdir()
    features = Features(
        {"audio": {"bytes": Value("binary"), "path": Value("string")}, "label": ClassLabel(names=["low", "high"])}
    )
    for split, count in (("train", 48), ("validation", 16)):
        labels = [index % 2 for index in range(count)]
        audio = [{"bytes": clip(label, generator), "path": None} for label in labels]
        rows = Dataset.from_dict({"audio": audio, "label": labels}, features=features)
        rows = rows.cast_column("audio", Audio(decode=False))
        rows.to_parquet(place / f"data/{split}-00000-of-00001.parquet")
    (place / "accuracy").mkdir()
    (place / "accuracy/accuracy.py").write_text(ACCURACY)
    return place


def run(script: Path, place: Path, launcher: str, output: str, *flags: str) -> dict:
    """Run the script, and return its metrics."""
    command = [
        sys.executable, "-c", launcher, script, "--model_name_or_path", "encoder", "--dataset_name", "data",
        "--output_dir", output, "--do_train", "--do_eval", "--num_train_epochs", "4", "--learning_rate", "3e-3",
        "--per_device_train_batch_size", "4", "--max_length_seconds", "2", "--logging_steps", "12", "--seed", "0",
        "--report_to", "none", "--use_cpu", "--remove_unused_columns", "False", *flags,
    ]  # fmt: skip
    environment = os.environ | {"HF_HOME": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*map(str, command)], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return {
        **json.loads((place / output / "eval_results.json").read_text()),
        "losses": [
            entry["loss"]
            for entry in json.loads((place / output / "trainer_state.json").read_text())["log_history"]
            if "loss" in entry
        ],
    }


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("is_remote", [False, True], ids=["package", "remote"])
def test_the_script_learns(script, place, is_remote, frozen):
    output = f"output-{is_remote}-{frozen}"
    launcher = NO_PACKAGE + LAUNCH if is_remote else "import musicfm_hf\n" + LAUNCH
    flags = ["--freeze_feature_encoder", str(frozen), *(["--trust_remote_code", "True"] if is_remote else [])]
    metrics = run(script, place, launcher, output, *flags)
    assert metrics["losses"][-1] < 0.5 * metrics["losses"][0]
    assert metrics["eval_accuracy"] >= 0.9
    before = load_file(place / "encoder/model.safetensors")
    after = load_file(place / output / "model.safetensors")
    front = [name for name in before if name.startswith("subsampling.")]
    unchanged = [name for name in front if after[f"musicfm.{name}"].equal(before[name])]
    assert (len(unchanged) == len(front)) == frozen
    assert not after["musicfm.layers.0.self_attn.q_proj.weight"].equal(before["layers.0.self_attn.q_proj.weight"])
    # What it saved is a model like any other.
    classify = pipeline("audio-classification", str(place / output), device="cpu", top_k=1)
    generator = np.random.default_rng(1)
    assert [classify(clip(label, generator))[0]["label"] for label in (0, 1, 0, 1)] == ["low", "high", "low", "high"]
