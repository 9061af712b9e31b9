"""Evaluation of saved models on whole songs of a data set."""

import os
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from ..data.catalog import describe_source
from ..data.examples import with_annotation
from ..data.labeled_dataset import load_songs
from ..inference.annotators import load_annotators
from ..inference.embedding import WindowSettings
from ..inference.logits import song_logits
from ..tasks import get_task
from ..training.records import environment, strip_absolute_paths
from .scoring import paired_difference, score_song, scores_with_intervals


def evaluate(
    model: str | os.PathLike,
    data: str | os.PathLike,
    split: str = "test",
    settings: WindowSettings | None = None,
    device: str = "cpu",
    limit: int | None = None,
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

    Returns:
        `task`, `metric` (the name of the main score of the task), `window_seconds`, `scores` (averages with
        intervals, see [`scores_with_intervals`]) and `songs` (id → scores).

    Raises:
        ValueError: the model has no task, or no song is annotated for its task.
        OSError: the model or the data set does not exist.
    """
    (head,) = load_annotators([model]).values()
    head.to(device)  # type: ignore[arg-type]  # Transformers wraps `to` without its signature
    config = head.config
    songs = with_annotation(load_songs(data, split), config.task, f"{data} ({split})")[:limit]
    settings = settings or WindowSettings(batch_size=8)
    logits = tqdm(song_logits(head, songs, settings), total=len(songs), unit="song", desc=str(model))
    scores = {song.id: score_song(config, song, values) for song, values in logits}
    scores = {song.id: scores[song.id] for song in songs}
    return {
        "task": config.task,
        "metric": get_task(config.task).metric,
        "window_seconds": settings.seconds(config),
        "scores": scores_with_intervals(config, scores),
        "songs": scores,
    }


def evaluate_models(
    models: Sequence[str | os.PathLike],
    data: str | os.PathLike,
    split: str = "test",
    settings: WindowSettings | None = None,
    device: str = "cpu",
    limit: int | None = None,
) -> dict[str, Any]:
    """
    Evaluate several models as [`evaluate`] does, and compare models that have the same task as the first one with it.

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
    settings = settings or WindowSettings(batch_size=8)
    results = {
        name: evaluate(model, data, split, settings, device, limit) for name, model in zip(names, models, strict=True)
    }
    first, *others = results.values()
    for result in others:
        if result["task"] == first["task"]:
            try:
                result["difference"] = paired_difference(
                    first["task"], [first["songs"]], [result["songs"]], first["metric"]
                )
            except ValueError as error:
                result["not_compared"] = str(error)
    used = {"data": str(data), "split": split}
    return strip_absolute_paths(used) | {"music": describe_source(data), "models": results} | environment()
