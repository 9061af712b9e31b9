"""
Songs of POP909, which were played by hand as MIDI, and their rendering to audio. Labels apply to the audio without
alignment.

The source is a folder with `midi/ID.mid` (tracks `MELODY`, `BRIDGE` and `PIANO`), `songs.tsv`, `arrangements.tsv` and
`splits/`; `readers/pop909.py` reads its labels. Wang et al., "POP909: A Pop-song Dataset for Music Arrangement
Generation", ISMIR 2020.
"""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from ..symbolic.midi_synthesis import (
    MAX_PEAK,
    MIX_RMS,
    PART_DECIBELS,
    PARTS,
    SAMPLING_RATE,
    TAIL_SECONDS,
    find_soundfont,
    render,
)
from ..training.files import complete_file, write_text
from .identity import digest

SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # names of the files → names in data sets

SONG_COLUMNS = ("id", "split", "title", "artist", "seconds", "bpm", "first_key")

ARRANGEMENT_COLUMNS = ("id", "melody_program", "bridge_program", "piano_program", "tags")


@dataclass(frozen=True)
class Song:
    """
    A song of the source.

    Attributes:
        id (`str`): POP909's id, three digits.
        split (`str`): train, valid or test.
        is_mini (`bool`): Whether the song is also in the small selection of its split.
        midi (`Path`): The MIDI file.
        programs (`tuple[int, int, int]`): General MIDI programs from 0 for MELODY, BRIDGE and PIANO.
        tags (`tuple[str, ...]`): Tags of the arranged rendering: instruments, mode, tempo class.
        seconds (`float`): Length of the labels.
        bpm (`float`): Median tempo in beats per minute.
        first_key (`str`): First key, such as `"F#:maj"`.
        version (`int`): Number of this rendering of the song, from 1; see `pop909_versions.py`.
        transposition (`int`): Semitones by which this version is transposed.
        tempo (`float`): Factor by which this version is faster.
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
    version: int = 1
    transposition: int = 0
    tempo: float = 1.0


def read_songs(source: str | os.PathLike) -> list[Song]:
    """
    Read the songs of a POP909 folder, in the order of `songs.tsv`.

    Raises:
        FileNotFoundError: the folder, a table or a split is missing.
        ValueError: a table or a split is malformed, or they contradict each other. The message names the file and
            line.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist")
    rows = _read_table(folder / "songs.tsv", SONG_COLUMNS)
    arrangements = _read_table(folder / "arrangements.tsv", ARRANGEMENT_COLUMNS)
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
        programs, tags = _arrangement(*arrangements[song_id])
        seconds, bpm = (_number(where, row, name, float) for name in ("seconds", "bpm"))
        texts: dict[str, Any] = {name: row[name] for name in ("id", "split", "title", "artist", "first_key")}
        is_mini = song_id in mini_splits
        songs.append(Song(**texts, is_mini=is_mini, midi=midi, programs=programs, tags=tags, seconds=seconds, bpm=bpm))
    return songs


def audio_name(song: Song, transposition: int = 0) -> str:
    """
    Return the file name of a song: `001.flac`, `001_t-3.flac` if it is transposed by -3 semitones, or `001_v2.flac`
    for its second version.
    """
    version = f"_v{song.version}" if song.version > 1 else ""
    return f"{song.id}{version}_t{transposition:+d}.flac" if transposition else f"{song.id}{version}.flac"


