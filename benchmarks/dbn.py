"""
Time and memory of beat and downbeat tracking on made-up activations, one row per length and frame rate.

    OMP_NUM_THREADS=1 python benchmarks/dbn.py

Writes `benchmarks/results/dbn.json` and `.md`.
"""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np

from musicfm_hf.tasks.dbn import track_beats, track_downbeats
from musicfm_hf.training.records import environment, write_json

TARGET = Path(__file__).parent / "results/dbn.json"


def made_up(seconds: float, fps: float) -> np.ndarray:
    """Noisy activations (frames, 2) of four-beat bars at a tempo that sways between 100 and 140 BPM."""
    generator = np.random.default_rng(0)
    times = np.arange(round(seconds * fps)) / fps
    beats = 2 * times - 4 / 3 * np.cos(times / 4)
    near = np.exp(-(((beats + 0.5) % 1 - 0.5) ** 2) / 0.005)
    noise = generator.uniform(0, 0.2, (len(times), 2))
    downbeat = np.round(beats) % 4 == 0
    return 0.5 * np.column_stack([near * ~downbeat, near * downbeat]) + noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 600.0])
    parser.add_argument("--fps", nargs="+", type=float, default=[20.0, 50.0, 100.0])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    rows = [
        measure(track, given, seconds, fps, arguments.repeats)
        for seconds, fps in product(arguments.seconds, arguments.fps)
        for track, given in tracks(made_up(seconds, fps))
    ]
    write_json(TARGET, {"rows": rows} | environment())
    TARGET.with_suffix(".md").write_text(as_markdown(rows), encoding="utf-8")
    print(as_markdown(rows))


def tracks(activations: np.ndarray) -> list[tuple]:
    """Both decoders, with what they take."""
    return [(track_downbeats, activations), (track_beats, activations.sum(axis=1).clip(max=1))]


def measure(track: Callable, given: np.ndarray, seconds: float, fps: float, repeats: int) -> dict:
    tracemalloc.start()
    track(given, fps)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    wall, processor = zip(*(timed(track, given, fps) for _ in range(repeats)), strict=True)
    return {
        "function": track.__name__,
        "audio_seconds": seconds,
        "fps": fps,
        "seconds": statistics.median(wall),
        "fastest": min(wall),
        "processor_seconds": statistics.median(processor),
        "memory_mb": peak,
    }


def as_markdown(rows: list[dict]) -> str:
    lines = [
        "| | audio | frames a second | median | fastest | processor time | peak memory |",
        "| --- |" + " --- |" * 6,
    ]
    for row in rows:
        lines.append(
            f"| `{row['function']}` | {row['audio_seconds']:g} s | {row['fps']:g} | {row['seconds']:.3f} s "
            f"| {row['fastest']:.3f} s | {row['processor_seconds']:.3f} s | {row['memory_mb']:.1f} MB |"
        )
    return "\n".join(lines) + "\n"


def timed(function, *arguments) -> tuple[float, float]:
    """Seconds on the clock, and of the processor: these differ on a busy machine."""
    wall, processor = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
