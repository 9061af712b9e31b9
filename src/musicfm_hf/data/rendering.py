"""
Renderings of scores: each version of a song is a random arrangement in a random key and tempo, played by FluidSynth
with a random soundfont, reverb, chorus and tuning, and written as `ID.flac` with its labels in `ID.json`.

A version depends only on the seed, the name of the song and the number of the version. Existing files are kept unless
what they are made from has changed.
"""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import soundfile

from ..symbolic.arranging.arrangement import (
    TEMPI,
    Variation,
    arrange,
    draw_variation,
    sounding_seconds,
    tempo_class,
    vary,
)
from ..symbolic.arranging.instruments import tag_of
from ..symbolic.fluidsynth import Room, check_soundfont, find_fluidsynth, synthesize_parts
from ..symbolic.midi_synthesis import MAX_PEAK, MIX_RMS, SAMPLING_RATE, sounding_rms
from ..symbolic.score import Part, Score, ScoreControl
from ..tasks.events import to_json
from ..training.files import complete_file, write_json, write_text
from .identity import digest

ARRANGER = 1  # grows when the same seed makes other arrangements

TAIL_SECONDS = 2.0  # after the last note

LEAD_SECONDS = 4.0  # played before an excerpt and cut, so that earlier notes still sound when it begins

MIN_SHARE = 0.05  # of the time of a song for which an instrument plays if it is a tag

ONE_SOUNDFONT = 0.6  # share of versions that are played with one soundfont; in others, each part has its own


@dataclass(frozen=True)
class Version:
    """
    A version of a song, to be rendered.

    Attributes:
        song (`str`): Name of the song, also for random numbers.
        number (`int`): Number of the version, from 1.
        load (`Callable`): Returns the score. It is called in another process, and must be picklable.
        split (`str`): train, validation or test.
        made_from (`str`): A text that changes with the files of the song.
    """

    song: str
    number: int
    load: Callable[[], Score]
    split: str
    made_from: str = ""

    @property
    def id(self) -> str:
        """Name of the version, such as `001_v2`."""
        return f"{self.song}_v{self.number}"


@dataclass(frozen=True)
class Settings:
    """
    Settings of a folder of renderings.

    Attributes:
        soundfonts (`tuple[Path, …]`): Soundfonts of training songs.
        test_soundfonts (`tuple[Path, …]`): Soundfonts of validation and test songs.
        seconds (`float`, *optional*): Length of the excerpts of training songs; whole songs by default.
        drums (`float`): Probability of a band with drums.
        seed (`int`): Seed of all random choices.
        tempi (`tuple[float, float]`): Slowest and fastest tempo of training songs, relative to the score.
    """

    soundfonts: tuple[Path, ...]
    test_soundfonts: tuple[Path, ...]
    seconds: float | None = None
    drums: float = 0.5
    seed: int = 0
    tempi: tuple[float, float] = TEMPI

    def to_dict(self) -> dict[str, Any]:
        """Return all settings that affect the sound, for JSON, with the digests of the soundfonts."""
        fonts = {name: list(map(_fingerprint, getattr(self, name))) for name in ("soundfonts", "test_soundfonts")}
        values: dict[str, Any] = {
            "arranger": ARRANGER,
            "seconds": self.seconds,
            "drums": self.drums,
            "seed": self.seed,
        }
        levels = {"sampling_rate": SAMPLING_RATE, "tail_seconds": TAIL_SECONDS, "rms": MIX_RMS, "max_peak": MAX_PEAK}
        if (
            self.tempi != TEMPI
        ):  # left out by default, so that folders rendered before there was this setting stay valid
            values["tempi"] = self.tempi
        return values | levels | fonts


def check_settings(settings: Settings) -> None:
    """
    Check the settings and that all programs and files are there, before any work is done.

    Raises:
        ValueError: a number is out of range, no soundfont is given, a file is not a soundfont, or training and test
            share a soundfont.
        FileNotFoundError: FluidSynth or a soundfont is missing. The message names the Debian package.
    """
    if settings.seconds is not None and settings.seconds < 1:
        raise ValueError(f"`seconds` must be at least 1, got {settings.seconds}.")
    if not 0 <= settings.drums <= 1:
        raise ValueError(f"`drums` must be a probability from 0 to 1, got {settings.drums}.")
    if not 0.25 <= settings.tempi[0] <= settings.tempi[1] <= 4:
        low, high = settings.tempi
        raise ValueError(f"`tempi` must be two factors from 0.25 to 4, the lower first, got {low:g} and {high:g}.")
    if not settings.soundfonts or not settings.test_soundfonts:
        raise ValueError("`soundfonts` and `test_soundfonts` must each name at least one file.")
    find_fluidsynth()
    training = [check_soundfont(path).resolve() for path in settings.soundfonts]
    shared = [path for path in settings.test_soundfonts if check_soundfont(path).resolve() in training]
    if shared:
        raise ValueError(f"{shared[0]} is among `soundfonts` and `test_soundfonts`: test songs need one that is not.")