def rendering_settings(soundfont: str | os.PathLike | None = None, arranged: bool = False) -> dict[str, Any]:
    """Return all settings that affect the sound of [`render_songs`], for JSON. For errors, see [`find_soundfont`]."""
    soundfont = find_soundfont(soundfont)
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
    failures: dict[Path, Exception] | None = None,
) -> Iterator[Path]:
    """
    Render songs to `folder/ID.flac` (24 kHz mono, 16 bit) in several processes, and yield each path when the file is
    complete. Transposed versions are named `ID_t+2.flac`.

    Existing files are kept, unless the MIDI file or the programs of the song have changed. A file is written under
    another name and renamed when it is complete. The rendering settings are stored in `folder/rendering.json`, so that
    a folder does not mix renderings.

    Args:
        songs: Songs from [`read_songs`].
        folder: Folder for the files; created if needed.
        soundfont: As for [`render`].
        arranged (`bool`): Use the programs of each song instead of those of the MIDI file.
        num_workers (`int`): Number of processes; 1 renders in this process.
        transpositions: Transpositions in semitones; each song is rendered once for each.
        failures (`dict`, *optional*): Receives the errors of songs whose MIDI file is missing or wrong, by the path
            that is not written, instead of the first one being raised.

    Raises:
        ValueError: the folder has songs that were rendered with other settings, or `num_workers` is below 1.
        Exception: see [`render`].
    """
    if num_workers < 1:
        raise ValueError(f"`num_workers` must be at least 1, got {num_workers}.")
    folder = Path(folder)
    _check_settings(folder, rendering_settings(soundfont, arranged))
    soundfont = find_soundfont(soundfont)
    jobs = [
        _Job(
            song.midi,
            folder / audio_name(song, semitones),
            soundfont,
            song.programs if arranged else None,
            song.transposition + semitones,
            song.tempo,
            f" {song.transposition} {song.tempo}" if song.version > 1 else "",
        )
        for song in songs
        for semitones in transpositions
    ]
    if num_workers == 1:
        yield from _collect(map(_render_file, jobs), failures)
        return
    # Processes are spawned, because forking a process with torch threads may hang.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from _collect(pool.map(_render_file, jobs), failures)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _collect(
    rendered: Iterable[tuple[Path, Exception | None]], failures: dict[Path, Exception] | None
) -> Iterator[Path]:
    """Yield the paths of rendered files, and collect or raise the errors of others."""
    for path, error in rendered:
        if error is None:
            yield path
        elif failures is None:
            raise error
        else:
            failures[path] = error


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Store the rendering settings of a folder, or compare them with the stored settings."""
    path = folder / "rendering.json"
    text = json.dumps(settings, indent=2) + "\n"
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{folder} has songs rendered with other settings ({path}): choose another folder.")
        return
    write_text(path, text)


class _Job(NamedTuple):
    """A file to render; `version` tells apart versions of a song in the digest of what the file was made from."""

    midi: Path
    path: Path
    soundfont: Path
    programs: tuple[int, int, int] | None
    transposition: int
    tempo: float
    version: str


def _render_file(job: _Job) -> tuple[Path, Exception | None]:
    """
    Render one file unless it exists and was rendered from the same MIDI file and programs; return its path, and the
    error if its MIDI file is missing or wrong.
    """
    midi, path, soundfont, programs, transposition, tempo, version = job
    made_from = digest(f"{programs}{version} ".encode() + (midi.read_bytes() if midi.is_file() else b""))
    if path.exists() and _made_from(path) in ("", made_from):
        return path, None
    try:
        audio = render(midi, soundfont, programs, transposition, SAMPLING_RATE, TAIL_SECONDS, tempo)
    except (ValueError, FileNotFoundError) as error:
        return path, error
    options = {"samplerate": SAMPLING_RATE, "channels": 1, "subtype": "PCM_16", "format": "FLAC"}
    with complete_file(path) as temporary, soundfile.SoundFile(temporary, "w", **options) as file:
        file.comment = made_from
        file.write(audio)
    return path, None


def _made_from(path: Path) -> str:
    """Return the digest in the comment of a rendered file: empty for files of version 0.1, "damaged" if unreadable."""
    try:
        with soundfile.SoundFile(path) as file:
            return file.comment
    except soundfile.SoundFileError:
        return "damaged"


def _read_table(path: Path, columns: Sequence[str]) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the rows by id: the place of each row, for error messages, and its fields by column."""
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
            raise ValueError(f"{where}: song {row['id']} appears twice.")
        rows[row["id"]] = where, row
    if not rows:
        raise ValueError(f"{path} has no songs.")
    return rows


def _read_splits(folder: Path, prefix: str, songs: dict[str, Any]) -> dict[str, str]:
    """Return a dictionary from song ids to splits, from the lists with a prefix."""
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
    """Return the lines of a text file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: the source must be a folder that `musicfm prepare pop909-source` wrote."
        )
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would also split at unusual characters
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}).") from error
    return lines[:-1] if lines[-1] == "" else lines


def _arrangement(where: str, row: dict[str, str]) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Return the programs and the tags of a row of arrangements.tsv."""
    melody, bridge, piano = (_number(where, row, f"{part.lower()}_program", int) for part in PARTS)
    if not all(0 <= program <= 127 for program in (melody, bridge, piano)):
        raise ValueError(f"{where}: programs must be from 0 to 127, got {melody}, {bridge}, {piano}.")
    return (melody, bridge, piano), tuple(row["tags"].split(","))


def _number(where: str, row: dict[str, str], column: str, kind: type) -> Any:
    """Return the number in a column of a row."""
    try:
        return kind(row[column])
    except ValueError as error:
        raise ValueError(f"{where}: {column} must be a number, got {row[column]!r}.") from error
