"""Recipes with `--push_to_hub`, and their results loaded in other processes: with the package, without it, offline."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from helpers.audio import music
from helpers.finetuning import QUICK, SHORT
from helpers.hub_server import HubServer
from helpers.paths import FIXTURES, ROOT
from helpers.pretraining import SHORT as SHORT_PRETRAINING
from helpers.pretraining import SIZE
from helpers.remote_code import NO_PACKAGE
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load, load_file, save

PERSON = "zaphod42"  # runs the recipes; no published file may contain the name

TRAIN = """
import json, runpy, sys
from pathlib import Path

root, commands = sys.argv[1:]
for name, *arguments in json.loads(commands):
    sys.argv = [name, *arguments]
    runpy.run_path(f"{root}/recipes/{name}.py", run_name="__main__")
"""

READ = """
import sys

import soundfile
import torch
from safetensors.torch import save_file
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForPreTraining,
    pipeline,
)

place, output, trust, mode = sys.argv[1:]
if mode == "package":
    import musicfm_hf
    from musicfm_hf import MusicFMQuantizerModel
else:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    MusicFMQuantizerModel = get_class_from_dynamic_module(
        "modeling_musicfm.MusicFMQuantizerModel", f"{place}quantizer"
    )
    assert not any(name.startswith("musicfm_hf") for name in sys.modules)
options = {"trust_remote_code": True} if trust == "trust" else {}
waveform, rate = soundfile.read("song.wav", dtype="float32")
found = {}
inputs = AutoFeatureExtractor.from_pretrained(f"{place}encoder", **options)(
    waveform, sampling_rate=rate, return_tensors="pt"
)
heads = {"chord": AutoModelForAudioFrameClassification, "tags": AutoModelForAudioClassification}
heads["chord-lora"] = AutoModelForAudioFrameClassification
with torch.no_grad():
    for name in ("encoder", "converted", "chord"):
        model = AutoModel.from_pretrained(f"{place}{name}", **options).eval()
        found[name] = model(**inputs).last_hidden_state
    for name, auto_class in heads.items():
        model = auto_class.from_pretrained(f"{place}{name}", **options).eval()
        found[f"{name} logits"] = model(**inputs).logits
    model = AutoModelForPreTraining.from_pretrained(f"{place}encoder", **options).eval()
    frames = found["encoder"].shape[1]
    found["tokens"] = model(inputs["input_values"], mask_time_indices=torch.ones(1, frames).long()).tokens
    found["own tokens"] = MusicFMQuantizerModel.from_pretrained(f"{place}quantizer")(inputs["input_values"]).tokens
tagger = pipeline("audio-classification", model=f"{place}tags", top_k=None, **options)
scores = {tag["label"]: tag["score"] for tag in tagger({"raw": waveform, "sampling_rate": rate})}
found["pipeline"] = torch.tensor([scores[label] for label in sorted(scores)])
save_file({name: value.contiguous() for name, value in found.items()}, output)
"""


READ_ADAPTER = """
import sys

import musicfm_hf
import soundfile
import torch
from safetensors.torch import save_file
from transformers import AutoModelForAudioFrameClassification

name, output = sys.argv[1:]
waveform, _ = soundfile.read("song.wav", dtype="float32")
model = AutoModelForAudioFrameClassification.from_pretrained(name).eval()
save_file({"logits": model(torch.from_numpy(waveform)[None]).logits.detach()}, output)
"""


@pytest.fixture(scope="module")
def server():
    with HubServer({"hf_alice": "alice", "hf_minz": "minzwon"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Folder in which the recipes run and leave their results."""
    place = tmp_path_factory.mktemp(PERSON)
    (place / "music").mkdir()
    for number in range(4):
        soundfile.write(place / f"music/{number}.wav", music(2.0, seed=number), 24000)
    soundfile.write(place / "song.wav", music(2.0, seed=9), 24000, subtype="FLOAT")
    return place


