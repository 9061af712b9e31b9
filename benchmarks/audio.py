"""
What a crop of 30 s costs, from an hour and from a file of 30 s, for each format.

    python benchmarks/audio.py

Music is synthesised (stereo, 44.1 kHz; opus 48 kHz), written once, and read in turn; medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from musicfm_hf import load_audio
from musicfm_hf.data.synthetic import compose, synthesize

FORMATS = {
    "wav": ("WAV", "PCM_16", 44100),
    "flac": ("FLAC", "PCM_16", 44100),
    "ogg": ("OGG", "VORBIS", 44100),
    "opus": ("OGG", "OPUS", 48000),
    "mp3": ("MP3", "MPEG_LAYER_III", 44100),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0, help="length of the long file")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    print("| format | 30 s file | 30 s from the middle of the long one | ratio | whole long file |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (file_format, subtype, rate) in FORMATS.items():
            song = synthesize(compose(2), rate)
            paths = []
            for seconds in (30.0, arguments.seconds):
                paths.append(Path(folder) / f"{seconds:g}.{name}")
                write(paths[-1], song, seconds, rate, file_format, subtype)
            crops = [(paths[0], 0.0), (paths[1], arguments.seconds / 2)]
            times = [[], []]
            for _ in range(arguments.repeats + 1):
                for taken, (path, start) in zip(times, crops, strict=True):
                    taken.append(timed(lambda path=path, start=start: load_audio(path, start=start, duration=30.0)))
            short, crop = (statistics.median(taken[1:]) for taken in times)
            whole = timed(lambda path=paths[1]: load_audio(path))
            print(f"| {name} | {short * 1e3:.0f} ms | {crop * 1e3:.0f} ms | {crop / short:.2f} | {whole:.1f} s |")


def write(path: Path, song: np.ndarray, seconds: float, rate: int, file_format: str, subtype: str) -> None:
    """The song again and again, until `seconds`."""
    missing = round(seconds * rate)
    with soundfile.SoundFile(path, "w", rate, channels=2, format=file_format, subtype=subtype) as file:
        while missing > 0:
            for start in range(0, min(len(song), missing), rate):
                file.write(song[start : min(start + rate, missing)])
            missing -= len(song)


def timed(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
