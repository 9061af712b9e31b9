"""
Statistics of songs from which new songs are composed: harmony, forms, and the manner of each song.

Structure, rhythm and pitch are learned separately and combined from the top down, as in MusicFrameworks (Dai, Jin,
Gomes, Dannenberg, *Controllable Deep Melody Generation via Hierarchical Music Structure Representation*, ISMIR 2021).
Rhythms and accompaniments are kept by song, so that a new song imitates a few songs instead of the average of all
(Dai, Ma, Wang, Dannenberg, *Personalized Popular Music Generation Using Imitation and Structure*, arXiv 2105.04709).
Everything is counted; nothing is trained.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...tasks.annotations import Segment
from ...training.files import write_text
from ..score import Score
from .manner import learn_manner
from .material import BAR, BEATS, Phrase, split_phrases
from .melody import MelodyStatistics

START = "^"
_MIN_CHORD_COUNT = 3
Counts = dict[str, dict[str, int]]


@dataclass
class CompositionStatistics:
    """
    Statistics of songs in four beats, from which others are composed. Chords are relative to the tonic, such as
    `9:min7/b3`.

    Attributes:
        songs (`int`): Number of songs.
        transitions (`dict`): Mode → context → counts of the next chord. A context is the two chords before it, joined
            by a bar; the one chord before it; or nothing. A phrase begins after `^` and its function.
        cadences (`dict`): Mode → counts of the last chord of phrases.
        chord_rhythms (`dict`): Place of a bar in its phrase (first, inner, last) and the rhythm of the bar before it →
            counts of rhythms, the beats at which chords begin, such as `0,2`.
        loops (`float`): Share of phrases of eight bars or more whose bars 5 to 7 have the chords of bars 1 to 3.
        forms (`list`): Sections of each song, as letter, function and number of bars.
        melody ([`MelodyStatistics`]): Pitches of melodies.
        repeats (`float`): Share of the onsets and pitches of a repeated phrase that equal those of its first version.
        manners (`list`): Rhythms and accompaniments of each song by function; see [`learn_manner`].
    """

    songs: int = 0
    transitions: dict[str, Counts] = field(default_factory=dict)
    cadences: Counts = field(default_factory=dict)
    chord_rhythms: Counts = field(default_factory=dict)
    loops: float = 0.0
    forms: list[list[tuple[str, str, int]]] = field(default_factory=list)
    melody: MelodyStatistics = field(default_factory=MelodyStatistics)
    repeats: float = 0.0
    manners: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: str | os.PathLike) -> None:
        """Write the statistics as JSON."""
        write_text(path, json.dumps(asdict(self), separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "CompositionStatistics":
        """
        Read the statistics from JSON.

        Raises:
            ValueError: the file is not JSON, or has other entries than statistics have.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}).") from error
        names = {entry.name for entry in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"{path} must have the entries {', '.join(sorted(names))}, as `save` writes them.")
        values["forms"] = [[(letter, function, bars) for letter, function, bars in form] for form in values["forms"]]
        return cls(**values | {"melody": MelodyStatistics(**values["melody"])})


def fit_statistics(songs: Iterable[tuple[Score, Sequence[Segment]]]) -> CompositionStatistics:
    """
    Count what composing needs. Phrases with bars of other lengths than four beats are left out.

    Args:
        songs: Scores with the parts MELODY, BRIDGE and PIANO, and the letters of the musical material of each, with
            the boundaries of its sections.

    Returns:
        [`CompositionStatistics`].

    Raises:
        ValueError: no song has a phrase with a melody and an accompaniment in four beats, no chord is frequent, or see
            [`split_phrases`].
    """
    statistics = CompositionStatistics()
    phrases: list[list[Phrase]] = []
    for score, letters in songs:
        song = split_phrases(score, letters)
        if song:
            phrases.append(song)
            statistics.forms.append([(phrase.letter, phrase.function, phrase.bars) for phrase in song])
            statistics.manners.append(learn_manner(song, score.beats.times))
    statistics.songs = len(phrases)
    every = [phrase for song in phrases for phrase in song]
    if not any(manner["melody"] for manner in statistics.manners) or not any(
        manner["piano"] for manner in statistics.manners
    ):
        raise ValueError(
            f"None of {len(phrases)} songs has a phrase in four beats with the parts MELODY and PIANO: composing is "
            "learned from such songs."
        )
    _count_chords(statistics, every)
    statistics.melody = MelodyStatistics.fit(every)
    statistics.repeats = _repeats(phrases)
    return statistics