def run(server: HubServer, place: Path, code: str, *arguments, token="hf_alice", cache="cache", **variables) -> str:
    """Run code in its own process, check that it succeeds, and return its output."""
    environment = server.environment(token, place / cache) | {"USER": PERSON, "LOGNAME": PERSON, **variables}
    environment |= {"NO_PROXY": "127.0.0.1", "PYTHONPATH": "", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def pushed(server, place, labeled) -> HubServer:
    """The server after every recipe has run with `--push_to_hub`; the same folders are under `place`."""
    api = HfApi(endpoint=server.url, token="hf_minz")
    api.create_repo("minzwon/MusicFM")
    for name, source in (("pretrained_fma.pt", "pretrained.pt"), ("fma_stats.json", "stats.json")):
        api.upload_file(path_or_fileobj=FIXTURES / "musicfm" / source, path_in_repo=name, repo_id="minzwon/MusicFM")
    (place / "labeled").symlink_to(labeled)
    tiny = str(ROOT / "recipes/pretrain/tiny.yaml")
    tokens = ["quantizer_type=kmeans", "codebook_size=16"]

    def push(name):
        return ["--push_to_hub", "--hub_model_id", f"alice/{name}"]

    def finetune(recipe, name, *flags):
        places = ["--model", "alice/encoder", "--data", "labeled", "--cache", "features", "--results", "results"]
        return [
            "finetune", str(ROOT / f"recipes/{recipe}.yaml"), *SHORT, *places,
            *("--output_dir", name, *push(name), *flags),
        ]  # fmt: skip

    fit = [
        "train_quantizer",
        tiny,
        "--train",
        "music",
        "--validation",
        "music",
        "--output",
        "quantizer",
        *push("quantizer"),
    ]
    fit += ["--batch-size", "2", "--crop-seconds", "1", "--hours", "0.01", "--num-workers", "0"]
    pretrain = ["pretrain", tiny, *SHORT_PRETRAINING, "--max_steps", "2", "--eval_steps", "2", "--train", "music"]
    pretrain += [
        "--validation",
        "music",
        "--quantizer",
        "alice/quantizer",
        "--output_dir",
        "encoder",
        *push("encoder"),
    ]
    commands = [
        [*fit, "--set", *SIZE, *tokens],
        [*pretrain, "--set", *SIZE, *tokens],
        finetune("chord/full", "chord", *QUICK),
        finetune("tagging/probe", "tags", "--hub_private_repo", "false"),
        finetune("chord/lora", "chord-lora", *QUICK),
        ["convert", "--source", "minzwon/MusicFM", "--variant", "fma", "--output", "converted", *push("converted")],
    ]
    run(server, place, TRAIN, ROOT, json.dumps(commands))
    return server


REPOSITORIES = ("quantizer", "encoder", "chord", "tags", "chord-lora", "converted")


def test_the_hub_has_the_files_of_the_folders(pushed, place):
    for name in REPOSITORIES:
        files = pushed.files(f"alice/{name}")
        assert {path: (place / name / path).read_bytes() for path in files} == files
        assert pushed.repositories["models", f"alice/{name}"].private == (name != "tags")
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "results.json", "curves.png"} <= set(
        pushed.files("alice/chord-lora")
    )
    named = json.loads(pushed.files("alice/chord-lora")["adapter_config.json"])
    encoder = HfApi(endpoint=pushed.url, token="hf_alice").model_info("alice/encoder")
    assert (named["base_model_name_or_path"], named["revision"]) == ("alice/encoder", encoder.sha)


def test_loading_gives_the_same_outputs(pushed, place):
    """In fresh processes: from the folders, from the Hub with an empty cache, offline, and without the package."""
    run(pushed, place, READ, "", "local.out", "", "package", cache="first", HF_HUB_OFFLINE="")
    run(pushed, place, READ, "alice/", "hub.out", "", "package", cache="second")
    run(pushed, place, READ, "alice/", "offline.out", "", "package", cache="second", HF_HUB_OFFLINE="1")
    run(pushed, place, NO_PACKAGE + READ, "alice/", "remote.out", "trust", "none", cache="third")
    expected = load_file(place / "local.out")
    assert expected["chord-lora logits"].shape == (1, 16, 25)
    for name in ("hub", "offline", "remote"):
        found = load_file(place / f"{name}.out")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert (found[key].double() - value.double()).abs().max() <= 1e-6, (name, key)


