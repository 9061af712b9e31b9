"""Recordings that change between music, music under speech, speech, noise, applause and silence, at known times."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ..audio.reading import audio_length, load_audio
from ..tasks.annotations import Segment
from ..training.files import complete_file
from .catalog import Song
from .labeled import LabeledSong
from .noises import APPLAUSE, NOISES, applause
from .splits import SPLITS, hash_name

RATE = 24000
FADE_SECONDS = 0.02
SHORTEST, LONGEST = 2.0, 15.0  # seconds of a part of a recording
SHARE_OF_ONE_KIND = 0.3  # of the recordings, which do not change
HELD_OUT = {"validation": 0.15, "test": 0.25}  # shares of the sources of speech and sounds
ATTEMPTS = 20  # to find a recording that can be read and is not silent
QUIET = 1e-3  # root mean square below which a place in a song is not used

# Kind of a part → its share, if there is audio for it.
KINDS = {
    "music": 4.0,
    "music and speech": 2.0,
    "speech": 2.0,
    "noise": 1.5,
    "applause": 1.0,
    "sounds": 0.8,
    "silence": 0.5,
}


@dataclass(frozen=True)
class Material:
    """
    Audio of one split.

    Attributes:
        music: Songs.
        speech, sounds: Source, such as a speaker or a package → its recordings.
    """

    music: Sequence[Song]
    speech: Mapping[str, Sequence[Song]]
    sounds: Mapping[str, Sequence[Song]]

    def kinds(self) -> dict[str, float]:
        """Return the kinds that can be made of this audio, with their shares."""
        absent = [] if self.speech else ["speech", "music and speech"]
        absent += [] if self.sounds else ["sounds"]
        return {kind: share for kind, share in KINDS.items() if kind not in absent}


def divide_sources(songs: Sequence[Song], what: str, seed: int = 0) -> dict[str, dict[str, list[Song]]]:
    """
    Divide recordings among the splits by their source: the folder in which they are, below the folder `audio` if there
    is one.

    Args:
        songs: Names and audio of recordings.
        what (`str`): Name of the recordings in error messages.
        seed (`int`): Seed of the division.

    Returns:
        Split → source → recordings. Each split has at least one source.

    Raises:
        ValueError: if there are fewer than three sources.
    """
    sources: dict[str, list[Song]] = {}
    for name, audio in songs:
        first, *rest = Path(name).parts
        if first == "audio" and rest:
            first = rest[0]
        sources.setdefault(first, []).append((name, audio))
    if len(sources) < len(SPLITS):
        raise ValueError(
            f"{what} needs recordings of at least three sources, such as speakers or packages, in a folder each, so "
            f"that validation and test songs have sources of their own; got {', '.join(sources)}."
        )
    names = sorted(sources, key=lambda name: hash_name(name, seed))
    counts = {split: max(1, round(share * len(names))) for split, share in HELD_OUT.items()}
    counts["train"] = len(names) - sum(counts.values())
    edges = np.cumsum([0, *(counts[split] for split in SPLITS)])
    return {
        split: {name: sources[name] for name in names[first:last]}
        for split, (first, last) in zip(SPLITS, pairwise(edges), strict=True)
    }


def draw_parts(rng: np.random.Generator, seconds: float, kinds: Mapping[str, float]) -> list[Segment]:
    """Draw the parts of a recording: their times and kinds. Neighbors differ in kind."""
    names, shares = list(kinds), np.array(list(kinds.values()))
    if rng.random() < SHARE_OF_ONE_KIND:
        return [Segment(0.0, seconds, str(rng.choice(names, p=shares / shares.sum())))]
    parts: list[Segment] = []
    start = 0.0
    while start < seconds:
        allowed = shares * [not parts or name != parts[-1].label for name in names]
        kind = str(rng.choice(names, p=allowed / allowed.sum()))
        end = start + float(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST))))
        end = seconds if seconds - end < SHORTEST else end
        parts.append(Segment(start, end, kind))
        start = end
    return parts


def write_presence(
    number: int, split: str, material: Material, folder: str | os.PathLike, seconds: float, seed: int = 0
) -> LabeledSong:
    """
    Make a recording, write it as `folder/SPLIT-NUMBER.flac` at 24 kHz, and return it with the kinds of its parts. The
    same arguments make the same recording.

    Args:
        number (`int`): Number of the recording in its split.
        split (`str`): train, validation or test.
        material ([`Material`]): Audio of the split.
        folder: Folder of the file; created if needed.
        seconds (`float`): Duration.
        seed (`int`): Seed of all recordings.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    parts = draw_parts(rng, seconds, material.kinds())
    audio = np.zeros(round(seconds * RATE))
    fade = np.linspace(0, 1, round(FADE_SECONDS * RATE))
    for part in parts:
        first, last = round(part.start * RATE), round(part.end * RATE)
        sound = _render(rng, part.label, last - first, split, material)
        sound[: len(fade)] *= fade
        sound[-len(fade) :] *= fade[::-1]
        audio[first:last] = sound
    audio *= 0.99 / max(0.99, float(np.abs(audio).max()))
    path = Path(folder).absolute() / f"{split}-{number:04}.flac"
    with complete_file(path) as temporary:
        soundfile.write(temporary, audio.astype(np.float32), RATE, format="FLAC")
    return LabeledSong(
        id=path.stem, audio=str(path), group=path.stem, split=split, duration=seconds, more={"music": parts}
    )


