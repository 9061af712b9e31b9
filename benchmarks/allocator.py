"""
Measure pretraining on a CPU with the memory allocator of the C library as it is, with the settings of the command, and
with jemalloc, in turn.

    apt install libjemalloc2
    python benchmarks/allocator.py --library /usr/lib/x86_64-linux-gnu/libjemalloc.so.2

The script trains the recipe `small` on synthetic songs, and reports the median of `--rounds` runs for each allocator.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import soundfile
from processes import musicfm
from reporting import RESULTS, markdown_table, write_report

from musicfm_hf.data.synthetic import compose, synthesize
from musicfm_hf.training.records import environment

RATE = 24000
UNCHANGED = {"GLIBC_TUNABLES": "glibc.malloc.check=0"}  # a default, which the command takes as a choice of the user
JEMALLOC_SETTINGS = "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"  # keep memory for the next step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="shared library of jemalloc")
    parser.add_argument("--recipe", default="small", help="pretraining recipe that needs no quantizer")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2, help="number of runs with each allocator")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "allocator.json")
    arguments = parser.parse_args()
    allocators = {"C library as it is": UNCHANGED, "C library, freed memory kept": {}}
    if arguments.library is not None:
        if not arguments.library.is_file():
            parser.error(f"the library {arguments.library} does not exist")
        allocators["jemalloc"] = {"LD_PRELOAD": str(arguments.library), "MALLOC_CONF": JEMALLOC_SETTINGS}
    seconds: dict[str, list[float]] = {name: [] for name in allocators}
    with tempfile.TemporaryDirectory() as folder:
        music = Path(folder) / "music"
        music.mkdir()
        for seed in range(12):
            soundfile.write(music / f"{seed}.wav", synthesize(compose(seed), RATE), RATE)
        for turn in range(arguments.rounds):
            for name, variables in allocators.items():
                output = Path(folder) / f"{name}-{turn}"
                seconds[name].append(train(arguments.recipe, arguments.steps, music, output, variables))
    rows = [{"allocator": name, "seconds": statistics.median(of), "all": of} for name, of in seconds.items()]
    values = {"recipe": arguments.recipe, "steps": arguments.steps, "rows": rows} | environment()
    write_report(arguments.output_file, values, report(values))


def train(recipe: str, steps: int, music: Path, output: Path, variables: dict[str, str]) -> float:
    """Return the duration of a training run in seconds."""
    flags = ["--train", str(music), "--output_dir", str(output), "--max_steps", str(steps)]
    flags += ["--use_cpu", "true", "--eval_strategy", "no", "--save_strategy", "no", "--report_to", "none"]
    musicfm("pretrain", recipe, *flags, **variables)
    history = json.loads((output / "results.json").read_text())["history"]
    return next(entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry)


def report(values: dict[str, Any]) -> str:
    """Return the machine and a table with a row for each allocator."""
    rows = [
        [row["allocator"], f"{row['seconds']:.1f} s", ", ".join(f"{seconds:.1f} s" for seconds in row["all"])]
        for row in values["rows"]
    ]
    table = markdown_table(["allocator", "median", "runs"], rows)
    return f"{values['steps']} steps of `{values['recipe']}`; {values['machine']}.\n\n" + table


if __name__ == "__main__":
    main()
