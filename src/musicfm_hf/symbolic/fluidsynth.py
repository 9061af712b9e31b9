"""
Synthesis of parts by FluidSynth, a program that plays the soundfonts (.sf2, .sf3) of Debian with pedals, reverb and
chorus: `apt-get install fluidsynth fluid-soundfont-gm`.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from .score import Part, ScoreNote

# Debian package → path of its soundfont, for error messages.
PACKAGES = {
    "timgm6mb-soundfont": "/usr/share/sounds/sf2/TimGM6mb.sf2",
    "csound-soundfont": "/usr/share/sounds/sf2/sf_GMbank.sf2",
    "fluid-soundfont-gm": "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "opl3-soundfont": "/usr/share/sounds/sf2/OPL-3_FM_128M.sf2",
    "fluidr3mono-gm-soundfont": "/usr/share/sounds/sf3/FluidR3Mono_GM.sf3",
    "musescore-general-soundfont-small": "/usr/share/sounds/sf3/MuseScore_General_Lite.sf3",
}

TICKS_PER_BEAT = 10000  # of half a second: a tick lasts 50 µs

LATENCY_SECONDS = 0.0045  # mean delay of FluidSynth 2.3, which starts notes at blocks of 64 samples

_GAP_SECONDS = 3.0  # between two parts in one file, in which the reverb dies away

_DRUM_CHANNEL = 9


@dataclass(frozen=True)
class Room:
    """
    Effects and tuning of a rendering.

    Attributes:
        reverb (`float`): Level from 0, dry, to 1.
        room_size (`float`): From 0 to 1.
        damping (`float`): Of high frequencies in the reverb, from 0 to 1.
        chorus (`float`): Level from 0 to 10.
        tuning (`float`): Cents above A = 440 Hz, from -100 to 100.

    Raises:
        ValueError: a number is out of range.
    """

    reverb: float = 0.4
    room_size: float = 0.4
    damping: float = 0.2
    chorus: float = 0.0
    tuning: float = 0.0

    def __post_init__(self) -> None:
        shares = {"reverb": self.reverb, "room_size": self.room_size, "damping": self.damping}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {value}.")
        if not (0 <= self.chorus <= 10 and -100 <= self.tuning <= 100):
            raise ValueError(
                f"`chorus` must be from 0 to 10 and `tuning` from -100 to 100, got {self.chorus} and {self.tuning}."
            )


def find_fluidsynth() -> str:
    """Return the path of FluidSynth. Raises `FileNotFoundError` if it is not installed."""
    path = shutil.which("fluidsynth")
    if path is None:
        raise FileNotFoundError("Rendering needs the program fluidsynth: `apt-get install fluidsynth`.")
    return path


def check_soundfont(path: str | os.PathLike) -> Path:
    """
    Return the path of a soundfont.

    Raises:
        FileNotFoundError: the file does not exist. The message names the Debian package that has it, if one does.
        ValueError: the file is not a soundfont.
    """
    path = Path(path)
    if not path.is_file():
        packages = [name for name, place in PACKAGES.items() if Path(place).name == path.name]
        names = ", ".join(f"{name} ({place})" for name, place in PACKAGES.items())
        advice = f"`apt-get install {packages[0]}`" if packages else f"Debian has {names}"
        raise FileNotFoundError(f"The soundfont {path} does not exist: {advice}.")
    with path.open("rb") as file:
        header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"sfbk":
        raise ValueError(f"{path} is not a soundfont (.sf2 or .sf3).")
    return path


def synthesize_parts(
    parts: Sequence[Part],
    seconds: float,
    soundfont: str | os.PathLike,
    room: Room,
    sampling_rate: int,
) -> Iterator[np.ndarray]:
    """
    Play parts, and yield the audio of each one alone. The parts are played by one process, one after the other, so
    that the soundfont is loaded once.

    Args:
        parts: Parts; their level is not applied.
        seconds (`float`): Length of the audio.
        soundfont: A .sf2 or .sf3 file.
        room ([`Room`]): Effects and tuning.
        sampling_rate (`int`): Rate in Hz.

    Yields:
        float32 mono of shape `(samples,)`, whose first sample is time 0.

    Raises:
        FileNotFoundError: FluidSynth or the soundfont does not exist.
        ValueError: FluidSynth fails.
        ImportError: mido is not installed.
    """
    program, soundfont = find_fluidsynth(), check_soundfont(soundfont)
    slot = seconds + _GAP_SECONDS
    length, latency = round(seconds * sampling_rate), round(LATENCY_SECONDS * sampling_rate)
    with tempfile.TemporaryDirectory(prefix="musicfm_fluidsynth_") as folder:
        midi, audio = Path(folder) / "parts.mid", Path(folder) / "parts.wav"
        write_parts(midi, parts, slot, room.tuning)
        options = ["-ni", "-q", "-F", str(audio), "-T", "wav", "-O", "float", "-r", str(sampling_rate), "-g", "0.3"]
        options += [word for setting in _settings(room) for word in ("-o", setting)]
        command = [program, *options, str(soundfont), str(midi)]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        # FluidSynth returns 0 and plays silence if it cannot load the soundfont.
        if result.returncode or "Failed to load" in result.stderr or not audio.is_file():
            raise ValueError(f"FluidSynth failed with {soundfont}: {(result.stderr or result.stdout).strip()[-500:]}")
        with soundfile.SoundFile(audio) as file:
            for index in range(len(parts)):
                file.seek(min(round(index * slot * sampling_rate) + latency, file.frames))
                part = file.read(length, dtype="float32", always_2d=True).mean(axis=1)
                yield np.pad(part, (0, length - len(part)))


def write_parts(path: Path, parts: Sequence[Part], slot: float, tuning: float = 0.0) -> None:
    """
    Write parts to a MIDI file, each `slot` seconds after the one before it.

    Raises:
        ImportError: mido is not installed.
    """
    try:
        import mido
    except ModuleNotFoundError as error:
        raise ImportError("Rendering needs mido: `pip install 'musicfm_hf[pop909]'`.") from error
    messages: list[tuple[float, Any]] = []
    for index, part in enumerate(parts):
        channel = _DRUM_CHANNEL if part.is_drums else [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15][index % 15]
        for seconds, kind, values in _events(part, tuning):
            messages.append((index * slot + seconds, mido.Message(kind, channel=channel, **values)))
        messages.append(((index + 1) * slot - 0.01, mido.Message("control_change", channel=channel, control=120)))
    messages.sort(key=lambda message: message[0])  # messages at the same time keep their order
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500000)])
    last = 0
    for seconds, message in messages:
        tick = round(seconds * 2 * TICKS_PER_BEAT)
        track.append(message.copy(time=tick - last))
        last = tick
    track.append(mido.MetaMessage("end_of_track", time=0))
    file = mido.MidiFile(type=0, ticks_per_beat=TICKS_PER_BEAT)
    file.tracks.append(track)
    file.save(path)


def _events(part: Part, tuning: float) -> Iterable[tuple[float, str, dict[str, int]]]:
    """Yield the messages of a part: seconds, type and values. Notes end before others of their pitch begin."""
    yield 0.0, "program_change", {"program": part.program}
    controls = [(64, 0), (10, round(64 + 63 * part.pan))]
    if not part.is_drums:
        fine = min(16383, round(8192 * (1 + tuning / 100)))
        controls += [(101, 0), (100, 1), (6, fine >> 7), (38, fine & 127)]  # fine tuning of the channel
    for number, value in controls:
        yield 0.0, "control_change", {"control": number, "value": value}
    events: list[tuple[float, int, str, dict[str, int]]] = [
        (control.time, 1, "control_change", {"control": control.number, "value": control.value})
        for control in part.controls
    ]
    for note in _without_overlap(part.notes):
        events.append((note.start, 2, "note_on", {"note": note.pitch, "velocity": note.velocity}))
        events.append((note.end, 0, "note_off", {"note": note.pitch}))
    for seconds, _, kind, values in sorted(events, key=lambda event: event[:2]):
        yield seconds, kind, values


def _without_overlap(notes: Sequence[ScoreNote]) -> list[ScoreNote]:
    """Return notes that end where the next note of the same pitch starts; of two that start together, the longer."""
    following: dict[int, float] = {}
    separated = []
    for note in sorted(notes, key=lambda note: (-note.start, note.end)):
        end = min(note.end, following.get(note.pitch, note.end))
        if end > note.start:
            separated.append(ScoreNote(note.start, end, note.pitch, note.velocity))
            following[note.pitch] = note.start
    return separated[::-1]


def _settings(room: Room) -> list[str]:
    """Return the settings of FluidSynth."""
    return [
        "synth.dynamic-sample-loading=1",
        f"synth.reverb.active={int(room.reverb > 0)}",
        f"synth.reverb.level={room.reverb:.3f}",
        f"synth.reverb.room-size={room.room_size:.3f}",
        f"synth.reverb.damp={room.damping:.3f}",
        f"synth.chorus.active={int(room.chorus > 0)}",
        f"synth.chorus.level={room.chorus:.3f}",
    ]
