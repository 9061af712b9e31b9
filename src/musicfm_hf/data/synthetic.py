"""
Compose and synthesize songs from seeds, with exactly known beats, chords, sections and keys. For demos and tests,
without files or network access.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from ..symbolic.synthetic_meters import Meters, Note, TempoMap, accented_bar, draw_tempo_map, grouping
from ..tasks.annotations import PITCH_NAMES, Beats, Segment
from ..training.files import complete_file
from .labeled import LabeledSong, Source

SOURCE = Source("Songs that a program composed and synthesized from seeds.", "", "", "CC0-1.0")
_SCALES = {"maj": (0, 2, 4, 5, 7, 9, 11), "min": (0, 2, 3, 5, 7, 8, 10)}
# One chord per bar, as (degree of the scale from 0, quality).
_PROGRESSIONS = {
    "maj": (
        ((0, "maj"), (4, "maj"), (5, "min"), (3, "maj")),
        ((0, "maj"), (5, "min"), (3, "maj"), (4, "maj")),
        ((5, "min"), (3, "maj"), (0, "maj"), (4, "maj")),
        ((0, "maj"), (3, "maj"), (1, "min"), (4, "maj")),
    ),
    "min": (
        ((0, "min"), (5, "maj"), (2, "maj"), (6, "maj")),
        ((0, "min"), (3, "min"), (4, "min"), (0, "min")),
        ((0, "min"), (6, "maj"), (5, "maj"), (6, "maj")),
        ((3, "min"), (6, "maj"), (2, "maj"), (0, "min")),
    ),
}
_FORM = (("intro", 4), ("verse", 8), ("chorus", 8), ("verse", 8), ("chorus", 8), ("outro", 4))
_DECAY = 2.0  # seconds after the last bar
# Strengths of the harmonics, and seconds of attack and decay.
_INSTRUMENTS = {
    "organ": ((1.0, 0.6, 0.0, 0.4, 0.0, 0.0, 0.0, 0.2), 0.02, 4.0),
    "guitar": ((1.0, 0.5, 0.35, 0.2, 0.12, 0.08), 0.003, 0.5),
    "strings": ((1.0, 0.5, 0.33, 0.25, 0.2, 0.17, 0.14, 0.12), 0.12, 6.0),
    "bass": ((1.0, 0.5, 0.2, 0.1), 0.005, 0.8),
    "lead": ((1.0, 0.0, 0.33, 0.0, 0.2, 0.0, 0.14), 0.01, 1.0),
}


@dataclass(frozen=True)
class SyntheticSong:
    """
    A composed song.

    Attributes:
        beats (`np.ndarray` of shape `(beats, 2)`): Time in seconds, and position in the bar from 1.
        chords (`list[tuple[float, float, str]]`): Start and end in seconds, and a label such as `"A:min"`.
        sections (`list[tuple[float, float, str]]`): Start, end, and function: intro, verse, chorus, outro.
        key (`str`): Key, such as `"F#:maj"`.
        tempo (`float`): Beats per minute, before changes of tempo.
        beats_per_bar (`int`): Beats in the bars of the first section.
        notes (`list[tuple[float, float, int, str, float]]`): Start, end, MIDI pitch, instrument, loudness.
        duration (`float`): Duration in seconds, including two seconds of decay after the last bar.
    """

    beats: np.ndarray
    chords: list[tuple[float, float, str]]
    sections: list[tuple[float, float, str]]
    key: str
    tempo: float
    beats_per_bar: int
    notes: list[tuple[float, float, int, str, float]]
    duration: float


def compose(seed: int, meters: Meters | None = None) -> SyntheticSong:
    """
    Compose a song. The same arguments give the same song, and global generators are not used.

    Args:
        seed (`int`): Seed of the song.
        meters ([`Meters`], *optional*): Meters, which are then audible in all sections, and changes of meter and
            tempo. By default, the song has 3 or, in four of five songs, 4 beats in a bar, and one tempo.
    """
    rng = np.random.default_rng(seed)
    mode = str(rng.choice(["maj", "min"]))
    tonic = int(rng.integers(12))
    tempo = float(rng.integers(84, 148))
    if meters is None:
        section_meters = [int(rng.choice([3, 4], p=[0.2, 0.8]))] * len(_FORM)
    else:
        section_meters = meters.draw(rng, len(_FORM))
    orders = rng.permutation(len(_PROGRESSIONS[mode]))
    progressions = {"verse": _PROGRESSIONS[mode][orders[0]], "chorus": _PROGRESSIONS[mode][orders[1]]}

    beats: list[np.ndarray] = []
    chords: list[tuple[float, float, str]] = []
    sections: list[tuple[float, float, str]] = []
    notes: list[Note] = []
    origin, bar, before = 0.0, 0, section_meters[0]  # seconds where the meter began, and bars since then
    for (function, num_bars), meter in zip(_FORM, section_meters, strict=True):
        bar_seconds = 60.0 / tempo * meter
        if meter != before:
            origin, bar, before = sections[-1][1], 0, meter
        groups = None if meters is None else grouping(rng, meter)
        sections.append((origin + bar * bar_seconds, origin + (bar + num_bars) * bar_seconds, function))
        progression = progressions["chorus" if function == "chorus" else "verse"]
        for index in range(num_bars):
            degree, quality = progression[index % 4]
            root = (tonic + _SCALES[mode][degree]) % 12
            start = origin + (bar + index) * bar_seconds
            chords.append((start, start + bar_seconds, f"{PITCH_NAMES[root]}:{quality}"))
            if groups is None:
                notes += _bar_notes(rng, function, root, quality, start, 60.0 / tempo, meter)
            else:
                notes += accented_bar(rng, function, _triad(root, quality), start, 60.0 / tempo, groups)
        counted = np.arange(bar * meter, (bar + num_bars) * meter)
        beats.append(np.stack([origin + counted * 60.0 / tempo, counted % meter + 1], axis=1))
        bar += num_bars
    key = f"{PITCH_NAMES[tonic]}:{mode}"
    duration = sections[-1][1] + _DECAY
    song = SyntheticSong(np.concatenate(beats), chords, sections, key, tempo, section_meters[0], notes, duration)
    return song if meters is None else _change_tempi(song, section_meters, meters.tempo_change, seed)


def _change_tempi(song: SyntheticSong, section_meters: Sequence[int], probability: float, seed: int) -> SyntheticSong:
    """Return the song with changes of tempo, which do not depend on the generator of the notes."""
    bars = [60.0 / song.tempo * meter for meter in section_meters]
    sections = [(start, end) for start, end, _ in song.sections]
    tempo_map = draw_tempo_map(np.random.default_rng([seed, 1]), sections, bars, probability)
    if tempo_map is None:
        return song
    return replace(
        song,
        beats=np.column_stack([[tempo_map(time) for time in song.beats[:, 0]], song.beats[:, 1]]),
        chords=_mapped(song.chords, tempo_map),
        sections=_mapped(song.sections, tempo_map),
        notes=_mapped(song.notes, tempo_map),
        duration=tempo_map(song.sections[-1][1]) + _DECAY,
    )


def _mapped(rows: Sequence[tuple], tempo_map: TempoMap) -> list:
    """Return rows that begin with start and end in seconds, with mapped times."""
    return [(tempo_map(start), tempo_map(end), *rest) for start, end, *rest in rows]


def synthesize(song: SyntheticSong, sampling_rate: int = 44100, seed: int = 0) -> np.ndarray:
    """
    Synthesize a song with additive tones, and noise for the drums.

    Args:
        song ([`SyntheticSong`]): Song from [`compose`].
        sampling_rate (`int`): Rate of the result, in Hz.
        seed (`int`): Seed of the noise.

    Returns:
        float32 `(samples, 2)`, with a peak of 0.9.
    """
    rng = np.random.default_rng(seed)
    audio = np.zeros((round(song.duration * sampling_rate), 2), dtype=np.float32)
    pans = {"organ": 0.35, "guitar": 0.7, "strings": 0.25, "bass": 0.5, "lead": 0.6}
    for start, end, pitch, instrument, loudness in song.notes:
        if instrument in ("kick", "snare", "hat"):
            sound, pan = _drum(rng, instrument, sampling_rate), 0.5
        else:
            sound, pan = _tone(pitch, end - start, instrument, sampling_rate), pans[instrument]
        first = round(start * sampling_rate)
        sound = loudness * sound[: len(audio) - first]
        audio[first : first + len(sound), 0] += np.sqrt(1 - pan) * sound
        audio[first : first + len(sound), 1] += np.sqrt(pan) * sound
    return (0.9 / np.abs(audio).max() * audio).astype(np.float32)


def write_song(
    seed: int, folder: str | os.PathLike, seconds: float | None = None, meters: Meters | None = None
) -> LabeledSong:
    """
    Compose a song, write it as `folder/SEED.flac` at 24 kHz, and return it with all its labels.

    Args:
        seed (`int`): Seed of the song.
        folder: Folder of the file; created if needed.
        seconds (`float`, *optional*): Keep only this duration from the start.
        meters ([`Meters`], *optional*): As for [`compose`].

    Raises:
        ValueError: `seconds` is not above 0.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"`seconds` must be above 0, got {seconds}; leave it out for whole songs.")
    song = compose(seed, meters)
    duration = min(song.duration, seconds or song.duration)
    # Notes that start before the end sound as in the whole song, except for the overall level.
    song = replace(song, notes=[note for note in song.notes if note[0] < duration], duration=duration)
    path = Path(folder).absolute() / f"{seed}.flac"
    with complete_file(path) as temporary:
        soundfile.write(temporary, synthesize(song, 24000), 24000, format="FLAC")
    beats = song.beats[song.beats[:, 0] < duration]
    tempo = "slow" if song.tempo < 105 else "fast" if song.tempo > 126 else "medium"
    return LabeledSong(
        id=str(seed),
        audio=str(path),
        group=str(seed),
        duration=duration,
        beats=Beats(beats[:, 0], beats[:, 1].astype(np.int64)),
        chords=_until(duration, song.chords),
        sections=_until(duration, song.sections),
        keys=[Segment(0.0, duration, song.key)],
        tags=["major" if song.key.endswith("maj") else "minor", tempo, *_meter_tags(song.beats_per_bar, beats[:, 1])],
    )


