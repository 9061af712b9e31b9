"""
Compute embeddings of a catalog: a folder of audio, a .txt file with one path per line, or a data set (a folder on
disk, or a repository on the Hub).

    musicfm embed music/ --model musicfm-msd --output_dir embeddings --layer 7 --pool mean
    accelerate launch -m musicfm_hf embed songs.txt --model musicfm-msd --output_dir embeddings --dtype bfloat16
    musicfm embed music/ --model musicfm-msd --output_dir embeddings --shard 3/64

Each song becomes one safetensors file with `embeddings` and `times`, and with the model, layer and windows as
metadata. To resume an interrupted run, repeat the command: a song is embedded again only if its file, the model or the
settings have changed. Files that cannot be read, or can be read only in part, are listed at the end and in
`problems.tsv`.

`accelerate launch` divides the songs among its processes, and --shard among the jobs of a cluster, which may start at
any time; the third of 64 jobs lists its problems in `problems-3-of-64.tsv`. When all jobs are done, repeat the command
without --shard: it embeds what is missing, and lists all problems.
"""

import argparse
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from .. import __version__
from ..data.catalog import list_sources
from ..inference.embed_files import embed_files
from ..inference.embedding import WindowSettings
from ..inference.exported import load_encoder
from ..inference.model_files import resolve_model
from .flags import (
    add_catalog_flags,
    add_device_flags,
    add_window_flags,
    command_parser,
    model_precision,
    rename_flags,
    report_problems,
    share_of_process,
    user_errors,
)


def main(argv: Sequence[str]) -> None:
    """Embed the songs that the arguments name, divided among the processes of `accelerate launch`."""
    arguments = parse(argv)
    state = PartialState(timeout=timedelta(days=30))  # one process may finish long before the others
    with user_errors("Not embedded"):
        device = arguments.device or state.device
        precision = model_precision(
            arguments, lambda: [resolve_model(arguments.model, arguments.revision)[0]], device, state
        )
        folder, revision = resolve_model(arguments.model, arguments.revision)
        sources = list_sources(arguments.source, arguments.audio_column)
        model = load_encoder(folder, arguments.device, state.device, **precision)
        problems = embed_files(
            model,
            sources,
            arguments.output_dir,
            WindowSettings(arguments.layer, arguments.window_seconds, arguments.overlap_seconds, arguments.batch_size),
            pool=arguments.pool,
            metadata={"model": arguments.model, "revision": revision, "musicfm_hf": __version__},
            num_workers=arguments.num_workers,
            progress=state.is_local_main_process,
            share=share_of_process(arguments.shard, state),
        )
    problems = gather_object(problems)
    if state.is_main_process:
        report_problems(problems, len(arguments.shard.select(sources)), arguments.output_dir, arguments.shard)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("embed", __doc__)
    parser.add_argument("source", help="a folder of audio, a .txt file with one path per line, or a data set")
    parser.add_argument("--model", required=True, help="folder that `convert` or `export` wrote, or a Hub repository")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder for the embeddings")
    parser.add_argument("--layer", type=int, help="hidden state to write; the last by default")
    parser.add_argument("--pool", type=pooling, default="none", help="none, mean, or a rate in frames per second")
    parser.add_argument("--audio_column", default="audio", help="column that holds the audio, for a data set")
    add_catalog_flags(parser)
    add_window_flags(parser, batch_size=4)
    add_device_flags(parser)
    return parser.parse_args(rename_flags(argv, {"--output": "--output_dir"}))


def pooling(text: str) -> str | float:
    """Parse the value of `--pool`."""
    if text in ("none", "mean"):
        return text
    return float(text)
