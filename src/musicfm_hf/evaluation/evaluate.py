"""Evaluation of saved models on whole songs of a data set."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .. import SMALL_MODEL
from ..data.catalog import describe_sources
from ..data.examples import with_annotation
from ..data.labeled import LabeledSong
from ..data.labeled_dataset import load_songs_of
from ..data.pairs import limit_groups
from ..data.song_effects import SongEffects
from ..inference.annotators import load_annotators, load_config, share_encoder
from ..inference.embedding import HeadModel, WindowSettings
from ..inference.excerpts import embed_excerpts
from ..inference.exported import HEADS, is_exported, load_exported, read_description
from ..inference.logits import shared_logits
from ..model.configuration_musicfm import MusicFMConfig
from ..model.modeling_musicfm import MusicFMForXVector
from ..tasks import get_task, task_of
from ..tasks.retrieval import METRIC, RETRIEVAL_TASKS, get_retrieval_task
from ..training.files import write_json
from ..training.records import environment, strip_absolute_paths
from .calibration import SongItems, fit_calibration, summarize_calibration, summarize_items
from .retrieval import score_vectors, search_difference, searches_with_intervals
from .scoring import Rated, difference_of_systems, rate_song, scores_with_intervals

Data = str | os.PathLike | Sequence[str | os.PathLike]  # one data set or several, whose songs are scored together

Places = Mapping[str, tuple[str, dict[str, str]]]  # name of a model → its folder or repository, and its subfolder


@dataclass(frozen=True)
class _Request:
    """Songs to score models on, and settings; see [`evaluate`]."""

    data: list[str]
    split: str
    settings: WindowSettings
    device: str
    limit: int | None
    effects: float
    effects_seed: int
    calibrate: float | None


def evaluate(
    model: str | os.PathLike,
    data: Data,
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
        data: A data set that `musicfm prepare` wrote, or a repository with the same columns; or several, whose songs
            are scored together.
        split (`str`): train, validation or test.
        settings ([`WindowSettings`], *optional*): Windows in which songs are encoded; by default as long as
            the model's context, in batches of 8.
        device (`str`): Device to compute on.
        limit (`int`, *optional*): Maximum number of songs to score.
        task (`str`, *optional*): Task to score, if `model` holds several models that were trained jointly, or an
            export of several models.
        effects (`float`): Share of the songs that get audio effects; see [`SongEffects`].
        effects_seed (`int`): Seed of the effects.
        calibrate (`float`, *optional*): Calibrate the model on these songs and save the calibration in its
            `config.json`, or that of its head in an export. Items that are right less often than this share are
            uncertain, 0.5 when models are fine-tuned; see [`fit_calibration`].

    Returns:
        `task`, `metric` (the name of the main score of the task), `window_seconds`, `scores` (averages with
        intervals, see [`scores_with_intervals`]), `calibration` (the calibration error of the probabilities of each
        result, see [`summarize_items`] and, with `calibrate`, [`summarize_calibration`]) and `songs` (id → scores).

    Raises:
        ValueError: the model has no task, no song is annotated for its task, there are several models and no `task`,
            effects are asked for a model that searches songs, or a model is to be calibrated that searches songs, is
            not a folder, or is the small model of the package.
        OSError: the model or the data set does not exist.
    """
    settings = settings or WindowSettings(batch_size=8)
    request = _Request(_as_list(data), split, settings, device, limit, effects, effects_seed, calibrate)
    return _evaluate_places({str(model): _place(str(model), task)}, request)[str(model)]


def _place(model: str, task: str | None) -> tuple[str, dict[str, str]]:
    """Return a folder or repository, and the subfolder of its model for a task, if it is in one."""
    if task is not None and not is_exported(model):
        return model, {"subfolder": task}
    subfolders = _subfolders(model)
    if task is None and len(subfolders) > 1:
        raise ValueError(f"{model} has models for {', '.join(subfolders)}: pass `task`, or use `evaluate_models`.")
    if task is not None and task not in subfolders:
        raise ValueError(f"{model} has models for {', '.join(subfolders) or 'no task'}, and none for {task}.")
    tasks = list(subfolders) if task is None else [task]
    return model, {"subfolder": subfolders[tasks[0]]} if tasks else {}


