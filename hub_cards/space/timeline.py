"""
The page of an annotated song, as HTML: what is true of all of it, an overview, and its bars in rows like a lead sheet.
`timeline.html` is the template; `timeline.js` lets a cursor follow the player, `timeline.css` says how it looks.
"""

import base64
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np

from musicfm_hf.inference.drawing import OTHER_COLOURS, SECTION_COLOURS, clock, key_name, short_chord
from musicfm_hf.inference.song import SongAnnotation
from musicfm_hf.tasks.annotations import PITCH_NAMES, Segment

CELL_SECONDS = 2.0  # of a cell, where bars are not known
SHORTEST = 0.1  # of a bar: what is shorter is left to its neighbour, in the bars alone
COLUMNS = 800  # of the waveform
MOST_TAGS = 8
TICK_SECONDS = (5, 10, 15, 30, 60, 120, 300)
MOST_TICKS = 8


class Bar(NamedTuple):
    """A bar, or a stretch as long as one."""

    start: float  # seconds
    end: float  # seconds
    name: str  # its number from 1; a time where bars are not known; empty before the first one and after the last


def timeline(annotation: SongAnnotation, waveform: np.ndarray, title: str, files: bytes, notes: list[str]) -> str:
    """
    The page.

    Args:
        annotation ([`SongAnnotation`]): What was found.
        waveform (`np.ndarray` of shape `(samples,)`): The audio that was annotated.
        title (`str`): Of the song.
        files (`bytes`): A zip to download.
        notes (`list[str]`): What the listener has to know.
    """
    duration = annotation.duration
    colours = _section_colours(annotation)
    keys = annotation.keys if annotation.keys is not None and len(annotation.keys) > 1 else []
    step = next((step for step in TICK_SECONDS if duration / step <= MOST_TICKS), TICK_SECONDS[-1])
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(template).render(
        title=title,
        key=annotation.key and key_name(annotation.key),
        facts=_facts(annotation),
        tags=list((annotation.tags or {}).items())[:MOST_TAGS],
        notes=notes,
        events=_events(annotation, keys),
        duration=round(duration, 3),
        sections=_spans(annotation.sections or [], 0, duration, colours.get, str),
        keys=_spans(keys, 0, duration, pitch_colour, key_name),
        columns=COLUMNS,
        waveform=_outline(waveform),
        times=[(round(100 * time / duration, 3), clock(time)) for time in range(0, int(duration) + 1, step)],
        sheet=_sheet(annotation, keys, colours),
        zip=base64.b64encode(files).decode(),
    )  # fmt: skip


def bars(annotation: SongAnnotation) -> list[Bar]:
    """The song without gaps, from bar line to bar line. What is as long as several bars is cut into like parts."""
    beats = annotation.beats
    downbeats = beats.times[beats.positions == 1] if beats is not None else np.empty(0)
    downbeats = downbeats[downbeats < annotation.duration]
    if len(downbeats) < 2:
        edges = [*np.arange(0, annotation.duration, CELL_SECONDS).tolist(), annotation.duration]
        return [Bar(start, end, clock(start)) for start, end in pairwise(edges)]
    usual = float(np.median(np.diff(downbeats)))
    last = min(float(downbeats[-1]) + usual, annotation.duration)
    found = []
    for index, (start, end) in enumerate(pairwise([0.0, *downbeats.tolist(), last, annotation.duration])):
        is_bar = 1 <= index <= len(downbeats)
        if not is_bar and end - start < SHORTEST * usual:
            continue
        parts = np.linspace(start, end, max(1, round((end - start) / usual)) + 1).tolist()
        found += [Bar(*part, str(index) if is_bar and part[0] == start else "") for part in pairwise(parts)]
    return found


def pieces(segments: list[Segment], start: float, end: float, shortest: float = 0.0) -> list[Segment]:
    """What of them lies in a stretch. What is shorter than a share of it is left to the one before, or after."""
    inside = [Segment(max(s, start), min(e, end), label) for s, e, label in segments if s < end and e > start]
    kept = [piece for piece in inside if piece.end - piece.start >= shortest * (end - start)] or inside[:1]
    kept = [piece for before, piece in pairwise([None, *kept]) if before is None or piece.label != before.label]
    edges = [start, *(piece.start for piece in kept[1:]), end]
    return [Segment(*edge, piece.label) for edge, piece in zip(pairwise(edges), kept, strict=False)]


