"""Evaluation of saved models on whole songs of a data set."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .. import SMALL_MODEL
from ..data.catalog import describe_source
from ..data.examples import with_annotation
from ..data.labeled_dataset import load_songs
from ..data.pairs import limit_groups
from ..data.song_effects import SongEffects
from ..inference.annotators import load_annotators, load_config
from ..inference.embedding import WindowSettings
from ..inference.excerpts import embed_excerpts
from ..inference.logits import song_logits
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMForXVector
from ..tasks import get_task, task_of
from ..tasks.retrieval import METRIC, RETRIEVAL_TASKS, get_retrieval_task
from ..training.files import write_json
from ..training.records import environment, strip_absolute_paths
from .calibration import SongItems, fit_calibration, summarize_calibration, summarize_items
from .retrieval import score_vectors, search_difference, searches_with_intervals
from .scoring import paired_difference, rate_song, scores_with_intervals


def evaluate(
    model: str | os.PathLike,
    data: str | os.PathLike,
    split: str = "test",
    settings: WindowSettings | None = None,
    device: str = "cpu",
    limit: int | None = None,
    task: str | None = None,
    effects: float = 0.0,
    effects_seed: int = 0,
    calibrate: float | None = None,
) -> dict[str, Any]:
    """
    Score a saved model or adapter on whole songs.

    Args:
        model: A folder or a repository.
        data: A data set that `musicfm prepare` wrote, or a repository with the same columns.
        split (`str`): train, validation or test.
        settings ([`WindowSettings`], *optional*): Windows in which songs are encoded; by default as long as
            the model's context, in batches of 8.
        device (`str`): Device to compute on.
        limit (`int`, *optional*): Maximum number of songs to score.
        task (`str`, *optional*): Task to score, if `model` holds several models that were trained jointly.
        effects (`float`): Share of the songs that get audio effects; see [`SongEffects`].
        effects_seed (`int`): Seed of the effects.
        calibrate (`float`, *optional*): Calibrate the model on these songs and save the calibration in its
            `config.json`. Items that are right less often than this share are uncertain, 0.5 when models are
            fine-tuned; see [`fit_calibration`].

    Returns:
        `task`, `metric` (the name of the main score of the task), `window_seconds`, `scores` (averages with
        intervals, see [`scores_with_intervals`]), `calibration` (the calibration error of the probabilities of each
        result, see [`summarize_items`] and, with `calibrate`, [`summarize_calibration`]) and `songs` (id → scores).

    Raises:
        ValueError: the model has no task, no song is annotated for its task, there are several models and no `task`,
            effects are asked for a model that searches songs, or a model is to be calibrated that searches songs or
            is not a folder.
        OSError: the model or the data set does not exist.
    """
    subfolder = {} if task is None else {"subfolder": task}
    saved = load_config(str(model), **subfolder)
    config_file = Path(model, task or "", "config.json")
    is_search = getattr(saved, "head_class", None) == MusicFMForXVector.__name__
    _check_request(str(model), saved, is_search, effects, None if calibrate is None else config_file)
    if is_search:
        return evaluate_retrieval(model, data, split, settings, device, limit)
    (head,) = load_annotators([model], **subfolder).values()
    head.to(device)  # type: ignore[arg-type]  # Transformers wraps `to` without its signature
    config = head.config
    config.calibration = config.calibration if calibrate is None else None
    songs = with_annotation(load_songs(data, split), config.task, f"{data} ({split})")[:limit]
    settings = settings or WindowSettings(batch_size=8)
    change = SongEffects(effects, config.sampling_rate, effects_seed) if effects else None
    logits = tqdm(song_logits(head, songs, settings, change=change), total=len(songs), unit="song", desc=str(model))
    rated = {song.id: rate_song(config, song, values) for song, values in logits}
    scores = {song.id: rated[song.id].scores for song in songs}
    items = {song.id: rated[song.id].items for song in songs}
    if calibrate is None:
        calibration = summarize_items(items, config.calibration)
    else:
        calibration = _calibrate(config, items, calibrate, config_file)
    return {
        "task": config.task,
        "metric": task_of(config).metric,
        "window_seconds": settings.seconds(config),
        "scores": scores_with_intervals(config, scores),
        "calibration": calibration,
        "songs": scores,
    }


def _check_request(model: str, saved: Any, is_search: bool, effects: float, config_file: Path | None) -> None:
    """Raise a `ValueError` if a model cannot be scored as asked. `config_file` is to be written after calibration."""
    if getattr(saved, "task_folders", None):
        raise ValueError(
            f"{model} has models for {', '.join(saved.task_folders)}: pass `task`, or use `evaluate_models`."
        )
    if is_search and (effects or config_file is not None):
        raise ValueError(
            f"{model} searches songs: it is scored without effects, and has no probabilities to calibrate. Leave "
            "`effects` at 0, and `calibrate` out."
        )
    if config_file is not None and not config_file.is_file():
        raise ValueError(f"{model} is not a folder with a model: download it to calibrate it.")


def _calibrate(config: MusicFMConfig, items: SongItems, share: float, config_file: Path) -> dict[str, Any]:
    """Calibrate a model on items of songs, save that in its configuration, and return the summary of the items."""
    config.calibration = fit_calibration(config, items, share)
    saved = json.loads(config_file.read_text(encoding="utf-8"))
    write_json(config_file, saved | {"calibration": config.calibration}, indent=2)
    return summarize_calibration(items, config.calibration)


def evaluate_retrieval(
    model: str | os.PathLike,
    data: str | os.PathLike,
    split: str = "test",
    settings: WindowSettings | None = None,
    device: str = "cpu",
    limit: int | None = None,
) -> dict[str, Any]:
    """
    Score the search of a saved embedding model among the versions of songs. Arguments, results and errors are those of
    [`evaluate`]; `limit` counts songs, not versions, and `songs` has the mean scores of the queries of each song.
    """
    head = MusicFMForXVector.from_pretrained(model).eval()
    head.to(device)
    settings = settings or WindowSettings(batch_size=8)
    songs = limit_groups(load_songs(data, split), limit)
    search = get_retrieval_task(head.config.task).search(songs)
    vectors = embed_excerpts(head, [*search.queries, *search.gallery], settings)
    scores = score_vectors(search, vectors[: len(search.queries)], vectors[len(search.queries) :])
    return {
        "task": head.config.task,
        "metric": METRIC,
        "window_seconds": settings.seconds(head.config),
        "scores": searches_with_intervals(scores),
        "songs": scores,
    }


def evaluate_models(
    models: Sequence[str | os.PathLike],
    data: str | os.PathLike,
    split: str = "test",
    settings: WindowSettings | None = None,
    device: str = "cpu",
    limit: int | None = None,
    effects: float = 0.0,
    effects_seed: int = 0,
    calibrate: float | None = None,
) -> dict[str, Any]:
    """
    Evaluate several models as [`evaluate`] does, and compare models that have the same task as the first one with it.
    Models that were trained jointly are evaluated one by one, as `NAME/TASK`, for the tasks that the songs have
    annotations for.

    Returns:
        `models` (name → output of [`evaluate`], with `difference`, the paired difference from the first model, or
        `not_compared`, the reason for its absence), the settings, `music` (a description of the data), versions and
        machine.

    Raises:
        ValueError: two models have the same name, or for the reasons in [`evaluate`].
    """
    names = [strip_absolute_paths({"model": str(model)})["model"] for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"Two models have the same name in {', '.join(names)}: pass distinct relative paths.")
    if calibrate is not None and SMALL_MODEL in map(str, models):
        raise ValueError(
            f"The small model is a part of the package, and is not changed. Copy its folder, {SMALL_MODEL}, and "
            "calibrate the copy."
        )
    settings = settings or WindowSettings(batch_size=8)
    options: dict[str, Any] = {"settings": settings, "device": device, "limit": limit}
    options |= {"effects": effects, "effects_seed": effects_seed, "calibrate": calibrate}
    results = {}
    for name, model in zip(names, models, strict=True):
        tasks = getattr(load_config(str(model)), "task_folders", None)
        if not tasks:
            results[name] = evaluate(model, data, split, **options)
            continue
        songs = load_songs(data, split)
        scored = [task for task in tasks if any(map(get_task(task).is_annotated, songs))]
        if not scored:
            raise ValueError(f"None of the {len(songs)} songs of {data} ({split}) is annotated for a task of {model}.")
        for task in scored:
            results[f"{name}/{task}"] = evaluate(model, data, split, task=task, **options)
    first, *others = results.values()
    for result in others:
        if result["task"] == first["task"]:
            try:
                scores = [first["songs"]], [result["songs"]]
                result["difference"] = (
                    search_difference(*scores, first["metric"])
                    if first["task"] in RETRIEVAL_TASKS
                    else paired_difference(first["task"], *scores, first["metric"])
                )
            except ValueError as error:
                result["not_compared"] = str(error)
    used: dict[str, Any] = {"data": str(data), "split": split}
    if effects:
        used |= {"effects": effects, "effects_seed": effects_seed}
    return strip_absolute_paths(used) | {"music": describe_source(data), "models": results} | environment()
