"""Annotations of a song."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks.annotations import SONG_COLUMNS, Beats, Segment
from ..tasks.audacity import write_label_track
from ..tasks.events import add_confidence, file_format, to_json, write_events
from ..tasks.sonic_visualiser import write_layer
from ..training.files import complete_files, write_text

FORMATS = ("json", "beats", "lab", "tags", "jams", "audacity", "sonic-visualiser", "midi")
DEFAULT_FORMATS = FORMATS[:4]
SONG_ENDINGS = {"json": "json", "jams": "jams", "midi": "mid"}  # format → ending of a file with all results

# Formats of other programs with a file for each result that consists of beats or segments → ending and writer.
_LABEL_FORMATS: dict[str, tuple[str, Callable[..., None]]] = {
    "audacity": ("txt", write_label_track),
    "sonic-visualiser": ("csv", write_layer),
}


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
            and `time_signatures`, and of a downbeat at each beat at position 1, for `downbeats`; see
            [`TaskSpec.event_probabilities`]. Silence has none, and they are ignored if the number of events was
            changed later.
        uncertain (`dict[str, np.ndarray]`): For the same names, whether each event is uncertain: its probability is
            below the threshold that was chosen when the model was calibrated. Without an entry, no event is marked.
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
    uncertain: dict[str, np.ndarray] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """Return the result with this name, an attribute or an entry of `more`, or `None`."""
        return getattr(self, name) if name in _RESULTS else self.more.get(name)

    def set(
        self,
        name: str,
        events: Any,
        probabilities: np.ndarray | None = None,
        uncertain: np.ndarray | None = None,
    ) -> None:
        """
        Set the result with this name, an attribute or an entry of `more`, the probability of each event, and whether
        it is uncertain. Without a result of its own, only these are set, as for `downbeats`.
        """
        if name in _RESULTS:
            setattr(self, name, events)
        elif events is not None:
            self.more[name] = events
        if probabilities is not None:
            self.probabilities[name] = probabilities
        if uncertain is not None and uncertain.any():
            self.uncertain[name] = uncertain

    def to_dict(self) -> dict[str, Any]:
        """Return all results that are not `None` as values for JSON; see [`musicfm_hf.tasks.events.to_json`]."""
        results = {name: events for name in (*_RESULTS, *self.more) if (events := self.get(name)) is not None}
        values = {"duration": round(self.duration, 6)} | {
            name: to_json(events, self.probabilities.get(name), self.uncertain.get(name))
            for name, events in results.items()
        }
        downbeats = [row for row in values.get("beats", []) if row["position"] == 1]
        add_confidence(
            downbeats, self.probabilities.get("downbeats"), self.uncertain.get("downbeats"), prefix="downbeat_"
        )
        if self.similarities is not None:
            values["similarities"] = {tag: round(value, 4) for tag, value in self.similarities.items()}
        return values

    def save(self, folder: str | os.PathLike, name: str, formats: Iterable[str] = DEFAULT_FORMATS) -> list[Path]:
        """
        Write the results that are not `None`. All files are written under temporary names, and renamed when they are
        complete; the JSON file is the last one.

        | format | files |
        | --- | --- |
        | `json` | `name.json`, with all results |
        | `beats`, `tags` | `name.beats`, `name.tags`: text, see [`musicfm_hf.tasks.annotations`] |
        | `lab` | `name.chords.lab`, `name.sections.lab`, `name.keys.lab`: text |
        | `jams` | `name.jams`, with all results |
        | `audacity` | `name.beats.txt`, `name.chords.txt` and so on: label tracks |
        | `sonic-visualiser` | `name.beats.csv`, `name.chords.csv` and so on: layers |
        | `midi` | `name.mid`: tempo map, time signatures, chords, markers |

        Results in `more` have files that end with their name, such as `name.meters.lab`. `.tags` and JAMS contain
        only tags with a probability of at least one half. Tempo, time signatures and the key of the song are in the
        JSON and JAMS files.

        Args:
            folder: Folder to write to; created if needed.
            name (`str`): Name of the song; may contain `/`.
            formats: One or several of `FORMATS`; by default `json`, `beats`, `lab` and `tags`.

        Returns:
            The files that were written.

        Raises:
            ValueError: if the name is empty, a format does not exist, or the results are not in order.
            ImportError: if `midi` is one of the formats, and mido or mir_eval is not installed.
        """
        formats = {formats} if isinstance(formats, str) else set(formats)
        if unknown := formats - set(FORMATS):
            raise ValueError(f"Formats are {', '.join(FORMATS)}, got {', '.join(sorted(unknown))}.")
        if not Path(name).name:
            raise ValueError(f"`name` must name a song, such as 'album/song', got {name!r}.")
        base = Path(folder) / name
        names = []
        with complete_files(base.parent, last=f"{base.name}.json") as temporary:
            for kind, ending in SONG_ENDINGS.items():
                if kind in formats:
                    names.append(f"{base.name}.{ending}")
                    self._write_song(kind, temporary / names[-1], base.name)
            for column in (*SONG_COLUMNS, *self.more):
                events = self.get(column)
                for kind, ending in [] if events is None else label_endings(column, file_format(events)):
                    if kind in formats:
                        names.append(f"{base.name}.{ending}")
                        write = _LABEL_FORMATS[kind][1] if kind in _LABEL_FORMATS else write_events
                        write(temporary / names[-1], events)
        return [base.with_name(file) for file in names]

    def _write_song(self, kind: str, path: Path, title: str) -> None:
        """Write a file with all results in a format of `SONG_ENDINGS`."""
        from .jams_file import write_jams
        from .midi_file import write_midi

        if kind == "json":
            write_text(path, json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")
        elif kind == "jams":
            write_jams(path, self, title)
        else:
            write_midi(path, self)

    @classmethod
    def load(cls, *paths: str | os.PathLike) -> "SongAnnotation":
        """
        Read what [`save`] wrote, also after it was corrected in another program, from one file or from several files
        of a song.

        Args:
            paths: Files with endings of [`save`], such as `song.json`, `song.mid`, or `song.beats` and
                `song.chords.txt`; also `.svl` files of Sonic Visualiser. If several files have one result, it is read
                from the first of them.

        Returns:
            The annotation, with the results that the format holds: probabilities are in JSON and JAMS files only, and
            marks of uncertain events in JSON files. If no file has the duration, it is the end of the last label.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if a file has another ending or is malformed. The message names the place.
            ImportError: for MIDI, if mido or mir_eval is not installed.
        """
        from .annotation_loading import load_results

        duration, results, uncertain = load_results([Path(path) for path in paths])
        similarities, _ = results.pop("similarities", (None, None))
        annotation = cls(duration, similarities=similarities)
        for name, (events, probabilities) in results.items():
            annotation.set(name, events, probabilities, uncertain.get(name))
        return annotation

    def write_tags(self, path: str | os.PathLike) -> list[str]:
        """
        Write the tempo and the key into the tags of an audio file, and leave everything else in it as it is; see
        [`musicfm_hf.inference.audio_tags`]. The tempo is `tempo`, or else the median tempo of the beats.

        Args:
            path: An mp3, flac, ogg, opus, m4a, mp4, wav or aiff file.

        Returns:
            The values that were written.

        Raises:
            FileNotFoundError, ValueError, ImportError: see [`musicfm_hf.inference.audio_tags.write_audio_tags`].
        """
        from .audio_tags import write_audio_tags

        tempo = self.get("tempo")
        if tempo is None and self.beats is not None and len(self.beats.times) > 1:
            tempo = 60 / float(np.median(np.diff(self.beats.times)))
        return write_audio_tags(path, tempo, self.key)

    def write_clicks(
        self, path: str | os.PathLike, waveform: np.ndarray | None = None, sampling_rate: int = 44100
    ) -> None:
        """
        Write a WAV file (16 bits, mono) with a click at each beat, higher at downbeats.

        Args:
            path: The file to write.
            waveform (`np.ndarray` of shape `(samples,)`, *optional*): The song under the clicks; by default, the
                clicks are alone.
            sampling_rate (`int`): Rate in Hz of the waveform and of the file.

        Raises:
            ValueError: if the annotation has no beats.
        """
        from .clicks import write_click_track

        if self.beats is None:
            raise ValueError("A click track needs beats: annotate the song with a model for the task beat.")
        samples = round(self.duration * sampling_rate) if waveform is None else len(waveform)
        write_click_track(path, self.beats, samples, sampling_rate, waveform)

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
    if attribute.name not in ("duration", "similarities", "probabilities", "uncertain", "more")
)


def label_endings(column: str, kind: str | None) -> list[tuple[str, str]]:
    """
    Return the formats in which a result has a file of its own, each with the ending of the file.

    Args:
        column (`str`): Name of the result.
        kind (`str`, *optional*): Its [`file_format`].
    """
    if kind is None:
        return []
    endings = [(kind, column if column == kind else f"{column}.{kind}")]
    if kind in ("beats", "lab"):  # tags have no times
        endings += [(name, f"{column}.{ending}") for name, (ending, _) in _LABEL_FORMATS.items()]
    return endings
