"""
Make the small model of the package: data, pretraining, three rounds of joint fine-tuning, a head for search, and a
folder with scores and a card.

    python recipes/small_model.py --source POP909 --lead_sheets OpenEWLD/dataset --output_dir small_model

It runs `musicfm` commands on two processor cores. Finished steps are skipped, so repeat the command to resume.
docs/small_model.md has the requirements and the results.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from musicfm_hf.finetuning.packing import pack_head, pack_joint
from musicfm_hf.hub.cards import write_card

MUSICFM = ("-m", "musicfm_hf")
CONFIGURATION = Path(__file__).parent / "accelerate/cpu.yaml"
TWO_PROCESSES = ("-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATION), *MUSICFM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of POP909, as for `musicfm prepare pop909`")
    parser.add_argument("--lead_sheets", type=Path, required=True, help="the folder dataset of OpenEWLD")
    parser.add_argument("--output_dir", type=Path, default=Path("small_model"), help="folder of data and runs")
    arguments = parser.parse_args()
    data, runs = arguments.output_dir / "data", arguments.output_dir / "runs"
    rendered, faster, packages, speech, sounds, presence = (
        data / name for name in ("rendered", "faster", "packages", "speech", "sounds", "presence")
    )
    quantizer, encoder, first, second = (runs / name for name in ("quantizer", "encoder", "first", "second"))
    music = ["--train", packages / "train.txt", rendered / "train.txt", "--validation", packages / "valid.txt"]

    prepare("packages", packages, "--test_songs", 60)
    prepare("packages", speech, "--kind", "speech")
    prepare("packages", sounds, "--kind", "sounds")
    others = ["--speech", speech, "--sounds", sounds, "--songs", 300, "--seconds", 30]
    prepare("presence", presence, "--music", packages, *others)
    pieces = ["--source", arguments.source, "--seconds", 45]
    prepare("rendered", rendered, *pieces, "--versions", 3, "--composed", 300)
    more = ["--versions", 3, "--composed", 400, "--tempi", 0.8, 1.6, "--seed", 1, "--test_versions", 0]
    prepare("rendered", faster, *pieces, *more)
    step(MUSICFM, "train-quantizer", "small_kmeans", *music, "--hours", 1, makes=quantizer / "report.json")
    steps = ["--max_steps", 500, "--eval_steps", 250, "--save_steps", 250, "--warmup_steps", 50]
    weights = ["--set", "unmasked_loss_weight=0.25", "--weights", 1, 1]
    pretrain = ["pretrain", "small_all_frames", *music, *weights, "--quantizer", quantizer, *steps]
    step(TWO_PROCESSES, *pretrain, makes=encoder / "results.json")
    tune = ["finetune", "joint/full", "small/joint", *outputs(runs)]
    songs = ["--data", rendered, f"presence={presence}"]
    step(TWO_PROCESSES, *tune, *songs, "--model", encoder, makes=first / "results.json")
    repeats = json.dumps({str(rendered): 0})  # other songs to train on, the same ones for validation
    songs += [faster, "--data_repeats", repeats, "--model", first, "--keep_head", "true", "--max_steps", 1600]
    step(TWO_PROCESSES, *tune, *songs, makes=second / "results.json")
    third = tune_on_other_music([*tune, "--model", second], arguments, data, runs)

    small = arguments.output_dir / "musicfm-small"
    if not (small / "config.json").is_file():
        print(f"{pack_joint(third, small, encoder, second) / 1e6:.1f} MB in {small}")
    add_search(small, arguments.source, data / "versions", runs)
    calibrate_and_score(small, data, runs)
    write_card(small, license="apache-2.0", place="musicfm_hf.SMALL_MODEL")  # it is copied into the package


def tune_on_other_music(tune: list[object], arguments: argparse.Namespace, data: Path, runs: Path) -> Path:
    """Make music other than pop songs, and tune a model on it and on earlier songs. Return the folder of the run."""
    third = runs / "third"
    rendered, wider, sheets, meters, presence = (
        data / name for name in ("rendered", "wider", "lead_sheets", "meters", "presence")
    )
    pieces = ["--versions", 1, "--seconds", 45, "--composed", 250, "--tempi", 0.6, 1.7]
    prepare("rendered", wider, "--source", arguments.source, *pieces, "--seed", 2, "--test_versions", 0)
    pieces = ["--versions", 2, "--seconds", 45, "--license", "MIT"]
    prepare("lead_sheets", sheets, "--source", arguments.lead_sheets, *pieces)
    pieces = ["--songs", 320, "--seconds", 45, "--meters", *range(2, 8), "--tempo_change", 0.2]
    prepare("synthetic", meters, *pieces, "--first_seed", 50000, "--fractions", 1, 0, 0)
    songs = ["--data", rendered, wider, sheets, meters, f"presence={presence}"]
    songs += [f"structure={folder}" for folder in (rendered, wider)]  # by the same rule
    songs += [f"tagging={folder}" for folder in (rendered, wider, sheets)]  # of General MIDI
    last = ["--keep_head", "true", "--max_steps", 600, "--load_best_model_at_end", "false"]
    step(TWO_PROCESSES, *tune, *songs, *last, makes=third / "results.json")
    return third


def add_search(model: Path, source: Path, versions: Path, runs: Path) -> None:
    """Train a head that finds other versions of songs on the encoder of a model, add it to the model and score it."""
    prepare("pop909", versions, "--source", source, "--arranged", "--versions", 2, "--limit", 150)
    run, head = runs / "same_song", model / "same_song"
    songs = ["--task", "same_song", "--model", model, "--data", versions, *outputs(runs)]
    step(MUSICFM, "finetune", "retrieval/probe", "small/retrieval_probe", *songs, makes=run / "results.json")
    if not head.is_dir():
        print(f"{pack_head(run, model) / 1e6:.1f} MB in {model}")
    file = head / "evaluations/versions.json"
    step(MUSICFM, "evaluate", head, "--data", versions, "--output_file", file, makes=file)


def calibrate_and_score(model: Path, data: Path, runs: Path) -> None:
    """Calibrate a model on validation songs of all kinds, and score the test songs."""
    rendered, sheets, presence = (data / name for name in ("rendered", "lead_sheets", "presence"))
    for name, folders in {"songs": [rendered, sheets], "presence": [presence]}.items():
        file = runs / "calibration" / f"{name}.json"
        step(MUSICFM, "evaluate", model, "--data", *folders, "--calibrate", "--output_file", file, makes=file)
    for name, words in {
        "rendered": [rendered],
        "rendered_effects": [rendered, "--effects", 1.0],
        "lead_sheets": [sheets],
        "presence": [presence],
        "presence_effects": [presence, "--effects", 1.0],
    }.items():
        file = model / "evaluations" / f"{name}.json"
        step(MUSICFM, "evaluate", model, "--data", *words, "--output_file", file, makes=file)


def outputs(runs: Path) -> list[object]:
    """Return the flags of `musicfm finetune` for the folders of results and features."""
    return ["--results", runs / "results", "--cache", runs / "features"]


def prepare(name: str, folder: Path, *options: object) -> None:
    """Prepare a data set."""
    step(MUSICFM, "prepare", name, *options, makes=folder / "info.json")


def step(program: tuple[str, ...], *words: object, makes: Path) -> None:
    """
    Print a command and run it, unless the last file that it writes exists; exit if it fails. By default, it writes to
    the folder of this file.
    """
    if makes.is_file():
        return
    output = () if "--output_file" in words else ("--output_dir", makes.parent)
    command = [*program, *map(str, (*words, *output))]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    done = subprocess.run([sys.executable, *command])
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
