"""`musicfm embed` as a script; `python recipes/embed.py --help` describes it."""

import sys

from musicfm_hf.cli.embed import main

if __name__ == "__main__":
    main(sys.argv[1:])
