"""
Time and memory of beat and downbeat tracking on made-up activations, one row per length and frame rate.

    OMP_NUM_THREADS=1 python benchmarks/dbn.py
"""

import argparse
import statistics
import time
import tracemalloc
from itertools import product

import numpy as np

from musicfm_hf.tasks.dbn import track_beats, track_downbeats


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
    print("| | audio | frames a second | median | fastest | processor time | peak memory |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seconds, fps in product(arguments.seconds, arguments.fps):
        activations = made_up(seconds, fps)
        for track, given in [(track_downbeats, activations), (track_beats, activations.sum(axis=1).clip(max=1))]:
            tracemalloc.start()
            track(given, fps)
            peak = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
            wall, processor = zip(*(timed(track, given, fps) for _ in range(arguments.repeats)), strict=True)
            print(
                f"| `{track.__name__}` | {seconds:g} s | {fps:g} | {statistics.median(wall):.3f} s "
                f"| {min(wall):.3f} s | {statistics.median(processor):.3f} s | {peak:.1f} MB |"
            )


def timed(function, *arguments) -> tuple[float, float]:
    """Seconds on the clock, and of the processor: these differ on a busy machine."""
    wall, processor = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
