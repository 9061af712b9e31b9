"""Annotations of a song."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks.annotations import SONG_COLUMNS, Beats, Segment
from ..tasks.events import file_format, to_json, write_events
from ..training.files import complete_files, write_text

FORMATS = ("json", "beats", "lab", "tags")


@dataclass(eq=False)  # arrays do not compare to one truth value
class SongAnnotation:
    """
    Annotations of a song by models. An annotation is `None` if no model produced it.

    Attributes:
        duration (`float`): Seconds of audio.
        beats (`Beats`): Times in seconds, and positions in the bar from 1.
        chords (`list[Segment]`): Chords with labels such as `A:min`, or `N` for none.
        sections (`list[Segment]`): Sections labeled with functions such as verse.
        keys (`list[Segment]`): Keys with labels such as `F#:min`, or `N` for none.
        key (`str`): Key of the whole song.
        tags (`dict[str, float]`): Probabilities of tags, with the highest first.
        similarities (`dict[str, float]`): Similarities with tags in words, with the highest first; see
            [`ZeroShotTagger`].
        probabilities (`dict[str, np.ndarray]`): Probability of each event, for `beats`, `chords`, `sections`, `keys`
            and `time_signatures`; see [`TaskSpec.event_probabilities`]. Silence has none, and they are ignored if the
            number of events was changed later.
        more (`dict[str, Any]`): Results of other tasks by column: beats, segments, probabilities of tags, or one
            label.
        tempo (`float`): Tempo of the song, in beats per minute; see [`musicfm_hf.tasks.meter.global_tempo`].
        tempo_curve (`np.ndarray` of shape `(beats, 2)`): Seconds and beats per minute at each beat; see
            [`musicfm_hf.tasks.meter.tempo_curve`].
        time_signatures (`list[Segment]`): Spans with a constant number of beats in a bar, with labels such as `3`; see
            [`musicfm_hf.tasks.meter.time_signatures`].
    """

    duration: float
    beats: Beats | None = None
    chords: list[Segment] | None = None
    sections: list[Segment] | None = None
    keys: list[Segment] | None = None
    key: str | None = None
    tags: dict[str, float] | None = None
    similarities: dict[str, float] | None = None
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    tempo: float | None = None
    tempo_curve: np.ndarray | None = None
    time_signatures: list[Segment] | None = None

    def get(self, name: str) -> Any:
        """Return the result with this name, an attribute or an entry of `more`, or `None`."""
        return getattr(self, name) if name in _RESULTS else self.more.get(name)

    def set(self, name: str, events: Any, probabilities: np.ndarray | None = None) -> None:
        """Set the result with this name, an attribute or an entry of `more`, and the probability of each event."""
        if name in _RESULTS:
            setattr(self, name, events)
        else:
            self.more[name] = events
        if probabilities is not None:
            self.probabilities[name] = probabilities

    def to_dict(self) -> dict[str, Any]:
        """Return all results that are not `None` as values for JSON; see [`musicfm_hf.tasks.events.to_json`]."""
        results = {name: events for name in (*_RESULTS, *self.more) if (events := self.get(name)) is not None}
        values = {"duration": round(self.duration, 6)} | {
            name: to_json(events, self.probabilities.get(name)) for name, events in results.items()
        }
        if self.similarities is not None:
            values["similarities"] = {tag: round(value, 4) for tag, value in self.similarities.items()}
        return values

    def save(self, folder: str | os.PathLike, name: str, formats: Iterable[str] = FORMATS) -> list[Path]:
        """
        Write the results that are not `None` to `name.json`, `name.beats`, `name.chords.lab`, `name.sections.lab`,
        `name.keys.lab` and `name.tags`, and results in `more` to files that end with their name and format, such as
        `name.meters.lab`. [`musicfm_hf.tasks.annotations`] reads these files. A `.tags` file contains only tags with a
        probability of at least one half; the JSON file contains all tags, and the similarities. All files are written
        under temporary names, and renamed when they are complete; the JSON file is the last one.

        Args:
            folder: Folder to write to; created if needed.
            name (`str`): Name of the song; may contain `/`.
            formats: One or several of `FORMATS`.

        Returns:
            The files that were written.

        Raises:
            ValueError: if a format does not exist.
        """
        formats = {formats} if isinstance(formats, str) else set(formats)
        if unknown := formats - set(FORMATS):
            raise ValueError(f"Formats are {', '.join(FORMATS)}, got {', '.join(sorted(unknown))}.")
        base = Path(folder) / name
        names = []
        with complete_files(base.parent, last=f"{base.name}.json") as temporary:
            if "json" in formats:
                names.append(f"{base.name}.json")
                write_text(temporary / names[0], json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")
            for column in (*SONG_COLUMNS, *self.more):
                events = self.get(column)
                if events is not None and (kind := file_format(events)) in formats:
                    names.append(f"{base.name}.{column if column == kind else f'{column}.{kind}'}")
                    write_events(temporary / names[-1], events)
        return [base.with_name(file) for file in names]

    def draw(self, path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int, title: str = "") -> None:
        """
        Draw the song as PNG, in rows, as in a score: spectrogram, sections, bars and beats, chords, keys, and results
        of other tasks, with the tags at the top. Audio longer than 15 minutes is drawn as an overview, without beats
        and chords.

        Args:
            path: The file to write.
            waveform (`np.ndarray` of shape `(samples,)`), sampling_rate (`int`): The audio that was annotated.
            title (`str`): Title above the picture; the name of the file by default.

        Raises:
            ValueError: if the waveform is not mono, or its duration differs from that of the annotation.
        """
        from .drawing import draw_annotation

        draw_annotation(self, path, waveform, sampling_rate, title or Path(path).stem)


_RESULTS = tuple(
    attribute.name
    for attribute in fields(SongAnnotation)
    if attribute.name not in ("duration", "similarities", "probabilities", "more")
)
