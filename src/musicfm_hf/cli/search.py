"""
Search an index that `musicfm index` wrote.

    musicfm search index song.mp3
    musicfm search index song.mp3@1:10-1:30 --top 5
    musicfm search index "slow piano, rain" --where key=A:min tempo=60-90
    musicfm search index song.mp3 --where section=chorus "chord=F#:min7" --annotations annotations
    musicfm search index --duplicates

A query is a file or a song of the index, a part of one, or words if the model has a text tower. Each song is listed
once, with the times of the passage that is most similar to the query, and the song of the query is left out.

--where takes conditions that the passage has to meet: key, chord, section and tag with labels (several separated by
commas: one of them is enough), and tempo with a range. A label has to sound in the passage for a second, or wholly.

--duplicates lists groups of songs that are the same recording, under other names or in other encodings.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..search.duplicates import THRESHOLD
from ..search.filters import parse_conditions
from ..search.search_index import SearchIndex
from .flags import add_device_flag, command_parser, positive, user_errors


def main(argv: Sequence[str]) -> None:
    """Search the index, and print what was found."""
    arguments = parse(argv)
    with user_errors("Not found"):
        device = arguments.device or PartialState().device
        index = SearchIndex.load(arguments.index, model=arguments.model, device=device)
        if arguments.duplicates is not None:
            print_duplicates(index, arguments)
            return
        where = parse_conditions(arguments.where)
        if arguments.annotations is not None:
            index.read_annotations(arguments.annotations)
        results = index.search(
            arguments.query,
            arguments.top,
            where,
            words=arguments.words,
            every_passage=arguments.passages,
            include_query=arguments.include_query,
        )
    rows = [result._asdict() for result in results]
    if index.labels is not None:
        rows = [row | {"labels": index.labels.of_passage(row["row"])} for row in rows]
    if arguments.json:
        print(json.dumps({"query": arguments.query, "results": rows}, indent=1))
        return
    for row in rows:
        print(f"{row['score']:.3f}  {clock(row['start'])}-{clock(row['end'])}  {row['song']}")
    if not rows:
        print("Nothing found.")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("search", __doc__)
    parser.add_argument("index", help="folder that `musicfm index` wrote")
    parser.add_argument("query", nargs="?", help="a song, a part of one such as song.mp3@1:10-1:30, or words")
    parser.add_argument("--top", type=positive, default=10, help="maximum number of results")
    parser.add_argument("--json", action="store_true", help="print JSON, with paths and the labels of the passages")
    parser.add_argument("--passages", action="store_true", help="list several passages of a song")
    parser.add_argument("--include_query", action="store_true", help="also list the song of the query")
    parser.add_argument("--words", action="store_true", help="take a QUERY that looks like a path as words")
    parser.add_argument("--where", nargs="+", default=[], metavar="FIELD=VALUE", help="conditions, such as key=A:min")
    parser.add_argument("--annotations", type=Path, help="annotations for --where; by default those of the index")
    parser.add_argument(
        "--duplicates",
        nargs="?",
        type=float,
        const=THRESHOLD,
        metavar="THRESHOLD",
        help=f"list songs that are the same recording, from this similarity on ({THRESHOLD} by default)",
    )
    parser.add_argument("--model", help="folder or repository of the model of the index, if it has moved")
    add_device_flag(parser)
    arguments = parser.parse_args(argv)
    if (arguments.query is None) == (arguments.duplicates is None):
        parser.error("pass a QUERY, or --duplicates")
    return arguments


def print_duplicates(index: SearchIndex, arguments: argparse.Namespace) -> None:
    """Print the groups of duplicates."""
    groups = index.duplicates(arguments.duplicates)
    if arguments.json:
        values: list[dict[str, Any]] = [group._asdict() for group in groups]
        print(json.dumps({"duplicates": values}, indent=1))
        return
    for group in groups:
        print(f"{group.score:.3f}  " + "\n       ".join(group.songs))
    print(f"{len(groups)} groups of duplicates")


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds."""
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"
