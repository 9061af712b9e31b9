"""Code in README.md and docs/: Python blocks run, the real parsers accept every command, and quick commands run."""

import argparse
import itertools
import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers.documents import DOCUMENTS, blocks, command_lines, write_stand_ins
from helpers.paths import ROOT
from transformers import HfArgumentParser

from musicfm_hf.cli.main import COMMANDS, main

# Python blocks behind a comment `<!-- not run: reason -->`. Those of sentence-transformers run in a test of their own.
# Those with exported models run in tests/export.
NOT_RUN: dict[str, int] = {"docs/export.md": 1, "docs/integrations.md": 3}
# Commands that take no more than seconds with the stand-ins.
QUICK = (
    "embed",
    "annotate",
    "index music/ --model musicfm-msd",
    "search index",
    "evaluate runs/chord --data",
    "convert pretrained",
    "prepare folder",
    "prepare stats",
)
# Commands of other programs; they are not run.
OTHERS = (
    "python3.11 -m venv",
    ". .venv",
    "pip install",
    "apt-get install",
    "hf auth login",
    "export",
    "node embed.mjs",
    "git clone --depth 1 https://github.com/",
)


class ParsedError(Exception):
    """Raised in place of continuing after arguments are parsed."""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, labeled):
    folder = tmp_path_factory.mktemp("documents")
    write_stand_ins(folder, labeled)
    return folder


@pytest.fixture
def only_parse(monkeypatch):
    """Stop commands as soon as a parser has accepted all of their words."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise ParsedError

    def parse_recipes_and_stop(self, args, **kwargs):
        assert not self.parse_known_args(args)[1]
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(HfArgumentParser, "parse_args_into_dataclasses", parse_recipes_and_stop)


def stop_at_known_arguments(monkeypatch):
    """Also stop scripts that pass the rest of their words on to a command."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, *args, **kwargs):
        parsed = parse(self, *args, **kwargs)
        if sys._getframe(1).f_code.co_name == "parse_args":  # which rejects the rest
            return parsed
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)


def musicfm_lines() -> list[tuple[str, list[str]]]:
    """Arguments of every `musicfm` command in blocks, and in the text where it has flags; with their place."""
    lines = []
    for place, words in command_lines():
        if words[0] == "musicfm":
            lines.append((place, words[1:]))
        elif words[:2] == ["accelerate", "launch"] and "musicfm_hf" in words:
            lines.append((place, words[words.index("musicfm_hf") + 1 :]))
    for document in DOCUMENTS:
        for code in re.findall(r"`(?:musicfm|accelerate launch -m musicfm_hf) ([^`]*)`", document.read_text("utf-8")):
            if " --" in code and "…" not in code and not code.startswith("COMMAND"):
                lines.append((document.name, code.split()))
    return lines


def identify(value) -> str | None:
    return value if isinstance(value, str) else " ".join(value[:2])


@pytest.mark.parametrize("page", sorted({block.document for block in blocks("python") if block.runs}))
def test_python_blocks_run(page, stand_ins, monkeypatch):
    """The blocks of a page run one after the other."""
    monkeypatch.chdir(stand_ins)
    scope = {"__name__": "__main__"}
    for block in blocks("python"):
        if block.document == page and block.runs:
            exec(compile(block.code, f"{page}:{block.line}", "exec"), scope)
    if page == "docs/embedding.md":
        assert scope["frames"].shape[1] == 32
        assert len(scope["times"]) == len(scope["frames"])
        assert scope["output"].last_hidden_state.shape[0] == 2
    elif page == "docs/fine-tuning.md":
        assert scope["logits"].shape == (1, 24, 25)
        torch.testing.assert_close(scope["merged"](**scope["inputs"]).logits, scope["logits"], rtol=0, atol=1e-5)
    elif page == "docs/annotation.md":
        names = sorted(path.name for path in Path("annotations").iterdir())
        assert names == ["song.beats.txt", "song.chords.txt", "song.json"]
        assert scope["annotation"].duration == pytest.approx(len(scope["audio"]) / 24000)


