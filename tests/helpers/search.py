"""A stand-in for a model of music and words whose embeddings can be worked out, and songs for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from musicfm_hf.data.catalog import list_sources
from musicfm_hf.search.build import BuildSettings, IndexSummary
from musicfm_hf.search.embedders import EmbeddedSong
from musicfm_hf.search.index_files import index_files
from musicfm_hf.search.passages import PassageSettings, cut_passages
from musicfm_hf.search.shards import SongPassages, SongRecord

RATE = 8000
TONES = (200, 300, 400, 500)  # Hz; whole periods in a second
SECOND = PassageSettings(1.0, 1.0)


class ToneEmbedder:
    """Embeds a passage as the amplitudes of four tones, and words as a tone: "300 Hz"."""

    sampling_rate, min_samples, default_seconds, standardize = RATE, 80, 1.0, False

    def __init__(self, version: str = "1"):
        self.version, self.num_embedded = version, 0

    def describe(self) -> dict:
        return {"weights": self.version}

    def embed_songs(self, songs, settings):
        for key, waveform in songs:
            starts, ends = cut_passages(len(waveform), RATE, settings)
            vectors = np.stack([self.amplitudes(waveform[a:b]) for a, b in zip(starts, ends, strict=True)])
            self.num_embedded += 1
            yield EmbeddedSong(key, len(waveform) / RATE, starts / RATE, ends / RATE, vectors)

    def embed_text(self, text: str) -> np.ndarray:
        return np.array([f"{tone} Hz" in text for tone in TONES], np.float32)

    @staticmethod
    def amplitudes(waveform: np.ndarray) -> np.ndarray:
        time = np.arange(len(waveform)) / RATE
        waves = np.exp(2j * np.pi * np.outer(TONES, time))
        return np.abs(waves @ waveform).astype(np.float32) * 2 / len(waveform)


def tones(seconds: Sequence[Sequence[float]]) -> np.ndarray:
    """A song: for each second, the amplitudes of the four tones."""
    time = np.arange(RATE) / RATE
    waves = np.sin(2 * np.pi * np.outer(TONES, time))
    return np.concatenate([np.array(amplitudes) @ waves for amplitudes in seconds]).astype(np.float32)


def write_song(path: Path, seconds: Sequence[Sequence[float]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tones(seconds), RATE, subtype="FLOAT")
    return path


def write_songs(folder: Path) -> Path:
    """Three songs of two or three seconds: low, rising, and high."""
    write_song(folder / "low.wav", [(0.5, 0, 0, 0), (0.5, 0.1, 0, 0)])
    write_song(folder / "album/rising.wav", [(0.5, 0, 0, 0), (0, 0.5, 0, 0), (0, 0, 0.5, 0)])
    write_song(folder / "high.wav", [(0, 0, 0.1, 0.5), (0, 0, 0, 0.5)])
    return folder


def make_index(songs: Path, output: Path, embedder=None, passages=SECOND, **settings) -> IndexSummary:
    """Index a folder with the stand-in."""
    build = BuildSettings("tones", "1", str(songs), **settings)
    embedder = embedder or ToneEmbedder()
    return index_files(embedder, list_sources(songs), output, build, passages, num_workers=0, progress=False)


def song_passages(name: str, vectors: np.ndarray) -> SongPassages:
    """Passages of a second each, with these vectors."""
    starts = np.arange(len(vectors), dtype=np.float32)
    return SongPassages(SongRecord(name, f"/{name}", "1", float(len(vectors))), starts, starts + 1, vectors)
