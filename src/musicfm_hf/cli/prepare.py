"""
Prepare data: labeled data sets, lists of audio files for each split, or the statistics of a catalog.

    musicfm prepare pop909 --source POP909 --output_dir data/pop909 --arranged
    musicfm prepare harmonix --source harmonixset --audio music/harmonix --output_dir data/harmonix
    musicfm prepare folder --source my_annotations --audio my_music --output_dir data/mine
    musicfm prepare synthetic --output_dir data/synthetic
    musicfm prepare fma --source fma_large --metadata fma_metadata --output_dir data/fma --subset large
    musicfm prepare packages --output_dir data/packages
    musicfm prepare stats music/ --output_file stats.json --max_hours 20
    musicfm prepare pop909-source --source repositories --output_dir POP909

`train.txt`, `valid.txt` and `test.txt` list the files, one path per line; `info.json` describes the data. Labeled data
sets are saved in the same folder, for `datasets.load_from_disk`. Audio is not copied. Songs that are left out, and
wrong parts of songs, are listed in `problems.tsv`; with `--strict`, the first wrong annotation is an error.
"""

import argparse
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..data.dataset_reader import DatasetReader, ListReader, Option
from ..data.readers import READERS
from ..training.deprecation import REMOVED_IN
from .flags import command_parser, rename_flags, user_errors

SHOWN_PROBLEMS = 10


def main(argv: Sequence[str]) -> None:
    """Prepare the data set that the arguments name, or measure a catalog."""
    with user_errors("Not prepared"):
        words, readers = _load_readers(argv)
        renamed = {"--output": "--output_file" if "stats" in words[:1] else "--output_dir", "--licence": "--license"}
        arguments = _parser(readers).parse_args(rename_flags(words, renamed))
        arguments.prepare(arguments)


def _load_readers(argv: Sequence[str]) -> tuple[list[str], dict[str, DatasetReader | ListReader]]:
    """Return the arguments without `--reader_file FILE`, and all readers, including that of the file."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--reader_file")
    known, words = first.parse_known_args(argv)
    if known.reader_file is None:
        return words, READERS
    from ..data.prepare import load_reader

    reader = load_reader(known.reader_file)
    return words, READERS | {reader.name: reader}


def _parser(readers: dict[str, DatasetReader | ListReader]) -> argparse.ArgumentParser:
    """Create a parser with a subcommand for each reader, one for statistics, and one for the source of POP909."""
    parser = command_parser("prepare", __doc__)
    parser.add_argument("--reader_file", metavar="FILE", help="a Python file with the reader of your own data set")
    commands = parser.add_subparsers(required=True, metavar="NAME", dest="name", title="data sets")
    for name, reader in readers.items():
        details = f"Prepare {reader.summary}. {reader.details}".strip()
        command = commands.add_parser(name, help=reader.summary, description=details)
        command.set_defaults(prepare=partial(_prepare_data, reader))
        _add_reader_flags(command, reader)
    summary = "mean and standard deviation of the log-mel spectrogram of a catalog"
    command = commands.add_parser("stats", help=summary, description=f"Measure {summary}.")
    command.set_defaults(prepare=_prepare_statistics)
    command.add_argument("sources", nargs="+", metavar="SOURCE", help="audio file, folder, .txt file or data set")
    command.add_argument("--output_file", required=True, help="the JSON file to write")
    hours = "hours of audio to measure, spread over the files; 10 by default"
    command.add_argument("--max_hours", type=float, default=10.0, help=hours)
    command.add_argument("--seed", type=int, default=0, help="seed of the order and the crops; 0 by default")
    summary = "the source of `pop909` and `rendered` from the public repositories of POP909"
    command = commands.add_parser("pop909-source", help=summary, description=f"Write {summary}. It needs mido.")
    command.set_defaults(prepare=_prepare_pop909_source)
    command.add_argument(
        "--source",
        required=True,
        help="folder with clones of music-x-lab/POP909-Dataset, Dsqvival/hierarchical-structure-analysis and "
        "AndyWeasley2004/POP909-CL-Dataset from GitHub",
    )
    command.add_argument("--output_dir", required=True, help="the folder to write to")
    return parser


def _add_reader_flags(parser: argparse.ArgumentParser, reader: DatasetReader | ListReader) -> None:
    """Add the flags of a data set: those that all data sets have, and its own."""
    if reader.needs_source:
        parser.add_argument("--source", required=True, help="the data set as downloaded: a folder or a file")
    if isinstance(reader, DatasetReader) and not reader.makes_audio:
        parser.add_argument("--audio", help=reader.audio_help)
    parser.add_argument("--output_dir", required=True, help="the folder to write to")
    for option in reader.options:
        option.add_to(parser)
    if isinstance(reader, ListReader):
        return
    if reader.is_own_data:
        parser.add_argument("--license", help="license of the data, which is recorded with it")
    if not reader.has_splits:
        parser.add_argument("--seed", type=int, default=0, help="seed of the splits; 0 by default")
        shares = "fractions of the songs for train, validation and test"
        parser.add_argument("--fractions", nargs=3, type=float, metavar=("A", "B", "C"), help=shares)
    strict = "stop at the first song with wrong annotations, instead of leaving it out"
    Option("strict", strict, type=bool, default=False).add_to(parser)
    parser.add_argument("--skip_faulty", action="store_true", help=argparse.SUPPRESS)


def _prepare_data(reader: DatasetReader | ListReader, arguments: argparse.Namespace) -> None:
    """Prepare a data set and print its counts and problems."""
    from ..data.prepare import prepare_dataset, prepare_lists

    values: dict[str, Any] = vars(arguments)
    options = {option.name: values[option.name] for option in reader.options}
    if isinstance(reader, ListReader):
        prepared = prepare_lists(reader, arguments.output_dir, values.get("source"), options)
    else:
        if arguments.skip_faulty:
            warnings.warn(
                f"--skip_faulty is the default and will be removed in {REMOVED_IN}.", FutureWarning, stacklevel=2
            )
        names = ("source", "audio", "license", "seed", "fractions", "strict")
        given = {name: values[name] for name in names if name in values}
        prepared = prepare_dataset(reader, arguments.output_dir, options=options, **given)
        for problem in sorted(prepared.problems, key=lambda problem: problem.kind == "missing")[:SHOWN_PROBLEMS]:
            print(f"  {problem.id}\t{problem.reason}")
    print(f"{prepared.output_dir}: " + ", ".join(f"{count} {name}" for name, count in prepared.counts.items()))


def _prepare_pop909_source(arguments: argparse.Namespace) -> None:
    """Write the source of POP909 and print the number of songs."""
    from ..data.pop909_sources import write_pop909

    print(f"{arguments.output_dir}: {write_pop909(arguments.source, arguments.output_dir)} songs")


def _prepare_statistics(arguments: argparse.Namespace) -> None:
    """Measure a catalog and print a summary."""
    from ..data.prepare import prepare_statistics

    values = prepare_statistics(arguments.sources, arguments.output_file, arguments.max_hours, arguments.seed)
    for name, problem in values.problems:
        print(f"  {name}\t{problem}")
    levels = f"mean {values.mean:.3f} dB, standard deviation {values.std:.3f} dB"
    amount = f"{values.hours:.2f} h of {values.files} files, {values.skipped} skipped"
    print(f"{arguments.output_file}: {levels}, {amount}")
