"""Classical estimates of beats, chords and keys, with librosa and templates."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ..data.decoding import SongLoader
from ..data.labeled import LabeledSong
from ..tasks.annotations import PITCH_NAMES, Beats, Segment
from ..tasks.chord_vocabularies import QUALITIES, spell_chord

SAMPLING_RATE = 24000  # Hz; the same as for the encoders, so that all methods get the same audio

HOP_LENGTH = 512  # samples

BEATS_PER_BAR = 4

BARS_PER_SECTION = 8

MIN_SECONDS = 1.0

QUIET = 0.05  # of the median of the song; weaker chroma is not a chord

# Listener ratings of how well each pitch class above the tonic fits a key (Krumhansl, Kessler, *Tracing the
# dynamic changes in perceived tonal organization in a spatial representation of musical keys*, 1982).
KEY_PROFILES = {
    "maj": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "min": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}

_TRIADS = ("maj", "min")

BASS_OCTAVES = 3  # from C1, 32.7 to 262 Hz


class AudioFeatures(NamedTuple):
    """Features of a song that classical methods use; empty if they were not requested."""

    beats: np.ndarray  # float64 (beats,) seconds
    chroma: np.ndarray  # float32 (12, frames) from C, not normalized
    frame_rate: float  # of chroma, in Hz; frame j is centered at j / frame_rate
    bass: np.ndarray = np.empty((12, 0), dtype=np.float32)  # the same as chroma, of the lowest three octaves


NO_FEATURES = AudioFeatures(np.empty(0), np.empty((12, 0), dtype=np.float32), SAMPLING_RATE / HOP_LENGTH)


def extract_features(waveform: np.ndarray, beats: bool, chroma: bool, bass: bool = False) -> AudioFeatures:
    """
    Compute features of a song.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono, at 24000 Hz.
        beats (`bool`): Track beats (`librosa.beat.beat_track`).
        chroma (`bool`): Compute chroma (`librosa.feature.chroma_cqt`).
        bass (`bool`): Compute the chroma of the octaves from C1 to B3 (the same function).

    Raises:
        ValueError: if the waveform is shorter than a second.
    """
    import librosa

    if len(waveform) < MIN_SECONDS * SAMPLING_RATE:
        raise ValueError(f"has {len(waveform) / SAMPLING_RATE:.2f} s, but baselines need {MIN_SECONDS:g} s")
    settings: dict[str, Any] = {"y": waveform, "sr": SAMPLING_RATE, "hop_length": HOP_LENGTH}
    features = NO_FEATURES
    if beats:
        times = librosa.beat.beat_track(**settings, units="time")[1]
        features = features._replace(beats=times.astype(np.float64))
    if chroma or bass:
        settings["tuning"] = librosa.estimate_tuning(y=waveform, sr=SAMPLING_RATE, bins_per_octave=36)
    if chroma:
        features = features._replace(chroma=librosa.feature.chroma_cqt(**settings, norm=None).astype(np.float32))
    if bass:
        low = librosa.feature.chroma_cqt(**settings, norm=None, n_octaves=BASS_OCTAVES)  # from C1
        features = features._replace(bass=low.astype(np.float32))
    return features


def features_of_songs(
    songs: Sequence[LabeledSong], beats: bool, chroma: bool, num_workers: int = 0, bass: bool = False
) -> dict[str, AudioFeatures]:
    """
    Compute the features of songs in `num_workers` processes (0: in this process); see [`extract_features`].

    Returns:
        Song id → features; empty if none are requested.

    Raises:
        ValueError: if audio cannot be read or is too short. The message names all such songs.
    """
    if not songs or not (beats or chroma or bass):
        return {}
    # Compile the functions of librosa before starting workers, which would all compile them and write the same files.
    extract_features(np.sin(np.arange(4 * SAMPLING_RATE, dtype=np.float32) / 10), beats, chroma, bass)
    loader = SongLoader(
        [(song.id, song.audio) for song in songs],
        SAMPLING_RATE,
        num_workers=num_workers,
        transform=partial(extract_features, beats=beats, chroma=chroma, bass=bass),
    )
    features = {song.name: song.content for song in tqdm(loader, total=len(songs), unit="song", desc="features")}
    loader.raise_if_unusable()
    return features


def bars_of_four(times: np.ndarray) -> Beats:
    """Return beats at these times in seconds, with a downbeat on every fourth beat from the first."""
    return Beats(times, np.arange(len(times)) % BEATS_PER_BAR + 1)


def match_chords(
    chroma: np.ndarray,
    frame_rate: float,
    beats: np.ndarray,
    duration: float,
    qualities: Sequence[str] = _TRIADS,
    bass: np.ndarray | None = None,
) -> list[Segment]:
    """
    Estimate chords with binary templates (Fujishima, *Realtime Chord Recognition of Musical Sound*, ICMC 1999): the
    chord whose pitch classes have the highest cosine similarity with the mean chroma between two beats, or N if the
    chroma is weaker than 5 % of its median over the song. The bass is the strongest of these pitch classes in the
    lowest octaves.

    Args:
        chroma (`np.ndarray` of shape `(12, frames)`): Chroma, starting at C. Frame j is centered at j / `frame_rate`.
        frame_rate (`float`): Rate of the chroma in Hz.
        beats (`np.ndarray` of shape `(beats,)`): Times in seconds at which a chord may change.
        duration (`float`): Duration of the song in seconds.
        qualities (`tuple[str, …]`): Qualities of the templates; see `musicfm_hf.tasks.chord_vocabularies.QUALITIES`.
        bass (`np.ndarray` of shape `(12, frames)`, *optional*): Chroma of the lowest octaves. Without it, the bass is
            the root.

    Returns:
        Segments from 0 to `duration`, without gaps; equal neighbors are merged.
    """
    inside = beats[(beats > 0) & (beats < duration)]
    edges = np.concatenate([[0.0], inside, [duration]])
    names = [(root, quality) for quality in qualities for root in range(12)]
    templates = np.zeros((len(names), 12))
    for row, (root, quality) in enumerate(names):
        steps = QUALITIES[quality]
        templates[row, [(root + step) % 12 for step in steps]] = len(steps) ** -0.5
    frames = np.clip(np.round(edges * frame_rate).astype(int), 0, chroma.shape[1])
    threshold = QUIET * np.median(chroma.sum(0))
    chords: list[Segment] = []
    for (start, end), (first, last) in zip(pairwise(edges), pairwise(frames), strict=True):
        first = min(first, chroma.shape[1] - 1)
        mean = chroma[:, first : max(last, first + 1)].mean(1, dtype=np.float64)
        # Proportional to cosines: all templates have the norm 1, and `mean` is the same for all of them.
        root, quality = names[(templates @ mean).argmax()]
        lowest = 0
        if bass is not None:
            low = bass[:, first : max(last, first + 1)].mean(1)
            lowest = max(QUALITIES[quality], key=lambda step: low[(root + step) % 12])
        label = spell_chord(root, quality, lowest) if mean.sum() > threshold else "N"
        if chords and chords[-1].label == label:
            start = chords.pop().start
        chords.append(Segment(float(start), float(end), label))
    return chords


def match_key(chroma: np.ndarray) -> str:
    """
    Return the key whose profile correlates best with the mean chroma `(12, frames)` (Krumhansl, *Cognitive Foundations
    of Musical Pitch*, 1990, chapter 4); N if all pitch classes are equally strong.
    """
    mean = chroma.mean(1, dtype=np.float64)
    if np.ptp(mean) <= 1e-9 * max(mean.max(), 1e-9):
        return "N"
    correlations = {
        f"{name}:{mode}": np.corrcoef(np.roll(profile, tonic), mean)[0, 1]
        for mode, profile in KEY_PROFILES.items()
        for tonic, name in enumerate(PITCH_NAMES)
    }
    return max(correlations, key=correlations.__getitem__)


def bar_grid(beats: Beats, duration: float, label: str, first_bar: int = 0) -> list[Segment]:
    """
    Return sections from 0 to `duration` (seconds), all with the same label, with a boundary every eight bars from
    `first_bar` on. Bar 0 begins at the first downbeat.
    """
    starts = beats.times[beats.positions == 1][first_bar::BARS_PER_SECTION]
    edges = [0.0, *starts[(starts > 0) & (starts < duration)].tolist(), duration]
    return [Segment(start, end, label) for start, end in pairwise(edges)]
