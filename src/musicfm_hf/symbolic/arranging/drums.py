"""Drum parts on the beats of a score: patterns that vary with the sections, fills before boundaries, crashes after."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..score import DRUMS as DRUMS_NAME
from ..score import Part, ScoreNote
from . import drum_styles_held_out as held_out_styles
from .bars import Bar
from .drum_styles import DRUMS, FILLS, TRAINING, Style, pattern
from .instruments import DRUM_KITS, HELD_OUT_DRUM_KITS

MAX_SHIFT = 0.01  # seconds by which a note may be early or late

_VELOCITIES = {"-": 45, "x": 78, "X": 104}
_DENSE, _SPARSE = 0.7, 0.35  # intensities of sections above and below which patterns change
_NOTE_SECONDS = 0.1


def draw_style(rng: np.random.Generator, meters: set[int], held_out: bool) -> tuple[str, Style] | None:
    """
    Draw a style that has patterns for most of these meters; `None` if no style has one.

    Args:
        held_out (`bool`): Draw from the styles for validation and test.
    """
    styles = held_out_styles.STYLES if held_out else TRAINING
    known = {name: sum(pattern(style, meter, 0) is not None for meter in meters) for name, style in styles.items()}
    most = max(known.values())
    names = [name for name, count in known.items() if count == most and most]
    if not names:
        return None
    name = names[int(rng.integers(len(names)))]
    return name, styles[name]


def drum_part(
    rng: np.random.Generator, bars: Sequence[Bar], style: Style, intensity: Callable[[Bar], float], held_out: bool
) -> Part:
    """
    Compose a drum part. Every note lies on a step of its pattern between two true beats, up to 10 ms early or late.

    Args:
        bars: Bars from [`find_bars`].
        style ([`Style`]): Style from [`draw_style`].
        intensity (`Callable`): Intensity of a bar from 0 to 1. Below 0.35, only some drums play; above 0.7, the ride
            or the open hi-hat may replace the closed hi-hat.
        held_out (`bool`): Use fills and kits for validation and test.
    """
    choices = rng.integers(0, 1000, 3)  # patterns of sparse, middle and dense sections
    swaps = {"hat": str(rng.choice(["hat", "ride", "open", "bell"])), "rim": str(rng.choice(["rim", "snare"]))}
    quiet = set(rng.permutation(sorted(DRUMS))[: len(DRUMS) // 2].tolist())  # drums that rest in sparse sections
    fills = held_out_styles.FILLS if held_out else FILLS
    spread, every = rng.uniform(0.001, 0.005), int(rng.choice([4, 8]))
    notes: list[ScoreNote] = []
    for index, bar in enumerate(bars):
        level = intensity(bar)
        rows = pattern(style, bar.meter, int(choices[int(level > _SPARSE) + int(level > _DENSE)])) or _plain(
            bar, style
        )
        if level <= _SPARSE:
            rows = {drum: row for drum, row in rows.items() if drum not in quiet}
        elif level > _DENSE:
            rows = {swaps.get(drum, drum): row for drum, row in rows.items()}
        last, fill = float(bar.meter), None
        fills_bar = rng.random() < (0.8 if bar.ends_section else 0.25 * (bar.number % every == every - 1))
        if fills_bar and level > _SPARSE and bar.meter > 1:
            fill = fills[int(rng.integers(len(fills)))]
            last = max(1.0, bar.meter - len(next(iter(fill.values()))) / 4)
        notes += _play(rng, bar, rows, style.steps, 0.0, last, level, spread)
        if fill is not None:
            notes += _play(rng, bar, fill, 4, last, float(bar.meter), level, spread)
        if index and bar.begins_section and level > _SPARSE and rng.random() < 0.8:
            crash = {str(rng.choice(["crash", "crash2"])): "X", "kick": "X"}
            notes += _play(rng, bar, crash, 1, 0.0, 1.0, level, spread)
    kits = HELD_OUT_DRUM_KITS if held_out else DRUM_KITS
    unique = {(round(note.start, 2), note.pitch): note for note in notes}  # a crash may double a kick
    ordered = sorted(unique.values(), key=lambda note: (note.start, note.pitch))
    return Part(DRUMS_NAME, int(rng.choice(kits)), tuple(ordered), is_drums=True)


def shifted(rng: np.random.Generator, time: float, spread: float) -> float:
    """Return a time up to `MAX_SHIFT` early or late, with a standard deviation of `spread` seconds."""
    return max(0.0, time + float(np.clip(rng.normal(0.0, spread), -MAX_SHIFT, MAX_SHIFT)))


def _play(
    rng: np.random.Generator,
    bar: Bar,
    rows: Mapping[str, str],
    steps: int,
    first: float,
    last: float,
    level: float,
    spread: float,
) -> list[ScoreNote]:
    """Return the notes of a pattern from beat `first` to `last` of a bar; a pattern starts at `first`."""
    notes = []
    for drum, row in rows.items():
        for step, mark in enumerate(row):
            beat = first + step / steps
            if mark == "." or beat >= last - 1e-6:
                continue
            start = shifted(rng, bar.at(beat), spread)
            velocity = _VELOCITIES[mark] * (0.8 + 0.3 * level) * rng.uniform(0.9, 1.1)
            notes.append(ScoreNote(start, start + _NOTE_SECONDS, DRUMS[drum], int(np.clip(velocity, 1, 127))))
    return notes


def _plain(bar: Bar, style: Style) -> dict[str, str]:
    """Return a pattern for a meter that the style lacks: a kick on the first beat and the hi-hat on all."""
    rest = (style.steps - 1) * "."
    return {"kick": f"X{rest}" + (bar.meter - 1) * f".{rest}", "hat": bar.meter * f"x{rest}"}
