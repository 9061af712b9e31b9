"""Code blocks of README.md and docs/, and the folder of small stand-ins in which they run."""

import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from transformers import AutoConfig

from musicfm_hf import (
    BuildSettings,
    MusicFMConfig,
    MusicFMFeatureExtractor,
    SongAnnotation,
    WindowSettings,
    index_files,
    load_embedder,
)
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.finetuning.arguments import RetrievalArguments, TaskArguments
from musicfm_hf.finetuning.heads import add_lora, build_model, head_config, retrieval_config, save_finetuned
from musicfm_hf.finetuning.joint_arguments import JointArguments
from musicfm_hf.finetuning.joint_files import save_joint
from musicfm_hf.finetuning.joint_model import JointModel
from musicfm_hf.tasks.annotations import Beats, Segment

from .audio import music
from .models import TINY, random_model
from .paths import FIXTURES, ROOT
from .text_audio import processor, text_audio_model, write_songs

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILE = re.compile(
    r"[Tt]his file, `(\w+\.(?:py|yaml))`(?:(?!```).)*```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
BLOCK = re.compile(r"(?P<mark><!-- not run: [^>]+ -->\n+)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A code block; `runs` is false where a comment before it says that it cannot run here."""

    document: str
    line: int
    language: str
    code: str
    runs: bool


def blocks(language: str) -> list[Block]:
    """All blocks in a language, in the order of the documents."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match["language"] == language:
                line = text.count("\n", 0, match.start("code")) + 1
                document = path.relative_to(ROOT).as_posix()
                found.append(Block(document, line, language, match["code"], match["mark"] is None))
    return found


def command_lines() -> list[tuple[str, list[str]]]:
    """The words of each line of all bash blocks, with where it stands; `a && b` is two lines."""
    lines = []
    for block in blocks("bash"):
        for offset, line in enumerate(block.code.replace("\\\n", "  ").splitlines()):
            for command in line.split(" && "):
                if words := shlex.split(command, comments=True):
                    lines.append((f"{block.document}:{block.line + offset}", words))
    return lines


def write_stand_ins(folder: Path, labeled: Path) -> None:
    """Write tiny models and short audio under the names that the documents use, and the files that they show."""
    for document in DOCUMENTS:
        for name, code in FILE.findall(document.read_text(encoding="utf-8")):
            (folder / name).write_text(code, encoding="utf-8")
    random_model(MusicFMConfig(**TINY | {"num_hidden_layers": 12})).save_pretrained(folder / "musicfm-msd")
    for name in ("music", "my_music", "my_annotations"):
        (folder / name).mkdir()
    own_songs = [f"song {number}" for number in range(12)]
    for number, name in enumerate(["song.mp3", "music/first.wav", "music/second.wav", "cover.mp3"]):
        soundfile.write(folder / name, music(3.0, seed=number), 24000)
    for number, name in enumerate(own_songs):
        soundfile.write(folder / f"my_music/{name}.wav", music(1.5, seed=number), 24000)
        (folder / f"my_annotations/{name}.chords.lab").write_text("0.0 1.0 C:maj\n1.0 1.5 A:min\n")
    (folder / "songs.txt").write_text("music/first.wav\nmusic/second.wav\n")
    shutil.copytree(labeled, folder / "data/pop909")
    write_index(folder)
    shutil.copy(FIXTURES / "musicfm/pretrained.pt", folder / "pretrained_msd.pt")
    shutil.copy(FIXTURES / "musicfm/stats.json", folder / "msd_stats.json")
    for task in ("beat", "chord", "structure", "key", "presence"):
        arguments = TaskArguments(task=task, model=str(folder / "musicfm-msd"), data="none")
        head = build_model(arguments, head_config(arguments, AutoConfig.from_pretrained(arguments.model), []))
        head.save_pretrained(folder / f"runs/{task}")
        if task == "chord":
            save_finetuned(head, add_lora(head, arguments), folder / "runs/chord-lora")
            joint = JointModel({task: head}, {task: 1.0}, {task: 1.0})
            save_joint(
                joint, JointArguments(tasks=[task], model=arguments.model, data=["none"]), folder / "runs/joint"
            )
    embedding = RetrievalArguments(model=str(folder / "musicfm-msd"), data="none")
    config = retrieval_config(embedding, AutoConfig.from_pretrained(embedding.model), [])
    build_model(embedding, config).save_pretrained(folder / "runs/versions")
    text_audio_model(clip_seconds=10.0).save_pretrained(folder / "muq-mulan")
    processor().save_pretrained(folder / "muq-mulan")
    write_songs(folder / "captions")
    for path in (folder / "musicfm-msd", *(folder / "runs").iterdir()):
        MusicFMFeatureExtractor().save_pretrained(path)
    shutil.copytree(folder / "runs/chord-lora", folder / "you/musicfm-chord")


def write_index(folder: Path) -> None:
    """Write annotations with the labels that the documents search for, and an index of `music/` with them."""
    duration = 3.0
    SongAnnotation(
        duration,
        beats=Beats(np.arange(0, 3, 0.6), np.array([1, 2, 3, 4, 1])),
        chords=[Segment(0, 1, "A:min"), Segment(1, duration, "F#:min7")],
        sections=[Segment(0, 1.5, "verse"), Segment(1.5, duration, "chorus")],
        keys=[Segment(0, duration, "A:min")],
    ).save(folder / "music_annotations", "first")
    embedder, revision = load_embedder(str(folder / "musicfm-msd"), windows=WindowSettings(layer=7))
    settings = BuildSettings(str(folder / "musicfm-msd"), revision, str(folder / "music"), "exact",
                             str(folder / "music_annotations"))  # fmt: skip
    sources = list_sources(folder / "music")
    index_files(embedder, sources, folder / "index", settings, num_workers=0, progress=False)
