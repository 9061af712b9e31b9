"""
Measure time and memory of beat and downbeat tracking on synthetic activations, for each length and frame rate.

    OMP_NUM_THREADS=1 python benchmarks/dbn.py
"""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from reporting import RESULTS, markdown_table, write_report

from musicfm_hf.tasks.dbn import track_beats, track_downbeats
from musicfm_hf.training.records import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 600.0])
    parser.add_argument("--fps", nargs="+", type=float, default=[20.0, 50.0, 100.0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output_file", type=Path, default=RESULTS / "dbn.json")
    arguments = parser.parse_args()
    rows = []
    for seconds, fps in product(arguments.seconds, arguments.fps):
        activations = synthetic_activations(seconds, fps)
        rows.append(measure(track_downbeats, activations, seconds, fps, arguments.repeats))
        rows.append(measure(track_beats, activations.sum(axis=1).clip(max=1), seconds, fps, arguments.repeats))
    write_report(arguments.output_file, {"rows": rows} | environment(), report(rows))


def synthetic_activations(seconds: float, fps: float) -> np.ndarray:
    """Return noisy activations (frames, 2) of four-beat bars at a tempo that varies between 100 and 140 BPM."""
    generator = np.random.default_rng(0)
    times = np.arange(round(seconds * fps)) / fps
    beats = 2 * times - 4 / 3 * np.cos(times / 4)
    near = np.exp(-(((beats + 0.5) % 1 - 0.5) ** 2) / 0.005)
    noise = generator.uniform(0, 0.2, (len(times), 2))
    downbeat = np.round(beats) % 4 == 0
    return 0.5 * np.column_stack([near * ~downbeat, near * downbeat]) + noise


def measure(track: Callable, activations: np.ndarray, seconds: float, fps: float, repeats: int) -> dict[str, Any]:
    """Return the median and fastest time, the median processor time, and the peak memory in MB of a decoder."""
    tracemalloc.start()
    track(activations, fps)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    wall, processor = zip(*(times_of(track, activations, fps) for _ in range(repeats)), strict=True)
    return {
        "function": track.__name__,
        "audio_seconds": seconds,
        "fps": fps,
        "seconds": statistics.median(wall),
        "fastest": min(wall),
        "processor_seconds": statistics.median(processor),
        "memory_mb": peak,
    }


def times_of(function: Callable, *arguments: Any) -> tuple[float, float]:
    """Return the wall-clock time and the processor time in seconds, which differ on a busy machine."""
    wall, processor = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - processor


def report(rows: list[dict[str, Any]]) -> str:
    """Return the table, with a row for each measurement."""
    cells = [
        [
            f"`{row['function']}`",
            f"{row['audio_seconds']:g} s",
            f"{row['fps']:g}",
            *(f"{row[key]:.3f} s" for key in ("seconds", "fastest", "processor_seconds")),
            f"{row['memory_mb']:.1f} MB",
        ]
        for row in rows
    ]
    header = ["", "audio", "frames a second", "median", "fastest", "processor time", "peak memory"]
    return markdown_table(header, cells)


if __name__ == "__main__":
    main()
