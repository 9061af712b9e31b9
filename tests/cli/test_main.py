"""The `musicfm` command itself: its help, wrong commands, and what a process loads."""

import subprocess
import sys

import pytest
from helpers.modules import heavy_modules, modules_after

import musicfm_hf
from musicfm_hf.cli.flags import rename_flags
from musicfm_hf.cli.main import COMMANDS, main


def test_help_lists_every_command(capsys):
    main(["--help"])
    page = capsys.readouterr().out
    assert all(f"  {command} " in page for command in COMMANDS)
    main([])
    assert capsys.readouterr().out == page


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: musicfm {command}" in capsys.readouterr().out


def test_an_interrupted_command_prints_no_traceback(capsys, monkeypatch):
    def interrupt(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("musicfm_hf.cli.embed.main", interrupt)
    with pytest.raises(SystemExit) as stopped:
        main(["embed", "music"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "musicfm: interrupted\n"


def test_a_wrong_command_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fintune"])
    assert stopped.value.code == 2
    assert "no command 'fintune'. Did you mean `musicfm finetune`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["annotate", "song.mp3"],
        ["embed", "song.mp3", "--model", "model"],
        ["index", "songs", "--model", "model"],
        ["search", "index", "song.mp3"],
        ["evaluate", "model", "--data", "data"],
    ],
)
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_wrong_device_is_named(capsys, words, device):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--device", device])
    assert stopped.value.code == 2
    assert f"'{device}' is not a device of this machine, which has cpu" in capsys.readouterr().err


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"musicfm_hf {musicfm_hf.__version__}\n"


def test_help_waits_for_no_library():
    words = [sys.executable, "-X", "importtime", "-m", "musicfm_hf", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "musicfm_hf.cli.main" in imported
    assert not imported & {"torch", "transformers", "numpy", "huggingface_hub"}
    assert len(imported) < 150


def test_importing_the_package_loads_no_training_and_no_plotting():
    modules = modules_after("import musicfm_hf")
    assert not modules & heavy_modules()
    ours = {name for name in modules if name.startswith("musicfm_hf.")}
    others = {name for name in ours if not name.startswith("musicfm_hf.model")}
    assert others == {"musicfm_hf.inference", "musicfm_hf.inference.pipelines"}
    assert len(ours) <= 25


def test_old_spellings_warn():
    with pytest.warns(FutureWarning, match="--batch-size is now --batch_size"):
        assert rename_flags(["--batch-size", "4", "-5"]) == ["--batch_size", "4", "-5"]
    with pytest.warns(FutureWarning, match="--output is now --output_dir"):
        assert rename_flags(["--output=a-b"], {"--output": "--output_dir"}) == ["--output_dir=a-b"]
    assert rename_flags(["--set", "a=1", "--", "--some-file"]) == ["--set", "a=1", "--", "--some-file"]
