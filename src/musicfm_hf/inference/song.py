"""Annotations of a song."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks.annotations import Beats, Segment, write_beats, write_segments

FORMATS = ("json", "beats", "lab", "tags")

LIKELY = 0.5  # the probability from which a tag is written to a `.tags` file


@dataclass(eq=False)  # arrays have no one truth
class SongAnnotation:
    """
    What was found in a song. What no model was asked for is `None`.

    Attributes:
        duration (`float`): Seconds of audio.
        beats (`Beats`): Times in seconds, and positions in the bar from 1.
        chords (`list[Segment]`): Seconds, and labels such as `A:min`, `N` for none.
        sections (`list[Segment]`): Seconds, and functions such as verse.
        keys (`list[Segment]`): Seconds, and keys such as `F#:min`, `N` for none.
        key (`str`): Of the whole song.
        tags (`dict[str, float]`): Probabilities, the highest first.
        probabilities (`dict[str, np.ndarray]`): How sure the models are of each of the `beats`, `chords`, `sections`
            and `keys`, as [`musicfm_hf.tasks.event_probabilities`] says. Of silence there are none, and where the
            number of events was changed since they are left out.
    """

    duration: float
    beats: Beats | None = None
    chords: list[Segment] | None = None
    sections: list[Segment] | None = None
    keys: list[Segment] | None = None
    key: str | None = None
    tags: dict[str, float] | None = None
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All that is not `None`, as JSON has it. Times in seconds, to the microsecond; `probability` where known."""
        values: dict[str, Any] = {"duration": round(self.duration, 6)}
        if self.beats is not None:
            values["beats"] = [
                {"time": round(float(time), 6), "position": int(position)}
                for time, position in zip(*self.beats, strict=True)
            ]
        for name in ("chords", "sections", "keys"):
            if (segments := getattr(self, name)) is not None:
                values[name] = [
                    {"start": round(start, 6), "end": round(end, 6), "label": label} for start, end, label in segments
                ]
        for name, probabilities in self.probabilities.items():
            if len(values.get(name, [])) != len(probabilities):
                continue
            for event, probability in zip(values[name], probabilities, strict=True):
                event["probability"] = round(float(probability), 4)
        if self.key is not None:
            values["key"] = self.key
        if self.tags is not None:
            values["tags"] = dict(self.tags)
        return values

    def save(self, folder: str | os.PathLike, name: str, formats: Iterable[str] = FORMATS) -> list[Path]:
        """
        Write what there is of `name.json`, `name.beats`, `name.chords.lab`, `name.sections.lab`, `name.keys.lab` and
        `name.tags`, as [`musicfm_hf.tasks.annotations`] reads them. A `.tags` file has the tags whose probability is
        at least one half; JSON has all.

        Args:
            folder: Where to write; made if it is not there.
            name (`str`): Of the song; may contain `/`.
            formats: Some of `FORMATS`, or one.

        Returns:
            The files that were written.

        Raises:
            ValueError: there is no such format.
        """
        formats = {formats} if isinstance(formats, str) else set(formats)
        if unknown := formats - set(FORMATS):
            raise ValueError(f"Formats are {', '.join(FORMATS)}, got {', '.join(sorted(unknown))}.")
        start = Path(folder) / name
        start.parent.mkdir(parents=True, exist_ok=True)
        files = {}
        if "json" in formats:
            files["json"] = json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"
        if "beats" in formats and self.beats is not None:
            files["beats"] = self.beats
        for kind in ("chords", "sections", "keys"):
            if "lab" in formats and getattr(self, kind) is not None:
                files[f"{kind}.lab"] = getattr(self, kind)
        if "tags" in formats and self.tags is not None:
            files["tags"] = "".join(f"{tag}\n" for tag, probability in self.tags.items() if probability >= LIKELY)
        paths = []
        for ending, content in files.items():
            path = start.with_name(f"{start.name}.{ending}")
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            else:
                (write_beats if ending == "beats" else write_segments)(path, content)
            paths.append(path)
        return paths

    def draw(self, path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int, title: str = "") -> None:
        """
        Draw the song as PNG, in rows like the systems of a score: spectrogram, sections, bars and beats, chords, keys;
        tags at the top. Audio of more than a quarter of an hour is drawn as an overview without beats and chords.

        Args:
            path: The file to write.
            waveform (`np.ndarray` of shape `(samples,)`), sampling_rate (`int`): The audio that was annotated.
            title (`str`): Above the picture; the name of the file by default.

        Raises:
            ValueError: if the waveform is not mono or has another duration than the annotation.
        """
        from .drawing import draw_annotation

        draw_annotation(self, path, waveform, sampling_rate, title or Path(path).stem)