def render_versions(
    versions: Sequence[Version], folder: str | os.PathLike, settings: Settings, num_workers: int = 1
) -> Iterator[tuple[Version, Exception | None]]:
    """
    Render versions that are not rendered yet, in several processes, and yield each with `None`, or with the error of a
    song that is missing or wrong.

    Args:
        versions: Versions to render.
        folder: Folder for `ID.flac` (24 kHz mono, 16 bit) and `ID.json`; created if needed. The settings are stored in
            `rendering.json`, so that a folder does not mix renderings.
        settings ([`Settings`]): Settings.
        num_workers (`int`): Number of processes; 1 renders in this process.

    Raises:
        ValueError: the folder has songs that were rendered with other settings, `num_workers` is below 1, or
            [`check_settings`] raises it.
        FileNotFoundError: see [`check_settings`].
    """
    if num_workers < 1:
        raise ValueError(f"`num_workers` must be at least 1, got {num_workers}.")
    check_settings(settings)
    folder = Path(folder)
    _store_settings(folder / "rendering.json", settings.to_dict())
    jobs = [(version, folder, settings) for version in versions]
    if num_workers == 1:
        yield from zip(versions, map(_render_job, jobs), strict=True)
        return
    # Processes are spawned, because forking a process with torch threads may hang.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from zip(versions, pool.map(_render_job, jobs), strict=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def draw_version(version: Version, settings: Settings) -> tuple[Score, Score, dict[str, Any], np.random.Generator]:
    """
    Draw the arrangement of a version. Training songs vary in key and tempo; validation and test songs keep them.

    Returns:
        The arrangement from its start to the end of the audio, the labeled excerpt of it, a description for JSON, and
        the generator for the choices that follow.
    """
    rng = np.random.default_rng([settings.seed, crc32(version.song.encode()), version.number])
    is_training = version.split == "train"
    variation = draw_variation(rng, settings.tempi) if is_training else Variation()
    score = arrange(vary(version.load(), variation, rng), rng, settings.drums, held_out=not is_training)
    start, end = 0.0, score.duration
    if is_training and settings.seconds is not None and settings.seconds < end:
        start = round(float(rng.uniform(0, end - settings.seconds)), 3)
        end = start + settings.seconds
    lead = max(0.0, start - LEAD_SECONDS)
    tail = TAIL_SECONDS if end == score.duration else 0.0
    details = {"variation": asdict(variation), "start": start, "lead": start - lead, "tail": tail}
    return score.excerpt(lead, end), score.excerpt(start, end), details, rng


def mix_parts(stems: Sequence[np.ndarray], parts: Sequence[Part], sampling_rate: int) -> tuple[np.ndarray, list[bool]]:
    """
    Mix parts at their levels. The level of a part is the RMS over its sounding frames, so that every part is heard.

    Args:
        stems: The audio of each part, `(samples,)`.

    Returns:
        float32 `(samples,)` with an RMS of 0.08, or lower if its peak would exceed 0.98; and whether each part sounds.

    Raises:
        ValueError: no part sounds.
    """
    mix, sounds = np.zeros(len(stems[0]) if len(stems) else 0, dtype=np.float32), []
    for stem, part in zip(stems, parts, strict=True):
        level = sounding_rms(stem, sampling_rate)
        sounds.append(level > 0)
        if level > 0:
            mix += stem * np.float32(10 ** (part.decibels / 20) / level)
    if not any(sounds):
        raise ValueError("The rendering is silent: the soundfont lacks the instruments.")
    rms = float(np.sqrt(np.square(mix, dtype=np.float64).mean()))
    return mix * np.float32(min(MIX_RMS / rms, MAX_PEAK / np.abs(mix).max())), sounds


def version_tags(score: Score, parts: Sequence[Part]) -> list[str]:
    """
    Return the tags of a rendering: instruments that play for at least 5 percent of the time, the mode of the first
    key, the class of the tempo, and the tags of the score other than its mode.

    Args:
        parts: Parts that sound.
    """
    least = MIN_SHARE * score.duration
    seconds: dict[str, float] = {}
    for part in parts:
        tag = None if part.is_drums else tag_of(part.program)
        if tag is not None:
            seconds[tag] = seconds.get(tag, 0.0) + sounding_seconds(part.notes)
    tags = sorted(tag for tag, total in seconds.items() if total >= least)
    modes = [{"maj": "major", "min": "minor"}.get(key.label.rpartition(":")[2]) for key in score.keys[:1]]
    others = [tag for tag in score.tags if tag not in ("major", "minor")]
    return list(dict.fromkeys(tag for tag in (*tags, *modes, tempo_class(score.beats), *others) if tag))