def _count_chords(statistics: CompositionStatistics, phrases: Sequence[Phrase]) -> None:
    """Count chords, cadences and the rhythm of chords. Modes without frequent chords are not composed in."""
    counts = Counter((phrase.mode, chord) for phrase in phrases for _, chord in phrase.chords)
    transitions: dict[str, dict[str, Counter]] = {}
    cadences: dict[str, Counter] = {}
    rhythms: dict[str, Counter] = {}
    loops: list[bool] = []
    for phrase in phrases:
        contexts = transitions.setdefault(phrase.mode, {})
        before = [START, START + phrase.function]
        for _, chord in phrase.chords:
            if chord is None or counts[phrase.mode, chord] < _MIN_CHORD_COUNT:
                before = []
                continue
            for context in ("", *before[-1:], *(["|".join(before[-2:])] if len(before) > 1 else [])):
                contexts.setdefault(context, Counter())[chord] += 1
            before = [*before, chord][-2:]
        if before and before[-1][0] != START:
            cadences.setdefault(phrase.mode, Counter())[before[-1]] += 1
        _count_rhythms(rhythms, phrase)
        if phrase.bars >= 8:
            loops.append(_bar_chords(phrase, 0, 3) == _bar_chords(phrase, 4, 7))
    statistics.transitions = {mode: _plain(contexts) for mode, contexts in transitions.items() if contexts}
    if not statistics.transitions:
        raise ValueError(
            f"No chord occurs {_MIN_CHORD_COUNT} times in a mode of the songs: composing is learned from more songs."
        )
    statistics.cadences, statistics.chord_rhythms = _plain(cadences), _plain(rhythms)
    statistics.loops = float(np.mean(loops)) if loops else 0.0


def _count_rhythms(rhythms: dict[str, Counter], phrase: Phrase) -> None:
    """Count the beats of the bars of a phrase at which chords begin."""
    bars = [",".join(str(beat) for beat, _ in _bar_chords(phrase, bar, bar + 1)) for bar in range(phrase.bars)]
    for number, (before, rhythm) in enumerate(pairwise(["", *bars])):
        place = "first" if number == 0 else "last" if number == phrase.bars - 1 else "inner"
        rhythms.setdefault(f"{place}|{before}", Counter())[rhythm] += 1


def _bar_chords(phrase: Phrase, first: int, last: int) -> list[tuple[int, str | None]]:
    """Return the chords that begin in some bars, with beats from the first of these bars."""
    start, end = first * BEATS, last * BEATS
    return [(beat - start, chord) for beat, chord in phrase.chords if start <= beat < end]


def _repeats(songs: Sequence[Sequence[Phrase]]) -> float:
    """Return the mean share of equal melody notes between repeated phrases and their first version."""
    shares = []
    for song in songs:
        first: dict[str, set] = {}
        for phrase in song:
            notes = {(note.step, note.pitch - phrase.tonic) for note in phrase.notes.get("MELODY", ())}
            notes = {note for note in notes if 0 <= note[0] < phrase.bars * BAR}
            if notes and phrase.letter in first:
                shares.append(len(notes & first[phrase.letter]) / max(len(notes), len(first[phrase.letter])))
            elif notes:
                first[phrase.letter] = notes
    return float(np.mean(shares)) if shares else 0.0


def _plain(counts: dict[str, Counter]) -> Counts:
    """Return dictionaries whose order does not depend on the order of counting equal ones."""
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}