def _subfolders(model: str) -> dict[str, str]:
    """Return task → subfolder for models that were trained jointly or exported; empty for any other."""
    if is_exported(model):
        return {name: f"{HEADS}/{name}" for name in read_description(model)["heads"]}
    return {task: task for task in getattr(load_config(model), "task_folders", None) or []}


def _evaluate_places(places: Places, request: _Request) -> dict[str, dict[str, Any]]:
    """Score models that search songs one by one, and all others together; see [`evaluate`]."""
    searches: dict[str, tuple[str, dict[str, str]]] = {}
    heads: dict[str, tuple[str, dict[str, str]]] = {}
    for name, (model, subfolder) in places.items():
        saved = load_config(model, **subfolder)
        is_search = getattr(saved, "head_class", None) == MusicFMForXVector.__name__
        config_file = None if request.calibrate is None else _config_file(model, subfolder)
        _check_request(model, saved, is_search, request.effects, config_file)
        (searches if is_search else heads)[name] = model, subfolder
    results = _evaluate_heads(heads, request) if heads else {}
    for name, (model, _) in searches.items():
        results[name] = evaluate_retrieval(
            model, request.data, request.split, request.settings, request.device, request.limit
        )
    return {name: results[name] for name in places}


def _evaluate_heads(places: Places, request: _Request) -> dict[str, dict[str, Any]]:
    """Score models with a head; those with equal encoders share one pass through it."""
    everything = load_songs_of(request.data, request.split)
    where = f"{', '.join(request.data)} ({request.split})"
    groups = _load_groups(places)
    songs = {
        name: with_annotation(everything, head.config.task, where)[: request.limit]
        for group in groups
        for name, head in group.items()
    }
    results = {}
    while groups:
        group = groups.pop(0)  # so that only one encoder is on the device
        for name, rated in _rate_songs(group, songs, request).items():
            config = group[name].config
            scores = {song: of_song.scores for song, of_song in rated.items()}
            items = {song: of_song.items for song, of_song in rated.items()}
            if request.calibrate is None:
                calibration = summarize_items(items, config.calibration)
            else:
                calibration = _calibrate(config, items, request.calibrate, _config_file(*places[name]))
            results[name] = {
                "task": config.task,
                "metric": task_of(config).metric,
                "window_seconds": request.settings.seconds(config),
                "scores": scores_with_intervals(config, scores),
                "calibration": calibration,
                "songs": scores,
            }
    return results


def _load_groups(places: Places) -> list[dict[str, HeadModel]]:
    """Load models with a head, grouped by their encoder, which is in memory only once."""
    groups: dict[Any, dict[str, HeadModel]] = {}
    exported = {model: load_annotators([model]) for model, _ in places.values() if is_exported(model)}
    for name, (model, subfolder) in places.items():
        if model in exported:
            task = Path(subfolder["subfolder"]).name
            (head,) = (head for head in exported[model].values() if head.config.task == task)
        else:
            (head,) = load_annotators([model], **subfolder).values()
        share_encoder(head, [next(iter(group.values())) for group in groups.values()])
        groups.setdefault(head.musicfm, {})[name] = head
    return list(groups.values())


def _rate_songs(
    heads: Mapping[str, HeadModel], songs: Mapping[str, Sequence[LabeledSong]], request: _Request
) -> dict[str, dict[str, Rated]]:
    """Score each model with the same encoder on its songs, and return name → song id → scores and items."""
    for head in heads.values():
        head.to(request.device)  # type: ignore[arg-type]  # Transformers wraps `to` without its signature
        if request.calibrate is not None:
            head.config.calibration = None
    names_of: dict[str, tuple[LabeledSong, list[str]]] = {}
    for name in heads:
        for song in songs[name]:
            names_of.setdefault(song.id, (song, []))[1].append(name)
    first, *others = heads
    rate = heads[first].config.sampling_rate
    change = SongEffects(request.effects, rate, request.effects_seed) if request.effects else None
    logits = shared_logits(heads, list(names_of.values()), request.settings, change)
    title = f"{first} and {len(others)} more" if others else first
    rated: dict[str, dict[str, Rated]] = {name: {} for name in heads}
    for song, of_song in tqdm(logits, total=len(names_of), unit="song", desc=title):
        for name, values in of_song.items():
            rated[name][song.id] = rate_song(heads[name].config, song, values)
    return {name: {song.id: rated[name][song.id] for song in songs[name]} for name in heads}