def _render_job(job: tuple[Version, Path, Settings]) -> Exception | None:
    """Render a version unless it exists, and return the error of a song that cannot be rendered."""
    version, folder, settings = job
    path = folder / f"{version.id}.flac"
    # The settings are those of the folder; its soundfonts are not read again for each song.
    made_from = digest(f"{ARRANGER} {version.split} {version.made_from} {settings.seconds} {settings.seed}".encode())
    if path.is_file() and path.with_suffix(".json").is_file() and _comment(path) == made_from:
        return None
    try:
        audio, labels = _render(version, settings)
    except Exception as error:  # such as mir_eval's for a malformed chord; the other songs may be fine
        return error
    write_json(path.with_suffix(".json"), labels)
    options = {"samplerate": SAMPLING_RATE, "channels": 1, "subtype": "PCM_16", "format": "FLAC"}
    with complete_file(path) as temporary, soundfile.SoundFile(temporary, "w", **options) as file:
        file.comment = made_from
        file.write(audio)
    return None


def _render(version: Version, settings: Settings) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the audio of a version and its labels."""
    played, labeled, details, rng = draw_version(version, settings)
    seconds = played.duration + details["tail"]
    room = _draw_room(rng)
    fonts = settings.soundfonts if version.split == "train" else settings.test_soundfonts
    has_one = rng.random() < ONE_SOUNDFONT
    first = fonts[int(rng.integers(len(fonts)))]
    chosen = [first if has_one else fonts[int(rng.integers(len(fonts)))] for _ in played.parts]
    parts = [_with_sends(part, rng) for part in played.parts]
    stems: list[np.ndarray] = [np.zeros(0, np.float32)] * len(parts)
    for font in dict.fromkeys(chosen):
        numbers = [number for number, other in enumerate(chosen) if other == font]
        audio = synthesize_parts([parts[number] for number in numbers], seconds, font, room, SAMPLING_RATE)
        for number, stem in zip(numbers, audio, strict=True):
            stems[number] = stem[round(details["lead"] * SAMPLING_RATE) :]
    mix, sounds = mix_parts(stems, parts, SAMPLING_RATE)
    heard = [part for part, is_heard in zip(labeled.parts, sounds, strict=True) if is_heard]
    described = [
        {"name": part.name, "program": part.program, "decibels": part.decibels, "soundfont": font.name}
        for part, font in zip(parts, chosen, strict=True)
    ]
    labels = {name: to_json(getattr(labeled, name)) for name in ("beats", "chords", "sections", "keys")}
    labels |= {"id": version.id, "group": labeled.group, "split": version.split, "tags": version_tags(labeled, heard)}
    return mix, labels | {"parts": described, "room": asdict(room)} | details


def _draw_room(rng: np.random.Generator) -> Room:
    """Draw effects: a fifth of the renderings are dry, two fifths have chorus, three tenths are out of tune."""
    reverb, size, damping, chorus = rng.uniform(0.1, 0.9), *rng.uniform(0.1, 0.9, 2), rng.uniform(0.5, 3.0)
    dry, has_chorus, is_detuned = rng.random(3) < (0.2, 0.4, 0.3)
    tuning = float(np.clip(rng.normal(0.0, 15.0), -40, 40)) if is_detuned else 0.0
    values = (0.0 if dry else reverb, size, damping, chorus if has_chorus else 0.0, tuning)
    return Room(*(round(float(value), 3) for value in values))


def _with_sends(part: Part, rng: np.random.Generator) -> Part:
    """Return a part with random amounts of reverb and chorus."""
    reverb, chorus = int(rng.integers(10, 100)), int(rng.integers(0, 80))
    sends = (ScoreControl(0.0, 91, reverb), ScoreControl(0.0, 93, chorus))
    return replace(part, controls=sends + part.controls)


def _store_settings(path: Path, values: dict[str, Any]) -> None:
    """Store the settings of a folder, or compare them with the stored ones."""
    text = json.dumps(values, indent=2) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{path.parent} has songs rendered with other settings ({path}): choose another folder, or delete it."
        )
    if not path.is_file():
        write_text(path, text)


def _fingerprint(path: Path) -> dict[str, str]:
    """Return the name and the digest of a soundfont."""
    with Path(path).open("rb") as file:
        return {"name": Path(path).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _comment(path: Path) -> str:
    """Return the comment of an audio file, or an empty text if it cannot be read."""
    try:
        with soundfile.SoundFile(path) as file:
            return str(file.comment)
    except soundfile.SoundFileError:
        return ""
