"""Pushes of folders, asked of a server on this machine by the real client."""

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers.audio import music
from helpers.finished_run import change_results
from helpers.models import TINY
from helpers.modules import heavy_modules, modules_after
from helpers.paths import ROOT
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForAudioFrameClassification, TrainingArguments

from musicfm_hf import SMALL_MODEL, MusicFMConfig, MusicFMForAudioFrameClassification, MusicFMInt8Config
from musicfm_hf.cli.flags import add_hub_flags, share_result
from musicfm_hf.hub.cards import write_card
from musicfm_hf.hub.commits import HubTarget
from musicfm_hf.hub.files import check_nothing_private, published_files
from musicfm_hf.hub.push import hub_target, push, push_folder, push_result


def logits(model) -> torch.Tensor:
    return model.eval()(torch.from_numpy(music(1.0))[None]).logits


def test_push_and_read_back(server, folder):
    for name in ("._model.safetensors", "._modeling_musicfm.py", ".model.safetensors.0f.part"):
        (folder / name).write_bytes(b"note of macOS")
    address = push_folder(folder, HubTarget("alice/chord"))
    assert address.startswith(f"{server.url}/alice/chord/commit/")
    names = set(server.files("alice/chord"))
    code = {path.name for path in (ROOT / "src/musicfm_hf/model").glob("*_musicfm.py")}
    code = {name for name in code if "_text_audio_" not in name}  # of another model
    assert names == code | {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.json",
    }  # fmt: skip
    assert server.repositories["models", "alice/chord"].private
    model = AutoModelForAudioFrameClassification.from_pretrained("alice/chord")
    expected = logits(AutoModelForAudioFrameClassification.from_pretrained(folder))
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    assert AutoModel.from_pretrained("alice/chord", local_files_only=True).config.hidden_size == 32


def test_an_int8_model_is_pushed(server, folder, tmp_path):
    int8 = {"quantization_config": MusicFMInt8Config()}
    model = AutoModelForAudioFrameClassification.from_pretrained(folder, **int8)
    shutil.copytree(folder, tmp_path / "int8")
    model.save_pretrained(tmp_path / "int8")
    push_folder(tmp_path / "int8", HubTarget("alice/int8"))
    loaded = AutoModelForAudioFrameClassification.from_pretrained("alice/int8")
    assert loaded.musicfm.layers[0].ffn1.output_dense.weight.dtype is torch.int8
    with torch.no_grad():
        assert torch.equal(logits(loaded), logits(model))
    line = "**Precision:** the encoder is quantized to int8, and the model runs on CPUs only."
    assert line in ModelCard.load("alice/int8").text
    assert line not in write_card(folder).read_text()


def test_unchanged_files_are_not_sent_again(server, folder):
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
    push_folder(folder, HubTarget("chord", revision="try"))  # a repository of the owner of the token
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


def test_transient_faults_are_retried(server, folder):
    server.fail(method="PUT", times=2, status=503)
    server.drop(method="PUT", times=1, after_bytes=1000)
    server.fail(path="/commit/", times=1, status=503)
    server.drop(path="/commit/", times=1)  # the commit is made, but the answer is lost
    push_folder(folder, HubTarget("alice/chord"))
    assert server.files("alice/chord")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_lasting_faults_leave_the_repository_as_it_was(server, folder):
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
    push_folder(folder, HubTarget("alice/chord"))  # files that arrived before are not sent again
    assert len(server.calls("PUT")) == sent
    assert server.files("alice/chord")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_an_interrupted_push_of_a_large_model_continues(server, folder):
    model = MusicFMForAudioFrameClassification.from_pretrained(folder)
    expected = logits(model)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) >= 4
    server.drop(method="PUT", times=None, after_bytes=90_000)  # small files arrive
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


def test_an_interrupted_download_is_repeated(server, folder):
    push_folder(folder, HubTarget("alice/chord"))
    server.drop(method="GET", path="/storage/", times=None, after_bytes=5000)
    with pytest.raises((OSError, SafetensorError)):
        AutoModelForAudioFrameClassification.from_pretrained("alice/chord")
    server.heal()
    model = AutoModelForAudioFrameClassification.from_pretrained("alice/chord")
    expected = logits(AutoModelForAudioFrameClassification.from_pretrained(folder))
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)


def test_nothing_private_is_pushed(server, folder):
    change_results(folder, settings={"data": f"{folder.parent}/music"})
    with pytest.raises(ValueError, match=re.escape(f"results.json contains {folder.parent}, which is private")):
        push_folder(folder, HubTarget("alice/chord"))
    change_results(folder, settings={}, note="hf_alice")
    with pytest.raises(ValueError, match=r"results\.json contains your token"):
        push_folder(folder, HubTarget("alice/chord"))
    assert server.files("alice/chord") == {}


def test_paths_within_other_paths_are_not_private(folder, monkeypatch):
    """A short home folder is a part of many relative paths; letters beyond ASCII are escaped in JSON."""
    text = folder / "text.json"

    def is_private(content: str) -> bool:
        text.write_text(content)
        try:
            check_nothing_private(folder, [text])
        except ValueError:
            return True
        return False

    monkeypatch.setattr(Path, "home", lambda: Path("/data"))
    assert not is_private('{"data": "small/data/sheets", "other": "../data/x", "more": "/data2"}')
    assert all(map(is_private, ['{"a": "/data/x"}', '{"a": "file:///data"}', "['/data/x']"]))
    monkeypatch.setattr(Path, "home", lambda: Path("/home/bjørn"))
    assert all(map(is_private, ['{"a": "/home/bjørn/x"}', json.dumps({"a": "/home/bjørn/x"})]))


