"""
Measure how similar the same recording in other encodings is, and how similar different songs are, to choose the
threshold of `musicfm search --duplicates`.

    python benchmarks/duplicates.py --model runs/small_kmeans --layer 2 --data data/pop909

The first minute of each of the first test songs of a prepared data set is written as it is, and again in each of the
ways of `WAYS`. All of these files are indexed together. The report has, for each way, the similarities of the songs to
their originals, and the similarities of different songs, among which those in the same encoding are the nearest.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from reporting import RESULTS, markdown_table, write_report

from musicfm_hf import (
    BuildSettings,
    PassageSettings,
    SearchIndex,
    WindowSettings,
    index_files,
    load_audio,
    load_embedder,
)
from musicfm_hf.audio.reading import resample
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.search.duplicates import THRESHOLD, find_duplicates, song_means, song_similarity
from musicfm_hf.search.geometry import Geometry
from musicfm_hf.search.shards import PassageStore
from musicfm_hf.training.files import complete_file
from musicfm_hf.training.records import environment

RATE = 44100
ORIGINAL = "as it is"


FORMATS = {"flac": "FLAC", "mp3": "MP3", "ogg": "OGG", "opus": "OGG"}


class Way(NamedTuple):
    """A way to write a song: ending of the file, rate in Hz, settings of soundfile, and a change of the audio."""

    ending: str = "flac"
    rate: int = RATE
    settings: dict[str, Any] = {}
    change: Callable[[np.ndarray], np.ndarray] = lambda audio: audio

    def write(self, path: Path, audio: np.ndarray) -> None:
        """Write audio `(samples,)` at RATE."""
        audio = resample(self.change(audio), RATE, self.rate)
        with soundfile.SoundFile(path, "w", self.rate, 1, format=FORMATS[self.ending], **self.settings) as file:
            for start in range(0, len(audio), self.rate):  # libsndfile cannot encode a long Vorbis at once
                file.write(audio[start : start + self.rate])


WAYS = {
    ORIGINAL: Way(),
    "mp3": Way("mp3"),
    "mp3, most compressed": Way("mp3", settings={"compression_level": 0.99, "bitrate_mode": "CONSTANT"}),
    "Vorbis": Way("ogg", settings={"subtype": "VORBIS"}),
    "Opus": Way("opus", 48000, {"subtype": "OPUS"}),
    "16 kHz": Way(rate=16000),
    "6 dB softer": Way(change=lambda audio: 0.5 * audio),
    "0.7 s of silence before it": Way(change=lambda audio: np.pad(audio, (round(0.7 * RATE), 0))),
    "first 0.7 s missing": Way(change=lambda audio: audio[round(0.7 * RATE) :]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--layer", type=int)
    parser.add_argument("--passage_seconds", type=float, default=5.0)
    parser.add_argument("--songs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, help="for the copies and the index; a temporary folder by default")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "duplicates.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        sources = list_sources(arguments.data / "test.txt")[: arguments.songs]
        for number, (_, source) in enumerate(sources):
            write_copies(folder / "songs" / f"{number:03d}", source, arguments.seconds)
        embedder, revision = load_embedder(arguments.model, windows=WindowSettings(arguments.layer, batch_size=4))
        settings = BuildSettings(arguments.model, revision, str(folder / "songs"))
        passages = PassageSettings(arguments.passage_seconds, arguments.passage_seconds)
        index_files(embedder, list_sources(folder / "songs"), folder / "index", settings, passages)
        index = SearchIndex.load(folder / "index", embedder)
        results = {
            "songs": len(sources),
            "copies": index.store.num_songs,
            "seconds": arguments.seconds,
            "passage_seconds": arguments.passage_seconds,
            "layer": index.manifest.made["layer"],
            "threshold": THRESHOLD,
            **measure(index.store, index.geometry),
            "plain": measure(index.store, Geometry.measure(index.store, standardize=False)),
        }
    write_report(arguments.output_file, results | environment(), report(results))


def write_copies(folder: Path, source: str, seconds: float) -> None:
    """Write the start of a song in each of the ways, unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {folder / f"{name}.{way.ending}": way for name, way in WAYS.items()}
    audio = load_audio(source, RATE, duration=seconds)
    for path in filter(lambda path: not path.exists(), paths):
        with complete_file(path) as temporary:
            paths[path].write(temporary, audio)


def measure(store: PassageStore, geometry: Geometry) -> dict[str, Any]:
    """Return similarities of the same and of different songs, and the groups that the threshold gives."""
    names = [Path(record.name) for record in store.records()]
    originals = {path.parent.name: number for number, path in enumerate(names) if path.stem == ORIGINAL}
    means = song_means(store, geometry)
    same: dict[str, list[float]] = {}
    different, margins = [], []
    for number, path in enumerate(names):
        for song, original in originals.items():
            if number == original:
                continue
            similarity = song_similarity(store, geometry, number, original)
            if song == path.parent.name:
                same.setdefault(path.stem, []).append(similarity)
                if similarity >= THRESHOLD:
                    margins.append(similarity - float(means[number] @ means[original]))
            else:
                different.append(similarity)
    groups = find_duplicates(store, geometry)
    return {
        "same": {way: describe(values) for way, values in same.items()},
        "different": describe(different),
        # by which the means of copies that the threshold accepts are less similar than their passages
        "largest_margin": max(margins, default=0.0),
        "groups": len(groups),
        "groups_of_one_song": sum(len({Path(song).parent for song in group.songs}) == 1 for group in groups),
    }


def describe(similarities: list[float]) -> dict[str, float]:
    """Return the number of similarities, their extremes and quantiles, and the share that the threshold accepts."""
    values = np.array(similarities)
    quantiles = {name: float(np.quantile(values, q)) for name, q in (("1 %", 0.01), ("median", 0.5), ("99 %", 0.99))}
    accepted = float((values >= THRESHOLD).mean())
    return {
        "pairs": len(values),
        "min": float(values.min()),
        **quantiles,
        "max": float(values.max()),
        "accepted": accepted,
    }


def report(results: dict[str, Any]) -> str:
    """Return a table."""
    named = {way: (results["same"][way], results["plain"]["same"][way]) for way in WAYS if way != ORIGINAL}
    named["**different songs**"] = (results["different"], results["plain"]["different"])
    rows = [
        [name, *(f"{values[key]:.3f}" for key in ("min", "median", "max")), f"{values['accepted'] * 100:.1f} %"]
        + [f"{plain[key]:.3f}" for key in ("min", "median", "max")]
        for name, (values, plain) in named.items()
    ]
    header = ["", "lowest", "median", "highest", f"at least {results['threshold']}"]
    header += ["plain cosine: lowest", "median", "highest"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
