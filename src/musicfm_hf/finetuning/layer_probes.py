"""Probes of every hidden state of encoders, and of a learned sum of all of them."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig

from ..evaluation.layer_map import layer_table, plot_layers, summarize_layers
from ..model.modeling_musicfm import MusicFMClassifier
from ..training.files import write_json, write_text
from .arguments import FinetuningArguments, TaskArguments
from .run import cache_all_layers, finetune, read_split
from .run_fingerprint import load_matching_results
from .starting_head import Splits

LayerSummary = dict[str, dict[str, dict[str, Any]]]


class LayerProbe(NamedTuple):
    """
    The probe of one hidden state, or of the learned sum.

    Attributes:
        path: File for the results of the probe.
        task: Settings, including the layer that the probe reads.
        arguments: Training settings, with a separate output folder.
    """

    path: Path
    task: TaskArguments
    arguments: FinetuningArguments


def probe_layers(
    models: Sequence[str],
    settings: Mapping[str, tuple[TaskArguments, FinetuningArguments]],
    output_dir: str | Path,
    report: Callable[[LayerProbe, dict[str, Any]], None] | None = None,
) -> LayerSummary:
    """
    Train a probe of every hidden state of encoders and of a learned sum of all of them, for several tasks. Hidden
    states are computed once and cached in float16: a minute of music takes 3 MB · layers · hidden size / 1024. A probe
    whose results exist is not trained again, so an interrupted call can be repeated.

    Args:
        models: Folders or repositories of encoders.
        settings: Task → settings of its probes, in which `model`, `layer`, `weighted_layer_sum` and `output_dir` are
            replaced.
        output_dir: Folder for `layers.png`, `layers.md`, `layers.json`, and the results of each probe in
            `<model>/<task>`.
        report: Function that is called with each newly trained probe and its results.

    Returns:
        Model → task → scores, as returned by [`summarize_layers`].

    Raises:
        ValueError: Two models have the same name, the settings are not for probes in one process, or existing results
            were made with other settings.
    """
    output_dir = Path(output_dir)
    names = [Path(model).resolve().name for model in models]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"Two models are called {repeated[0]}: their results would be in one folder.")
    for of_probes in settings.values():
        _check_probe(*of_probes)
    probes = {
        (name, task): list(_plan_probes(model, *settings[task], output_dir / name / task))
        for name, model in zip(names, models, strict=True)
        for task in settings
    }
    splits = {
        task: {split: read_split(own[0], split) for split in ("train", "validation", "test")}
        for task, own in settings.items()
    }
    summary: LayerSummary = {}
    for (name, task), planned in probes.items():
        summary.setdefault(name, {})[task] = _run_probes(planned, splits[task], report)
        _write_summary(summary, output_dir)
    return summary


def _check_probe(task: TaskArguments, arguments: FinetuningArguments) -> None:
    if task.method != "probe" or task.log_mel:
        raise ValueError("Layers are compared with probes of an encoder: do not set `method` or `log_mel`.")
    if arguments.world_size > 1:
        raise ValueError("Layers are probed in one process: run `musicfm layers` without accelerate.")


def _plan_probes(
    model: str, task: TaskArguments, arguments: FinetuningArguments, folder: Path
) -> Iterable[LayerProbe]:
    """Yield the probes of each layer and, last, of the learned sum."""
    layers: dict[str, dict[str, Any]] = {
        f"layer_{layer:02d}": {"layer": layer, "weighted_layer_sum": False}
        for layer in range(AutoConfig.from_pretrained(model).num_hidden_layers + 1)
    }
    layers["weighted_sum"] = {"layer": None, "weighted_layer_sum": True}
    for name, layer in layers.items():
        training = copy(arguments)
        training.output_dir = str(folder / f".{name}")
        yield LayerProbe(folder / f"{name}.json", replace(task, model=model, **layer), training)


def _run_probes(
    probes: Sequence[LayerProbe], splits: Splits, report: Callable[[LayerProbe, dict[str, Any]], None] | None
) -> dict[str, Any]:
    """Train the probes that have no results yet, and summarize the results of all probes."""
    missing = [probe for probe in probes if load_matching_results(*probe, splits, "--output_dir") is None]
    if missing:
        cache_all_layers(*missing[0][1:], splits)
    for probe in missing:
        run = finetune(probe.task, probe.arguments, splits)
        results = dict(run.results)
        if probe.task.weighted_layer_sum and isinstance(run.trained, MusicFMClassifier):
            results["layer_weights"] = run.trained.layer_mix().tolist()
        write_json(probe.path, results)
        shutil.rmtree(probe.arguments.output_dir, ignore_errors=True)  # checkpoints
        if report is not None:
            report(probe, results)
    *layers, weighted = [json.loads(probe.path.read_text(encoding="utf-8")) for probe in probes]
    return summarize_layers(probes[0].task.spec.metric, layers, weighted)


def _write_summary(summary: LayerSummary, output_dir: Path) -> None:
    """Write the table, the numbers and the plot of the tasks that are done."""
    write_json(output_dir / "layers.json", summary)
    write_text(output_dir / "layers.md", layer_table(summary))
    plot_layers(summary, output_dir / "layers.png")
