"""
Annotate songs with beats, chords, sections, keys and tags, and draw a picture of each song.

    musicfm annotate song.mp3 --models runs/beat runs/chord --output_dir annotations
    musicfm annotate music/ more.txt --models runs/* --output_dir annotations --no_picture --format json lab

Models are folders or Hub repositories of models or adapters, one for each task. Models with the same encoder share one
pass through it. Files that cannot be read are listed at the end, and the exit code is then 1.

Existing files, which may be annotations made by hand, are not overwritten by default. Choose another folder, pass
`--existing skip` to continue an interrupted run and to annotate songs again whose audio or models have changed (files
made or edited by hand are kept), or pass `--existing overwrite`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from ..data.catalog import list_sources
from ..inference.annotate_files import annotate_files
from ..inference.annotators import load_annotators
from ..inference.embedding import WindowSettings
from ..inference.song_annotation import FORMATS
from ..tasks import load_task_file
from .flags import (
    add_device_flags,
    add_task_file_flag,
    add_window_flags,
    command_parser,
    print_escaped,
    rename_flags,
    user_errors,
)


def main(argv: Sequence[str]) -> None:
    """Annotate the songs that the arguments name."""
    arguments = parse(argv)
    with user_errors("Not annotated"):
        for path in arguments.task_file:
            load_task_file(path)
        sources = [source for songs in arguments.songs for source in list_sources(songs)]
        models = load_annotators(arguments.models, dtype=getattr(torch, arguments.dtype))
        for model in models.values():
            model.to(arguments.device or PartialState().device)
        outcome = annotate_files(
            models,
            sources,
            arguments.output_dir,
            WindowSettings(None, arguments.window_seconds, arguments.overlap_seconds, arguments.batch_size),
            arguments.format,
            arguments.existing,
            not arguments.no_picture,
        )
    skipped = f", {outcome.existing} skipped" if arguments.existing == "skip" and outcome.existing else ""
    skipped += f" ({outcome.unrecorded} of them made by hand or by version 0.1)" if outcome.unrecorded else ""
    end = ":" if outcome.problems else f", in {arguments.output_dir}"
    print(f"{len(sources)} songs{skipped}, {len(outcome.problems)} with problems{end}")
    for name, problem in outcome.problems:
        print_escaped(f"  {name}: {problem}")
    raise SystemExit(1 if outcome.problems else 0)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("annotate", __doc__)
    parser.add_argument(
        "songs", nargs="+", help="files, folders of audio, .txt files with one path per line, or data sets"
    )
    parser.add_argument("--models", required=True, nargs="+", help="folders or repositories, one for each task")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder for the annotations")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=FORMATS, help="files to write; all by default")
    parser.add_argument(
        "--existing", choices=["refuse", "skip", "overwrite"], default="refuse", help="action for existing files"
    )
    parser.add_argument("--no_picture", action="store_true", help="do not draw pictures")
    add_task_file_flag(parser)
    add_window_flags(parser, batch_size=1)
    add_device_flags(parser)
    return parser.parse_args(rename_flags(argv, {"--output": "--output_dir"}))
