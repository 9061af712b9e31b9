"""
Measure annotation of long audio and of sounds that are not music: time, memory, results and their probabilities.

    python benchmarks/annotate.py --models runs/beat runs/chord --data data/pop909 --sounds speech.wav

The music consists of concatenated test songs, cut to each of `--seconds`. Memory is the peak of the process so far.
Silence, noise and a tone are synthesized; further sounds are read from `--sounds`.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import resident_mb
from reporting import RESULTS, markdown_table, write_report

import musicfm_hf
from musicfm_hf.data.labeled_dataset import load_songs
from musicfm_hf.training.records import environment

RATE = 24000
SEGMENTS = ("chords", "sections", "keys")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="fine-tuned models, one for each task")
    parser.add_argument("--data", required=True, help="data set made by `musicfm prepare`")
    parser.add_argument("--sounds", nargs="*", default=[], help="further audio files")
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 600.0, 3600.0], help="lengths of music")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "annotate.json")
    arguments = parser.parse_args()
    models = musicfm_hf.load_annotators(arguments.models)
    waveforms = synthetic_sounds()
    waveforms |= {Path(path).stem: musicfm_hf.load_audio(path, RATE) for path in arguments.sounds}
    waveforms |= joined_music(arguments.data, sorted(arguments.seconds))
    rows = {name: measure(models, waveform) for name, waveform in waveforms.items()}
    write_report(arguments.output_file, {"rows": rows} | environment(), report(rows))


def synthetic_sounds() -> dict[str, np.ndarray]:
    """Return sounds without beats, chords or form."""
    generator = np.random.default_rng(0)
    times = np.arange(20 * RATE) / RATE
    return {
        "silence": np.zeros(20 * RATE, dtype=np.float32),
        "0.3 s of noise": generator.normal(0, 0.1, round(0.3 * RATE)).astype(np.float32),
        "white noise": generator.normal(0, 0.1, 20 * RATE).astype(np.float32),
        "a tone of 440 Hz": (0.1 * np.sin(2 * np.pi * 440 * times)).astype(np.float32),
    }


def joined_music(data: str, lengths: list[float]) -> dict[str, np.ndarray]:
    """Return concatenated test songs, cut to each length in seconds, or shorter if the songs are shorter."""
    songs = (musicfm_hf.load_audio(song.audio, RATE) for song in load_songs(data, "test"))
    joined = np.empty(0, dtype=np.float32)
    waveforms = {}
    for seconds in lengths:
        while len(joined) < seconds * RATE and (song := next(songs, None)) is not None:
            joined = np.concatenate([joined, song])
        waveforms[f"music, {seconds:g} s"] = joined[: round(seconds * RATE)]
    return waveforms


def measure(models: dict, waveform: np.ndarray) -> dict[str, Any]:
    """Annotate a sound."""
    began = time.perf_counter()
    annotation = musicfm_hf.annotate(models, waveform, RATE)
    seconds = time.perf_counter() - began
    counts = {"beats": len(annotation.beats.times) if annotation.beats else 0}
    counts |= {name: len(getattr(annotation, name) or []) for name in SEGMENTS}
    probabilities = {name: float(values.mean()) for name, values in annotation.probabilities.items() if len(values)}
    return {
        "audio_seconds": len(waveform) / RATE,
        "seconds": seconds,
        "memory_mb": resident_mb("VmHWM"),
        "counts": counts,
        "probabilities": probabilities,
        "key": annotation.key,
        "tags": dict(list((annotation.tags or {}).items())[:3]),
    }


def report(rows: dict[str, dict[str, Any]]) -> str:
    """Return the table, with a row for each sound."""
    cells = []
    for name, row in rows.items():
        beats, chords, sections, keys = (count(row, kind) for kind in ("beats", *SEGMENTS))
        key = "" if row["key"] is None else f"{row['key']}, {keys}"
        tags = ", ".join(f"{tag} {probability:.2f}" for tag, probability in row["tags"].items())
        cost = [f"{row['audio_seconds']:g} s", f"{row['seconds']:.1f} s", f"{row['memory_mb']:.0f} MB"]
        cells.append([name, *cost, beats, chords, sections, key, tags])
    header = ["", "audio", "time", "memory", "beats", "chords", "sections", "key", "likeliest tags"]
    return markdown_table(header, cells)


def count(row: dict[str, Any], kind: str) -> str:
    """Return the number of events of a kind, and their mean probability."""
    probability = row["probabilities"].get(kind)
    return f"{row['counts'][kind]}" + ("" if probability is None else f", probability {probability:.2f}")


if __name__ == "__main__":
    main()