def _meter_tags(first: int, positions: np.ndarray) -> list[str]:
    """Return a tag such as `3/4` for the first meter, and for each other meter that has a whole bar."""
    last = positions[:-1][positions[1:] == 1]
    return [f"{int(meter)}/4" for meter in dict.fromkeys([first, *last])]


def _until(duration: float, segments: Sequence[tuple[float, float, str]]) -> list[Segment]:
    """Return segments truncated at a duration in seconds."""
    return [Segment(start, min(end, duration), label) for start, end, label in segments if start < duration]


def _bar_notes(
    rng: np.random.Generator, function: str, root: int, quality: str, start: float, beat: float, beats_per_bar: int
) -> list:
    """Return the notes of one bar, in the instrumentation of its section."""
    triad = _triad(root, quality)
    bar = beat * beats_per_bar
    notes = []
    pad = {"intro": "organ", "verse": "organ", "chorus": "strings", "outro": "organ"}[function]
    notes += [(start, start + bar, 60 + pitch, pad, 0.10 if function == "verse" else 0.14) for pitch in triad]
    if function != "intro":
        notes += [(start + k * beat, start + (k + 1) * beat, 36 + root, "bass", 0.3) for k in range(beats_per_bar)]
    if function in ("verse", "outro"):
        for k in range(2 * beats_per_bar):
            notes.append((start + k * beat / 2, start + (k + 2) * beat / 2, 60 + triad[k % 3], "guitar", 0.2))
    if function == "chorus":
        for k in range(beats_per_bar):
            pitch = 72 + int(rng.choice(triad))
            notes.append((start + k * beat, start + (k + 0.9) * beat, pitch, "lead", 0.25))
    if function in ("verse", "chorus"):
        notes.append((start, start + beat, 0, "kick", 0.5))
        if beats_per_bar == 4:
            notes.append((start + 2 * beat, start + 3 * beat, 0, "kick", 0.4))
        for k in range(1, beats_per_bar, 2):
            notes.append((start + k * beat, start + (k + 1) * beat, 0, "snare", 0.3 if function == "chorus" else 0.15))
        if function == "chorus":
            notes += [
                (start + k * beat / 2, start + k * beat / 2 + 0.1, 0, "hat", 0.1) for k in range(2 * beats_per_bar)
            ]
    return notes


