"""
Measure the time to read 30 s from the middle of an hour, and from a file of 30 s, in each audio format.

    python benchmarks/audio.py

Music is synthesized (stereo, 44.1 kHz; opus 48 kHz) and written once; files are read in turn, and times are medians.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from machine import seconds_of
from reporting import RESULTS, markdown_table, write_report
from sound_files import write

from musicfm_hf import load_audio
from musicfm_hf.data.synthetic import compose, synthesize
from musicfm_hf.training.records import environment

CROP_SECONDS = 30.0
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
    parser.add_argument("--output_file", type=Path, default=RESULTS / "audio.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(name, Path(folder), arguments.seconds, arguments.repeats) for name in FORMATS]
    values = {"long_seconds": arguments.seconds, "rows": rows} | environment()
    write_report(arguments.output_file, values, report(values))


def measure(name: str, folder: Path, long_seconds: float, repeats: int) -> dict[str, Any]:
    """Return the time in seconds to read 30 s of a short and a long file, and the whole long file, in one format."""
    file_format, subtype, rate = FORMATS[name]
    song = synthesize(compose(2), rate)
    short, long = (folder / f"{kind}.{name}" for kind in ("short", "long"))
    for path, seconds in ((short, CROP_SECONDS), (long, long_seconds)):
        write(path, song, seconds, rate, file_format, subtype)
    times: dict[str, list[float]] = {"short_file": [], "crop_of_long_file": []}
    for repeat in range(repeats + 1):
        for key, path, start in (("short_file", short, 0.0), ("crop_of_long_file", long, long_seconds / 2)):
            elapsed = seconds_of(lambda path=path, start=start: load_audio(path, start=start, duration=CROP_SECONDS))
            if repeat > 0:  # the first one is a warm-up
                times[key].append(elapsed)
    medians = {key: statistics.median(values) for key, values in times.items()}
    row = {"format": name} | medians | {"long_file": seconds_of(lambda: load_audio(long))}
    for path in (short, long):
        path.unlink()
    return row


def report(values: dict[str, Any]) -> str:
    """Return the table, with a row for each format."""
    rows = []
    for row in values["rows"]:
        short, crop = row["short_file"], row["crop_of_long_file"]
        times = [f"{short * 1e3:.0f} ms", f"{crop * 1e3:.0f} ms", f"{crop / short:.2f}", f"{row['long_file']:.1f} s"]
        rows.append([row["format"], *times])
    length = f"{values['long_seconds'] / 60:g} minutes"
    header = ["format", "30 s file", f"30 s from the middle of {length}", "ratio", f"all {length}"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
