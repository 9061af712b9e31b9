"""
Annotate songs on a web page with beats, chords, sections, key and tags, using one model for each task, or the small
model of the package.

    musicfm space --local
    musicfm space --local runs/beat runs/chord
    musicfm space you/annotate
    musicfm space you/annotate you/musicfm-beat you/musicfm-chord

--local starts the page on this machine (and needs `pip install 'musicfm_hf[space]'`). Otherwise the page is pushed to
the Hub as a Space, together with this package. A Space is private unless `--public` is given. If its models
are private, it needs a secret named HF_TOKEN.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from ..hub.commits import HubTarget
from ..hub.space import application_folder, push_space
from .flags import command_parser, rename_flags, user_errors


def main(argv: Sequence[str]) -> None:
    """Start the page on this machine, or push it."""
    arguments = parse(argv)
    with user_errors("Not started" if arguments.local else "Not pushed"):
        if arguments.local:
            run_here(application_folder(), arguments.names)
        else:
            repo, *models = arguments.names
            print(push_space(HubTarget(repo, arguments.revision, not arguments.public), models))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = command_parser("space", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a Space and its models; with --local, only models")
    parser.add_argument("--local", action="store_true", help="start the page on this machine")
    parser.add_argument("--revision", help="branch of the Space, created if it does not exist; main by default")
    parser.add_argument("--public", action="store_true", help="make a new Space public")
    arguments = parser.parse_args(rename_flags(argv))
    if not arguments.local and not arguments.names:
        parser.error("name the Space, or pass --local")
    return arguments


def run_here(folder: Path, models: Sequence[str]) -> None:
    """Run the application in this process, as on the Space."""
    os.environ["MUSICFM_MODELS"] = ",".join(models)
    sys.path.insert(0, str(folder))  # where the application finds its other files
    runpy.run_path(str(folder / "app.py"), run_name="__main__")
