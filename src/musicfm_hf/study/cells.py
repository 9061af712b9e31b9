"""Run the cells of a study, so that an interrupted study resumes and several processes share the cells."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from ..data.sources import ListedSource, open_source
from ..data.splits import SPLITS, split_by_name
from ..finetuning.arguments import FinetuningArguments, TaskArguments
from ..finetuning.layer_probes import probe_layers
from ..finetuning.run import read_split
from ..finetuning.run_fingerprint import songs_digest
from ..model.configuration_musicfm import MusicFMConfig
from ..pretraining.arguments import DataArguments, ModelArguments, PretrainingArguments, QuantizerArguments
from ..pretraining.model import SPECTROGRAM_FIELDS, measure_statistics
from ..pretraining.quantizers import train_quantizer
from ..pretraining.run import pretrain
from ..training.files import write_json, write_text
from ..training.recipes import merge_settings, parse_settings, read_recipe
from ..training.records import environment, require_same_settings
from .plan import Cell, Study

logger = logging.getLogger(__name__)

STATISTICS_SEED = 0

# Settings of a pretraining that `musicfm train-quantizer` also takes, with the same meaning.
_SHARED_WITH_QUANTIZERS = ("config", "statistics", "stats")


class Places(NamedTuple):
    """
    Music, labels and folders of a study.

    Attributes:
        train: Music to pretrain on, as for `musicfm pretrain`.
        validation: Music to validate on; by default a share of `train`.
        data: Labeled data set to probe on, with the splits train, validation and test.
        output_dir: Folder of the study.
        data_of_tasks: Task → labeled data set, for tasks that use another one than `data`.
    """

    train: Sequence[str]
    validation: Sequence[str]
    data: str
    output_dir: Path
    data_of_tasks: Mapping[str, str] = MappingProxyType({})

    def require(self) -> None:
        """Raise a `ValueError` if the music or the labeled data are not given."""
        for name, value in (("train", self.train), ("data", self.data or self.data_of_tasks)):
            if not value:
                raise ValueError(f"`--{name}` is required.")

    def folder(self, cell: Cell) -> Path:
        """Folder of the model and the probes of a cell."""
        return self.output_dir / "cells" / cell.name

    def results(self, cell: Cell) -> Path:
        """File with the results of a finished cell."""
        return self.output_dir / "results" / f"{cell.name}.json"


def pretraining_settings(cell: Cell, places: Places) -> dict[str, Any]:
    """Return all settings of `musicfm pretrain` for a cell."""
    settings = dict(cell.settings)
    settings["train"] = list(places.train) if cell.songs == 1 else [str(_songs_file(cell, places))]
    if places.validation:
        settings["validation"] = list(places.validation)
    if cell.quantizer is not None:
        settings["quantizer"] = str(places.output_dir / "quantizers" / cell.quantizer)
    if settings.get("statistics", "band") != "config":
        settings.setdefault("stats", str(_statistics_file(cell, places)))
    return {"report_to": "none"} | settings | {"output_dir": str(places.folder(cell))}


def _statistics_file(cell: Cell, places: Places) -> Path:
    """Return the file with the statistics of the music, for the spectrogram of a cell."""
    defaults = MusicFMConfig()
    values = {name: getattr(cell.config, name) for name in SPECTROGRAM_FIELDS}
    changes = [f"-{name}_{value}" for name, value in values.items() if value != getattr(defaults, name)]
    return places.output_dir / f"stats{''.join(changes)}.json"


def probe_settings(study: Study, cell: Cell, task: str, places: Places) -> dict[str, Any]:
    """Return all settings of `musicfm layers` for the probes of a cell."""
    settings = merge_settings(read_recipe(f"{task}/probe", *study.probe, kind="finetune"), study.probe_settings)
    folder = places.folder(cell)
    settings |= {
        "task": task,
        "model": str(folder),
        "data": places.data_of_tasks.get(task, places.data),
        "seed": cell.seed,
    }
    return {"report_to": "none"} | settings | {"output_dir": str(folder / "probes"), "cache": str(folder / "features")}


def parse_pretraining(cell: Cell, places: Places) -> tuple[ModelArguments, DataArguments, PretrainingArguments]:
    """Create the arguments of a cell's pretraining."""
    classes = (ModelArguments, DataArguments, PretrainingArguments)
    model, data, arguments = parse_settings(classes, pretraining_settings(cell, places))
    return model, data, arguments


