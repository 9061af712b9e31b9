"""
Annotating long audio, and what is no music: time, memory, what is found, and how probable the models say it is.

    python benchmarks/annotate.py --models runs/beat runs/chord --data data/pop909 --sounds speech.wav

Music is test songs one after the other, up to each of `--seconds`; memory is the largest of the process so far. Sounds
are made here, and read from `--sounds`. Writes `benchmarks/results/annotate.json` and `.md`.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import musicfm_hf
from musicfm_hf.data.labelled_dataset import load_songs
from musicfm_hf.training.records import environment, write_json

RATE = 24000
TARGET = Path(__file__).parent / "results/annotate.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="for a task each")
    parser.add_argument("--data", required=True, help="data set of recipes/prepare.py")
    parser.add_argument("--sounds", nargs="*", default=[], help="further files")
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 600.0, 3600.0])
    arguments = parser.parse_args()
    models = musicfm_hf.load_annotators(arguments.models)
    waveforms = made_up() | {Path(path).stem: musicfm_hf.load_audio(path, RATE) for path in arguments.sounds}
    music = (musicfm_hf.load_audio(song.audio, RATE) for song in load_songs(arguments.data, "test"))
    joined = np.empty(0, dtype=np.float32)
    for seconds in sorted(arguments.seconds):
        while len(joined) < seconds * RATE and (song := next(music, None)) is not None:
            joined = np.concatenate([joined, song])
        waveforms[f"music, {seconds:g} s"] = joined[: round(seconds * RATE)]
    rows = {name: measure(models, waveform) for name, waveform in waveforms.items()}
    write_json(TARGET, {"rows": rows} | environment())
    TARGET.with_suffix(".md").write_text(as_markdown(rows), encoding="utf-8")
    print(as_markdown(rows))


def made_up() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    times = np.arange(20 * RATE) / RATE
    return {
        "silence": np.zeros(20 * RATE, dtype=np.float32),
        "0.3 s of noise": generator.normal(0, 0.1, round(0.3 * RATE)).astype(np.float32),
        "white noise": generator.normal(0, 0.1, 20 * RATE).astype(np.float32),
        "a tone of 440 Hz": (0.1 * np.sin(2 * np.pi * 440 * times)).astype(np.float32),
    }


def measure(models: dict, waveform: np.ndarray) -> dict:
    began = time.perf_counter()
    found = musicfm_hf.annotate(models, waveform, RATE)
    seconds = time.perf_counter() - began
    counts = {"beats": len(found.beats.times) if found.beats else 0}
    counts |= {name: len(getattr(found, name) or []) for name in ("chords", "sections", "keys")}
    return {
        "audio_seconds": len(waveform) / RATE,
        "seconds": seconds,
        "memory_mb": resident("VmHWM"),
        "counts": counts,
        "probabilities": {name: float(values.mean()) for name, values in found.probabilities.items() if len(values)},
        "key": found.key,
        "tags": dict(list((found.tags or {}).items())[:3]),
    }


def resident(field: str) -> float:
    """Of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


def as_markdown(rows: dict[str, dict]) -> str:
    lines = [
        "| | audio | time | memory | beats | chords | sections | key | likeliest tags |",
        "| --- |" + " --- |" * 8,
    ]
    for name, row in rows.items():

        def shown(kind, row=row):
            probability = row["probabilities"].get(kind)
            return f"{row['counts'][kind]}" + ("" if probability is None else f", probability {probability:.2f}")

        tags = ", ".join(f"{tag} {probability:.2f}" for tag, probability in row["tags"].items())
        key = "" if row["key"] is None else f"{row['key']}, {shown('keys')}"
        cells = [f"{row['audio_seconds']:g} s", f"{row['seconds']:.1f} s", f"{row['memory_mb']:.0f} MB"]
        cells += [shown("beats"), shown("chords"), shown("sections"), key, tags]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
