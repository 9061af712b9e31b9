"""Picture of an annotated song, in rows, as in a score."""

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..tasks import get_task, known_tasks
from ..tasks.annotations import Beats, Segment
from ..tasks.events import file_format
from ..tasks.meter import describe_beats, time_signatures
from ..tasks.spec import Strip
from ..training.files import complete_file, readable_name
from .chord_names import short_chord, signs
from .colors import pitch_color, section_colors
from .sound_image import spectrograms

LONGEST_ROW_SECONDS = 40.0
LONGEST_SECONDS = 900.0  # longer audio is drawn as an overview
MOST_OVERVIEW_ROWS = 8
OVERVIEW_ROW_SECONDS = 600.0
MOST_TAGS = 8
LONGEST_TITLE = 60  # letters
DPI = 110
# Inches.
WIDTH, LEFT, RIGHT = 15.0, 0.75, 0.3
HEADER, GAP = 0.95, 0.42
SOUND = "sound"  # name of the strip of the spectrogram or waveform
SOUND_HEIGHT = 0.78
MOST_BAR_NUMBERS = 40  # in a row
_MODES = {"maj": "major", "min": "minor"}
SMALLEST_LINE = 7.0  # points; chord names that would be smaller are drawn on two lines, or vertically
SMALLEST_NAME = 5.0  # points; chord names that would be smaller are omitted


class _Row(NamedTuple):
    """An interval of the song, in seconds, that is drawn as one row."""

    start: float
    end: float

    def inches(self, seconds: float) -> float:
        """Return the width of this duration in the picture."""
        return seconds / (self.end - self.start) * (WIDTH - LEFT - RIGHT)


class AnnotatedSong(Protocol):
    """The parts of a [`SongAnnotation`] that are drawn."""

    duration: float
    beats: Beats | None
    sections: list[Segment] | None
    key: str | None
    tags: dict[str, float] | None
    similarities: dict[str, float] | None
    uncertain: dict[str, np.ndarray]
    more: dict[str, Any]

    def get(self, name: str) -> Any:
        """Return the result with this name, or `None`."""


