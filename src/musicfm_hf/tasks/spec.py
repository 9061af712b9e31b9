"""
The class `TaskSpec`, which holds everything that depends on a task. Each task is one file that defines `TASK`, and the
rest of the package uses that object and never checks the name of the task.

The defaults describe the most common kind of task: one class in each frame, annotated and decoded as segments. Such a
task needs only a name, a column, labels and rates.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..model.configuration_musicfm import MusicFMConfig
from . import calibration, spans
from .annotations import SONG_COLUMNS
from .averages import mean_over_songs, value_or_nan
from .calibration import Rightness
from .events import is_empty
from .spec_parts import Score, SetScores, Strip


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """
    Everything that depends on a task.

    Attributes:
        name (`str`): Value of `config.task` and of the flag `--task`.
        column (`str`): Name of its annotations in a song and in a data set, and of its result in a
            [`SongAnnotation`].
        order (`int`): Position in lists of tasks. The tasks of the paper are in the order of its Table 1.
        vocabulary (`str`, *optional*): Name of the set of labels, if the task exists with several: the value of
            `config.vocabulary` and of the flag `--vocabulary`.
        variants (`tuple[TaskSpec, …]`): The task with its other vocabularies; see [`with_vocabulary`].

        labels (`tuple[str, …]`, *optional*): Names of the logits. If `None`, they are collected from the songs of the
            data set.
        outputs (`tuple[dict, …]`): Slices of the logits, in the form of `config.classifier_outputs`, with the size
            `None` for all labels of the data. By default, one softmax over all labels.
        label_rate (`float`, *optional*): Label frames per second; in the tasks of the paper, those of the paper.
            `None` for one output per clip.
        centered (`bool`): Label frame j is centered at j / rate seconds instead of covering [j, j + 1) / rate.
        crop_seconds (`float`): Length of training crops and, if `label_rate` is `None`, the approximate length of the
            clips of a song.

        annotation (`Callable`, *optional*): Song → its annotation; by default the annotation in `column`.
        parse (`Callable`, *optional*): Text of an annotated label → one of `labels`, or `None` to ignore it; raises
            `ValueError` if the text is not a label. By default the text must be one of `labels`.
        remarks (`Callable`, *optional*): `(annotation, seconds of audio)` → texts about what is probably a mistake or
            what its annotator may not expect. `musicfm prepare` lists them.
        empty_is_annotated (`bool`): An annotation without entries counts as an annotation, as for tags.
        targets (`Callable`, *optional*): `(annotation, num_frames, rate, start seconds)` → float32 `(num_frames,
            labels)`, with -100 for frames to ignore. If `label_rate` is `None`: `(annotation, labels)` → float32
            `(labels,)`. By default, the label with the most time in each frame.
        transpose (`Callable`, *optional*): `(targets, semitones)` → targets of the transposed music. `None`: crops
            must not be pitch-shifted.
        stretchable (`bool`): Crops may be time-stretched, because the times of the annotation can be scaled with them.
        resamplable (`bool`): Crops may be played faster or slower, which changes tempo and pitch together.

        events (`Callable`, *optional*): `(logits, rate, **settings)` → beats or segments of a song. If `label_rate` is
            `None`: `(logits (clips, labels), labels)` → `{label: probability}`. By default, runs of the most likely
            label, with the setting `min_seconds`.
        learn_decoding (`Callable`, *optional*): Annotations of the training songs → settings of `events` that are
            saved with the model.
        probabilities (`Callable`, *optional*): `(logits, events, labels, rate)` → probability of each event, float64
            `(events,)`. By default, the mean probability of the label of a segment.
        song_results (`Callable`, *optional*): `(logits, events, rate, **settings)` → `{name: (value, probabilities or
            None)}`: further results for the song, which [`SongAnnotation`] stores under these names. Silence has no
            logits, `(0, labels)`.
        right (`Callable`, *optional*): `(annotation, events, further results)` → `{name: (right, weights)}`: for each
            result with probabilities, the share of each item that is right, and its weight; see [`Items`]. By default,
            the share of the time of each segment with the right label.
        music_parts (`Callable`, *optional*): Segments → whether each is music. Other tasks have results only there.
        scored_results (`tuple[str, …]`): Names of further results that `score` takes as keyword arguments.
        silence (`Callable`): Seconds of audio that is silent throughout → its events.

        metric (`str`): Score that selects checkpoints and layers; higher is better.
        scores (`dict[str, Score]`): Scores listed in model cards.
        score (`Callable`, *optional*): `(annotation, events)` → `{score: value}` of one song, with nan for scores that
            are undefined. By default `accuracy`, the share of the annotated time with the right label.
        song_value (`Callable`): `(scores of a song, name)` → the value that enters averages, or nan.
        average (`Callable`, *optional*): Scores of songs → averages; by default means over songs.
        set_scores ([`SetScores`], *optional*): Replaces `average` if single songs have no scores.

        about, limits (`str`): Sentences for model cards: a description of the labels, and the limits of the model.
        strip ([`Strip`], *optional*): Strip in the picture; by default colored segments. `None` for no strip.
        file_format (`str`): Format in which results are saved beside JSON: `lab`, `beats` or `tags`.

        source (`Path`, *optional*): The file that defines the task, if it is not in this folder.
    """

    name: str
    column: str
    order: int = 100
    vocabulary: str | None = None
    variants: "tuple[TaskSpec, ...]" = ()

    labels: tuple[str, ...] | None = None
    outputs: tuple[Mapping[str, Any], ...] = ()
    label_rate: float | None = 1.0
    centered: bool = False
    crop_seconds: float = 12.0

    annotation: Callable[[Any], Any] | None = None
    parse: Callable[[str], str | None] | None = None
    remarks: Callable[[Any, float], list[str]] | None = None
    empty_is_annotated: bool = False
    targets: Callable[..., np.ndarray] | None = None
    transpose: Callable[[np.ndarray, int], np.ndarray] | None = None
    stretchable: bool = False
    resamplable: bool = False

    events: Callable[..., Any] | None = None
    learn_decoding: Callable[[Sequence[Any]], dict[str, Any]] | None = None
    probabilities: Callable[..., np.ndarray] | None = spans.label_probabilities
    song_results: Callable[..., dict[str, tuple[Any, np.ndarray | None]]] | None = None
    right: Callable[[Any, Any, Mapping[str, Any]], dict[str, Rightness]] | None = None
    music_parts: Callable[[Sequence[Any]], list[bool]] | None = None
    scored_results: tuple[str, ...] = ()
    silence: Callable[[float], Any] = spans.no_segments

    metric: str = "accuracy"
    scores: Mapping[str, Score] = field(
        default_factory=lambda: {"accuracy": Score("accuracy", "time with the right label")}
    )
    score: Callable[..., dict[str, Any]] | None = None
    song_value: Callable[[Mapping[str, Any], str], float] = value_or_nan
    average: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]] | None = None
    set_scores: SetScores | None = None

    about: str = ""
    limits: str = ""
    strip: Strip | None = field(default_factory=Strip)
    file_format: str = "lab"

    source: Path | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.column:
            raise ValueError(f"A task needs a `name` and a `column`, got {self.name!r} and {self.column!r}.")
        if self.label_rate is None and (self.targets is None or self.events is None or self.score is None):
            raise ValueError(
                f"The task {self.name} labels whole clips (`label_rate` is None): it needs `targets`, `events` and "
                "`score`, as in tasks/tagging.py."
            )

    def __reduce__(self) -> tuple[Callable[..., "TaskSpec"], tuple[Any, ...]]:
        """Pickle by name or file, so that functions are not pickled for worker processes."""
        from . import get_task, load_task_file

        load: Callable[..., TaskSpec] = get_task if self.source is None else load_task_file
        return load, (self.source or self.name, self.vocabulary)

    def with_vocabulary(self, vocabulary: str | None) -> "TaskSpec":
        """
        Return the task with another vocabulary; `None` for the one that the task has by default.

        Raises:
            ValueError: if the task does not exist with this vocabulary.
        """
        if vocabulary in (None, self.vocabulary):
            return self
        for variant in self.variants:
            if variant.vocabulary == vocabulary:
                return replace(variant, source=self.source)
        names = [spec.vocabulary for spec in (self, *self.variants) if spec.vocabulary is not None]
        known = f"it must be one of {', '.join(names)}" if names else "leave it out, because the task has only one"
        raise ValueError(f"The task {self.name} does not have the vocabulary {vocabulary!r}: {known}.")

    @property
    def result_expression(self) -> str:
        """Python code for the result in a [`SongAnnotation`]: `chords`, or `more["meters"]`."""
        return self.column if self.column in SONG_COLUMNS else f'more["{self.column}"]'

    @property
    def file_ending(self) -> str:
        """Suffix of the file for a result: `beats`, `chords.lab`, `tags`."""
        return self.column if self.column == self.file_format else f"{self.column}.{self.file_format}"

    def annotation_of(self, song: Any) -> Any:
        """Return the annotation of a [`LabeledSong`]: [`Beats`], segments or tags, or `None` if it has none."""
        if self.annotation is not None:
            return self.annotation(song)
        return getattr(song, self.column) if self.column in SONG_COLUMNS else song.more.get(self.column)

    def is_annotated(self, song: Any) -> bool:
        """Return whether a song is annotated for the task. Empty beats or segments do not count as an annotation."""
        annotation = self.annotation_of(song)
        return annotation is not None and (self.empty_is_annotated or not is_empty(annotation))

    def label_names(self, songs: Iterable[Any]) -> list[str]:
        """Return the names of the logits: those of the task, or all labels of the songs in alphabetical order."""
        if self.labels is not None:
            return list(self.labels)
        entries = (entry for song in songs for entry in self.annotation_of(song) or [])
        return sorted({entry if isinstance(entry, str) else entry.label for entry in entries})

    def classifier_outputs(self, num_labels: int) -> list[dict[str, Any]]:
        """Return `config.classifier_outputs` for a model with this number of labels."""
        outputs = self.outputs or (spans.single_label_output(self.name),)
        return [dict(output, size=output["size"] or num_labels) for output in outputs]

    def make_targets(self, config: MusicFMConfig, annotation: Any, num_frames: int, start: float = 0.0) -> np.ndarray:
        """
        Compute the targets of a crop.

        Args:
            config ([`MusicFMConfig`]): Configuration of the model with its head.
            annotation: Annotation of the whole song.
            num_frames (`int`): Number of label frames in the crop; not used if a clip has one output.
            start (`float`): Seconds at which the crop begins.

        Returns:
            float32 `(num_frames, num_labels)`, or `(num_labels,)` if a clip has one output.

        Raises:
            ValueError: if the annotation is not in order, or has a label that cannot be parsed.
        """
        labels = label_names(config)
        if self.targets is None:
            parse = self._parser(labels)
            return spans.frame_targets(annotation, parse, labels, num_frames, self._label_rate(config), start)
        if self.label_rate is None:
            return self.targets(annotation, labels)
        return self.targets(annotation, num_frames, config.label_rate, start)

    def decode(self, config: MusicFMConfig, logits: np.ndarray) -> Any:
        """
        Decode the logits of a whole song, with the settings in `config.decoding`.

        Args:
            config ([`MusicFMConfig`]): Configuration of the model with its head.
            logits (`np.ndarray` of shape `(label frames or clips, num_labels)`): Scores before softmax or sigmoid.

        Returns:
            [`Beats`], a list of [`Segment`], or a dictionary from tags to probabilities, with the highest first.

        Raises:
            ValueError: if logits have another shape or are not finite, or a setting is out of range.
            TypeError: if the decoder has no such setting.
        """
        settings = config.decoding or {}
        if self.events is None:
            return spans.decode(logits, label_names(config), self._label_rate(config), **settings)
        labels_or_rate = label_names(config) if self.label_rate is None else config.label_rate
        return self.events(logits, labels_or_rate, **settings)

    def calibrate(self, config: MusicFMConfig, events: Any) -> Any:
        """Return decoded events; tags with their calibrated probabilities."""
        if not isinstance(events, Mapping):
            return events
        values = calibration.scale(np.array(list(events.values())), self.scaling(config, self.column))
        return dict(zip(events, values.tolist(), strict=True))

    def event_probabilities(self, config: MusicFMConfig, logits: np.ndarray, events: Any) -> np.ndarray | None:
        """
        Return the probability of each event that [`decode`] returned. For a beat, this is the probability of a beat or
        downbeat in the nearest frame; for a segment, the mean probability of its label over its frames. If the model
        is calibrated (`config.calibration`), it is scaled; see [`musicfm_hf.tasks.calibration`].

        Args:
            config ([`MusicFMConfig`]): Configuration of the model with its head.
            logits (`np.ndarray` of shape `(label frames, num_labels)`): Logits of the whole song.
            events: Beats, or segments with labels of the model.

        Returns:
            float64 `(events,)`, or `None` if the events already contain probabilities.
        """
        if self.probabilities is None:
            return None
        num_classes = self.outputs[0]["size"] if self.outputs else config.num_labels
        values = self.probabilities(logits, events, label_names(config)[:num_classes], config.label_rate)
        return calibration.scale(values, self.scaling(config, self.column))

    def scaling(self, config: MusicFMConfig, name: str) -> dict[str, float] | None:
        """Return the scaling of the probabilities of a result, and its threshold; `None` if it is not calibrated."""
        return (config.calibration or {}).get(name)

    def further_results(
        self, config: MusicFMConfig, logits: np.ndarray, events: Any
    ) -> dict[str, tuple[Any, np.ndarray | None]]:
        """
        Return further results for a song, such as its key or its tempo
        (`{name: (value, probabilities or None)}`), from its logits, `(0, labels)` for silence, and its events.
        """
        if self.song_results is None:
            return {}
        results = self.song_results(logits, events, config.label_rate, **(config.decoding or {}))
        return {
            name: (value, None if items is None else calibration.scale(items, self.scaling(config, name)))
            for name, (value, items) in results.items()
        }

    def right_items(self, annotation: Any, events: Any, results: Mapping[str, Any]) -> dict[str, Rightness]:
        """Compare the events of a song, and its further results, with its annotation; see `right`."""
        if self.right is not None:
            return self.right(annotation, events, results)
        compare = calibration.equal_labels(self.parse or str)
        return {self.column: calibration.time_right(annotation, events, compare)}

    def score_song(self, annotation: Any, events: Any, results: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        Score the events of one song.

        Args:
            annotation: Annotation of the song; see [`annotation_of`].
            events: Output of [`decode`].
            results (`dict[str, Any]`, *optional*): Values of further results; those in `scored_results` are scored.

        Returns:
            `{score: value}`, with nan for scores that are undefined; for tasks with `set_scores`, the input of its
            functions.
        """
        if self.score is None:
            return {"accuracy": spans.share_of_time(annotation, events, self.parse or str)}
        scored = {name: value for name, value in (results or {}).items() if name in self.scored_results}
        return self.score(annotation, events, **scored)

    def average_scores(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Average each score over the songs that have it."""
        if self.set_scores is not None:
            return self.set_scores.average(rows)
        return mean_over_songs(rows, self.song_value) if self.average is None else self.average(rows)

    def _label_rate(self, config: MusicFMConfig) -> float:
        """Return the label rate, or raise a `ValueError` if the model has none."""
        if config.label_rate is None:
            raise ValueError(f"The task {self.name} labels frames, but `label_rate` of the model is None.")
        return config.label_rate

    def _parser(self, labels: Sequence[str]) -> Callable[[str], str | None]:
        """
        Return a function from the text of a label to one of `labels`. If the task defines no labels, texts that are
        not among `labels` are ignored; otherwise they raise a `ValueError`.
        """
        if self.parse is not None:
            return self.parse
        known = set(labels)
        if self.labels is None:
            return lambda text: text if text in known else None
        return lambda text: spans.check_label(text, labels)


def label_names(config: MusicFMConfig) -> list[str]:
    """Return the names of the logits of a model, in order."""
    names: Any = config.id2label
    return [names[index] for index in range(len(names))]