def test_blocks_that_do_not_run_are_counted():
    assert Counter(block.document for block in blocks("python") if not block.runs) == NOT_RUN


@pytest.mark.parametrize("language", ["bash", "python", "yaml", "bibtex"])
def test_every_block_has_a_known_language(language):
    """A block in another language would be tested by nothing."""
    assert blocks(language)
    text = "".join(path.read_text("utf-8") for path in DOCUMENTS)
    assert set(re.findall(r"^```(\w*)$", text, re.MULTILINE)) <= {"", "bash", "python", "yaml", "json", "bibtex", "js"}


def test_json_blocks_have_one_value_a_line():
    for block in blocks("json"):
        for line in block.code.splitlines():
            json.loads(line)


@pytest.mark.parametrize(("place", "words"), musicfm_lines(), ids=identify)
def test_commands_parse(place, words, stand_ins, monkeypatch, only_parse):
    monkeypatch.chdir(stand_ins)
    if words in (["--help"], ["--version"]):
        main(words)
        return
    with pytest.raises(SystemExit if "--help" in words else ParsedError) as stopped:
        main(words)
    assert not getattr(stopped.value, "code", 0), place


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pretrain smal --train music/ --output_dir runs/a", "smal"),
        ("finetune chord/probe --model musicfm-msd --dat data/pop909", "dat"),
        ("train-quantizer mucq --train music/ --output_dir quantizers/a", "mucq"),
        ("layers small/prob --models a --tasks chord --data b --output_dir c", "prob"),
        ("embed music/ --model musicfm-msd --output_dir embeddings --pools mean", "--pools"),
    ],
)
def test_a_wrong_command_is_found(words, message, only_parse, capsys):
    """The tests above notice recipes and flags that do not exist."""
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code
    assert message in f"{stopped.value.code}{capsys.readouterr().err}"


def test_every_command_is_shown():
    assert {words[0] for _, words in musicfm_lines()} - {"--help"} == set(COMMANDS)


def test_commands_that_are_named_exist():
    for document in DOCUMENTS:
        named = set(re.findall(r"`musicfm ([a-z][\w-]*)", document.read_text("utf-8")))
        assert named <= set(COMMANDS), document


def is_quick(words: list[str]) -> bool:
    """
    Commands with a task of one's own are left to tests/test_new_task.py, which trains a model for it, and those with
    exported models to tests/export.
    """
    return " ".join(words).startswith(QUICK) and not {"--task_file", "exported", "annotator"} & {*words}


@pytest.mark.parametrize(("place", "words"), [line for line in musicfm_lines() if is_quick(line[1])], ids=identify)
def test_quick_commands_run(place, words, stand_ins, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(stand_ins)
    outputs = [index for index, word in enumerate(words) if word.startswith("--output_")]
    words = [str(tmp_path / word) if index - 1 in outputs else word for index, word in enumerate(words)]
    words += ["--output_dir", str(tmp_path / "annotations")] if words[0] == "annotate" and not outputs else []
    try:
        main(words)
    except SystemExit as stopped:
        if stopped.code:
            pytest.fail(f"{place}: {stopped.code}\n{capfd.readouterr()}")
    assert not outputs or list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place", "words"), [line for line in command_lines() if line[1][0] != "musicfm"], ids=identify
)
def test_other_commands_exist(place, words, monkeypatch, only_parse):
    if "make" in words:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(words[words.index("make") + 1 :]) <= targets, place
    elif words[0] == "python":
        script = ROOT / words[1]
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.syspath_prepend(str(script.parent))
        stop_at_known_arguments(monkeypatch)
        with pytest.raises(ParsedError):
            runpy.run_path(str(script), run_name="__main__")
    elif words[0] == "accelerate":
        files = [word for before, word in itertools.pairwise(words) if before == "--config_file"]
        assert all((ROOT / file).is_file() for file in files), place
    else:
        assert " ".join(words).startswith(OTHERS), place
