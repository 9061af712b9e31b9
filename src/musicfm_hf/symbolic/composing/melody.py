"""
Melodies: their statistics, and pitches for a rhythm over chords.

A phrase gets the form of its rhythm, then rhythms for its bars, then a contour, the mean pitch of each bar, and last
the pitches. They are drawn by the interval to the one before, by whether chord tones are usual at this place in the
bar, by the degree of the scale, and by the contour.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ...tasks.chord_syntax import chord_tones
from .manner import bar_rhythm
from .material import BAR, BEATS, STEPS, GridNote, Phrase, chord_label
from .meters import draw_meter

SCALES = {"maj": (0, 2, 4, 5, 7, 9, 11), "min": (0, 2, 3, 5, 7, 8, 10)}
CHORD, SCALE, OUTSIDE = range(3)  # roles of a pitch
_WIDEST = 12  # semitones of an interval
_MOST_CONTOURS = 100  # of each number of bars
_SPREAD = 3.5  # standard deviation of pitches around the contour, in semitones
_DEGREE_WEIGHT = 0.1
_FILL = 2.0  # notes of a context that are counted without regard to their degree
_UNSEEN = 0.02  # the same for intervals that are not in the songs
# A repeated note fits the chord, the degree and the contour as well as the one before it did. Without this log weight,
# melodies would repeat more notes than the songs.
_REPEATED = -0.6


@dataclass
class MelodyStatistics:
    """
    Pitches of melodies.

    Attributes:
        intervals (`dict`): Context → counts of intervals in semitones. A context is the class of the interval before
            (see [`interval_class`]), alone or after the mode and the degree of the note, such as `maj 7 step up`.
        roles (`dict`): Strength of the step in the bar (see [`Meter.strengths`]) → numbers of notes in the chord, of
            others in the scale, and of others.
        degrees, finals (`dict`): Mode → numbers of notes, and of last notes, on the twelve semitones from the tonic.
        contours (`dict`): Number of bars → means of the pitches of each bar relative to that of the phrase.
        forms (`dict`): Number of bars → counts of the form of the rhythm, such as `abac`.
        copies (`float`): Share of bars with the rhythm of an earlier bar of the phrase that also have its intervals.
    """

    intervals: dict[str, dict[str, int]] = field(default_factory=dict)
    roles: dict[str, list[int]] = field(default_factory=dict)
    degrees: dict[str, list[int]] = field(default_factory=dict)
    finals: dict[str, list[int]] = field(default_factory=dict)
    contours: dict[str, list[list[float]]] = field(default_factory=dict)
    forms: dict[str, dict[str, int]] = field(default_factory=dict)
    copies: float = 0.0

    @classmethod
    def fit(cls, phrases: Sequence[Phrase]) -> "MelodyStatistics":
        """Count the melodies of phrases in four beats."""
        statistics = cls()
        strengths = draw_meter(np.random.default_rng(0), BEATS).strengths()
        forms: dict[str, Counter] = {}
        copies: list[bool] = []
        for phrase in phrases:
            melody = [note for note in phrase.notes.get("MELODY", ()) if note.step >= 0]
            if len(melody) < phrase.bars:
                continue
            statistics._count_notes(phrase, melody, strengths)
            bars = [[note for note in melody if note.step // BAR == bar] for bar in range(phrase.bars)]
            mean = float(np.mean([note.pitch for note in melody]))
            contour = [round(float(np.mean([n.pitch for n in bar])) - mean, 1) if bar else 0.0 for bar in bars]
            contours = statistics.contours.setdefault(str(phrase.bars), [])
            if len(contours) < _MOST_CONTOURS:
                contours.append(contour)
            forms.setdefault(str(phrase.bars), Counter())[_rhythm_form(melody, bars, copies)] += 1
        statistics.forms = {bars: dict(sorted(forms[bars].items())) for bars in sorted(forms)}
        statistics.copies = float(np.mean(copies)) if copies else 0.0
        return statistics

    def _count_notes(self, phrase: Phrase, melody: Sequence[GridNote], strengths: np.ndarray) -> None:
        """Count intervals, roles and degrees of a melody."""
        degrees = [(note.pitch - phrase.tonic) % 12 for note in melody]
        counts = self.degrees.setdefault(phrase.mode, [0] * 12)
        for degree in degrees:
            counts[degree] += 1
        self.finals.setdefault(phrase.mode, [0] * 12)[degrees[-1]] += 1
        for note, degree in zip(melody, degrees, strict=True):
            chord = next((chord for beat, chord in reversed(phrase.chords) if beat * STEPS <= note.step), None)
            if chord is not None:
                role = pitch_role(degree, chord_tones(chord_label(chord, 0)), SCALES[phrase.mode])
                self.roles.setdefault(str(strengths[note.step % BAR]), [0, 0, 0])[role] += 1
        before = "start"
        for first, second in pairwise(melody):
            interval = second.pitch - first.pitch
            if abs(interval) <= _WIDEST:
                for context in (before, f"{phrase.mode} {(first.pitch - phrase.tonic) % 12} {before}"):
                    table = self.intervals.setdefault(context, {})
                    table[str(interval)] = table.get(str(interval), 0) + 1
            before = interval_class(interval)


def interval_class(interval: int) -> str:
    """Return repeat, or step or leap with its direction; steps have at most two semitones."""
    if interval == 0:
        return "repeat"
    return f"{'step' if abs(interval) <= 2 else 'leap'} {'up' if interval > 0 else 'down'}"


def pitch_role(pitch_class: int, chord: Sequence[int], scale: Sequence[int]) -> int:
    """Return whether a pitch is in the chord, only in the scale, or in neither."""
    return CHORD if pitch_class in chord else SCALE if pitch_class in scale else OUTSIDE


def _rhythm_form(melody: Sequence[GridNote], bars: Sequence[Sequence[GridNote]], copies: list[bool]) -> str:
    """Return the form of a rhythm, and note for each repeated one whether its intervals are repeated too."""
    names: dict[tuple[int, ...], int] = {}
    first: dict[int, list[int]] = {}
    form = ""
    for number, bar in enumerate(bars):
        rhythm = tuple(bar_rhythm(melody, number)[::2])
        name = names.setdefault(rhythm, len(names))
        intervals = [second.pitch - one.pitch for one, second in pairwise(bar)]
        if name not in first:
            first[name] = intervals
        elif intervals:
            copies.append(intervals == first[name])
        form += chr(ord("a") + name)
    return form


@dataclass
class Harmony:
    """
    Chords of a phrase on the grid.

    Attributes:
        tonic, mode: Key: pitch class, and maj or min.
        chords (`list[tuple[int, str]]`): Step at which each chord begins, and its label.
        strengths (`np.ndarray` of shape `(steps in a bar,)`): Strength of each step.
    """

    tonic: int
    mode: str
    chords: list[tuple[int, str]]
    strengths: np.ndarray

    def chord(self, step: int) -> str:
        """Return the label of the chord at a step; before the first chord, of the first one."""
        return next((label for start, label in reversed(self.chords) if start <= step), self.chords[0][1])

    def tones(self, step: int) -> tuple[int, ...]:
        """Return the pitch classes of the chord at a step."""
        return chord_tones(self.chord(step))

    def next_change(self, step: int, end: int) -> int:
        """Return the step of the first chord that begins after a step, or the end of the phrase."""
        return next((start for start, _ in self.chords if start > step), end)

    def leaves(self, pitch: int, start: int, end: int) -> int:
        """Return the step after `start` at which a chord without a pitch begins, at most `end`."""
        changes = (step for step, label in self.chords if start < step and pitch % 12 not in chord_tones(label))
        return min(next(changes, end), end)

    def scale(self) -> set[int]:
        """Return the pitch classes of the key."""
        return {(self.tonic + interval) % 12 for interval in SCALES[self.mode]}

    def strength(self, step: int) -> int:
        """Return the metrical strength of a step of the phrase."""
        return int(self.strengths[step % len(self.strengths)])


def draw_pitches(
    rng: np.random.Generator,
    statistics: MelodyStatistics,
    steps: Sequence[int],
    harmony: Harmony,
    centers: Sequence[float],
    other: dict[int, int] | None = None,
    previous: int | None = None,
    is_last: bool = False,
) -> list[int]:
    """
    Draw the pitches of a melody.

    Args:
        steps: Steps at which its notes begin, from the start of the phrase.
        harmony ([`Harmony`]): Chords below it.
        centers: Pitch around which each note lies.
        previous (`int`, *optional*): Pitch of the note before the first one.
        is_last (`bool`): Whether the phrase ends with these notes.
        other (`dict`, *optional*): Pitches of another melody by step, from which these stay a third or more away.

    Returns:
        MIDI pitches.
    """
    pitches: list[int] = []
    before = "start"
    for index, (step, center) in enumerate(zip(steps, centers, strict=True)):
        low = round(center) - 10
        candidates = np.arange(low, low + 21)
        logs = -0.5 * ((candidates - center) / _SPREAD) ** 2
        logs += _role_logs(statistics, harmony, step, candidates)
        degrees = (candidates - harmony.tonic) % 12
        table = statistics.finals if is_last and index == len(steps) - 1 else statistics.degrees
        counts = np.array(table.get(harmony.mode, [1] * 12)) + 0.5
        logs += _DEGREE_WEIGHT * np.log(counts / counts.sum())[degrees]
        if previous is not None:
            logs += _interval_logs(statistics, harmony, previous, before, candidates - previous)
            logs += _REPEATED * (candidates == previous)
        if other and step in other:
            logs -= 4.0 * (np.abs(candidates - other[step]) < 3)
        shares = np.exp(logs - logs.max())
        pitch = int(rng.choice(candidates, p=shares / shares.sum()))
        before = "start" if previous is None else interval_class(pitch - previous)
        pitches.append(pitch)
        previous = pitch
    return pitches


def _interval_logs(
    statistics: MelodyStatistics, harmony: Harmony, previous: int, before: str, intervals: np.ndarray
) -> np.ndarray:
    """Return log probabilities of intervals after a pitch that was reached by a class of interval."""
    contexts = (f"{harmony.mode} {(previous - harmony.tonic) % 12} {before}", before, "start")
    usual, *others = [statistics.intervals.get(context, {}) for context in contexts]
    rare = next((table for table in others if table), {})
    # Contexts with few notes are filled up with what is usual without the degree.
    share = _FILL / max(1, sum(rare.values()))
    counts = [usual.get(str(n), 0) + share * rare.get(str(n), 0) + _UNSEEN for n in intervals.tolist()]
    return np.log(np.array(counts) / sum(counts))


def _role_logs(statistics: MelodyStatistics, harmony: Harmony, step: int, candidates: np.ndarray) -> np.ndarray:
    """Return log probabilities of pitches from the shares of their roles at this place in the bar."""
    chord, scale = harmony.tones(step), harmony.scale()
    roles = [pitch_role(pitch % 12, chord, tuple(scale)) for pitch in candidates.tolist()]
    counts = np.array(statistics.roles.get(str(harmony.strength(step)), [1, 1, 0])) + 0.1
    available = [max(1, roles.count(role)) for role in range(3)]
    return np.log(counts / counts.sum() / available)[roles]