def test_files_reveal_neither_person_nor_place(pushed, place):
    home = str(Path.home())
    secrets = [b"hf_alice", PERSON.encode(), str(ROOT).encode(), *([home.encode()] if len(home) > 5 else [])]
    for name in REPOSITORIES:
        written = {path: path.read_bytes() for path in (place / name).glob("*") if path.is_file()}
        written.pop(place / name / "training_args.bin", None)
        for path, content in {**written, **pushed.files(f"alice/{name}")}.items():
            assert not [secret for secret in secrets if secret in content], path


def test_cards(pushed, place, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", pushed.url)
    for name in REPOSITORIES:
        text = pushed.files(f"alice/{name}")["README.md"].decode()
        card = ModelCard(text)
        assert not re.search(r"\{\{|\{%|[:|] None|\bnan\b", text), name
        card.validate()
    results = json.loads((place / "chord/results.json").read_text())
    card = ModelCard(pushed.files("alice/chord")["README.md"].decode())
    assert card.data.base_model == "alice/encoder"
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found["major and minor chords (mir_eval majmin)"] == results["scores"]["test"]["majmin"]["mean"]
    assert ModelCard(pushed.files("alice/converted")["README.md"].decode()).data.license == "other"


def test_snippets_run_as_printed(pushed, place):
    """All code examples of the cards in one process, with an empty cache."""
    code = ""
    for name in REPOSITORIES:
        snippets = re.findall(r"```python\n(.*?)```", pushed.files(f"alice/{name}")["README.md"].decode(), re.DOTALL)
        assert snippets
        code += "\n".join(snippets)
    run(pushed, place, code, cache="snippets")


def generated_snippets(name: str, card: ModelCard) -> str:
    """The code that the page of a repository with code offers, and a call of the pipeline."""
    options = "trust_remote_code=True"
    code = f'AutoModel.from_pretrained("alice/{name}", {options}, dtype="auto")\n'
    code += f'AutoFeatureExtractor.from_pretrained("alice/{name}", {options})\n'
    if card.data.pipeline_tag is not None and card.data.library_name == "transformers":
        code += f'pipe = pipeline("{card.data.pipeline_tag}", model="alice/{name}", {options})\npipe("song.wav")\n'
    return code


@pytest.mark.parametrize("start", ["import musicfm_hf\n", NO_PACKAGE], ids=["package", "no package"])
def test_snippets_that_the_hub_generates(pushed, place, start):
    code = start + "from transformers import AutoFeatureExtractor, AutoModel, pipeline\n"
    tags = {}
    for name in REPOSITORIES:
        card = ModelCard(pushed.files(f"alice/{name}")["README.md"].decode())
        tags[name] = card.data.pipeline_tag
        if name not in ("quantizer", "chord-lora"):  # which have neither an encoder of their own nor a pipeline
            code += generated_snippets(name, card)
    run(pushed, place, code, cache="generated")
    assert {name for name, tag in tags.items() if tag == "feature-extraction"} == {"encoder", "converted"}
    assert {name for name, tag in tags.items() if tag == "audio-classification"} == {"tags"}


def test_adapters_pin_the_revision_of_their_base(pushed, place):
    """An adapter uses its base model's revision at training, even if the repository has changed since."""
    api = HfApi(endpoint=pushed.url, token="hf_alice")
    before = pushed.files("alice/encoder")["model.safetensors"]
    weights = {name: value * 0 for name, value in load(before).items()}

    def put(content):
        api.upload_file(path_or_fileobj=content, path_in_repo="model.safetensors", repo_id="alice/encoder")

    put(save(weights, {"format": "pt"}))
    run(pushed, place, READ_ADAPTER, "alice/chord-lora", "pinned.out", cache="pinned")
    put(before)
    expected, found = load_file(place / "local.out"), load_file(place / "pinned.out")
    assert (found["logits"] - expected["chord-lora logits"]).abs().max() <= 1e-6


def test_a_wrong_token_is_found_before_training(server, place):
    command = ["finetune", str(ROOT / "recipes/chord/probe.yaml"), *SHORT, "--model", "m", "--data", "labeled"]
    command += ["--output_dir", "never", "--push_to_hub", "--hub_model_id", "alice/never"]
    with pytest.raises(AssertionError, match=r"Not trained: .*401"):
        run(server, place, TRAIN, ROOT, json.dumps([command]), token="hf_nobody")
    assert not (place / "never").exists()
