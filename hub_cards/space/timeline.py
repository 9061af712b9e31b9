"""
HTML for an annotated song: facts about the whole song, an overview, and its bars in rows, as in a lead sheet.
`timeline.html` is the template, `timeline.js` moves a cursor with the player, and `timeline.css` holds the styles.
"""

import base64
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from musicfm_hf import SongAnnotation
from musicfm_hf.inference.colors import pitch_color, section_colors
from musicfm_hf.inference.drawing import clock, key_name, short_chord
from musicfm_hf.tasks.annotations import Segment
from musicfm_hf.tasks.meter import describe_beats, time_signatures

CELL_SECONDS = 2.0  # length of a cell if bars are unknown
MIN_SHARE = 0.1  # of a bar; shorter events are merged with their neighbors in the sheet
WAVEFORM_COLUMNS = 800
MAX_TAGS = 8
TICK_SECONDS = (5, 10, 15, 30, 60, 120, 300)
MAX_TICKS = 8


class Bar(NamedTuple):
    """A bar, or an interval of about the same length."""

    start: float  # seconds
    end: float  # seconds
    name: str  # number of the bar from 1, or a time if bars are unknown; empty before the first and after the last bar


class _Marks:
    """
    Marks of the uncertain events of a result.

    Args:
        annotation ([`SongAnnotation`]): The annotation.
        name (`str`): Name of a result that has segments.
    """

    def __init__(self, annotation: SongAnnotation, name: str):
        marks = annotation.uncertain.get(name, ())
        self._marked = [segment for segment, mark in zip(annotation.get(name) or (), marks, strict=False) if mark]

    def at(self, time: float) -> bool:
        """Return whether what sounds at a time, in seconds, is uncertain."""
        return any(segment.start <= time < segment.end for segment in self._marked)


def timeline(annotation: SongAnnotation, waveform: np.ndarray, title: str, files: bytes, notes: list[str]) -> str:
    """
    Render the page of a song.

    Args:
        annotation ([`SongAnnotation`]): The annotation to show.
        waveform (`np.ndarray` of shape `(samples,)`): The annotated audio.
        title (`str`): Title of the song.
        files (`bytes`): A zip archive offered for download.
        notes (`list[str]`): Remarks for the listener, shown at the top.

    Returns:
        HTML of one `div`; titles, labels and notes are escaped.
    """
    duration = annotation.duration
    colors = section_colors(segment.label for segment in annotation.sections or [])
    keys = annotation.keys if annotation.keys is not None and len(annotation.keys) > 1 else []
    step = next((step for step in TICK_SECONDS if duration / step <= MAX_TICKS), TICK_SECONDS[-1])
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(template).render(
        title=title,
        key=annotation.key and key_name(annotation.key),
        facts=_facts(annotation),
        tags=list((annotation.tags or {}).items())[:MAX_TAGS],
        notes=notes,
        events=_events(annotation, keys),
        duration=round(duration, 3),
        sections=_spans(annotation.sections or [], 0, duration, colors.get, str, _Marks(annotation, "sections")),
        keys=_spans(keys, 0, duration, pitch_color, key_name, _Marks(annotation, "keys")),
        has_marks=bool(annotation.uncertain.keys() & {"beats", "chords", "sections", "keys"}),
        columns=WAVEFORM_COLUMNS,
        waveform=_outline(waveform),
        times=[(round(100 * time / duration, 3), clock(time)) for time in range(0, int(duration) + 1, step)],
        sheet=_sheet(annotation, keys, colors),
        zip=base64.b64encode(files).decode(),
    )  # fmt: skip


def bars(annotation: SongAnnotation) -> list[Bar]:
    """
    Cut a song into bars without gaps. An interval between downbeats that is as long as several median bars, and in
    which beats are missing, is divided evenly. Without two downbeats, the song is cut into cells of `CELL_SECONDS`.
    """
    beats = annotation.beats
    downbeats = beats.times[beats.positions == 1] if beats is not None else np.empty(0)
    downbeats = downbeats[downbeats < annotation.duration]
    if len(downbeats) < 2:
        edges = [*np.arange(0, annotation.duration, CELL_SECONDS).tolist(), annotation.duration]
        return [Bar(start, end, clock(start)) for start, end in pairwise(edges)]
    usual = float(np.median(np.diff(downbeats)))
    last = min(float(downbeats[-1]) + usual, annotation.duration)
    cells = []
    for index, (start, end) in enumerate(pairwise([0.0, *downbeats.tolist(), last, annotation.duration])):
        is_bar = 1 <= index <= len(downbeats)
        if not is_bar and end - start < MIN_SHARE * usual:
            continue
        count = 1 if is_bar and _has_all_beats(beats.times, start, end) else max(1, round((end - start) / usual))
        parts = np.linspace(start, end, count + 1).tolist()
        cells += [Bar(*part, str(index) if is_bar and part[0] == start else "") for part in pairwise(parts)]
    return cells


