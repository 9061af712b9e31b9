"""`musicfm layers` as a script; `python recipes/layers.py --help` describes it."""

import sys

from musicfm_hf.cli.main import main

if __name__ == "__main__":
    main(["layers", *sys.argv[1:]])
