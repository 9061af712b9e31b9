"""Synthesize MIDI files with a soundfont, as they are or arranged for three instruments."""

import importlib.resources
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("MELODY", "BRIDGE", "PIANO")  # tracks of a file that can be arranged

PART_DECIBELS = (1.0, -3.0, 0.0)

SAMPLING_RATE = 24000

TAIL_SECONDS = 1.5

MIX_RMS = 0.08

MAX_PEAK = 0.98

_FRAME_SECONDS = 0.1

_SILENCE_DECIBELS = -40.0

Event = tuple[float, Any]  # seconds, and a message of mido


def default_soundfont() -> Path:
    """Return the path of TimGM6mb.sf2, a part of `pretty_midi`. Raises `ImportError` if that is not installed."""
    try:
        path = Path(str(importlib.resources.files("pretty_midi") / "TimGM6mb.sf2"))
    except ModuleNotFoundError as error:
        raise ImportError("Rendering needs a soundfont: pass a .sf2 file, or `pip install pretty_midi`.") from error
    if not path.is_file():
        raise FileNotFoundError(f"This version of pretty_midi has no {path.name}: pass a .sf2 file.")
    return path


def render(
    midi_path: str | os.PathLike,
    soundfont: str | os.PathLike | None = None,
    programs: Sequence[int] | None = None,
    transpose: int = 0,
    sampling_rate: int = SAMPLING_RATE,
    tail_seconds: float = TAIL_SECONDS,
    tempo: float = 1.0,
) -> np.ndarray:
    """
    Synthesize a MIDI file as float32 mono of shape `(samples,)`.

    Sample 0 is MIDI time 0, and the tempo map is kept, so that labels in MIDI seconds apply to the audio. The audio
    ends `tail_seconds` after the last note-off; later events of the file are not sent. Controllers are sent unchanged;
    tinysoundfont (0.3.7) supports volume, expression, pan and pitch bend, and ignores the sustain pedal.

    Without `programs`, the file is played with its own programs. With three programs, it is *arranged*: MELODY, BRIDGE
    and PIANO are synthesized separately, normalized to the same level, shifted by +1, -3 and 0 dB, and summed. The
    level of a part is the RMS over its sounding frames. A frame lasts 0.1 s, and sounds if it is less than 40 dB below
    the loudest frame. In both cases, the result is scaled to an RMS of 0.08, or lower if its peak would exceed 0.98.

    Args:
        midi_path: A MIDI file of type 0 or 1; an arrangement needs tracks named MELODY, BRIDGE and PIANO.
        soundfont: A .sf2 file; TimGM6mb of `pretty_midi` by default.
        programs (`Sequence[int]`, *optional*): General MIDI programs from 0 for the three parts.
        transpose (`int`): Semitones by which all notes are shifted.
        sampling_rate (`int`): Rate of the result, in Hz.
        tail_seconds (`float`): Time for notes to ring after the last note-off.
        tempo (`float`): Factor by which the music is played faster; times of the file are divided by it.

    Raises:
        FileNotFoundError: the MIDI file or the soundfont does not exist.
        ValueError: a file cannot be read, has no notes or lacks one of the three parts; transposed notes are outside 0
            to 127; or an argument is out of range.
        ImportError: mido, tinysoundfont or, for its soundfont, pretty_midi is not installed.
    """
    if programs is not None and not (len(programs) == 3 and all(0 <= program <= 127 for program in programs)):
        raise ValueError(f"`programs` must be three numbers from 0 to 127 ({', '.join(PARTS)}), got {programs}.")
    if sampling_rate <= 0 or tail_seconds < 0:
        raise ValueError(
            f"`sampling_rate` must be above 0 and `tail_seconds` at least 0, got {sampling_rate} and {tail_seconds}."
        )
    if tempo <= 0:
        raise ValueError(f"`tempo` must be above 0, got {tempo}.")
    soundfont = find_soundfont(soundfont)
    tracks = _read_events(Path(midi_path), transpose, tempo)
    end = max(seconds for events in tracks.values() for seconds, message in events if is_note_off(message))
    length = round((end + tail_seconds) * sampling_rate)
    if programs is None:
        events = sorted((event for events in tracks.values() for event in events), key=lambda event: event[0])
        mix = _synthesize(events, end, length, sampling_rate, soundfont)
    else:
        mix = _arrange(tracks, end, length, sampling_rate, soundfont, programs, Path(midi_path))
    peak = np.abs(mix).max()
    if not peak > 0:
        raise ValueError(f"{midi_path} is silent with {soundfont}.")
    return mix * np.float32(min(MIX_RMS / _rms(mix), MAX_PEAK / peak))


def find_soundfont(soundfont: str | os.PathLike | None) -> Path:
    """
    Return the path of a soundfont, or of the default one for `None`. Raises `FileNotFoundError` if it is missing.
    """
    path = Path(soundfont) if soundfont is not None else default_soundfont()
    if not path.is_file():
        raise FileNotFoundError(f"The soundfont {path} does not exist")
    return path


def _read_events(path: Path, transpose: int, tempo: float) -> dict[str | int, list[Event]]:
    """Return the events to send to the synthesizer, keyed by the name of the track, or its index without a name."""
    midi = open_midi(path)
    names = [track.name for track in midi.tracks]
    keys = [name if name and names.count(name) == 1 else number for number, name in enumerate(names)]
    tracks: dict[str | int, list[Event]] = {key: [] for key in keys}
    for seconds, number, message in timed_messages(midi):
        if message.is_meta or not hasattr(message, "channel"):
            continue
        if hasattr(message, "note"):
            if not 0 <= message.note + transpose <= 127:
                raise ValueError(f"{path} has note {message.note}: shifted by {transpose}, it is outside 0 to 127.")
            message = message.copy(note=message.note + transpose)
        tracks[keys[number]].append((seconds / tempo, message))
    if not any(is_note_off(message) for events in tracks.values() for _, message in events):
        raise ValueError(f"{path} has no notes.")
    return tracks


