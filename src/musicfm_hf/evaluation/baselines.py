"""
Baselines that need no trained encoder: classical methods, trivial predictions, and a second annotator if the data set
has one. `BASELINES` lists them.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..data.examples import with_annotation
from ..data.labeled import LabeledSong
from ..data.labeled_dataset import load_songs, split_names
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import TASKS, beat, chord, get_task, key, structure, tagging
from ..tasks.annotations import Beats, Segment
from ..tasks.chord_vocabularies import QUALITIES
from .classical import (
    BARS_PER_SECTION,
    NO_FEATURES,
    AudioFeatures,
    bar_grid,
    bars_of_four,
    features_of_songs,
    match_chords,
    match_key,
)
from .scoring import scores_with_intervals

# Without those that have the tones of another one on another root.
_DISTINCT_QUALITIES = tuple(quality for quality in QUALITIES if quality not in ("maj6", "min6", "sus4"))

_SHIFTS = [step / 200 for step in range(-20, 21)]


class Priors(NamedTuple):
    """Statistics of the annotations of training songs, and what was chosen on validation songs."""

    function: str | None  # the section function with the longest total time; `None` if no song has sections
    tags: dict[str, float]  # the share of songs with each tag
    beat_shift: float | None = None  # seconds to add to tracked beats; `None` without validation songs


class Baseline(NamedTuple):
    """
    A method that predicts the events of a task without a model.

    Attributes:
        task (`str`): Name of the task.
        about (`str`): One-line description for tables.
        estimate (`Callable`): `(song, features, priors)` → events of the task, or `None` if the song lacks data that
            the method needs.
        features (`tuple[str, …]`): Fields of [`AudioFeatures`] that the method needs; the others are empty.
        priors (`bool`): Whether the method needs [`Priors`] of training songs.
        shifted (`bool`): Whether the method needs `beat_shift`, which is chosen on validation songs.
    """

    task: str
    about: str
    estimate: Callable[[LabeledSong, AudioFeatures, Priors], Any]
    features: tuple[str, ...] = ()
    priors: bool = False
    shifted: bool = False


def fit_priors(songs: Sequence[LabeledSong]) -> Priors:
    """
    Collect statistics of the sections and tags of training songs. If no song has sections, the function is `None`. If
    no song has tags, `tags` is empty.
    """
    seconds: dict[str, float] = {}
    for song in songs:
        for start, end, label in song.sections or []:
            if function := structure.function_of(label):
                seconds[function] = seconds.get(function, 0.0) + end - start
    tagged = [song.tags for song in songs if song.tags is not None]
    labels = sorted({tag for tags in tagged for tag in tags})
    shares = {label: sum(label in tags for tags in tagged) / len(tagged) for label in labels}
    return Priors(max(seconds, key=seconds.__getitem__, default=None), shares)


def fit_beat_shift(songs: Sequence[LabeledSong], features: dict[str, AudioFeatures]) -> float:
    """
    Return the time in seconds, from -0.1 to 0.1 in steps of 5 ms, that tracked beats have to be moved by to score best
    on songs; the smallest one if several are equally good.

    Args:
        songs: Songs with beats.
        features: Song id → features with tracked beats.
    """

    def mean_score(shift: float) -> float:
        scores = [
            beat.score(song.beats, _shifted_beats(features[song.id].beats, shift)) for song in songs if song.beats
        ]
        return float(np.mean([of_song[beat.TASK.metric] for of_song in scores]))

    return max(sorted(_SHIFTS, key=abs), key=mean_score)


def _shifted_beats(times: np.ndarray, shift: float) -> Beats:
    """Return tracked beats that are moved by `shift` seconds, without those that begin before the song."""
    return bars_of_four(times[times + shift >= 0] + shift)


def _chords_on_true_beats(
    song: LabeledSong,
    features: AudioFeatures,
    priors: Priors,
    qualities: Sequence[str] = ("maj", "min"),
    with_bass: bool = False,
) -> list[Segment] | None:
    """Estimate chords between annotated beats."""
    if song.beats is None:
        return None
    bass = features.bass if with_bass else None
    return match_chords(features.chroma, features.frame_rate, song.beats.times, song.duration, qualities, bass)


def _grids(song: LabeledSong, priors: Priors) -> list[list[Segment]]:
    """
    Return the eight-bar grids that start at each of the first eight bars, or none if downbeats or the usual function
    are unknown.
    """
    function = priors.function
    if function is None or song.beats is None or not (song.beats.positions == 1).any():
        return []
    return [bar_grid(song.beats, song.duration, function, bar) for bar in range(BARS_PER_SECTION)]


def _true_grid(song: LabeledSong, features: AudioFeatures, priors: Priors) -> list[Segment] | None:
    """Return the grid with a boundary at the bar in which the first section begins."""
    grids = _grids(song, priors)
    if not grids or song.beats is None:
        return None
    downbeats = song.beats.times[song.beats.positions == 1]
    first_section = structure.TASK.annotation_of(song)[0]
    return grids[int(np.abs(downbeats - first_section.start).argmin()) % BARS_PER_SECTION]


def _best_grid(song: LabeledSong, features: AudioFeatures, priors: Priors) -> list[Segment] | None:
    """Return the grid with the best score."""
    metric, sections = structure.TASK.metric, structure.TASK.annotation_of(song)
    return max(_grids(song, priors), key=lambda grid: structure.score(sections, grid)[metric], default=None)


def _tag_shares(song: LabeledSong, features: AudioFeatures, priors: Priors) -> dict[str, float] | None:
    return priors.tags or None


BASELINES = {
    "beat_track": Baseline(
        beat.TASK.name,
        "librosa.beat.beat_track; every fourth beat from the first is a downbeat",
        lambda song, features, priors: bars_of_four(features.beats),
        features=("beats",),
    ),
    "beat_track_shifted": Baseline(
        beat.TASK.name,
        "as beat_track, with all beats moved by the time that scores best on validation songs",
        lambda song, features, priors: (
            None if priors.beat_shift is None else _shifted_beats(features.beats, priors.beat_shift)
        ),
        features=("beats",),
        shifted=True,
    ),
    "templates_true_beats": Baseline(
        chord.TASK.name,
        "chroma templates between annotated beats",
        _chords_on_true_beats,
        features=("chroma",),
    ),
    "templates_sevenths": Baseline(
        chord.TASK.name,
        "chroma templates of major and minor triads and their sevenths between annotated beats",
        partial(_chords_on_true_beats, qualities=("maj", "min", "maj7", "7", "min7")),
        features=("chroma",),
    ),
    "templates_inversions": Baseline(
        chord.TASK.name,
        "as templates_true_beats, with the strongest tone of the chord in the lowest three octaves as its bass",
        partial(_chords_on_true_beats, with_bass=True),
        features=("chroma", "bass"),
    ),
    "templates_full": Baseline(
        chord.TASK.name,
        "chroma templates of 11 qualities between annotated beats, with the bass as in templates_inversions (no maj6, "
        "min6 and sus4, which have the tones of min7, hdim7 and sus2)",
        partial(_chords_on_true_beats, qualities=_DISTINCT_QUALITIES, with_bass=True),
        features=("chroma", "bass"),
    ),
    "templates_tracked_beats": Baseline(
        chord.TASK.name,
        "chroma templates between beats of librosa.beat.beat_track",
        lambda song, features, priors: match_chords(
            features.chroma, features.frame_rate, features.beats, song.duration
        ),
        features=("beats", "chroma"),
    ),
    "key_profiles": Baseline(
        key.TASK.name,
        "profiles of Krumhansl and Kessler on the mean chroma",
        lambda song, features, priors: [Segment(0.0, song.duration, match_key(features.chroma))],
        features=("chroma",),
    ),
    "start_and_end": Baseline(
        structure.TASK.name,
        "no boundaries except start and end; the function with the most time in training songs",
        lambda song, features, priors: priors.function and [Segment(0.0, song.duration, priors.function)],
        priors=True,
    ),
    "eight_bars": Baseline(
        structure.TASK.name,
        "a boundary every eight annotated bars, counted from the start of the first section; the function with the "
        "most time in training songs",
        _true_grid,
        priors=True,
    ),
    "eight_bars_best_phase": Baseline(
        structure.TASK.name,
        "as eight_bars, but counted from whichever of the first eight bars scores best: the best regular grid",
        _best_grid,
        priors=True,
    ),
    "second_annotator": Baseline(
        structure.TASK.name,
        "the column sections_2: boundaries and functions of another annotator",
        lambda song, features, priors: song.more.get("sections_2"),
    ),
    "prevalence": Baseline(
        tagging.TASK.name,
        "for every song, the share of training songs that have each tag",
        _tag_shares,
        priors=True,
    ),
}


def need_training_songs(tasks: Iterable[str]) -> bool:
    """Return whether baselines of any of these tasks use statistics of training songs."""
    return any(baseline.priors and baseline.task in tasks for baseline in BASELINES.values())


def score_baseline(
    name: str, songs: Sequence[LabeledSong], features: dict[str, AudioFeatures], priors: Priors
) -> dict[str, Any] | None:
    """
    Score one of `BASELINES` on songs that are annotated for its task and have the data that it needs.

    Args:
        features: Song id → features.

    Returns:
        `task`, `metric`, `about`, `scores` (averages with intervals, see [`scores_with_intervals`]), `songs` (id →
        scores) and, if something was chosen on validation songs, `chosen`; `None` if no song has the data that the
        baseline needs.
    """
    baseline = BASELINES[name]
    spec = get_task(baseline.task)
    scores = {}
    for song in songs:
        events = baseline.estimate(song, features.get(song.id, NO_FEATURES), priors)
        if events is not None:
            scores[song.id] = spec.score_song(spec.annotation_of(song), events)
    if not scores:
        return None
    summary = scores_with_intervals(MusicFMConfig(task=spec.name), scores)
    chosen = {"chosen": {"shift_seconds": priors.beat_shift}} if baseline.shifted else {}
    return chosen | {
        "task": spec.name,
        "metric": spec.metric,
        "about": baseline.about,
        "scores": summary,
        "songs": scores,
    }


def score_baselines(
    tasks: Sequence[str],
    songs: Sequence[LabeledSong],
    training_songs: Sequence[LabeledSong],
    where: str,
    num_workers: int = 0,
    limit: int | None = None,
    validation_songs: Sequence[LabeledSong] = (),
) -> dict[str, dict[str, Any]]:
    """
    Score all baselines of some tasks.

    Args:
        songs: Songs to score on.
        training_songs: Songs for [`fit_priors`]; may be empty unless [`need_training_songs`] is true.
        where (`str`): Name of the songs in error messages.
        num_workers (`int`): Number of processes that compute features.
        limit (`int`, *optional*): Maximum number of songs to score for each task.
        validation_songs: Songs for [`fit_beat_shift`]; without them, the baselines that need it are left out.

    Returns:
        Name → output of [`score_baseline`], without baselines for which no song has the required data.

    Raises:
        ValueError: if no song is annotated for a task, or for the reasons in the functions above.
    """
    annotated = {task: with_annotation(songs, task, where)[:limit] for task in tasks}
    chosen = {name: baseline for name, baseline in BASELINES.items() if baseline.task in tasks}
    analyzed = {
        song.id: song for baseline in chosen.values() if baseline.features for song in annotated[baseline.task]
    }
    needed = {feature for baseline in chosen.values() for feature in baseline.features}
    wanted = {feature: feature in needed for feature in ("beats", "chroma", "bass")}
    features = features_of_songs(list(analyzed.values()), num_workers=num_workers, **wanted)
    priors = fit_priors(training_songs)
    tracked = [song for song in validation_songs if song.beats is not None]
    if tracked and any(baseline.shifted for baseline in chosen.values()):
        shift = fit_beat_shift(tracked, features_of_songs(tracked, True, False, num_workers))
        priors = priors._replace(beat_shift=shift)
    scores = {
        name: score_baseline(name, annotated[baseline.task], features, priors) for name, baseline in chosen.items()
    }
    return {name: result for name, result in scores.items() if result is not None}


def score_data_set(
    data: str | os.PathLike,
    split: str = "test",
    tasks: Sequence[str] | None = None,
    num_workers: int = 2,
    limit: int | None = None,
) -> dict[str, dict[str, Any]]:
    """
    Score baselines on a data set as [`score_baselines`] does, by default for all tasks that its songs are annotated
    for.

    Raises:
        OSError: if the data set does not exist.
        ValueError: if the data set has no such split, or for the reasons in [`score_baselines`].
    """
    songs = load_songs(data, split)
    tasks = tasks or [task for task in TASKS if any(map(get_task(task).is_annotated, songs))]
    if not tasks:
        raise ValueError(f"None of the {len(songs)} songs of {data} ({split}) is annotated for a task.")
    training_songs = load_songs(data, "train") if need_training_songs(tasks) and "train" in split_names(data) else []
    needs_validation = any(baseline.shifted and baseline.task in tasks for baseline in BASELINES.values())
    has_validation = needs_validation and "validation" in split_names(data)
    validation_songs = load_songs(data, "validation")[:limit] if has_validation else []
    where = f"{data} ({split})"
    return score_baselines(tasks, songs, training_songs, where, num_workers, limit, validation_songs)
