"""
Music as notes with labels: the common form of songs that are read, composed, arranged and rendered.

Times are in seconds from the start of the song. The labels are those of a labeled data set (see
`tasks/annotations.py`), and every change of a score changes notes and labels alike, so that they stay exact.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..tasks.annotations import Beats, Segment, check_beats, check_segments
from .transposition import transpose_chord, transpose_key

MELODY, BRIDGE, PIANO, BASS, DRUMS, PAD = "MELODY", "BRIDGE", "PIANO", "BASS", "DRUMS", "PAD"

TimeMap = Callable[[float], float]  # seconds → seconds, increasing

_SHORTEST = 1e-4  # seconds; what an excerpt would cut shorter is left out


@dataclass(frozen=True, slots=True)
class ScoreNote:
    """
    A note.

    Attributes:
        start, end (`float`): Seconds.
        pitch (`int`): MIDI number from 0 to 127; of drums, the number of the instrument in General MIDI.
        velocity (`int`): From 1 to 127.

    Raises:
        ValueError: a number is out of range, or the note does not end after its start.
    """

    start: float
    end: float
    pitch: int
    velocity: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end < math.inf:
            raise ValueError(
                f"A note must end after its start, which is not negative, got {self.start} to {self.end} s."
            )
        if not 0 <= self.pitch <= 127:
            raise ValueError(f"The pitch of a note must be from 0 to 127, got {self.pitch}.")
        if not 1 <= self.velocity <= 127:
            raise ValueError(f"The velocity of a note must be from 1 to 127, got {self.velocity}.")


@dataclass(frozen=True, slots=True)
class ScoreControl:
    """
    A change of a MIDI controller.

    Attributes:
        time (`float`): Seconds.
        number (`int`): Controller from 0 to 127, such as 11 for expression and 64 for the sustain pedal.
        value (`int`): From 0 to 127.

    Raises:
        ValueError: a number is out of range.
    """

    time: float
    number: int
    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.time < math.inf:
            raise ValueError(f"The time of a controller must not be negative, got {self.time} s.")
        if not (0 <= self.number <= 127 and 0 <= self.value <= 127):
            raise ValueError(
                f"Controllers and their values must be from 0 to 127, got {self.number} and {self.value}."
            )


@dataclass(frozen=True)
class Part:
    """
    The notes of one instrument.

    Attributes:
        name (`str`): MELODY, BRIDGE, PIANO, BASS, DRUMS, PAD, or another name.
        program (`int`): General MIDI program from 0; of drums, the drum kit.
        notes (`tuple[ScoreNote, …]`): Notes in order of their start.
        is_drums (`bool`): Whether pitches are drums.
        controls (`tuple[ScoreControl, …]`): Controllers in order of time.
        decibels (`float`): Level, relative to the other parts.
        pan (`float`): From -1, left, to 1, right.

    Raises:
        ValueError: a number is out of range, or notes or controllers are not in order.
    """

    name: str
    program: int
    notes: tuple[ScoreNote, ...]
    is_drums: bool = False
    controls: tuple[ScoreControl, ...] = ()
    decibels: float = 0.0
    pan: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.program <= 127:
            raise ValueError(f"Part {self.name}: the program must be from 0 to 127, got {self.program}.")
        if not -1 <= self.pan <= 1:
            raise ValueError(f"Part {self.name}: the pan must be from -1 to 1, got {self.pan}.")
        starts, times = [note.start for note in self.notes], [control.time for control in self.controls]
        if starts != sorted(starts) or times != sorted(times):
            raise ValueError(f"Part {self.name}: notes and controllers must be in order of time.")

    def mapped(self, time_map: TimeMap) -> "Part":
        """Return the part with every time mapped."""
        notes = (replace(note, start=time_map(note.start), end=time_map(note.end)) for note in self.notes)
        controls = (replace(control, time=time_map(control.time)) for control in self.controls)
        return replace(self, notes=tuple(notes), controls=tuple(controls))

    def transposed(self, semitones: int) -> "Part":
        """Return the part with every note shifted. Drums stay. Raises `ValueError` for notes beyond 0 to 127."""
        if self.is_drums or not semitones:
            return self
        return replace(self, notes=tuple(replace(note, pitch=note.pitch + semitones) for note in self.notes))

    def excerpt(self, start: float, end: float) -> "Part":
        """Return the part from `start` to `end`, as [`Score.excerpt`] describes."""
        notes = [
            replace(note, start=max(note.start, start) - start, end=min(note.end, end) - start)
            for note in self.notes
            if min(note.end, end) - max(note.start, start) > _SHORTEST
        ]
        state = {control.number: control.value for control in self.controls if control.time <= start}
        controls = [ScoreControl(0.0, number, value) for number, value in state.items()]
        controls += [
            replace(control, time=control.time - start) for control in self.controls if start < control.time < end
        ]
        return replace(self, notes=tuple(sorted(notes, key=lambda note: note.start)), controls=tuple(controls))


@dataclass(frozen=True, eq=False)
class Score:
    """
    A song as notes, and its labels.

    Attributes:
        id (`str`): Name of the song.
        group (`str`): Songs of one group are kept in one split.
        parts (`tuple[Part, …]`): Parts. Several may have the same name.
        duration (`float`): Seconds until the last note has ended.
        beats (`Beats`): Times, and positions in the bar from 1.
        chords, sections, keys (`list[Segment]`): Segments of time with labels.
        tags (`tuple[str, …]`): Tags of the music, such as its mode, whatever instruments play it.

    Raises:
        ValueError: the duration is not above 0, or beats or segments are not in order.
    """

    id: str
    group: str
    parts: tuple[Part, ...]
    duration: float
    beats: Beats
    chords: list[Segment]
    sections: list[Segment]
    keys: list[Segment]
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.duration < math.inf:
            raise ValueError(f"Score {self.id}: the duration must be above 0, got {self.duration} s.")
        check_beats(self.beats, f"Score {self.id}")
        for name in ("chords", "sections", "keys"):
            check_segments(getattr(self, name), f"Score {self.id}, {name}")

    def transposed(self, semitones: int) -> "Score":
        """
        Return the score in another key. Drums stay. Chords and keys are spelled as in transposed songs of POP909.

        Raises:
            ValueError: a note would be outside 0 to 127.
        """
        if not semitones:
            return self
        return replace(
            self,
            parts=tuple(part.transposed(semitones) for part in self.parts),
            chords=[chord._replace(label=transpose_chord(chord.label, semitones)) for chord in self.chords],
            keys=[key._replace(label=transpose_key(key.label, semitones)) for key in self.keys],
        )

    def mapped(self, time_map: TimeMap) -> "Score":
        """
        Return the score with every time mapped: notes, controllers, labels and the duration.

        Args:
            time_map (`Callable`): An increasing function from seconds to seconds that is not negative.

        Raises:
            ValueError: notes or labels are no longer in order, or have no length.
        """

        def mapped(segments: list[Segment]) -> list[Segment]:
            return [Segment(time_map(start), time_map(end), label) for start, end, label in segments]

        return replace(
            self,
            parts=tuple(part.mapped(time_map) for part in self.parts),
            duration=time_map(self.duration),
            beats=self.beats._replace(times=np.array([time_map(float(time)) for time in self.beats.times])),
            chords=mapped(self.chords),
            sections=mapped(self.sections),
            keys=mapped(self.keys),
        )

    def excerpt(self, start: float, end: float) -> "Score":
        """
        Return the score from `start` to `end` in seconds, which then starts at 0. Notes and segments that overlap a
        boundary are cut, so that a note that sounds at `start` begins there; controllers begin with the values that
        they have at `start`.

        Raises:
            ValueError: `start` is negative, or not before both `end` and the end of the score.
        """
        end = min(end, self.duration)
        if not 0 <= start < end:
            raise ValueError(
                f"An excerpt must begin within the score, which lasts {self.duration:g} s, and end after its start, "
                f"got {start:g} to {end:g} s."
            )

        def cut(segments: list[Segment]) -> list[Segment]:
            pieces = (
                Segment(max(first, start) - start, min(last, end) - start, name) for first, last, name in segments
            )
            return [piece for piece in pieces if piece.end - piece.start > _SHORTEST]

        inside = (self.beats.times >= start) & (self.beats.times < end)
        return replace(
            self,
            parts=tuple(part.excerpt(start, end) for part in self.parts),
            duration=end - start,
            beats=Beats(self.beats.times[inside] - start, self.beats.positions[inside]),
            chords=cut(self.chords),
            sections=cut(self.sections),
            keys=cut(self.keys),
        )

    def with_parts(self, parts: Sequence[Part]) -> "Score":
        """Return the score with other parts, and the same labels and duration."""
        return replace(self, parts=tuple(parts))