def test_files_of_others_are_kept(server, folder):
    """The first push into a repository adds files; further ones delete what an earlier one published."""
    api = HfApi()
    api.create_repo("alice/mine")
    theirs = {"README.md": b"My model", "tokenizer.json": b"{}", "beat/model.safetensors": b"1", "notes.txt": b"n"}
    operations = [CommitOperationAdd(name, content) for name, content in theirs.items()]
    api.create_commit("alice/mine", operations=operations, commit_message="mine")
    push_folder(folder, HubTarget("alice/mine"))
    assert set(theirs) <= set(server.files("alice/mine"))
    assert b"musicfm_hf" in server.files("alice/mine")["README.md"]
    (folder / "curves.png").write_bytes(b"picture")
    push_folder(folder, HubTarget("alice/chord"))
    (folder / "curves.png").unlink()
    push_folder(folder, HubTarget("alice/chord"))
    assert "curves.png" not in server.files("alice/chord")


def test_a_folder_without_weights_or_results(server, tmp_path, folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no weights \(\*.safetensors\)"):
        push_folder(folder, HubTarget("alice/chord"))
    (folder / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has none of conversion\.json"):
        push_folder(folder, HubTarget("alice/chord"))


def test_an_adapter_trained_on_a_local_folder(server, folder):
    adapter = {"base_model_name_or_path": str(folder.parent / "base"), "revision": None, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    change_results(folder, method="lora")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is the local folder base, which others cannot load"):
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


def test_an_adapter_on_a_base_of_another_shape(folder, tmp_path):
    other = MusicFMConfig(**TINY | {"hidden_size": 64, "num_hidden_layers": 2})
    other.save_pretrained(tmp_path / "other")
    adapter = {"base_model_name_or_path": str(tmp_path / "other"), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    needed = r"hidden_size 32 \(it has 64\), num_hidden_layers 3 \(it has 2\)"
    with pytest.raises(ValueError, match=rf"cannot be used with .*other: it was trained for {needed}\."):
        AutoModelForAudioFrameClassification.from_pretrained(folder)


def test_a_push_with_evaluations(server, folder, tmp_path):
    evaluation = {"music": {"name": "beatles"}, "split": "test"}
    evaluation["models"] = {folder.name: {"scores": {"majmin": {"mean": 0.25, "songs": 8}}}}
    (tmp_path / "beatles.json").write_text(json.dumps(evaluation))
    push(folder, "alice/chord", private=False, license="mit", evaluations=[tmp_path / "beatles.json"])
    assert not server.repositories["models", "alice/chord"].private
    card = ModelCard(server.files("alice/chord")["README.md"].decode())
    assert card.data.license == "mit"
    assert [result.metric_value for result in card.data.eval_results] == [0.8125, 0.25]
    assert "evaluations/beatles.json" in server.files("alice/chord")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        push(tmp_path / "nothing", "alice/nothing")
    assert ("models", "alice/nothing") not in server.repositories


def test_a_result_without_a_target_gets_a_card(folder):
    assert push_result(folder, None, license="mit") is None
    assert ModelCard.load(folder / "README.md").data.license == "mit"


def test_a_result_with_a_target_is_pushed(server, folder, capsys):
    address = push_result(folder, HubTarget("alice/chord"))
    assert address.startswith(f"{server.url}/alice/chord/commit/")
    assert capsys.readouterr().out == ""
    share_result(folder, HubTarget("alice/chord"))
    assert capsys.readouterr().out == f"{address}\n"


def test_a_failed_push_names_the_command_that_repeats_it(server, folder):
    later = rf"{folder} is complete, but it was not pushed: .*\n.*run `musicfm push {folder} alice/chord"
    with pytest.raises(OSError, match=rf"(?s){later} --revision try --public`"):
        push_result(folder, HubTarget("alice/chord", "try", private=False, token="hf_nobody"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"(?s){later}`"):
        push_result(folder, HubTarget("alice/chord"))
    with pytest.raises(SystemExit, match="musicfm push"):
        share_result(folder, HubTarget("alice/chord"))


def test_targets_of_arguments(server, tmp_path):
    """The flags of a command, and Transformers' own arguments, whose pushes are switched off."""
    parser = argparse.ArgumentParser()
    add_hub_flags(parser)
    assert hub_target(parser.parse_args([]), tmp_path / "mine") is None
    arguments = parser.parse_args(["--push_to_hub", "--hub_revision", "try"])
    assert hub_target(arguments, tmp_path / "mine") == HubTarget("alice/mine", "try")
    arguments = TrainingArguments(
        tmp_path / "other", push_to_hub=True, hub_model_id="alice/public", hub_private_repo=False, report_to="none"
    )
    assert hub_target(arguments, tmp_path / "other") == HubTarget("alice/public", private=False)
    assert not arguments.push_to_hub
    assert not server.repositories["models", "alice/public"].private
    assert server.repositories["models", "alice/mine"].private


def test_sharing_does_not_import_the_trainer():
    modules = modules_after("import musicfm_hf.hub.cards, musicfm_hf.hub.push, musicfm_hf.hub.space")
    assert not modules & heavy_modules()


def test_evaluations_of_one_name_are_refused(folder, tmp_path):
    paths = [tmp_path / name / "chord.json" for name in ("beatles", "rwc")]
    with pytest.raises(ValueError, match=r"Several evaluations are named chord\.json: give each file a name"):
        push(folder, "alice/chord", evaluations=paths)


def test_the_small_model_is_pushed_with_its_head_for_search():
    folder = Path(SMALL_MODEL)
    names = {path.relative_to(folder).as_posix() for path in published_files(folder)}
    assert {"model.safetensors", "beat/classifier.safetensors", "same_song/classifier.safetensors"} <= names
