"""Read MIDI files as parts of a score."""

import os
from pathlib import Path

from .midi_synthesis import is_note_off, open_midi, timed_messages
from .score import Part, ScoreControl, ScoreNote

CONTROLS = (1, 11, 64, 66, 67)  # modulation, expression and pedals; levels and effects are drawn when it is rendered

_DRUM_CHANNEL = 9
_SHORTEST = 0.01  # seconds, of notes without length


def read_parts(path: str | os.PathLike) -> tuple[Part, ...]:
    """
    Read a MIDI file: one part for each track and channel with notes, named after its track, or `track 1` without a
    name. A note lasts until its note-off, the next note of the same pitch, or the end of the file; the pedal is a
    controller. Pitch bends and changes of level are left out, and of several programs the first counts.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be read, or has no notes.
        ImportError: mido is not installed.
    """
    midi = open_midi(Path(path))
    sounding: dict[tuple[int, int, int], tuple[float, int]] = {}
    notes: dict[tuple[int, int], list[ScoreNote]] = {}
    controls: dict[tuple[int, int], list[ScoreControl]] = {}
    programs: dict[tuple[int, int], int] = {}
    seconds = 0.0
    for seconds, number, message in timed_messages(midi):
        if message.is_meta or not hasattr(message, "channel"):
            continue
        key = number, message.channel
        if hasattr(message, "note") and message.type in ("note_on", "note_off"):
            if started := sounding.pop((*key, message.note), None):
                _add(notes.setdefault(key, []), started, seconds, message.note)
            if not is_note_off(message):
                sounding[*key, message.note] = seconds, message.velocity
        elif message.type == "control_change" and message.control in CONTROLS:
            controls.setdefault(key, []).append(ScoreControl(seconds, message.control, message.value))
        elif message.type == "program_change":
            programs.setdefault(key, message.program)
    for (number, channel, pitch), started in sounding.items():
        _add(notes.setdefault((number, channel), []), started, seconds, pitch)
    if not notes:
        raise ValueError(f"{path} has no notes.")
    names = [track.name.strip() or f"track {number}" for number, track in enumerate(midi.tracks, 1)]
    return tuple(
        Part(
            names[key[0]],
            programs.get(key, 0),
            tuple(sorted(notes[key], key=lambda note: (note.start, note.pitch))),
            is_drums=key[1] == _DRUM_CHANNEL,
            controls=tuple(controls.get(key, ())),
        )
        for key in sorted(notes)
    )


def _add(notes: list[ScoreNote], started: tuple[float, int], end: float, pitch: int) -> None:
    """Add a note that has ended."""
    start, velocity = started
    notes.append(ScoreNote(start, max(end, start + _SHORTEST), pitch, velocity))