def _has_all_beats(times: np.ndarray, start: float, end: float) -> bool:
    """Return whether no interval between the beats of a bar is as long as two median intervals of the song."""
    inside = times[(times >= start) & (times < end)]
    return bool(np.diff([*inside, end]).max() < 2 * np.median(np.diff(times)))


def pieces(segments: list[Segment], start: float, end: float, min_share: float = 0.0) -> list[Segment]:
    """
    Return the parts of segments inside an interval, without gaps. Parts shorter than `min_share` of the interval are
    merged with the previous part, or with the next part if they come first. Neighbors with the same label are merged.
    """
    inside = [Segment(max(s, start), min(e, end), label) for s, e, label in segments if s < end and e > start]
    parts = [part for part in inside if part.end - part.start >= min_share * (end - start)] or inside[:1]
    parts = [part for before, part in pairwise([None, *parts]) if before is None or part.label != before.label]
    edges = [start, *(part.start for part in parts[1:]), end]
    return [Segment(*edge, part.label) for edge, part in zip(pairwise(edges), parts, strict=False)]


def _facts(annotation: SongAnnotation) -> list[str]:
    """Return the duration, tempo and meters, for the line below the title."""
    return [clock(annotation.duration), *describe_beats(annotation.beats)]


def _events(annotation: SongAnnotation, keys: list[Segment]) -> dict[str, list]:
    """Return the events for `timeline.js`: start in seconds, name and, for chords, color."""
    beats, chords, sections = annotation.beats or ((), ()), annotation.chords or [], annotation.sections or []
    return {
        "beats": [[round(float(time), 3), int(position)] for time, position in zip(*beats, strict=True)],
        "chords": [[round(start, 3), short_chord(label), pitch_color(label)] for start, _, label in chords],
        "sections": [[round(start, 3), label] for start, _, label in sections],
        "keys": [[round(start, 3), key_name(label)] for start, _, label in keys],
    }


def _sheet(annotation: SongAnnotation, keys: list[Segment], colors: dict[str, str]) -> list[dict[str, Any]]:
    """Return the bars with their events. A section is named at the bar line nearest to its start."""
    if not (annotation.beats or annotation.chords or annotation.sections or keys):
        return []
    cells, section, chord = [], None, None
    of_chords, of_keys = _Marks(annotation, "chords"), _Marks(annotation, "keys")
    signatures = [] if annotation.beats is None else time_signatures(annotation.beats)
    changes = {segment.start: segment.label for segment in signatures if len(signatures) > 1}
    for start, end, name in bars(annotation):
        middle = (start + end) / 2
        before, section = section, next((s for s in annotation.sections or [] if s.start <= middle < s.end), None)
        chords = pieces(annotation.chords or [], start, end, MIN_SHARE)
        cells.append(
            {
                "start": round(start, 3),
                "end": round(end, 3),
                "name": name,
                "meter": f"in {changes[start]}" if start in changes else None,
                "section": section.label if section and section != before else None,
                "color": colors[section.label] if section else "var(--border-color-primary)",
                "chords": _spans(chords, start, end, pitch_color, short_chord, of_chords, chord),
                "keys": _spans(pieces(keys, start, end, MIN_SHARE), start, end, pitch_color, short_chord, of_keys),
                "beats": _beats(annotation, start, end),
            }
        )
        chord = chords[-1].label if chords else None
    return cells


def _spans(
    segments: list[Segment],
    start: float,
    end: float,
    color: Callable[[str], str | None],
    name: Callable[[str], str],
    marks: _Marks,
    previous: str | None = None,
) -> list[dict[str, Any]]:
    """
    Return the positions of segments in an interval, in percent. `previous` is the label before the first segment.
    """
    percent = 100 / (end - start)
    return [
        {
            "left": round(percent * (segment.start - start), 3),
            "width": round(percent * (segment.end - segment.start), 3),
            "color": color(segment.label),
            "name": name(segment.label),
            "uncertain": marks.at((segment.start + segment.end) / 2),
            "again": segment.label == (segments[index - 1].label if index else previous),
        }
        for index, segment in enumerate(segments)
    ]


def _beats(annotation: SongAnnotation, start: float, end: float) -> list[dict[str, Any]]:
    """Return the positions of the beats in an interval, in percent."""
    times, positions = annotation.beats or (np.empty(0), np.empty(0))
    marks = annotation.uncertain.get("beats", np.zeros(len(times), dtype=bool))
    inside = (times >= start) & (times < end)
    return [
        {"left": round(100 * (time - start) / (end - start), 3), "down": position == 1, "uncertain": bool(mark)}
        for time, position, mark in zip(times[inside], positions[inside], marks[inside], strict=True)
    ]


def _outline(waveform: np.ndarray) -> str:
    """
    Return the points of a polygon around the waveform: along the maxima of the columns, and back along the minima.
    """
    starts = np.linspace(0, len(waveform), WAVEFORM_COLUMNS, endpoint=False).astype(int)
    low, high = np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
    scale = 48 / max(float(high.max()), float(-low.min()), 1e-9)
    points = [*enumerate(high), *reversed([*enumerate(low)])]
    return " ".join(f"{x},{50 - scale * y:.1f}" for x, y in points)
