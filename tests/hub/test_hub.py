"""Sharing on the Hub: folders that are pushed and cards, asked by the real client of a server on this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from helpers.audio import music
from helpers.hub_server import HubServer
from helpers.models import TINY, head
from helpers.paths import ROOT
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import close_session
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForAudioFrameClassification

from musicfm_hf import MusicFMConfig, MusicFMFeatureExtractor, MusicFMForAudioFrameClassification
from musicfm_hf.hub.cards import licence_of, write_card
from musicfm_hf.hub.commits import HubTarget
from musicfm_hf.hub.push import push_folder
from musicfm_hf.hub.space import push_space

RESULTS = {
    "task": "chord",
    "method": "full",
    "scores": {
        "test": {
            "majmin": {"mean": 0.8125, "songs": 50, "interval": [0.7519, 0.8666]},
            "root": {"mean": float("nan"), "songs": 0, "interval": [float("nan")] * 2},
            "seconds": {"mean": 200.0, "songs": 50},
        }
    },
    "parameters": 123456,
    "trained_parameters": 12345,
    "base": {"name": "small", "revision": None},
    "data": {"name": "pop909", "licence": "MIT", "homepage": "https://example.org/pop909", "citation": "@misc{pop}"},
    "training": {"seed": 42, "learning_rate": 0.001, "bf16": False},
    "seconds": 90.0,
    "versions": {"musicfm_hf": "0.1.0"},
    "machine": "2 cores of a processor",
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The server, and a client in this process that is logged in."""
    close_session()
    with HubServer({"hf_alice": "alice", "hf_bob": "bob"}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
        yield hub
    close_session()


@pytest.fixture
def folder(tmp_path):
    """A model with a head for chords, as recipes/finetune.py leaves it."""
    torch.manual_seed(0)
    names = dict(enumerate(["C:maj", "A:min", "N"]))
    config = MusicFMConfig(**TINY, task="chord", label_rate=8.0, id2label=names)
    folder = tmp_path / "runs" / "chord"
    MusicFMForAudioFrameClassification(config).save_pretrained(folder)
    MusicFMFeatureExtractor().save_pretrained(folder)
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "checkpoint-4").mkdir()
    for name in ("optimizer.pt", "training_args.bin", "checkpoint-4/model.safetensors", "problems.tsv"):
        (folder / name).write_text(f"a file of {tmp_path}")
    return folder


def logits(model) -> torch.Tensor:
    return model.eval()(torch.from_numpy(music(1.0))[None]).logits


def test_push_and_read_back(server, folder):
    address = push_folder(folder, HubTarget("alice/chord"))
    assert address.startswith(f"{server.url}/alice/chord/commit/")
    names = set(server.files("alice/chord"))
    code = {"configuration", "convolution", "classification", "feature_extraction", "features", "masking", "modeling"}
    assert names == {f"{name}_musicfm.py" for name in code | {"quantization"}} | {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.json",
    }  # fmt: skip
    assert server.repositories["models", "alice/chord"].private
    model = AutoModelForAudioFrameClassification.from_pretrained("alice/chord")
    expected = logits(AutoModelForAudioFrameClassification.from_pretrained(folder))
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    assert AutoModel.from_pretrained("alice/chord", local_files_only=True).config.hidden_size == 32


def test_what_did_not_change_is_not_sent_again(server, folder):
    first = push_folder(folder, HubTarget("alice/chord"))
    server.requests.clear()
    assert push_folder(folder, HubTarget("alice/chord")).rpartition("/")[2] == first.rpartition("/")[2]
    assert server.calls("PUT") == []
    assert server.calls("POST", "/commit/") == []
    model = MusicFMForAudioFrameClassification.from_pretrained(folder)
    model.classifier.output.bias.data += 1
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").unlink()
    push_folder(folder, HubTarget("alice/chord"))
    assert len(server.calls("PUT")) == 1
    files = server.files("alice/chord")
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert "preprocessor_config.json" not in files


def test_branches_and_visibility(server, folder):
    push_folder(folder, HubTarget("alice/chord", revision="try", private=False))
    assert "config.json" in server.files("alice/chord", "try")
    assert server.files("alice/chord") == {}
    assert not server.repositories["models", "alice/chord"].private
    pinned = server.repositories["models", "alice/chord"].at("try")
    (folder / "stats.json").write_text("{}")
    push_folder(folder, HubTarget("chord", revision="try"))  # of the user whose token it is
    assert "stats.json" in server.files("alice/chord", "try")
    assert "stats.json" not in pinned.tree
    model = AutoModelForAudioFrameClassification.from_pretrained("alice/chord", revision="try")
    assert model.config.task == "chord"