def parse_probe(study: Study, cell: Cell, task: str, places: Places) -> tuple[TaskArguments, FinetuningArguments]:
    """Create the arguments of a cell's probes."""
    classes = (TaskArguments, FinetuningArguments)
    of_task, arguments = parse_settings(classes, probe_settings(study, cell, task, places))
    return of_task, arguments


def recorded_settings(study: Study, cell: Cell) -> dict[str, Any]:
    """Return everything in the file of a study that the results of a cell depend on: dotted name → value."""
    probes = {
        task: merge_settings(read_recipe(f"{task}/probe", *study.probe, kind="finetune"), study.probe_settings)
        for task in study.tasks
    }
    settings: dict[str, Any] = {"pretraining": cell.settings, "songs": cell.songs, "probe": probes}
    return dict(_flatten(settings | ({"quantizer": study.quantizer} if cell.quantizer else {})))


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield dotted names and values of nested mappings."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def load_results(study: Study, cell: Cell, places: Places) -> dict[str, Any] | None:
    """
    Load the results of a cell, or return `None` if it is not finished.

    Raises:
        ValueError: The cell was run, at least in part, with other settings; the message names them.
    """
    paths = (places.results(cell), places.folder(cell) / "cell.json")
    for path in paths:
        if path.is_file():
            contents = json.loads(path.read_text(encoding="utf-8"))
            recorded = contents["settings"]
            current = dict.fromkeys(recorded) | recorded_settings(study, cell)
            require_same_settings(path, recorded, current, "--output_dir")
            return contents if path == paths[0] else None
    return None


def check_study(study: Study, cells: Sequence[Cell], places: Places) -> None:
    """
    Check all settings and data before the first cell runs.

    Raises:
        ValueError: A setting is unknown or invalid, data are missing, or a cell was run with other settings or songs.
        FileNotFoundError: Music or labels do not exist.
    """
    places.require()
    sources = [open_source(source) for source in places.train]
    validation = [open_source(source).identity for source in places.validation]
    for cell in cells:
        load_results(study, cell, places)
        parse_pretraining(cell, places)
        if cell.songs < 1:
            _choose_songs(sources, cell.songs)
        if cell.quantizer is not None:
            _quantizer_arguments(study, cell, places)
    songs: dict[str, Any] = {}
    for task in study.tasks if cells else ():
        arguments, _ = parse_probe(study, cells[0], task, places)
        for split in SPLITS:
            songs[f"{task}.{split}"] = songs_digest(arguments, {split: read_split(arguments, split)})
    record = {"train": [source.identity for source in sources], "validation": validation} | songs
    path = places.output_dir / "inputs.json"
    if path.is_file():
        require_same_settings(places.output_dir, json.loads(path.read_text(encoding="utf-8")), record, "--output_dir")
    elif cells:
        write_json(path, record)


def run_study(
    study: Study,
    cells: Sequence[Cell],
    places: Places,
    report: Callable[[Cell, dict[str, Any]], None] | None = None,
) -> None:
    """
    Run the cells that are not finished. A cell that another process is running is left to it. An interrupted cell
    resumes from its last checkpoint, and repeats no probe that is finished.

    Args:
        study ([`Study`]): The study.
        cells: Cells to run, in order.
        places ([`Places`]): Music, labels and folders.
        report: Function that is called with each cell that was run and its results.

    Raises:
        ValueError: See [`check_study`].
        OSError: A file cannot be read or written.
    """
    check_study(study, cells, places)
    for cell in cells:
        if load_results(study, cell, places) is not None:
            logger.info("%s: finished before", cell.name)
            continue
        places.folder(cell).mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(places.output_dir / "cells" / f".{cell.name}.lock", timeout=0):
                results = load_results(study, cell, places) or _run_cell(study, cell, places)
        except Timeout:
            logger.info("%s: another process is running it", cell.name)
            continue
        if report is not None:
            report(cell, results)


