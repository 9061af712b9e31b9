"""
The main job end to end, without a download: songs with labels → a short pretraining → LoRA on chords → scores → the
saved adapter, reloaded through the Auto class, annotates a song and draws it.

    make demo
    make demo AUDIO=my_song.mp3

It runs the recipes as a user would and shows each command.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from transformers import AutoModelForAudioFrameClassification

import musicfm_hf

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, help="a song to annotate; by default one of the composed test songs")
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    arguments = parser.parse_args()
    output, began = arguments.output, time.perf_counter()
    data, encoder, chords, beats = (output / name for name in ("data", "encoder", "chords", "beats"))

    run("prepare.py", "synthetic", "--output", data, "--songs", 48, "--seconds", 48)
    run("pretrain.py", "pretrain/tiny.yaml", "demo/pretrain.yaml", "--train", data / "train.txt", "--validation",
        data / "valid.txt", "--output_dir", encoder)  # fmt: skip
    finetuning = ["--model", encoder, "--data", data, "--results", output / "results"]
    run("finetune.py", "chord/lora.yaml", "demo/lora.yaml", *finetuning, "--output_dir", chords)
    run("finetune.py", "beat/probe.yaml", "demo/probe.yaml", *finetuning, "--output_dir", beats,
        "--cache", output / "features")  # fmt: skip

    print("\nThe adapter, through AutoModelForAudioFrameClassification.from_pretrained:")
    models = [AutoModelForAudioFrameClassification.from_pretrained(folder).eval() for folder in (chords, beats)]
    song = arguments.audio or data / (data / "test.txt").read_text(encoding="utf-8").splitlines()[-1]
    audio = musicfm_hf.load_audio(song, models[0].config.sampling_rate)
    annotation = musicfm_hf.annotate(models, audio, models[0].config.sampling_rate)
    annotation.save(output, song.stem)
    picture = output / f"{song.stem}.png"
    annotation.draw(picture, audio, models[0].config.sampling_rate)
    print(f"{song}: " + " ".join(segment.label for segment in annotation.chords[:12]) + " …")
    results = json.loads((output / "results/chords.json").read_text())
    score = results["scores"]["test"]["majmin"]
    print(f"chords of {score['songs']} test songs: {score['mean']:.3f} of the time right")
    print(f"trained with its head: {results['trained_parameters']:,} of {results['parameters']:,} weights")
    print(f"{picture}, and its labels beside it; {time.perf_counter() - began:.0f} s in all")


def run(recipe: str, *arguments: object) -> None:
    """A recipe, as from the command line; YAML files are those of recipes/."""

    def words(folder: Path) -> list[str]:
        paths = [folder / recipe, *(folder / word if str(word).endswith(".yaml") else word for word in arguments)]
        return [str(path) for path in paths]

    print(f"\n$ python {shlex.join(words(Path('recipes')))}", flush=True)
    done = subprocess.run([sys.executable, *words(ROOT / "recipes")])
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
