"""
Measure pretraining on a CPU with the memory allocator of the C library as it is, with the settings of the command,
with jemalloc, and in bfloat16, in turn.

    apt install libjemalloc2
    python benchmarks/allocator.py --library /usr/lib/x86_64-linux-gnu/libjemalloc.so.2

The script trains the recipe `small` on synthetic songs, and reports the median of `--rounds` runs for each way. The
command keeps freed memory also in bfloat16, which is left out on processors without instructions for it.
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
from musicfm_hf.inference.precision import has_bfloat16
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
    ways: dict[str, tuple[dict[str, str], list[str]]] = {
        "C library as it is": (UNCHANGED, []),
        "C library, freed memory kept": ({}, []),
    }
    if arguments.library is not None:
        if not arguments.library.is_file():
            parser.error(f"the library {arguments.library} does not exist")
        ways["jemalloc"] = ({"LD_PRELOAD": str(arguments.library), "MALLOC_CONF": JEMALLOC_SETTINGS}, [])
    if has_bfloat16():
        ways["C library, freed memory kept, `--bf16 true`"] = ({}, ["--bf16", "true"])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        music = Path(folder) / "music"
        music.mkdir()
        for seed in range(12):
            soundfile.write(music / f"{seed}.wav", synthesize(compose(seed), RATE), RATE)
        for turn in range(arguments.rounds):
            for name, (variables, flags) in ways.items():
                output = Path(folder) / f"{list(ways).index(name)}-{turn}"
                seconds[name].append(train(arguments.recipe, arguments.steps, music, output, variables, flags))
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    first = next(iter(medians.values()))
    rows = [
        {"way": name, "seconds": median, "ratio": median / first, "all": seconds[name]}
        for name, median in medians.items()
    ]
    values = {"recipe": arguments.recipe, "steps": arguments.steps, "rows": rows} | environment()
    write_report(arguments.output_file, values, report(values))


def train(
    recipe: str, steps: int, music: Path, output: Path, variables: dict[str, str], more_flags: list[str]
) -> float:
    """Return the duration of a training run in seconds."""
    flags = [*more_flags, "--train", str(music), "--output_dir", str(output), "--max_steps", str(steps)]
    flags += [
        "--use_cpu",
        "true",
        "--validation_fraction",
        "0.2",
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
        "--report_to",
        "none",
    ]
    musicfm("pretrain", recipe, *flags, **variables)
    history = json.loads((output / "results.json").read_text())["history"]
    return next(entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry)


def report(values: dict[str, Any]) -> str:
    """Return the machine and a table with a row for each allocator."""
    rows = [
        [
            row["way"],
            f"{row['seconds']:.1f} s",
            f"{row['ratio']:.2f}",
            ", ".join(f"{seconds:.1f} s" for seconds in row["all"]),
        ]
        for row in values["rows"]
    ]
    table = markdown_table(["", "median", "as it is = 1", "runs"], rows)
    return f"{values['steps']} steps of `{values['recipe']}`; {values['machine']}.\n\n" + table


if __name__ == "__main__":
    main()
