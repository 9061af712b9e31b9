"""
A song annotated by the small model of the package; then the whole workflow without downloads: songs with labels →
short pretraining → LoRA for chords and a probe for beats → scores → annotations and a picture of a song.

    make demo
    make demo AUDIO=my_song.mp3

The script runs `musicfm` commands as a user would, and prints each of them.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, help="song to annotate; by default one of the synthetic test songs")
    parser.add_argument("--output_dir", "--output", type=Path, default=Path("demo_output"))
    arguments = parser.parse_args()
    output, start = arguments.output_dir, time.perf_counter()
    data, encoder, chords, beats = (output / name for name in ("data", "encoder", "chords", "beats"))

    musicfm("prepare", "synthetic", "--output_dir", data, "--songs", 48, "--seconds", 48)
    song = arguments.audio or data / (data / "test.txt").read_text(encoding="utf-8").splitlines()[-1]
    musicfm("annotate", song, "--output_dir", output / "small_model", "--existing", "overwrite")
    print(f"picture: {output / 'small_model' / song.stem}.png; {time.perf_counter() - start:.0f} s so far")
    music = ["--train", data / "train.txt", "--validation", data / "valid.txt"]
    musicfm("pretrain", "demo", *music, "--output_dir", encoder)
    places = ["--model", encoder, "--data", data, "--results", output / "results", "--cache", output / "features"]
    musicfm("finetune", "chord/lora", "demo/lora", *places, "--output_dir", chords)
    musicfm("finetune", "beat/probe", "demo/probe", *places, "--output_dir", beats)
    musicfm("annotate", song, "--models", chords, beats, "--output_dir", output, "--existing", "overwrite")

    results = json.loads((output / "results/chords.json").read_text(encoding="utf-8"))
    score = results["scores"]["test"]["majmin"]
    labels = (output / f"{song.stem}.chords.lab").read_text(encoding="utf-8").split()[2::3]
    print(f"\n{song}: {' '.join(labels[:12])} …")
    print(f"chords of {score['songs']} test songs: {score['mean']:.3f} of the time right")
    print(f"LoRA and its head: {results['trained_parameters']:,} of {results['parameters']:,} weights trained")
    print(f"picture: {output / song.stem}.png; {time.perf_counter() - start:.0f} s in all")


def musicfm(*words: object) -> None:
    """Print a command and run it; exit if it fails."""
    arguments = [str(word) for word in words]
    print(f"\n$ musicfm {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "musicfm_hf", *arguments])
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
