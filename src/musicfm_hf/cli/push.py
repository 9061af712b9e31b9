"""
Push a model, an adapter or a quantizer to the Hub, with a card that reports its scores.

    musicfm push runs/small you/musicfm-small
    musicfm push runs/chord-lora you/musicfm-chord-lora --base_model you/musicfm-small --public
    musicfm push runs/chord you/musicfm-chord --evaluations results/beatles.json --license mit

Repositories are private unless `--public` is given. A second push uploads only what changed. An adapter that was
trained on a local folder needs `--base_model`, the repository of that folder; the adapter is pinned to the current
commit of that repository. `--evaluations` adds the scores in files of `musicfm evaluate` to the card.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..hub.commits import HubTarget
from ..hub.push import push
from ..hub.space import push_space
from ..tasks import load_task_file
from .flags import REMOVED_IN, add_task_file_flag, command_parser, rename_flags, user_errors


def main(argv: Sequence[str]) -> None:
    """Push the folder and print the URL of the commit."""
    arguments = parse(argv)
    with user_errors("Not pushed"):
        for path in arguments.task_file:
            load_task_file(path)
        if arguments.space:
            target = HubTarget(arguments.repo, arguments.revision, not arguments.public)
            print(push_space(target, arguments.space, arguments.folder))
            return
        address = push(
            arguments.folder,
            arguments.repo,
            revision=arguments.revision,
            private=not arguments.public,
            base_model=arguments.base_model,
            license=arguments.license,
            evaluations=arguments.evaluations,
        )
        print(address)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("push", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of a training run or of `musicfm convert`")
    parser.add_argument("repo", metavar="REPO", help="ID on the Hub, such as you/musicfm-small")
    parser.add_argument("--revision", help="branch, created if it does not exist; main by default")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument("--base_model", help="for an adapter: the repository of its base model")
    parser.add_argument("--license", help="license of the weights, by its name on the Hub, such as cc-by-4.0")
    parser.add_argument("--evaluations", type=Path, nargs="+", default=[], help="JSON files of `musicfm evaluate`")
    add_task_file_flag(parser)
    parser.add_argument("--space", nargs="+", help=argparse.SUPPRESS)  # `musicfm space` since 0.2
    arguments = parser.parse_args(rename_flags(argv))
    if arguments.space:
        message = f"`musicfm push … --space MODEL …` is now `musicfm space`; it will be removed in {REMOVED_IN}."
        warnings.warn(message, FutureWarning, stacklevel=2)
        if arguments.base_model or arguments.license or arguments.evaluations:
            parser.error("--base_model, --license and --evaluations are for models, not for a Space")
    return arguments
