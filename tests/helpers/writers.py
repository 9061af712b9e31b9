"""Everything that the package writes, as functions that write version 1 or 2 of some content to a folder."""

import contextlib
import json
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from musicfm_hf import MusicFMFeatureExtractor
from musicfm_hf.data.labeled import LabeledSong, Source
from musicfm_hf.data.labeled_dataset import build, save
from musicfm_hf.data.synthetic import write_song
from musicfm_hf.evaluation.layer_map import plot_layers
from musicfm_hf.finetuning.heads import save_finetuned
from musicfm_hf.hub.cards import write_card
from musicfm_hf.inference.annotation_records import SongFiles
from musicfm_hf.inference.audio_tags import write_audio_tags
from musicfm_hf.inference.song_annotation import SongAnnotation
from musicfm_hf.tasks.annotations import Beats, Segment, write_beats, write_segments
from musicfm_hf.tasks.audacity import write_label_track
from musicfm_hf.tasks.events import write_events
from musicfm_hf.training.curves import CurveCallback
from musicfm_hf.training.files import list_files, write_json, write_safetensors, write_table, write_text
from musicfm_hf.training.trainer import ResumableTrainer

from .audio import encode, music
from .models import head

TEMPORARY = re.compile(r"\..*\.[0-9a-f]{32}\.part")


def _song(version: int) -> SongAnnotation:
    segments = [Segment(second, second + 1.0, "ABCDEFG"[version + second % 5]) for second in range(6)]
    beats = Beats(np.arange(12) / 2, np.arange(12) % (version + 2) + 1)
    return SongAnnotation(6.0, beats, segments, keys=segments, key="C:maj", tags={f"tag {version}": 0.9})


def _curves(folder: Path, version: int) -> None:
    state = TrainerState(log_history=[{"loss": float(version), "step": step} for step in range(1, version + 2)])
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to="none")
    CurveCallback({"loss": ["loss"]}).on_train_end(arguments, state, TrainerControl())


def _layers(folder: Path, version: int) -> None:
    entry = {"metric": "f1", "validation": [0.1, 0.2 * version], "best": 1, "test_of_best": {"mean": 0.3}}
    entry["weighted_sum"] = {"validation": 0.4, "test": {"mean": 0.5}, "layer_weights": [0.5, 0.5]}
    plot_layers({"model": {"beat": entry}}, folder / "layers.png")


def _trainer(folder: Path, version: int) -> None:
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to="none")
    ResumableTrainer(model=head("key", version), args=arguments).save_model()


def _dataset(folder: Path, version: int) -> None:
    songs = [LabeledSong(f"{version}_{number}", "a.wav", str(number), tags=["x" * 99]) for number in range(4)]
    splits = {"train": songs[: 2 + version], "test" if version == 1 else "validation": songs[2 + version :]}

    def write_files(place: Path) -> None:
        write_text(place / "train.txt", f"{version}\n" * 40)

    save(build(splits, Source("Songs.", "", "", "CC0")), folder, write_files)


def _card(folder: Path, version: int) -> None:
    model = head("key", version)
    if not (folder / "config.json").is_file():
        model.save_pretrained(folder)
        MusicFMFeatureExtractor.from_model_config(model.config).save_pretrained(folder)
        facts = {"family": "musicfm", "sha256": "0", "variant": None, "num_parameters": 1}
        facts |= {"source_name": "a.pt", "has_head": False, "licence": "mit"}
        (folder / "conversion.json").write_text(json.dumps(facts))
    write_card(folder, f"me/model-{version}")


def _annotation(folder: Path, version: int) -> None:
    annotation = _song(version)
    endings = ["json", "beats", "chords.lab", "keys.lab", "tags", "png"]
    made_from = {"place": "here", "state": str(version), "damage": [], "models": {}}
    files = SongFiles(folder, "a/song", endings)
    files.write(
        annotation, made_from, lambda path: write_text(path, f"{version}\n" * 99), ["json", "beats", "lab", "tags"]
    )


def _picture(path: Path, annotation: SongAnnotation) -> None:
    annotation.draw(path, music(6.0, 8000), 8000, title="song")


def _audio_tags(folder: Path, version: int) -> None:
    if not (folder / "a.flac").is_file():
        (folder / "a.flac").write_bytes(encode(music(0.2), 24000, "FLAC"))
    write_audio_tags(folder / "a.flac", 100.0 + version, None)


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "json": lambda folder, version: write_json(folder / "a.json", {"values": [version] * 50}),
    "table": lambda folder, version: write_table(folder / "problems.tsv", [("a", version)] * 50),
    "text": lambda folder, version: write_text(folder / "train.txt", f"{version}\n" * 50),
    "safetensors": lambda folder, version: write_safetensors(
        folder / "a.safetensors", {"x": torch.full((100,), float(version))}, {"source": "a.wav"}
    ),
    "beats": lambda folder, version: write_beats(folder / "a.beats", _song(version).beats),
    "segments": lambda folder, version: write_segments(folder / "a.lab", _song(version).chords),
    "tags": lambda folder, version: write_events(folder / "a.tags", dict.fromkeys(map(str, range(version, 60)), 1.0)),
    "picture": lambda folder, version: _picture(folder / "a.png", _song(version)),
    "label track": lambda folder, version: write_label_track(folder / "a.chords.txt", _song(version).chords),
    "clicks": lambda folder, version: _song(version).write_clicks(folder / "a.wav", None, 8000),
    "audio tags": _audio_tags,
    "formats": lambda folder, version: _song(version).save(folder, "a", ["jams", "midi", "sonic-visualiser"]),
    "save": lambda folder, version: _song(version).save(folder, "a"),
    "curves": _curves,
    "layers": _layers,
    "song": lambda folder, version: write_song(3, folder, seconds=float(version)),
    "model": lambda folder, version: save_finetuned(model := head("key", version), model, folder),
    "trainer": _trainer,
    "dataset": _dataset,
    "card": _card,
    "annotation": _annotation,
}


def contents(folder: Path) -> dict[str, bytes]:
    """All files that are not hidden."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in list_files(folder)}


def leftovers(folder: Path) -> list[str]:
    """Everything with the name of a file or folder that is being written, and every hidden file but the known ones."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    hidden = [path for path in paths if any(part.startswith(".") for part in path.parts)]
    hidden = [path.as_posix() for path in hidden]
    return [path for path in hidden if not path.endswith(".song.made_from.json") or TEMPORARY.search(path)]


@contextlib.contextmanager
def disk_with(size: int) -> Iterator[None]:
    """A disk that is full as soon as a file has this many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_and_die(name: str, folder: Path, size: int) -> None:
    """Write version 2; the kernel kills this process in the middle of the first file that is larger than `size`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with disk_with(size):
        WRITERS[name](folder, 2)


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@contextlib.contextmanager
def killed_before(number: int) -> Iterator[list[str]]:
    """A process that is killed before it renames or removes something for the `number`th time, if it does."""
    calls: list[str] = []
    functions = {name: getattr(os, name) for name in ("replace", "rename", "unlink", "rmdir")}

    def counting(name: str) -> Callable:
        def call(*arguments, **options):
            calls.append(name)
            if len(calls) >= number:
                raise KilledError
            return functions[name](*arguments, **options)

        return call

    for name in functions:
        setattr(os, name, counting(name))
    try:
        yield calls
    except KilledError:
        pass
    finally:
        for name, function in functions.items():
            setattr(os, name, function)
