"""
Measure time and memory of beat and downbeat tracking on synthetic activations, for each length and frame rate: with
the default meters, and with six meters that may change.

    OMP_NUM_THREADS=1 python benchmarks/dbn.py
"""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from reporting import RESULTS, markdown_table, write_report

from musicfm_hf.tasks.dbn import track_beats, track_downbeats
from musicfm_hf.tasks.dbn_states import BEATS_PER_BAR
from musicfm_hf.tasks.meter import METERS
from musicfm_hf.training.records import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 600.0])
    parser.add_argument("--fps", nargs="+", type=float, default=[40.0, 50.0, 100.0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output_file", type=Path, default=RESULTS / "dbn.json")
    arguments = parser.parse_args()
    rows = []
    for seconds, fps in product(arguments.seconds, arguments.fps):
        activations = synthetic_activations(seconds, fps)
        beats = activations.sum(axis=1).clip(max=1)
        for track, values, settings in (
            (track_downbeats, activations, {"beats_per_bar": BEATS_PER_BAR}),
            (track_downbeats, activations, {"beats_per_bar": METERS, "meter_change": 0.01}),
            (track_beats, beats, {}),
        ):
            row = {"function": track.__name__, "audio_seconds": seconds, "fps": fps, **settings}
            rows.append(row | measure(partial(track, values, fps, **settings), arguments.repeats))
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


def measure(track: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Return the median and fastest time, the median processor time, and the peak memory in MB of a decoder."""
    tracemalloc.start()
    track()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    wall, processor = zip(*(times_of(track) for _ in range(repeats)), strict=True)
    return {
        "seconds": statistics.median(wall),
        "fastest": min(wall),
        "processor_seconds": statistics.median(processor),
        "memory_mb": peak,
    }


def times_of(function: Callable[[], Any]) -> tuple[float, float]:
    """Return the wall-clock time and the processor time in seconds, which differ on a busy machine."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - processor


def report(rows: list[dict[str, Any]]) -> str:
    """Return the table, with a row for each measurement."""
    cells = [
        [
            f"`{row['function']}`",
            ", ".join(map(str, row.get("beats_per_bar", ()))),
            f"{row['audio_seconds']:g} s",
            f"{row['fps']:g}",
            *(f"{row[key]:.3f} s" for key in ("seconds", "fastest", "processor_seconds")),
            f"{row['memory_mb']:.1f} MB",
        ]
        for row in rows
    ]
    header = ["", "meters", "audio", "frames a second", "median", "fastest", "processor time", "peak memory"]
    return markdown_table(header, cells)


if __name__ == "__main__":
    main()
