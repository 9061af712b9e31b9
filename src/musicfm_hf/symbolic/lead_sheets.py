"""
Lead sheets, melodies with chord symbols, as scores with beats, chords and keys. music21 reads them, from MusicXML, ABC
and its other formats, and expands repeats where they are well formed.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from ..tasks.annotations import Beats, Segment
from ..tasks.chord_vocabularies import DEGREES
from ..tasks.meter import METERS
from .score import MELODY, Part, Score, ScoreNote

ENDINGS = (".abc", ".mxl", ".musicxml", ".xml")  # of files in a folder of lead sheets

TEMPI = (70.0, 170.0)  # beats per minute

_VELOCITY = 80

# Kinds of chords in music21 → types of chords in `mir_eval`.
_KINDS = {
    "major": "maj",
    "minor": "min",
    "augmented": "aug",
    "diminished": "dim",
    "suspended-second": "sus2",
    "suspended-fourth": "sus4",
    "dominant-seventh": "7",
    "major-seventh": "maj7",
    "minor-seventh": "min7",
    "minor-major-seventh": "minmaj7",
    "half-diminished-seventh": "hdim7",
    "diminished-seventh": "dim7",
    "major-sixth": "maj6",
    "minor-sixth": "min6",
    "dominant-ninth": "9",
    "major-ninth": "maj9",
    "minor-ninth": "min9",
}


class _Bar(NamedTuple):
    """A measure in quarter notes: where it starts and how long it is, its first beat, and its meter."""

    start: Fraction
    length: Fraction
    first: Fraction  # beats of the bar that came before, such as those before an upbeat
    meter: int
    beat: Fraction


def read_lead_sheets(path: str | Path, tempi: tuple[float, float] = TEMPI) -> Iterator[tuple[str, Score | ValueError]]:
    """
    Read the lead sheets in a file. A chord lasts until the next one; what comes before the first one is `X`. Altered
    chords and others that have no name in `mir_eval` have a list of degrees, such as `G:(3,5,b7,b2)`.

    Args:
        path: File in MusicXML (`.musicxml`, `.xml`, `.mxl`), with one lead sheet, or in ABC, with one or more.
        tempi: Slowest and fastest tempo in beats per minute. The tempo of a sheet without one is drawn by its name,
            evenly on a logarithmic scale.

    Yields:
        Names, unique in the file, and scores with the part MELODY and without sections; or the error of a file that
        music21 cannot read, or of a sheet that cannot be used: it has no melody or no chords, a meter with beats in
        three parts, such as 6/8, or other than 2 to 7 beats in a bar, or a bar that is too short or too long, except
        for an upbeat.

    Raises:
        ImportError: music21 is not installed.
        ValueError: the tempi are out of range.
    """
    try:
        from music21 import converter, stream
    except ImportError as error:
        raise ImportError("Reading lead sheets needs music21: `pip install 'musicfm_hf[lead-sheets]'`.") from error

    path, (low, high) = Path(path), tempi
    if not 0 < low <= high < math.inf:
        raise ValueError(f"Tempi must be above 0 and finite, the slowest first, got {low} and {high}.")
    try:
        parsed = converter.parse(path, forceSource=True)
    except Exception as error:  # parsers of many formats, with errors of their own
        yield path.stem, ValueError(f"music21 cannot read {path}: {error}")
        return
    sheets = list(parsed.scores) if isinstance(parsed, stream.Opus) else [parsed]
    for number, sheet in enumerate(sheets, start=1):
        name = path.stem if len(sheets) == 1 else f"{path.stem}_{number}"
        try:
            score: Score | ValueError = _to_score(sheet, name, tempi)
        except ValueError as error:
            score = error
        except Exception as error:  # of music21, which has no common class for them
            score = ValueError(f"music21 cannot interpret it: {error}")
        yield name, score


def _to_score(sheet: Any, name: str, tempi: tuple[float, float]) -> Score:
    """Convert a score of music21."""
    from music21 import harmony, note, stream, tempo

    if not sheet.parts:
        raise ValueError("It has no parts.")
    part = _expand_repeats(sheet.parts[0])
    bars = _find_bars(list(part.getElementsByClass(stream.Measure)))
    length = bars[-1].start + bars[-1].length
    marks = [mark.getQuarterBPM() for mark in sheet.recurse().getElementsByClass(tempo.MetronomeMark)]
    marked = [float(mark) for mark in marks if mark]
    tempo_of_quarters = marked[0] if marked else _draw_tempo(name, tempi) * float(bars[0].beat)
    seconds = 60 / tempo_of_quarters  # of a quarter note

    flat = part.stripTies().flatten()
    symbols = [(Fraction(symbol.offset), symbol) for symbol in flat.getElementsByClass(harmony.ChordSymbol)]
    pitches = [
        (float(element.offset), float(element.offset + element.quarterLength), pitch.midi)
        for element in flat.notes
        if not isinstance(element, harmony.ChordSymbol) and isinstance(element, note.NotRest) and element.quarterLength
        for pitch in element.pitches
    ]
    if not pitches or not symbols:
        raise ValueError(f"It has {len(pitches)} notes and {len(symbols)} chord symbols: a lead sheet needs both.")
    notes = sorted(
        (ScoreNote(start * seconds, end * seconds, pitch, _VELOCITY) for start, end, pitch in pitches),
        key=lambda one: (one.start, one.pitch),
    )
    rows = [row for bar in bars for row in _beats(bar)]
    chords = [(Fraction(0), "X"), *((start, _chord_label(symbol)) for start, symbol in symbols)]
    title = (sheet.metadata.title if sheet.metadata is not None else None) or name
    return Score(
        id=name,
        group=title,
        parts=(Part(MELODY, 0, tuple(notes)),),
        duration=max(float(length) * seconds, notes[-1].end),
        beats=Beats(np.array([float(start) * seconds for start, _ in rows]), np.array([place for _, place in rows])),
        chords=_segments(chords, length, seconds),
        sections=[],
        keys=_segments([(Fraction(0), "X"), *_key_labels(flat)], length, seconds),
    )


def _expand_repeats(part: Any) -> Any:
    """Expand the repeats of a part; one whose repeats do not match, such as a start without an end, is played once."""
    try:
        return part.expandRepeats()
    except Exception:  # music21's own or, in rare cases, an IndexError
        return part


def _draw_tempo(name: str, tempi: tuple[float, float]) -> float:
    """Draw a tempo in beats per minute by the name of a lead sheet."""
    low, high = tempi
    return low * (high / low) ** float(np.random.default_rng(crc32(name.encode())).random())


def _find_bars(measures: Sequence[Any]) -> list[_Bar]:
    """Return the measures of a part; a short one must be an upbeat, the end, or continue a short one before it."""
    bars: list[_Bar] = []
    meter, beat = 0, Fraction(0)
    for number, measure in enumerate(measures):
        if measure.timeSignature is not None:
            meter, beat = _meter(measure.timeSignature)
        if not meter:
            raise ValueError("It has no time signature.")
        length, full = Fraction(measure.duration.quarterLength), meter * beat
        if not length:
            continue
        before = bars[-1].first + bars[-1].length / bars[-1].beat if bars else Fraction(0)
        first = before if bars and before < bars[-1].meter else Fraction(0)  # continue a short bar
        if not bars:
            first = meter - length / beat  # an upbeat
        is_last = number == len(measures) - 1
        too_short = not is_last and bars and not first and length < full and not _is_short(measures[number + 1], full)
        if first < 0 or first + length / beat > meter or too_short:
            raise ValueError(f"Measure {number + 1} of {len(measures)} has {float(length / beat):g} of {meter} beats.")
        bars.append(_Bar(Fraction(measure.offset), length, first, meter, beat))
    if not bars:
        raise ValueError("It has no measures.")
    return bars


def _is_short(measure: Any, full: Fraction) -> bool:
    """Return whether a measure is shorter than a bar, as an upbeat after a repeat is."""
    return Fraction(measure.duration.quarterLength) < full


def _meter(signature: Any) -> tuple[int, Fraction]:
    """Return the number of beats in a bar, and the length of a beat in quarter notes."""
    beats, unit = signature.numerator, signature.denominator
    if beats % 3 == 0 and (beats > 3 or unit > 4):
        raise ValueError(f"Its meter is {beats}/{unit}: beats in three parts cannot be arranged.")
    if beats not in METERS:
        raise ValueError(f"Its meter is {beats}/{unit}: bars must have {METERS[0]} to {METERS[-1]} beats.")
    return beats, Fraction(4, unit)


def _beats(bar: _Bar) -> Iterator[tuple[Fraction, int]]:
    """Yield the beats that start in a measure, in quarter notes, with their positions."""
    for index in range(math.ceil(bar.first), bar.meter):
        start = bar.start + (index - bar.first) * bar.beat
        if start < bar.start + bar.length:
            yield start, index + 1


def _segments(labels: Sequence[tuple[Fraction, str]], end: Fraction, seconds: float) -> list[Segment]:
    """Return segments that last until the next label, without equal neighbors; the last of several at once counts."""
    changes: dict[Fraction, str] = {}
    for start, label in labels:
        changes[start] = label
    segments: list[Segment] = []
    starts = [start for start in sorted(changes) if start < end]
    for start, following in zip(starts, [*starts[1:], end], strict=True):
        if segments and segments[-1].label == changes[start]:
            segments[-1] = segments[-1]._replace(end=float(following) * seconds)
        else:
            segments.append(Segment(float(start) * seconds, float(following) * seconds, changes[start]))
    return segments


def _chord_label(symbol: Any) -> str:
    """Return the label of a chord symbol in the syntax of `mir_eval.chord`."""
    from music21 import harmony

    if isinstance(symbol, harmony.NoChord):
        return "N"
    if not symbol.pitches:  # music21 does not know what it means
        return "X"
    root, bass = symbol.root(), symbol.bass()
    kind = None if symbol.chordStepModifications else _KINDS.get(symbol.chordKind)
    if kind is None:
        steps = sorted({(pitch.midi - root.midi) % 12 for pitch in symbol.pitches} - {0}) or [0]
        kind = f"({','.join(DEGREES[step] for step in steps)})"
    label = f"{_spelled(root.name)}:{kind}"
    return label if bass.name == root.name else f"{label}/{DEGREES[(bass.midi - root.midi) % 12]}"


def _key_labels(flat: Any) -> list[tuple[Fraction, str]]:
    """Return the major and minor keys of a part; others, and key signatures without a mode, are `X`."""
    from music21 import key

    modes = {"major": "maj", "minor": "min"}
    return [
        (
            Fraction(signature.offset),
            f"{_spelled(signature.tonic.name)}:{modes[signature.mode]}"
            if isinstance(signature, key.Key) and signature.mode in modes
            else "X",
        )
        for signature in flat.getElementsByClass(key.KeySignature)
    ]


def _spelled(name: str) -> str:
    """Spell a pitch class of music21 with `b` for flats."""
    return name.replace("-", "b")
