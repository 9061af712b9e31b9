"""
What one gets without a trained encoder: classical methods, trivial answers, and a second annotator where there is one.

An estimate is a function of a song, of what librosa hears in it (`Sound`, `None` where nobody has to listen) and of
what is known of the training songs (`Training`); it is `None` where the song lacks what it needs.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..audio.reading import load_audio
from ..data.decoding import as_it_is
from ..data.examples import annotation_of, task_labels, with_annotation
from ..data.labelled import LabelledSong
from ..data.labelled_dataset import load_songs
from ..model.configuration_musicfm import MusicFMConfig
from ..tasks import TASKS, structure, task_module
from ..tasks.annotations import Segment
from .classical import BARS_PER_SECTION, SAMPLING_RATE, Sound, bar_grid, bars_of_four, listen, match_chords, match_key
from .scoring import scores_with_intervals


class Training(NamedTuple):
    """What is known of the training songs."""

    function: str  # the section function with most seconds
    tags: dict[str, float]  # the share of the songs that has a tag


class Baseline(NamedTuple):
    """A way to answer without a model."""

    task: str
    about: str
    listens: bool  # whether it needs a `Sound`
    estimate: Callable[[LabelledSong, Sound | None, Training], Any]


class ListenedSongs(Dataset):
    """Songs as `(id, Sound, problem)`, for workers; one of the latter two is `None`."""

    def __init__(self, songs: Sequence[LabelledSong], beats: bool, chroma: bool):
        self.songs, self.beats, self.chroma = songs, beats, chroma

    def __len__(self) -> int:
        return len(self.songs)

    def __getitem__(self, index: int) -> tuple[str, Sound | None, str | None]:
        song = self.songs[index]
        try:
            return song.id, listen(load_audio(song.audio, SAMPLING_RATE), self.beats, self.chroma), None
        except (ValueError, TypeError, OSError) as error:
            return song.id, None, str(error)


def listen_to_songs(
    songs: Sequence[LabelledSong], beats: bool, chroma: bool, num_workers: int = 0
) -> dict[str, Sound]:
    """
    Song id → what [`listen`] hears, computed in `num_workers` processes (0: in this one).

    Raises:
        ValueError: audio cannot be read or is too short; names all such songs.
    """
    if not songs or not (beats or chroma):
        return {}
    # Compiled here, before there are workers: they would all compile the same, and write it to the same files.
    listen(np.sin(np.arange(4 * SAMPLING_RATE, dtype=np.float32) / 10), beats, chroma)
    loader = DataLoader(
        ListenedSongs(songs, beats, chroma), batch_size=None, num_workers=num_workers, collate_fn=as_it_is
    )
    sounds, problems = {}, []
    for name, sound, problem in tqdm(loader, unit="song", desc="listening"):
        if problem is None:
            sounds[name] = sound
        else:
            problems.append(f"{name}: {problem}")
    if problems:
        raise ValueError("Songs cannot be used: " + "; ".join(problems))
    return sounds


def learn(songs: Sequence[LabelledSong]) -> Training:
    """
    What baselines know of training songs. Where no song has sections, the function is verse; tags are empty where no
    song has tags.
    """
    seconds: dict[str, float] = {}
    for song in songs:
        for start, end, label in song.sections or []:
            if function := structure.function_of(label):
                seconds[function] = seconds.get(function, 0.0) + end - start
    tagged = [song.tags for song in songs if song.tags is not None]
    labels = sorted({tag for tags in tagged for tag in tags})
    shares = {label: sum(label in tags for tags in tagged) / len(tagged) for label in labels}
    return Training(max(seconds, key=seconds.__getitem__, default="verse"), shares)


def _chords_on_true_beats(song: LabelledSong, sound: Sound, training: Training) -> list[Segment] | None:
    if song.beats is None:
        return None
    return match_chords(sound.chroma, sound.frame_rate, song.beats.times, song.duration)


def _grids(song: LabelledSong, training: Training) -> list[list[Segment]]:
    """The song's grids of eight bars, by their first bar; none where downbeats are not known."""
    if song.beats is None or not (song.beats.positions == 1).any():
        return []
    return [bar_grid(song.beats, song.duration, training.function, bar) for bar in range(BARS_PER_SECTION)]


def _true_grid(song: LabelledSong, sound: Sound | None, training: Training) -> list[Segment] | None:
    """From the bar on that begins where the first section does, and back to the start."""
    grids = _grids(song, training)
    if not grids:
        return None
    downbeats = song.beats.times[song.beats.positions == 1]
    return grids[int(np.abs(downbeats - song.sections[0].start).argmin()) % BARS_PER_SECTION]


def _best_grid(song: LabelledSong, sound: Sound | None, training: Training) -> list[Segment] | None:
    grids = _grids(song, training)
    return max(grids, key=lambda grid: structure.score(song.sections, grid)[structure.METRIC], default=None)


