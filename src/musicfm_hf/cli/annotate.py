"""
Annotate songs with beats, chords, sections, keys and tags, and draw a picture of each song.

    musicfm annotate song.mp3
    musicfm annotate song.mp3 --models runs/beat runs/chord --output_dir annotations
    musicfm annotate music/ more.txt --models runs/* --output_dir annotations --no_picture --format json lab
    musicfm annotate song.mp3 --models runs/beat runs/chord --output_dir annotations --format midi audacity --click
    musicfm annotate song.mp3 --models muq-mulan --tags "piano, sad, 1980s" --output_dir annotations

Without --models, the small model of the package annotates the songs. Others are folders or Hub repositories of models
or adapters, one for each task. Models with the same encoder share one pass through it. One of them may be a model of
music and text, such as MuQ-MuLan: it adds the similarity of each song with the words of `--tags` to the JSON file.
Files that cannot be read are listed at the end; the exit code is then 1.

Formats: json (all results, with probabilities), beats, lab and tags (text), jams, audacity (label tracks,
NAME.chords.txt), sonic-visualiser (layers, NAME.chords.csv), and midi (tempo map that follows the recording, time
signatures, chords and markers). Labels that you correct in these programs, or in a text editor, are training data for
`musicfm prepare folder`. MIDI and --write_tags need the extra `files`: pip install 'musicfm_hf[files]'. Pictures need
matplotlib, which the extra `tasks` has.

Existing files, which may be annotations made by hand, are not overwritten by default. Choose another folder, pass
`--existing skip` to continue an interrupted run and to annotate songs again whose audio or models have changed (files
made or edited by hand are kept), or pass `--existing overwrite`.

`accelerate launch -m musicfm_hf annotate …` divides the songs among its processes, and --shard 3/64 among the jobs of
a cluster (this is the third of 64), which write to one folder. When all are done, repeat the command with
`--existing skip` and without --shard: it annotates what is missing, and lists all problems.
"""

import argparse
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers.utils import is_matplotlib_available, logging

from .. import SMALL_MODEL
from ..data.catalog import list_sources
from ..inference.annotate_files import CLICKS, AnnotatedFiles, annotate_files
from ..inference.annotators import has_text_tower, load_annotators
from ..inference.embedding import HeadModel, WindowSettings
from ..inference.song_annotation import DEFAULT_FORMATS, FORMATS
from ..inference.zero_shot import ZeroShotTagger
from ..tasks import load_task_file
from .flags import (
    add_catalog_flags,
    add_device_flags,
    add_task_file_flag,
    add_window_flags,
    command_parser,
    model_precision,
    rename_flags,
    share_of_process,
    songs_in_words,
    user_errors,
)


def main(argv: Sequence[str]) -> None:
    """Annotate the songs that the arguments name, divided among the processes of `accelerate launch`."""
    arguments = parse(argv)
    logging.disable_progress_bar()  # of loading weights
    state = PartialState(timeout=timedelta(days=30))  # one process may finish long before the others
    with user_errors("Not annotated"):
        for path in arguments.task_file:
            load_task_file(path)
        sources = _each_once([source for songs in arguments.songs for source in list_sources(songs)])
        models, tagger = _load_models(arguments, state)
        outcome = annotate_files(
            models,
            sources,
            arguments.output_dir,
            WindowSettings(None, arguments.window_seconds, arguments.overlap_seconds, arguments.batch_size),
            arguments.format,
            arguments.existing,
            _draws_pictures(arguments, state),
            progress=state.is_local_main_process,
            tagger=tagger,
            num_workers=arguments.num_workers,
            share=share_of_process(arguments.shard, state),
            click=arguments.click,
            write_tags=arguments.write_tags,
        )
    outcome = AnnotatedFiles(
        sum(gather_object([outcome.existing])),
        gather_object(outcome.problems),
        sum(gather_object([outcome.unrecorded])),
    )
    if state.is_main_process:
        _report(outcome, len(arguments.shard.select(sources)), arguments)


