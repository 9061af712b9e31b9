"""
POP909 rendered to audio: real pop songs, played by hand, whose labels apply to the audio as it is.

The source is a folder with `midi/ID.mid` (tracks `MELODY`, `BRIDGE` and `PIANO`), `songs.tsv`, `arrangements.tsv` and
`splits/`; `pop909_labels.py` reads its labels. Wang et al., "POP909: A Pop-song Dataset for Music Arrangement
Generation", ISMIR 2020.
"""

import hashlib
import importlib.resources
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

PARTS = ("MELODY", "BRIDGE", "PIANO")

LICENCE = (
    "MIT (transcriptions and labels). The songs are commercial: rights in the compositions stay with their owners; "
    "do not publish the rendered audio as music."
)

SPLITS = ("train", "valid", "test")

PART_DECIBELS = (1.0, -3.0, 0.0)

SAMPLING_RATE = 24000

TAIL_SECONDS = 1.5

MIX_RMS = 0.08

MAX_PEAK = 0.98

_FRAME_SECONDS = 0.1

_SILENCE_DECIBELS = -40.0

_SONG_COLUMNS = ("id", "split", "title", "artist", "seconds", "bpm", "first_key")

_ARRANGEMENT_COLUMNS = ("id", "melody_program", "bridge_program", "piano_program", "tags")


@dataclass(frozen=True)
class Song:
    """
    A song of the source.

    Attributes:
        id (`str`): POP909's, three digits.
        split (`str`): train, valid or test.
        is_mini (`bool`): Whether it is in the small selection of its split as well.
        midi (`Path`): The MIDI file.
        programs (`tuple[int, int, int]`): General MIDI programs from 0 for MELODY, BRIDGE and PIANO.
        tags (`tuple[str, ...]`): True of the arranged rendering: instruments, mode, tempo class.
        seconds (`float`): Length as labelled.
        bpm (`float`): Median tempo in beats a minute.
        first_key (`str`): Such as `"F#:maj"`.
    """

    id: str
    split: str
    is_mini: bool
    title: str
    artist: str
    midi: Path
    programs: tuple[int, int, int]
    tags: tuple[str, ...]
    seconds: float
    bpm: float
    first_key: str


