"""
Measure how similar the same recording in other encodings is, and how similar different songs are, to choose the
threshold of `musicfm search --duplicates`.

    python benchmarks/duplicates.py --model runs/small_kmeans --data data/pop909

The first minute of each of the first test songs of a prepared data set is written as it is, and again in each of the
ways of `WAYS`. All of these files are indexed together. The report has, for each way, the similarities of the songs to
their originals, and the similarities of different songs, among which those in the same encoding are the nearest.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from reporting import RESULTS, markdown_table, write_report

from musicfm_hf import BuildSettings, SearchIndex, index_files, load_audio, load_embedder
from musicfm_hf.audio.reading import resample
from musicfm_hf.data.catalog import list_sources
from musicfm_hf.search.duplicates import THRESHOLD, find_duplicates, song_means, song_similarity
from musicfm_hf.training.records import environment

RATE = 44100
ORIGINAL = "as it is"


def write(path: Path, audio: np.ndarray, rate: int = RATE, **settings: Any) -> None:
    """Write audio second by second, because libsndfile cannot encode a long Vorbis at once."""
    with soundfile.SoundFile(path, "w", rate, 1, **settings) as file:
        for start in range(0, len(audio), rate):
            file.write(audio[start : start + rate])


# Name of a way → ending of the file and function (path, audio at RATE) that writes it.
WAYS: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    ORIGINAL: ("flac", lambda path, audio: write(path, audio)),
    "mp3": ("mp3", lambda path, audio: write(path, audio)),
    "mp3, most compressed": (
        "mp3",
        lambda path, audio: write(path, audio, compression_level=0.99, bitrate_mode="CONSTANT"),
    ),
    "Vorbis": ("ogg", lambda path, audio: write(path, audio, format="OGG", subtype="VORBIS")),
    "Opus": (
        "opus",
        lambda path, audio: write(path, resample(audio, RATE, 48000), 48000, format="OGG", subtype="OPUS"),
    ),
    "16 kHz": ("flac", lambda path, audio: write(path, resample(audio, RATE, 16000), 16000)),
    "6 dB softer": ("flac", lambda path, audio: write(path, 0.5 * audio)),
    "0.7 s of silence before it": ("flac", lambda path, audio: write(path, np.pad(audio, (round(0.7 * RATE), 0)))),
    "first 0.7 s missing": ("flac", lambda path, audio: write(path, audio[round(0.7 * RATE) :])),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--songs", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--output_file", type=Path, default=RESULTS / "duplicates.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = list_sources(arguments.data / "test.txt")[: arguments.songs]
        for number, (_, source) in enumerate(sources):
            audio = load_audio(source, RATE, duration=arguments.seconds)
            for way, (ending, function) in WAYS.items():
                path = folder / "songs" / f"{number:03d}" / f"{way}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                function(path, audio)
        embedder, revision = load_embedder(arguments.model)
        settings = BuildSettings(arguments.model, revision, str(folder / "songs"))
        index_files(embedder, list_sources(folder / "songs"), folder / "index", settings)
        results = measure(SearchIndex.load(folder / "index", embedder), arguments)
    write_report(arguments.output_file, results | environment(), report(results))


def measure(index: SearchIndex, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return similarities of the same and of different songs, and how many pairs the threshold gets right."""
    store, geometry = index.store, index.geometry
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
                margins.append(similarity - float(means[number] @ means[original]))
            else:
                different.append(similarity)
    groups = find_duplicates(store, geometry)
    return {
        "songs": len(originals),
        "seconds": arguments.seconds,
        "passage_seconds": index.manifest.made["passage_seconds"],
        "threshold": THRESHOLD,
        "same": {way: describe(values) for way, values in same.items()},
        "different": describe(different),
        "largest_margin": max(margins),  # by which the means of two copies are less similar than their passages
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
    rows = [
        [name, *(f"{values[key]:.3f}" for key in ("min", "median", "max")), f"{values['accepted'] * 100:.2f} %"]
        for name, values in [*results["same"].items(), ("different songs", results["different"])]
    ]
    header = ["", "lowest", "median", "highest", f"at least {results['threshold']}"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
