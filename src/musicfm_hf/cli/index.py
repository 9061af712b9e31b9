"""
Index a catalog, so that `musicfm search` finds songs by sound, by words and by what sounds in them.

    musicfm index music/ --model musicfm-msd --output_dir index --layer 7
    musicfm index music/ --model musicfm-msd --output_dir index --layer 7 --annotations annotations
    musicfm index music/ --model runs/versions --output_dir versions-index
    accelerate launch -m musicfm_hf index songs.txt --model musicfm-msd --output_dir index --dtype bfloat16
    musicfm index music/ --model musicfm-msd --output_dir index --layer 7 --shard 3/64

Songs are cut into passages, and a passage is one vector: the mean over time of a hidden state of an encoder, or the
embedding of a model for retrieval (musicfm finetune retrieval/...) or of a model with a text tower. To update an
index, or to resume an interrupted run, repeat the command: only new and changed songs are embedded, and songs that
are no longer in the catalog leave the index.

A query is compared with every passage up to a million passages; an index of FAISS answers from then on (see
--index_type). Files that cannot be read, or can be read only in part, are listed at the end and in `problems.tsv`.

`accelerate launch` divides the songs among its processes, and --shard among the jobs of a cluster. Jobs only embed
passages; when all are done, repeat the command without --shard, which builds the index.
"""

import argparse
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from ..data.catalog import list_sources
from ..data.shares import WHOLE, Share
from ..inference.embedding import WindowSettings
from ..inference.model_files import resolve_model
from ..search.build import INDEX_TYPES, BuildSettings, IndexSummary, build_index
from ..search.embedders import Embedder, load_embedder
from ..search.index_files import EmbeddedCatalog, embed_passages
from ..search.passages import PassageSettings
from .flags import (
    add_catalog_flags,
    add_device_flags,
    add_window_flags,
    command_parser,
    model_precision,
    report_problems,
    share_of_process,
    user_errors,
)


def main(argv: Sequence[str]) -> None:
    """Index the songs that the arguments name, divided among the processes of `accelerate launch`."""
    arguments = parse(argv)
    state = PartialState(timeout=timedelta(days=30))  # one process may finish long before the others
    with user_errors("Not indexed"):
        sources = list_sources(arguments.source, arguments.audio_column)
        annotations = None if arguments.annotations is None else str(arguments.annotations.absolute())
        model, source = absolute(arguments.model), absolute(arguments.source)
        settings = BuildSettings(model, "", source, arguments.index_type, annotations)
        settings.check(arguments.output_dir)
        device = arguments.device or state.device
        precision = model_precision(
            arguments, lambda: [resolve_model(arguments.model, arguments.revision)[0]], device, state
        )
        embedder, revision = load_embedder(
            arguments.model,
            arguments.revision,
            WindowSettings(arguments.layer, arguments.window_seconds, arguments.overlap_seconds, arguments.batch_size),
            device=device,
            **precision,
        )
        seconds = embedder.default_seconds if arguments.passage_seconds is None else arguments.passage_seconds
        hop = seconds if arguments.hop_seconds is None else arguments.hop_seconds
        outcome = run_index(
            embedder,
            sources,
            arguments.output_dir,
            settings.with_revision(revision),
            PassageSettings(seconds, hop),
            arguments.num_workers,
            state,
            arguments.shard,
        )
    if outcome is not None:
        report(outcome, len(arguments.shard.select(sources)), arguments.output_dir, arguments.shard)


def run_index(
    embedder: Embedder,
    sources: Sequence[tuple[str, Any]],
    output_dir: Path,
    settings: BuildSettings,
    passages: PassageSettings,
    num_workers: int,
    state: PartialState,
    job: Share = WHOLE,
) -> IndexSummary | EmbeddedCatalog | None:
    """
    Embed the share of this process; then the main process builds the index, if the job has the whole catalog. Other
    processes return `None`.
    """
    catalog = embed_passages(
        embedder,
        sources,
        output_dir,
        passages,
        num_workers,
        progress=state.is_local_main_process,
        share=share_of_process(job, state),
    )
    keys, problems = gather_object(catalog.keys), gather_object(catalog.problems)
    embedded = sum(gather_object([catalog.embedded]))
    if not state.is_main_process:
        return None
    if not job.is_whole:
        return EmbeddedCatalog(keys, problems, embedded)
    summary = build_index(output_dir, embedder, keys, settings)
    return summary._replace(problems=problems, embedded=embedded)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("index", __doc__)
    parser.add_argument("source", help="a folder of audio, a .txt file with one path per line, or a data set")
    parser.add_argument("--model", required=True, help="folder or Hub repository of the model")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder for the index")
    parser.add_argument("--layer", type=int, help="hidden state of an encoder to average; the last by default")
    parser.add_argument(
        "--passage_seconds",
        type=float,
        help="length of a passage; by default, that of the audio of training",
    )
    parser.add_argument("--hop_seconds", type=float, help="between the starts of passages; their length by default")
    parser.add_argument(
        "--index_type",
        choices=INDEX_TYPES,
        default="auto",
        help="exact, or an approximate index of FAISS (ivfpq), which auto chooses from a million passages on",
    )
    parser.add_argument(
        "--annotations", type=Path, help="folder that `musicfm annotate` wrote, for `musicfm search --where`"
    )
    parser.add_argument("--audio_column", default="audio", help="column that holds the audio, for a data set")
    add_catalog_flags(parser)
    add_window_flags(parser, batch_size=4)
    add_device_flags(parser)
    return parser.parse_args(argv)


def absolute(name: str) -> str:
    """Return the absolute path of a file or folder, or the ID of a repository unchanged."""
    return os.path.abspath(name) if Path(name).exists() else name


def report(outcome: IndexSummary | EmbeddedCatalog, total: int, output_dir: Path, job: Share) -> None:
    """Print what the index or the share of a job has, and write and print the problems."""
    if isinstance(outcome, EmbeddedCatalog):
        print(
            f"{len(outcome.keys)} songs of shard {job.job}/{job.jobs} have passages ({outcome.embedded} embedded "
            "now). When all jobs are done, repeat the command without `--shard` to build the index."
        )
    else:
        report_index(outcome)
    report_problems(outcome.problems, total, output_dir, job)


def report_index(summary: IndexSummary) -> None:
    """Print what the index has."""
    annotated = "" if summary.annotated is None else f", {summary.annotated} songs with annotations"
    print(
        f"{summary.songs} songs ({summary.embedded} embedded now), {summary.passages} passages, index type "
        f"{summary.index_type}{annotated}"
    )