def test_wrong_token(server, folder, monkeypatch):
    before = sorted(folder.rglob("*"))
    for token in ("hf_nobody", "hf_bob"):
        with pytest.raises(HfHubHTTPError, match=r"401|403"):
            push_folder(folder, HubTarget("alice/chord", token=token))
    assert sorted(folder.rglob("*")) == before
    assert server.repositories == {}
    push_folder(folder, HubTarget("alice/chord"))
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("alice/chord")


def test_a_storm_passes(server, folder):
    server.fail(method="PUT", times=2, status=503)
    server.drop(method="PUT", times=1, after_bytes=1000)
    server.fail(path="/commit/", times=1, status=503)
    server.drop(path="/commit/", times=1)  # it is made, but nobody hears of it
    push_folder(folder, HubTarget("alice/chord"))
    assert server.files("alice/chord")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_storm_that_stays_leaves_nothing_half(server, folder):
    push_folder(folder, HubTarget("alice/chord"))
    whole = server.files("alice/chord")
    model = MusicFMForAudioFrameClassification.from_pretrained(folder)
    model.classifier.output.bias.data += 1
    model.save_pretrained(folder)
    for fault in ({"method": "PUT", "status": 503}, {"path": "/commit/", "status": 500}):
        server.fail(**fault, times=None)
        with pytest.raises(OSError, match=r"503|500"):
            push_folder(folder, HubTarget("alice/chord"))
        server.heal()
        assert server.files("alice/chord") == whole
    sent = len(server.calls("PUT"))
    push_folder(folder, HubTarget("alice/chord"))  # what arrived in the attempt before is not sent again
    assert len(server.calls("PUT")) == sent
    assert server.files("alice/chord")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_big_model_goes_on_where_it_broke_off(server, folder):
    model = MusicFMForAudioFrameClassification.from_pretrained(folder)
    expected = logits(model)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) >= 4
    server.drop(method="PUT", times=None, after_bytes=90_000)  # of the big ones: smaller ones arrive
    with pytest.raises(OSError, match="model-0000"):
        push_folder(folder, HubTarget("alice/chord"))
    assert server.files("alice/chord") == {}
    arrived = len(server.repositories["models", "alice/chord"].objects)
    server.heal()
    server.requests.clear()
    push_folder(folder, HubTarget("alice/chord"))
    assert len(server.calls("PUT")) == len(shards) - arrived
    torch.testing.assert_close(
        logits(AutoModelForAudioFrameClassification.from_pretrained("alice/chord")), expected, rtol=0, atol=0
    )


def test_a_download_that_breaks_off(server, folder):
    push_folder(folder, HubTarget("alice/chord"))
    server.drop(method="GET", path="/storage/", times=None, after_bytes=5000)
    with pytest.raises((OSError, SafetensorError)):
        AutoModelForAudioFrameClassification.from_pretrained("alice/chord")
    server.heal()
    model = AutoModelForAudioFrameClassification.from_pretrained("alice/chord")
    expected = logits(AutoModelForAudioFrameClassification.from_pretrained(folder))
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)


def test_nothing_private_is_pushed(server, folder):
    results = RESULTS | {"settings": {"data": f"{folder.parent}/music"}}
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=re.escape(f"results.json has {folder.parent}, which is nobody else's")):
        push_folder(folder, HubTarget("alice/chord"))
    (folder / "results.json").write_text(json.dumps(RESULTS | {"note": "hf_alice"}))
    with pytest.raises(ValueError, match=r"results\.json has your token"):
        push_folder(folder, HubTarget("alice/chord"))
    assert server.files("alice/chord") == {}


