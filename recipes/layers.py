"""`musicfm layers` as a script; `python recipes/layers.py --help` describes it."""

import sys

from musicfm_hf.cli.layers import main

if __name__ == "__main__":
    main(sys.argv[1:])
