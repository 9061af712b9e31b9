"""Whole songs through a head, and their scores."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .audio import load_audio
from .data.examples import annotation_of
from .data.labelled import LabelledSong
from .features import FeatureCache
from .inference import HeadModel, WindowSettings, embed_songs, head_logits, layer_mix
from .model.configuration_musicfm import MusicFMConfig
from .tasks import decode, label_names, task_module


def song_logits(
    model: HeadModel,
    songs: Sequence[LabelledSong],
    settings: WindowSettings,
    cache: FeatureCache | None = None,
) -> Iterator[tuple[LabelledSong, np.ndarray]]:
    """
    Logits of whole songs, as [`head_logits`] gives them.

    Args:
        model: With a head; or the head alone, `model.classifier`, where there is a cache.
        cache ([`FeatureCache`], *optional*): Has what the head reads.
    """
    if cache is not None:
        classifier = getattr(model, "classifier", model)
        for song in songs:
            frames = cache.read(song).float()
            yield song, head_logits(classifier, frames if frames.ndim == 2 else classifier.mix(frames[None])[0])
        return
    rate = model.config.sampling_rate
    waveforms = ((song, load_audio(song.audio, rate)) for song in songs)
    for song, (frames, _) in embed_songs(model.musicfm, waveforms, settings, layer_mix(model)[None]):
        yield song, head_logits(model.classifier, frames[:, 0])


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
    Averages over songs, of what is not nan; for chords weighted by duration as well, for tagging over tags.

    Args:
        scores: Song id → what [`score_song`] gave.
    """
    rows = list(scores.values())
    module = task_module(config.task)
    if config.task == "tagging":
        labels = label_names(config)
        references = np.array([[label in row["tags"] for label in labels] for row in rows], dtype=int)
        estimates = np.array([[row["probabilities"][label] for label in labels] for row in rows])
        found = module.score(references, estimates, labels)
        return {"map": found["map"], "roc_auc": found["roc_auc"]}
    averages = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        known = values[~np.isnan(values)]
        averages[name] = float(known.mean()) if len(known) else float("nan")
    if config.task == "chord":
        seconds = np.array([row["seconds"] for row in rows])
        values = np.array([row["majmin"] for row in rows])
        averages["majmin_by_duration"] = float((values * seconds).sum() / max(seconds.sum(), 1e-9))
        del averages["seconds"]
    return averages


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, draws: int = 10_000, share: float = 0.95
) -> tuple[float, float]:
    """
    An interval of the mean by the percentile bootstrap over songs (Efron, Tibshirani, *An Introduction to the
    Bootstrap*, 1993), nan left out. Of differences between two systems on the same songs it is the paired bootstrap.
    """
    values = np.array([value for value in values if not math.isnan(value)])
    if not len(values):
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = values[generator.integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def scores_with_intervals(config: MusicFMConfig, scores: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """
    Each average as `mean`, with a bootstrap `interval` of 95 % where it is one over songs, and of how many `songs`:
    those where it is not nan.
    """
    summary = {}
    for name, mean in average_scores(config, scores).items():
        summary[name] = {"mean": mean, "songs": len(scores)}
        values = [row[name] for row in scores.values() if name in row]
        if values:
            summary[name]["songs"] = len(values) - int(np.isnan(values).sum())
            summary[name]["interval"] = bootstrap_interval(values)
    return summary