def _as_list(data: Data) -> list[str]:
    """Return the paths or names of data sets."""
    return [str(data)] if isinstance(data, str | os.PathLike) else [str(one) for one in data]


def _config_file(model: str, subfolder: Mapping[str, str]) -> Path:
    """Return the path of the configuration of a model in a folder."""
    return Path(model, *subfolder.values(), "config.json")


def _check_request(model: str, saved: Any, is_search: bool, effects: float, config_file: Path | None) -> None:
    """Raise a `ValueError` if a model cannot be scored as asked. `config_file` is to be written after calibration."""
    if is_search and (effects or config_file is not None):
        raise ValueError(
            f"{model} searches songs: it is scored without effects, and has no probabilities to calibrate. Leave "
            "`effects` at 0, and `calibrate` out."
        )
    if config_file is not None and not config_file.is_file():
        raise ValueError(f"{model} is not a folder with a model: download it to calibrate it.")
    if config_file is not None and config_file.resolve().is_relative_to(Path(SMALL_MODEL).resolve()):
        raise ValueError(
            f"{model} is the small model, a part of the package, which is not changed. Copy its folder, "
            f"{SMALL_MODEL}, and calibrate the copy."
        )


def _calibrate(config: MusicFMConfig, items: SongItems, share: float, config_file: Path) -> dict[str, Any]:
    """Calibrate a model on items of songs, save that in its configuration, and return the summary of the items."""
    config.calibration = fit_calibration(config, items, share)
    saved = json.loads(config_file.read_text(encoding="utf-8"))
    write_json(config_file, saved | {"calibration": config.calibration}, indent=2)
    return summarize_calibration(items, config.calibration)


def evaluate_retrieval(
    model: str | os.PathLike,
    data: Data,
    split: str = "test",
    settings: WindowSettings | None = None,
    device: str = "cpu",
    limit: int | None = None,
) -> dict[str, Any]:
    """
    Score the search of a saved embedding model among the versions of songs. Arguments, results and errors are those of
    [`evaluate`]; `limit` counts songs, not versions, and `songs` has the mean scores of the queries of each song.
    """
    head: Any = load_exported(model) if is_exported(model) else MusicFMForXVector.from_pretrained(model).eval()
    head.to(device)
    settings = settings or WindowSettings(batch_size=8)
    songs = limit_groups(load_songs_of(_as_list(data), split), limit)
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
    data: Data,
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
    Models that were trained jointly, and several heads of an export, are evaluated as `NAME/TASK`, for the tasks that
    the songs have annotations for.
    A song is encoded once for all models with equal encoders.

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
    settings, data_sets = settings or WindowSettings(batch_size=8), _as_list(data)
    request = _Request(data_sets, split, settings, device, limit, effects, effects_seed, calibrate)
    places: dict[str, tuple[str, dict[str, str]]] = {}
    for name, model in zip(names, map(str, models), strict=True):
        subfolders = _subfolders(model)
        if not subfolders or (is_exported(model) and len(subfolders) == 1):
            places[name] = _place(model, None)
            continue
        songs = load_songs_of(data_sets, split)
        scored = [task for task in subfolders if any(map(get_task(task).is_annotated, songs))]
        if not scored:
            raise ValueError(
                f"None of the {len(songs)} songs of {', '.join(data_sets)} ({split}) is annotated for a task of "
                f"{model}."
            )
        places |= {f"{name}/{task}": (model, {"subfolder": subfolders[task]}) for task in scored}
    results = _evaluate_places(places, request)
    _compare_with_first(results)
    used: dict[str, Any] = {"data": data_sets if len(data_sets) > 1 else data_sets[0], "split": split}
    if effects:
        used |= {"effects": effects, "effects_seed": effects_seed}
    return strip_absolute_paths(used) | {"music": describe_sources(data_sets), "models": results} | environment()


def _compare_with_first(results: Mapping[str, dict[str, Any]]) -> None:
    """Add the difference from the first model to the results of the others with its task, or why there is none."""
    first, *others = results.values()
    for result in others:
        if result["task"] != first["task"]:
            continue
        scores = [first["songs"]], [result["songs"]]
        try:
            difference = (
                search_difference(*scores, first["metric"])
                if first["task"] in RETRIEVAL_TASKS
                else difference_of_systems(first["task"], *scores, first["metric"])
            )
            result["difference"] = {"metric": first["metric"]} | difference.summary()
        except ValueError as error:
            result["not_compared"] = str(error)
