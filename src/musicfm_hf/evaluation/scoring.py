"""Whole songs through a head, and their scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.examples import annotation_of
from ..data.labelled import LabelledSong
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import decode, label_names, tagging, task_module
from .bootstrap import bootstrap_interval, centered_interval, drop_nan


def score_song(config: MusicFMConfig, song: LabelledSong, logits: np.ndarray) -> dict[str, Any]:
    """Scores of one song; for tagging its probabilities, as only sets of songs are scored."""
    module, annotation = task_module(config.task), annotation_of(song, config.task)
    estimate = decode(config, logits)
    if config.task == "tagging":
        return {"probabilities": {label: estimate[label] for label in label_names(config)}, "tags": list(annotation)}
    if config.task == "key":
        return module.score(annotation, estimate, module.song_key(logits))
    return module.score(annotation, estimate)


def average_scores(config: MusicFMConfig, scores: dict[str, dict[str, Any]]) -> dict[str, float]:
    """
    Averages over songs, of what is not nan, and of chords where there is something to compare; for chords weighted by
    duration as well, for tagging over tags.

    Args:
        scores: Song id → what [`score_song`] gave.
    """
    rows = list(scores.values())
    module = task_module(config.task)
    if config.task == "tagging":
        found = module.score(*_tag_arrays(rows))
        return {"map": found["map"], "roc_auc": found["roc_auc"]}
    averages = {}
    for name in rows[0]:
        values = drop_nan(_value(row, name) for row in rows)
        averages[name] = float(values.mean()) if len(values) else float("nan")
    if config.task == "chord":
        seconds = np.array([row["seconds"] for row in rows])
        values = np.array([row["majmin"] for row in rows])
        total = seconds.sum()
        averages["majmin_by_duration"] = float((values * seconds).sum() / total) if total else float("nan")
        del averages["seconds"]
    return averages


def _value(row: dict[str, Any], name: str) -> float:
    """A score of a song; nan where there was no chord to compare, of which it would be 0, or JSON has null."""
    return float("nan") if row.get("seconds") == 0 or row[name] is None else row[name]


def _tag_arrays(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """References and estimates `(songs, tags)`, and the tags."""
    labels = list(rows[0]["probabilities"])
    references = np.array([[label in row["tags"] for label in labels] for row in rows], dtype=int)
    return references, np.array([[row["probabilities"][label] for label in labels] for row in rows]), labels


def scores_with_intervals(config: MusicFMConfig, scores: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """
    Each average as `mean`, with a bootstrap `interval` of 95 % over songs, but where it is weighted by duration, and
    of how many `songs`: those that have it. For tagging with the score of each of the `tags`, and which are `skipped`:
    those of all songs, or of none.
    """
    rows, summary = list(scores.values()), {}
    samples, of_tags = {}, {}
    if config.task == "tagging":
        samples, found = tagging.bootstrap(*_tag_arrays(rows)), tagging.score(*_tag_arrays(rows))
        for name in samples:
            tags = {tag: own[name] for tag, own in found["tags"].items()}
            of_tags[name] = {"tags": tags, "skipped": found["skipped"]}
    for name, mean in average_scores(config, scores).items():
        summary[name] = {"mean": mean, "songs": len(rows)}
        if name in samples:
            summary[name] |= {"interval": centered_interval(samples[name], mean)} | of_tags[name]
        elif name in rows[0]:
            values = drop_nan(_value(row, name) for row in rows)
            summary[name] |= {"songs": len(values), "interval": bootstrap_interval(values)}
    return summary


def paired_difference(
    first: Sequence[dict[str, dict[str, Any]]], second: Sequence[dict[str, dict[str, Any]]], metric: str
) -> dict[str, Any]:
    """
    How much better a second system is on the same songs: `mean`, and the `interval` of 95 % of the paired bootstrap.

    Args:
        first, second: Runs of a system, such as of several seeds, which are averaged; each song id → its scores.
        metric (`str`): The score that is compared.

    Raises:
        ValueError: they tell other tags.
    """
    names = list(first[0])
    if "probabilities" in first[0][names[0]]:
        tags = {tuple(run[names[0]]["probabilities"]) for run in (*first, *second)}
        if len(tags) > 1:
            raise ValueError(f"Systems tell other tags: {' or '.join(', '.join(own) for own in tags)}.")
        means, samples = [], []
        for runs in (first, second):
            arrays = [_tag_arrays([run[name] for name in names]) for run in runs]
            means.append(np.mean([tagging.score(*own)[metric] for own in arrays]))
            samples.append(np.mean([tagging.bootstrap(*own)[metric] for own in arrays], axis=0))
        mean = float(means[1] - means[0])
        return {"mean": mean, "interval": centered_interval(samples[1] - samples[0], mean)}
    first, second = (
        [np.mean([_value(run[name], metric) for run in runs]) for name in names] for runs in (first, second)
    )
    values = drop_nan(np.subtract(second, first))
    return {"mean": float(values.mean()) if len(values) else float("nan"), "interval": bootstrap_interval(values)}