def _run_cell(study: Study, cell: Cell, places: Places) -> dict[str, Any]:
    """Pretrain and probe, and write the results of a cell."""
    folder, settings = places.folder(cell), recorded_settings(study, cell)
    record = folder / "cell.json"
    if not record.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # a model without its record may have been made with other settings
    write_json(record, {"settings": settings})
    prepare_inputs(study, cell, places)
    finished = folder / "results.json"  # written last
    if not finished.is_file():
        logger.info("%s: pretraining", cell.name)
        pretrain(*parse_pretraining(cell, places))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    logger.info("%s: probes", cell.name)
    probes = {task: parse_probe(study, cell, task, places) for task in study.tasks}
    summary = probe_layers([str(folder)], probes, folder / "probes")[cell.name]
    shutil.rmtree(folder / "features", ignore_errors=True)
    pretraining = json.loads(finished.read_text(encoding="utf-8"))
    results = {
        "variant": cell.variant,
        "levels": dict(cell.levels),
        "seed": cell.seed,
        "settings": settings,
        "pretraining": {name: pretraining[name] for name in ("seconds", "parameters", "scores", "music")},
        "tasks": {task: _task_results(folder / "probes" / cell.name / task, entry) for task, entry in summary.items()},
        **environment(),
    }
    write_json(places.results(cell), results)
    return results


def _task_results(folder: Path, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of all layers, and the test scores of the layer that is best on validation songs."""
    best = layers["best"]
    if best is None:
        return {"layers": layers, "scores": {}, "songs": {}}
    probe = json.loads((folder / f"layer_{best:02d}.json").read_text(encoding="utf-8"))
    return {"layers": layers, "scores": probe["scores"]["test"], "songs": probe["scores_of_songs"]["test"]}


def prepare_inputs(study: Study, cell: Cell, places: Places) -> None:
    """Make what cells share, once for all processes: statistics of the music, lists of songs, and quantizers."""
    sources = [open_source(source) for source in places.train]
    statistics = _statistics_file(cell, places)
    with FileLock(places.output_dir / ".inputs.lock"):
        if pretraining_settings(cell, places).get("stats") == str(statistics):
            measure_statistics(statistics, sources, STATISTICS_SEED, cell.config)
        if cell.songs < 1:
            paths = _choose_songs(sources, cell.songs)
            write_text(_songs_file(cell, places), "".join(f"{path}\n" for path in paths), errors="surrogateescape")
    if cell.quantizer is not None:
        _prepare_quantizer(study, cell, places)


def _prepare_quantizer(study: Study, cell: Cell, places: Places) -> None:
    """Train the quantizer of a cell, or check the settings of the one that exists."""
    arguments = _quantizer_arguments(study, cell, places)
    folder, settings = Path(arguments.output_dir), dict(_flatten(study.quantizer))
    path = folder / "study.json"  # written last
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # other processes wait for it
        if not path.is_file():
            logger.info("training the quantizer %s", cell.quantizer)
            train_quantizer(arguments)
            write_json(path, {"settings": settings})
        recorded = json.loads(path.read_text(encoding="utf-8"))["settings"]
        require_same_settings(folder, recorded, dict.fromkeys(recorded) | settings, "--output_dir")


def _quantizer_arguments(study: Study, cell: Cell, places: Places) -> QuantizerArguments:
    """Return the settings of the quantizer of a cell, which is trained on all songs."""
    settings = pretraining_settings(cell, places)
    shared = {name: settings[name] for name in _SHARED_WITH_QUANTIZERS if name in settings}
    songs = {"train": list(places.train)} | ({"validation": list(places.validation)} if places.validation else {})
    values = shared | dict(study.quantizer) | songs | {"output_dir": settings["quantizer"]}
    (arguments,) = parse_settings((QuantizerArguments,), values)
    return arguments


def _songs_file(cell: Cell, places: Places) -> Path:
    return places.output_dir / f"songs_{cell.songs:g}.txt"


def _choose_songs(sources: Sequence[Any], share: float) -> list[Path]:
    """
    Choose a share of the songs by name.

    Raises:
        ValueError: The music is not a list of files, or the share has no song.
    """
    if not all(isinstance(source, ListedSource) for source in sources):
        raise ValueError("A share of the songs needs a folder or a list of files: streams cannot be divided.")
    songs = [song for source in sources for song in source.songs]
    if not all(isinstance(audio, str | Path) for _, audio in songs):
        raise ValueError("A share of the songs needs a folder or a list of files, not a data set.")
    _, chosen = split_by_name(songs, share)
    return [Path(audio).absolute() for _, audio in chosen]
