"""Pushes of the Space that annotates songs, asked of a server on this machine by the real client."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from helpers.audio import music
from helpers.models import head
from huggingface_hub import HfApi, snapshot_download

from musicfm_hf import SMALL_MODEL
from musicfm_hf.hub.commits import HubTarget
from musicfm_hf.hub.space import application_folder, push_space

SPACE = application_folder()


@pytest.fixture
def models(server, tmp_path) -> list[str]:
    """Models for beats and tags, pushed."""
    return [upload(head(task), f"alice/{task}", tmp_path) for task in ("beat", "tagging")]


def upload(model, name: str, tmp_path) -> str:
    model.save_pretrained(tmp_path / name)
    HfApi().create_repo(name)
    HfApi().upload_folder(repo_id=name, folder_path=tmp_path / name)
    return name


def test_a_space_runs_with_its_own_package(server, models, tmp_path):
    push_space(HubTarget("alice/annotate"), models)
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
    files = server.files("alice/annotate", kind="spaces")
    assert "musicfm_hf/py.typed" in files
    assert not [name for name in files if name.startswith(("musicfm_hf/hub_cards", "musicfm_hf/musicfm-small"))]
    # The application runs with the package of the Space, and reads the models that its card names.
    soundfile.write(tmp_path / "song.wav", music(3.0), 24000)
    code = "import app, musicfm_hf, sys; print(musicfm_hf.__file__); print(app.annotate_file(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path / "song.wav")]
    environment = server.environment("hf_alice", tmp_path / "elsewhere") | {"NO_PROXY": "127.0.0.1"}
    environment |= {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(folder / "musicfm_hf/__init__.py"))
    assert "</meter>loud<" in done.stdout


def test_a_space_without_models_has_the_small_one(server):
    push_space(HubTarget("alice/annotate"), [])
    files = server.files("alice/annotate", kind="spaces")
    packed = {path.relative_to(SMALL_MODEL).as_posix() for path in Path(SMALL_MODEL).rglob("*") if path.is_file()}
    assert {f"musicfm_hf/musicfm-small/{name}" for name in packed} <= set(files)
    assert "\nmodels:" not in files["README.md"].decode()


def test_a_space_reveals_nothing_private(server, models, tmp_path):
    folder = tmp_path / "space"
    shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".env").write_text("HF_TOKEN=hf_alice")
    push_space(HubTarget("alice/annotate"), models, folder)
    assert ".env" not in server.files("alice/annotate", kind="spaces")
    with (folder / "app.py").open("a") as file:
        file.write("# hf_alice")
    with pytest.raises(ValueError, match="your token"):
        push_space(HubTarget("alice/annotate"), models, folder)


def test_a_space_is_pushed_again(server, models):
    first = push_space(HubTarget("alice/annotate"), models)
    assert push_space(HubTarget("alice/annotate"), models).rpartition("/")[2] == first.rpartition("/")[2]
    api = HfApi()
    for name in ("musicfm_hf/old.py", "notes.txt"):
        api.upload_file(path_or_fileobj=b"", path_in_repo=name, repo_id="alice/annotate", repo_type="space")
    push_space(HubTarget("alice/annotate"), models[:1])
    files = server.files("alice/annotate", kind="spaces")
    assert "notes.txt" in files  # not pushed by the package
    assert "musicfm_hf/old.py" not in files
    assert b"models:\n- alice/beat\n---" in files["README.md"]


def test_a_space_has_one_model_for_each_task(server, models, tiny_model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="alice/beat and alice/beat both have the task beat"):
        push_space(HubTarget("alice/annotate"), ["alice/beat", "alice/beat"])
    upload(tiny_model, "alice/encoder", tmp_path)
    with pytest.raises(ValueError, match="alice/encoder has no task"):
        push_space(HubTarget("alice/annotate"), ["alice/encoder"])
    with pytest.raises(OSError, match="alice/nothing"):
        push_space(HubTarget("alice/annotate"), ["alice/nothing"])
    monkeypatch.chdir(tmp_path)
    head("beat").save_pretrained("runs/beat")
    with pytest.raises(OSError, match="runs/beat"):  # the Space cannot read a local folder
        push_space(HubTarget("alice/annotate"), ["runs/beat"])
    with pytest.raises(ValueError, match="Repo id"):
        push_space(HubTarget("alice/annotate"), [str(tmp_path / "runs/beat")])
    assert ("spaces", "alice/annotate") not in server.repositories
