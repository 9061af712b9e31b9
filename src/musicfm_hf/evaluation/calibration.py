"""Calibration of models on validation songs, and the calibration error of their probabilities."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.labeled import LabeledSong
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import task_of
from ..tasks.calibration import (
    UNCERTAIN_SHARE,
    Items,
    bin_errors,
    calibration_error,
    fit_scaling,
    is_uncertain,
    join_items,
    scale,
)
from .bootstrap import centered_interval

SongItems = Mapping[str, Mapping[str, Items]]  # song id → result → its items


def collect_items(
    config: MusicFMConfig, song: LabeledSong, logits: np.ndarray, events: Any, results: Mapping[str, tuple[Any, Any]]
) -> dict[str, Items]:
    """
    Return the items of a song with the probabilities that its annotation gives, by result: `beats`, `downbeats`.

    Args:
        config ([`MusicFMConfig`]): Configuration of the model with its head.
        logits (`np.ndarray` of shape `(label frames or clips, num_labels)`): Logits of the whole song.
        events, results: Output of [`TaskSpec.decode`] and [`TaskSpec.further_results`].
    """
    spec = task_of(config)
    right = spec.right_items(spec.annotation_of(song), events, {name: value for name, (value, _) in results.items()})
    values = {name: items for name, (_, items) in results.items()}
    if isinstance(events, Mapping):
        values[spec.column] = np.array(list(spec.calibrate(config, events).values()))
    else:
        values[spec.column] = spec.event_probabilities(config, logits, events)
    return {name: Items(values[name], *right[name]) for name in right if values[name] is not None}


def fit_calibration(
    config: MusicFMConfig, items: SongItems, share: float = UNCERTAIN_SHARE
) -> dict[str, dict[str, float]]:
    """
    Fit `config.calibration` on validation songs.

    Args:
        config ([`MusicFMConfig`]): Configuration of the model with its head.
        items: Items of songs, from a model that is not calibrated.
        share (`float`): Items that are right less often are uncertain; see [`uncertainty_threshold`].

    Returns:
        Result → output of [`fit_scaling`], for the results whose items can be compared. Results that are
        probabilities, such as tags, have no threshold: an improbable tag is not uncertain.
    """
    spec = task_of(config)
    fitted = {name: fit_scaling(join_items(parts), share) for name, parts in _by_result(items).items()}
    if spec.probabilities is None:
        fitted.get(spec.column, {}).pop("uncertain_below", None)
    return {name: scaling for name, scaling in fitted.items() if scaling}


def calibrated_items(items: SongItems, calibration: Mapping[str, Mapping[str, float]] | None) -> SongItems:
    """Return items of a model that is not calibrated with the probabilities of the calibrated model."""
    return {
        song: {
            name: part._replace(probabilities=scale(part.probabilities, (calibration or {}).get(name)))
            for name, part in parts.items()
        }
        for song, parts in items.items()
    }


def summarize_items(
    items: SongItems, calibration: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, dict[str, Any]]:
    """
    Compare the probabilities of items with the share of them that is right.

    Args:
        items: Items of songs, with the probabilities that their annotations give.
        calibration: `config.calibration`, for the thresholds.

    Returns:
        For each result: `items`, the number of items that can be compared; `probability` and `right`, their mean
        probability and the share that is right, weighted; `ece`, the expected calibration error over all items, with
        its `mean` and a 95 % bootstrap `interval` over songs; and, with a threshold, `uncertain`: the `share` of the
        items that are below it, and the share of those that is `right`.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, parts in _by_result(items).items():
        joined = join_items(parts)
        total = float(joined.weights.sum())
        if not total:
            continue
        summary[name] = {
            "items": int((joined.weights > 0).sum()),
            "probability": float(joined.weights @ joined.probabilities / total),
            "right": float(joined.weights @ joined.right / total),
            "ece": {"mean": (error := calibration_error(joined)), "interval": _error_interval(parts, error)},
        }
        marked = is_uncertain(joined.probabilities, (calibration or {}).get(name))
        if marked is not None:
            weight = float(joined.weights[marked].sum())
            right = float(joined.weights[marked] @ joined.right[marked]) / weight if weight else float("nan")
            summary[name]["uncertain"] = {"share": weight / total, "right": right}
    return summary


def summarize_calibration(items: SongItems, calibration: Mapping[str, Mapping[str, float]] | None) -> dict[str, Any]:
    """
    Summarize the items of songs with calibrated probabilities; see [`summarize_items`].

    Args:
        items: Items of songs, from a model that is not calibrated. The expected calibration error of these is
            `ece_before` in each summary.
        calibration: Output of [`fit_calibration`].
    """
    before = summarize_items(items)
    after = summarize_items(calibrated_items(items, calibration), calibration)
    return {name: summary | {"ece_before": before[name]["ece"]} for name, summary in after.items()}


def _by_result(items: SongItems) -> dict[str, list[Items]]:
    """Return the items of each song by result."""
    names = dict.fromkeys(name for parts in items.values() for name in parts)
    return {name: [parts[name] for parts in items.values() if name in parts] for name in names}


def _error_interval(parts: list[Items], error: float, draws: int = 10_000) -> tuple[float, float]:
    """Return the 95 % interval of a calibration error over bootstrap samples of songs; see [`center`]."""
    errors, totals = map(np.array, zip(*map(bin_errors, parts), strict=True))  # (songs, bins), (songs,)
    songs = len(parts)
    drawn = np.random.default_rng(0).multinomial(songs, np.full(songs, 1 / songs), size=draws)
    weights = drawn @ totals
    samples = np.abs(drawn @ errors).sum(axis=1)[weights > 0] / weights[weights > 0]
    return centered_interval(samples, error)
