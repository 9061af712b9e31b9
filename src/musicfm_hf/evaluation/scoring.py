"""Scores of whole songs, their averages with bootstrap intervals, and differences between systems."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.labeled import LabeledSong
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import get_task, label_names, task_of
from ..tasks.averages import drop_nan
from ..tasks.calibration import Items
from .bootstrap import Difference, bootstrap_interval, center, centered_interval, draw_runs, percentile_interval
from .calibration import collect_items

Scores = Mapping[str, Mapping[str, Any]]  # song id → the scores of the song


def score_song(config: MusicFMConfig, song: LabeledSong, logits: np.ndarray) -> dict[str, Any]:
    """
    Decode the logits of one song and score the events.

    Args:
        config ([`MusicFMConfig`]): Configuration of the model with its head.
        logits (`np.ndarray` of shape `(label frames or clips, num_labels)`): Logits of the whole song.

    Returns:
        The scores of the task; for tagging, which is scored only on sets of songs, the probabilities and the tags.
    """
    spec = task_of(config)
    events = spec.decode(config, logits)
    results = spec.further_results(config, logits, events) if spec.scored_results else {}
    values = {name: value for name, (value, _) in results.items()}
    return spec.score_song(spec.annotation_of(song), events, values)


def score_names(config: MusicFMConfig, song: LabeledSong) -> list[str]:
    """Return the names of the averages of a task's scores; `song` is any one that is annotated for it."""
    frames = max(1, round(song.duration * (config.label_rate or 0)))
    return list(
        average_scores(config, {song.id: score_song(config, song, np.zeros((frames, len(label_names(config)))))})
    )


class Rated(NamedTuple):
    """The scores of a song, and its items by result; see [`collect_items`]."""

    scores: dict[str, Any]
    items: dict[str, Items]


def rate_song(config: MusicFMConfig, song: LabeledSong, logits: np.ndarray) -> Rated:
    """Score a song as [`score_song`] does, and compare the probabilities of its items with what is right."""
    spec = task_of(config)
    events = spec.decode(config, logits)
    results = spec.further_results(config, logits, events)
    scores = spec.score_song(spec.annotation_of(song), events, {name: value for name, (value, _) in results.items()})
    return Rated(scores, collect_items(config, song, logits, events, results))


def average_scores(config: MusicFMConfig, scores: Scores) -> dict[str, float]:
    """
    Average each score over the songs that have it; for chords, also weighted by duration; for tagging, over tags.

    Args:
        scores: Song id → output of [`score_song`].
    """
    return task_of(config).average_scores(list(scores.values()))


def scores_with_intervals(config: MusicFMConfig, scores: Scores) -> dict[str, dict[str, Any]]:
    """
    Summarize the scores of songs.

    Args:
        config ([`MusicFMConfig`]): Configuration whose `task` is set.
        scores: Song id → output of [`score_song`].

    Returns:
        For each average, its `mean`, the number of `songs` that have the score and, except for averages weighted by
        duration, a 95 % bootstrap `interval` over songs. For tagging, also the score of each of the `tags`, and the
        tags that are `skipped` because all songs or no songs have them.
    """
    spec, rows = task_of(config), list(scores.values())
    averages = spec.average_scores(rows)
    if spec.set_scores is not None:
        samples, details = spec.set_scores.draw(rows), spec.set_scores.details(rows)
        return {
            name: {"mean": mean, "songs": len(rows), "interval": centered_interval(samples[name], mean)}
            | details[name]
            for name, mean in averages.items()
        }
    summary: dict[str, dict[str, Any]] = {}
    for name, mean in averages.items():
        summary[name] = {"mean": mean, "songs": len(rows)}
        if name in rows[0]:
            values = drop_nan(spec.song_value(row, name) for row in rows)
            summary[name] |= {"songs": len(values), "interval": bootstrap_interval(values)}
    return summary


def difference_of_systems(
    task: str, first: Sequence[Scores], second: Sequence[Scores], metric: str, draws: int = 10_000
) -> Difference:
    """
    Compare two systems on the same songs by the paired bootstrap over songs and runs. Each sample draws as many songs,
    the same for both systems, and as many runs of each system; two systems with equally many runs stay paired run by
    run (see [`draw_runs`]). With few runs, this underestimates how much another set of seeds would change.

    Args:
        task (`str`): Task of both systems.
        first, second: Runs of each system, for example with several seeds; each run maps song ids to scores.
        metric (`str`): Score to compare.
        draws (`int`): Number of samples.

    Returns:
        The second system minus the first. Songs without the score in any run are left out; without songs, the mean
        and the samples are nan.

    Raises:
        ValueError: if the systems predict different labels.
    """
    songs, ((before, drawn_before), (after, drawn_after)) = _draw_scores(task, (first, second), metric, draws)
    samples = drawn_after - drawn_before
    mean = after - before
    # Averages over sets of songs have a bias that need not cancel.
    return Difference(mean, center(samples, mean) if get_task(task).set_scores is not None else samples, songs)


def mean_over_runs(task: str, runs: Sequence[Scores], metric: str) -> dict[str, Any]:
    """Return the `mean` of a score over runs, and its 95 % bootstrap `interval` over songs and runs."""
    _, ((mean, samples),) = _draw_scores(task, (runs,), metric, 10_000)
    is_set = get_task(task).set_scores is not None
    return {"mean": mean, "interval": centered_interval(samples, mean) if is_set else percentile_interval(samples)}


def _draw_scores(
    task: str, systems: Sequence[Sequence[Scores]], metric: str, draws: int
) -> tuple[int, list[tuple[float, np.ndarray]]]:
    """
    Return the number of songs and, for each system, its mean score over songs and runs, and the scores of bootstrap
    samples `(draws,)`.
    """
    spec, names = get_task(task), list(systems[0][0])
    rows_of = [[[run[name] for name in names] for run in runs] for runs in systems]
    if spec.set_scores is not None:
        labels = {spec.set_scores.labels(rows[0]) for runs in rows_of for rows in runs}
        if len(labels) > 1:
            lists = " or ".join(sorted(map(", ".join, labels)))
            raise ValueError(f"The systems predict different labels: {lists}.")
        return len(names), [
            (
                float(np.mean([spec.set_scores.average(rows)[metric] for rows in runs])),
                draw_runs([spec.set_scores.draw(rows, draws)[metric] for rows in runs]),
            )
            for runs in rows_of
        ]
    values = [np.array([[spec.song_value(row, metric) for row in rows] for rows in runs]) for runs in rows_of]
    valid = ~np.isnan(np.concatenate(values)).any(axis=0)
    songs = int(valid.sum())
    if not songs:
        return 0, [(float("nan"), np.full(draws, np.nan)) for _ in values]
    weights = np.random.default_rng(0).multinomial(songs, np.full(songs, 1 / songs), size=draws) / songs
    of_systems = [of_system[:, valid] for of_system in values]  # (runs, songs)
    return songs, [(float(scores.mean()), draw_runs(list(scores @ weights.T))) for scores in of_systems]