def read_songs(source: str | os.PathLike) -> list[Song]:
    """
    The songs of a POP909 folder, in the order of `songs.tsv`.

    Raises:
        FileNotFoundError: the folder, a table, a split or a MIDI file is missing.
        ValueError: a table or a split is malformed, or they contradict each other; says in which file and line.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}")
    rows = _read_table(folder / "songs.tsv", _SONG_COLUMNS)
    arrangements = _read_table(folder / "arrangements.tsv", _ARRANGEMENT_COLUMNS)
    splits = _read_splits(folder / "splits", "", rows)
    mini_splits = _read_splits(folder / "splits", "mini_", rows)
    songs = []
    for song_id, (where, row) in rows.items():
        for name in (splits.get(song_id), mini_splits.get(song_id, row["split"])):
            if name != row["split"]:
                raise ValueError(f"{where}: song {song_id} is in {row['split']!r} here, in {name!r} by splits/.")
        if song_id not in arrangements:
            raise ValueError(f"{where}: song {song_id} is not in arrangements.tsv.")
        midi = folder / "midi" / f"{song_id}.mid"
        if not midi.is_file():
            raise FileNotFoundError(f"There is no {midi}, which {where} names.")
        programs, tags = _arrangement(*arrangements[song_id])
        seconds, bpm = (_number(where, row, name, float) for name in ("seconds", "bpm"))
        named = {name: row[name] for name in ("id", "split", "title", "artist", "first_key")}
        is_mini = song_id in mini_splits
        songs.append(Song(**named, is_mini=is_mini, midi=midi, programs=programs, tags=tags, seconds=seconds, bpm=bpm))
    return songs


def default_soundfont() -> Path:
    """TimGM6mb.sf2, which the package `pretty_midi` brings. Raises `ImportError` where that is not installed."""
    try:
        path = Path(str(importlib.resources.files("pretty_midi") / "TimGM6mb.sf2"))
    except ModuleNotFoundError as error:
        raise ImportError("A soundfont is needed: name a .sf2 file, or `pip install pretty_midi`.") from error
    if not path.is_file():
        raise FileNotFoundError(f"This version of pretty_midi has no {path.name}: name a .sf2 file.")
    return path


def render(
    midi_path: str | os.PathLike,
    soundfont: str | os.PathLike | None = None,
    programs: Sequence[int] | None = None,
    transpose: int = 0,
    sampling_rate: int = SAMPLING_RATE,
    tail_seconds: float = TAIL_SECONDS,
) -> np.ndarray:
    """
    Synthesise a MIDI file as float32 mono of shape `(samples,)`.

    Sample 0 is MIDI time 0 and the tempo map is kept, so that labels in MIDI seconds apply to the audio. It stops
    `tail_seconds` after the last note-off; what comes later in the file is not sent. Controllers are sent as they are;
    tinysoundfont (0.3.7) acts on volume, expression, pan and pitch bend, and leaves out the sustain pedal.

    Without `programs` the file is played as it is. With three of them it is *arranged*: MELODY, BRIDGE and PIANO are
    synthesised apart, brought to the same level, shifted by +1, -3 and 0 dB, and summed. The level of a part is the
    RMS over its sounding frames: of its frames of 0.1 s from time 0 on, those that are less than 40 dB below the
    loudest one. In both cases the RMS of the whole is then 0.08, or less where its peak would pass 0.98.

    Args:
        midi_path: A MIDI file of type 0 or 1; to be arranged, with tracks named MELODY, BRIDGE and PIANO.
        soundfont: A .sf2 file; TimGM6mb of `pretty_midi` by default.
        programs (`Sequence[int]`, *optional*): General MIDI programs from 0 for the three parts.
        transpose (`int`): Semitones by which all notes are shifted; labels are not shifted here.
        sampling_rate (`int`): Of the result, in Hz.
        tail_seconds (`float`): Left to ring after the last note-off.

    Raises:
        FileNotFoundError: there is no such MIDI file or soundfont.
        ValueError: a file cannot be read, has no notes or not the three parts; notes leave 0 to 127; wrong arguments.
        ImportError: mido, tinysoundfont or, for its soundfont, pretty_midi is not installed.
    """
    if programs is not None and not (len(programs) == 3 and all(0 <= program <= 127 for program in programs)):
        raise ValueError(f"`programs` must be three numbers from 0 to 127 ({', '.join(PARTS)}), got {programs}.")
    if sampling_rate <= 0 or tail_seconds < 0:
        raise ValueError(f"Got `sampling_rate` {sampling_rate}, `tail_seconds` {tail_seconds}: above 0, 0 or more.")
    soundfont = _find_soundfont(soundfont)
    tracks = _read_events(Path(midi_path), transpose)
    end = max(seconds for events in tracks.values() for seconds, message in events if _is_note_off(message))
    length = round((end + tail_seconds) * sampling_rate)
    if programs is None:
        events = sorted((event for events in tracks.values() for event in events), key=lambda event: event[0])
        mix = _synthesize(events, end, length, sampling_rate, soundfont)
    else:
        mix = _arrange(tracks, end, length, sampling_rate, soundfont, programs, Path(midi_path))
    peak = np.abs(mix).max()
    if not peak > 0:
        raise ValueError(f"{midi_path} sounds silent with {soundfont}.")
    return mix * np.float32(min(MIX_RMS / _rms(mix), MAX_PEAK / peak))


def rendering_settings(soundfont: str | os.PathLike | None = None, arranged: bool = False) -> dict[str, Any]:
    """What decides how [`render_songs`] sounds, for JSON. Raises what [`render`] raises of the soundfont."""
    soundfont = _find_soundfont(soundfont)
    with soundfont.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    settings = {"arranged": arranged, "soundfont": soundfont.name, "soundfont_sha256": digest}
    settings |= {"sampling_rate": SAMPLING_RATE, "tail_seconds": TAIL_SECONDS, "rms": MIX_RMS, "max_peak": MAX_PEAK}
    if arranged:
        settings["part_decibels"] = dict(zip(PARTS, PART_DECIBELS, strict=True))
    return settings


def render_songs(
    songs: Iterable[Song],
    folder: str | os.PathLike,
    soundfont: str | os.PathLike | None = None,
    arranged: bool = False,
    num_workers: int = 1,
    transpositions: Sequence[int] = (0,),
) -> Iterator[Path]:
    """
    Render songs to `folder/ID.flac` (24 kHz mono, 16 bit) in several processes; yields each path when it is there.
    Transposed ones are called `ID_t+2.flac`.

    Files that are there are kept: a file is written under another name and renamed when it is complete. How they were
    rendered stands in `folder/rendering.json`, so that two ways do not end up in one folder.

    Args:
        songs: From [`read_songs`].
        folder: Where the files go; made if needed.
        soundfont: As for [`render`].
        arranged (`bool`): With the programs of each song, rather than as the MIDI file is.
        num_workers (`int`): Processes; 1 works in this one.
        transpositions: Semitones: each song is rendered with each.

    Raises:
        ValueError: the folder has songs that were rendered in another way, or `num_workers` is below 1.
        Exception: what [`render`] raises.
    """
    if num_workers < 1:
        raise ValueError(f"`num_workers` must be at least 1, got {num_workers}.")
    folder = Path(folder)
    _check_settings(folder, rendering_settings(soundfont, arranged))
    soundfont = _find_soundfont(soundfont)
    jobs = [
        (song.midi, folder / audio_name(song, semitones), soundfont, song.programs if arranged else None, semitones)
        for song in songs
        for semitones in transpositions
    ]
    if num_workers == 1:
        yield from map(_render_file, jobs)
        return
    # Spawned, since forking a process in which torch has threads may hang.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_render_file, jobs)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def audio_name(song: Song, transposition: int = 0) -> str:
    """The name of a song's file: `001.flac`, or `001_t-3.flac` if it is transposed by -3 semitones."""
    return f"{song.id}_t{transposition:+d}.flac" if transposition else f"{song.id}.flac"


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write down how the songs of a folder are rendered, or see that it agrees with what is written there."""
    path = folder / "rendering.json"
    text = json.dumps(settings, indent=2) + "\n"
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{folder} has songs rendered with other settings ({path}): take another folder.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _render_file(job: tuple[Path, Path, Path, tuple[int, int, int] | None, int]) -> Path:
    midi, path, soundfont, programs, transposition = job
    if not path.exists():
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            audio = render(midi, soundfont, programs, transposition, SAMPLING_RATE, TAIL_SECONDS)
            soundfile.write(unfinished, audio, SAMPLING_RATE, "PCM_16", format="FLAC")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def _find_soundfont(soundfont: str | os.PathLike | None) -> Path:
    path = Path(soundfont) if soundfont is not None else default_soundfont()
    if not path.is_file():
        raise FileNotFoundError(f"There is no soundfont {path}")
    return path


def _read_events(path: Path, transpose: int) -> dict[str | int, list[tuple[float, Any]]]:
    """What to send to the synthesiser, in seconds, by track: its name, or its number where it has none of its own."""
    try:
        import mido
    except ModuleNotFoundError as error:
        raise ImportError("Reading MIDI needs mido: `pip install 'musicfm_hf[pop909]'`.") from error
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}")
    try:
        midi = mido.MidiFile(path)
    except (OSError, EOFError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is not MIDI that can be read ({error or type(error).__name__})") from error
    if midi.type == 2 or midi.ticks_per_beat <= 0:
        raise ValueError(f"{path} must be MIDI of type 0 or 1 that counts ticks per beat.")
    messages = []
    for number, track in enumerate(midi.tracks):
        tick = 0
        for message in track:
            tick += message.time
            messages.append((tick, number, message))
    messages.sort(key=lambda message: message[0])
    names = [track.name for track in midi.tracks]
    keys = [name if name and names.count(name) == 1 else number for number, name in enumerate(names)]
    tracks: dict[str | int, list[tuple[float, Any]]] = {key: [] for key in keys}
    seconds, last_tick, tempo = 0.0, 0, 500000  # microseconds per beat until the file says otherwise
    for tick, number, message in messages:
        seconds += mido.tick2second(tick - last_tick, midi.ticks_per_beat, tempo)
        last_tick = tick
        if message.type == "set_tempo":
            tempo = message.tempo
        elif not message.is_meta and hasattr(message, "channel"):
            if hasattr(message, "note"):
                if not 0 <= message.note + transpose <= 127:
                    raise ValueError(f"{path} has note {message.note}: shifted by {transpose} it leaves 0 to 127.")
                message = message.copy(note=message.note + transpose)
            tracks[keys[number]].append((seconds, message))
    if not any(_is_note_off(message) for events in tracks.values() for _, message in events):
        raise ValueError(f"{path} has no notes.")
    return tracks


def _is_note_off(message: Any) -> bool:
    return message.type == "note_off" or (message.type == "note_on" and message.velocity == 0)


def _synthesize(
    events: list[tuple[float, Any]],
    end: float,
    length: int,
    sampling_rate: int,
    soundfont: Path,
    program: int | None = None,
) -> np.ndarray:
    """Play events up to second `end` on a new synthesiser, on one program or on those of the file: `(length,)`."""
    try:
        import tinysoundfont
    except ModuleNotFoundError as error:
        # Its one dependency plays to a loudspeaker and needs a compiler.
        raise ImportError("Rendering needs tinysoundfont: `pip install --no-deps tinysoundfont`.") from error
    synth = tinysoundfont.Synth(samplerate=sampling_rate)  # a new one: it keeps the state of its controllers
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
        raise ValueError(f"{soundfont} lacks a program that is needed ({error}).") from error
    _advance(synth, audio, position, len(audio))
    return audio.mean(axis=1)


def _advance(synth: Any, audio: np.ndarray, position: int, to: int) -> int:
    """Fill `audio` `(samples, 2)` up to sample `to`."""
    to = min(to, len(audio))
    if to > position:
        synth.generate(to - position, memoryview(audio[position:to]).cast("B"))
    return max(position, to)


def _send(synth: Any, message: Any) -> None:
    if _is_note_off(message):
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
    tracks: dict[str | int, list[tuple[float, Any]]],
    end: float,
    length: int,
    sampling_rate: int,
    soundfont: Path,
    programs: Sequence[int],
    path: Path,
) -> np.ndarray:
    """The three parts, each with its program, at their levels, summed."""
    if missing := [name for name in PARTS if name not in tracks]:
        raise ValueError(f"{path} has no track {', '.join(missing)} among {', '.join(map(str, tracks))}.")
    mix = np.zeros(length, dtype=np.float32)
    for name, program, decibels in zip(PARTS, programs, PART_DECIBELS, strict=True):
        part = _synthesize(tracks[name], end, length, sampling_rate, soundfont, program)
        level = _sounding_rms(part, sampling_rate)
        if level > 0:  # a part may have no notes
            mix += part * np.float32(10 ** (decibels / 20) / level)
    return mix


def _sounding_rms(audio: np.ndarray, sampling_rate: int) -> float:
    """RMS over the frames less than 40 dB below the loudest; an incomplete last frame does not count."""
    size = round(_FRAME_SECONDS * sampling_rate)
    frames = audio[: len(audio) // size * size].reshape(-1, size)
    powers = np.square(frames, dtype=np.float64).mean(axis=1)
    sounding = powers[powers > powers.max(initial=0) * 10 ** (_SILENCE_DECIBELS / 10)]
    return float(np.sqrt(sounding.mean())) if len(sounding) else 0.0


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.square(audio, dtype=np.float64).mean()))


def _read_table(path: Path, columns: Sequence[str]) -> dict[str, tuple[str, dict[str, str]]]:
    """Rows by id: where each one stands, and its fields by column."""
    lines = _read_lines(path)
    names = lines[0].split("\t") if lines else []
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"{path}, line 1: no column {', '.join(missing)}, only {', '.join(names)}.")
    rows: dict[str, tuple[str, dict[str, str]]] = {}
    for number, line in enumerate(lines[1:], 2):
        where, fields = f"{path}, line {number}", line.split("\t")
        if len(fields) != len(names):
            raise ValueError(f"{where}: {len(fields)} fields where line 1 has {len(names)} columns.")
        row = dict(zip(names, fields, strict=True))
        if row["id"] in rows:
            raise ValueError(f"{where}: song {row['id']} is there twice.")
        rows[row["id"]] = where, row
    if not rows:
        raise ValueError(f"{path} has no songs.")
    return rows


def _read_splits(folder: Path, prefix: str, songs: dict[str, Any]) -> dict[str, str]:
    """Split by id."""
    splits: dict[str, str] = {}
    for name in SPLITS:
        path = folder / f"{prefix}{name}.txt"
        for number, song_id in enumerate(_read_lines(path), 1):
            if song_id not in songs:
                raise ValueError(f"{path}, line {number}: song {song_id!r} is not in songs.tsv.")
            if song_id in splits:
                raise ValueError(f"{path}, line {number}: song {song_id} is in {prefix}{splits[song_id]} already.")
            splits[song_id] = name
    return splits


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: is this the folder of POP909?")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines(), which splits at odd characters too
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}).") from error
    return lines[:-1] if lines[-1] == "" else lines


def _arrangement(where: str, row: dict[str, str]) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Programs and tags."""
    melody, bridge, piano = (_number(where, row, f"{part.lower()}_program", int) for part in PARTS)
    if not all(0 <= program <= 127 for program in (melody, bridge, piano)):
        raise ValueError(f"{where}: programs must be from 0 to 127, got {melody}, {bridge}, {piano}.")
    return (melody, bridge, piano), tuple(row["tags"].split(","))


def _number(where: str, row: dict[str, str], column: str, kind: type) -> Any:
    try:
        return kind(row[column])
    except ValueError as error:
        raise ValueError(f"{where}: {column} must be a number, got {row[column]!r}.") from error