def _render(rng: np.random.Generator, kind: str, samples: int, split: str, material: Material) -> np.ndarray:
    """Return the sound of a part, with a level from −32 to −14 dB of full scale; silence has one below −70 dB."""
    if kind == "silence":
        return 10 ** (rng.uniform(-100, -70) / 20) * rng.standard_normal(samples)
    if kind == "noise":
        noises = NOISES[split]
        sound = noises[str(rng.choice(list(noises)))](rng, samples, RATE)
    elif kind == "applause":
        sound = applause(rng, samples, RATE, APPLAUSE[split])
    elif kind in ("speech", "sounds"):
        sound = _joined_clips(rng, material.speech if kind == "speech" else material.sounds, samples)
    else:
        sound = _music(rng, material.music, samples)
        if kind == "music and speech":
            sound = sound + 10 ** (rng.uniform(-6, 9) / 20) * _joined_clips(rng, material.speech, samples)
    return 10 ** (rng.uniform(-32, -14) / 20) * _normalized(sound)


def _music(rng: np.random.Generator, songs: Sequence[Song], samples: int) -> np.ndarray:
    """Return a random part of a random song that is not silent. Songs that are too short are repeated."""

    def read_part(audio: Any) -> np.ndarray:
        length, rate = audio_length(audio)
        start = rng.uniform(0, max(0.0, length / rate - samples / RATE))
        return load_audio(audio, RATE, start=start, duration=samples / RATE).astype(np.float64)

    for _ in range(ATTEMPTS):
        sound = _read_any(rng, songs, read_part)
        if len(sound) and np.sqrt(np.mean(sound**2)) > QUIET:
            break
    return _normalized(np.resize(sound, samples))


def _joined_clips(rng: np.random.Generator, sources: Mapping[str, Sequence[Song]], samples: int) -> np.ndarray:
    """Return recordings of one source in a row, with pauses of up to 0.6 s."""
    songs = sources[str(rng.choice(list(sources)))]
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < samples:
        clip = _read_any(rng, songs, lambda audio: load_audio(audio, RATE).astype(np.float64))
        parts += [_normalized(_trimmed(clip)), np.zeros(round(rng.uniform(0.1, 0.6) * RATE))]
    return _normalized(np.concatenate(parts)[:samples])


def _read_any(rng: np.random.Generator, songs: Sequence[Song], read: Callable[[Any], np.ndarray]) -> np.ndarray:
    """Return what `read` returns for a random recording. If it cannot be read, others are tried."""
    for _ in range(ATTEMPTS):
        _, audio = songs[int(rng.integers(len(songs)))]
        try:
            return read(audio)
        except (ValueError, OSError) as error:
            problem = error
    raise ValueError(f"Of {ATTEMPTS} recordings, none can be read. The last one: {problem}") from problem


def _trimmed(sound: np.ndarray) -> np.ndarray:
    """Remove silence, below 2 % of the peak, at the start and the end."""
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max(initial=0.0))
    return sound[loud[0] : loud[-1] + 1] if len(loud) else sound[:0]


def _normalized(sound: np.ndarray) -> Any:
    """Return a sound with a root mean square of 1; silence stays silent."""
    return sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9) if len(sound) else sound