def _triad(root: int, quality: str) -> list[int]:
    """Return the root, third and fifth of a chord, in semitones."""
    return [root, root + (4 if quality == "maj" else 3), root + 7]


def _tone(pitch: int, seconds: float, instrument: str, sampling_rate: int) -> np.ndarray:
    """Return one note of an instrument, `(samples,)` float32."""
    harmonics, attack, decay = _INSTRUMENTS[instrument]
    release = 0.05
    time = np.arange(round((seconds + release) * sampling_rate)) / sampling_rate
    frequency = 440.0 * 2 ** ((pitch - 69) / 12)
    wave = np.zeros_like(time)
    for number, strength in enumerate(harmonics, start=1):
        if strength > 0 and number * frequency < sampling_rate / 2:
            wave += strength * np.sin(2 * np.pi * number * frequency * time)
    envelope = np.minimum(time / attack, 1.0) * np.exp(-time / decay)
    envelope *= np.clip((seconds + release - time) / release, 0.0, 1.0)
    return (wave * envelope / sum(harmonics)).astype(np.float32)


def _drum(rng: np.random.Generator, instrument: str, sampling_rate: int) -> np.ndarray:
    """Return one stroke of a drum, `(samples,)` float32."""
    time = np.arange(round(0.25 * sampling_rate)) / sampling_rate
    if instrument == "kick":  # a sine that falls from 150 to 50 Hz
        phase = 2 * np.pi * (50 * time + 100 * 0.04 * (1 - np.exp(-time / 0.04)))
        return (np.sin(phase) * np.exp(-time / 0.08)).astype(np.float32)
    noise = rng.standard_normal(len(time))
    if instrument == "hat":
        return (np.diff(noise, prepend=0.0) * np.exp(-time / 0.02)).astype(np.float32)
    return (noise * np.exp(-time / 0.06)).astype(np.float32)
