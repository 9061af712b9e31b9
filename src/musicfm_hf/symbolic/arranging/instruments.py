"""
Instruments of arrangements: General MIDI programs by role, with their ranges and tags.

Some programs are held out: songs for validation and test are played on them where an instrument has several programs,
and songs for training never are.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from ..score import Part, ScoreNote


@dataclass(frozen=True)
class Instrument:
    """
    An instrument.

    Attributes:
        name (`str`): Its tag, or a name in parentheses for instruments that are not tagged.
        programs (`tuple[int, …]`): General MIDI programs from 0 for training.
        held_out (`tuple[int, …]`): Programs for validation and test; if empty, `programs`.
        low, high (`int`): Range in MIDI numbers.
        decays (`bool`): Whether notes die away, so that it can be played with a sustain pedal.
    """

    name: str
    programs: tuple[int, ...]
    held_out: tuple[int, ...]
    low: int
    high: int
    decays: bool = False


_INSTRUMENTS = (
    Instrument("piano", (0, 2, 3), (1,), 21, 108, True),
    Instrument("electric_piano", (4,), (5,), 28, 103, True),
    Instrument("harpsichord", (6,), (), 29, 89, True),
    Instrument("organ", (16, 18, 19), (17, 20), 36, 96),
    Instrument("vibraphone", (11,), (), 48, 96, True),
    Instrument("marimba", (12,), (), 45, 96, True),
    Instrument("harmonica", (22,), (), 55, 96),
    Instrument("acoustic_guitar", (24,), (25,), 40, 88, True),
    Instrument("electric_guitar", (26, 28, 29), (27, 30), 40, 88, True),
    Instrument("violin", (40,), (), 55, 103),
    Instrument("strings", (48, 50), (49, 51), 36, 96),
    Instrument("choir", (52, 54), (53,), 43, 84),
    Instrument("trumpet", (56,), (), 54, 86),
    Instrument("brass", (61, 62), (63,), 40, 84),
    Instrument("sax", (64, 66), (65,), 44, 84),
    Instrument("oboe", (68,), (), 58, 91),
    Instrument("clarinet", (71,), (), 50, 91),
    Instrument("flute", (73,), (), 60, 96),
    Instrument("synth_lead", (80, 82), (81,), 36, 96),
    Instrument("(clavinet)", (7,), (), 36, 96, True),
    Instrument("(music box)", (8, 9), (10,), 60, 108, True),
    Instrument("(accordion)", (21,), (23,), 48, 93),
    Instrument("(cello)", (42,), (), 36, 76),
    Instrument("(harp)", (46,), (), 36, 100, True),
    Instrument("(pizzicato)", (45,), (), 36, 96, True),
    Instrument("(recorder)", (74, 79), (75,), 60, 96),
    Instrument("(synth pad)", (88, 89, 94), (90, 91, 95), 36, 96),
    Instrument("(sitar)", (104,), (107,), 48, 84, True),
    Instrument("(bass)", (32, 33, 34, 36, 38), (35, 39), 26, 60, True),
)
INSTRUMENTS = {instrument.name: instrument for instrument in _INSTRUMENTS}

_WINDS = ("harmonica", "violin", "trumpet", "sax", "oboe", "clarinet", "flute", "(recorder)", "(accordion)")
_KEYS = ("piano", "electric_piano", "harpsichord", "vibraphone", "marimba")

# Role → instruments and their weights.
ROLES: dict[str, dict[str, float]] = {
    "melody": dict.fromkeys(_WINDS, 2.0)
    | dict.fromkeys(_KEYS, 1.0)
    | {"choir": 3.0, "synth_lead": 3.0, "electric_guitar": 2.0, "acoustic_guitar": 1.0, "piano": 2.0, "(sitar)": 0.5},
    "counter": dict.fromkeys((*_WINDS, *_KEYS), 1.0)
    | {"strings": 2.0, "electric_guitar": 2.0, "acoustic_guitar": 1.0, "brass": 1.0, "synth_lead": 1.0}
    | {"organ": 1.0, "(music box)": 0.5, "(cello)": 1.0, "(pizzicato)": 0.5},
    "piano": {"piano": 5.0, "electric_piano": 3.0, "acoustic_guitar": 3.0, "electric_guitar": 2.0, "organ": 2.0}
    | {"harpsichord": 1.5, "strings": 1.0, "vibraphone": 0.7, "(harp)": 0.7, "(clavinet)": 0.5, "(synth pad)": 0.5},
    "pad": {"strings": 4.0, "(synth pad)": 3.0, "organ": 2.0, "choir": 2.0, "brass": 1.0, "(accordion)": 0.7},
    "arpeggio": {"acoustic_guitar": 3.0, "piano": 2.0, "electric_guitar": 2.0, "electric_piano": 2.0, "(harp)": 1.0}
    | {"synth_lead": 1.5, "vibraphone": 1.0, "marimba": 1.0, "(pizzicato)": 1.0, "harpsichord": 0.7, "(music box)": 1},
    "comping": {"acoustic_guitar": 3.0, "electric_guitar": 3.0, "piano": 2.0, "electric_piano": 2.0, "organ": 1.5}
    | {"(clavinet)": 1.0, "brass": 1.0, "harpsichord": 0.5, "(accordion)": 0.5},
    "bass": {"(bass)": 1.0},
}

DRUM_KITS = (0, 8, 16, 24, 32, 40)
HELD_OUT_DRUM_KITS = (25, 48)


def draw_instrument(
    rng: np.random.Generator, role: str, held_out: bool, excluded: Collection[str] = ()
) -> tuple[Instrument, int]:
    """
    Draw an instrument for a role, and a program of it.

    Args:
        role (`str`): A key of `ROLES`.
        held_out (`bool`): Draw from the programs for validation and test.
        excluded: Names of instruments that already play, unless none is left.
    """
    weights = {name: weight for name, weight in ROLES[role].items() if name not in excluded} or ROLES[role]
    shares = np.array(list(weights.values()))
    instrument = INSTRUMENTS[list(weights)[int(rng.choice(len(weights), p=shares / shares.sum()))]]
    programs = (instrument.held_out or instrument.programs) if held_out else instrument.programs
    return instrument, int(rng.choice(programs))


def tag_of(program: int) -> str | None:
    """Return the tag of a program: one of 19 instruments, or `None` if it has none."""
    for instrument in INSTRUMENTS.values():
        if program in (*instrument.programs, *instrument.held_out):
            return None if instrument.name.startswith("(") else instrument.name
    return None


def play_on(part: Part, instrument: Instrument, program: int) -> Part:
    """
    Return a part for an instrument: the whole part is shifted by up to two octaves, as brings most notes into its
    range, and single notes beyond the range by octaves. Instruments that do not decay are played without pedal.
    """
    pitches = np.array([note.pitch for note in part.notes])
    shifts = sorted(range(-24, 25, 12), key=abs)
    inside = [
        int(((pitches + shift >= instrument.low) & (pitches + shift <= instrument.high)).sum()) for shift in shifts
    ]
    shift = shifts[int(np.argmax(inside))]
    notes = tuple(replace(note, pitch=_into(note.pitch + shift, instrument)) for note in part.notes)
    controls = part.controls if instrument.decays else tuple(c for c in part.controls if c.number != 64)
    return replace(part, program=program, notes=_without_unisons(notes), controls=controls)


def _into(pitch: int, instrument: Instrument) -> int:
    """Return a pitch in the range of an instrument, in another octave if needed."""
    while pitch < instrument.low:
        pitch += 12
    while pitch > instrument.high:
        pitch -= 12
    return pitch


def _without_unisons(notes: tuple[ScoreNote, ...]) -> tuple[ScoreNote, ...]:
    """Return notes without the second of two that start together on one pitch."""
    return tuple({(note.start, note.pitch): note for note in notes}.values())