def _each_once(sources: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return sources without files that occur twice under one name, such as a song and the folder that it is in."""
    once: dict[Any, tuple[str, Any]] = {}
    for index, (name, source) in enumerate(sources):
        place = os.path.abspath(source) if isinstance(source, str) else index
        once.setdefault((name, place), (name, source))
    return list(once.values())


def _draws_pictures(arguments: argparse.Namespace, state: PartialState) -> bool:
    """Return whether to draw pictures, and print how they can be drawn if matplotlib is not installed."""
    if arguments.no_picture or is_matplotlib_available():
        return not arguments.no_picture
    if state.is_main_process:
        print("No pictures, because matplotlib is not installed: `pip install matplotlib` draws them.")
    return False


def _report(outcome: AnnotatedFiles, total: int, arguments: argparse.Namespace) -> None:
    """Print the outcome, and exit."""
    skipped = f", {outcome.existing} skipped" if arguments.existing == "skip" and outcome.existing else ""
    skipped += f" ({outcome.unrecorded} of them made by hand or by version 0.1)" if outcome.unrecorded else ""
    end = ":" if outcome.problems else f", in {arguments.output_dir}"
    print(f"{songs_in_words(total)}{skipped}, {len(outcome.problems)} with problems{end}")
    for name, problem in sorted(outcome.problems):
        print(f"  {name}: {problem}")
    raise SystemExit(1 if outcome.problems else 0)


def _load_models(
    arguments: argparse.Namespace, state: PartialState
) -> tuple[dict[str, HeadModel], ZeroShotTagger | None]:
    """Load the models with a head, and the tagger if there is a model with a text tower."""
    text_models = [name for name in arguments.models if has_text_tower(name)]
    if len(text_models) > 1:
        raise ValueError(f"Pass one model with a text tower, not {len(text_models)}: {', '.join(text_models)}.")
    if text_models and arguments.tags is None:
        raise ValueError(f"{text_models[0]} needs the words to compare with: pass `--tags 'piano, sad, 1980s'`.")
    if arguments.tags is not None and not text_models:
        raise ValueError(
            "`--tags` needs a model with a text tower in `--models`, such as MuQ-MuLan: `musicfm convert "
            "OpenMuQ/MuQ-MuLan-large`."
        )
    device = arguments.device or state.device
    precision = model_precision(arguments, lambda: arguments.models, device, state)
    models = load_annotators([name for name in arguments.models if name not in text_models], **precision)
    for model in models.values():
        model.to(device)
    if not text_models:
        return models, None
    tags = arguments.tags.split(",")
    return models, ZeroShotTagger.from_pretrained(text_models[0], tags, arguments.template, device=device, **precision)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("annotate", __doc__)
    parser.add_argument(
        "songs", nargs="+", help="files, folders of audio, .txt files with one path per line, or data sets"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[SMALL_MODEL],
        help="folders or repositories, one for each task; by default the small model of the package",
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("annotations"), help="folder to write to; annotations by default"
    )
    parser.add_argument(
        "--format",
        "--formats",
        nargs="+",
        choices=FORMATS,
        default=DEFAULT_FORMATS,
        metavar="FORMAT",
        help=f"files to write: {', '.join(FORMATS)}; {' '.join(DEFAULT_FORMATS)} by default",
    )
    parser.add_argument(
        "--click",
        nargs="?",
        const="mix",
        choices=CLICKS,
        help="also write NAME.click.wav: the song with a click at each beat (the default), or the clicks alone",
    )
    parser.add_argument(
        "--write_tags",
        action="store_true",
        help="write tempo and key into the tags of the audio files, and change nothing else in them",
    )
    parser.add_argument(
        "--existing", choices=["refuse", "skip", "overwrite"], default="refuse", help="action for existing files"
    )
    parser.add_argument("--tags", metavar="WORDS", help="words to compare songs with, separated by commas")
    parser.add_argument(
        "--template", default="{}", help='text of a tag, such as "a song with {}"; by default the words of the tag'
    )
    parser.add_argument("--no_picture", action="store_true", help="do not draw pictures")
    add_task_file_flag(parser)
    add_catalog_flags(parser)
    add_window_flags(parser, batch_size=1)
    add_device_flags(parser)
    return parser.parse_args(rename_flags(argv, {"--output": "--output_dir"}))
