"""`musicfm embed` as a script; `python recipes/embed.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["embed", *sys.argv[1:]])