def pitch_colour(label: str) -> str:
    """Neighbours on the circle of fifths have neighbouring hues; minor is darker."""
    root, _, mode = label.partition(":")
    if root not in PITCH_NAMES:
        return "#eeeeee"
    hue = PITCH_NAMES.index(root) * 7 % 12 * 30
    return f"hsl({hue} 45% 74%)" if mode.startswith("min") else f"hsl({hue} 75% 85%)"


def _facts(annotation: SongAnnotation) -> list[str]:
    facts, beats = [clock(annotation.duration)], annotation.beats
    if beats is not None and len(beats.times) > 1:
        facts.append(f"{60 / np.median(np.diff(beats.times)):.0f} beats a minute")
    if beats is not None and beats.positions.any():
        facts.append(f"{beats.positions.max()} beats in a bar")
    return facts


def _events(annotation: SongAnnotation, keys: list[Segment]) -> dict[str, list]:
    """What `timeline.js` shows: seconds, and what begins there."""
    beats, chords, sections = annotation.beats or ((), ()), annotation.chords or [], annotation.sections or []
    return {
        "beats": [[round(float(time), 3), int(position)] for time, position in zip(*beats, strict=True)],
        "chords": [[round(start, 3), short_chord(label), pitch_colour(label)] for start, _, label in chords],
        "sections": [[round(start, 3), label] for start, _, label in sections],
        "keys": [[round(start, 3), key_name(label)] for start, _, label in keys],
    }


def _sheet(annotation: SongAnnotation, keys: list[Segment], colours: dict[str, str]) -> list[dict]:
    """Bars with what is in them. A section is named where it begins, at the bar line nearest to that."""
    if not (annotation.beats or annotation.chords or annotation.sections or keys):
        return []
    cells, section, chord = [], None, None
    for start, end, name in bars(annotation):
        middle = (start + end) / 2
        before, section = section, next((s for s in annotation.sections or [] if s.start <= middle < s.end), None)
        chords = pieces(annotation.chords or [], start, end, SHORTEST)
        cells.append(
            {
                "start": round(start, 3),
                "end": round(end, 3),
                "name": name,
                "section": section.label if section and section != before else None,
                "colour": colours[section.label] if section else "var(--border-color-primary)",
                "chords": _spans(chords, start, end, pitch_colour, short_chord, chord),
                "keys": _spans(pieces(keys, start, end, SHORTEST), start, end, pitch_colour, short_chord),
                "beats": _beats(annotation, start, end),
            }
        )
        chord = chords[-1].label if chords else None
    return cells


def _spans(segments: list[Segment], start: float, end: float, colour, name, before: str | None = None) -> list[dict]:
    """Where segments lie in a stretch, in percent of it. `before` is the label that comes before."""
    percent = 100 / (end - start)
    return [
        {
            "left": round(percent * (segment.start - start), 3),
            "width": round(percent * (segment.end - segment.start), 3),
            "colour": colour(segment.label),
            "name": name(segment.label),
            "again": segment.label == (segments[index - 1].label if index else before),
        }
        for index, segment in enumerate(segments)
    ]


def _beats(annotation: SongAnnotation, start: float, end: float) -> list[dict]:
    times, positions = annotation.beats or (np.empty(0), np.empty(0))
    inside = (times >= start) & (times < end)
    return [
        {"left": round(100 * (time - start) / (end - start), 3), "down": position == 1}
        for time, position in zip(times[inside], positions[inside], strict=True)
    ]


def _outline(waveform: np.ndarray) -> str:
    """Points of a polygon: the highest sample of each column, and back, the lowest."""
    starts = np.linspace(0, len(waveform), COLUMNS, endpoint=False).astype(int)
    low, high = np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
    scale = 48 / max(float(high.max()), float(-low.min()), 1e-9)
    points = [*enumerate(high), *reversed([*enumerate(low)])]
    return " ".join(f"{x},{50 - scale * y:.1f}" for x, y in points)


def _section_colours(annotation: SongAnnotation) -> dict[str, str]:
    """Those of the pictures."""
    names = dict.fromkeys(segment.label for segment in annotation.sections or [])
    others = [name for name in names if name not in SECTION_COLOURS]
    known = {name: OTHER_COLOURS[index % len(OTHER_COLOURS)] for index, name in enumerate(others)} | SECTION_COLOURS
    return {name: known[name] for name in names}