def open_midi(path: Path) -> Any:
    """Open a file as `mido.MidiFile`."""
    try:
        import mido
    except ModuleNotFoundError as error:
        raise ImportError("Reading MIDI needs mido: `pip install 'musicfm_hf[pop909]'`.") from error
    if not path.is_file():
        raise FileNotFoundError(f"The file {path} does not exist")
    try:
        midi = mido.MidiFile(path)
    except Exception as error:  # mido's own errors are of several kinds
        raise ValueError(f"{path} is not MIDI that can be read ({error or type(error).__name__})") from error
    if midi.type == 2 or midi.ticks_per_beat <= 0:
        raise ValueError(f"{path} must be MIDI of type 0 or 1 that counts ticks per beat.")
    return midi


def timed_messages(midi: Any) -> Iterator[tuple[float, int, Any]]:
    """Yield the time in seconds, the index of the track, and the message, in order of time."""
    from mido import tick2second

    messages = []
    for number, track in enumerate(midi.tracks):
        tick = 0
        for message in track:
            tick += message.time
            messages.append((tick, number, message))
    messages.sort(key=lambda message: message[0])
    seconds, last_tick, tempo = 0.0, 0, 500000  # microseconds per beat until the file sets another tempo
    for tick, number, message in messages:
        seconds += tick2second(tick - last_tick, midi.ticks_per_beat, tempo)
        last_tick = tick
        if message.type == "set_tempo":
            tempo = message.tempo
        yield seconds, number, message


def is_note_off(message: Any) -> bool:
    """Return whether a message ends a note: a note-off, or a note-on without velocity."""
    return message.type == "note_off" or (message.type == "note_on" and message.velocity == 0)


def _synthesize(
    events: list[Event],
    end: float,
    length: int,
    sampling_rate: int,
    soundfont: Path,
    program: int | None = None,
) -> np.ndarray:
    """Play events up to `end` seconds, with one program or with those of the file, as `(length,)`."""
    try:
        import tinysoundfont
    except ModuleNotFoundError as error:
        # Its only dependency is for playback on a loudspeaker and needs a compiler.
        raise ImportError("Rendering needs tinysoundfont: `pip install --no-deps tinysoundfont`.") from error
    synth = tinysoundfont.Synth(samplerate=sampling_rate)  # not shared, because it keeps the state of its controllers
    try:
        synth.sfload(str(soundfont))
    except RuntimeError as error:
        raise ValueError(f"{soundfont} is not a soundfont that can be read ({error})") from error
    audio = np.zeros((length, 2), dtype=np.float32)
    position = 0
    try:
        for channel in sorted({message.channel for _, message in events}):
            synth.program_change(channel, program or 0, is_drums=program is None and channel == 9)
        for seconds, message in events:
            if seconds > end:
                break
            position = _advance(synth, audio, position, round(seconds * sampling_rate))
            if message.type != "program_change" or program is None:
                _send(synth, message)
    except RuntimeError as error:
        raise ValueError(f"{soundfont} lacks a required program ({error}).") from error
    _advance(synth, audio, position, len(audio))
    return audio.mean(axis=1)


def _advance(synth: Any, audio: np.ndarray, position: int, to: int) -> int:
    """Fill `audio` `(samples, 2)` up to sample `to`, and return the new position."""
    to = min(to, len(audio))
    if to > position:
        synth.generate(to - position, audio[position:to].data.cast("B"))
    return max(position, to)


def _send(synth: Any, message: Any) -> None:
    """Send a MIDI message to the synthesizer."""
    if is_note_off(message):
        synth.noteoff(message.channel, message.note)
    elif message.type == "note_on":
        synth.noteon(message.channel, message.note, message.velocity)
    elif message.type == "control_change":
        synth.control_change(message.channel, message.control, message.value)
    elif message.type == "pitchwheel":
        synth.pitchbend(message.channel, message.pitch + 8192)
    elif message.type == "program_change":
        synth.program_change(message.channel, message.program, is_drums=message.channel == 9)


def _arrange(
    tracks: dict[str | int, list[Event]],
    end: float,
    length: int,
    sampling_rate: int,
    soundfont: Path,
    programs: Sequence[int],
    path: Path,
) -> np.ndarray:
    """Return the sum of the three parts, each with its program and at its level."""
    if missing := [name for name in PARTS if name not in tracks]:
        raise ValueError(f"{path} has no track {', '.join(missing)} among {', '.join(map(str, tracks))}.")
    mix = np.zeros(length, dtype=np.float32)
    for name, program, decibels in zip(PARTS, programs, PART_DECIBELS, strict=True):
        part = _synthesize(tracks[name], end, length, sampling_rate, soundfont, program)
        level = sounding_rms(part, sampling_rate)
        if level > 0:  # a part may have no notes
            mix += part * np.float32(10 ** (decibels / 20) / level)
    return mix


def sounding_rms(audio: np.ndarray, sampling_rate: int) -> float:
    """Return the RMS over frames less than 40 dB below the loudest one, ignoring an incomplete last frame."""
    size = round(_FRAME_SECONDS * sampling_rate)
    frames = audio[: len(audio) // size * size].reshape(-1, size)
    powers = np.square(frames, dtype=np.float64).mean(axis=1)
    sounding = powers[powers > powers.max(initial=0) * 10 ** (_SILENCE_DECIBELS / 10)]
    return float(np.sqrt(sounding.mean())) if len(sounding) else 0.0


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.square(audio, dtype=np.float64).mean()))