BASELINES = {
    "beat_track": Baseline(
        "beat",
        "librosa.beat.beat_track; every fourth beat from the first is a downbeat",
        True,
        lambda song, sound, training: bars_of_four(sound.beats),
    ),
    "templates_true_beats": Baseline("chord", "chroma templates between annotated beats", True, _chords_on_true_beats),
    "templates_tracked_beats": Baseline(
        "chord",
        "chroma templates between beats of librosa.beat.beat_track",
        True,
        lambda song, sound, training: match_chords(sound.chroma, sound.frame_rate, sound.beats, song.duration),
    ),
    "key_profiles": Baseline(
        "key",
        "profiles of Krumhansl and Kessler on the mean chroma",
        True,
        lambda song, sound, training: [Segment(0.0, song.duration, match_key(sound.chroma))],
    ),
    "start_and_end": Baseline(
        "structure",
        "no boundary but start and end; the function that has most time in training songs",
        False,
        lambda song, sound, training: [Segment(0.0, song.duration, training.function)],
    ),
    "eight_bars": Baseline(
        "structure",
        "a boundary every eight annotated bars, counted from the start of the first section; the function that has "
        "most time in training songs",
        False,
        _true_grid,
    ),
    "eight_bars_best_phase": Baseline(
        "structure",
        "as eight_bars, but from the one of the first eight bars that scores best: what a regular grid can reach",
        False,
        _best_grid,
    ),
    "second_annotator": Baseline(
        "structure",
        "the column sections_2: boundaries and functions of another annotator",
        False,
        lambda song, sound, training: song.more.get("sections_2"),
    ),
    "prevalence": Baseline(
        "tagging",
        "for every song, how many of the training songs have a tag",
        False,
        lambda song, sound, training: training.tags,
    ),
}


def score_baseline(
    name: str, songs: Sequence[LabelledSong], sounds: dict[str, Sound], training: Training
) -> dict[str, Any] | None:
    """
    Scores of one of `BASELINES` on songs that are annotated for its task: `task`, `metric`, `about`, `scores`
    (averages with intervals, see [`scores_with_intervals`]) and `songs` (id → scores); of those songs only that have
    what it needs, and `None` where no song has.

    Raises:
        ValueError: for tagging, if no training song has tags.
    """
    task, about, _, estimate = BASELINES[name]
    if task == "tagging" and not training.tags:
        raise ValueError("No training song has tags: the baseline cannot know how frequent they are.")
    scores = {}
    for song in songs:
        if (found := estimate(song, sounds.get(song.id), training)) is not None:
            scores[song.id] = _score(task, song, found)
    if not scores:
        return None
    labels = list(training.tags) if task == "tagging" else task_labels(task, songs)
    summary = scores_with_intervals(MusicFMConfig(task=task, id2label=dict(enumerate(labels))), scores)
    return {"task": task, "metric": task_module(task).METRIC, "about": about, "scores": summary, "songs": scores}


def score_baselines(
    tasks: Sequence[str],
    songs: Sequence[LabelledSong],
    training_songs: Sequence[LabelledSong],
    where: str,
    num_workers: int = 0,
    limit: int | None = None,
) -> dict[str, dict[str, Any]]:
    """
    Name → what [`score_baseline`] gives, of all baselines of some tasks that songs have what it takes for.

    Args:
        songs: To score on.
        training_songs: Of which functions and tags are counted.
        where (`str`): What errors call the songs.
        num_workers (`int`): Processes that listen.
        limit (`int`, *optional*): Score so many songs of each task only.

    Raises:
        ValueError: no song is annotated for a task, or as the functions above.
    """
    annotated = {task: with_annotation(songs, task, where)[:limit] for task in tasks}
    training = learn(training_songs)
    listens = [task for task in tasks if any(one.task == task and one.listens for one in BASELINES.values())]
    heard = {song.id: song for task in listens for song in annotated[task]}
    beats, chroma = "beat" in listens or "chord" in listens, "chord" in listens or "key" in listens
    sounds = listen_to_songs(list(heard.values()), beats, chroma, num_workers)
    found = {
        name: score_baseline(name, annotated[baseline.task], sounds, training)
        for name, baseline in BASELINES.items()
        if baseline.task in tasks
    }
    return {name: scores for name, scores in found.items() if scores is not None}


def _score(task: str, song: LabelledSong, estimate: Any) -> dict[str, Any]:
    """Scores of one song, as [`score_song`] gives them for logits."""
    if task == "tagging":
        return {"probabilities": estimate, "tags": list(song.tags)}
    return task_module(task).score(annotation_of(song, task), estimate)


def score_data_set(
    data: str | os.PathLike,
    split: str = "test",
    tasks: Sequence[str] | None = None,
    num_workers: int = 2,
    limit: int | None = None,
) -> dict[str, dict[str, Any]]:
    """
    [`score_baselines`] on a data set, for all tasks that its songs are annotated for unless `tasks` names some.

    Raises:
        OSError: the data set does not exist.
        ValueError: it has no such split; or as [`score_baselines`].
    """
    songs = load_songs(data, split)
    tasks = tasks or [task for task in TASKS if any(annotation_of(song, task) is not None for song in songs)]
    training_songs = load_songs(data, "train") if {"structure", "tagging"} & set(tasks) else []
    return score_baselines(tasks, songs, training_songs, f"{data} ({split})", num_workers, limit)