def test_what_is_no_model(server, tmp_path, folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no weights \(\*.safetensors\)"):
        push_folder(folder, HubTarget("alice/chord"))
    (folder / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has none of conversion\.json"):
        push_folder(folder, HubTarget("alice/chord"))


def test_adapter_of_a_folder(server, folder):
    adapter = {"base_model_name_or_path": str(folder.parent / "base"), "revision": None, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "results.json").write_text(json.dumps(RESULTS | {"method": "lora"}))
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is the folder base, which nobody else has"):
        push_folder(folder, HubTarget("alice/lora"))
    api = HfApi()
    for name, layers in (("alice/deep", 5), ("alice/base", 3)):
        api.create_repo(name)
        content = json.dumps(TINY | {"num_hidden_layers": layers, "model_type": "musicfm"})
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo="config.json", repo_id=name)
    with pytest.raises(ValueError, match=r"with alice/deep: it was trained for num_hidden_layers 3 \(it has 5\)\."):
        push_folder(folder, HubTarget("alice/lora"), base_model="alice/deep")
    push_folder(folder, HubTarget("alice/lora"), base_model="alice/base")
    pushed = json.loads(server.files("alice/lora")["adapter_config.json"])
    assert (pushed["base_model_name_or_path"], pushed["revision"]) == ("alice/base", api.model_info("alice/base").sha)
    card = ModelCard(server.files("alice/lora")["README.md"].decode())
    assert (card.data.base_model, card.data.library_name) == ("alice/base", "peft")
    assert f"`alice/base`, revision `{pushed['revision']}`" in card.text


def test_adapter_on_a_base_of_another_shape(folder, tmp_path):
    other = MusicFMConfig(**TINY | {"hidden_size": 64, "num_hidden_layers": 2})
    other.save_pretrained(tmp_path / "other")
    adapter = {"base_model_name_or_path": str(tmp_path / "other"), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    needed = r"hidden_size 32 \(it has 64\), num_hidden_layers 3 \(it has 2\)"
    with pytest.raises(ValueError, match=rf"cannot be used with .*other: it was trained for {needed}\."):
        AutoModelForAudioFrameClassification.from_pretrained(folder)


# Cards


def test_card_has_the_numbers_of_the_results(server, folder):
    write_card(folder, "alice/chord")
    card = ModelCard.load(folder / "README.md")
    card.validate()
    assert "| pop909 | test | major and minor chords (mir_eval majmin) | 0.812 | 0.752 to 0.867 | 50 |" in card.text
    assert "nan" not in card.text.lower().replace("unannounced", "")
    assert "roots of chords" not in card.text
    assert "- [pop909](https://example.org/pop909): MIT" in card.text
    assert "@misc{pop}" in card.text
    assert "| wall time | 1.5 minutes |" in card.text
    assert "| seed | 42 |" in card.text
    assert "123,456, of which 12,345 were trained" in card.text
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_name, result.dataset_split) == (0.8125, "pop909", "test")
    assert (card.data.license, card.data.license_name) == ("other", "not-stated")
    assert card.data.pipeline_tag == "audio-classification"


def test_licences(folder, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert licence_of(base) == "cc-by-nc-4.0"
    assert licence_of(folder) is None  # it has no card yet
    (folder / "results.json").write_text(json.dumps(RESULTS | {"base_licence": licence_of(base)}))
    (base / "README.md").write_text("---\nlicense: [a\n---\n")
    assert licence_of(base) is None
    write_card(folder)
    assert ModelCard.load(folder / "README.md").data.license == "cc-by-nc-4.0"
    write_card(folder, licence="mit")
    write_card(folder)  # what is there is kept
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert "**Weights:** mit." in card.text


def test_evaluations_and_data_on_the_hub(server, folder):
    found = {"task": "chord", "scores": {"majmin": {"mean": 0.5, "songs": 8, "interval": [0.4, 0.6]}}}
    music = {"name": "alice/beatles", "hub_id": "alice/beatles"}
    (folder / "evaluations").mkdir()
    evaluation = {
        "music": music,
        "split": "validation",
        "models": {folder.name: found, "beat": found | {"task": "beat"}},
    }
    (folder / "evaluations/beatles.json").write_text(json.dumps(evaluation))
    push_folder(folder, HubTarget("alice/chord"))
    files = server.files("alice/chord")
    card = ModelCard(files["README.md"].decode())
    assert [result.metric_value for result in card.data.eval_results] == [0.8125, 0.5]
    assert "| alice/beatles | validation | major and minor chords (mir_eval majmin) | 0.500 |" in card.text
    assert files[".eval_results/musicfm_hf.yaml"].decode() == (
        "- dataset:\n    id: alice/beatles\n    task_id: chord\n  value: 0.5\n"
        "  notes: major and minor chords (mir_eval majmin)\n"
    )


def test_scores_of_other_models_are_not_on_the_card(folder):
    """Of an evaluation that compared several models the one of this name counts."""
    found = {"task": "chord", "scores": {"majmin": {"mean": 0.25, "songs": 8, "interval": [0.2, 0.3]}}}
    better = {"task": "chord", "scores": {"majmin": {"mean": 0.75, "songs": 8, "interval": [0.7, 0.8]}}}
    (folder / "evaluations").mkdir()
    evaluation = {"music": {"name": "beatles"}, "split": "test"}
    path = folder / "evaluations/beatles.json"
    path.write_text(json.dumps(evaluation | {"models": {f"runs/{folder.name}": found, "runs/other": better}}))
    rows = [row for row in write_card(folder).read_text().splitlines() if row.startswith("| beatles")]
    assert [row.split(" | ")[3] for row in rows] == ["0.250"]
    path.write_text(json.dumps(evaluation | {"models": {"runs/other": better}}))
    with pytest.raises(ValueError, match=rf"beatles.json has scores of runs/other, not of {folder.name}: remove it"):
        write_card(folder)
    evaluation |= {"split": "train", "music": json.loads((folder / "results.json").read_text())["data"]}
    path.write_text(json.dumps(evaluation | {"models": {folder.name: better}}))
    with pytest.raises(ValueError, match=r"has scores of songs that .* was trained on: remove it"):
        write_card(folder)


def test_a_full_disk_leaves_the_card_that_was_there(folder, monkeypatch):
    write_card(folder, licence="mit")
    before = (folder / "README.md").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_card(folder, licence="cc-by-4.0")
    assert (folder / "README.md").read_bytes() == before


# Spaces

SPACE = ROOT / "hub_cards/space"


@pytest.fixture
def models(server, tmp_path) -> list[str]:
    """Models for beats and tags, pushed."""
    return [upload(head(task), f"alice/{task}", tmp_path) for task in ("beat", "tagging")]


def upload(model, name: str, tmp_path) -> str:
    model.save_pretrained(tmp_path / name)
    HfApi().create_repo(name)
    HfApi().upload_folder(repo_id=name, folder_path=tmp_path / name)
    return name


def test_a_space_has_all_it_needs(server, models, tmp_path):
    push_space(SPACE, HubTarget("alice/annotate"), models)
    space = server.repositories["spaces", "alice/annotate"]
    assert space.private
    assert space.sdk == "gradio"
    folder = Path(snapshot_download("alice/annotate", repo_type="space"))
    card = (folder / "README.md").read_text()
    assert "models:\n- alice/beat\n- alice/tagging\n" in card
    assert card.partition("\n# ")[2] == (SPACE / "README.md").read_text().partition("\n# ")[2]
    needed = (folder / "requirements.txt").read_text().splitlines()
    assert {"peft>=0.18", "transformers<6,>=5.19", "jinja2>=3.1"} <= set(needed)
    assert not [line for line in needed if line.startswith(("ruff", "librosa", "gradio", "musicfm"))]
    # The package that is there is the one that runs, and it reads the models that the card names.
    soundfile.write(tmp_path / "song.wav", music(3.0), 24000)
    code = "import app, musicfm_hf, sys; print(musicfm_hf.__file__); print(app.annotate_file(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path / "song.wav")]
    environment = server.environment("hf_alice", tmp_path / "elsewhere") | {"NO_PROXY": "127.0.0.1"}
    environment |= {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(folder / "musicfm_hf/__init__.py"))
    assert "</meter>loud<" in done.stdout


def test_a_space_says_nothing_private(server, models, tmp_path):
    folder = tmp_path / "space"
    shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".env").write_text("HF_TOKEN=hf_alice")
    push_space(folder, HubTarget("alice/annotate"), models)
    assert ".env" not in server.files("alice/annotate", kind="spaces")
    with (folder / "app.py").open("a") as file:
        file.write("# hf_alice")
    with pytest.raises(ValueError, match="your token"):
        push_space(folder, HubTarget("alice/annotate"), models)


def test_a_space_that_is_pushed_again(server, models):
    first = push_space(SPACE, HubTarget("alice/annotate"), models)
    assert push_space(SPACE, HubTarget("alice/annotate"), models).rpartition("/")[2] == first.rpartition("/")[2]
    api = HfApi()
    for name in ("musicfm_hf/old.py", "notes.txt"):
        api.upload_file(path_or_fileobj=b"", path_in_repo=name, repo_id="alice/annotate", repo_type="space")
    push_space(SPACE, HubTarget("alice/annotate"), models[:1])
    files = server.files("alice/annotate", kind="spaces")
    assert "notes.txt" in files  # somebody's own
    assert "musicfm_hf/old.py" not in files
    assert b"models:\n- alice/beat\n---" in files["README.md"]


def test_a_space_has_one_model_for_each_task(server, models, tiny_model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="alice/beat and alice/beat are both for beat"):
        push_space(SPACE, HubTarget("alice/annotate"), ["alice/beat", "alice/beat"])
    upload(tiny_model, "alice/encoder", tmp_path)
    with pytest.raises(ValueError, match="alice/encoder has no task"):
        push_space(SPACE, HubTarget("alice/annotate"), ["alice/encoder"])
    with pytest.raises(OSError, match="alice/nothing"):
        push_space(SPACE, HubTarget("alice/annotate"), ["alice/nothing"])
    monkeypatch.chdir(tmp_path)
    head("beat").save_pretrained("runs/beat")
    with pytest.raises(OSError, match="runs/beat"):  # a folder is of no use there
        push_space(SPACE, HubTarget("alice/annotate"), ["runs/beat"])
    with pytest.raises(ValueError, match="Repo id"):
        push_space(SPACE, HubTarget("alice/annotate"), [str(tmp_path / "runs/beat")])
    assert ("spaces", "alice/annotate") not in server.repositories
