"""`musicfm baselines` as a script; `python recipes/baselines.py --help` describes it."""

import sys

from musicfm_hf.cli.baselines import main

if __name__ == "__main__":
    main(sys.argv[1:])
