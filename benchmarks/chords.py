"""
Compare chord vocabularies on the same songs: templates, and models that were fine-tuned alike except for the vocabulary.

    python benchmarks/chords.py --model runs/small --data data/pop909 --runs runs/chords
    python benchmarks/chords.py --model runs/small --data data/pop909 --runs runs/chords --vocabularies full --train

Each model is trained as `musicfm finetune chord/full small/full --vocabulary …` does, with the same seed. The settings
of the decoder are chosen on validation songs: with or without smoothing by what was learned from training songs. The
logits of songs are kept in the folder of the model, so that an interrupted call can be repeated. With `--train`, models
are trained and nothing else is done, so that processes can share the work.

The table has all comparisons of `mir_eval.chord`, their paired differences from the first model over test songs, and
the share of the time that is right for each type of chord.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from probes import parse
from reporting import RESULTS

from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.finetuning.run import finetune, read_splits, save_run

TASK = "chord"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="pretrained encoder")
    parser.add_argument("--data", required=True, help="data set made by `musicfm prepare`")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the models")
    parser.add_argument("--vocabularies", nargs="+", default=["majmin", "full"], help="the first one is compared with")
    parser.add_argument("--steps", type=int, default=250, help="steps of training")
    parser.add_argument("--batch_size", type=int, default=4, help="crops in a step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--validation_songs", type=int, default=20, help="songs on which settings are chosen")
    parser.add_argument("--train", action="store_true", help="only train the models")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "chords.json")
    arguments = parser.parse_args()
    for vocabulary in arguments.vocabularies:
        train(vocabulary, arguments)


def flags_of(vocabulary: str, arguments: argparse.Namespace) -> list[str]:
    """Return the flags of `musicfm finetune chord/full small/full` for a model."""
    steps = str(arguments.steps)
    flags = ["--model", arguments.model, "--data", arguments.data, "--vocabulary", vocabulary]
    flags += ["--transpose", "false", "--speed", "5", "--probe_steps", "0", "--max_steps", steps]
    flags += ["--eval_steps", steps, "--save_steps", steps, "--per_device_train_batch_size", str(arguments.batch_size)]
    flags += ["--bf16", "true", "--use_cpu", "true", "--dataloader_num_workers", "0", "--report_to", "none"]
    return [*flags, "--seed", str(arguments.seed), "--output_dir", str(arguments.runs / vocabulary)]


def train(vocabulary: str, arguments: argparse.Namespace) -> None:
    """Train a model unless it exists. Validation songs are scored once, at the end, and test songs are not read."""
    folder = arguments.runs / vocabulary
    if (folder / "results.json").is_file():
        return
    words = [*flags_of(vocabulary, arguments), "--results", str(arguments.runs / "results")]
    settings, training = parse(TASK, "full", words)
    splits = read_splits(settings)
    songs = {"train": splits["train"], "validation": splits["validation"][: arguments.validation_songs]}
    save_run(finetune(settings, training, songs), settings, training)


if __name__ == "__main__":
    main()