def draw_annotation(
    annotation: AnnotatedSong, path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int, title: str
) -> None:
    """Draw a song as PNG; see [`SongAnnotation.draw`]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or abs(len(waveform) / sampling_rate - annotation.duration) > 1:
        raise ValueError(
            f"The waveform must be the audio that was annotated, {annotation.duration:.2f} s in one channel; got "
            f"shape {waveform.shape} at {sampling_rate} Hz."
        )
    overview = annotation.duration > LONGEST_SECONDS
    strips = {name: strip for name, strip in _strips(annotation).items() if strip.in_overview or not overview}
    rows = _overview_rows(annotation.duration) if overview else song_rows(annotation)
    row_height = sum(strip.height for strip in strips.values()) + GAP
    height = HEADER + row_height * len(rows) + 0.1
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    _draw_header(figure, annotation, readable_name(title), height)
    images = [] if overview else spectrograms(waveform, sampling_rate, rows)
    for index, row in enumerate(rows):
        axes = _add_strips(figure, strips, row, height - HEADER - row_height * index, height)
        if overview:
            _draw_envelope(axes[SOUND], waveform, sampling_rate, row)
        else:
            place = {"extent": (row.start, row.end, 0, 1), "aspect": "auto", "origin": "lower"}
            axes[SOUND].imshow(images[index], cmap="magma", vmin=-60, vmax=0, **place)
            _draw_bar_lines(axes[SOUND], row, annotation)
        for name, strip in strips.items():
            if name != SOUND:
                _DRAWINGS[strip.drawing](axes[name], row, annotation.get(name))
                _mark_uncertain(axes[name], row, annotation.get(name), annotation.uncertain.get(name))
        _draw_boundaries(axes, row, annotation, "#aaaaaa" if overview else "white")
        _draw_time(axes[list(strips)[-1]], row)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        with complete_file(path) as temporary:
            canvas.print_png(os.fspath(temporary))


def key_name(label: str) -> str:
    """Return a key in words: `F♯ minor` for `F#:min`."""
    if label == "N":
        return "no key"
    tonic, _, mode = label.partition(":")
    return f"{signs(tonic)} {_MODES.get(mode, mode)}".strip()


def clock(seconds: float) -> str:
    """Return minutes and seconds, with hours from one hour on: `3:05`, `1:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _strips(annotation: AnnotatedSong) -> dict[str, Strip]:
    """Return the strips from top to bottom, keyed by the name of the result that each one shows."""
    specs = {spec.column: spec for spec in map(get_task, known_tasks())}
    strips = {
        column: replace(spec.strip, label=spec.strip.label or spec.name)
        for column, spec in specs.items()
        if spec.strip is not None
    }
    for name, events in annotation.more.items():
        if name not in specs and file_format(events) == "lab":  # of a task that is not loaded
            strips[name] = Strip(name)
    drawn = {name: strip for name, strip in strips.items() if annotation.get(name) is not None}
    above = {name: strip for name, strip in drawn.items() if strip.above}
    return above | {SOUND: Strip("", height=SOUND_HEIGHT)} | drawn


def song_rows(annotation: AnnotatedSong) -> list[_Row]:
    """Split the song into rows of similar length that break at bar lines."""
    count = max(1, int(np.ceil(annotation.duration / LONGEST_ROW_SECONDS)))
    edges = np.linspace(0, annotation.duration, count + 1)
    bars = _downbeats(annotation)
    for index in range(1, count):
        distances = np.abs(bars - edges[index])
        if len(bars) and distances.min() < edges[-1] / count / 8:
            edges[index] = bars[distances.argmin()]
    return [_Row(start, end) for start, end in pairwise(edges.tolist())]


def _downbeats(annotation: AnnotatedSong) -> np.ndarray:
    """Return the times of the downbeats in seconds, or an empty array without beats."""
    beats = annotation.beats
    return beats.times[beats.positions == 1] if beats is not None else np.empty(0)


def _overview_rows(duration: float) -> list[_Row]:
    """Split a long song into rows of equal length."""
    count = min(MOST_OVERVIEW_ROWS, int(np.ceil(duration / OVERVIEW_ROW_SECONDS)))
    edges = np.linspace(0, duration, count + 1).tolist()
    return [_Row(start, end) for start, end in pairwise(edges)]


def _add_strips(figure: Any, strips: dict[str, Strip], row: _Row, top: float, height: float) -> dict[str, Any]:
    """Add the axes of a row, one below another, starting `top` inches above the bottom of a figure of this height."""
    axes = {}
    for name, strip in strips.items():
        top -= strip.height
        place = (LEFT / WIDTH, top / height, (WIDTH - LEFT - RIGHT) / WIDTH, strip.height / height)
        axes[name] = figure.add_axes(place, xlim=(row.start, row.end), ylim=(0, 1), yticks=[])
        axes[name].tick_params(bottom=False, labelbottom=False)
        axes[name].set_ylabel(strip.label, rotation=0, ha="right", va="center", fontsize=8, color="#666666")
    return axes


def _draw_header(figure: Any, annotation: AnnotatedSong, title: str, height: float) -> None:
    """Draw the title, facts about the whole song, and as bars its probabilities of tags, or else its similarities."""
    names = [] if annotation.key is None else [key_name(annotation.key)]
    facts = [clock(annotation.duration), *names, *describe_beats(annotation.beats)]
    title = title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 1]}…"
    figure.text(LEFT / WIDTH, 1 - 0.36 / height, title, fontsize=16, fontweight="bold", va="center", parse_math=False)
    figure.text(LEFT / WIDTH, 1 - 0.68 / height, "   ·   ".join(facts), fontsize=11, va="center", color="#444444")
    tags = list((annotation.tags or annotation.similarities or {}).items())[:MOST_TAGS]
    column_width, bar_width, line = 2.1, 0.9, 0.19
    columns = (len(tags) + 3) // 4
    for index, (tag, value) in enumerate(tags):
        left = WIDTH - RIGHT - column_width * (columns - index // 4)
        bottom = height - 0.28 - line * (index % 4)
        axes = figure.add_axes(
            ((left + column_width - bar_width) / WIDTH, bottom / height, bar_width / WIDTH, 0.12 / height),
            xlim=(0, 1), ylim=(0, 1),
        )  # fmt: skip
        axes.axis("off")
        axes.barh(0.5, 1, height=1, color="#eeeeee")
        axes.barh(0.5, max(value, 0.0), height=1, color="#d1495b")
        name = tag if len(tag) < 18 else f"{tag[:16]}…"
        axes.text(-0.07, 0.45, name, ha="right", va="center", fontsize=8.5, parse_math=False)


def _draw_labels(axes: Any, row: _Row, segments: list[Segment]) -> None:
    """Draw segments in the color of their label, with the label if it fits."""
    colors = section_colors(segment.label for segment in segments)
    for start, end, label in _visible(segments, row):
        axes.axvspan(start, end, color=colors[label], linewidth=0)
        if row.inches(end - start) > 0.085 * len(label) + 0.08:
            axes.text((start + end) / 2, 0.46, label, ha="center", va="center", fontsize=9.5, parse_math=False)


def _draw_beats(axes: Any, row: _Row, beats: Beats) -> None:
    """Draw numbered bar lines, ticks for the other beats, and the meter where it changes, such as `in 3`."""
    times, positions = beats
    signatures = time_signatures(beats)
    changes = {segment.start: f"in {segment.label}" for segment in signatures if len(signatures) > 1}
    inside = (times >= row.start) & (times < row.end)
    down = positions == 1
    axes.vlines(times[inside & ~down], 0, 0.4, color="#999999", lw=0.9)
    axes.vlines(times[inside & down], 0, 1, color="black", lw=0.9)
    numbers = np.cumsum(down)[inside & down]
    every = max(1, int(np.ceil(len(numbers) / MOST_BAR_NUMBERS)))
    for time, number in zip(times[inside & down], numbers, strict=True):
        place = {"xytext": (2, 0), "textcoords": "offset points", "va": "center"}
        if time in changes:
            box = {"boxstyle": "square,pad=0.15", "facecolor": "#d1495b", "edgecolor": "none"}
            axes.annotate(changes[time], (time, 0.58), fontsize=7.5, color="white", bbox=box, **place)
        elif (number - 1) % every == 0:
            axes.annotate(str(number), (time, 0.58), fontsize=7.5, color="#333333", **place)


def _draw_bar_lines(axes: Any, row: _Row, annotation: AnnotatedSong) -> None:
    """Draw bar lines through the spectrogram."""
    times = _downbeats(annotation)
    axes.vlines(times[(times >= row.start) & (times < row.end)], 0, 1, color="white", lw=0.6, alpha=0.45)


def _draw_chords(axes: Any, row: _Row, chords: list[Segment]) -> None:
    """Draw chords in the color of their root, with their names."""
    for start, end, label in _visible(chords, row):
        axes.axvspan(start, end, facecolor=pitch_color(label), edgecolor="white", linewidth=0.8)
        _draw_chord_name(axes, row, start, end, short_chord(label))


def _draw_chord_name(axes: Any, row: _Row, start: float, end: float, name: str) -> None:
    """
    Draw a name as large as possible: on one line, or with the bass on a second line. If it would be too small, draw it
    vertically, and without its bass if it would still be too small.
    """
    strip = axes.get_position().height * axes.figure.get_figheight()  # inches
    width, height = 72 * row.inches(end - start), 72 * strip  # points
    chord, slash, bass = name.partition("/")
    size, rotation = min(12.0, width / _width(name)), 0
    if size < SMALLEST_LINE and bass:
        name = f"{chord}\n/{bass}"
        size = min(9.0, width / max(_width(chord), _width("/" + bass)), height / 2.4)
    if size < SMALLEST_LINE:
        whole = chord + slash + bass
        name, rotation = whole if height / _width(whole) >= SMALLEST_NAME else chord, 90
        size = min(8.0, 0.8 * width, height / _width(name))
    if size >= SMALLEST_NAME:
        place = {"ha": "center", "va": "center", "rotation": rotation, "parse_math": False, "linespacing": 0.95}
        axes.text((start + end) / 2, 0.47, name, fontsize=size, **place)


def _width(text: str) -> float:
    """Return the approximate width of a line of text, relative to its font size."""
    return 0.68 * len(text) + 0.2


def _draw_keys(axes: Any, row: _Row, keys: list[Segment]) -> None:
    """Draw keys in the color of their tonic, with their full names, or with short names if space is limited."""
    for start, end, label in _visible(keys, row):
        axes.axvspan(start, end, facecolor=pitch_color(label), edgecolor="white", linewidth=0.8)
        if row.inches(end - start) > 0.075 * len(key_name(label)) + 0.08:
            name = key_name(label)
        else:
            name = short_chord(label) if label != "N" else ""
        if row.inches(end - start) > 0.085 * len(name) + 0.04:
            axes.annotate(
                name, (start, 0.46), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center",
                parse_math=False,
            )  # fmt: skip


# `Strip.drawing` → a function of the axes, the row and the events.
_DRAWINGS: dict[str, Callable[[Any, _Row, Any], None]] = {
    "labels": _draw_labels,
    "beats": _draw_beats,
    "chords": _draw_chords,
    "keys": _draw_keys,
}


def _mark_uncertain(axes: Any, row: _Row, events: Any, uncertain: np.ndarray | None) -> None:
    """Hatch uncertain segments, and draw uncertain beats in light gray."""
    if uncertain is None or len(uncertain) != len(events.times if isinstance(events, Beats) else events):
        return
    if isinstance(events, Beats):
        inside = uncertain & (events.times >= row.start) & (events.times < row.end)
        heights = np.where(events.positions[inside] == 1, 1.0, 0.4)
        axes.vlines(events.times[inside], 0, heights, color="#dddddd", lw=1.2)
        return
    marked = [segment for segment, is_marked in zip(events, uncertain, strict=True) if is_marked]
    for start, end, _ in _visible(marked, row):
        style = {"facecolor": "#ffffff60", "edgecolor": "#00000050", "hatch": "/////", "linewidth": 0, "zorder": 2}
        axes.axvspan(start, end, **style)


def _draw_boundaries(axes: dict[str, Any], row: _Row, annotation: AnnotatedSong, sound_color: str) -> None:
    """Draw a line at the start of each section through the strips of sections, sound, beats and chords."""
    crossed = [name for name in axes if name in ("sections", SOUND, "beats", "chords")]
    for segment in annotation.sections or []:
        if row.start < segment.start < row.end:
            for name in crossed:
                axes[name].axvline(segment.start, color=sound_color if name == SOUND else "black", lw=1.4)


def _draw_time(axes: Any, row: _Row) -> None:
    """Draw the time axis below a row, with at most about fifteen ticks."""
    steps = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
    step = next((step for step in steps if (row.end - row.start) / step <= 15), (row.end - row.start) / 10)
    ticks = np.arange(np.ceil(row.start / step - 1e-9) + 0.0, np.floor(row.end / step + 1e-9) + 1) * step
    names = [clock(tick) if step >= 1 else f"{tick:.1f}" for tick in ticks]
    axes.set_xticks(ticks, names, fontsize=8, color="#444444")
    axes.tick_params(bottom=True, labelbottom=True, length=3, pad=2, color="#888888")


def _draw_envelope(axes: Any, waveform: np.ndarray, sampling_rate: int, row: _Row) -> None:
    """Draw the lowest and the highest sample of each pixel."""
    part = waveform[round(row.start * sampling_rate) : round(row.end * sampling_rate)]
    starts = np.unique(np.linspace(0, len(part), int(WIDTH * DPI), endpoint=False).astype(int))
    low, high = np.minimum.reduceat(part, starts), np.maximum.reduceat(part, starts)
    largest = max(waveform.max(), -waveform.min(), 1e-9)
    times = row.start + starts / sampling_rate
    axes.fill_between(times, 0.5 + 0.48 * low / largest, 0.5 + 0.48 * high / largest, color="#5b7fa6", linewidth=0)


def _visible(segments: list[Segment], row: _Row) -> list[Segment]:
    """Return the parts of segments that lie in a row."""
    return [
        Segment(max(start, row.start), min(end, row.end), label)
        for start, end, label in segments
        if start < row.end - 1e-6 and end > row.start + 1e-6
    ]
